//! Owns the JSON of an item and of its parts.

use crate::response::channel::{Family, OUTPUT_TEXT};
use crate::response::event_writer::push_text;
use crate::response::open_item::{Kind, Open};
use crate::response::shared::{Shared, Text};
use crate::wire::json::{push_literal, push_string};

impl Open {
    pub(super) fn part_json(
        &self,
        out: &mut Vec<u8>,
        shared: &mut Shared,
        family: &Family,
        text: &Text,
        logprobs: &str,
    ) {
        out.extend_from_slice(b"{\"type\":");
        push_literal(out, family.kind);
        push_text(out, shared, family.field, text);
        if *family == OUTPUT_TEXT {
            out.extend_from_slice(b",\"annotations\":[");
            out.extend_from_slice(self.annotations.as_bytes());
            out.extend_from_slice(b"],\"logprobs\":[");
            out.extend_from_slice(logprobs.as_bytes());
            out.push(b']');
        }
        out.push(b'}');
    }

    pub(super) fn item_json(&self, out: &mut Vec<u8>, shared: &mut Shared, status: &str) {
        if let Kind::Hosted(item) = &self.kind {
            return item.write(out, &self.id, status);
        }
        out.extend_from_slice(b"{\"id\":");
        push_literal(out, &self.id);
        out.extend_from_slice(b",\"type\":");
        push_literal(out, self.item_type());
        if let Kind::Compaction { blob } = &self.kind {
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
            Kind::Message => "message",
            Kind::Reasoning => "reasoning",
            Kind::Call(call) if call.custom => "custom_tool_call",
            Kind::Call(_) | Kind::Held { .. } => "function_call",
            Kind::Compaction { .. } => "compaction",
            Kind::Whole { kind, .. } => kind,
            // it has its own
            Kind::Hosted(_) => "",
        }
    }

    /// The members that only items of its type have.
    fn own_members(&self, out: &mut Vec<u8>, shared: &mut Shared) {
        match &self.kind {
            Kind::Message => {
                out.extend_from_slice(b",\"role\":\"assistant\",\"content\":[");
                self.content.json.write(out, shared);
                out.push(b']');
            }
            Kind::Reasoning => {
                out.extend_from_slice(b",\"summary\":[");
                self.summary.json.write(out, shared);
                out.push(b']');
                // summary is always there; content only where the text itself is shown
                if self.content.count > 0 {
                    out.extend_from_slice(b",\"content\":[");
                    self.content.json.write(out, shared);
                    out.push(b']');
                }
            }
            Kind::Call(call) => {
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
            Kind::Held { .. } | Kind::Compaction { .. } | Kind::Hosted(_) => {}
            Kind::Whole { call_id, members, .. } => {
                out.extend_from_slice(b",\"call_id\":");
                push_literal(out, call_id);
                out.extend_from_slice(members.as_bytes());
            }
        }
    }
}
