//! Owns the members of a chat body that no Responses document names: the request's own, where the dialect knows them,
//! and those that the configuration adds. It must not know any of them.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::wire::json;

/// Changes the members of an unfinished chat body from `settings` on, where each is written with a comma before it.
/// What the request itself has stands over what was rendered, and that over `defaults`; two objects are joined.
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
    let mut members = rendered(body.get(settings..).unwrap_or_default());
    for (key, value) in own {
        put(&mut members, key, parsed(value.get()), true);
    }
    for (key, value) in defaults.into_iter().flatten() {
        put(&mut members, key, value.clone(), false);
    }
    body.truncate(settings);
    for (key, value) in &members {
        body.push(b',');
        json::push_string(body, key);
        body.push(b':');
        body.extend_from_slice(value.to_string().as_bytes());
    }
}

fn rendered(settings: &[u8]) -> Map<String, Value> {
    let members = String::from_utf8_lossy(settings);
    serde_json::from_str(&format!("{{{}}}", members.trim_start_matches(','))).unwrap_or_default()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn put(members: &mut Map<String, Value>, key: &str, value: Value, over: bool) {
    match (members.get_mut(key), value) {
        (None, value) => drop(members.insert(key.to_owned(), value)),
        (Some(Value::Object(there)), Value::Object(more)) => {
            for (key, value) in more {
                if over || !there.contains_key(&key) {
                    there.insert(key, value);
                }
            }
        }
        (Some(there), value) if over => *there = value,
        _ => {}
    }
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
    fn the_request_goes_before_the_configuration() {
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
