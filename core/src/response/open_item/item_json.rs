//! Owns the JSON of an item and of its parts. It must not write events.

use crate::response::channel::{OUTPUT_TEXT, PartKind};
use crate::response::event_writer::push_text;
use crate::response::open_item::{OpenItem, OpenKind};
use crate::response::shared::{Shared, Text};
use crate::wire::json::{push_literal, push_string};

impl OpenItem {
    /// Appends the JSON of a part with this escaped text. `logprobs`: JSON objects joined with commas.
    pub(super) fn part_json(
        &self,
        out: &mut Vec<u8>,
        shared: &mut Shared,
        part_kind: &PartKind,
        text: &Text,
        logprobs: &str,
    ) {
        out.extend_from_slice(b"{\"type\":");
        push_literal(out, part_kind.kind);
        push_text(out, shared, part_kind.field, text);
        if *part_kind == OUTPUT_TEXT {
            out.extend_from_slice(b",\"annotations\":[");
            out.extend_from_slice(self.annotations.as_bytes());
            out.extend_from_slice(b"],\"logprobs\":[");
            out.extend_from_slice(logprobs.as_bytes());
            out.push(b']');
        }
        out.push(b'}');
    }

    /// Appends the JSON of the item with its closed parts. Long texts are left out of `out` and added to `shared`.
    pub(super) fn item_json(&self, out: &mut Vec<u8>, shared: &mut Shared, status: &str) {
        if let OpenKind::Hosted(item) = &self.kind {
            return item.write(out, &self.id, status);
        }
        out.extend_from_slice(b"{\"id\":");
        push_literal(out, &self.id);
        out.extend_from_slice(b",\"type\":");
        push_literal(out, self.item_type());
        if let OpenKind::Compaction { blob } = &self.kind {
            out.extend_from_slice(b",\"encrypted_content\":");
            push_string(out, blob);
            out.push(b'}');
            return;
        }
        out.extend_from_slice(b",\"status\":");
        push_literal(out, status);
        self.own_members(out, shared);
        out.extend_from_slice(self.extra.as_bytes());
        if let Some(sealed) = &self.sealed {
            out.extend_from_slice(b",\"encrypted_content\":");
            push_string(out, sealed);
        }
        out.push(b'}');
    }

    fn item_type(&self) -> &str {
        match &self.kind {
            OpenKind::Message => "message",
            OpenKind::Reasoning => "reasoning",
            OpenKind::Call(call) if call.custom => "custom_tool_call",
            OpenKind::Call(_) | OpenKind::Held { .. } => "function_call",
            OpenKind::Compaction { .. } => "compaction",
            OpenKind::Whole { kind, .. } => kind,
            // its JSON contains the type
            OpenKind::Hosted(_) => "",
        }
    }

    /// Appends the members that depend on the item's type.
    fn own_members(&self, out: &mut Vec<u8>, shared: &mut Shared) {
        match &self.kind {
            OpenKind::Message => {
                out.extend_from_slice(b",\"role\":\"assistant\",\"content\":[");
                self.content.json.write(out, shared);
                out.push(b']');
            }
            OpenKind::Reasoning => {
                out.extend_from_slice(b",\"summary\":[");
                self.summary.json.write(out, shared);
                out.push(b']');
                // `summary` is always present, `content` only if the text itself is shown
                if self.content.count > 0 {
                    out.extend_from_slice(b",\"content\":[");
                    self.content.json.write(out, shared);
                    out.push(b']');
                }
            }
            OpenKind::Call(call) => {
                push_text(out, shared, call.field(), &self.arguments);
                out.extend_from_slice(b",\"call_id\":");
                push_literal(out, &call.call_id);
                out.extend_from_slice(b",\"name\":");
                push_literal(out, &call.name);
                if let Some(namespace) = &call.namespace {
                    out.extend_from_slice(b",\"namespace\":");
                    push_literal(out, namespace);
                }
                if call.encrypts {
                    out.extend_from_slice(b",\"encrypted_function_args\":[]");
                }
            }
            OpenKind::Held { .. } | OpenKind::Compaction { .. } | OpenKind::Hosted(_) => {}
            OpenKind::Whole { call_id, members, .. } => {
                out.extend_from_slice(b",\"call_id\":");
                push_literal(out, call_id);
                out.extend_from_slice(members.as_bytes());
            }
        }
    }
}
