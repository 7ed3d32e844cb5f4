//! Owns calls and their outputs in chat form. It must not pair them.

use crate::fields::present;
use crate::notes::Notes;
use crate::request::content::{Piece, pieces_of_any};
use crate::request::history::{Step, escaped};
use crate::tools::search::{Search, vector_line};
use crate::tools::table::{Table, ToolKind};
use crate::wire::quoted::Quoted;
use crate::wire::request::{Item, Tool};
use crate::wire::{json, trusted_json};
use serde_json::Value;
use serde_json::json as value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The namespace and name of a call; `None` if the name is missing or too long to be a tool's.
pub(super) fn named<'a>(item: &Item<'a>) -> Option<(Option<Cow<'a, str>>, Cow<'a, str>)> {
    let short = |raw: &&RawValue| raw.get().len() < LONG_NAME;
    let name = present(item.name).filter(short).and_then(json::decode).filter(|name| !name.is_empty())?;
    let namespace = match present(item.namespace) {
        Some(namespace) => Some(Some(namespace).filter(short)?).and_then(json::decode),
        None => None,
    };
    Some((namespace, name))
}

/// A name's JSON literal of this many bytes belongs to no tool.
pub(super) const LONG_NAME: usize = 4096;

/// A `function_call` item in chat form. A call that this proxy turned into a shell command becomes the search call
/// again, and a found tool is called through its function. `None` without a usable name.
pub(super) fn function_call<'a>(item: &Item<'a>, table: &Table, notes: &mut Notes) -> Option<Step<'a>> {
    let (namespace, name) = named(item)?;
    let id = present(item.call_id).and_then(json::text).unwrap_or_default();
    let arguments = present(item.arguments);
    if table.shell.is_some()
        && let Some(text) = arguments.and_then(json::decode)
        && let Some((search, call)) = table.search_in(&name, &text)
    {
        return Some(search_call(id, search, &call));
    }
    let chat = table.chat_name(namespace.as_deref(), &name);
    let arguments = arguments_object(arguments, notes);
    if let Some(caller) = table.caller_of(&chat) {
        // written the way the model wrote it; both parts are escaped already
        let before = json::escape(&format!("{{\"name\":{},\"arguments\":", value!(chat))).into_owned();
        let mut call = Vec::with_capacity(before.len() + arguments.length());
        call.extend_from_slice(before.as_bytes());
        arguments.push_text(&mut call);
        call.push(b'}');
        let arguments = Piece::Text(Cow::Owned(String::from_utf8(call).unwrap_or_default()));
        return Some(Step::Call { id, name: escaped(&caller.chat), arguments });
    }
    Some(Step::Call { id, name: escaped(&chat), arguments })
}

/// A call of the proxy's search function, which the client saw as a shell command.
pub(super) fn search_call<'a>(id: Cow<'a, str>, search: Search, call: &Value) -> Step<'a> {
    Step::Call { id, name: Cow::Borrowed(search.function().0), arguments: Piece::owned(&call.to_string()) }
}

/// A custom tool call, in the form in which the model wrote it: `{"input": "..."}`.
pub(super) fn custom_tool_call<'a>(item: &Item<'a>, table: &Table, notes: &mut Notes) -> Option<Step<'a>> {
    let (namespace, name) = named(item)?;
    let id = present(item.call_id).and_then(json::text).unwrap_or_default();
    let name = escaped(&table.chat_name(namespace.as_deref(), &name));
    let input = present(item.input).filter(|input| input.get().starts_with('"'));
    let arguments = match input {
        // equivalent, but keeps the client's escapes
        Some(input) if !notes.may_rewrite(input.get().len()) => {
            Piece::Quoted(Quoted::member("{\"input\":", input.get()))
        }
        _ => Piece::owned(&value!({ "input": input.and_then(json::decode).unwrap_or_default() }).to_string()),
    };
    Some(Step::Call { id, name, arguments })
}

/// A call of a built-in tool, whose item has its own type. `arguments`: the member with the model's arguments.
pub(super) fn built_in_call<'a>(
    item: &Item<'a>,
    table: &Table,
    kind: ToolKind,
    arguments: Option<&'a RawValue>,
    notes: &mut Notes,
) -> Option<Step<'a>> {
    let name = kind.type_name();
    let id = present(item.call_id).or(present(item.id)).and_then(json::text).unwrap_or_default();
    let mut tree =
        |raw: &RawValue| notes.may_rewrite(raw.get().len()).then(|| json::tree(raw.get())).flatten();
    let mut arguments: Value = match present(arguments).map(|raw| (raw, tree(raw))) {
        Some((_, Some(value))) => value,
        // too wide or too long to be parsed
        Some((raw, None)) => {
            let name = escaped(table.of_kind(kind).map_or(name, |route| &route.chat));
            return Some(Step::Call { id, name, arguments: arguments_object(Some(raw), notes) });
        }
        None => value!({}),
    };
    if kind == ToolKind::LocalShell {
        let line = arguments.get("command").and_then(vector_line);
        if let Some((search, call)) = line.and_then(|line| Search::from_line(&table.wrappers, &line)) {
            return Some(search_call(id, search, &call));
        }
    }
    if let Some(object) = arguments.as_object_mut() {
        // added by the client or the proxy, not by the model
        object.retain(|key, value| !(value.is_null() || key == "env" && *value == value!({})));
        if kind == ToolKind::LocalShell {
            object.shift_remove("type");
        }
    }
    let name = table.of_kind(kind).map_or(name, |route| &route.chat);
    Some(Step::Call { id, name: escaped(name), arguments: Piece::owned(&arguments.to_string()) })
}

/// The output of a `shell` call, command by command.
pub(super) fn shell_output<'a>(item: &Item<'a>, notes: &mut Notes) -> Option<Step<'a>> {
    let id = present(item.call_id).and_then(json::text).unwrap_or_default();
    let results = present(item.output).filter(|raw| raw.get().starts_with('['))?;
    if !notes.may_rewrite(results.get().len()) {
        return Some(Step::Output { id, pieces: vec![Piece::Quoted(Quoted::new(results.get()))] });
    }
    let results = json::tree(results.get())?;
    let text = |result: &Value, key: &str| result.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut shown = String::new();
    for result in results.as_array()? {
        shown.push_str(&text(result, "stdout"));
        let stderr = text(result, "stderr");
        if !stderr.is_empty() {
            shown.push_str(&format!("\n[stderr]\n{stderr}"));
        }
        match result.get("outcome").and_then(|outcome| outcome.get("exit_code")) {
            Some(code) => shown.push_str(&format!("\n[exit code {code}]\n")),
            None => shown.push_str("\n[timed out]\n"),
        }
    }
    Some(Step::Output { id, pieces: vec![Piece::Text(escaped(&shown))] })
}

/// The result of a tool search: names and descriptions. The tools themselves are among the request's tools by now.
pub(super) fn found_tools<'a>(item: &Item<'a>, table: &Table, notes: &mut Notes) -> Option<Step<'a>> {
    let id = present(item.call_id).and_then(json::text).unwrap_or_default();
    let mut shown = String::new();
    let mut left = MOST_FOUND;
    let tools = present(item.tools)?;
    if !notes.may_rewrite(tools.get().len()) {
        return Some(Step::Output { id, pieces: vec![Piece::Quoted(Quoted::new(tools.get()))] });
    }
    list(tools, None, table, &mut left, &mut shown)?;
    if shown.is_empty() {
        shown.push_str("No tools were found.");
    }
    Some(Step::Output { id, pieces: vec![Piece::Text(escaped(shown.trim_end()))] })
}

/// Most tools listed in one output; a request cannot declare more.
pub(super) const MOST_FOUND: usize = 2048;

/// Appends a line for each tool. `None` if `tools` is not an array.
pub(super) fn list(
    tools: &RawValue,
    namespace: Option<&str>,
    table: &Table,
    left: &mut usize,
    into: &mut String,
) -> Option<()> {
    trusted_json::objects(tools.get(), &mut Vec::<()>::new(), |_, tool: Option<Tool<'_>>| {
        let tool = tool?;
        let text = |raw: Option<&RawValue>| raw.and_then(json::decode).unwrap_or_default().into_owned();
        if let Some(nested) = tool.tools.filter(|nested| nested.get().starts_with('[')) {
            // tools of a nested namespace are not declared either
            if namespace.is_none() {
                list(nested, Some(&text(tool.name)), table, left, into);
            }
            return None;
        }
        *left = left.checked_sub(1)?;
        let name = text(tool.name);
        let chat = table.chat_name(namespace, &name);
        into.push_str(&chat);
        into.push_str(": ");
        let description = text(tool.description);
        if table.caller_of(&chat).is_some() {
            // the model sees nothing else of it
            let parameters = tool.parameters.map_or(Cow::Borrowed(""), |raw| json::minify(raw.get()));
            into.push_str(&format!("{description}\nIts parameters: {parameters}\n"));
        } else {
            into.push_str(description.lines().next().unwrap_or(""));
            into.push('\n');
        }
        None
    })
    .map(drop)
}

/// Arguments in a form that the upstream accepts: llama-server and vLLM parse them, and refuse the whole request if
/// they are not a JSON object. Invalid arguments are wrapped in an object, so that the model can still read them.
pub(super) fn arguments_object<'a>(raw: Option<&'a RawValue>, notes: &mut Notes) -> Piece<'a> {
    let empty = Piece::Text(Cow::Borrowed("{}"));
    let Some(raw) = raw else { return empty };
    let whole = Piece::Quoted(Quoted::member("{\"invalid_arguments\":", raw.get()));
    let Some(text) = json::decode(raw) else {
        // not a string: an object is used as it is, anything else is wrapped
        return match (raw.get().starts_with('{'), notes.may_rewrite(raw.get().len())) {
            (true, true) => Piece::owned(&json::minify(raw.get())),
            (true, false) => Piece::Quoted(Quoted::new(raw.get())),
            (false, true) => wrapped(raw.get()),
            (false, false) => whole,
        };
    };
    if text.trim().is_empty() {
        return empty;
    }
    let object =
        text.trim_start().starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
    match json::text(raw) {
        Some(escaped) if object => Piece::Text(escaped),
        _ if notes.may_rewrite(raw.get().len()) => wrapped(&text),
        _ => whole,
    }
}

/// Invalid arguments inside an object, where the model can still read them.
pub(super) fn wrapped<'a>(text: &str) -> Piece<'a> {
    Piece::owned(&value!({ "invalid_arguments": text }).to_string())
}

/// The output of a call. Without an `output` member, the item's status is the output.
pub(super) fn output<'a>(item: &Item<'a>, notes: &mut Notes) -> Option<Step<'a>> {
    let id = present(item.call_id).or(present(item.id)).and_then(json::text).unwrap_or_default();
    let content = match present(item.output) {
        None => present(item.status).and_then(json::text).map(Piece::Text).into_iter().collect(),
        Some(raw) => pieces_of_any(raw, notes),
    };
    Some(Step::Output { id, pieces: content })
}
