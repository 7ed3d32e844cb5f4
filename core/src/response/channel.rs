//! Owns which texts an answer has, and how the parts and events of each are called. It must not hold any text.

/// Which text of an answer a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// A message's text.
    Text,
    /// A message's refusal.
    Refusal,
    /// Reasoning itself.
    Reasoning,
    /// A summary of reasoning, by a server that writes one.
    Summary,
}

impl Channel {
    /// By the `type` of a part of an item.
    pub fn of_part(kind: &str) -> Option<Channel> {
        Some(match kind {
            "output_text" | "text" => Channel::Text,
            "refusal" => Channel::Refusal,
            "reasoning_text" => Channel::Reasoning,
            "summary_text" => Channel::Summary,
            _ => return None,
        })
    }

    /// Whether its text belongs to a `reasoning` item, not to a `message`.
    pub fn is_reasoning(self) -> bool {
        matches!(self, Channel::Reasoning | Channel::Summary)
    }
}

/// What kinds of text stream in parts, and how their events are called (docs/protocol.md 7).
#[derive(Debug)]
pub(crate) struct Family {
    /// Its part's events: `added` and `done`.
    pub part: [&'static str; 2],
    /// Its text's events: `delta` and `done`.
    pub text: [&'static str; 2],
    pub index: &'static str,
    pub kind: &'static str,
    pub field: &'static str,
    /// Whether its parts stand in the item's `summary`, not in its `content`.
    pub summary: bool,
}

/// They are told apart by their kinds, at every token.
impl PartialEq for Family {
    fn eq(&self, other: &Family) -> bool {
        self.kind == other.kind
    }
}

/// A message's text.
pub(crate) const OUTPUT_TEXT: Family = Family {
    part: ["response.content_part.added", "response.content_part.done"],
    text: ["response.output_text.delta", "response.output_text.done"],
    index: "content_index",
    kind: "output_text",
    field: "text",
    summary: false,
};
/// A message's refusal.
pub(crate) const REFUSAL: Family = Family {
    part: ["response.content_part.added", "response.content_part.done"],
    text: ["response.refusal.delta", "response.refusal.done"],
    index: "content_index",
    kind: "refusal",
    field: "refusal",
    summary: false,
};
/// Reasoning shown as its summary.
pub(crate) const SUMMARY: Family = Family {
    part: ["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"],
    text: ["response.reasoning_summary_text.delta", "response.reasoning_summary_text.done"],
    index: "summary_index",
    kind: "summary_text",
    field: "text",
    summary: true,
};
/// Reasoning shown as itself.
pub(crate) const REASONING_TEXT: Family = Family {
    part: ["response.content_part.added", "response.content_part.done"],
    text: ["response.reasoning_text.delta", "response.reasoning_text.done"],
    index: "content_index",
    kind: "reasoning_text",
    field: "text",
    summary: false,
};
