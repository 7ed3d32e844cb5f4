//! Owns what each type of item contributes to a conversation, one arm for each type. It must not combine items.

use crate::fields::{beginning, present};
use crate::notes::Notes;
use crate::request::content::{Piece, pieces_of_any};
use crate::request::history::calls::{
    built_in_call, custom_tool_call, found_tools, function_call, output, shell_output,
};
use crate::request::history::reasoning::{is_thought, may_think, reasoning, summary, unread_summary};
use crate::request::history::{ReadContext, Role, Step};
use crate::request::plain_text;
use crate::tools::table::{Table, ToolKind};
use crate::wire::json;
use crate::wire::quoted::Quoted;
use crate::wire::request::{ChatCall, ChatFunction, ChatMessage, Item, elements, fields};
use serde_json::value::RawValue;

/// The contribution of the item at position `index` of all items. `item` is `None` if it is not an object.
pub(super) fn step<'a>(
    index: usize,
    raw: &'a RawValue,
    item: Option<&Item<'a>>,
    reading: &ReadContext<'_>,
    notes: &mut Notes,
) -> Step<'a> {
    let table = reading.table;
    let Some(item) = item else { return not_an_object(index, raw, notes) };
    let kind = present(item.r#type).and_then(json::decode);
    let read = match kind.as_deref() {
        Some("message") => message(raw, item, notes),
        None if item.role.is_some() => message(raw, item, notes),
        Some("reasoning") => Some(Step::Reasoning(reasoning(item, reading.seal, notes))),
        Some("function_call") => function_call(item, table, notes),
        Some("custom_tool_call") => custom_tool_call(item, table, notes),
        Some("tool_search_call") => built_in_call(item, table, ToolKind::ToolSearch, item.arguments, notes),
        Some("local_shell_call") => built_in_call(item, table, ToolKind::LocalShell, item.action, notes),
        Some("shell_call") => built_in_call(item, table, ToolKind::Shell, item.action, notes),
        Some("apply_patch_call") => built_in_call(item, table, ToolKind::ApplyPatch, item.operation, notes),
        Some(
            "function_call_output"
            | "custom_tool_call_output"
            | "local_shell_call_output"
            | "apply_patch_call_output",
        ) => output(item, notes),
        Some("shell_call_output") => shell_output(item, notes).or_else(|| output(item, notes)),
        Some("tool_search_output") => found_tools(item, table, notes).or_else(|| output(item, notes)),
        Some("agent_message") => agent_message(item, notes),
        Some("compaction" | "compaction_summary" | "context_compaction") => {
            summary(item, reading.seal).or_else(|| unread_summary(index, notes))
        }
        // read elsewhere as tools or settings, or meant for the proxy
        Some("additional_tools" | "compaction_trigger" | "configuration_update") => Some(Step::Skipped),
        _ => None,
    };
    read.unwrap_or_else(|| written_out(index, raw, item, kind.as_deref(), notes))
}

/// An element of the input that is not an object: its text, if it has any.
pub(super) fn not_an_object<'a>(index: usize, raw: &'a RawValue, notes: &mut Notes) -> Step<'a> {
    if raw.get().starts_with(['"', '[']) && raw.get() != "[]" {
        notes.add("written_item", &format!("input[{index}] is no object"));
        return Step::Prompt(Role::User, pieces_of_any(raw, notes));
    }
    notes.add("skipped_item", &format!("input[{index}] is no object"));
    Step::Skipped
}

/// An item of a type without a chat form: its content as user text.
pub(super) fn written_out<'a>(
    index: usize,
    raw: &'a RawValue,
    item: &Item<'a>,
    kind: Option<&str>,
    notes: &mut Notes,
) -> Step<'a> {
    let kind = kind.map(|kind| beginning(kind, KIND_BYTES));
    let what = format!("input[{index}] of type {}", kind.unwrap_or("null"));
    let images = [item.content, item.output].into_iter().filter_map(present);
    let images = images.filter(|raw| raw.get().contains("\"image_url\""));
    let images: Vec<Piece<'a>> = images.flat_map(|raw| pieces_of_any(raw, notes)).collect();
    let mut pieces: Vec<Piece<'a>> = match notes.may_rewrite(raw.get().len()) {
        true => {
            plain_text::of_item(raw, kind.unwrap_or("item")).iter().map(|text| Piece::owned(text)).collect()
        }
        false => vec![Piece::Quoted(Quoted::new(raw.get()))],
    };
    pieces.extend(images.into_iter().filter(|piece| !piece.is_text()));
    if pieces.is_empty() {
        notes.add("skipped_item", &what);
        return Step::Skipped;
    }
    notes.add("written_item", &what);
    Step::Prompt(Role::User, pieces)
}

/// A message between Codex's agents: a task, an update, a result. Its text includes a header.
pub(super) fn agent_message<'a>(item: &Item<'a>, notes: &mut Notes) -> Option<Step<'a>> {
    let pieces = pieces_of_any(present(item.content)?, notes);
    (!pieces.is_empty()).then_some(Step::Prompt(Role::User, pieces))
}

/// A `message` item, without the reasoning in its content. `None` if it has neither a role nor content.
pub(super) fn message<'a>(raw: &'a RawValue, item: &Item<'a>, notes: &mut Notes) -> Option<Step<'a>> {
    let of_assistant = || {
        let role = present(item.role).and_then(json::decode);
        role.is_some_and(|role| role.trim().eq_ignore_ascii_case("assistant"))
    };
    let content = match present(item.content) {
        Some(content) if content.get().starts_with('[') && may_think(content) && of_assistant() => {
            let parts = elements(content.get()).into_iter().filter(|part| !is_thought(part));
            parts.flat_map(|part| pieces_of_any(part, notes)).collect()
        }
        Some(content) => pieces_of_any(content, notes),
        None => Vec::new(),
    };
    let Some(role) = present(item.role).and_then(json::decode) else {
        return (!content.is_empty()).then_some(Step::Prompt(Role::User, content));
    };
    Some(match &*role {
        "user" => Step::Prompt(Role::User, content),
        "assistant" => Step::Message(content.into_iter().map(Piece::into_text).collect()),
        "system" => Step::Prompt(Role::System, content),
        "developer" => Step::Prompt(Role::Developer, content),
        _ => message_with_other_role(raw, &role, content),
    })
}

/// The calls of an assistant message in Chat Completions form. Such a message has a string or null as its content, and
/// other members that are longer than [`CHAT_CALL`].
pub(super) fn chat_calls<'a>(
    raw: &'a RawValue,
    item: Option<&Item<'a>>,
    table: &Table,
    notes: &mut Notes,
) -> Vec<Step<'a>> {
    let content = item.and_then(|item| present(item.content)).map_or("", RawValue::get);
    let rest = raw.get().len() - content.len().min(raw.get().len());
    if content.starts_with('[') || rest < CHAT_CALL || !raw.get().contains("\"tool_calls\"") {
        return Vec::new();
    }
    let message: ChatMessage<'a> = fields(raw).unwrap_or_default();
    let Some(calls) = present(message.tool_calls) else { return Vec::new() };
    // some servers wrote a single call without an array
    let calls = if calls.get().starts_with('{') { vec![calls] } else { elements(calls.get()) };
    let call = |raw: &'a RawValue| {
        let call: ChatCall<'a> = fields(raw)?;
        let ChatFunction { name, arguments } = fields(present(call.function)?)?;
        function_call(&Item { call_id: call.id, name, arguments, ..Item::default() }, table, notes)
    };
    calls.into_iter().filter_map(call).collect()
}

/// Longest part of an unknown role or type that is shown, in bytes.
pub(super) const KIND_BYTES: usize = 200;

/// No call is shorter than this, in bytes.
pub(super) const CHAT_CALL: usize = 64;

/// A message with an unusually spelled role, or a role of Chat Completions, where a tool message names its call.
pub(super) fn message_with_other_role<'a>(
    raw: &'a RawValue,
    role: &str,
    content: Vec<Piece<'a>>,
) -> Step<'a> {
    match beginning(role.trim(), KIND_BYTES).to_ascii_lowercase().as_str() {
        "user" => Step::Prompt(Role::User, content),
        "assistant" => Step::Message(content.into_iter().map(Piece::into_text).collect()),
        "system" => Step::Prompt(Role::System, content),
        "developer" => Step::Prompt(Role::Developer, content),
        kind @ ("tool" | "function") => {
            let chat: ChatMessage<'a> = fields(raw).unwrap_or_default();
            let id = present(chat.tool_call_id).or(present(chat.call_id)).and_then(json::text);
            if let Some(id) = id.filter(|id| !id.is_empty()) {
                return Step::Output { id, pieces: content };
            }
            let name = present(chat.name).and_then(json::decode).unwrap_or_default();
            let head =
                Piece::owned(&if name.is_empty() { format!("[{kind}]") } else { format!("[{kind} {name}]") });
            Step::Prompt(Role::User, std::iter::once(head).chain(content).collect())
        }
        _ => Step::UnknownRole(beginning(role, KIND_BYTES).to_owned(), content),
    }
}
