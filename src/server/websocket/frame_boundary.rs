//! Owns the look at where frames end in what a client sends. It must not check them: whoever reads them does.

/// Longest head of a frame, in bytes.
const HEAD: usize = 14;

/// Follows the bytes of a connection from its beginning.
#[derive(Debug, Default)]
pub struct FrameBoundary {
    head: [u8; HEAD],
    /// Bytes of a head that were seen.
    seen: usize,
    /// Bytes of a payload that are still to come.
    payload: u64,
    /// Whether a message was begun whose last frame has not come.
    within: bool,
}

impl FrameBoundary {
    /// Takes what came.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let all = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= all as u64;
                bytes = bytes.get(all..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.head.get_mut(self.seen) {
                *place = *byte;
            }
            self.seen += 1;
            bytes = rest;
            self.end_head();
        }
    }

    /// Whether all that came are whole messages.
    pub fn is_between_messages(&self) -> bool {
        self.seen == 0 && self.payload == 0 && !self.within
    }

    /// Looks whether the head is whole.
    fn end_head(&mut self) {
        let [first, second, rest @ ..] = &self.head;
        let (short, masked) = (second & 0x7f, second & 0x80 != 0);
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.seen < 2 || self.seen < 2 + extended + if masked { 4 } else { 0 } {
            return;
        }
        let long = rest.iter().take(extended).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        self.payload = if extended > 0 { long } else { u64::from(short) };
        // a control frame may stand within a message
        if first & 0x08 == 0 {
            self.within = first & 0x80 == 0;
        }
        self.seen = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let length = match payload {
            ..=125 => vec![0x80 | payload as u8],
            126..=65535 => [&[0x80 | 126], &(payload as u16).to_be_bytes()[..]].concat(),
            _ => [&[0x80 | 127], &(payload as u64).to_be_bytes()[..]].concat(),
        };
        [&[first], &length[..], &[1, 2, 3, 4], &vec![0xff; payload]].concat()
    }

    #[test]
    fn a_message_ends_with_its_last_frame_wherever_it_is_cut() {
        // whole, then in two fragments with a ping between them, then an empty one
        let messages = [
            frame(0x81, 70_000),
            [frame(0x01, 300), frame(0x89, 5), frame(0x80, 125)].concat(),
            frame(0x82, 0),
        ];
        for step in [1, 3, 1000, 1 << 20] {
            let mut boundary = FrameBoundary::default();
            for message in &messages {
                assert!(boundary.is_between_messages());
                let (last, most) = message.split_last().unwrap();
                for piece in most.chunks(step) {
                    boundary.pass(piece);
                    assert!(!boundary.is_between_messages(), "{step}");
                }
                boundary.pass(&[*last]);
            }
            assert!(boundary.is_between_messages());
        }
    }
}
