//! Owns the writing of events: their names, their sequence numbers, and long texts that several events share. It must
//! not know which events a stream needs.

use crate::response::shared::{LONG, Shared, Text};
use crate::wire::json::{push_literal, push_number};

/// Numbers events and writes their frame: `event: T`, `data: {"type":T,"sequence_number":N,...}`.
#[derive(Debug, Default)]
pub(crate) struct EventWriter {
    next: u64,
    /// False for a response that is not streamed: no events are written.
    pub enabled: bool,
    /// Long texts left out of the output, for readers that insert them; `None` for readers that do not.
    pub shared: Option<Box<Shared>>,
}

impl EventWriter {
    /// Starts at sequence number 0. With `enabled` false, no events are written.
    pub fn new(enabled: bool) -> Self {
        EventWriter { next: 0, enabled, shared: None }
    }

    /// Continues at sequence number `next`.
    pub fn from_number(next: u64) -> Self {
        EventWriter { next, enabled: true, shared: None }
    }

    /// Like [`EventWriter::write`], for members that may include long texts.
    pub fn write_sharing(
        &mut self,
        out: &mut Vec<u8>,
        kind: &str,
        members: impl FnOnce(&mut Vec<u8>, &mut Shared),
    ) {
        if !self.enabled {
            return;
        }
        self.begin(out, kind);
        // without such a reader, no text is shared, so this stays empty
        let mut none = Vec::new();
        members(out, self.shared.as_deref_mut().unwrap_or(&mut none));
        self.end(out);
    }

    /// Whether a text of this many bytes is shared.
    pub fn shares(&self, length: usize) -> bool {
        length >= LONG && self.shared.is_some()
    }

    /// The text, shared if it is long and the reader takes shared texts.
    pub fn text(&self, text: String) -> Text {
        match self.shares(text.len()) {
            true => Text::shared(text),
            false => text.into(),
        }
    }

    /// Writes one event; `members` appends `,"key":value` pairs. Writes nothing if events are disabled.
    pub fn write(&mut self, out: &mut Vec<u8>, kind: &str, members: impl FnOnce(&mut Vec<u8>)) {
        if !self.enabled {
            return;
        }
        self.begin(out, kind);
        members(out);
        self.end(out);
    }

    fn begin(&self, out: &mut Vec<u8>, kind: &str) {
        head(out, kind);
        out.extend_from_slice(b"\"sequence_number\":");
        push_number(out, self.next);
    }

    /// An event counts once it is whole.
    fn end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"}\n\n");
        self.next += 1;
    }

    /// Removes from `out` the beginning of an event whose writing was broken off by a panic.
    pub fn keep_whole_events(&mut self, out: &mut Vec<u8>) {
        out.truncate(memchr::memmem::rfind(out, b"\n\n").map_or(0, |at| at + 2));
        if let Some(shared) = &mut self.shared {
            shared.retain(|(at, _)| *at <= out.len());
        }
    }

    /// Appends the next sequence number, and counts it.
    pub fn number(&mut self, out: &mut Vec<u8>) {
        push_number(out, self.next);
        self.next += 1;
    }
}

/// `event: T\ndata: {"type":T,`
pub(crate) fn head(out: &mut Vec<u8>, kind: &str) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\ndata: {\"type\":");
    push_literal(out, kind);
    out.push(b',');
}

/// `,"name":"escaped"`
pub(crate) fn push_text(out: &mut Vec<u8>, shared: &mut Shared, name: &str, escaped: &Text) {
    out.push(b',');
    push_literal(out, name);
    out.extend_from_slice(b":\"");
    escaped.write(out, shared);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_event_that_was_broken_off_leaves_no_trace() {
        let mut writer = EventWriter::new(true);
        writer.shared = Some(Box::default());
        let mut out = Vec::new();
        let text = Bytes::from_static(b"long");
        writer.write_sharing(&mut out, "whole", |out, shared| shared.push((out.len(), text.clone())));
        let whole = out.clone();
        let broken = catch_unwind(AssertUnwindSafe(|| {
            writer.write_sharing(&mut out, "broken", |out, shared| {
                out.extend_from_slice(b",\"text\":\"");
                shared.push((out.len(), text.clone()));
                panic!("a defect")
            });
        }));
        assert!(broken.is_err() && out.len() > whole.len());
        writer.keep_whole_events(&mut out);
        assert_eq!(out, whole);
        assert_eq!(writer.shared.as_ref().map(|shared| shared.len()), Some(1));
        writer.write(&mut out, "next", |_| {});
        assert!(out.ends_with(b"\"sequence_number\":1}\n\n"));
    }
}
