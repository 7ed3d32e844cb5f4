//! Owns the calls that come back as items of their own kind: from a chat function's arguments to the item that the
//! client acts on. It must not know the stream.

use serde_json::{Map, Value, json};

use crate::ids;
use crate::tools::search::{Search, ShellForm};
use crate::tools::table::{Called, Kind, Route, Table};
use crate::wire::json::tree;

/// What a call becomes.
#[derive(Debug, PartialEq)]
pub enum Item {
    /// `function_call`, by route of the table where it stands for another tool than the one called.
    Function {
        /// Whether it is a `custom_tool_call`, and the arguments its input.
        custom: bool,
        /// The declared name.
        name: String,
        /// The declared namespace.
        namespace: Option<String>,
        /// The arguments as JSON text.
        arguments: String,
    },
    /// An item of any other type.
    Own {
        /// The item's `type`, such as `tool_search_call`.
        kind: &'static str,
        /// How its id begins, such as `tsc_`.
        prefix: &'static str,
        /// Members beside `id`, `type`, `status` and `call_id`.
        members: Map<String, Value>,
    },
}

/// The item for a call of `route` with these arguments (JSON text). Arguments that cannot be read leave a plain
/// function call: its client tells the model what is wrong.
pub fn item(table: &Table, route: &Route, arguments: &str) -> Item {
    let parsed = tree(arguments);
    let built = match route.kind {
        Kind::ToolSearch => Some(tool_search(parsed.as_ref(), arguments)),
        Kind::LocalShell => parsed.as_ref().and_then(local_shell),
        Kind::Shell => parsed.as_ref().and_then(shell),
        Kind::ApplyPatch => parsed.as_ref().and_then(apply_patch),
        Kind::Search(search) => parsed.as_ref().and_then(|value| by_shell(table, search, value)),
        Kind::Found => parsed.as_ref().and_then(|value| found(table, value)),
        Kind::Function | Kind::Custom(_) => None,
    };
    built.unwrap_or_else(|| Item::Function {
        custom: false,
        name: route.name.clone(),
        namespace: route.namespace.clone(),
        arguments: arguments.to_owned(),
    })
}

/// The tool that was found, as if it had been called by its own name. A name that was never found is passed on: the
/// client's words put the model right.
fn found(table: &Table, call: &Value) -> Option<Item> {
    let name = call.get("name")?.as_str()?;
    let arguments = match call.get("arguments") {
        None | Some(Value::Null) => json!({}),
        // a model that quotes the object means the object
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| json!({ "input": text })),
        Some(arguments) => arguments.clone(),
    };
    let route = match table.called(name) {
        Called::Tool(route) if route.kind != Kind::Found => route,
        _ => {
            let arguments = arguments.to_string();
            return Some(Item::Function { custom: false, name: name.to_owned(), namespace: None, arguments });
        }
    };
    if let Kind::Custom(_) = route.kind {
        let input = arguments.get("input").and_then(Value::as_str);
        return Some(Item::Function {
            custom: true,
            name: route.name.clone(),
            namespace: route.namespace.clone(),
            arguments: input.map_or(arguments.to_string(), str::to_owned),
        });
    }
    Some(item(table, route, &arguments.to_string()))
}

/// Codex wants an object here; a function call of `tool_search` would be "aborted" (docs/clients.md).
fn tool_search(parsed: Option<&Value>, arguments: &str) -> Item {
    let object = match parsed {
        Some(Value::Object(object)) => Value::Object(object.clone()),
        _ => json!({ "query": arguments.trim() }),
    };
    own("tool_search_call", ids::TOOL_SEARCH_CALL, [("execution", json!("client")), ("arguments", object)])
}

fn local_shell(arguments: &Value) -> Option<Item> {
    let command = match arguments.get("command")? {
        Value::String(line) => json!(["bash", "-lc", line]),
        vector => strings(vector)?,
    };
    let mut action = json!({ "type": "exec", "command": command, "env": {} });
    let directory = arguments.get("working_directory").or_else(|| arguments.get("workdir"));
    for (key, value) in [("working_directory", directory), ("timeout_ms", arguments.get("timeout_ms"))] {
        if let (Some(object), Some(value)) = (action.as_object_mut(), value.filter(|value| !value.is_null()))
        {
            object.insert(key.to_owned(), value.clone());
        }
    }
    Some(own("local_shell_call", ids::LOCAL_SHELL_CALL, [("action", action)]))
}

fn shell(arguments: &Value) -> Option<Item> {
    let commands = match arguments.get("commands").or_else(|| arguments.get("command"))? {
        Value::String(line) => json!([line]),
        vector => strings(vector)?,
    };
    let number = |key: &str| arguments.get(key).and_then(Value::as_u64);
    let action = json!({
        "commands": commands,
        "timeout_ms": number("timeout_ms"),
        "max_output_length": number("max_output_length"),
    });
    Some(own("shell_call", ids::SHELL_CALL, [("action", action)]))
}

fn apply_patch(arguments: &Value) -> Option<Item> {
    let text = |key: &str| arguments.get(key).and_then(Value::as_str);
    let path = text("path")?;
    let operation = match text("type")? {
        "delete_file" => json!({ "type": "delete_file", "path": path }),
        kind @ ("create_file" | "update_file") => {
            json!({ "type": kind, "path": path, "diff": text("diff")? })
        }
        _ => return None,
    };
    Some(own("apply_patch_call", "apc_", [("operation", operation)]))
}

/// The client's own shell tool runs the wrapper.
fn by_shell(table: &Table, search: Search, arguments: &Value) -> Option<Item> {
    let line = search.line(&table.wrappers, arguments)?;
    let shell = table.shell.as_ref()?;
    let route = table.routes.get(shell.route)?;
    if route.kind == Kind::LocalShell
        && let ShellForm::Vector(_) = shell.form
    {
        return local_shell(&shell.arguments(&line));
    }
    Some(Item::Function {
        custom: false,
        name: route.name.clone(),
        namespace: route.namespace.clone(),
        arguments: shell.arguments(&line).to_string(),
    })
}

fn strings(vector: &Value) -> Option<Value> {
    vector.as_array()?.iter().all(Value::is_string).then(|| vector.clone())
}

fn own<const N: usize>(kind: &'static str, prefix: &'static str, members: [(&str, Value); N]) -> Item {
    Item::Own {
        kind,
        prefix,
        members: members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}
