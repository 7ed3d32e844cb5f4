//! Owns the texts around a compaction: the prompt for a summary, the sealed content of a `compaction` item, and how a
//! summary is shown to the model. It must not call anything.

use serde::{Deserialize, Serialize};

/// Appended to the history to ask for a summary.
pub const PROMPT: &str = "\
Stop working on the task now. Write a summary of the conversation up to this point, for someone who will carry on \
without having seen it. Cover: what the user asked for, with every constraint and preference, in the user's own words \
where they matter; what was done and found out so far, with exact names, paths, commands, values and error messages; \
decisions and the reasons for them; what is unfinished, and the next steps in order. Leave out pleasantries and \
whatever no longer matters. Call no tool. Answer with the summary alone.";

/// Put before a summary that replaces what it summarises.
pub const SUMMARY_INTRODUCTION: &str =
    "The earlier part of this conversation was replaced by the following summary of it.\n\n";

/// The sealed content of a `compaction` item.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The text that the model wrote.
    pub text: String,
    /// Whether the summary replaces everything before the item. False if the client decides what to keep besides it
    /// (`compaction_trigger`, `POST /v1/responses/compact`).
    pub replaces: bool,
}

impl Summary {
    /// The form that is sealed.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Parses the sealed form; `None` if it is not a summary.
    pub fn read(json: &str) -> Option<Summary> {
        serde_json::from_str(json).ok()
    }
}
