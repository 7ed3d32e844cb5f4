//! Owns the shape of what a Chat Completions server sends: a chunk, or a whole completion read as one chunk.
//! Texts stay escaped (`RawValue`). It must not judge what it reads: every field may be absent.
//!
//! Shapes: docs/protocol.md 7, docs/servers.md, recorded streams of llama-server b11434 and vLLM 0.32.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::wire::trusted_json;

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
    /// OpenRouter: why the choice ends with `error`.
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
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
    /// GitHub Copilot's name for reasoning.
    #[serde(borrow, default)]
    pub reasoning_text: Option<&'a RawValue>,
    /// Reasoning in the words of Anthropic.
    #[serde(borrow, default)]
    pub thinking: Option<&'a RawValue>,
    /// OpenRouter's and MiniMax's parts of reasoning, mostly beside one of the names above.
    #[serde(borrow, default)]
    pub reasoning_details: Option<&'a RawValue>,
    /// LiteLLM's parts of reasoning, mostly beside `reasoning_content`.
    #[serde(borrow, default)]
    pub thinking_blocks: Option<&'a RawValue>,
    /// Reasoning in the words of Gemini.
    #[serde(borrow, default)]
    pub thought: Option<&'a RawValue>,
    /// What the text cites.
    #[serde(borrow, default)]
    pub annotations: Option<&'a RawValue>,
    /// A refusal's text.
    #[serde(borrow, default)]
    pub refusal: Option<&'a RawValue>,
    /// Calls, or pieces of calls.
    #[serde(borrow, default)]
    pub tool_calls: Calls<'a>,
    /// The form that came before `tool_calls`.
    #[serde(borrow, default)]
    pub function_call: Option<Function<'a>>,
}

impl Delta<'_> {
    /// Whether it has a member that servers seldom send.
    pub fn has_rare(&self) -> bool {
        self.reasoning_text.is_some()
            || self.thinking.is_some()
            || self.reasoning_details.is_some()
            || self.thinking_blocks.is_some()
            || self.thought.is_some()
            || self.annotations.is_some()
    }
}

/// `tool_calls`
#[derive(Debug, Default)]
pub struct Calls<'a> {
    /// The calls in it.
    pub list: Vec<ToolCall<'a>>,
    /// Whether it is no list of calls alone.
    pub odd: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Calls<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadCalls)
    }
}

struct ReadCalls;

/// Most pieces of calls in one chunk.
const MOST_PIECES: usize = 1024;

impl<'de> Visitor<'de> for ReadCalls {
    type Value = Calls<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of calls")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Calls::default())
    }

    /// In place of a list: an empty text, `false`.
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Calls { list: Vec::new(), odd: true })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Calls { list: Vec::new(), odd: true })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut calls = Calls::default();
        while let Some(call) = seq.next_element()? {
            match call {
                Some(call) => calls.list.push(call),
                None => calls.odd = true,
            }
            if calls.list.len() > MOST_PIECES {
                return Err(serde::de::Error::custom("too many calls"));
            }
        }
        Ok(calls)
    }

    /// One call, or calls by their index.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut calls = Calls { list: Vec::new(), odd: true };
        let mut one = ToolCall::default();
        while let Some((key, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            match &*key {
                "index" => one.index = Some(value),
                "id" => one.id = Some(value),
                "name" => one.name = Some(value),
                "arguments" => one.arguments = Some(value),
                "function" => one.function = trusted_json::fields(value.get()),
                _ if calls.list.len() > MOST_PIECES => {
                    return Err(serde::de::Error::custom("too many calls"));
                }
                _ => calls
                    .list
                    .extend(trusted_json::fields::<ToolCall<'de>>(value.get()).filter(ToolCall::is_some)),
            }
        }
        if one.is_some() {
            calls.list.push(one);
        }
        Ok(calls)
    }
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
    /// The name, where it stands beside the id.
    #[serde(borrow, default)]
    pub name: Option<&'a RawValue>,
    /// The arguments, where they stand beside the id.
    #[serde(borrow, default)]
    pub arguments: Option<&'a RawValue>,
}

impl ToolCall<'_> {
    /// Whether anything in it is a call's.
    fn is_some(&self) -> bool {
        self.function.is_some() || self.name.is_some() || self.arguments.is_some()
    }
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
    /// The same, as Llama's templates call it.
    #[serde(borrow, default)]
    pub parameters: Option<&'a RawValue>,
}

/// `usage`, by the names of OpenAI's two APIs and those of others. Each count is what its server made of a number.
#[derive(Debug, Default, Deserialize)]
pub struct Usage<'a> {
    /// The whole prompt, cached part included.
    #[serde(borrow, default)]
    pub prompt_tokens: Option<&'a RawValue>,
    /// The same in the words of Responses and of Anthropic.
    #[serde(borrow, default)]
    pub input_tokens: Option<&'a RawValue>,
    /// What was generated; reasoning is part of it, unless the total says otherwise.
    #[serde(borrow, default)]
    pub completion_tokens: Option<&'a RawValue>,
    /// The same in the words of Responses and of Anthropic.
    #[serde(borrow, default)]
    pub output_tokens: Option<&'a RawValue>,
    /// All of both.
    #[serde(borrow, default)]
    pub total_tokens: Option<&'a RawValue>,
    /// Parts of the prompt.
    #[serde(borrow, default)]
    pub prompt_tokens_details: Option<&'a RawValue>,
    /// The same in the words of Responses.
    #[serde(borrow, default)]
    pub input_tokens_details: Option<&'a RawValue>,
    /// Parts of the completion.
    #[serde(borrow, default)]
    pub completion_tokens_details: Option<&'a RawValue>,
    /// The same in the words of Responses.
    #[serde(borrow, default)]
    pub output_tokens_details: Option<&'a RawValue>,
    /// Moonshot: part of the prompt that came from the cache.
    #[serde(borrow, default)]
    pub cached_tokens: Option<&'a RawValue>,
    /// DeepSeek: the same.
    #[serde(borrow, default)]
    pub prompt_cache_hit_tokens: Option<&'a RawValue>,
    /// Anthropic: the same.
    #[serde(borrow, default)]
    pub cache_read_input_tokens: Option<&'a RawValue>,
    /// Part of the completion that was reasoning, outside any details.
    #[serde(borrow, default)]
    pub reasoning_tokens: Option<&'a RawValue>,
}

/// Counts in camelCase: what JavaScript proxies make of OpenAI's names, and Gemini's own.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CamelUsage<'a> {
    /// The whole prompt, cached part included.
    #[serde(borrow, default)]
    pub prompt_tokens: Option<&'a RawValue>,
    /// The same in the words of Responses.
    #[serde(borrow, default)]
    pub input_tokens: Option<&'a RawValue>,
    /// Gemini: the same.
    #[serde(borrow, default, alias = "prompt_token_count")]
    pub prompt_token_count: Option<&'a RawValue>,
    /// What was generated.
    #[serde(borrow, default)]
    pub completion_tokens: Option<&'a RawValue>,
    /// The same in the words of Responses.
    #[serde(borrow, default)]
    pub output_tokens: Option<&'a RawValue>,
    /// Gemini: the same without reasoning.
    #[serde(borrow, default, alias = "candidates_token_count")]
    pub candidates_token_count: Option<&'a RawValue>,
    /// All of both.
    #[serde(borrow, default)]
    pub total_tokens: Option<&'a RawValue>,
    /// Gemini: the same, with reasoning.
    #[serde(borrow, default, alias = "total_token_count")]
    pub total_token_count: Option<&'a RawValue>,
    /// Part of the prompt that came from the cache.
    #[serde(borrow, default)]
    pub cached_tokens: Option<&'a RawValue>,
    /// The same in the words of Responses.
    #[serde(borrow, default)]
    pub cached_input_tokens: Option<&'a RawValue>,
    /// Gemini: the same.
    #[serde(borrow, default, alias = "cached_content_token_count")]
    pub cached_content_token_count: Option<&'a RawValue>,
    /// Part of the completion that was reasoning.
    #[serde(borrow, default)]
    pub reasoning_tokens: Option<&'a RawValue>,
    /// Gemini: reasoning, beside the completion.
    #[serde(borrow, default, alias = "thoughts_token_count")]
    pub thoughts_token_count: Option<&'a RawValue>,
    /// Parts of the prompt.
    #[serde(borrow, default)]
    pub prompt_tokens_details: Option<&'a RawValue>,
    /// Parts of the completion.
    #[serde(borrow, default)]
    pub completion_tokens_details: Option<&'a RawValue>,
}

/// Details of a prompt or of a completion in camelCase.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CamelDetails<'a> {
    /// Tokens that the prefix cache held.
    #[serde(borrow, default)]
    pub cached_tokens: Option<&'a RawValue>,
    /// Tokens of reasoning.
    #[serde(borrow, default)]
    pub reasoning_tokens: Option<&'a RawValue>,
}

/// Details of a prompt or of a completion.
#[derive(Debug, Default, Deserialize)]
pub struct Details<'a> {
    /// Tokens that the prefix cache held.
    #[serde(borrow, default)]
    pub cached_tokens: Option<&'a RawValue>,
    /// vLLM: tokens written to the cache.
    #[serde(borrow, default)]
    pub created_cache_tokens: Option<&'a RawValue>,
    /// Tokens of reasoning.
    #[serde(borrow, default)]
    pub reasoning_tokens: Option<&'a RawValue>,
}

/// `usage` of a chunk that has none at its top: in the choice (Moonshot), under `x_groq`, or by Gemini's name.
pub fn usage_elsewhere(chunk: &str) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Places<'a> {
        #[serde(borrow, default)]
        x_groq: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "usageMetadata", alias = "usage_metadata")]
        usage_metadata: Option<&'a RawValue>,
        #[serde(borrow, default)]
        choices: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Place<'a> {
        #[serde(borrow, default)]
        usage: Option<&'a RawValue>,
        #[serde(borrow, default)]
        message: Option<&'a RawValue>,
        #[serde(borrow, default)]
        delta: Option<&'a RawValue>,
    }
    fn usage(raw: &RawValue) -> Option<&RawValue> {
        trusted_json::fields::<Place<'_>>(raw.get())?.usage
    }
    let places: Places<'_> = trusted_json::fields(chunk)?;
    let choice = places.choices.and_then(|raw| trusted_json::elements(raw.get())?.first().copied());
    let choice: Option<Place<'_>> = choice.and_then(|raw| trusted_json::fields(raw.get()));
    let inside = choice.and_then(|choice| choice.usage.or_else(|| usage(choice.message.or(choice.delta)?)));
    inside.or(places.usage_metadata).or_else(|| usage(places.x_groq?))
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
