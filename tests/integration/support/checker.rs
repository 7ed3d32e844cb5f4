//! The judge of whole event streams: [`check`] holds the protocol and the rules of the house against the text that a
//! client would receive, [`judge_async_openai`] has an independent client parse it.
//!
//! It follows a stream from its text alone and shares no code with what it judges. A violation reads
//! `#<event> <type> [<rule>] <what>`; rules keep their names.

#![allow(clippy::indexing_slicing, reason = "an absent member of a JSON value reads as null")]
use std::collections::{HashMap, HashSet};
use std::fmt::Display;

use serde_json::{Map, Value};

/// Every violation of the protocol or of the house's rules in a complete stream of SSE text.
pub fn check(sse_text: &str) -> Vec<String> {
    let mut check = Check::default();
    for frame in frames(sse_text) {
        check.frame(&frame);
    }
    if !sse_text.is_empty() && !sse_text.ends_with("\n\n") {
        check.bad("sse.unterminated", "the last frame is not closed by an empty line");
    }
    check.finish();
    check.violations
}

/// What the crate async-openai cannot read of the same text.
pub fn judge_async_openai(sse_text: &str) -> Vec<String> {
    use async_openai::types::responses::{Response, ResponseStreamEvent};

    let mut violations = Vec::new();
    for (at, frame) in frames(sse_text).iter().enumerate() {
        let Some(data) = frame.data().filter(|data| *data != DONE) else { continue };
        if let Err(error) = serde_json::from_str::<ResponseStreamEvent>(data) {
            violations.push(format!("#{at} [async-openai.event] {error}: {}", clip(data)));
        }
        let snapshot =
            serde_json::from_str::<Value>(data).ok().and_then(|event| event.get("response").cloned());
        if let Some(Err(error)) = snapshot.map(serde_json::from_value::<Response>) {
            violations.push(format!("#{at} [async-openai.response] {error}: {}", clip(data)));
        }
    }
    violations
}

const DONE: &str = "[DONE]";

/// The fields that every snapshot carries, and whether they may be null.
const SNAPSHOT: [(&str, bool); 31] = [
    ("id", false),
    ("object", false),
    ("created_at", false),
    ("completed_at", true),
    ("status", false),
    ("background", false),
    ("error", true),
    ("incomplete_details", true),
    ("instructions", true),
    ("max_output_tokens", true),
    ("max_tool_calls", true),
    ("model", false),
    ("output", false),
    ("parallel_tool_calls", false),
    ("presence_penalty", false),
    ("frequency_penalty", false),
    ("previous_response_id", true),
    ("prompt_cache_key", true),
    ("reasoning", true),
    ("safety_identifier", true),
    ("service_tier", false),
    ("store", false),
    ("temperature", false),
    ("text", false),
    ("tool_choice", false),
    ("tools", false),
    ("top_logprobs", false),
    ("top_p", false),
    ("truncation", false),
    ("usage", true),
    ("metadata", true),
];
/// The fields of a snapshot that may change from `response.created` to the terminal event.
const CHANGING: [&str; 8] = [
    "status",
    "completed_at",
    "error",
    "incomplete_details",
    "output",
    "output_text",
    "usage",
    "service_tier",
];
const PREFIXES: [(&str, &str); 11] = [
    ("web_search_call", "ws_"),
    ("mcp_list_tools", "mcpl_"),
    ("message", "msg_"),
    ("reasoning", "rs_"),
    ("function_call", "fc_"),
    ("custom_tool_call", "ctc_"),
    ("tool_search_call", "tsc_"),
    ("local_shell_call", "lsh_"),
    ("shell_call", "sh_"),
    ("apply_patch_call", "apc_"),
    ("compaction", "cmp_"),
];

/// The required fields of the events beside `type` and `sequence_number`: `#` an index, `"` a string, `{` an object,
/// `[` an array.
const SHAPES: &[(&str, &str)] = &[
    ("response.created", "{response"),
    ("response.queued", "{response"),
    ("response.in_progress", "{response"),
    ("response.completed", "{response"),
    ("response.incomplete", "{response"),
    ("response.failed", "{response"),
    ("response.output_item.added", "#output_index {item"),
    ("response.output_item.done", "#output_index {item"),
    ("response.content_part.added", "\"item_id #output_index #content_index {part"),
    ("response.content_part.done", "\"item_id #output_index #content_index {part"),
    ("response.output_text.delta", "\"item_id #output_index #content_index \"delta [logprobs"),
    ("response.output_text.done", "\"item_id #output_index #content_index \"text [logprobs"),
    (
        "response.output_text.annotation.added",
        "\"item_id #output_index #content_index #annotation_index {annotation",
    ),
    ("response.refusal.delta", "\"item_id #output_index #content_index \"delta"),
    ("response.refusal.done", "\"item_id #output_index #content_index \"refusal"),
    ("response.reasoning_summary_part.added", "\"item_id #output_index #summary_index {part"),
    ("response.reasoning_summary_part.done", "\"item_id #output_index #summary_index {part"),
    ("response.reasoning_summary_text.delta", "\"item_id #output_index #summary_index \"delta"),
    ("response.reasoning_summary_text.done", "\"item_id #output_index #summary_index \"text"),
    ("response.reasoning_text.delta", "\"item_id #output_index #content_index \"delta"),
    ("response.reasoning_text.done", "\"item_id #output_index #content_index \"text"),
    ("response.function_call_arguments.delta", "\"item_id #output_index \"delta"),
    ("response.function_call_arguments.done", "\"item_id #output_index \"arguments"),
    ("response.custom_tool_call_input.delta", "\"item_id #output_index \"delta"),
    ("response.custom_tool_call_input.done", "\"item_id #output_index \"input"),
    ("response.web_search_call.in_progress", "\"item_id #output_index"),
    ("response.web_search_call.searching", "\"item_id #output_index"),
    ("response.web_search_call.completed", "\"item_id #output_index"),
    ("response.mcp_list_tools.in_progress", "\"item_id #output_index"),
    ("response.mcp_list_tools.completed", "\"item_id #output_index"),
    ("response.compaction.compacting", "\"item_id #output_index"),
    ("error", "\"message {error"),
];

/// Text that is streamed: base of the event types, type of the item, type of the part (empty: the text belongs to the
/// item itself), field that holds the whole of it.
const TEXTS: [(&str, &str, &str, &str); 6] = [
    ("response.output_text", "message", "output_text", "text"),
    ("response.refusal", "message", "refusal", "refusal"),
    ("response.reasoning_text", "reasoning", "reasoning_text", "text"),
    ("response.reasoning_summary_text", "reasoning", "summary_text", "text"),
    ("response.function_call_arguments", "function_call", "", "arguments"),
    ("response.custom_tool_call_input", "custom_tool_call", "", "input"),
];

/// What stands between two empty lines.
struct Frame<'a>(&'a str);

#[derive(Default)]
struct Check {
    violations: Vec<String>,
    at: usize,
    kind: String,
    expected: u64,
    created: Option<Value>,
    in_progress: bool,
    items: Vec<Item>,
    ids: HashMap<String, String>,
    call_ids: HashSet<String>,
    error: Option<Value>,
    terminal: Option<String>,
    ended: bool,
}

#[derive(Default)]
struct Item {
    added: Value,
    done: Option<Value>,
    text: Text,
    content: Vec<Part>,
    summary: Vec<Part>,
}

#[derive(Default)]
struct Part {
    added: Value,
    done: Option<Value>,
    text: Text,
    annotations: Vec<Value>,
}

/// A text as its deltas built it, and as its `done` event gave it.
#[derive(Default)]
struct Text {
    so_far: String,
    logprobs: Vec<Value>,
    whole: Option<String>,
}

fn frames(text: &str) -> Vec<Frame<'_>> {
    text.split_terminator("\n\n").map(Frame).collect()
}

impl<'a> Frame<'a> {
    fn is_comment(&self) -> bool {
        self.0.lines().all(|line| line.starts_with(':'))
    }

    fn event(&self) -> Option<&'a str> {
        self.0.split('\n').find_map(|line| line.strip_prefix("event: "))
    }

    fn data(&self) -> Option<&'a str> {
        self.0.split('\n').find_map(|line| line.strip_prefix("data: "))
    }
}

impl Check {
    fn bad(&mut self, rule: &str, what: impl Display) {
        let kind = if self.kind.is_empty() { "?" } else { &self.kind };
        self.violations.push(format!("#{} {kind} [{rule}] {what}", self.at));
    }

    fn that(&mut self, holds: bool, rule: &str, what: impl Display) {
        if !holds {
            self.bad(rule, what);
        }
    }

    fn same(&mut self, rule: &str, what: &str, got: &Value, expected: &Value) {
        if let Some(difference) = difference(got, expected, "") {
            self.bad(rule, format_args!("{what}: {difference}"));
        }
    }

    fn frame(&mut self, frame: &Frame) {
        if frame.is_comment() {
            self.that(!self.ended, "sse.after_done", "a comment after [DONE]");
            return;
        }
        self.kind = frame.event().unwrap_or_default().into();
        self.that(!self.ended, "sse.after_done", "a frame after [DONE]");
        match frame.data() {
            None => self.bad("sse.no_data", clip(frame.0)),
            Some(DONE) => {
                self.kind = "(done)".into();
                self.that(frame.0 == "data: [DONE]", "sse.lines", clip(frame.0));
                self.that(self.terminal.is_some(), "sse.done_early", "[DONE] before a terminal event");
                self.ended = true;
            }
            Some(data) => {
                let name = frame.event().unwrap_or_default();
                let expected = format!("event: {name}\ndata: {data}");
                self.that(frame.0 == expected, "sse.lines", format_args!("not two lines: {}", clip(frame.0)));
                match serde_json::from_str::<Value>(data) {
                    Ok(event) if event.is_object() => self.event(name, &event),
                    Ok(_) => self.bad("sse.json", format_args!("not an object: {}", clip(data))),
                    Err(error) => self.bad("sse.json", format_args!("{error}: {}", clip(data))),
                }
            }
        }
        self.at += 1;
    }

    fn event(&mut self, name: &str, event: &Value) {
        let kind = text(event, "type");
        self.that(name == kind, "sse.event", format_args!("`event: {name}`, but the type is {kind:?}"));
        self.kind = kind.into();
        if let Some(terminal) = &self.terminal {
            self.bad("life.after_terminal", format!("after {terminal}"));
        }
        match event.get("sequence_number").and_then(Value::as_u64) {
            Some(number) if number == self.expected => {}
            _ => self.bad("sequence", format!("{}, expected {}", event["sequence_number"], self.expected)),
        }
        self.expected += 1;
        if !self.shape(kind, event) {
            return;
        }
        self.that(self.at != 0 || kind == "response.created", "life.first", "response.created comes first");
        if let Some(response) = event.get("response") {
            self.snapshot(kind, response);
        } else if kind == "error" {
            self.error_event(event);
        } else {
            self.that(self.in_progress, "life.early", "before response.in_progress");
            self.that(self.error.is_none(), "life.after_error", "only response.failed may follow an error");
            match kind {
                "response.output_item.added" => self.item_added(event),
                "response.output_item.done" => self.item_done(event),
                _ => self.item_event(kind, event),
            }
        }
    }

    /// Whether the event has what its type requires, so that the rest can rely on it.
    fn shape(&mut self, kind: &str, event: &Value) -> bool {
        let Some((_, fields)) = SHAPES.iter().find(|(known, _)| *known == kind) else {
            self.bad("type.unknown", "unknown event type");
            return false;
        };
        let before = self.violations.len();
        for field in fields.split(' ') {
            let (is, name) = field.split_at(1);
            let value = &event[name];
            let fits = match is {
                "#" => value.is_u64(),
                "\"" => value.is_string(),
                "{" => value.is_object(),
                _ => value.is_array(),
            };
            self.that(fits, "shape", format_args!("{name} is {value}"));
        }
        before == self.violations.len()
    }

    // the response

    fn snapshot(&mut self, kind: &str, response: &Value) {
        for (name, nullable) in SNAPSHOT {
            match response.get(name) {
                None => self.bad("response.missing", name),
                Some(Value::Null) if !nullable => self.bad("response.null", name),
                Some(_) => {}
            }
        }
        for name in ["created_at", "completed_at"] {
            let time = &response[name];
            self.that(time.is_null() || time.is_u64(), "response.time", format_args!("{name} is {time}"));
        }
        self.that(text(response, "object") == "response", "response.object", &response["object"]);
        self.that(text(response, "id").starts_with("resp_"), "id.prefix", &response["id"]);
        self.that(response["output"].is_array(), "response.output", "output is not an array");
        self.that(response["text"]["format"]["type"].is_string(), "response.text", &response["text"]);

        match (&self.created, kind) {
            (None, "response.created") => {
                self.ids.insert(text(response, "id").into(), "the response".into());
                self.created = Some(response.clone());
            }
            (Some(_), "response.created") => self.bad("life.created_twice", "second response.created"),
            (None, _) => self.bad("life.early", "before response.created"),
            (Some(created), _) => {
                let created = without(created, &CHANGING);
                self.same(
                    "response.changed",
                    "not as in response.created",
                    &without(response, &CHANGING),
                    &created,
                );
            }
        }
        let status = text(response, "status");
        match kind {
            "response.created" => {
                let known = ["in_progress", "queued"].contains(&status);
                self.that(known, "response.status", status);
                self.unfinished(response);
            }
            "response.queued" => {
                self.that(status == "queued", "response.status", status);
                self.that(!self.in_progress, "life.order", "after response.in_progress");
                self.unfinished(response);
            }
            "response.in_progress" => {
                self.that(status == "in_progress", "response.status", status);
                let first = !self.in_progress;
                self.that(!first || self.items.is_empty(), "life.order", "after the first item");
                self.that(
                    self.error.is_none(),
                    "life.after_error",
                    "only response.failed may follow an error",
                );
                self.in_progress = true;
                self.unfinished(response);
            }
            _ => self.terminal(kind, status, response),
        }
    }

    fn unfinished(&mut self, response: &Value) {
        for name in ["completed_at", "usage", "error", "incomplete_details"] {
            self.that(
                response[name].is_null(),
                "response.early",
                format_args!("{name} is {}", response[name]),
            );
        }
        self.that(list(response, "output").is_empty(), "response.early", "output is not empty");
        self.that(text(response, "output_text").is_empty(), "response.early", "output_text is not empty");
    }

    fn terminal(&mut self, kind: &str, status: &str, response: &Value) {
        let is = kind.strip_prefix("response.").unwrap_or_default();
        self.that(status == is, "response.status", status);
        self.that(self.in_progress, "life.early", "before response.in_progress");

        let (created, completed) = (response["created_at"].as_u64(), response["completed_at"].as_u64());
        let timely =
            if is == "completed" { completed >= created && completed.is_some() } else { completed.is_none() };
        self.that(timely, "response.completed_at", &response["completed_at"]);
        let reason = &response["incomplete_details"]["reason"];
        let known = ["max_output_tokens", "content_filter"].map(Value::from).contains(reason);
        let fits = if is == "incomplete" { known } else { response["incomplete_details"].is_null() };
        self.that(fits, "response.incomplete_details", &response["incomplete_details"]);
        let error = &response["error"];
        if is == "failed" {
            let full = !text(error, "code").is_empty() && !text(error, "message").is_empty();
            self.that(full, "response.error", format_args!("needs code and message: {error}"));
            match self.error.take() {
                None => self.bad("life.no_error", "response.failed without an error event before it"),
                Some(event) => {
                    self.same("error.message", "not the error event's", &error["message"], &event["message"]);
                    let code = if event["code"].is_null() { &error["code"] } else { &event["code"] };
                    self.same("error.code", "not the error event's", &error["code"], code);
                }
            }
        } else {
            self.that(error.is_null(), "response.error", format_args!("{error} without a failure"));
            self.that(
                self.error.is_none(),
                "life.error_no_failed",
                "only response.failed may follow an error",
            );
        }
        self.usage(&response["usage"]);
        self.output(is, list(response, "output"));
        // not a field of the wire, but of the SDKs' object; some servers send it
        if let Some(all) = response.get("output_text") {
            let parts = list(response, "output").iter().flat_map(|item| list(item, "content"));
            let texts = parts.filter(|part| part["type"] == "output_text").map(|part| text(part, "text"));
            self.same(
                "response.output_text",
                "not the text of the output",
                all,
                &texts.collect::<String>().into(),
            );
        }
        self.terminal = Some(kind.into());
    }

    fn error_event(&mut self, event: &Value) {
        self.that(self.error.is_none(), "error.twice", "second error event");
        self.that(self.in_progress, "life.early", "before response.in_progress");
        let nested = &event["error"];
        self.that(!text(nested, "type").is_empty(), "error.type", &nested["type"]);
        for name in ["code", "message", "param"] {
            let value = event.get(name);
            self.that(value.is_some(), "error.missing", name);
            self.that(
                value == nested.get(name),
                "error.shapes",
                format_args!("{name} differs in the nested error"),
            );
            let fits = value.is_some_and(|value| value.is_string() || value.is_null());
            self.that(fits, "error.shape", format_args!("{name} is {value:?}"));
        }
        self.that(!text(event, "message").is_empty(), "error.message", "no message");
        self.error = Some(event.clone());
    }

    fn usage(&mut self, usage: &Value) {
        if usage.is_null() {
            return;
        }
        let mut count = |path: &[&str]| {
            let value = path.iter().fold(usage, |value, name| &value[*name]);
            self.that(value.is_u64(), "usage.shape", format_args!("{} is {value}", path.join(".")));
            value.as_u64().unwrap_or_default()
        };
        let (input, output, total) =
            (count(&["input_tokens"]), count(&["output_tokens"]), count(&["total_tokens"]));
        let cached = count(&["input_tokens_details", "cached_tokens"]);
        let written = count(&["input_tokens_details", "cache_write_tokens"]);
        let reasoning = count(&["output_tokens_details", "reasoning_tokens"]);
        self.that(
            input.checked_add(output) == Some(total),
            "usage.total",
            format_args!("{input} + {output} = {total}"),
        );
        self.that(cached <= input, "usage.details", format_args!("{cached} cached of {input}"));
        self.that(written <= input, "usage.details", format_args!("{written} written of {input}"));
        self.that(reasoning <= output, "usage.details", format_args!("{reasoning} reasoning of {output}"));
    }

    /// The items that were sent are the output, whole and in order; a failure alone may leave the last one open.
    fn output(&mut self, status: &str, output: &[Value]) {
        let items = std::mem::take(&mut self.items);
        for (index, item) in items.iter().enumerate() {
            let last = index + 1 == items.len();
            match &item.done {
                None => {
                    self.that(status == "failed", "item.not_done", format_args!("item {index} is still open"))
                }
                Some(done) if text(done, "status") == "incomplete" => {
                    self.that(
                        status != "completed",
                        "item.incomplete",
                        format_args!("item {index} is incomplete"),
                    );
                    self.that(
                        last,
                        "item.incomplete",
                        format_args!("incomplete item {index} is not the last one"),
                    );
                }
                Some(_) => {}
            }
        }
        let done: Vec<&Value> = items.iter().filter_map(|item| item.done.as_ref()).collect();
        self.that(
            done.len() == output.len(),
            "output.count",
            format_args!("{} of {} items", output.len(), done.len()),
        );
        for (index, (done, got)) in done.into_iter().zip(output).enumerate() {
            self.same("output.item", &format!("item {index} is not as it was done"), got, done);
        }
        self.items = items;
    }

    // items

    fn item_added(&mut self, event: &Value) {
        let (item, index) = (&event["item"], index(event, "output_index"));
        let expected = self.items.len();
        self.that(index == expected, "item.index", format_args!("output_index {index}, expected {expected}"));
        let open = self.items.iter().any(|item| item.done.is_none());
        self.that(!open, "item.interleaved", "the item before is still open");
        self.item_shape(item);
        let (kind, id, call_id) = (text(item, "type"), text(item, "id"), text(item, "call_id"));
        let fresh = item.get("status").is_none_or(|status| status == "in_progress");
        self.that(fresh, "item.status", &item["status"]);
        for name in ["content", "summary", "arguments", "input"] {
            let empty = item[name].as_str().is_none_or(str::is_empty) && list(item, name).is_empty();
            self.that(empty, "item.added_full", format_args!("{name} is {}", item[name]));
        }
        let prefix = PREFIXES.iter().find(|(known, _)| *known == kind).map_or("", |(_, prefix)| prefix);
        self.that(
            id.starts_with(prefix) && id.len() > prefix.len(),
            "id.prefix",
            format_args!("{kind} {id:?}"),
        );
        if let Some(other) = self.ids.insert(id.into(), kind.into()) {
            self.bad("id.twice", format!("{id:?} is already the id of {other}"));
        }
        // a search of the upstream's own is nobody's to answer
        if kind.ends_with("_call") && kind != "web_search_call" {
            // OpenAI takes 64 characters at most, but an upstream's longer id has to survive unchanged
            self.that(!call_id.is_empty(), "call_id.empty", "no call_id");
            self.that(call_id != id, "call_id.is_id", call_id);
            let new = self.call_ids.insert(call_id.into());
            self.that(new, "call_id.twice", call_id);
        }
        self.items.push(Item { added: item.clone(), ..Item::default() });
    }

    fn item_shape(&mut self, item: &Value) {
        let kind = text(item, "type");
        let (strings, lists): (&[_], &[_]) = match kind {
            "message" => (&["id", "status", "role"], &["content"]),
            "reasoning" => (&["id"], &["summary"]),
            "function_call" => (&["id", "status", "call_id", "name", "arguments"], &[]),
            "custom_tool_call" => (&["id", "status", "call_id", "name", "input"], &[]),
            "compaction" => (&["id", "encrypted_content"], &[]),
            "tool_search_call" => (&["id", "status", "call_id", "execution"], &[]),
            "web_search_call" => (&["id", "status"], &[]),
            "mcp_list_tools" => (&["id", "server_label"], &["tools"]),
            "local_shell_call" | "shell_call" | "apply_patch_call" => (&["id", "status", "call_id"], &[]),
            _ => return self.bad("item.type", format!("unknown item type {kind:?}")),
        };
        for name in strings {
            self.that(item[*name].is_string(), "item.shape", format_args!("{name} is {}", item[*name]));
        }
        for name in lists {
            self.that(item[*name].is_array(), "item.shape", format_args!("{name} is {}", item[*name]));
        }
        for name in ["encrypted_content", "phase", "content", "namespace", "status"] {
            self.that(
                item.get(name) != Some(&Value::Null),
                "item.null",
                format_args!("{name} is null, not left out"),
            );
        }
        self.that(kind != "message" || text(item, "role") == "assistant", "item.role", &item["role"]);
        self.that(item.get("name").is_none_or(|name| name != ""), "item.name", "the name is empty");
        for part in list(item, "content").iter().chain(list(item, "summary")) {
            self.part_shape(part);
        }
    }

    fn item_done(&mut self, event: &Value) {
        let (item, index) = (&event["item"], index(event, "output_index"));
        self.item_shape(item);
        let Some(mut open) = self.take_item(index) else { return };
        self.that(open.done.is_none(), "item.done_twice", format_args!("item {index}"));
        for name in ["id", "type", "role", "name", "call_id", "namespace", "phase"] {
            // what was never announced by its upstream may get its phase at the end
            if name != "phase" || !open.added[name].is_null() {
                self.same("item.changed", name, &item[name], &open.added[name]);
            }
        }
        let status = text(item, "status");
        let silent = item["type"] == "reasoning" && item.get("status").is_none()
            || ["compaction", "mcp_list_tools"].map(Value::from).contains(&item["type"]);
        self.that(silent || ["completed", "incomplete"].contains(&status), "item.status", &item["status"]);
        for (field, parts) in [("content", &open.content), ("summary", &open.summary)] {
            let got = list(item, field);
            let count = format!("{field}: {} parts, {} were sent", got.len(), parts.len());
            self.that(got.len() == parts.len(), "item.parts", count);
            for (index, part) in parts.iter().enumerate() {
                match &part.done {
                    None => self.bad("part.not_done", format_args!("{field} part {index} is still open")),
                    Some(done) => {
                        let got = got.get(index).unwrap_or(&Value::Null);
                        self.same("item.part", "not the part that was done", got, done);
                    }
                }
            }
        }
        for (_, kind, _, field) in TEXTS.iter().filter(|known| known.2.is_empty() && item["type"] == known.1)
        {
            // a call that the token limit cut never was whole
            let cut = status == "incomplete";
            self.that(
                open.text.whole.is_some() != cut,
                "call.done",
                format_args!("{kind} {status}, {field}.done"),
            );
            self.same("item.text", field, &item[*field], &Value::from(open.text.so_far.as_str()));
        }
        open.done = Some(item.clone());
        self.put_item(index, open);
    }

    fn item_event(&mut self, kind: &str, event: &Value) {
        let index = index(event, "output_index");
        let Some(mut item) = self.take_item(index) else { return };
        self.same("item.id", "another item", &event["item_id"], &item.added["id"]);
        self.that(item.done.is_none(), "item.over", format_args!("item {index} is done"));
        let (base, verb) = kind.rsplit_once('.').unwrap_or_default();
        let of = text(&item.added, "type").to_owned();
        if let Some((_, kind, part, field)) = TEXTS.iter().find(|known| known.0 == base) {
            self.that(of == *kind, "item.wrong_type", format_args!("addressed to a {of} item"));
            if part.is_empty() {
                self.text(&mut item.text, verb, field, event);
                let name = event.get("name").unwrap_or(&item.added["name"]);
                self.same("item.changed", "name", name, &item.added["name"]);
            } else if let Some(open) = self.part(&mut item, event) {
                self.that(text(&open.added, "type") == *part, "part.type", &open.added["type"]);
                self.text(&mut open.text, verb, field, event);
            }
        } else if base == "response.output_text.annotation" {
            if let Some(part) = self.part(&mut item, event) {
                let at = event["annotation_index"].as_u64();
                self.that(
                    at == Some(part.annotations.len() as u64),
                    "annotation.index",
                    &event["annotation_index"],
                );
                part.annotations.push(event["annotation"].clone());
            }
        } else if verb == "added" {
            self.part_added(&mut item, event);
        } else if verb == "done" {
            self.part_done(&mut item, event);
        }
        self.put_item(index, item);
    }

    fn take_item(&mut self, index: usize) -> Option<Item> {
        let item = self.items.get_mut(index).map(std::mem::take);
        self.that(item.is_some(), "item.unknown", format_args!("output_index {index} was never added"));
        item
    }

    fn put_item(&mut self, index: usize, item: Item) {
        if let Some(place) = self.items.get_mut(index) {
            *place = item;
        }
    }

    // parts

    fn part<'a>(&mut self, item: &'a mut Item, event: &Value) -> Option<&'a mut Part> {
        let (parts, index) = parts(item, event);
        let part = parts.get_mut(index);
        match &part {
            None => self.bad("part.unknown", format!("part {index} was never added")),
            Some(part) => self.that(part.done.is_none(), "part.over", format_args!("part {index} is done")),
        }
        part
    }

    fn part_added(&mut self, item: &mut Item, event: &Value) {
        let part = &event["part"];
        self.part_shape(part);
        let kind = text(part, "type");
        let of = text(&item.added, "type");
        let fits = match (event.get("summary_index").is_some(), of) {
            (true, "reasoning") => kind == "summary_text",
            (false, "reasoning") => kind == "reasoning_text",
            (false, "message") => ["output_text", "refusal"].contains(&kind),
            _ => false,
        };
        self.that(fits, "part.type", format!("{kind} in a {of} item"));
        let empty = text(part, "text").is_empty() && text(part, "refusal").is_empty();
        let bare = list(part, "annotations").is_empty() && list(part, "logprobs").is_empty();
        self.that(empty && bare, "part.added_full", part);
        let (parts, index) = parts(item, event);
        self.that(index == parts.len(), "part.index", format_args!("{index}, expected {}", parts.len()));
        let open = parts.iter().any(|part| part.done.is_none());
        self.that(!open, "part.interleaved", "the part before is still open");
        parts.push(Part { added: part.clone(), ..Part::default() });
    }

    fn part_done(&mut self, item: &mut Item, event: &Value) {
        let part = &event["part"];
        self.part_shape(part);
        let Some(open) = self.part(item, event) else { return };
        self.same("part.type", "not as added", &part["type"], &open.added["type"]);
        self.that(open.text.whole.is_some(), "part.no_text_done", "no .done event of its text");
        let field = if part["type"] == "refusal" { "refusal" } else { "text" };
        self.same("part.text", field, &part[field], &Value::from(open.text.so_far.as_str()));
        if part["type"] == "output_text" {
            let annotations = Value::from(open.annotations.clone());
            self.same("part.annotations", "not the ones sent", &part["annotations"], &annotations);
            self.that(
                list(part, "logprobs").is_empty(),
                "part.logprobs",
                "they belong to the text's own events",
            );
        }
        let mut done = part.clone();
        if done["logprobs"].is_array() {
            // in the finished item they are there
            done["logprobs"] = Value::from(open.text.logprobs.clone());
        }
        open.done = Some(done);
    }

    fn part_shape(&mut self, part: &Value) {
        let field = match text(part, "type") {
            "refusal" => "refusal",
            "output_text" => {
                let full = part["annotations"].is_array() && part["logprobs"].is_array();
                self.that(full, "part.shape", format_args!("annotations or logprobs missing: {part}"));
                "text"
            }
            "reasoning_text" | "summary_text" => "text",
            other => return self.bad("part.type", format!("unknown part type {other:?}")),
        };
        self.that(part[field].is_string(), "part.shape", format_args!("{field} is {}", part[field]));
    }

    fn text(&mut self, open: &mut Text, verb: &str, field: &str, event: &Value) {
        self.that(open.whole.is_none(), "text.over", "its text is done");
        if verb == "delta" {
            self.that(!text(event, "delta").is_empty(), "text.empty_delta", "a delta without text");
            open.so_far += text(event, "delta");
            open.logprobs.extend_from_slice(list(event, "logprobs"));
        } else {
            self.same("text.whole", field, &event[field], &Value::from(open.so_far.as_str()));
            let got = Value::from(list(event, "logprobs").to_vec());
            self.same("text.logprobs", "not the ones sent", &got, &Value::from(open.logprobs.clone()));
            open.whole = Some(text(event, field).into());
        }
    }

    fn finish(&mut self) {
        self.kind = "(end)".into();
        self.that(self.created.is_some(), "life.no_created", "no response.created");
        self.that(self.terminal.is_some(), "life.no_terminal", "no completed, incomplete or failed");
        self.that(self.ended, "sse.no_done", "no [DONE]");
    }
}

fn parts<'a>(item: &'a mut Item, event: &Value) -> (&'a mut Vec<Part>, usize) {
    match event.get("summary_index") {
        Some(_) => (&mut item.summary, index(event, "summary_index")),
        None => (&mut item.content, index(event, "content_index")),
    }
}

fn index(event: &Value, name: &str) -> usize {
    event[name].as_u64().map_or(usize::MAX, |index| index as usize)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Events may leave the `bytes` of a log probability out.
fn without(response: &Value, names: &[&str]) -> Value {
    let fields = response.as_object().cloned().unwrap_or_default();
    Value::Object(
        fields.into_iter().filter(|(name, _)| !names.contains(&name.as_str())).collect::<Map<_, _>>(),
    )
}

/// The first difference between two values, by path.
fn difference(got: &Value, expected: &Value, path: &str) -> Option<String> {
    match (got, expected) {
        (Value::Object(got), Value::Object(expected)) => got.keys().chain(expected.keys()).find_map(|name| {
            let path = format!("{path}.{name}");
            match (got.get(name), expected.get(name)) {
                (Some(got), Some(expected)) => difference(got, expected, &path),
                (Some(_), None) => Some(format!("{path} is new")),
                _ => Some(format!("{path} is gone")),
            }
        }),
        (Value::Array(got), Value::Array(expected)) if got.len() == expected.len() => {
            let mut pairs = got.iter().zip(expected).enumerate();
            pairs.find_map(|(at, (got, expected))| difference(got, expected, &format!("{path}[{at}]")))
        }
        _ if got == expected => None,
        _ => Some(format!("{path} is {}, was {}", clip(&got.to_string()), clip(&expected.to_string()))),
    }
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.into(),
    }
}
