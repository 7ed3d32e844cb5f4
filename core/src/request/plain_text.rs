//! Owns the plain text form of items and parts that chat messages cannot represent: readable content is kept,
//! unreadable content leaves a note. It must not know which items and parts those are.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::wire::json;

/// Members that mean nothing to a model.
const IGNORED_MEMBERS: [&str; 12] = [
    "annotations",
    "author",
    "call_id",
    "container_id",
    "created_by",
    "execution",
    "id",
    "logprobs",
    "object",
    "phase",
    "status",
    "type",
];
/// A text of at least this many bytes may be binary data. A shorter one costs no more than the note that would replace
/// it.
const BINARY: usize = 256;

/// `[type name]`, followed by a line for each meaningful member; `None` if there are none.
pub fn of_item(item: &RawValue, kind: &str) -> Option<String> {
    let Some(value) = json::tree(item.get()) else {
        // too wide to be parsed
        return Some(format!("[{kind}]\n{}", json::minify(item.get())));
    };
    let Value::Object(members) = value else { return None };
    let named = |key: &str| members.get(key).and_then(Value::as_str);
    let name: Vec<&str> = ["server_label", "name"].into_iter().filter_map(named).collect();
    let mut text = match name.is_empty() {
        true => format!("[{kind}]"),
        false => format!("[{kind} {}]", name.join(".")),
    };
    let head = text.len();
    for (key, value) in members {
        if IGNORED_MEMBERS.contains(&&*key) || matches!(&*key, "server_label" | "name") {
            continue;
        }
        if let Some(shown) = member_text(&key, value) {
            text.push_str(&format!("\n{key}: {shown}"));
        }
    }
    (text.len() > head).then_some(text)
}

fn member_text(key: &str, value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) if key == "encrypted_content" && is_ciphertext(&text) => {
            Some(UNREADABLE.to_owned())
        }
        Value::String(text) => Some(readable(text)),
        Value::Array(list) if list.is_empty() => None,
        Value::Object(members) if members.is_empty() => None,
        // the rest of their definitions is part of the request's tools
        Value::Array(list) if key == "tools" => {
            let names = list.iter().map(|tool| tool.get("name").and_then(Value::as_str).unwrap_or("?"));
            Some(names.collect::<Vec<_>>().join(", "))
        }
        mut other => {
            replace_binary(&mut other);
            Some(other.to_string())
        }
    }
}

/// Replaces content that only its producer can read.
pub const UNREADABLE: &str = "[encrypted content: it cannot be read here]";

/// Whether the text is encrypted: OpenAI's sealed content begins like this, and prose of this length contains spaces.
pub fn is_ciphertext(text: &str) -> bool {
    text.starts_with("gAAAA") || (text.len() >= BINARY && text.bytes().all(is_base64))
}

/// Appends the texts of a value: a string, a list of parts, or an object with its text in one of several members.
pub fn collect(raw: &RawValue, into: &mut String) {
    fn add(value: &Value, into: &mut String) {
        match value {
            Value::String(text) => into.push_str(text),
            Value::Array(list) => list.iter().for_each(|value| add(value, into)),
            Value::Object(members) => {
                let says = |value: &&Value| {
                    matches!(value, Value::String(text) if !text.is_empty()) || value.is_array()
                };
                let text = ["text", "thinking", "reasoning", "summary", "content"];
                if let Some(value) = text.iter().filter_map(|key| members.get(*key)).find(says) {
                    add(value, into);
                }
            }
            _ => {}
        }
    }
    if let Some(value) = json::tree(raw.get()) {
        add(&value, into);
    }
}

/// A JSON value on one line, without the binary data in it.
pub fn of_value(raw: &RawValue) -> Cow<'_, str> {
    if raw.get().len() < BINARY {
        return json::minify(raw.get());
    }
    let mut value = json::tree(raw.get()).unwrap_or_default();
    if replace_binary(&mut value) { Cow::Owned(value.to_string()) } else { json::minify(raw.get()) }
}

/// Replaces binary data by notes. Returns whether there was any.
fn replace_binary(value: &mut Value) -> bool {
    match value {
        Value::String(text) if is_binary(text) => {
            *text = readable(std::mem::take(text));
            true
        }
        Value::Array(list) => {
            list.iter_mut().filter_map(|value| replace_binary(value).then_some(())).count() > 0
        }
        Value::Object(members) => {
            members.values_mut().filter_map(|value| replace_binary(value).then_some(())).count() > 0
        }
        _ => false,
    }
}

fn readable(text: String) -> String {
    match is_binary(&text) {
        true => format!("[{} bytes of binary data left out]", text.len()),
        false => text,
    }
}

fn is_binary(text: &str) -> bool {
    let data_url = text.starts_with("data:") && text.contains(";base64,");
    data_url || (text.len() >= BINARY && text.bytes().all(is_base64))
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_')
}
