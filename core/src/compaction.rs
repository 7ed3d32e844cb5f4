//! Owns the text around a compaction: what the model is asked for, what is sealed into a `compaction` item, and how it
//! is shown again. It must not call anything.

use serde::{Deserialize, Serialize};

/// Put behind the history when its summary is wanted.
pub const PROMPT: &str = "\
Stop working on the task now. Write a summary of the conversation up to this point, for someone who will carry on \
without having seen it. Cover: what the user asked for, with every constraint and preference, in the user's own words \
where they matter; what was done and found out so far, with exact names, paths, commands, values and error messages; \
decisions and the reasons for them; what is unfinished, and the next steps in order. Leave out pleasantries and \
whatever no longer matters. Call no tool. Answer with the summary alone.";

/// Put before a summary that takes the place of what it sums up.
pub const SUMMARY_INTRODUCTION: &str =
    "The earlier part of this conversation was replaced by the following summary of it.\n\n";

/// What a `compaction` item carries, sealed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The model's own words.
    pub text: String,
    /// Whether everything before the item is covered by it. False where the client itself decides what to keep beside
    /// the summary (`compaction_trigger`, `POST /v1/responses/compact`).
    pub replaces: bool,
}

impl Summary {
    /// As it is sealed.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what was sealed.
    pub fn read(json: &str) -> Option<Summary> {
        serde_json::from_str(json).ok()
    }
}
