//! Owns the finished items of a response, and the next output index. It must not open or close items.

use crate::response::shared::Text;

/// The `output` of the response so far.
#[derive(Debug, Default)]
pub(super) struct FinishedItems {
    /// Finished items as JSON, joined with commas.
    json: Text,
    /// The text of their `output_text` parts, escaped.
    output_text: Text,
    /// How many items have been opened.
    opened: u64,
    /// How many of them precede the answer.
    before: u64,
}

impl FinishedItems {
    /// The `output_index` of the item that is opened next.
    pub(super) fn next_index(&self) -> u64 {
        self.opened
    }

    /// Counts an opened item.
    pub(super) fn count(&mut self) {
        self.opened += 1;
    }

    /// Marks all items opened so far as preceding the answer.
    pub(super) fn begin_answer(&mut self) {
        self.before = self.opened;
    }

    /// Whether no item of the answer has been opened.
    pub(super) fn has_no_answer(&self) -> bool {
        self.opened == self.before
    }

    /// Adds a finished item, and its contribution to `output_text`.
    pub(super) fn push(&mut self, item: Text, output_text: Text) {
        self.output_text.append(output_text);
        if !self.json.is_empty() {
            self.json.push(b",");
        }
        self.json.append(item);
    }

    /// The finished items as JSON, joined with commas.
    pub(super) fn json(&self) -> &Text {
        &self.json
    }

    /// The `output_text` of all items, escaped.
    pub(super) fn output_text(&self) -> &Text {
        &self.output_text
    }

    /// Takes the items as a JSON array.
    pub(super) fn take(&mut self) -> String {
        let mut array = std::mem::take(&mut self.json).into_string();
        array.insert(0, '[');
        array.push(']');
        array
    }

    /// Bytes held.
    pub(super) fn held(&self) -> usize {
        self.json.length() + self.output_text.length()
    }
}
