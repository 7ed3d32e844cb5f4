//! Owns merging into JSON that may have comments, and keeps all of it that is not ours. It must not know what is
//! merged.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstArray, CstInputValue, CstNode, CstObject, CstRootNode};
use serde_json::{Map, Value};

/// What clients read: comments, and commas at an end.
fn options() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

/// Edits the root of a text, which may be empty.
///
/// # Errors
/// What is wrong with the text, and what `edit` says.
pub fn edited(text: &str, edit: &dyn Fn(&CstRootNode) -> Result<(), String>) -> Result<String, String> {
    let root = CstRootNode::parse(text, &options()).map_err(|error| format!("not valid JSON: {error}"))?;
    edit(&root)?;
    let mut out = root.to_string();
    if text.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    Ok(out)
}

/// The root object of a text.
pub fn root_object(root: &CstRootNode) -> Result<CstObject, String> {
    root.object_value_or_create().ok_or_else(|| "expected an object at its root".to_owned())
}

/// The root array of a text.
pub fn root_array(root: &CstRootNode) -> Result<CstArray, String> {
    root.array_value_or_create().ok_or_else(|| "expected an array at its root".to_owned())
}

/// Sets members, one inside the other where both are objects.
///
/// # Errors
/// A member that is an array or an object and would be lost.
pub fn set_all(object: &CstObject, members: &Map<String, Value>) -> Result<(), String> {
    for (name, value) in members {
        set(object, name, value)?;
    }
    Ok(())
}

/// Sets one member, see [`set_all`].
pub fn set(object: &CstObject, name: &str, value: &Value) -> Result<(), String> {
    let Some(property) = object.get(name) else {
        object.append(name, input(value));
        return Ok(());
    };
    match (property.value(), value) {
        (Some(CstNode::Container(there)), Value::Object(members)) => match there.as_object() {
            Some(there) => set_all(&there, members),
            None => Err(format!("{name:?} is an array, an object was expected")),
        },
        (Some(there), value) if there.to_serde_value().as_ref() == Some(value) => Ok(()),
        // it may have comments
        (Some(CstNode::Container(_)), _) => {
            Err(format!("{name:?} is an array or an object, which would be lost"))
        }
        _ => {
            property.set_value(input(value));
            Ok(())
        }
    }
}

/// The array of that name, made if it is not there.
pub fn array(object: &CstObject, name: &str) -> Result<CstArray, String> {
    object.array_value_or_create(name).ok_or_else(|| format!("{name:?} is not an array"))
}

/// Sets the members of the element whose member `name` has that value, or appends it.
pub fn set_element(array: &CstArray, name: &str, members: &Map<String, Value>) -> Result<(), String> {
    let wanted = members.get(name);
    let named = |node: &CstNode| {
        let object = node.as_object()?;
        let value = object.get(name)?.value()?.to_serde_value();
        (value.as_ref() == wanted).then_some(object)
    };
    match array.elements().iter().find_map(named) {
        Some(object) => set_all(&object, members),
        None => {
            array.append(input(&Value::Object(members.clone())));
            Ok(())
        }
    }
}

/// The members of an object.
pub fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(value) => CstInputValue::Number(value.to_string()),
        Value::String(value) => CstInputValue::String(value.clone()),
        Value::Array(values) => CstInputValue::Array(values.iter().map(input).collect()),
        Value::Object(members) => {
            CstInputValue::Object(members.iter().map(|(name, value)| (name.clone(), input(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::setup::proxy::example;
    use crate::setup::setting::Setting;
    use crate::setup::{Env, droid, opencode, vscode};

    fn env() -> Env {
        Env(vec![("HOME".to_owned(), "/nonexistent".to_owned())])
    }

    fn parsed(text: &str) -> Value {
        CstRootNode::parse(text, &options()).unwrap().to_serde_value().unwrap()
    }

    fn settings() -> [(&'static str, Setting); 3] {
        [
            ("droid", droid::setting(&example(), &env()).unwrap()),
            ("opencode", opencode::setting(&example(), &env(), false).unwrap()),
            ("vscode", vscode::setting(&example(), &env()).unwrap()),
        ]
    }

    #[test]
    fn a_second_merge_changes_nothing() {
        for (name, setting) in settings() {
            let new = (setting.merge)("").unwrap();
            assert_eq!((setting.merge)(&new).unwrap(), new, "{name}");
            assert!(new.ends_with("\n") && new.contains("127.0.0.1:8081/v1"), "{name}: {new}");
            // also one that a program wrote again in another form
            let other = parsed(&new).to_string();
            assert_eq!((setting.merge)(&other).unwrap(), other, "{name}");
        }
    }

    #[test]
    fn comments_and_other_members_stay() {
        let text = "// mine\n{\n\t\"theme\": \"dark\", // at night\n\t\"customModels\": [\n\t\t{ \"id\": \"custom:a-0\", \"index\": 0 }, // one\n\t],\n\
                    \t\"provider\": { \"a\": { \"x\": [1, 2] } /* two */ },\n}\n// end";
        let [(_, droid), (_, opencode), _] = settings();
        let new = (opencode.merge)(&(droid.merge)(text).unwrap()).unwrap();
        for comment in ["// mine", "// at night", "// one", "/* two */", "// end"] {
            assert!(new.contains(comment), "{comment}: {new}");
        }
        let read = parsed(&new);
        assert_eq!(read["theme"], "dark");
        assert_eq!(read["provider"]["a"], json!({ "x": [1, 2] }));
        assert_eq!(read["customModels"][0], json!({ "id": "custom:a-0", "index": 0 }));
        assert_eq!(
            (&read["customModels"][1]["model"], &read["customModels"][1]["index"]),
            (&json!("local"), &json!(1))
        );
        assert_eq!(read["provider"]["rejoinder"]["options"]["baseURL"], "http://127.0.0.1:8081/v1");
    }

    #[test]
    fn an_entry_of_that_name_is_corrected_and_keeps_the_rest() {
        let [(_, droid), (_, opencode), (_, vscode)] = settings();
        let text = r#"{"customModels":[{"id":"custom:rejoinder-local","index":7,"baseUrl":"http://old","extraHeaders":{"a":"b"}}]}"#;
        let read = parsed(&(droid.merge)(text).unwrap());
        let [entry] = read["customModels"].as_array().unwrap().as_slice() else { panic!("{read}") };
        assert_eq!((&entry["index"], &entry["extraHeaders"]["a"]), (&json!(7), &json!("b")));
        assert_eq!(entry["baseUrl"], "http://127.0.0.1:8081/v1");
        let text = r#"{"provider":{"rejoinder":{"options":{"timeout":1},"models":{"other":{}}}}}"#;
        let read = parsed(&(opencode.merge)(text).unwrap());
        assert_eq!(read["provider"]["rejoinder"]["options"]["timeout"], 1);
        assert!(read["provider"]["rejoinder"]["models"]["other"].is_object(), "{read}");
        let text = r#"[{"name":"Other"},{"name":"Rejoinder","models":[{"id":"local","url":"http://old","mine":1}]}]"#;
        let read = parsed(&(vscode.merge)(text).unwrap());
        assert_eq!((read.as_array().unwrap().len(), &read[1]["models"][0]["mine"]), (2, &json!(1)));
        assert_eq!(read[1]["models"][0]["url"], "http://127.0.0.1:8081/v1/responses");
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        let [(_, droid), (_, opencode), (_, vscode)] = settings();
        for (setting, text, want) in [
            (&droid, "{", "not valid JSON"),
            (&droid, "[]", "expected an object"),
            (&droid, r#"{"customModels":{}}"#, "customModels"),
            (&opencode, r#"{"model":["a" /* why */]}"#, "would be lost"),
            (&opencode, r#"{"provider":[]}"#, "an object was expected"),
            (&vscode, "{}", "expected an array"),
        ] {
            let error = (setting.merge)(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
