//! Owns the words for what a native event is about: which sort of item, which of its texts. It must not remember anything.

use crate::wire::json;
use crate::wire::native_event::{Event, Part};
use crate::wire::request::fields;

/// What an item is, as far as its stream is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    Message,
    Reasoning,
    /// `function_call`; true: `custom_tool_call`.
    Call(bool),
    /// A type that the upstream runs by itself (`web_search_call`, `mcp_call`, ...): passed on whole.
    Own,
}

impl ItemKind {
    /// Of an item's `type`.
    pub fn of(kind: &str) -> ItemKind {
        match kind {
            "message" => ItemKind::Message,
            "reasoning" => ItemKind::Reasoning,
            "function_call" => ItemKind::Call(false),
            "custom_tool_call" => ItemKind::Call(true),
            _ => ItemKind::Own,
        }
    }

    /// Of the item that an event of this type is about.
    pub fn of_event(kind: &str, event: &Event<'_>) -> ItemKind {
        match subject(kind) {
            "output_text" | "refusal" => ItemKind::Message,
            "content_part" => {
                let part: Part<'_> = event.part.and_then(fields).unwrap_or_default();
                let reasoning =
                    part.r#type.and_then(json::decode).is_some_and(|kind| kind == "reasoning_text");
                if reasoning { ItemKind::Reasoning } else { ItemKind::Message }
            }
            name if name.starts_with("reasoning") => ItemKind::Reasoning,
            "function_call_arguments" => ItemKind::Call(false),
            "custom_tool_call_input" => ItemKind::Call(true),
            _ => ItemKind::Own,
        }
    }
}

/// Which text of an item a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    Output,
    Refusal,
    Raw,
    Summary,
}

impl Text {
    /// Of a part's `type`.
    pub fn of_part(kind: &str) -> Option<Text> {
        Some(match kind {
            "output_text" | "text" => Text::Output,
            "refusal" => Text::Refusal,
            "reasoning_text" => Text::Raw,
            "summary_text" => Text::Summary,
            _ => return None,
        })
    }
}

/// Where a piece of text goes.
#[derive(Debug, PartialEq, Eq)]
pub enum PartMatch {
    /// On with the open part.
    Same,
    /// A part begins.
    New,
    /// Its part is closed.
    Late,
}

/// What an event is about, by its type: `output_text` of `response.output_text.delta`.
pub fn subject(kind: &str) -> &str {
    let name = kind.strip_prefix("response.").unwrap_or(kind);
    name.split('.').next().unwrap_or(name)
}
