//! Owns the part of a plan that concerns the answer. It must not depend on the answer.

use std::sync::Arc;

use crate::json_schema::Format;
use crate::options::{Compact, ReasoningDisplay, ThinkTags};
use crate::responses_profile::ResponsesProfile;
use crate::sealing::Seal;
use crate::tools::table::Table;

/// The part of a plan that concerns the answer.
#[derive(Debug, Clone)]
pub struct ReplyPlan {
    /// The members of the Response object that repeat the request, as JSON members without braces.
    pub echo: Vec<u8>,
    /// Whether to write events, or only the final Response object.
    pub stream: bool,
    /// How reasoning is shown.
    pub reasoning: ReasoningDisplay,
    /// Seals what the client carries.
    pub seal: Option<Arc<dyn Seal>>,
    /// Whether reasoning items get their text as `encrypted_content`.
    pub seals_reasoning: bool,
    /// Whether the response runs in the background: it begins as `queued`.
    pub background: bool,
    /// Set if the answer is a summary, to be sealed into a `compaction` item.
    pub compacts: Option<Compact>,
    /// Whether the model only reads the prompt: the response completes without output, even if the upstream fails.
    pub warm_up: bool,
    /// The response that this one continues.
    pub previous_response_id: Option<String>,
    /// Whether the text may begin with reasoning.
    pub think_tags: ThinkTags,
    /// Whether a refusal is sent as `output_text`.
    pub refusal_as_text: bool,
    /// Whether only the first call is passed on (`parallel_tool_calls: false`).
    pub one_call: bool,
    /// Whether log probabilities are sent.
    pub logprobs: bool,
    /// How many alternatives are sent for each token.
    pub top_logprobs: u64,
    /// Maps declared tools to chat functions.
    pub tools: Table,
    /// The request's token limit.
    pub max_output_tokens: Option<u64>,
    /// The profile of an upstream that speaks Responses itself.
    pub native: Option<&'static ResponsesProfile>,
    /// The format that the text must fit but the upstream was not sent. Beside tools, it would apply the format to
    /// everything it generates, and never call a tool.
    pub format: Option<Arc<Format>>,
}
