//! Owns how much a request may hold, apart from its bytes, and the errors that say so, in OpenAI's words and with its
//! codes. It must not read a request.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// `[limits]`: checked as a request is read, before anything is set aside for what it holds. Only what a request brings
/// itself is counted; what was stored before is never refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Deepest nesting of objects and arrays, the request's own object included.
    pub depth: usize,
    /// Most items of `input`.
    pub items: usize,
    /// Most parts of all its items: of their `content`, `output` and `summary`.
    pub parts: usize,
    /// Most tools, those in namespaces included.
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
    /// Most bytes of values that are taken apart and written anew; further ones are passed on as they came, as text.
    pub rewritten_bytes: usize,
}

impl Limits {
    /// OpenAI's own where it names one that clients keep to (names, metadata); else far above what clients send.
    pub const DEFAULT: Limits = Limits {
        depth: 100,
        items: 16_384,
        parts: 32_768,
        tools: 2048,
        name_bytes: 128,
        allowed_tools: 2048,
        include: 64,
        metadata: 16,
        // OpenAI's are 64 characters, but LiteLLM puts a model's sealed thoughts into them
        call_id_bytes: 64 << 10,
        // more than a model's context
        rewritten_bytes: 4 << 20,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// An array of `found` elements, where `most` may be.
pub fn array_too_long(path: &str, most: usize, found: usize) -> Error {
    let message = format!(
        "Invalid '{path}': array too long. Expected an array with maximum length {most}, but got an array with length \
         {found} instead."
    );
    over(path, message, "array_above_max_length")
}

/// An array whose elements are more than `most` together with those of other arrays of the request.
pub fn arrays_too_long(path: &str, what: &str, most: usize) -> Error {
    let message = format!(
        "Invalid '{path}': array too long. Expected at most {most} {what} in the whole request (limits.{what})."
    );
    over(path, message, "array_above_max_length")
}

/// A string of `found` characters, or bytes, where `most` may be.
pub fn string_too_long(path: &str, most: usize, found: usize) -> Error {
    let message = format!(
        "Invalid '{path}': string too long. Expected a string with maximum length {most}, but got a string with \
         length {found} instead."
    );
    over(path, message, "string_above_max_length")
}

/// A member's name of `found` characters, where `most` may be.
pub fn member_name_too_long(path: &str, most: usize, found: usize) -> Error {
    let message = format!(
        "Invalid '{path}': property name too long. Expected a property name with maximum length {most}, but got one \
         with length {found} instead."
    );
    over(path, message, "property_name_above_max_length")
}

/// An object of `found` members, where `most` may be.
pub fn too_many_members(path: &str, most: usize, found: usize) -> Error {
    let message = format!(
        "Invalid '{path}': too many properties. Expected an object with at most {most} properties, but got an object \
         with {found} properties instead."
    );
    over(path, message, "object_above_max_properties")
}

/// An item with more members and elements than one may have.
pub fn too_wide(path: &str) -> Error {
    let message = format!("Invalid '{path}': too many properties and elements. Split it into several items.");
    over(path, message, "array_above_max_length")
}

/// A value that is nested deeper than `most`.
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
