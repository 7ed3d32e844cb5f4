//! Owns the shape of what a server sends that speaks Responses itself: events, items, parts. Every field may be absent,
//! every value is still JSON text. It must not judge.

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
    /// A Response object, as far as it is not an echo of the request.
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
    /// The whole prompt, cached part included.
    pub input_tokens: Option<u64>,
    /// What was generated, reasoning included.
    pub output_tokens: Option<u64>,
    /// What the cache did.
    #[serde(default)]
    pub input_tokens_details: Option<InputDetails>,
    /// What was reasoning.
    #[serde(default)]
    pub output_tokens_details: Option<OutputDetails>,
}

/// `usage.input_tokens_details`
#[derive(Debug, Default, Deserialize)]
pub struct InputDetails {
    /// Tokens that the prefix cache held.
    pub cached_tokens: Option<u64>,
    /// Tokens written to it.
    pub cache_write_tokens: Option<u64>,
}

/// `usage.output_tokens_details`
#[derive(Debug, Default, Deserialize)]
pub struct OutputDetails {
    /// Tokens of reasoning.
    pub reasoning_tokens: Option<u64>,
}
