//! Owns one output item while it is open: its events from `output_item.added` to `output_item.done`, and its final
//! JSON. It must not decide when an item opens or closes.
//!
//! All texts are escaped JSON, so that a delta is copied from the upstream's bytes to the client's, and the text so
//! far is kept in the form in which `done` and the terminal snapshot need it.

mod hosted_item;
mod item_json;

use crate::response::channel::{Family, OUTPUT_TEXT};
use crate::response::event_writer::{Events, head, push_text};
use crate::response::shared::Text;
use crate::wire::json::{push_literal, push_number};

pub(crate) use crate::response::open_item::hosted_item::HostedItem;

/// How an item ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is whole.
    Completed,
    /// The answer ended inside it.
    Incomplete,
}

/// Adds log probabilities to others, joined with commas.
pub(crate) fn append_logprobs(all: &mut String, new: &str) {
    if !all.is_empty() && !new.is_empty() {
        all.push(',');
    }
    all.push_str(new);
}

/// What an open item is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// `message`
    Message,
    /// `reasoning`
    Reasoning,
    /// `function_call` or `custom_tool_call`.
    Call(Call),
    /// A call whose item is known only when its arguments are whole: nothing is sent before.
    Held {
        /// Index into the transcoder's calls.
        slot: usize,
    },
    /// A summary that only we can read.
    Compaction {
        /// `encrypted_content`
        blob: String,
    },
    /// An item of a type that the upstream runs by itself.
    Hosted(HostedItem),
    /// An item of another type, complete as it is.
    Whole {
        /// `tool_search_call`, ...
        kind: &'static str,
        /// Escaped id.
        call_id: String,
        /// Members beside `id`, `type`, `status` and `call_id`, each with a leading comma.
        members: String,
    },
}

/// A call whose arguments or input are streamed. All texts are escaped.
#[derive(Debug)]
pub(crate) struct Call {
    /// Index into the transcoder's calls.
    pub slot: usize,
    /// Whether it is a `custom_tool_call`.
    pub custom: bool,
    pub name: String,
    pub namespace: Option<String>,
    pub call_id: String,
    /// Whether its client has to be told that no argument is encrypted.
    pub encrypts: bool,
}

impl Call {
    /// Its events: `delta` and `done`.
    fn events(&self) -> [&'static str; 2] {
        match self.custom {
            true => ["response.custom_tool_call_input.delta", "response.custom_tool_call_input.done"],
            false => ["response.function_call_arguments.delta", "response.function_call_arguments.done"],
        }
    }

    /// The member that holds what is streamed.
    fn field(&self) -> &'static str {
        if self.custom { "input" } else { "arguments" }
    }
}

/// Closed parts, joined with commas, and how many there are.
#[derive(Debug, Default)]
struct Parts {
    json: Text,
    count: u64,
}

/// The item in progress: its events from `added` to `done`.
#[derive(Debug)]
pub(crate) struct Open {
    /// The open part's family; calls have none.
    family: Option<&'static Family>,
    /// The delta event up to its sequence number; empty for an answer without a stream.
    prefix: Vec<u8>,
    /// Text of the open part, or the arguments.
    pub text: String,
    /// Events carry log probabilities only where they were asked for.
    with_logprobs: bool,
    pub kind: Kind,
    /// Of characters that need no escape.
    id: String,
    index: u64,
    /// Text of closed parts, where it counts for the response's `output_text`.
    said: Text,
    /// All of a call's arguments, once they are there.
    arguments: Text,
    content: Parts,
    summary: Parts,
    /// Annotations of the open part, joined with commas, and how many there are.
    annotations: String,
    annotated: u64,
    /// Members of the item that only its upstream knows, each with a leading comma.
    pub extra: String,
    /// Log probabilities of the open part.
    logprobs: String,
    /// `encrypted_content` of finished reasoning.
    pub sealed: Option<String>,
}

impl Open {
    /// Announces an item that has no text yet. `id`: of characters that need no escape.
    pub fn begin(
        events: &mut Events,
        out: &mut Vec<u8>,
        kind: Kind,
        id: String,
        index: u64,
        extra: String,
    ) -> Open {
        let open = Open {
            kind,
            id,
            index,
            prefix: Vec::new(),
            family: None,
            text: String::new(),
            said: Text::new(),
            arguments: Text::new(),
            content: Parts::default(),
            summary: Parts::default(),
            annotations: String::new(),
            annotated: 0,
            extra,
            logprobs: String::new(),
            with_logprobs: false,
            sealed: None,
        };
        let mut open = open;
        if matches!(open.kind, Kind::Held { .. }) {
            return open;
        }
        events.write(out, "response.output_item.added", |out| {
            out.extend_from_slice(b",\"output_index\":");
            push_number(out, open.index);
            out.extend_from_slice(b",\"item\":");
            // nothing in it is long yet
            open.item_json(out, &mut Vec::new(), "in_progress");
        });
        if let Kind::Call(call) = &open.kind {
            let [delta, _] = call.events();
            open.set_prefix(events, delta, None);
        }
        open
    }

    /// Bytes of its texts.
    pub fn held(&self) -> usize {
        let closed = self.said.length() + self.content.json.length() + self.summary.json.length();
        let hosted = if let Kind::Hosted(item) = &self.kind { item.len() } else { 0 };
        self.text.len()
            + self.arguments.length()
            + closed
            + hosted
            + self.annotations.len()
            + self.logprobs.len()
    }

    /// Opens the next part of `family`, unless it is open.
    pub fn part(
        &mut self,
        events: &mut Events,
        out: &mut Vec<u8>,
        family: &'static Family,
        with_logprobs: bool,
    ) {
        if self.family == Some(family) {
            return;
        }
        self.end_part(events, out);
        self.family = Some(family);
        self.with_logprobs = with_logprobs && *family == OUTPUT_TEXT;
        let ([added, _], [delta, _]) = (family.part, family.text);
        events.write(out, added, |out| {
            self.position(out, Some(family));
            out.extend_from_slice(b",\"part\":");
            self.part_json(out, &mut Vec::new(), family, &Text::new(), "");
        });
        self.set_prefix(events, delta, Some(family));
    }

    /// Adds text to the open part, or to the arguments. `logprobs`: those of its tokens, joined with commas.
    pub fn delta(&mut self, events: &mut Events, out: &mut Vec<u8>, text: &str, logprobs: Option<&str>) {
        if text.is_empty() {
            return;
        }
        self.text.push_str(text);
        if matches!(self.kind, Kind::Held { .. }) {
            return;
        }
        if events.enabled {
            out.extend_from_slice(&self.prefix);
            events.number(out);
            out.extend_from_slice(b",\"delta\":");
            push_literal(out, text);
        }
        if let Some(new) = logprobs.filter(|_| self.with_logprobs) {
            if events.enabled {
                out.extend_from_slice(b",\"logprobs\":[");
                out.extend_from_slice(new.as_bytes());
                out.push(b']');
            }
            append_logprobs(&mut self.logprobs, new);
        } else if self.with_logprobs && events.enabled {
            out.extend_from_slice(b",\"logprobs\":[]");
        }
        if events.enabled {
            out.extend_from_slice(b"}\n\n");
        }
    }

    /// Closes what is open and the item itself; returns the item's final JSON, and what of it is the response's
    /// `output_text`. A call that was cut off gets no `arguments.done` (docs/protocol.md 7).
    pub fn end(mut self, events: &mut Events, out: &mut Vec<u8>, ending: Ending) -> (Text, Text) {
        let text = if events.shares(self.text.len()) { 0 } else { self.text.len() };
        let length = text + self.content.json.copied() + self.summary.json.copied() + 256;
        // so often it is written; growing by doubling, `out` would be moved, and be there twice itself
        if events.enabled {
            out.reserve_exact(if self.has_part() { 3 } else { 2 } * length);
        }
        self.end_part(events, out);
        self.arguments = events.text(std::mem::take(&mut self.text));
        if ending == Ending::Completed
            && let Kind::Call(call) = &self.kind
        {
            let [_, done] = call.events();
            events.write_sharing(out, done, |out, shared| {
                self.position(out, None);
                if !call.custom {
                    out.extend_from_slice(b",\"name\":");
                    push_literal(out, &call.name);
                }
                push_text(out, shared, call.field(), &self.arguments);
            });
        }
        let status = match ending {
            Ending::Completed => "completed",
            Ending::Incomplete => "incomplete",
        };
        let mut written = None;
        events.write_sharing(out, "response.output_item.done", |out, shared| {
            out.extend_from_slice(b",\"output_index\":");
            push_number(out, self.index);
            out.extend_from_slice(b",\"item\":");
            let (from, before) = (out.len(), shared.len());
            self.item_json(out, shared, status);
            written = Some(from..out.len()).filter(|_| shared.len() == before);
        });
        let said = std::mem::take(&mut self.said);
        let json = match written.and_then(|range| out.get(range)) {
            Some(json) => {
                // what it was made of goes before the copy comes: a long text is in memory often enough
                drop(self);
                json.to_vec().into()
            }
            None => {
                let mut json = Text::from(Vec::with_capacity(length));
                let (own, shared) = json.parts();
                self.item_json(own, shared, status);
                json
            }
        };
        (json, said)
    }

    /// Whether a part is open, and text can go somewhere.
    pub fn has_part(&self) -> bool {
        self.family.is_some()
    }

    /// Adds an annotation, given as JSON without line breaks, to the open part.
    pub fn annotate(&mut self, events: &mut Events, out: &mut Vec<u8>, annotation: &str) {
        let Some(family) = self.family else { return };
        events.write(out, "response.output_text.annotation.added", |out| {
            self.position(out, Some(family));
            out.extend_from_slice(b",\"annotation_index\":");
            push_number(out, self.annotated);
            out.extend_from_slice(b",\"annotation\":");
            out.extend_from_slice(annotation.as_bytes());
        });
        if self.annotated > 0 {
            self.annotations.push(',');
        }
        self.annotations.push_str(annotation);
        self.annotated += 1;
    }

    /// Whether the open part is one that has annotations.
    pub fn takes_annotations(&self) -> bool {
        self.family == Some(&OUTPUT_TEXT)
    }

    /// Whether the open part has this annotation.
    pub fn is_annotated(&self, annotation: &str) -> bool {
        self.annotations.contains(annotation)
    }

    /// How many annotations the open part has.
    pub fn annotated(&self) -> u64 {
        self.annotated
    }

    /// Closes the open part, if one is.
    pub fn end_part(&mut self, events: &mut Events, out: &mut Vec<u8>) {
        let Some(family) = self.family.take() else { return };
        let ([_, part_done], [_, text_done]) = (family.part, family.text);
        let text = events.text(std::mem::take(&mut self.text));
        events.write_sharing(out, text_done, |out, shared| {
            self.position(out, Some(family));
            if *family == OUTPUT_TEXT {
                out.extend_from_slice(b",\"logprobs\":[");
                out.extend_from_slice(self.logprobs.as_bytes());
                out.push(b']');
            }
            push_text(out, shared, family.field, &text);
        });
        let parts = if family.summary { &mut self.summary } else { &mut self.content };
        let mut json = std::mem::take(&mut parts.json);
        if parts.count > 0 {
            json.push(b",");
        }
        let begin = json.end();
        let (own, shared) = json.parts();
        own.reserve(text.copied() + 80);
        self.part_json(own, shared, family, &text, &self.logprobs);
        events.write_sharing(out, part_done, |out, shared| {
            self.position(out, Some(family));
            out.extend_from_slice(b",\"part\":");
            match self.logprobs.is_empty() {
                true => json.write_from(begin, out, shared),
                // OpenAI's has none here; `output_text.done` had them
                false => self.part_json(out, shared, family, &text, ""),
            }
        });
        let parts = if family.summary { &mut self.summary } else { &mut self.content };
        parts.json = json;
        parts.count += 1;
        if *family == OUTPUT_TEXT {
            self.said.append(text);
        }
        self.logprobs = String::new();
        self.annotations.clear();
        self.annotated = 0;
    }

    /// `,"item_id":..,"output_index":..` and the part's index.
    fn position(&self, out: &mut Vec<u8>, family: Option<&Family>) {
        out.extend_from_slice(b",\"item_id\":");
        push_literal(out, &self.id);
        out.extend_from_slice(b",\"output_index\":");
        push_number(out, self.index);
        if let Some(family) = family {
            out.push(b',');
            push_literal(out, family.index);
            out.push(b':');
            push_number(out, if family.summary { self.summary.count } else { self.content.count });
        }
    }

    fn set_prefix(&mut self, events: &Events, kind: &str, family: Option<&Family>) {
        if !events.enabled {
            return;
        }
        let mut prefix = Vec::with_capacity(256);
        head(&mut prefix, kind);
        // the position brings a comma of its own
        prefix.pop();
        self.position(&mut prefix, family);
        if family == Some(&OUTPUT_TEXT) && !self.with_logprobs {
            prefix.extend_from_slice(b",\"logprobs\":[]");
        }
        prefix.extend_from_slice(b",\"sequence_number\":");
        self.prefix = prefix;
    }
}
