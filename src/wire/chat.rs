//! Owns the shape of what a Chat Completions server sends: a chunk, or a whole completion read as one chunk.
//! Texts stay escaped (`RawValue`). It must not judge what it reads: every field may be absent.
//!
//! Shapes: WIRE.md 9.3 and 9.4, recorded streams of llama-server b11434 and vLLM 0.32.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// `chat.completion.chunk` or `chat.completion`.
#[derive(Debug, Deserialize)]
pub struct Chunk<'a> {
    /// The choice with index 0; a proxy never asks for more than one.
    #[serde(borrow, default, deserialize_with = "first")]
    pub choices: Option<Choice<'a>>,
    /// Token counts; on the last chunk, or on every one.
    #[serde(borrow, default)]
    pub usage: Option<&'a RawValue>,
    /// llama-server's own counts.
    #[serde(borrow, default)]
    pub timings: Option<&'a RawValue>,
    /// An error in place of a chunk.
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
    /// `error` in old vLLM's unwrapped error objects.
    #[serde(borrow, default)]
    pub object: Option<&'a RawValue>,
}

/// One element of `choices`.
#[derive(Debug, Deserialize)]
pub struct Choice<'a> {
    /// Which of several answers; absent in old servers' chunks.
    #[serde(borrow, default)]
    pub index: Option<&'a RawValue>,
    /// What a chunk adds.
    #[serde(borrow, default)]
    pub delta: Option<Delta<'a>>,
    /// The same of a whole completion.
    #[serde(borrow, default)]
    pub message: Option<Delta<'a>>,
    /// `stop`, `length`, `tool_calls`, `content_filter`, `function_call`, `abort`, ...
    #[serde(borrow, default)]
    pub finish_reason: Option<&'a RawValue>,
    /// `{content: [...]}`
    #[serde(borrow, default)]
    pub logprobs: Option<&'a RawValue>,
}

/// `delta` or `message`.
#[derive(Debug, Default, Deserialize)]
pub struct Delta<'a> {
    /// Text, or parts.
    #[serde(borrow, default)]
    pub content: Option<&'a RawValue>,
    /// llama-server's name for reasoning.
    #[serde(borrow, default)]
    pub reasoning_content: Option<&'a RawValue>,
    /// vLLM's name for reasoning.
    #[serde(borrow, default)]
    pub reasoning: Option<&'a RawValue>,
    /// A refusal's text.
    #[serde(borrow, default)]
    pub refusal: Option<&'a RawValue>,
    /// Calls, or pieces of calls.
    #[serde(borrow, default)]
    pub tool_calls: Option<Vec<ToolCall<'a>>>,
    /// The form that came before `tool_calls`.
    #[serde(borrow, default)]
    pub function_call: Option<Function<'a>>,
}

/// One element of `tool_calls`.
#[derive(Debug, Default, Deserialize)]
pub struct ToolCall<'a> {
    /// Which call a piece belongs to.
    #[serde(borrow, default)]
    pub index: Option<&'a RawValue>,
    /// The call's id; may be absent or empty.
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    /// Name and arguments.
    #[serde(borrow, default)]
    pub function: Option<Function<'a>>,
}

/// `function` of a call.
#[derive(Debug, Default, Deserialize)]
pub struct Function<'a> {
    /// The function's name.
    #[serde(borrow, default)]
    pub name: Option<&'a RawValue>,
    /// JSON as a string; some servers send the object itself.
    #[serde(borrow, default)]
    pub arguments: Option<&'a RawValue>,
}

/// `usage`.
#[derive(Debug, Default, Deserialize)]
pub struct Usage {
    /// The whole prompt, cached part included.
    pub prompt_tokens: Option<u64>,
    /// What was generated, reasoning included.
    pub completion_tokens: Option<u64>,
    /// Part of the prompt that came from the cache.
    #[serde(default)]
    pub prompt_tokens_details: Option<PromptDetails>,
    /// Part of the completion that was reasoning.
    #[serde(default)]
    pub completion_tokens_details: Option<CompletionDetails>,
}

/// `usage.prompt_tokens_details`
#[derive(Debug, Default, Deserialize)]
pub struct PromptDetails {
    /// Tokens that the prefix cache held.
    pub cached_tokens: Option<u64>,
    /// vLLM: tokens written to the cache.
    pub created_cache_tokens: Option<u64>,
}

/// `usage.completion_tokens_details`
#[derive(Debug, Default, Deserialize)]
pub struct CompletionDetails {
    /// Tokens of reasoning.
    pub reasoning_tokens: Option<u64>,
}

/// llama-server's `timings`, which stand in when `usage` never comes.
#[derive(Debug, Default, Deserialize)]
pub struct Timings {
    /// Prompt tokens from the cache.
    pub cache_n: Option<u64>,
    /// Prompt tokens processed.
    pub prompt_n: Option<u64>,
    /// Tokens generated.
    pub predicted_n: Option<u64>,
}

/// `logprobs.content[i]`
#[derive(Debug, Deserialize)]
pub struct TokenLogprob<'a> {
    /// The token's text.
    #[serde(borrow)]
    pub token: &'a RawValue,
    /// Its log probability.
    #[serde(borrow)]
    pub logprob: &'a RawValue,
    /// Its bytes.
    #[serde(borrow, default)]
    pub bytes: Option<&'a RawValue>,
    /// The likeliest tokens in its place.
    #[serde(borrow, default)]
    pub top_logprobs: Option<Vec<TokenLogprob<'a>>>,
}

/// `logprobs`
#[derive(Debug, Deserialize)]
pub struct Logprobs<'a> {
    /// One element a token.
    #[serde(borrow, default)]
    pub content: Option<Vec<TokenLogprob<'a>>>,
}

/// Reads the choice with index 0 from an array without allocating one.
fn first<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Choice<'de>>, D::Error> {
    struct First;
    impl<'de> Visitor<'de> for First {
        type Value = Option<Choice<'de>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of choices")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while let Some(choice) = seq.next_element::<Choice<'de>>()? {
                if choice.index.is_none_or(|index| index.get() == "0") {
                    while seq.next_element::<IgnoredAny>()?.is_some() {}
                    return Ok(Some(choice));
                }
            }
            Ok(None)
        }
    }
    deserializer.deserialize_any(First)
}
