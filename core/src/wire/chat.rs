//! Owns the shape of a Chat Completions answer: a chunk, or a whole completion read as one chunk. Texts stay escaped
//! (`RawValue`). It must not validate: every field may be absent.
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
    /// The choice with index 0. The proxy never asks for more than one.
    #[serde(borrow, default, deserialize_with = "first")]
    pub choices: Option<Choice<'a>>,
    /// Token counts, in the last chunk or in each one.
    #[serde(borrow, default)]
    pub usage: Option<&'a RawValue>,
    /// Token counts of llama-server.
    #[serde(borrow, default)]
    pub timings: Option<&'a RawValue>,
    /// An error instead of a chunk.
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
    /// `"error"` in the unwrapped error objects of old vLLM versions.
    #[serde(borrow, default)]
    pub object: Option<&'a RawValue>,
}

/// One element of `choices`.
#[derive(Debug, Deserialize)]
pub struct Choice<'a> {
    /// Position of the choice; absent in chunks of old servers.
    #[serde(borrow, default)]
    pub index: Option<&'a RawValue>,
    /// The part that a chunk adds.
    #[serde(borrow, default)]
    pub delta: Option<Delta<'a>>,
    /// The whole answer of a completion.
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
    /// The text, or a list of parts.
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
    /// Anthropic's name for reasoning.
    #[serde(borrow, default)]
    pub thinking: Option<&'a RawValue>,
    /// Parts of reasoning from OpenRouter and MiniMax, usually beside one of the names above.
    #[serde(borrow, default)]
    pub reasoning_details: Option<&'a RawValue>,
    /// Parts of reasoning from LiteLLM, usually beside `reasoning_content`.
    #[serde(borrow, default)]
    pub thinking_blocks: Option<&'a RawValue>,
    /// Gemini's name for reasoning.
    #[serde(borrow, default)]
    pub thought: Option<&'a RawValue>,
    /// Sources that the text cites.
    #[serde(borrow, default)]
    pub annotations: Option<&'a RawValue>,
    /// The text of a refusal.
    #[serde(borrow, default)]
    pub refusal: Option<&'a RawValue>,
    /// Calls, or pieces of calls.
    #[serde(borrow, default)]
    pub tool_calls: Calls<'a>,
    /// The predecessor of `tool_calls`.
    #[serde(borrow, default)]
    pub function_call: Option<Function<'a>>,
}

impl Delta<'_> {
    /// Whether it has a member that few servers send.
    pub fn has_rare_member(&self) -> bool {
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
    /// The calls found in it.
    pub list: Vec<ToolCall<'a>>,
    /// Whether it is anything other than a list of calls.
    pub malformed: bool,
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

    /// Some servers send an empty string or `false` instead of a list.
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Calls { list: Vec::new(), malformed: true })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Calls { list: Vec::new(), malformed: true })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut calls = Calls::default();
        while let Some(call) = seq.next_element()? {
            match call {
                Some(call) => calls.list.push(call),
                None => calls.malformed = true,
            }
            if calls.list.len() > MOST_PIECES {
                return Err(serde::de::Error::custom("too many calls"));
            }
        }
        Ok(calls)
    }

    /// A single call, or calls keyed by index.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut calls = Calls { list: Vec::new(), malformed: true };
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
    /// The call that a piece belongs to.
    #[serde(borrow, default)]
    pub index: Option<&'a RawValue>,
    /// The call's id; may be absent or empty.
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    /// Name and arguments.
    #[serde(borrow, default)]
    pub function: Option<Function<'a>>,
    /// The name, if it is beside the id instead of in `function`.
    #[serde(borrow, default)]
    pub name: Option<&'a RawValue>,
    /// The arguments, if they are beside the id instead of in `function`.
    #[serde(borrow, default)]
    pub arguments: Option<&'a RawValue>,
}

impl ToolCall<'_> {
    /// Whether it contains anything of a call.
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
    /// JSON in a string; some servers send the object itself.
    #[serde(borrow, default)]
    pub arguments: Option<&'a RawValue>,
    /// The arguments under the name that Llama's templates use.
    #[serde(borrow, default)]
    pub parameters: Option<&'a RawValue>,
}

/// `usage`, with the names of both OpenAI APIs and of other servers. Counts are unparsed: some are floats or strings.
#[derive(Debug, Default, Deserialize)]
pub struct Usage<'a> {
    /// The whole prompt, including the cached part.
    #[serde(borrow, default)]
    pub prompt_tokens: Option<&'a RawValue>,
    /// The same, as Responses and Anthropic name it.
    #[serde(borrow, default)]
    pub input_tokens: Option<&'a RawValue>,
    /// Generated tokens, including reasoning unless the total says otherwise.
    #[serde(borrow, default)]
    pub completion_tokens: Option<&'a RawValue>,
    /// The same, as Responses and Anthropic name it.
    #[serde(borrow, default)]
    pub output_tokens: Option<&'a RawValue>,
    /// Prompt and generated tokens.
    #[serde(borrow, default)]
    pub total_tokens: Option<&'a RawValue>,
    /// Parts of the prompt.
    #[serde(borrow, default)]
    pub prompt_tokens_details: Option<&'a RawValue>,
    /// The same, as Responses names it.
    #[serde(borrow, default)]
    pub input_tokens_details: Option<&'a RawValue>,
    /// Parts of the completion.
    #[serde(borrow, default)]
    pub completion_tokens_details: Option<&'a RawValue>,
    /// The same, as Responses names it.
    #[serde(borrow, default)]
    pub output_tokens_details: Option<&'a RawValue>,
    /// Moonshot: the cached part of the prompt.
    #[serde(borrow, default)]
    pub cached_tokens: Option<&'a RawValue>,
    /// The same from DeepSeek.
    #[serde(borrow, default)]
    pub prompt_cache_hit_tokens: Option<&'a RawValue>,
    /// The same from Anthropic.
    #[serde(borrow, default)]
    pub cache_read_input_tokens: Option<&'a RawValue>,
    /// The reasoning part of the generated tokens, outside the details.
    #[serde(borrow, default)]
    pub reasoning_tokens: Option<&'a RawValue>,
}

/// Counts in camelCase, from Gemini and from JavaScript proxies that rename OpenAI's members.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CamelUsage<'a> {
    /// The whole prompt, including the cached part.
    #[serde(borrow, default)]
    pub prompt_tokens: Option<&'a RawValue>,
    /// The same, as Responses names it.
    #[serde(borrow, default)]
    pub input_tokens: Option<&'a RawValue>,
    /// The same from Gemini.
    #[serde(borrow, default, alias = "prompt_token_count")]
    pub prompt_token_count: Option<&'a RawValue>,
    /// Generated tokens.
    #[serde(borrow, default)]
    pub completion_tokens: Option<&'a RawValue>,
    /// The same, as Responses names it.
    #[serde(borrow, default)]
    pub output_tokens: Option<&'a RawValue>,
    /// The same from Gemini, without reasoning.
    #[serde(borrow, default, alias = "candidates_token_count")]
    pub candidates_token_count: Option<&'a RawValue>,
    /// Prompt and generated tokens.
    #[serde(borrow, default)]
    pub total_tokens: Option<&'a RawValue>,
    /// The same from Gemini, including reasoning.
    #[serde(borrow, default, alias = "total_token_count")]
    pub total_token_count: Option<&'a RawValue>,
    /// The cached part of the prompt.
    #[serde(borrow, default)]
    pub cached_tokens: Option<&'a RawValue>,
    /// The same, as Responses names it.
    #[serde(borrow, default)]
    pub cached_input_tokens: Option<&'a RawValue>,
    /// The same from Gemini.
    #[serde(borrow, default, alias = "cached_content_token_count")]
    pub cached_content_token_count: Option<&'a RawValue>,
    /// The reasoning part of the generated tokens.
    #[serde(borrow, default)]
    pub reasoning_tokens: Option<&'a RawValue>,
    /// Gemini: reasoning tokens, not part of the generated ones.
    #[serde(borrow, default, alias = "thoughts_token_count")]
    pub thoughts_token_count: Option<&'a RawValue>,
    /// Parts of the prompt.
    #[serde(borrow, default)]
    pub prompt_tokens_details: Option<&'a RawValue>,
    /// Parts of the completion.
    #[serde(borrow, default)]
    pub completion_tokens_details: Option<&'a RawValue>,
}

/// Details of the prompt or the generated tokens, in camelCase.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CamelDetails<'a> {
    /// Tokens that were in the prefix cache.
    #[serde(borrow, default)]
    pub cached_tokens: Option<&'a RawValue>,
    /// Tokens of reasoning.
    #[serde(borrow, default)]
    pub reasoning_tokens: Option<&'a RawValue>,
}

/// Details of the prompt or the generated tokens.
#[derive(Debug, Default, Deserialize)]
pub struct Details<'a> {
    /// Tokens that were in the prefix cache.
    #[serde(borrow, default)]
    pub cached_tokens: Option<&'a RawValue>,
    /// vLLM: tokens newly written to the cache.
    #[serde(borrow, default)]
    pub created_cache_tokens: Option<&'a RawValue>,
    /// Tokens of reasoning.
    #[serde(borrow, default)]
    pub reasoning_tokens: Option<&'a RawValue>,
}

/// Finds the `usage` of a chunk without a top-level one: in the choice (Moonshot), in `x_groq`, or as `usageMetadata`
/// (Gemini).
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

/// llama-server's `timings`. Their counts are used if there is no `usage`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct Timings {
    /// Prompt tokens from the cache.
    pub cache_n: Option<u64>,
    /// Prompt tokens processed.
    pub prompt_n: Option<u64>,
    /// How long they took, in milliseconds.
    pub prompt_ms: Option<f64>,
    /// Tokens generated.
    pub predicted_n: Option<u64>,
    /// How long they took, in milliseconds.
    pub predicted_ms: Option<f64>,
    /// Tokens that a draft model proposed.
    pub draft_n: Option<u64>,
    /// How many of these the model took.
    pub draft_n_accepted: Option<u64>,
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
    /// The most likely tokens at its position.
    #[serde(borrow, default)]
    pub top_logprobs: Option<Vec<TokenLogprob<'a>>>,
}

/// `logprobs`
#[derive(Debug, Deserialize)]
pub struct Logprobs<'a> {
    /// One element for each token.
    #[serde(borrow, default)]
    pub content: Option<Vec<TokenLogprob<'a>>>,
}

/// Reads the choice with index 0 from an array, without collecting the array.
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
