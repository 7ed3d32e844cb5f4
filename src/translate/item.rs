//! Owns one output item while it is open: its events from `output_item.added` to `output_item.done`, and its final
//! JSON. It must not decide when an item opens or closes.
//!
//! All texts are escaped JSON, so that a delta is copied from the upstream's bytes to the client's, and the text so
//! far is kept in the form in which `done` and the terminal snapshot need it.

use crate::wire::json::{push_literal, push_number, push_string};

/// Adds log probabilities to others, joined with commas.
pub(super) fn append_logprobs(all: &mut String, new: &str) {
    if !all.is_empty() && !new.is_empty() {
        all.push(',');
    }
    all.push_str(new);
}

/// Numbers events and writes their frame: `event: T`, `data: {"type":T,"sequence_number":N,...}`.
#[derive(Debug, Default)]
pub(super) struct Events {
    next: u64,
    /// False for an answer without a stream: nothing is written.
    pub enabled: bool,
}

impl Events {
    pub fn new(enabled: bool) -> Self {
        Events { next: 0, enabled }
    }

    /// Writes one event; `members` appends `,"key":value` pairs.
    pub fn write(&mut self, out: &mut Vec<u8>, kind: &str, members: impl FnOnce(&mut Vec<u8>)) {
        if !self.enabled {
            return;
        }
        head(out, kind);
        out.extend_from_slice(b"\"sequence_number\":");
        self.number(out);
        members(out);
        out.extend_from_slice(b"}\n\n");
    }

    fn number(&mut self, out: &mut Vec<u8>) {
        push_number(out, self.next);
        self.next += 1;
    }
}

/// `event: T\ndata: {"type":T,`
fn head(out: &mut Vec<u8>, kind: &str) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\ndata: {\"type\":");
    push_literal(out, kind);
    out.push(b',');
}

/// `,"name":"escaped"`
fn push_member(out: &mut Vec<u8>, name: &str, escaped: &str) {
    out.push(b',');
    push_literal(out, name);
    out.push(b':');
    push_literal(out, escaped);
}

/// What kinds of text stream in parts, and how their events are called (WIRE.md 5).
#[derive(Debug)]
pub(super) struct Family {
    /// Its part's events: `added` and `done`.
    part: [&'static str; 2],
    /// Its text's events: `delta` and `done`.
    text: [&'static str; 2],
    index: &'static str,
    kind: &'static str,
    field: &'static str,
    /// Whether its parts stand in the item's `summary`, not in its `content`.
    summary: bool,
}

/// They are told apart by their kinds, at every token.
impl PartialEq for Family {
    fn eq(&self, other: &Family) -> bool {
        self.kind == other.kind
    }
}

/// A message's text.
pub(super) const OUTPUT_TEXT: Family = Family {
    part: ["response.content_part.added", "response.content_part.done"],
    text: ["response.output_text.delta", "response.output_text.done"],
    index: "content_index",
    kind: "output_text",
    field: "text",
    summary: false,
};
/// A message's refusal.
pub(super) const REFUSAL: Family = Family {
    part: ["response.content_part.added", "response.content_part.done"],
    text: ["response.refusal.delta", "response.refusal.done"],
    index: "content_index",
    kind: "refusal",
    field: "refusal",
    summary: false,
};
/// Reasoning shown as its summary.
pub(super) const SUMMARY: Family = Family {
    part: ["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"],
    text: ["response.reasoning_summary_text.delta", "response.reasoning_summary_text.done"],
    index: "summary_index",
    kind: "summary_text",
    field: "text",
    summary: true,
};
/// Reasoning shown as itself.
pub(super) const REASONING_TEXT: Family = Family {
    part: ["response.content_part.added", "response.content_part.done"],
    text: ["response.reasoning_text.delta", "response.reasoning_text.done"],
    index: "content_index",
    kind: "reasoning_text",
    field: "text",
    summary: false,
};

/// What an open item is.
#[derive(Debug)]
pub(super) enum Kind {
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
pub(super) struct Call {
    /// Index into the transcoder's calls.
    pub slot: usize,
    /// Whether it is a `custom_tool_call`.
    pub custom: bool,
    pub name: String,
    pub namespace: Option<String>,
    pub call_id: String,
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
    json: Vec<u8>,
    count: u64,
}

/// Adds `text` to what may be nothing yet.
pub(super) fn join(all: &mut String, text: String) {
    match all.is_empty() {
        true => *all = text,
        false => all.push_str(&text),
    }
}

/// One open item. What every piece of text touches comes first, see `Transcoder`.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Open {
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
    said: String,
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
            said: String::new(),
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
        events.write(out, "response.output_item.added", |out| open.item_member(out, "in_progress"));
        if let Kind::Call(call) = &open.kind {
            let [delta, _] = call.events();
            open.set_prefix(events, delta, None);
        }
        open
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
            self.part_json(out, family, "");
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
    /// `output_text`. A call that was cut off gets no `arguments.done` (WIRE.md 10).
    pub fn end(mut self, events: &mut Events, out: &mut Vec<u8>, cut: bool) -> (String, String) {
        let length = self.text.len() + self.content.json.len() + self.summary.json.len() + 256;
        // so often it is written; growing by doubling, `out` would be moved, and be there twice itself
        if events.enabled {
            out.reserve_exact(if self.has_part() { 3 } else { 2 } * length);
        }
        self.end_part(events, out);
        if !cut && let Kind::Call(call) = &self.kind {
            let [_, done] = call.events();
            events.write(out, done, |out| {
                self.position(out, None);
                if !call.custom {
                    out.extend_from_slice(b",\"name\":");
                    push_literal(out, &call.name);
                }
                push_member(out, call.field(), &self.text);
            });
        }
        let status = if cut { "incomplete" } else { "completed" };
        let mut written = None;
        events.write(out, "response.output_item.done", |out| {
            out.extend_from_slice(b",\"output_index\":");
            push_number(out, self.index);
            out.extend_from_slice(b",\"item\":");
            let from = out.len();
            self.item_json(out, status);
            written = Some(from..out.len());
        });
        let said = std::mem::take(&mut self.said);
        let json = match written.and_then(|range| out.get(range)) {
            Some(json) => {
                // what it was made of goes before the copy comes: a long text is in memory often enough
                drop(self);
                json.to_vec()
            }
            None => {
                let mut json = Vec::with_capacity(length);
                self.item_json(&mut json, status);
                json
            }
        };
        (String::from_utf8(json).unwrap_or_default(), said)
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

    /// How many annotations the open part has.
    pub fn annotated(&self) -> u64 {
        self.annotated
    }

    /// Closes the open part, if one is.
    pub fn end_part(&mut self, events: &mut Events, out: &mut Vec<u8>) {
        let Some(family) = self.family.take() else { return };
        let ([_, part_done], [_, text_done]) = (family.part, family.text);
        events.write(out, text_done, |out| {
            self.position(out, Some(family));
            if *family == OUTPUT_TEXT {
                out.extend_from_slice(b",\"logprobs\":[");
                out.extend_from_slice(self.logprobs.as_bytes());
                out.push(b']');
            }
            push_member(out, family.field, &self.text);
        });
        let parts = if family.summary { &mut self.summary } else { &mut self.content };
        let mut json = std::mem::take(&mut parts.json);
        json.reserve(self.text.len() + 80);
        if parts.count > 0 {
            json.push(b',');
        }
        let from = json.len();
        self.part_json(&mut json, family, &self.logprobs);
        events.write(out, part_done, |out| {
            self.position(out, Some(family));
            out.extend_from_slice(b",\"part\":");
            match self.logprobs.is_empty() {
                true => out.extend_from_slice(json.get(from..).unwrap_or_default()),
                // OpenAI's has none here; `output_text.done` had them
                false => self.part_json(out, family, ""),
            }
        });
        let parts = if family.summary { &mut self.summary } else { &mut self.content };
        parts.json = json;
        parts.count += 1;
        match *family == OUTPUT_TEXT {
            true => join(&mut self.said, std::mem::take(&mut self.text)),
            false => self.text.clear(),
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

    fn part_json(&self, out: &mut Vec<u8>, family: &Family, logprobs: &str) {
        out.extend_from_slice(b"{\"type\":");
        push_literal(out, family.kind);
        push_member(out, family.field, &self.text);
        if *family == OUTPUT_TEXT {
            out.extend_from_slice(b",\"annotations\":[");
            out.extend_from_slice(self.annotations.as_bytes());
            out.extend_from_slice(b"],\"logprobs\":[");
            out.extend_from_slice(logprobs.as_bytes());
            out.push(b']');
        }
        out.push(b'}');
    }

    fn item_member(&self, out: &mut Vec<u8>, status: &str) {
        out.extend_from_slice(b",\"output_index\":");
        push_number(out, self.index);
        out.extend_from_slice(b",\"item\":");
        self.item_json(out, status);
    }

    fn item_json(&self, out: &mut Vec<u8>, status: &str) {
        out.extend_from_slice(b"{\"id\":");
        push_literal(out, &self.id);
        out.extend_from_slice(b",\"type\":");
        push_literal(
            out,
            match &self.kind {
                Kind::Message => "message",
                Kind::Reasoning => "reasoning",
                Kind::Call(call) if call.custom => "custom_tool_call",
                Kind::Call(_) | Kind::Held { .. } => "function_call",
                Kind::Compaction { .. } => "compaction",
                Kind::Whole { kind, .. } => kind,
            },
        );
        if let Kind::Compaction { blob } = &self.kind {
            out.extend_from_slice(b",\"encrypted_content\":");
            push_string(out, blob);
            out.push(b'}');
            return;
        }
        out.extend_from_slice(b",\"status\":");
        push_literal(out, status);
        match &self.kind {
            Kind::Message => {
                out.extend_from_slice(b",\"role\":\"assistant\",\"content\":[");
                out.extend_from_slice(&self.content.json);
                out.push(b']');
            }
            Kind::Reasoning => {
                out.extend_from_slice(b",\"summary\":[");
                out.extend_from_slice(&self.summary.json);
                out.push(b']');
                // summary is always there; content only where the text itself is shown
                if self.content.count > 0 {
                    out.extend_from_slice(b",\"content\":[");
                    out.extend_from_slice(&self.content.json);
                    out.push(b']');
                }
            }
            Kind::Call(call) => {
                push_member(out, call.field(), &self.text);
                out.extend_from_slice(b",\"call_id\":");
                push_literal(out, &call.call_id);
                out.extend_from_slice(b",\"name\":");
                push_literal(out, &call.name);
                if let Some(namespace) = &call.namespace {
                    out.extend_from_slice(b",\"namespace\":");
                    push_literal(out, namespace);
                }
            }
            Kind::Held { .. } | Kind::Compaction { .. } => {}
            Kind::Whole { call_id, members, .. } => {
                out.extend_from_slice(b",\"call_id\":");
                push_literal(out, call_id);
                out.extend_from_slice(members.as_bytes());
            }
        }
        out.extend_from_slice(self.extra.as_bytes());
        if let Some(sealed) = &self.sealed {
            out.extend_from_slice(b",\"encrypted_content\":");
            push_string(out, sealed);
        }
        out.push(b'}');
    }
}
