//! Owns token counts: those that servers report, and `usage` as Responses has it. It must not invent a count: a count
//! that was never reported stays null, because Codex takes zeros for an empty context and then never compacts.
//!
//! Servers differ in the names of the counts, and in which count includes which.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::json::push_number;
use crate::wire::{chat, native_event, trusted_json};

/// Token counts of one response. Their sum fits in 32 bits; larger values are rejected as nonsense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The whole prompt, including the cached part.
    pub input: u32,
    /// Part of `input` that was in the upstream's prefix cache.
    pub cached: u32,
    /// Tokens newly written to that cache, if the upstream reports them, else 0.
    pub written: u32,
    /// All generated tokens.
    pub output: u32,
    /// Part of `output` that was reasoning.
    pub reasoning: u32,
}

impl Usage {
    /// Parses the `usage` of a chat answer. `None` if it holds no counts, or counts no prompt tokens: no prompt is
    /// empty, so the server did not count.
    pub fn from_chat(raw: &RawValue) -> Option<Usage> {
        let usage: chat::Usage<'_> = trusted_json::fields(raw.get())?;
        let prompt = details(usage.prompt_tokens_details.or(usage.input_tokens_details));
        let completion = details(usage.completion_tokens_details.or(usage.output_tokens_details));
        let Some(input) = first([usage.prompt_tokens, usage.input_tokens]) else {
            return Usage::from_camel_case(raw);
        };
        let counts = Counts {
            input,
            cached: first([
                prompt.cached_tokens,
                usage.cached_tokens,
                usage.prompt_cache_hit_tokens,
                usage.cache_read_input_tokens,
            ]),
            written: first([prompt.created_cache_tokens]),
            output: first([usage.completion_tokens, usage.output_tokens]).unwrap_or(0),
            reasoning: first([completion.reasoning_tokens, usage.reasoning_tokens]),
            total: usage.total_tokens.and_then(count),
        };
        counts.usage()
    }

    /// Like `from_chat`, with camelCase names that few servers use.
    fn from_camel_case(raw: &RawValue) -> Option<Usage> {
        let usage: chat::CamelUsage<'_> = trusted_json::fields(raw.get())?;
        let details = |raw: Option<&RawValue>| {
            raw.and_then(|raw| trusted_json::fields::<chat::CamelDetails<'_>>(raw.get()))
                .map_or((None, None), |details| {
                    (details.cached_tokens.and_then(count), details.reasoning_tokens.and_then(count))
                })
        };
        let (cached, _) = details(usage.prompt_tokens_details);
        let (_, reasoning) = details(usage.completion_tokens_details);
        let input = first([usage.prompt_tokens, usage.input_tokens, usage.prompt_token_count])?;
        let output = first([usage.completion_tokens, usage.output_tokens, usage.candidates_token_count]);
        let output = output.unwrap_or(0);
        let thoughts = first([usage.thoughts_token_count]);
        // by Gemini's definition thoughts are not part of the output, whether there is a total or not
        let on_top = thoughts.map(|thoughts| input.saturating_add(output).saturating_add(thoughts));
        let counts = Counts {
            input,
            cached: cached.or_else(|| {
                first([usage.cached_tokens, usage.cached_input_tokens, usage.cached_content_token_count])
            }),
            written: None,
            output,
            reasoning: reasoning.or_else(|| first([usage.reasoning_tokens])).or(thoughts),
            total: first([usage.total_tokens, usage.total_token_count]).or(on_top),
        };
        counts.usage()
    }

    /// The counts of llama-server's `timings`, for streams without `usage`.
    pub fn from_timings(timings: &chat::Timings) -> Option<Usage> {
        let cached = timings.cache_n.unwrap_or(0);
        let input = cached.checked_add(timings.prompt_n?)?;
        Usage::bounded(input, Some(cached), None, timings.predicted_n?, None)
    }

    /// Parses the `usage` of a Response object. `None` if it holds no counts.
    pub fn from_native(raw: &RawValue) -> Option<Usage> {
        let usage: native_event::Usage = trusted_json::fields(raw.get())?;
        let details = usage.input_tokens_details.unwrap_or_default();
        let input = usage.input_tokens?;
        let output = usage.output_tokens.unwrap_or(0);
        let reasoning = usage.output_tokens_details.and_then(|d| d.reasoning_tokens);
        Usage::bounded(input, details.cached_tokens, details.cache_write_tokens, output, reasoning)
    }

    /// The counts of a response that took two requests upstream: the prompt of the second, and the output of both.
    pub fn after(self, first: Usage) -> Usage {
        Usage {
            output: self.output.saturating_add(first.output),
            reasoning: self.reasoning.saturating_add(first.reasoning),
            ..self
        }
    }

    /// Limits parts to their whole; an unreported part is 0. `None` if the sum exceeds 32 bits.
    fn bounded(
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

    /// Appends the `usage` object; the total is input plus output.
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

/// Counts as a server reports them.
struct Counts {
    input: u64,
    cached: Option<u64>,
    written: Option<u64>,
    output: u64,
    reasoning: Option<u64>,
    total: Option<u64>,
}

impl Counts {
    fn usage(self) -> Option<Usage> {
        let Counts { mut input, cached, written, mut output, reasoning, total } = self;
        let reported = input.saturating_add(output);
        // a larger total includes a count that neither of them includes
        match total.and_then(|total| total.checked_sub(reported)) {
            None | Some(0) => {}
            // Anthropic's input excludes the cached part
            more if more == cached && reasoning.is_none() => {
                input = input.saturating_add(cached.unwrap_or(0))
            }
            // xAI excludes the reasoning from the output; Gemini shows it only in the total
            Some(more) if reasoning.is_none_or(|reasoning| reasoning == more) => {
                output = output.saturating_add(more);
            }
            Some(_) => {}
        }
        Usage::bounded(input, cached, written, output, reasoning)
    }
}

fn details(raw: Option<&RawValue>) -> chat::Details<'_> {
    raw.and_then(|raw| trusted_json::fields(raw.get())).unwrap_or_default()
}

/// The first count greater than zero among several names for it.
fn first<const N: usize>(names: [Option<&RawValue>; N]) -> Option<u64> {
    names.into_iter().flatten().filter_map(count).find(|count| *count > 0)
}

/// Parses a count: an integer, a float, or either in quotes.
fn count(raw: &RawValue) -> Option<u64> {
    let text = raw.get().trim_matches('"');
    let float = || text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0 && *n < 1e15);
    text.parse().ok().or_else(|| float().map(|n| n as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(usage: &str) -> Option<[u32; 4]> {
        let raw: &RawValue = serde_json::from_str(usage).unwrap();
        Usage::from_chat(raw).map(|usage| [usage.input, usage.cached, usage.output, usage.reasoning])
    }

    /// Input, cached, output, reasoning.
    #[test]
    fn messages_of_real_servers() {
        for (usage, want) in [
            (r#"{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14}"#, Some([9, 0, 5, 0])),
            (r#"{"prompt_tokens":9.0,"completion_tokens":5.0}"#, Some([9, 0, 5, 0])),
            (r#"{"prompt_tokens":"9","completion_tokens":"5"}"#, Some([9, 0, 5, 0])),
            (r#"{"input_tokens":9,"output_tokens":5}"#, Some([9, 0, 5, 0])),
            (r#"{"prompt_tokens":0,"input_tokens":9,"completion_tokens":5}"#, Some([9, 0, 5, 0])),
            (r#"{"prompt_tokens":9,"completion_tokens":null}"#, Some([9, 0, 0, 0])),
            // not reported
            (r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#, None),
            (r#"{"prompt_tokens":0.0,"completion_tokens":7}"#, None),
            (r#"{"prompt_tokens":-1,"completion_tokens":7}"#, None),
            (r#"{"prompt_tokens":[],"completion_tokens":7}"#, None),
            ("{}", None),
            ("[]", None),
            // OpenAI, DeepSeek, Moonshot, Anthropic and Responses names
            (
                r#"{"prompt_tokens":9,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}"#,
                Some([9, 4, 5, 3]),
            ),
            (r#"{"prompt_tokens":9,"completion_tokens":5,"prompt_cache_hit_tokens":4}"#, Some([9, 4, 5, 0])),
            (r#"{"prompt_tokens":9,"completion_tokens":5,"cached_tokens":4}"#, Some([9, 4, 5, 0])),
            (
                r#"{"prompt_tokens":9,"completion_tokens":5,"prompt_tokens_details":null,"cached_tokens":4}"#,
                Some([9, 4, 5, 0]),
            ),
            (
                r#"{"input_tokens":9,"output_tokens":5,"cache_read_input_tokens":400,"total_tokens":414}"#,
                Some([409, 400, 5, 0]),
            ),
            (
                r#"{"input_tokens":9,"output_tokens":5,"input_tokens_details":{"cached_tokens":4},"output_tokens_details":{"reasoning_tokens":3}}"#,
                Some([9, 4, 5, 3]),
            ),
            // camelCase; Gemini names, with and without a total
            (r#"{"promptTokens":9,"completionTokens":5,"totalTokens":14}"#, Some([9, 0, 5, 0])),
            (
                r#"{"inputTokens":9,"outputTokens":5,"cachedInputTokens":4,"reasoningTokens":3}"#,
                Some([9, 4, 5, 3]),
            ),
            (
                r#"{"promptTokens":9,"completionTokens":5,"promptTokensDetails":{"cachedTokens":4},"completionTokensDetails":{"reasoningTokens":3}}"#,
                Some([9, 4, 5, 3]),
            ),
            (
                r#"{"promptTokenCount":9,"candidatesTokenCount":5,"thoughtsTokenCount":30,"cachedContentTokenCount":4,"totalTokenCount":44,"promptTokensDetails":[{"modality":"TEXT","tokenCount":9}]}"#,
                Some([9, 4, 35, 30]),
            ),
            (r#"{"promptTokenCount":9,"thoughtsTokenCount":30}"#, Some([9, 0, 30, 30])),
            (
                r#"{"prompt_token_count":9,"candidates_token_count":35,"thoughts_token_count":30,"total_token_count":44}"#,
                Some([9, 0, 35, 30]),
            ),
            (r#"{"prompt_tokens":9,"promptTokens":9,"completion_tokens":5}"#, Some([9, 0, 5, 0])),
            (r#"{"promptTokens":0,"completionTokens":0}"#, None),
            // in addition: xAI, Gemini
            (
                r#"{"prompt_tokens":500,"completion_tokens":20,"total_tokens":820,"completion_tokens_details":{"reasoning_tokens":300}}"#,
                Some([500, 0, 320, 300]),
            ),
            (r#"{"prompt_tokens":500,"completion_tokens":20,"total_tokens":820}"#, Some([500, 0, 320, 0])),
            (
                r#"{"prompt_tokens":500,"completion_tokens":20,"total_tokens":820,"reasoning_tokens":300}"#,
                Some([500, 0, 320, 300]),
            ),
            // included: OpenAI; a total that no count explains
            (
                r#"{"prompt_tokens":500,"completion_tokens":320,"total_tokens":820,"completion_tokens_details":{"reasoning_tokens":300}}"#,
                Some([500, 0, 320, 300]),
            ),
            (
                r#"{"prompt_tokens":500,"completion_tokens":20,"total_tokens":900,"completion_tokens_details":{"reasoning_tokens":15}}"#,
                Some([500, 0, 20, 15]),
            ),
            (r#"{"prompt_tokens":500,"completion_tokens":20,"total_tokens":100}"#, Some([500, 0, 20, 0])),
        ] {
            assert_eq!(read(usage), want, "{usage}");
        }
    }
}
