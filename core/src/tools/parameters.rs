//! Owns the adjustment of a function's parameters for servers, which touches only their root. It must not validate a
//! schema.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::wire::{json, trusted_json};

/// Appends the parameters with `"type": "object"` at their root, because strict servers (DeepSeek, Grok) require it,
/// and `{}`, `{"type": null}` or a bare `anyOf` allow nothing else. The remaining text stays as the client wrote it.
pub fn push_object_rooted(out: &mut Vec<u8>, parameters: &str) {
    let is_type = |name: &RawValue| json::decode(name).as_deref() == Some("type");
    let (mut is_object, mut others) = (false, false);
    let seen = trusted_json::members(parameters, |name, value| match is_type(name) {
        true => is_object |= value.get() == "\"object\"",
        false => others = true,
    });
    if is_object || seen.is_none() {
        out.extend_from_slice(parameters.as_bytes());
        return;
    }
    out.extend_from_slice(b"{\"type\":\"object\"");
    if !others {
        out.extend_from_slice(b",\"properties\":{}");
    }
    trusted_json::members(parameters, |name, value| {
        if !is_type(name) {
            out.push(b',');
            out.extend_from_slice(name.get().as_bytes());
            out.push(b':');
            out.extend_from_slice(value.get().as_bytes());
        }
    });
    out.push(b'}');
}

/// Whether a root property is declared `encrypted`, as Codex does for messages between agents.
pub fn encrypts(parameters: &str) -> bool {
    let encrypted = |property: &Value| property.get("encrypted") == Some(&Value::Bool(true));
    // cheap test first: hardly any schema has the word
    parameters.contains("\"encrypted\"")
        && json::tree(parameters).is_some_and(|schema| {
            let properties = schema.get("properties").and_then(Value::as_object);
            properties.is_some_and(|properties| properties.values().any(encrypted))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object_rooted(parameters: &str) -> String {
        let mut out = Vec::new();
        push_object_rooted(&mut out, parameters);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_the_root_changes() {
        for (given, want) in [
            (r#"{}"#, r#"{"type":"object","properties":{}}"#),
            (r#"{"type":null}"#, r#"{"type":"object","properties":{}}"#),
            (r#"{"type":"string"}"#, r#"{"type":"object","properties":{}}"#),
            (
                r#"{"type":["object","null"],"properties":{"a":{}}}"#,
                r#"{"type":"object","properties":{"a":{}}}"#,
            ),
            (
                r#"{"properties": {"a": {"type":"string"}}}"#,
                r#"{"type":"object","properties":{"a": {"type":"string"}}}"#,
            ),
            (r#"{"anyOf":[{"type":"object"}]}"#, r#"{"type":"object","anyOf":[{"type":"object"}]}"#),
            (
                r##"{"$ref":"#/$defs/a","$defs":{"a":{}}}"##,
                r##"{"type":"object","$ref":"#/$defs/a","$defs":{"a":{}}}"##,
            ),
            (r#"{"description":"no arguments"}"#, r#"{"type":"object","description":"no arguments"}"#),
        ] {
            assert_eq!(object_rooted(given), want, "{given}");
        }
        let whole = r#"{ "properties": {"type": {"type": null}}, "type": "object" }"#;
        assert_eq!(object_rooted(whole), whole, "byte for byte");
    }
}
