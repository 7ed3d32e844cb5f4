//! Owns texts that several events repeat: a long text is shared by all of them instead of being copied into each. It
//! must not interpret them.

use std::fmt;

use bytes::Bytes;

use crate::wire::json;

/// Texts of at least this many bytes are shared.
pub const LONG: usize = 64 << 10;

/// Shared texts in order, each with the position in the buffer where it is to be inserted.
pub type Shared = Vec<(usize, Bytes)>;

/// A text whose long parts are shared.
#[derive(Debug, Default)]
pub struct Text {
    /// Everything except the shared parts.
    own: Vec<u8>,
    shared: Shared,
}

impl Text {
    /// An empty text.
    pub const fn new() -> Text {
        Text { own: Vec::new(), shared: Vec::new() }
    }

    /// A text that is shared from now on.
    pub fn shared(text: String) -> Text {
        // a boxed slice gives back the spare capacity
        Text { own: Vec::new(), shared: vec![(0, Bytes::from(text.into_boxed_str().into_boxed_bytes()))] }
    }

    /// Length in bytes, including the shared parts.
    pub fn length(&self) -> usize {
        self.own.len() + self.shared.iter().map(|(_, part)| part.len()).sum::<usize>()
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.shared.is_empty()
    }

    /// Bytes that each use copies: all but the shared parts.
    pub fn copied(&self) -> usize {
        self.own.len()
    }

    /// The current end, as a start for [`Text::write_from`].
    pub fn end(&self) -> (usize, usize) {
        (self.own.len(), self.shared.len())
    }

    /// The two buffers, for writing JSON into this text; see [`Text::write`].
    pub fn parts(&mut self) -> (&mut Vec<u8>, &mut Shared) {
        (&mut self.own, &mut self.shared)
    }

    /// Appends a short text.
    pub fn push(&mut self, text: &[u8]) {
        self.own.extend_from_slice(text);
    }

    /// Appends `other`, or becomes `other` if this text is empty.
    pub fn append(&mut self, other: Text) {
        match self.is_empty() {
            true => *self = other,
            false => other.write(&mut self.own, &mut self.shared),
        }
    }

    /// Appends the text to `out`, and its shared parts to `shared` with their positions in `out`.
    pub fn write(&self, out: &mut Vec<u8>, shared: &mut Shared) {
        self.write_from((0, 0), out, shared);
    }

    /// Like [`Text::write`], for what was added since `begin` (see [`Text::end`]).
    pub fn write_from(&self, begin: (usize, usize), out: &mut Vec<u8>, shared: &mut Shared) {
        let (from, first) = begin;
        let moved = |at: usize| at - from.min(at) + out.len();
        shared.extend(self.shared.iter().skip(first).map(|(at, text)| (moved(*at), text.clone())));
        out.extend_from_slice(self.own.get(from..).unwrap_or_default());
    }

    /// Appends the whole text, including the shared parts, to `out`.
    pub fn write_whole(&self, out: &mut Vec<u8>) {
        let mut from = 0;
        for (at, text) in &self.shared {
            out.extend_from_slice(self.own.get(from..*at).unwrap_or_default());
            out.extend_from_slice(text);
            from = *at;
        }
        out.extend_from_slice(self.own.get(from..).unwrap_or_default());
    }

    /// The whole text, shared parts included, as one string.
    pub fn into_string(self) -> String {
        let whole = match self.shared.is_empty() {
            true => self.own,
            false => {
                let length = self.own.len() + self.shared.iter().map(|(_, text)| text.len()).sum::<usize>();
                let mut whole = Vec::with_capacity(length + 2);
                self.write_whole(&mut whole);
                whole
            }
        };
        String::from_utf8(whole).unwrap_or_default()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut whole = Vec::new();
        self.write_whole(&mut whole);
        f.write_str(&json::lossy(&whole))
    }
}

impl From<Vec<u8>> for Text {
    fn from(own: Vec<u8>) -> Text {
        Text { own, shared: Vec::new() }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        text.into_bytes().into()
    }
}

/// The pieces of a buffer and of the shared texts inserted into it, in order.
pub fn pieces(out: Bytes, shared: Shared) -> impl Iterator<Item = Bytes> {
    let mut from = 0;
    let last = (out.len(), Bytes::new());
    let pieces = shared.into_iter().chain([last]).flat_map(move |(at, text)| {
        let own = out.slice(from..at.clamp(from, out.len()));
        from = at.clamp(from, out.len());
        [own, text]
    });
    pieces.filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_texts_are_inserted_in_place() {
        let mut text = Text::new();
        text.append(Text::shared("long".to_owned()));
        text.push(b",short,");
        let begin = text.end();
        text.push(b"<");
        text.append(Text::shared("other".to_owned()));
        text.push(b">");
        let (mut out, mut shared) = (b"before ".to_vec(), Vec::new());
        text.write(&mut out, &mut shared);
        out.extend_from_slice(b" between ");
        text.write_from(begin, &mut out, &mut shared);
        let written: Vec<Bytes> = pieces(out.into(), shared).collect();
        assert_eq!(written.concat(), b"before long,short,<other> between <other>");
        assert_eq!(written.iter().filter(|piece| **piece == "other").count(), 2);
        let mut whole = Vec::new();
        text.write_whole(&mut whole);
        assert_eq!(whole, b"long,short,<other>");
        assert_eq!(text.into_string(), "long,short,<other>");
        assert_eq!(pieces(Bytes::from_static(b"plain"), Vec::new()).collect::<Vec<_>>(), ["plain"]);
    }
}
