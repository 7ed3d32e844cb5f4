//! Owns the request to a server that speaks Responses itself: the client's own body, less what such a server rejects,
//! or, for one that knows functions alone, the same history and tools in its words. It must not send anything.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::content::Piece;
use super::history::{Assistant, Entry, Role};
use super::messages::{self, ABORTED};
use super::plan::PlanOptions;
use crate::wire::json::{self, compact, push_literal, push_string};

/// How a kind of server takes Responses requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Native {
    /// Path of its endpoint, behind the base URL.
    pub path: &'static str,
    /// Whether it knows function tools and plain items alone: tools are flattened to functions, and calls of them
    /// mapped back, as for a chat server.
    pub functions: bool,
    /// Whether it takes some fields under their Chat Completions names alone.
    pub chat_fields: bool,
    /// Whether it refuses a request without `stream: true`.
    pub streams_only: bool,
    /// Fields that it rejects, besides those that are never sent ([`OURS`]).
    pub rejects: &'static [&'static str],
}

/// llama-server b11434 and xllamacpp 2026.10: answers 400 for items that are no message, call, output or reasoning,
/// drops tools that are no functions, ignores `text.format` and reads `response_format`.
pub const LLAMA_SERVER: Native =
    Native { path: "/v1/responses", functions: true, chat_fields: true, streams_only: false, rejects: &[] };

/// vLLM 0.32 and 0.33.
pub const VLLM: Native =
    Native { path: "/v1/responses", functions: true, chat_fields: false, streams_only: false, rejects: &[] };

/// A server that speaks Responses as OpenAI documents it.
pub const WHOLE: Native =
    Native { path: "/v1/responses", functions: false, chat_fields: false, streams_only: false, rejects: &[] };

/// The backend of Codex with a ChatGPT login, which answers 400 "Unsupported parameter" to whatever Codex itself does
/// not send (pydantic-ai#6433, sub2api#589, ChatMock#103), and serves streams alone.
pub const CODEX_BACKEND: Native = Native {
    path: "/responses",
    functions: false,
    chat_fields: false,
    streams_only: true,
    rejects: &[
        "frequency_penalty",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "presence_penalty",
        "prompt_cache_retention",
        "safety_identifier",
        "temperature",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    ],
};

impl Native {
    /// The kind of the server at `base`, whose dialect has that name.
    pub fn of(dialect: &str, base: &str) -> &'static Native {
        match dialect {
            _ if base.ends_with("/backend-api/codex") => &CODEX_BACKEND,
            "llama_server" => &LLAMA_SERVER,
            "vllm" => &VLLM,
            _ => &WHOLE,
        }
    }
}

/// Fields that are never sent: the state is ours, and what they name is in `input` by then.
pub const OURS: [&str; 6] =
    ["background", "client_metadata", "conversation", "previous_response_id", "store", "stream_options"];

/// The body for a server that speaks Responses well: the client's, byte for byte and in its order, less [`OURS`] and
/// what the server rejects. `request` is the client's JSON object, `earlier` the items of the turns before, which come
/// first in `input`.
pub fn whole(request: &str, model: &str, stream: bool, earlier: &[&RawValue], native: &Native) -> Vec<u8> {
    let mut out = Vec::with_capacity(request.len() + 64);
    out.extend_from_slice(b"{\"model\":");
    push_string(&mut out, model);
    let mut input = None;
    for (key, value) in json::members(request).unwrap_or_default() {
        match &*key {
            "input" => {
                input = Some(value);
                // where the client had it
                push_key(&mut out, "input");
                write_input(&mut out, Some(value), earlier);
            }
            "model" | "stream" => {}
            key if OURS.contains(&key) || native.rejects.contains(&key) => {}
            key => {
                push_key(&mut out, key);
                out.extend_from_slice(value.get().as_bytes());
            }
        }
    }
    if input.is_none() && !earlier.is_empty() {
        push_key(&mut out, "input");
        write_input(&mut out, None, earlier);
    }
    end(&mut out, stream, native);
    out
}

fn write_input(out: &mut Vec<u8>, input: Option<&RawValue>, earlier: &[&RawValue]) {
    let given = input.map_or("[]", RawValue::get);
    if earlier.is_empty() {
        return out.extend_from_slice(given.as_bytes());
    }
    out.push(b'[');
    for (n, item) in earlier.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(compact(item.get()).as_bytes());
    }
    if given.starts_with('"') {
        out.extend_from_slice(b",{\"type\":\"message\",\"role\":\"user\",\"content\":");
        out.extend_from_slice(given.as_bytes());
        out.push(b'}');
    } else if let Some(inside) = given.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        && !inside.trim().is_empty()
    {
        out.push(b',');
        out.extend_from_slice(inside.as_bytes());
    }
    out.push(b']');
}

/// `store` is always false: what is kept is kept by us, and the Codex backend takes nothing else.
pub(super) fn end(out: &mut Vec<u8>, stream: bool, native: &Native) {
    out.extend_from_slice(b",\"store\":false,\"stream\":");
    out.extend_from_slice(if stream || native.streams_only { b"true}" } else { b"false}" });
}

/// Appends the `input` array for a server that knows plain items alone: the same messages, in the same order and with
/// the same words, as a chat server would get.
pub(super) fn write_plain(
    out: &mut Vec<u8>,
    instructions: Option<&RawValue>,
    entries: Vec<Entry<'_>>,
    options: &PlanOptions<'_>,
) {
    let entries = messages::arrange(instructions, entries, options);
    let mut items = Items { out, count: 0 };
    items.out.push(b'[');
    for entry in &entries {
        match entry {
            Entry::Prompt(role, pieces) => items.prompt(*role, pieces),
            Entry::Assistant(assistant) => items.turn(assistant),
        }
    }
    items.out.push(b']');
}

/// Writes items, numbered, since vLLM wants ids of messages and reasoning.
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
            Piece::Text(text) => {
                out.extend_from_slice(b"{\"type\":\"input_text\",\"text\":");
                push_literal(out, text);
            }
            Piece::Image { url, detail } => {
                out.extend_from_slice(b"{\"type\":\"input_image\",\"image_url\":");
                push_literal(out, url);
                out.extend_from_slice(b",\"detail\":");
                push_literal(out, detail.as_deref().unwrap_or("auto"));
            }
            Piece::Audio(audio) => {
                out.extend_from_slice(b"{\"type\":\"input_audio\",\"input_audio\":");
                out.extend_from_slice(audio.get().as_bytes());
            }
        }
        out.push(b'}');
    }

    /// Reasoning, message, calls, then the outputs of the calls and the images in them.
    fn turn(&mut self, assistant: &Assistant<'_>) {
        let joined = |texts: &[Cow<'_, str>]| {
            let texts: Vec<&str> = texts.iter().map(|text| &**text).filter(|text| !text.is_empty()).collect();
            texts.join("\\n\\n")
        };
        let reasoning = joined(&assistant.reasoning);
        if !reasoning.is_empty() {
            self.begin("reasoning");
            self.id("rs_");
            self.out
                .extend_from_slice(b",\"summary\":[],\"content\":[{\"type\":\"reasoning_text\",\"text\":");
            push_literal(self.out, &reasoning);
            self.out.extend_from_slice(b"}]}");
        }
        let text = joined(&assistant.text);
        if !text.is_empty() {
            self.begin("message");
            self.id("msg_");
            self.out.extend_from_slice(b",\"role\":\"assistant\",\"status\":\"completed\",\"content\":");
            self.out.extend_from_slice(b"[{\"type\":\"output_text\",\"annotations\":[],\"text\":");
            push_literal(self.out, &text);
            self.out.extend_from_slice(b"}]}");
        }
        for call in &assistant.calls {
            self.begin("function_call");
            for (key, value) in [("call_id", &call.id), ("name", &call.name), ("arguments", &call.arguments)]
            {
                push_key(self.out, key);
                push_literal(self.out, value);
            }
            self.out.push(b'}');
        }
        let mut seen: Vec<Piece<'_>> = Vec::new();
        for call in &assistant.calls {
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
