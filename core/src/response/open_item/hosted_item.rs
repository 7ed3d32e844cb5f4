//! Owns an open item of a type that the upstream runs itself: the item and its events pass unchanged but for id, index
//! and sequence numbers. It must not interpret them.

use crate::response::event_writer::EventWriter;
use crate::response::open_item::{OpenItem, OpenKind};
use crate::wire::json::{members, minify, push_number, push_string};

/// The item as the upstream sent it: JSON without line breaks.
#[derive(Debug)]
pub(crate) enum HostedItem {
    /// Still running.
    Announced(String),
    /// Ended.
    Done(String),
}

impl HostedItem {
    /// Bytes of its JSON.
    pub fn len(&self) -> usize {
        let (HostedItem::Announced(item) | HostedItem::Done(item)) = self;
        item.len()
    }

    /// Appends the item under the given id, with `status` unless it has ended with its own.
    pub(super) fn write(&self, out: &mut Vec<u8>, id: &str, status: &str) {
        let (item, status) = match self {
            HostedItem::Announced(item) => (item, Some(status)),
            HostedItem::Done(item) => (item, None),
        };
        out.extend_from_slice(b"{\"id\":");
        push_string(out, id);
        for (key, value) in members(item).unwrap_or_default() {
            match (&*key, status) {
                ("id", _) => {}
                ("status", Some(status)) => {
                    out.extend_from_slice(b",\"status\":");
                    push_string(out, status);
                }
                _ => push_member(out, &key, value.get()),
            }
        }
        out.push(b'}');
    }
}

impl OpenItem {
    /// Records the final JSON of a hosted item. Does nothing if the open item is of another kind.
    pub fn end_hosted(&mut self, item: String) {
        if let OpenKind::Hosted(hosted) = &mut self.kind {
            *hosted = HostedItem::Done(item);
        }
    }

    /// Passes on an event about the item. `data`: the event's JSON as received.
    pub fn pass_event(&self, events: &mut EventWriter, out: &mut Vec<u8>, event_type: &str, data: &str) {
        events.write(out, event_type, |out| {
            out.extend_from_slice(b",\"item_id\":");
            push_string(out, &self.id);
            out.extend_from_slice(b",\"output_index\":");
            push_number(out, self.index);
            for (key, value) in members(data).unwrap_or_default() {
                if !matches!(&*key, "type" | "sequence_number" | "output_index" | "item_id" | "obfuscation") {
                    push_member(out, &key, value.get());
                }
            }
        });
    }
}

/// `,"key":value`
fn push_member(out: &mut Vec<u8>, key: &str, value: &str) {
    out.push(b',');
    push_string(out, key);
    out.push(b':');
    out.extend_from_slice(minify(value).as_bytes());
}
