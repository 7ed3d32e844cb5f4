//! Owns the way from the bytes of an event stream, as our driver and our runs write it, to the texts of WebSocket messages:
//! the payload of each event is one. It must not know what an event means, nor copy it.

use bytes::{Buf, Bytes};
use memchr::memchr;

/// What stands before a payload.
const DATA: &[u8] = b"data: ";

/// What was cut out of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut {
    /// A payload, or the next part of one.
    Part {
        /// A part of a JSON text.
        bytes: Bytes,
        /// Whether the payload is whole with it.
        last: bool,
    },
    /// A comment: there is nothing to say, and the connection is to be kept alive.
    Comment,
}

/// Splits the bytes of a stream into the payloads of its events, wherever the bytes are cut.
#[derive(Debug, Default)]
pub struct EventCutter {
    line: Line,
}

#[derive(Debug, Clone, Copy)]
enum Line {
    /// So many bytes of [`DATA`] were read of it.
    Begins(usize),
    Payload,
    /// Nothing that is sent.
    Other,
}

impl Default for Line {
    fn default() -> Line {
        Line::Begins(0)
    }
}

impl EventCutter {
    /// The next that is in `bytes`, which is then gone from there; `None` if all of it is.
    pub fn cut(&mut self, bytes: &mut Bytes) -> Option<Cut> {
        loop {
            match self.line {
                Line::Begins(read) => {
                    let (next, found) = (*bytes.first()?, DATA.get(read).copied());
                    match next {
                        b'\n' => bytes.advance(1),
                        b':' if read == 0 => {
                            self.line = Line::Other;
                            return Some(Cut::Comment);
                        }
                        // the stream's end has no meaning here: `data: [DONE]`
                        _ if found.is_none() => {
                            self.line = if next == b'[' { Line::Other } else { Line::Payload };
                            continue;
                        }
                        _ if found == Some(next) => {
                            let more = bytes.iter().zip(DATA.iter().skip(read));
                            let same = more.take_while(|(one, other)| one == other).count();
                            bytes.advance(same);
                            self.line = Line::Begins(read + same);
                            continue;
                        }
                        _ => self.line = Line::Other,
                    }
                    if next == b'\n' {
                        self.line = Line::Begins(0);
                    }
                }
                Line::Other => {
                    let end = memchr(b'\n', bytes);
                    bytes.advance(end.map_or(bytes.len(), |end| end + 1));
                    end?;
                    self.line = Line::Begins(0);
                }
                Line::Payload => {
                    let end = memchr(b'\n', bytes);
                    let part = bytes.split_to(end.unwrap_or(bytes.len()));
                    if end.is_some() {
                        self.line = Line::Begins(0);
                    } else if part.is_empty() {
                        return None;
                    }
                    return Some(Cut::Part { bytes: part, last: end.is_some() });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"n\":1}\n\n: keep-alive\n\n\
        event: error\ndata: {\"text\":\"data: [x]\\n\"}\n\ndata: [DONE]\n\n";

    /// Whole payloads, and `:` for a comment.
    fn cut(pieces: &[&str]) -> Vec<String> {
        let (mut cutter, mut all, mut open) = (EventCutter::default(), Vec::new(), String::new());
        for piece in pieces {
            let mut bytes = Bytes::copy_from_slice(piece.as_bytes());
            while let Some(cut) = cutter.cut(&mut bytes) {
                match cut {
                    Cut::Comment => all.push(":".to_owned()),
                    Cut::Part { bytes, last } => {
                        open.push_str(std::str::from_utf8(&bytes).unwrap());
                        if last {
                            all.push(std::mem::take(&mut open));
                        }
                    }
                }
            }
            assert!(bytes.is_empty());
        }
        assert!(open.is_empty(), "{open}");
        all
    }

    #[test]
    fn payloads_are_the_same_wherever_the_stream_is_cut() {
        let want = ["{\"type\":\"response.created\",\"n\":1}", ":", "{\"text\":\"data: [x]\\n\"}"];
        assert_eq!(cut(&[STREAM]), want);
        for at in 0..=STREAM.len() {
            let (head, tail) = STREAM.split_at(at);
            assert_eq!(cut(&[head, tail]), want, "cut at {at}");
        }
        let bytes: Vec<&str> = STREAM.split("").filter(|byte| !byte.is_empty()).collect();
        assert_eq!(cut(&bytes), want, "byte by byte");
    }

    /// A payload in one piece is not copied.
    #[test]
    fn a_part_is_a_view_of_what_came() {
        let mut bytes = Bytes::from_static(b"event: x\ndata: {\"a\":1}\n\n");
        let within = bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len();
        let Some(Cut::Part { bytes: part, last: true }) = EventCutter::default().cut(&mut bytes) else {
            panic!("no payload")
        };
        assert!(within.contains(&(part.as_ptr() as usize)));
    }
}
