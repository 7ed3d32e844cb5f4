//! Owns the channels of an answer's text, and the names of the parts and events of each. It must not hold any text.

/// The channel that a piece of text belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// A message's text.
    Text,
    /// A message's refusal.
    Refusal,
    /// The text of reasoning.
    Reasoning,
    /// A summary of reasoning, from servers that write one.
    Summary,
}

impl Channel {
    /// The channel for the `type` of a content part.
    pub fn of_part(kind: &str) -> Option<Channel> {
        Some(match kind {
            "output_text" | "text" => Channel::Text,
            "refusal" => Channel::Refusal,
            "reasoning_text" => Channel::Reasoning,
            "summary_text" => Channel::Summary,
            _ => return None,
        })
    }

    /// Whether the channel belongs to a `reasoning` item rather than a `message`.
    pub fn is_reasoning(self) -> bool {
        matches!(self, Channel::Reasoning | Channel::Summary)
    }
}

/// A kind of content part, with the names of its events and members (docs/protocol.md 7).
#[derive(Debug)]
pub(crate) struct PartKind {
    /// Part events: `added` and `done`.
    pub part: [&'static str; 2],
    /// Text events: `delta` and `done`.
    pub text: [&'static str; 2],
    pub index: &'static str,
    pub kind: &'static str,
    pub field: &'static str,
    /// Whether the part goes into the item's `summary` instead of its `content`.
    pub summary: bool,
}

/// Kinds identify families, and are compared for every token.
impl PartialEq for PartKind {
    fn eq(&self, other: &PartKind) -> bool {
        self.kind == other.kind
    }
}

/// A message's text.
pub(crate) const OUTPUT_TEXT: PartKind = PartKind {
    part: ["response.content_part.added", "response.content_part.done"],
    text: ["response.output_text.delta", "response.output_text.done"],
    index: "content_index",
    kind: "output_text",
    field: "text",
    summary: false,
};
/// A message's refusal.
pub(crate) const REFUSAL: PartKind = PartKind {
    part: ["response.content_part.added", "response.content_part.done"],
    text: ["response.refusal.delta", "response.refusal.done"],
    index: "content_index",
    kind: "refusal",
    field: "refusal",
    summary: false,
};
/// Reasoning shown as a summary.
pub(crate) const SUMMARY: PartKind = PartKind {
    part: ["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"],
    text: ["response.reasoning_summary_text.delta", "response.reasoning_summary_text.done"],
    index: "summary_index",
    kind: "summary_text",
    field: "text",
    summary: true,
};
/// Reasoning shown as text.
pub(crate) const REASONING_TEXT: PartKind = PartKind {
    part: ["response.content_part.added", "response.content_part.done"],
    text: ["response.reasoning_text.delta", "response.reasoning_text.done"],
    index: "content_index",
    kind: "reasoning_text",
    field: "text",
    summary: false,
};
