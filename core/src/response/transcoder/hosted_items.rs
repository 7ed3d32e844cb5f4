//! Owns items of types that the upstream runs by itself, and their events: they pass whole, under our numbers. It must
//! not understand them.

use crate::ids;
use crate::response::native_items::NativeItem;
use crate::response::transcoder::Transcoder;
use crate::wire::json::{self, compact, push_number, push_string};

impl Transcoder {
    /// Passes on an event of the current item, whose type is its own.
    pub(super) fn own(&mut self, kind: &str, data: &str, out: &mut Vec<u8>) {
        self.begin_own(out);
        let (done, added) = (kind == "response.output_item.done", kind == "response.output_item.added");
        if added {
            return;
        }
        let Some(entry) = self.mend.current() else { return };
        let number = entry.opened.unwrap_or_default();
        let id = entry.own_id.clone();
        if done {
            entry.done = true;
            let status = json::members(&entry.item).and_then(|members| {
                members
                    .into_iter()
                    .find(|(key, _)| key == "status")
                    .map(|(_, value)| value.get() == "\"incomplete\"")
            });
            entry.cut = status.unwrap_or(false);
            return self.finish_own(None, out);
        }
        self.events.write(out, kind, |out| {
            out.extend_from_slice(b",\"item_id\":");
            push_string(out, &id);
            out.extend_from_slice(b",\"output_index\":");
            push_number(out, number);
            for (key, value) in json::members(data).unwrap_or_default() {
                if !matches!(&*key, "type" | "sequence_number" | "output_index" | "item_id" | "obfuscation") {
                    out.push(b',');
                    push_string(out, &key);
                    out.push(b':');
                    out.extend_from_slice(compact(value.get()).as_bytes());
                }
            }
        });
    }

    /// Announces the current item.
    fn begin_own(&mut self, out: &mut Vec<u8>) {
        let Some(entry) = self.mend.current().filter(|entry| entry.opened.is_none()) else { return };
        let number = self.count;
        entry.opened = Some(number);
        let (id, item) = (entry.id.clone(), entry.item.clone());
        let kind = kind_of(&item);
        let kept = self.mend.keep(&id, ids::prefix_of(&kind));
        let id = kept.unwrap_or_else(|| self.ids.item(ids::prefix_of(&kind)));
        self.count += 1;
        self.events.write(out, "response.output_item.added", |out| {
            out.extend_from_slice(b",\"output_index\":");
            push_number(out, number);
            out.extend_from_slice(b",\"item\":");
            write_item(out, &item, &id, Some("in_progress"));
        });
        if let Some(entry) = self.mend.current() {
            entry.own_id = id;
        }
    }

    /// Ends the current item, if it is one that its upstream left open.
    pub(super) fn end_own(&mut self, out: &mut Vec<u8>) {
        let left_open =
            |entry: &NativeItem| entry.opened.is_some() && !entry.own_id.is_empty() && !entry.done;
        if self.mend.current().is_some_and(|entry| left_open(entry)) {
            self.finish_own(Some("completed"), out);
        }
    }

    fn finish_own(&mut self, status: Option<&str>, out: &mut Vec<u8>) {
        let Some(entry) = self.mend.current() else { return };
        let number = entry.opened.unwrap_or_default();
        let mut json = Vec::with_capacity(entry.item.len() + 64);
        write_item(&mut json, &entry.item, &entry.own_id, status);
        self.events.write(out, "response.output_item.done", |out| {
            out.extend_from_slice(b",\"output_index\":");
            push_number(out, number);
            out.extend_from_slice(b",\"item\":");
            out.extend_from_slice(&json);
        });
        self.put_item(json.into());
    }
}

fn kind_of(item: &str) -> String {
    let members = json::members(item).unwrap_or_default();
    let kind = members.iter().find(|(key, _)| key == "type").and_then(|(_, value)| json::decode(value));
    kind.unwrap_or_default().into_owned()
}

/// The item as it came, with our id, and with our status where it has one.
fn write_item(out: &mut Vec<u8>, item: &str, id: &str, status: Option<&str>) {
    out.extend_from_slice(b"{\"id\":");
    push_string(out, id);
    for (key, value) in json::members(item).unwrap_or_default() {
        match (&*key, status) {
            ("id", _) => {}
            ("status", Some(status)) => {
                out.extend_from_slice(b",\"status\":");
                push_string(out, status);
            }
            _ => {
                out.push(b',');
                push_string(out, &key);
                out.push(b':');
                out.extend_from_slice(compact(value.get()).as_bytes());
            }
        }
    }
    out.push(b'}');
}
