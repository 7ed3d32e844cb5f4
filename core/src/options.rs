//! Owns what a plan depends on besides the request: the server's dialect, what the operator configured, what the client's
//! headers ask for.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::responses_profile::ResponsesProfile;
use crate::sealing::Seal;

/// How the upstream's reasoning reaches the client (docs/protocol.md 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningDisplay {
    /// As `reasoning_summary_*` events and `summary` parts, which every client shows.
    Summary,
    /// As `reasoning_text` events and `content` parts.
    Text,
    /// The client gets no reasoning.
    Hidden,
}

/// Whose reasoning is also sealed into `encrypted_content`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealReasoning {
    /// That of every response which is not stored: its client has to carry it, whether it asks or not.
    Unstored,
    /// That of requests which include `reasoning.encrypted_content`.
    Asked,
}

/// What becomes of `system` and `developer` messages (docs/protocol.md 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeveloperMessages {
    /// The leading run is one system message, later ones are sent as user text.
    Leading,
    /// Every one is merged into the first message.
    All,
    /// Roles go upstream as they came.
    Keep,
}

/// What becomes of tools that a tool search finds in the course of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundTools {
    /// They are added at the end of the tools, and called by their names. Chat templates render tools before messages,
    /// so that the server reads the whole conversation again once.
    Declared,
    /// They are described where they were found, and called through one function that is there from the beginning.
    Described,
}

/// Whether the text of a server may begin with reasoning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkTags {
    /// A block at the beginning is reasoning.
    #[default]
    Read,
    /// The prompt ends within a block: so does the text begin.
    Open,
    /// Tags are part of the text.
    Off,
}

/// Commands that serve searches, as header or configuration name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wrappers {
    /// Serves `web_search` and `open_page`: run as `tvly search QUERY --json` and `tvly extract URL`.
    pub web: Option<String>,
    /// Serves `file_search`: takes ripgrep's options.
    pub file: Option<String>,
}

/// Whether `command` can be a wrapper: one bare name or path.
pub fn is_wrapper(command: &str) -> bool {
    !command.is_empty()
        && !command.starts_with('-')
        && command.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/+~".contains(&b))
}

/// What a plan depends on besides the request.
#[derive(Debug, Clone)]
pub struct PlanOptions<'a> {
    /// The server that will read the chat body.
    pub dialect: &'a Dialect,
    /// Stands in for an absent `model`.
    pub default_model: Option<&'a str>,
    /// The server's own name for the model, where that is not the client's.
    pub upstream_model: Option<&'a str>,
    /// Members that the chat body gets where the request says nothing of them.
    pub extra_body: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// Where system and developer text goes.
    pub developer_messages: DeveloperMessages,
    /// Whether neighbouring messages of one role are joined.
    pub alternate_roles: bool,
    /// How reasoning is shown.
    pub reasoning: ReasoningDisplay,
    /// Whether a refusal is sent as `output_text` (`Client::drops_refusals`).
    pub refusal_as_text: bool,
    /// Whether the model takes images; one that does not gets a short text in their place.
    pub sees: bool,
    /// Commands that serve searches.
    pub wrappers: Option<&'a Wrappers>,
    /// Levels of `reasoning.effort` that the model takes, where that is known better than from the dialect.
    pub efforts: Option<&'a [String]>,
    /// Thinking budget in tokens by `reasoning.effort`.
    pub budgets: &'a [(String, u64)],
    /// Repairs of the model's calls that are switched off.
    pub quirks_off: &'a [String],
    /// How the server takes Responses requests, where it is asked to speak Responses itself.
    pub native: Option<&'static ResponsesProfile>,
    /// Where tools go that are found later.
    pub found_tools: FoundTools,
    /// Whose reasoning is sealed.
    pub seal_reasoning: SealReasoning,
    /// Opens what the client carries for us, and seals it; without it blobs are skipped and none are made.
    pub seal: Option<Arc<dyn Seal>>,
    /// How many of the oldest turns are left out (`truncation: "auto"`).
    pub drop_turns: usize,
    /// Whether a summary of the conversation is wanted in place of an answer, as by a `compaction_trigger`.
    pub compact: Option<Compact>,
    /// Whether a stream is made of it, whatever the request says.
    pub stream: Option<bool>,
    /// Whether the model is only to read the prompt, so that its server has it in its cache: the answer is empty.
    pub warm_up: bool,
    /// What the model answered where `text.format` was held back (see [`ReplyPlan::format`]) and the answer does not fit
    /// it: the plan asks for it once more, in that format.
    pub unfit: Option<Arc<str>>,
}

impl<'a> PlanOptions<'a> {
    /// The options of a server with its default configuration in front of `dialect`.
    pub fn new(dialect: &'a Dialect) -> PlanOptions<'a> {
        PlanOptions {
            dialect,
            default_model: None,
            upstream_model: None,
            extra_body: None,
            developer_messages: DeveloperMessages::Leading,
            alternate_roles: false,
            reasoning: ReasoningDisplay::Summary,
            refusal_as_text: false,
            sees: true,
            wrappers: None,
            efforts: None,
            budgets: &[],
            quirks_off: &[],
            native: None,
            found_tools: FoundTools::Declared,
            seal_reasoning: SealReasoning::Unstored,
            seal: None,
            drop_turns: 0,
            compact: None,
            stream: None,
            warm_up: false,
            unfit: None,
        }
    }
}

/// What a summary is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compact {
    /// The client decides what it keeps beside it (`compaction_trigger`, `POST /v1/responses/compact`).
    Beside,
    /// It takes the place of all that came before (`context_management`).
    Replacing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapper_is_one_word() {
        assert!(is_wrapper("tvly") && is_wrapper("/opt/x-1/rg"));
        assert!(
            !is_wrapper("rg -n")
                && !is_wrapper("")
                && !is_wrapper("a;b")
                && !is_wrapper("$x")
                && !is_wrapper("-x")
        );
    }
}
