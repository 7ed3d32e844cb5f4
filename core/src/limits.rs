//! Owns the limits of a request other than its length, and their errors with OpenAI's wording and codes. It must not
//! read a request.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// The `[limits]` of the configuration, checked while a request is read, before memory is allocated for its parts. Only
/// the request's own content counts; stored content is never refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Deepest nesting of objects and arrays, including the request object itself.
    pub depth: usize,
    /// Most items of `input`.
    pub items: usize,
    /// Most parts of all items together, in their `content`, `output` and `summary`.
    pub parts: usize,
    /// Most tools, including those in namespaces.
    pub tools: usize,
    /// Longest name of a tool or a namespace, in bytes.
    pub name_bytes: usize,
    /// Most entries of `tool_choice.tools`.
    pub allowed_tools: usize,
    /// Most entries of `include`.
    pub include: usize,
    /// Most pairs of `metadata`.
    pub metadata: usize,
    /// Longest `call_id`, in bytes.
    pub call_id_bytes: usize,
    /// Most bytes of values that are parsed and rewritten; further values are passed on unchanged, as text.
    pub rewritten_bytes: usize,
}

impl Limits {
    /// OpenAI's limit where clients keep to it (names, metadata), else far more than clients send.
    pub const DEFAULT: Limits = Limits {
        depth: 100,
        items: 16_384,
        parts: 32_768,
        tools: 2048,
        name_bytes: 128,
        allowed_tools: 2048,
        include: 64,
        metadata: 16,
        // OpenAI's limit is 64 characters, but LiteLLM puts a model's encrypted reasoning into them
        call_id_bytes: 64 << 10,
        // more than the context of a model
        rewritten_bytes: 4 << 20,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// The error for an array of `found` elements instead of at most `most`.
pub fn array_too_long(path: &str, most: usize, found: usize) -> Error {
    let message = format!(
        "Invalid '{path}': array too long. Expected an array with maximum length {most}, but got an array with length \
         {found} instead."
    );
    over(path, message, "array_above_max_length")
}

/// The error for an array that, with the others of the request, has more than `most` elements.
pub fn arrays_too_long(path: &str, what: &str, most: usize) -> Error {
    let message = format!(
        "Invalid '{path}': array too long. Expected at most {most} {what} in the whole request (limits.{what})."
    );
    over(path, message, "array_above_max_length")
}

/// The error for a string of `found` characters or bytes instead of at most `most`.
pub fn string_too_long(path: &str, most: usize, found: usize) -> Error {
    let message = format!(
        "Invalid '{path}': string too long. Expected a string with maximum length {most}, but got a string with \
         length {found} instead."
    );
    over(path, message, "string_above_max_length")
}

/// The error for a member name of `found` characters instead of at most `most`.
pub fn member_name_too_long(path: &str, most: usize, found: usize) -> Error {
    let message = format!(
        "Invalid '{path}': property name too long. Expected a property name with maximum length {most}, but got one \
         with length {found} instead."
    );
    over(path, message, "property_name_above_max_length")
}

/// The error for an object of `found` members instead of at most `most`.
pub fn too_many_members(path: &str, most: usize, found: usize) -> Error {
    let message = format!(
        "Invalid '{path}': too many properties. Expected an object with at most {most} properties, but got an object \
         with {found} properties instead."
    );
    over(path, message, "object_above_max_properties")
}

/// The error for an item with too many members and elements.
pub fn too_wide(path: &str) -> Error {
    let message = format!("Invalid '{path}': too many properties and elements. Split it into several items.");
    over(path, message, "array_above_max_length")
}

/// The error for a value nested more deeply than `most` levels.
pub fn too_deep(path: &str, most: usize) -> Error {
    let message = format!(
        "Invalid '{path}': nested too deeply. Expected at most {most} levels of objects and arrays in the whole request \
         (limits.depth)."
    );
    Error::new(Kind::InvalidValue, message).param(path)
}

fn over(path: &str, message: String, code: &str) -> Error {
    Error { code: Some(code.to_owned()), ..Error::new(Kind::InvalidValue, message).param(path) }
}
