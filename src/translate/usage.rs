//! Owns token counts: what a chat server reports, and `usage` as Responses has it. It must not invent a count:
//! what was never reported stays null, since Codex takes zeros for an empty context and then never compacts.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::json::push_number;
use crate::wire::{chat, known, native};

/// Token counts of one response; all of them together fit in 32 bits, or they were no counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The whole prompt, cached part included.
    pub input: u32,
    /// Part of `input` that the upstream's prefix cache held.
    pub cached: u32,
    /// Tokens newly written to that cache, where the upstream says so.
    pub written: u32,
    /// All that was generated.
    pub output: u32,
    /// Part of `output` that was reasoning.
    pub reasoning: u32,
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
        let input = cached.checked_add(timings.prompt_n?)?;
        Usage::within(input, Some(cached), None, timings.predicted_n?, None)
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
        let (input, output) = (u32::try_from(input).ok()?, u32::try_from(output).ok()?);
        input.checked_add(output)?;
        let part =
            |count: Option<u64>, whole| count.map_or(0, |n| u32::try_from(n).unwrap_or(whole).min(whole));
        let (cached, written) = (part(cached, input), part(written, input));
        Some(Usage { input, cached, written, output, reasoning: part(reasoning, output) })
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
            push_number(out, value.into());
        }
        out.push(b'}');
    }
}
