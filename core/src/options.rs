//! Owns what a plan depends on besides the request: the server's dialect, the operator's configuration, and the
//! client's headers. It must not read any of them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::responses_profile::ResponsesProfile;
use crate::sealing::Seal;

/// How reasoning is shown to the client (docs/protocol.md 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningDisplay {
    /// As `reasoning_summary_*` events and `summary` parts, which every client shows.
    Summary,
    /// As `reasoning_text` events and `content` parts.
    Text,
    /// Not at all.
    Hidden,
}

/// Which reasoning is also sealed into `encrypted_content`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealReasoning {
    /// That of every response that is not stored: the client must send it back, whether it asked for it or not.
    Unstored,
    /// That of requests that include `reasoning.encrypted_content`.
    Asked,
}

/// How `system` and `developer` messages are sent (docs/protocol.md 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeveloperMessages {
    /// The messages at the beginning become one system message; later ones become user messages.
    Leading,
    /// All of them are merged into the first message.
    All,
    /// Roles are sent unchanged.
    Keep,
}

/// How the model calls tools that a tool search finds during a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundTools {
    /// They are added to the end of the tools, and called by name. Chat templates put tools before messages, so the
    /// server then reads the whole conversation again, once.
    Declared,
    /// They are described in the search result, and called through one function that is declared from the beginning.
    Described,
}

/// Whether a server's text may begin with reasoning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkTags {
    /// A block between tags at the beginning is reasoning.
    #[default]
    Read,
    /// The prompt ends inside a block, so the text begins inside it.
    Open,
    /// Tags are part of the text.
    Off,
}

/// Commands behind the search functions, as named in a header or the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wrappers {
    /// For `web_search` and `open_page`: run as `tvly search QUERY --json` and `tvly extract URL`.
    pub web: Option<String>,
    /// For `file_search`: a command with ripgrep's options.
    pub file: Option<String>,
}

/// Whether `command` is allowed as a wrapper: a single name or path without shell syntax.
pub fn is_wrapper(command: &str) -> bool {
    !command.is_empty()
        && !command.starts_with('-')
        && command.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/+~".contains(&b))
}

/// What a plan depends on besides the request.
#[derive(Debug, Clone)]
pub struct PlanOptions<'a> {
    /// The server that receives the body.
    pub dialect: &'a Dialect,
    /// Used if the request names no model.
    pub default_model: Option<&'a str>,
    /// The server's name for the model, if it differs from the client's.
    pub upstream_model: Option<&'a str>,
    /// Members added to the chat body unless the request sets them.
    pub extra_body: Option<&'a serde_json::Map<String, serde_json::Value>>,
    /// Where system and developer messages go.
    pub developer_messages: DeveloperMessages,
    /// Whether adjacent messages of one role are joined.
    pub alternate_roles: bool,
    /// How reasoning is shown.
    pub reasoning: ReasoningDisplay,
    /// Whether a refusal is sent as `output_text` (`Client::drops_refusals`).
    pub refusal_as_text: bool,
    /// Whether the model accepts images. If not, a short text replaces each image.
    pub accepts_images: bool,
    /// Commands behind the search functions.
    pub wrappers: Option<&'a Wrappers>,
    /// Accepted levels of `reasoning.effort`, if known more precisely than from the dialect.
    pub efforts: Option<&'a [String]>,
    /// Thinking budget in tokens by `reasoning.effort`.
    pub budgets: &'a [(String, u64)],
    /// Repairs of the model's calls that are switched off.
    pub quirks_off: &'a [String],
    /// The profile of a server that is asked in the Responses API; `None` for Chat Completions.
    pub native: Option<&'static ResponsesProfile>,
    /// How tools that are found later are called.
    pub found_tools: FoundTools,
    /// Which reasoning is sealed.
    pub seal_reasoning: SealReasoning,
    /// Seals what the client carries, and opens it. Without it, sealed content is skipped and none is made.
    pub seal: Option<Arc<dyn Seal>>,
    /// How many of the oldest turns are dropped (`truncation: "auto"`).
    pub drop_turns: usize,
    /// Asks for a summary of the conversation instead of an answer, as `compaction_trigger` does.
    pub compact: Option<Compact>,
    /// Overrides the request's `stream`.
    pub stream: Option<bool>,
    /// Whether the model only reads the prompt, so that the server caches it. The answer is empty.
    pub warm_up: bool,
    /// An answer that does not fit the `text.format` that was held back (see
    /// [`ReplyPlan::format`](crate::reply_plan::ReplyPlan::format)): the plan asks for it again in that format.
    pub unfit: Option<Arc<str>>,
}

impl<'a> PlanOptions<'a> {
    /// Default options for a server with this dialect.
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
            accepts_images: true,
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

/// How a summary relates to the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compact {
    /// The client decides what to keep besides it (`compaction_trigger`, `POST /v1/responses/compact`).
    Beside,
    /// It replaces everything before it (`context_management`).
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
