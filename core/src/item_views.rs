//! Owns how items look in lists: each with an id and a type, whatever the client sent. It must not know where items are
//! stored.

use serde_json::value::RawValue;
use serde_json::{Value, json as value};

use crate::ids;
use crate::ids::seed_of;
use crate::wire::json::{self, tree};
use crate::wire::request::{Item, fields};
use crate::wire::trusted_json;

/// The item's own id; `None` if it is absent or empty.
pub fn id_of(item: &RawValue) -> Option<String> {
    let id = fields::<Item<'_>>(item)?.id.and_then(json::decode)?;
    (!id.is_empty()).then(|| id.into_owned())
}

/// Whether the item is a user message.
pub fn is_from_user(item: &Item<'_>) -> bool {
    item.role.and_then(json::decode).is_some_and(|role| role.trim().eq_ignore_ascii_case("user"))
}

/// The id of the `n`th input item of a response: its own, or one derived from the response's id, so always the same.
pub fn input_id(response: &str, n: usize, item: &RawValue) -> String {
    id_of(item).unwrap_or_else(|| format!("{}{}i{n:04x}", prefix(item), seed_of(response)))
}

/// The response that a generated item id belongs to: all ids of one response contain its seed. `None` for other ids.
pub fn response_of(item_id: &str) -> Option<String> {
    let (_, rest) = item_id.split_once('_')?;
    let seed = rest.get(..32)?;
    seed.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| format!("resp_{seed}"))
}

/// An item as shown in lists: with `id`, `type` and `status`, and a message's text as parts. `images`: whether to
/// include image URLs (`include: ["message.input_image.image_url"]`).
pub fn listed(item: &RawValue, id: &str, images: bool) -> Value {
    let mut item: Value = match tree(item.get()) {
        Some(item) => item,
        // too wide to be parsed whole: show the members that are not
        None => members(item),
    };
    let Some(object) = item.as_object_mut() else { return item };
    if object.get("type").is_none_or(Value::is_null) && object.contains_key("role") {
        object.shift_insert(0, "type".to_owned(), value!("message"));
    }
    object.insert("id".to_owned(), value!(id));
    let message = object.get("type").is_some_and(|kind| kind == "message");
    let reasoning = object.get("type").is_some_and(|kind| kind == "reasoning");
    if !reasoning && object.get("status").is_none_or(Value::is_null) {
        object.insert("status".to_owned(), value!("completed"));
    }
    if message {
        let assistant = object.get("role").is_some_and(|role| role == "assistant");
        let parts = match object.remove("content") {
            Some(Value::String(text)) if assistant => {
                value!([{"type": "output_text", "text": text, "annotations": [], "logprobs": []}])
            }
            Some(Value::String(text)) => value!([{"type": "input_text", "text": text}]),
            Some(Value::Array(mut parts)) => {
                parts.iter_mut().for_each(|part| complete_part(part, images));
                Value::Array(parts)
            }
            _ => value!([]),
        };
        object.insert("content".to_owned(), parts);
    }
    item
}

fn members(item: &RawValue) -> Value {
    let (mut shown, mut left) = (serde_json::Map::new(), 64);
    trusted_json::members(item.get(), |name, value| {
        if left > 0 {
            left -= 1;
            let name = json::decode(name).unwrap_or_default().into_owned();
            shown.insert(name, tree(value.get()).unwrap_or_default());
        }
    });
    Value::Object(shown)
}

fn complete_part(part: &mut Value, images: bool) {
    let Some(part) = part.as_object_mut() else { return };
    match part.get("type").and_then(Value::as_str) {
        Some("output_text") => {
            for key in ["annotations", "logprobs"] {
                part.entry(key).or_insert_with(|| value!([]));
            }
        }
        Some("input_image") => {
            part.entry("detail").or_insert_with(|| value!("auto"));
            if !images {
                part.insert("image_url".to_owned(), Value::Null);
            }
        }
        _ => {}
    }
}

/// The id prefix for the item's type (docs/protocol.md 6).
fn prefix(item: &RawValue) -> &'static str {
    let kind = fields::<Item<'_>>(item).and_then(|item| item.r#type).and_then(json::decode);
    kind.as_deref().map_or(ids::MESSAGE, ids::prefix_of)
}
