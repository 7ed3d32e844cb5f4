//! Owns the request to a server that speaks Responses itself: the client's own body without what such a server rejects,
//! or, for a server that knows only functions, the same history and tools as plain items. It must not send anything.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::compaction::{SUMMARY_INTRODUCTION, Summary};
use crate::fields::present;
use crate::ids;
use crate::large_buffer;
use crate::request::content::{self, Piece};
use crate::request::history::{Assistant, Entry, Role};
use crate::request::messages::{self, ABORTED};
use crate::responses_profile::ResponsesProfile;
use crate::sealing::{Purpose, Seal};
use crate::wire::json::{self, push_literal, push_string};
use crate::wire::request::{InputItem, Item, fields};

/// Fields that are never sent: this proxy keeps the state, and `input` contains what they refer to. `generate`, `stream_id`
/// and `type` are those of an event on a WebSocket.
pub const NEVER_SENT: [&str; 9] = [
    "background",
    "client_metadata",
    "conversation",
    "generate",
    "previous_response_id",
    "store",
    "stream_id",
    "stream_options",
    "type",
];

/// The body for a server with full Responses support: the client's members in their order, unchanged, without
/// [`NEVER_SENT`] and those that the server rejects. `request` is the client's JSON object; `input` replaces its own,
/// see [`input`].
pub fn full_body(
    request: &str,
    model: &str,
    stream: bool,
    input: Option<&str>,
    native: &ResponsesProfile,
) -> Vec<u8> {
    let members = json::members(request).unwrap_or_default();
    let own = members.iter().filter(|(key, _)| input.is_some() && key == "input");
    let own: usize = own.map(|(_, value)| value.get().len()).sum();
    let mut out = Vec::with_capacity(large_buffer::capacity(
        request.len() - own + input.map_or(0, str::len) + model.len() + 64,
    ));
    out.extend_from_slice(b"{\"model\":");
    push_string(&mut out, model);
    let mut input = input;
    for (key, value) in members {
        match &*key {
            "model" | "stream" => {}
            key if NEVER_SENT.contains(&key) || native.rejects.contains(&key) => {}
            key => {
                push_key(&mut out, key);
                // at its place in the client's body
                let own = if key == "input" { input.take() } else { None };
                out.extend_from_slice(own.unwrap_or(value.get()).as_bytes());
            }
        }
    }
    if let Some(input) = input {
        push_key(&mut out, "input");
        out.extend_from_slice(input.as_bytes());
    }
    end(&mut out, stream, native);
    out
}

/// The `input` array of `items` (those of earlier turns and the request's own, with references resolved), followed by
/// `text` (the literal of a string input) and `prompt` as user messages. Items sealed by this proxy are opened, since
/// no server can. `None`: nothing to add to the request's own input.
pub fn input(
    items: &[&InputItem<'_>],
    text: Option<&RawValue>,
    seal: Option<&dyn Seal>,
    prompt: Option<&str>,
) -> Option<String> {
    if items.is_empty() && prompt.is_none() {
        return None;
    }
    let mut all: Vec<Cow<'_, str>> = Vec::with_capacity(items.len() + 2);
    for (item, _) in items {
        match seal.and_then(|seal| unsealed(item, seal)) {
            Some(Unsealed { item, replaces }) => {
                if replaces {
                    all.clear();
                }
                all.push(Cow::Owned(item));
            }
            None => all.push(Cow::Borrowed(item.get())),
        }
    }
    let user_message =
        |literal: &str| format!("{{\"type\":\"message\",\"role\":\"user\",\"content\":{literal}}}");
    all.extend(text.map(|text| Cow::Owned(user_message(text.get()))));
    all.extend(prompt.map(|prompt| Cow::Owned(user_message(&literal(prompt)))));
    let mut input = String::with_capacity(all.iter().map(|item| item.len() + 1).sum::<usize>() + 1);
    for item in &all {
        input.push(if input.is_empty() { '[' } else { ',' });
        input.push_str(item);
    }
    input.push(']');
    Some(input)
}

/// What replaces an item that this proxy sealed.
struct Unsealed {
    item: String,
    /// Whether it replaces everything before it.
    replaces: bool,
}

fn unsealed(item: &RawValue, seal: &dyn Seal) -> Option<Unsealed> {
    // cheap test first: hardly any item is sealed
    if !item.get().contains("\"encrypted_content\"") {
        return None;
    }
    let read: Item<'_> = fields(item)?;
    let blob = present(read.encrypted_content).and_then(json::decode)?;
    match &*present(read.r#type).and_then(json::decode)? {
        "reasoning" => {
            seal.open(Purpose::Reasoning, &blob)?;
            // its readable text stays; sealed text without one was not meant to be seen
            let mut out = b"{\"type\":\"reasoning\"".to_vec();
            for (key, value) in json::members(item.get()).unwrap_or_default() {
                if !matches!(&*key, "type" | "id" | "encrypted_content") {
                    push_key(&mut out, &key);
                    out.extend_from_slice(value.get().as_bytes());
                }
            }
            out.push(b'}');
            Some(Unsealed { item: String::from_utf8(out).ok()?, replaces: false })
        }
        _ => {
            let summary = Summary::read(&seal.open(Purpose::Compaction, &blob)?)?;
            let text = literal(&format!("{SUMMARY_INTRODUCTION}{}", summary.text));
            let item = format!("{{\"type\":\"message\",\"role\":\"user\",\"content\":{text}}}");
            Some(Unsealed { item, replaces: summary.replaces })
        }
    }
}

fn literal(text: &str) -> String {
    format!("\"{}\"", json::escape(text))
}

/// Appends `store` and `stream`. `store` is always false: this proxy stores responses itself, and the Codex backend
/// accepts nothing else.
pub(crate) fn end(out: &mut Vec<u8>, stream: bool, native: &ResponsesProfile) {
    out.extend_from_slice(b",\"store\":false,\"stream\":");
    out.extend_from_slice(if stream || native.streams_only { b"true}" } else { b"false}" });
}

/// Appends the `input` array for a server that knows only plain items: the same messages in the same order and with the
/// same words as for a chat server.
pub(crate) fn write_plain(out: &mut Vec<u8>, entries: &[Entry<'_>]) {
    let mut items = Items { out, count: 0 };
    items.out.push(b'[');
    for entry in entries {
        match entry {
            Entry::Prompt(role, pieces) => items.prompt(*role, pieces),
            Entry::Assistant(assistant) => items.turn(assistant),
        }
    }
    items.out.push(b']');
}

/// Writes items, numbered because vLLM requires ids for messages and reasoning.
struct Items<'o> {
    out: &'o mut Vec<u8>,
    count: usize,
}

impl Items<'_> {
    fn begin(&mut self, kind: &str) {
        if self.count > 0 {
            self.out.push(b',');
        }
        self.count += 1;
        self.out.extend_from_slice(b"{\"type\":");
        push_string(self.out, kind);
    }

    fn id(&mut self, prefix: &str) {
        push_key(self.out, "id");
        push_string(self.out, &format!("{prefix}{}", self.count));
    }

    fn prompt(&mut self, role: Role, pieces: &[Piece<'_>]) {
        self.begin("message");
        push_key(self.out, "role");
        push_string(self.out, role.name());
        push_key(self.out, "content");
        self.out.push(b'[');
        for (n, piece) in pieces.iter().enumerate() {
            if n > 0 {
                self.out.push(b',');
            }
            self.piece(piece);
        }
        self.out.extend_from_slice(b"]}");
    }

    fn piece(&mut self, piece: &Piece<'_>) {
        let out = &mut *self.out;
        match piece {
            Piece::Text(_) | Piece::Quoted(_) => {
                out.extend_from_slice(b"{\"type\":\"input_text\",\"text\":\"");
                piece.push_text(out);
                out.push(b'"');
            }
            Piece::Image { url, detail } => {
                out.extend_from_slice(b"{\"type\":\"input_image\",\"image_url\":");
                push_literal(out, url);
                out.extend_from_slice(b",\"detail\":");
                push_literal(out, detail.unwrap_or("auto"));
            }
            Piece::Audio(audio) => {
                out.extend_from_slice(b"{\"type\":\"input_audio\",\"input_audio\":");
                out.extend_from_slice(audio.get().as_bytes());
            }
        }
        out.push(b'}');
    }

    /// Appends reasoning, message and calls, then the outputs of the calls and the images in them.
    fn turn(&mut self, assistant: &Assistant<'_>) {
        let Assistant { reasoning, text, calls } = assistant;
        if !reasoning.iter().all(Piece::is_empty) {
            self.begin("reasoning");
            self.id(ids::REASONING);
            self.out
                .extend_from_slice(b",\"summary\":[],\"content\":[{\"type\":\"reasoning_text\",\"text\":");
            content::write_text(self.out, reasoning.iter(), "\\n\\n");
            self.out.extend_from_slice(b"}]}");
        }
        if !text.iter().all(Piece::is_empty) {
            self.begin("message");
            self.id(ids::MESSAGE);
            self.out.extend_from_slice(b",\"role\":\"assistant\",\"status\":\"completed\",\"content\":");
            self.out.extend_from_slice(b"[{\"type\":\"output_text\",\"annotations\":[],\"text\":");
            content::write_text(self.out, text.iter(), "");
            self.out.extend_from_slice(b"}]}");
        }
        for call in calls {
            self.begin("function_call");
            for (key, value) in [("call_id", &call.id), ("name", &call.name)] {
                push_key(self.out, key);
                push_literal(self.out, value);
            }
            push_key(self.out, "arguments");
            self.out.push(b'"');
            call.arguments.push_text(self.out);
            self.out.extend_from_slice(b"\"}");
        }
        let mut seen: Vec<Piece<'_>> = Vec::new();
        for call in calls {
            self.begin("function_call_output");
            push_key(self.out, "call_id");
            push_literal(self.out, &call.id);
            push_key(self.out, "output");
            match &call.output {
                None => push_string(self.out, ABORTED),
                Some(pieces) => messages::write_output(self.out, pieces, &call.id, &mut seen),
            }
            self.out.push(b'}');
        }
        if !seen.is_empty() {
            self.prompt(Role::User, &seen);
        }
    }
}

fn push_key(out: &mut Vec<u8>, key: &str) {
    out.push(b',');
    push_string(out, key);
    out.push(b':');
}
