//! Owns the kinds of native items and the stages of their progress. It must not keep any state.

use crate::wire::json;
use crate::wire::native_event::{Event, Part};
use crate::wire::request::fields;

/// The kind of an item, as far as streaming is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemKind {
    /// `message`
    Message,
    /// `reasoning`
    Reasoning,
    /// `function_call`
    FunctionCall,
    /// `custom_tool_call`
    CustomToolCall,
    /// Any type that the upstream runs itself (`web_search_call`, `mcp_call`, ...): passed on unchanged.
    Hosted,
}

impl ItemKind {
    /// The kind for an item's `type`.
    pub fn from_type(type_name: &str) -> ItemKind {
        match type_name {
            "message" => ItemKind::Message,
            "reasoning" => ItemKind::Reasoning,
            "function_call" => ItemKind::FunctionCall,
            "custom_tool_call" => ItemKind::CustomToolCall,
            _ => ItemKind::Hosted,
        }
    }

    /// The kind of item that an event of this type is about.
    pub fn from_event(event_type: &str, event: &Event<'_>) -> ItemKind {
        match subject(event_type) {
            "output_text" | "refusal" => ItemKind::Message,
            "content_part" => {
                let part: Part<'_> = event.part.and_then(fields).unwrap_or_default();
                let reasoning =
                    part.r#type.and_then(json::decode).is_some_and(|kind| kind == "reasoning_text");
                if reasoning { ItemKind::Reasoning } else { ItemKind::Message }
            }
            name if name.starts_with("reasoning") => ItemKind::Reasoning,
            "function_call_arguments" => ItemKind::FunctionCall,
            "custom_tool_call_input" => ItemKind::CustomToolCall,
            _ => ItemKind::Hosted,
        }
    }

    /// Whether the client executes the item.
    pub fn is_call(self) -> bool {
        matches!(self, ItemKind::FunctionCall | ItemKind::CustomToolCall)
    }
}

/// How far the upstream is with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Progress {
    /// An event mentioned it before any announcement.
    Mentioned,
    /// `response.output_item.added` announced it.
    Announced,
    /// `response.output_item.done` closed it.
    Completed,
    /// The same, with status `incomplete`.
    Incomplete,
}

/// What an event's type is about: `output_text` for `response.output_text.delta`.
pub(super) fn subject(event_type: &str) -> &str {
    let name = event_type.strip_prefix("response.").unwrap_or(event_type);
    name.split('.').next().unwrap_or(name)
}
