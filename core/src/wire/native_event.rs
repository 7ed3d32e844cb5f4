//! Owns the shape of what a server that speaks Responses sends: events, items, parts. Every field may be absent, and
//! every value is still JSON text. It must not validate.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::wire::request::raw_fields;

raw_fields!(
    /// An event (docs/protocol.md 7), or a whole Response object in place of one.
    Event {
        r#type, item_id, output_index, content_index, summary_index, delta, text, arguments, input, refusal, name,
        part, item, annotation, logprobs, response, error, object, choices, timings,
    }
);

raw_fields!(
    /// A Response object without the members that echo its request.
    Response { status, error, incomplete_details, output, usage, timings }
);

raw_fields!(
    /// `incomplete_details`
    IncompleteDetails { reason }
);

raw_fields!(
    /// An output item.
    Item {
        r#type, id, status, content, summary, call_id, name, namespace, arguments, input,
    }
);

raw_fields!(
    /// A part of a message or of reasoning.
    Part { r#type, text, refusal, annotations, logprobs }
);

/// `usage`.
#[derive(Debug, Default, Deserialize)]
pub struct Usage {
    /// The whole prompt, including the cached part.
    pub input_tokens: Option<u64>,
    /// Generated tokens, including reasoning.
    pub output_tokens: Option<u64>,
    /// Cached and newly cached tokens of the prompt.
    #[serde(default)]
    pub input_tokens_details: Option<InputDetails>,
    /// The reasoning part of the generated tokens.
    #[serde(default)]
    pub output_tokens_details: Option<OutputDetails>,
}

/// `usage.input_tokens_details`
#[derive(Debug, Default, Deserialize)]
pub struct InputDetails {
    /// Tokens that were in the prefix cache.
    pub cached_tokens: Option<u64>,
    /// Tokens newly written to the cache.
    pub cache_write_tokens: Option<u64>,
}

/// `usage.output_tokens_details`
#[derive(Debug, Default, Deserialize)]
pub struct OutputDetails {
    /// Tokens of reasoning.
    pub reasoning_tokens: Option<u64>,
}
