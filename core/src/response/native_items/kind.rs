//! Owns the words for what a native event is about: which kind of item, and how far it is. It must not remember anything.

use crate::wire::json;
use crate::wire::native_event::{Event, Part};
use crate::wire::request::fields;

/// What an item is, as far as its stream is concerned.
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
    /// A type that the upstream runs by itself (`web_search_call`, `mcp_call`, ...): passed on whole.
    Hosted,
}

impl ItemKind {
    /// By an item's `type`.
    pub fn of(type_name: &str) -> ItemKind {
        match type_name {
            "message" => ItemKind::Message,
            "reasoning" => ItemKind::Reasoning,
            "function_call" => ItemKind::FunctionCall,
            "custom_tool_call" => ItemKind::CustomToolCall,
            _ => ItemKind::Hosted,
        }
    }

    /// By the type of an event about the item.
    pub fn of_event(event_type: &str, event: &Event<'_>) -> ItemKind {
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

    /// Whether the client executes it.
    pub fn is_call(self) -> bool {
        matches!(self, ItemKind::FunctionCall | ItemKind::CustomToolCall)
    }
}

/// How far its upstream is with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Progress {
    /// An event is about it, and none announced it.
    Mentioned,
    /// `response.output_item.added` announced it.
    Announced,
    /// `response.output_item.done` ended it.
    Completed,
    /// The same, with the status `incomplete`.
    Incomplete,
}

/// What an event is about, by its type: `output_text` of `response.output_text.delta`.
pub(super) fn subject(event_type: &str) -> &str {
    let name = event_type.strip_prefix("response.").unwrap_or(event_type);
    name.split('.').next().unwrap_or(name)
}
