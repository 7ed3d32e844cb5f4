//! Owns what is done to a function's parameters on their way to the model: nothing but to their root. It must not judge
//! a schema.

use std::borrow::Cow;

use serde_json::Value;

use crate::wire::json;

/// The parameters with `"type": "object"` at their root, where strict servers refuse anything else (DeepSeek, Grok):
/// `{}`, `{"type": null}` and a bare `anyOf` mean no more than that. All else stays as the client wrote it.
pub fn object_rooted(parameters: &str) -> Cow<'_, str> {
    const OBJECT: &str = "\"object\"";
    let Some(members) = json::members(parameters) else { return Cow::Borrowed(parameters) };
    if members.iter().any(|(key, value)| key == "type" && value.get() == OBJECT) {
        return Cow::Borrowed(parameters);
    }
    let mut rooted = String::with_capacity(parameters.len() + 32);
    rooted.push_str("{\"type\":\"object\"");
    let mut others = members.iter().filter(|(key, _)| key != "type").peekable();
    if others.peek().is_none() {
        rooted.push_str(",\"properties\":{}");
    }
    for (key, value) in others {
        rooted.push_str(&format!(",{}:{}", Value::from(&**key), value.get()));
    }
    rooted.push('}');
    Cow::Owned(rooted)
}

/// Whether a property at the root is declared `encrypted`, as Codex declares what one agent tells another.
pub fn encrypts(parameters: &str) -> bool {
    let encrypted = |property: &Value| property.get("encrypted") == Some(&Value::Bool(true));
    // nearly none has the word
    parameters.contains("\"encrypted\"")
        && serde_json::from_str::<Value>(parameters).is_ok_and(|schema| {
            let properties = schema.get("properties").and_then(Value::as_object);
            properties.is_some_and(|properties| properties.values().any(encrypted))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_an_object_and_the_rest_is_kept() {
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
