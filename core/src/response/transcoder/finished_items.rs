//! Owns the items of a response that are finished, and the numbers of all. It must not open or close any.

use crate::response::shared::Text;

/// The response's `output` so far.
#[derive(Debug, Default)]
pub(super) struct FinishedItems {
    /// Finished items, joined with commas.
    json: Text,
    /// Their `output_text`, escaped.
    output_text: Text,
    /// How many items were opened.
    opened: u64,
    /// How many of them stand before the answer.
    before: u64,
}

impl FinishedItems {
    /// The `output_index` of the item that is opened next.
    pub(super) fn next_index(&self) -> u64 {
        self.opened
    }

    /// An item was opened under that index.
    pub(super) fn count(&mut self) {
        self.opened += 1;
    }

    /// What was opened so far is no part of the answer.
    pub(super) fn begin_answer(&mut self) {
        self.before = self.opened;
    }

    /// Whether no item of the answer was opened.
    pub(super) fn has_no_answer(&self) -> bool {
        self.opened == self.before
    }

    /// Adds a finished item, and what of it is the response's `output_text`.
    pub(super) fn push(&mut self, item: Text, output_text: Text) {
        self.output_text.append(output_text);
        if !self.json.is_empty() {
            self.json.push(b",");
        }
        self.json.append(item);
    }

    /// The items, joined with commas.
    pub(super) fn json(&self) -> &Text {
        &self.json
    }

    /// The `output_text` of all items, escaped.
    pub(super) fn output_text(&self) -> &Text {
        &self.output_text
    }

    /// Gives the items away, as a JSON array.
    pub(super) fn take(&mut self) -> String {
        let mut array = std::mem::take(&mut self.json).into_string();
        array.insert(0, '[');
        array.push(']');
        array
    }

    /// Bytes of the texts.
    pub(super) fn held(&self) -> usize {
        self.json.length() + self.output_text.length()
    }
}
