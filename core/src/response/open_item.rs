//! Owns one output item while it is open: its events from `output_item.added` to `output_item.done`, and its final
//! JSON. It must not decide when an item opens or closes.
//!
//! All texts are escaped JSON, so a delta is copied from the upstream's bytes to the client's, and the text so far is
//! kept in the form that the `done` events and the terminal event need.

mod hosted_item;
mod item_json;

use crate::response::channel::{OUTPUT_TEXT, PartKind};
use crate::response::event_writer::{EventWriter, head, push_text};
use crate::response::shared::Text;
use crate::wire::json::{push_literal, push_number};

pub(crate) use crate::response::open_item::hosted_item::HostedItem;

/// How an item ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The item is complete.
    Completed,
    /// The answer ended inside it.
    Incomplete,
}

/// Appends log probabilities to a comma-joined list.
pub(crate) fn append_logprobs(all: &mut String, new: &str) {
    if !all.is_empty() && !new.is_empty() {
        all.push(',');
    }
    all.push_str(new);
}

/// The kind of an open item.
#[derive(Debug)]
pub(crate) enum OpenKind {
    /// `message`
    Message,
    /// `reasoning`
    Reasoning,
    /// `function_call` or `custom_tool_call`.
    Call(Call),
    /// A call that becomes an item only when its arguments are complete. No events are written for it before.
    Held {
        /// Position in the transcoder's `calls`.
        slot: usize,
    },
    /// A `compaction`: a summary that only this proxy can read.
    Compaction {
        /// `encrypted_content`
        blob: String,
    },
    /// An item of a type that the upstream runs itself.
    Hosted(HostedItem),
    /// A call of another type, written at once with all its members.
    Whole {
        /// `tool_search_call`, ...
        kind: &'static str,
        /// The `call_id`, escaped.
        call_id: String,
        /// Members beside `id`, `type`, `status` and `call_id`, each with a leading comma.
        members: String,
    },
}

/// A call whose arguments or input are streamed. All texts are escaped.
#[derive(Debug)]
pub(crate) struct Call {
    /// Position in the transcoder's `calls`.
    pub slot: usize,
    /// Whether it is a `custom_tool_call`.
    pub custom: bool,
    pub name: String,
    pub namespace: Option<String>,
    pub call_id: String,
    /// Whether the client expects `encrypted_function_args`, which is always empty.
    pub encrypts: bool,
}

impl Call {
    /// Names of its events: `delta` and `done`.
    fn events(&self) -> [&'static str; 2] {
        match self.custom {
            true => ["response.custom_tool_call_input.delta", "response.custom_tool_call_input.done"],
            false => ["response.function_call_arguments.delta", "response.function_call_arguments.done"],
        }
    }

    /// The member that is streamed.
    fn field(&self) -> &'static str {
        if self.custom { "input" } else { "arguments" }
    }
}

/// Closed parts as JSON, joined with commas.
#[derive(Debug, Default)]
struct ClosedParts {
    json: Text,
    count: u64,
}

/// The open item.
#[derive(Debug)]
pub(crate) struct OpenItem {
    /// The kind of the open part; `None` for calls and between parts.
    part_kind: Option<&'static PartKind>,
    /// The delta event up to its sequence number; empty if the response is not streamed.
    prefix: Vec<u8>,
    /// Escaped text of the open part, or the arguments so far.
    pub text: String,
    /// Whether events of the open part carry log probabilities.
    with_logprobs: bool,
    pub kind: OpenKind,
    /// Contains only characters that need no escape.
    id: String,
    index: u64,
    /// Escaped text of closed `output_text` parts.
    output_text: Text,
    /// The complete arguments of a call; empty until it ends.
    arguments: Text,
    content: ClosedParts,
    summary: ClosedParts,
    /// Annotations of the open part as JSON, joined with commas, and their number.
    annotations: String,
    annotated: u64,
    /// Members that only the upstream knows, each with a leading comma.
    pub extra: String,
    /// Log probabilities of the open part as JSON, joined with commas.
    logprobs: String,
    /// The `encrypted_content` of finished reasoning.
    pub sealed: Option<String>,
}

impl OpenItem {
    /// Opens an item and writes `output_item.added`, except for a held call. `id` must contain only characters that
    /// need no escape. `extra`: see the field.
    pub fn begin(
        events: &mut EventWriter,
        out: &mut Vec<u8>,
        kind: OpenKind,
        id: String,
        index: u64,
        extra: String,
    ) -> OpenItem {
        let open = OpenItem {
            kind,
            id,
            index,
            prefix: Vec::new(),
            part_kind: None,
            text: String::new(),
            output_text: Text::new(),
            arguments: Text::new(),
            content: ClosedParts::default(),
            summary: ClosedParts::default(),
            annotations: String::new(),
            annotated: 0,
            extra,
            logprobs: String::new(),
            with_logprobs: false,
            sealed: None,
        };
        let mut open = open;
        if matches!(open.kind, OpenKind::Held { .. }) {
            return open;
        }
        events.write(out, "response.output_item.added", |out| {
            out.extend_from_slice(b",\"output_index\":");
            push_number(out, open.index);
            out.extend_from_slice(b",\"item\":");
            // no text in it is long yet
            open.item_json(out, &mut Vec::new(), "in_progress");
        });
        if let OpenKind::Call(call) = &open.kind {
            let [delta, _] = call.events();
            open.set_prefix(events, delta, None);
        }
        open
    }

    /// Bytes of texts held.
    pub fn held(&self) -> usize {
        let closed = self.output_text.length() + self.content.json.length() + self.summary.json.length();
        let hosted = if let OpenKind::Hosted(item) = &self.kind { item.len() } else { 0 };
        self.text.len()
            + self.arguments.length()
            + closed
            + hosted
            + self.annotations.len()
            + self.logprobs.len()
    }

    /// Opens a part of `part_kind` unless it is already open; another open part is closed first.
    pub fn part(
        &mut self,
        events: &mut EventWriter,
        out: &mut Vec<u8>,
        part_kind: &'static PartKind,
        with_logprobs: bool,
    ) {
        if self.part_kind == Some(part_kind) {
            return;
        }
        self.end_part(events, out);
        self.part_kind = Some(part_kind);
        self.with_logprobs = with_logprobs && *part_kind == OUTPUT_TEXT;
        let ([added, _], [delta, _]) = (part_kind.part, part_kind.text);
        events.write(out, added, |out| {
            self.position(out, Some(part_kind));
            out.extend_from_slice(b",\"part\":");
            self.part_json(out, &mut Vec::new(), part_kind, &Text::new(), "");
        });
        self.set_prefix(events, delta, Some(part_kind));
    }

    /// Adds escaped text to the open part or the arguments, and writes its delta. `logprobs`: those of its tokens as
    /// JSON, joined with commas.
    pub fn delta(&mut self, events: &mut EventWriter, out: &mut Vec<u8>, text: &str, logprobs: Option<&str>) {
        if text.is_empty() {
            return;
        }
        self.text.push_str(text);
        if matches!(self.kind, OpenKind::Held { .. }) {
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

    /// Closes the open part and the item. Returns the item's final JSON, and its contribution to the response's
    /// `output_text`. A call that was cut off gets no `arguments.done` (docs/protocol.md 7).
    pub fn end(mut self, events: &mut EventWriter, out: &mut Vec<u8>, ending: Ending) -> (Text, Text) {
        let text = if events.shares(self.text.len()) { 0 } else { self.text.len() };
        let length = text + self.content.json.copied() + self.summary.json.copied() + 256;
        // the text is written this many times; doubling `out` instead would move it, with two copies in memory
        // meanwhile
        if events.enabled {
            out.reserve_exact(if self.has_part() { 3 } else { 2 } * length);
        }
        self.end_part(events, out);
        self.arguments = events.text(std::mem::take(&mut self.text));
        if ending == Ending::Completed
            && let OpenKind::Call(call) = &self.kind
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
        let output_text = std::mem::take(&mut self.output_text);
        let json = match written.and_then(|range| out.get(range)) {
            Some(json) => {
                // free the texts before copying the JSON: a long text is in memory often enough
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
        (json, output_text)
    }

    /// Whether a part is open that text can be added to.
    pub fn has_part(&self) -> bool {
        self.part_kind.is_some()
    }

    /// Adds an annotation (JSON without line breaks) to the open part. Does nothing if no part is open.
    pub fn annotate(&mut self, events: &mut EventWriter, out: &mut Vec<u8>, annotation: &str) {
        let Some(part_kind) = self.part_kind else { return };
        events.write(out, "response.output_text.annotation.added", |out| {
            self.position(out, Some(part_kind));
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

    /// Whether the open part can have annotations.
    pub fn takes_annotations(&self) -> bool {
        self.part_kind == Some(&OUTPUT_TEXT)
    }

    /// Whether the open part already has this annotation.
    pub fn is_annotated(&self, annotation: &str) -> bool {
        self.annotations.contains(annotation)
    }

    /// How many annotations the open part has.
    pub fn annotated(&self) -> u64 {
        self.annotated
    }

    /// Closes the open part, if there is one.
    pub fn end_part(&mut self, events: &mut EventWriter, out: &mut Vec<u8>) {
        let Some(part_kind) = self.part_kind.take() else { return };
        let ([_, part_done], [_, text_done]) = (part_kind.part, part_kind.text);
        let text = events.text(std::mem::take(&mut self.text));
        events.write_sharing(out, text_done, |out, shared| {
            self.position(out, Some(part_kind));
            if *part_kind == OUTPUT_TEXT {
                out.extend_from_slice(b",\"logprobs\":[");
                out.extend_from_slice(self.logprobs.as_bytes());
                out.push(b']');
            }
            push_text(out, shared, part_kind.field, &text);
        });
        let parts = if part_kind.summary { &mut self.summary } else { &mut self.content };
        let mut json = std::mem::take(&mut parts.json);
        if parts.count > 0 {
            json.push(b",");
        }
        let begin = json.end();
        let (own, shared) = json.parts();
        own.reserve(text.copied() + 80);
        self.part_json(own, shared, part_kind, &text, &self.logprobs);
        events.write_sharing(out, part_done, |out, shared| {
            self.position(out, Some(part_kind));
            out.extend_from_slice(b",\"part\":");
            match self.logprobs.is_empty() {
                true => json.write_from(begin, out, shared),
                // OpenAI sends none here, only in `output_text.done`
                false => self.part_json(out, shared, part_kind, &text, ""),
            }
        });
        let parts = if part_kind.summary { &mut self.summary } else { &mut self.content };
        parts.json = json;
        parts.count += 1;
        if *part_kind == OUTPUT_TEXT {
            self.output_text.append(text);
        }
        self.logprobs = String::new();
        self.annotations.clear();
        self.annotated = 0;
    }

    /// Appends `,"item_id":..,"output_index":..` and, for a part, its index.
    fn position(&self, out: &mut Vec<u8>, part_kind: Option<&PartKind>) {
        out.extend_from_slice(b",\"item_id\":");
        push_literal(out, &self.id);
        out.extend_from_slice(b",\"output_index\":");
        push_number(out, self.index);
        if let Some(part_kind) = part_kind {
            out.push(b',');
            push_literal(out, part_kind.index);
            out.push(b':');
            push_number(out, if part_kind.summary { self.summary.count } else { self.content.count });
        }
    }

    fn set_prefix(&mut self, events: &EventWriter, kind: &str, part_kind: Option<&PartKind>) {
        if !events.enabled {
            return;
        }
        let mut prefix = Vec::with_capacity(256);
        head(&mut prefix, kind);
        // `position` begins with a comma
        prefix.pop();
        self.position(&mut prefix, part_kind);
        if part_kind == Some(&OUTPUT_TEXT) && !self.with_logprobs {
            prefix.extend_from_slice(b",\"logprobs\":[]");
        }
        prefix.extend_from_slice(b",\"sequence_number\":");
        self.prefix = prefix;
    }
}
