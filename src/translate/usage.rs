//! Owns token counts: what a chat server reports, and `usage` as Responses has it. It must not invent a count:
//! what was never reported stays null, since Codex takes zeros for an empty context and then never compacts.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::json::push_number;
use crate::wire::{chat, known, native};

/// Token counts of one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The whole prompt, cached part included.
    pub input: u64,
    /// Part of `input` that the upstream's prefix cache held.
    pub cached: u64,
    /// Tokens newly written to that cache, where the upstream says so.
    pub written: u64,
    /// All that was generated.
    pub output: u64,
    /// Part of `output` that was reasoning.
    pub reasoning: u64,
}

impl Usage {
    /// Reads `usage`; `None` when it holds no counts.
    pub fn from_chat(raw: &RawValue) -> Option<Usage> {
        let usage: chat::Usage = known::fields(raw.get())?;
        let prompt = usage.prompt_tokens_details.unwrap_or_default();
        let input = usage.prompt_tokens?;
        let output = usage.completion_tokens.unwrap_or(0);
        let reasoning = usage.completion_tokens_details.and_then(|d| d.reasoning_tokens);
        Usage::within(input, prompt.cached_tokens, prompt.created_cache_tokens, output, reasoning)
    }

    /// Reads llama-server's `timings`, for streams on which `usage` never comes.
    pub fn from_timings(raw: &RawValue) -> Option<Usage> {
        let timings: chat::Timings = known::fields(raw.get())?;
        let cached = timings.cache_n.unwrap_or(0);
        Some(Usage {
            input: cached.saturating_add(timings.prompt_n?),
            cached,
            written: 0,
            output: timings.predicted_n?,
            reasoning: 0,
        })
        .filter(Usage::is_sane)
    }

    /// Reads `usage` of a Response object; `None` when it holds no counts.
    pub fn from_native(raw: &RawValue) -> Option<Usage> {
        let usage: native::Usage = known::fields(raw.get())?;
        let details = usage.input_tokens_details.unwrap_or_default();
        let input = usage.input_tokens?;
        let output = usage.output_tokens.unwrap_or(0);
        let reasoning = usage.output_tokens_details.and_then(|d| d.reasoning_tokens);
        Usage::within(input, details.cached_tokens, details.cache_write_tokens, output, reasoning)
    }

    /// Counts whose parts are no larger than their whole; a part that was not told is 0.
    fn within(
        input: u64,
        cached: Option<u64>,
        written: Option<u64>,
        output: u64,
        reasoning: Option<u64>,
    ) -> Option<Usage> {
        Some(Usage {
            input,
            cached: cached.unwrap_or(0).min(input),
            written: written.unwrap_or(0).min(input),
            output,
            reasoning: reasoning.unwrap_or(0).min(output),
        })
        .filter(Usage::is_sane)
    }

    fn is_sane(&self) -> bool {
        self.input.checked_add(self.output).is_some_and(|total| total <= u64::from(u32::MAX))
    }

    /// Appends the `usage` object; total = input + output.
    pub fn write(&self, out: &mut Vec<u8>) {
        for (key, value) in [
            (&b"{\"input_tokens\":"[..], self.input),
            (b",\"input_tokens_details\":{\"cached_tokens\":", self.cached),
            (b",\"cache_write_tokens\":", self.written),
            (b"},\"output_tokens\":", self.output),
            (b",\"output_tokens_details\":{\"reasoning_tokens\":", self.reasoning),
            (b"},\"total_tokens\":", self.input.saturating_add(self.output)),
        ] {
            out.extend_from_slice(key);
            push_number(out, value);
        }
        out.push(b'}');
    }
}
