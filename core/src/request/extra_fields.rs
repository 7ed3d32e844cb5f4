//! Owns members of a chat body that Responses does not define: those of the request that the dialect knows, and those
//! that the configuration adds. It must not know any of them.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::wire::{json, trusted_json};

/// Merges members into an unfinished chat body: from byte `settings` on it is a sequence of `,"key":value`, without the
/// closing brace. The request's `own` members override rendered ones, and those override the configured `defaults`; a null of
/// the request overrides nothing. If both values are objects, they are merged one level deep.
pub fn merge<'a, 'b: 'a>(
    body: &mut Vec<u8>,
    settings: usize,
    own: impl Iterator<Item = &'a (Cow<'b, str>, &'b RawValue)>,
    defaults: Option<&Map<String, Value>>,
) {
    let mut own = own.filter(|(_, value)| value.get() != "null").peekable();
    let defaults = defaults.filter(|defaults| !defaults.is_empty());
    if own.peek().is_none() && defaults.is_none() {
        return;
    }
    let rendered = body.split_off(settings);
    let rendered = String::from_utf8_lossy(&rendered);
    let rendered = format!("{{{}}}", rendered.trim_start_matches(','));
    // kept as text: a large JSON schema takes many times its bytes as a tree
    let mut members: Vec<(Cow<'_, str>, Cow<'_, str>)> = json::members(&rendered)
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, Cow::Borrowed(value.get())))
        .collect();
    for (key, value) in own {
        merge_member(&mut members, key, Cow::Borrowed(value.get()), true);
    }
    for (key, value) in defaults.into_iter().flatten() {
        merge_member(&mut members, key, Cow::Owned(value.to_string()), false);
    }
    for (key, value) in &members {
        body.push(b',');
        json::push_string(body, key);
        body.push(b':');
        body.extend_from_slice(value.as_bytes());
    }
}

/// Adds a member, or merges it with one of the same name, which it replaces if it `overrides`.
fn merge_member<'a>(
    members: &mut Vec<(Cow<'a, str>, Cow<'a, str>)>,
    key: &'a str,
    value: Cow<'a, str>,
    overrides: bool,
) {
    let Some((_, existing)) = members.iter_mut().find(|(name, _)| name == key) else {
        members.push((Cow::Borrowed(key), value));
        return;
    };
    if existing.starts_with('{') && value.starts_with('{') {
        *existing = Cow::Owned(merge_objects(existing, &value, overrides));
    } else if overrides {
        *existing = value;
    }
}

/// Merges two objects. If `overrides`, the members of `second` override those of `first`. One of the two comes from the
/// proxy and is short, so members are searched linearly.
fn merge_objects(first: &str, second: &str, overrides: bool) -> String {
    let mut out = String::with_capacity(first.len() + second.len());
    let mut push = |key: &RawValue, value: &RawValue| {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(key.get());
        out.push(':');
        out.push_str(value.get());
    };
    trusted_json::members(first, |key, value| {
        let overriding = if overrides { member(second, key) } else { None };
        push(key, overriding.unwrap_or(value));
    });
    trusted_json::members(second, |key, value| {
        if member(first, key).is_none() {
            push(key, value);
        }
    });
    out.push_str(if out.is_empty() { "{}" } else { "}" });
    out
}

fn member<'a>(object: &'a str, wanted: &RawValue) -> Option<&'a RawValue> {
    let (wanted, mut found) = (json::decode(wanted), None);
    trusted_json::members(object, |key, value| {
        if json::decode(key) == wanted {
            found = Some(value);
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(settings: &str, own: &str, defaults: &str) -> String {
        let mut body = b"{\"model\":\"m\"".to_vec();
        let at = body.len();
        body.extend_from_slice(settings.as_bytes());
        let own: Vec<(String, Box<RawValue>)> = serde_json::from_str::<Map<String, Value>>(own)
            .unwrap()
            .into_iter()
            .map(|(key, value)| (key, serde_json::value::to_raw_value(&value).unwrap()))
            .collect();
        let own: Vec<(Cow<'_, str>, &RawValue)> =
            own.iter().map(|(key, value)| (Cow::Borrowed(key.as_str()), &**value)).collect();
        merge(&mut body, at, own.iter(), Some(&serde_json::from_str(defaults).unwrap()));
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn the_request_overrides_the_configuration() {
        for (settings, own, defaults, want) in [
            ("", "{}", "{}", ""),
            (",\"top_p\":0.9", "{}", "{}", ",\"top_p\":0.9"),
            (",\"top_p\":0.9", "{}", r#"{"top_p":1,"top_k":40}"#, r#","top_p":0.9,"top_k":40"#),
            ("", r#"{"top_k":5,"seed":null}"#, r#"{"top_k":40}"#, r#","top_k":5"#),
            (
                r#","kwargs":{"a":1}"#,
                r#"{"kwargs":{"a":2,"b":2}}"#,
                r#"{"kwargs":{"b":3,"c":3}}"#,
                r#","kwargs":{"a":2,"b":2,"c":3}"#,
            ),
        ] {
            assert_eq!(merged(settings, own, defaults), format!("{{\"model\":\"m\"{want}"));
        }
    }
}
