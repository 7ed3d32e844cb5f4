//! Owns calls that become items of their own type: the item that the client acts on, made from a chat function's
//! arguments. It must not know the stream.

use serde_json::{Map, Value, json};

use crate::ids;
use crate::tools::search::{Search, ShellForm};
use crate::tools::table::{Called, DeclaredTool, Table, ToolKind};
use crate::wire::json::tree;

/// The item that a call becomes.
#[derive(Debug, PartialEq)]
pub enum Item {
    /// A `function_call` or `custom_tool_call`, possibly of another tool than the one called.
    Function {
        /// Whether it is a `custom_tool_call`; its input is then in `arguments`.
        custom: bool,
        /// The declared name.
        name: String,
        /// The declared namespace.
        namespace: Option<String>,
        /// The arguments as JSON text, or the input.
        arguments: String,
    },
    /// An item of another type.
    BuiltIn {
        /// The `type` of the item, such as `tool_search_call`.
        kind: &'static str,
        /// The prefix of its id, such as `tsc_`.
        prefix: &'static str,
        /// Members other than `id`, `type`, `status` and `call_id`.
        members: Map<String, Value>,
    },
}

/// The item for a call of `tool` with these arguments (JSON text). With invalid arguments it is a plain function call,
/// so that the client can tell the model what is wrong.
pub fn item(table: &Table, tool: &DeclaredTool, arguments: &str) -> Item {
    let parsed = tree(arguments);
    let built = match tool.kind {
        ToolKind::ToolSearch => Some(tool_search(parsed.as_ref(), arguments)),
        ToolKind::LocalShell => parsed.as_ref().and_then(local_shell),
        ToolKind::Shell => parsed.as_ref().and_then(shell),
        ToolKind::ApplyPatch => parsed.as_ref().and_then(apply_patch),
        ToolKind::Search(search) => parsed.as_ref().and_then(|value| by_shell_tool(table, search, value)),
        ToolKind::Found => parsed.as_ref().and_then(|value| found_tool(table, value)),
        ToolKind::Function | ToolKind::Custom(_) => None,
    };
    built.unwrap_or_else(|| Item::Function {
        custom: false,
        name: tool.name.clone(),
        namespace: tool.namespace.clone(),
        arguments: arguments.to_owned(),
    })
}

/// The call of a found tool, as if the model had called it directly. An unknown name is passed on: the client's answer
/// corrects the model.
fn found_tool(table: &Table, call: &Value) -> Option<Item> {
    let name = call.get("name")?.as_str()?;
    let arguments = match call.get("arguments") {
        None | Some(Value::Null) => json!({}),
        // a string with an object inside stands for that object
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| json!({ "input": text })),
        Some(arguments) => arguments.clone(),
    };
    let tool = match table.called(name) {
        Called::Tool(tool) if tool.kind != ToolKind::Found => tool,
        _ => {
            let arguments = arguments.to_string();
            return Some(Item::Function { custom: false, name: name.to_owned(), namespace: None, arguments });
        }
    };
    if let ToolKind::Custom(_) = tool.kind {
        let input = arguments.get("input").and_then(Value::as_str);
        return Some(Item::Function {
            custom: true,
            name: tool.name.clone(),
            namespace: tool.namespace.clone(),
            arguments: input.map_or(arguments.to_string(), str::to_owned),
        });
    }
    Some(item(table, tool, &arguments.to_string()))
}

/// Codex requires an object here, and aborts a function call of `tool_search` (docs/clients.md).
fn tool_search(parsed: Option<&Value>, arguments: &str) -> Item {
    let object = match parsed {
        Some(Value::Object(object)) => Value::Object(object.clone()),
        _ => json!({ "query": arguments.trim() }),
    };
    built_in(
        "tool_search_call",
        ids::TOOL_SEARCH_CALL,
        [("execution", json!("client")), ("arguments", object)],
    )
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
    Some(built_in("local_shell_call", ids::LOCAL_SHELL_CALL, [("action", action)]))
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
    Some(built_in("shell_call", ids::SHELL_CALL, [("action", action)]))
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
    Some(built_in("apply_patch_call", "apc_", [("operation", operation)]))
}

/// The call of the client's shell tool that runs the wrapper command.
fn by_shell_tool(table: &Table, search: Search, arguments: &Value) -> Option<Item> {
    let line = search.line(&table.wrappers, arguments)?;
    let shell = table.shell.as_ref()?;
    let tool = table.tools.get(shell.tool)?;
    if tool.kind == ToolKind::LocalShell
        && let ShellForm::Vector(_) = shell.form
    {
        return local_shell(&shell.arguments(&line));
    }
    Some(Item::Function {
        custom: false,
        name: tool.name.clone(),
        namespace: tool.namespace.clone(),
        arguments: shell.arguments(&line).to_string(),
    })
}

fn strings(vector: &Value) -> Option<Value> {
    vector.as_array()?.iter().all(Value::is_string).then(|| vector.clone())
}

fn built_in<const N: usize>(kind: &'static str, prefix: &'static str, members: [(&str, Value); N]) -> Item {
    Item::BuiltIn {
        kind,
        prefix,
        members: members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}
