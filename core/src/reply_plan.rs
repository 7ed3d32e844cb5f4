//! Owns what a plan says about the answer.

use std::sync::Arc;

use crate::json_schema::Format;
use crate::options::{Compact, ReasoningDisplay, ThinkTags};
use crate::responses_profile::ResponsesProfile;
use crate::sealing::Seal;
use crate::tools::table::Table;

/// What a plan says about the answer.
#[derive(Debug, Clone)]
pub struct ReplyPlan {
    /// The fields of the Response object that repeat the request, as JSON members without braces.
    pub echo: Vec<u8>,
    /// Whether events are wanted, or the last snapshot alone.
    pub stream: bool,
    /// How reasoning is shown.
    pub reasoning: ReasoningDisplay,
    /// Seals what the client is to carry.
    pub seal: Option<Arc<dyn Seal>>,
    /// Whether reasoning items carry their raw text sealed.
    pub seals_reasoning: bool,
    /// Whether the client does not wait for the answer: its stream begins as `queued`.
    pub background: bool,
    /// Whether the answer is a summary, to be sealed into a `compaction` item.
    pub compacts: Option<Compact>,
    /// Whether the model only reads the prompt: the response completes without output, whatever becomes of that.
    pub warm_up: bool,
    /// The response that this one continues.
    pub previous_response_id: Option<String>,
    /// Whether the text may begin with reasoning.
    pub think_tags: ThinkTags,
    /// Whether a refusal is sent as `output_text`.
    pub refusal_as_text: bool,
    /// `parallel_tool_calls: false`: only the first call is passed on.
    pub one_call: bool,
    /// Whether log probabilities were asked for.
    pub logprobs: bool,
    /// How many alternatives a token.
    pub top_logprobs: u64,
    /// Which chat function stands for which declared tool.
    pub tools: Table,
    /// The token limit, if there is one.
    pub max_output_tokens: Option<u64>,
    /// The upstream speaks Responses itself.
    pub native: Option<&'static ResponsesProfile>,
    /// What the answer's text has to fit, where the upstream was not told: beside tools that may be called it would take
    /// the format for all that it writes, and call nothing.
    pub format: Option<Arc<Format>>,
}
