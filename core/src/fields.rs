//! Owns the type checks of request fields: each function takes a JSON value and its path, and returns a Rust value or
//! an error that names the path. `null` counts as absent. It must not know what a field means.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, Kind};
use crate::limits::{array_too_long, member_name_too_long, string_too_long, too_many_members};
use crate::wire::{json, trusted_json};

/// The value, unless it is absent or `null`.
pub fn present(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

/// Longest string of a field that holds a word or an id, in bytes: these are copied to several places.
const MOST_WORD: usize = 64 << 10;

/// A decoded string of at most 64 KiB; `None` if it is absent or `null`. `path` names the field in the error.
pub fn string<'a>(raw: Option<&'a RawValue>, path: &str) -> Result<Option<Cow<'a, str>>, Error> {
    let raw = word(raw, path)?;
    raw.map(|raw| json::decode(raw).ok_or_else(|| wrong_type(raw, path, "a string"))).transpose()
}

/// The value unchanged, if it is not a string longer than 64 KiB. Other types are not checked.
pub fn word<'a>(raw: Option<&'a RawValue>, path: &str) -> Result<Option<&'a RawValue>, Error> {
    match present(raw) {
        Some(raw) if raw.get().len() > MOST_WORD && raw.get().starts_with('"') => {
            Err(string_too_long(path, MOST_WORD, raw.get().len() - 2))
        }
        raw => Ok(raw),
    }
}

/// A string as its JSON literal, of any length.
pub fn literal<'a>(raw: Option<&'a RawValue>, path: &str) -> Result<Option<&'a RawValue>, Error> {
    checked_type(raw, path, "a string", b"\"")
}

/// A boolean; `None` if it is absent or `null`. `path` names the field in the error.
pub fn boolean(raw: Option<&RawValue>, path: &str) -> Result<Option<bool>, Error> {
    Ok(checked_type(raw, path, "a boolean", b"tf")?.map(|raw| raw.get() == "true"))
}

/// A number within bounds, as JSON text.
pub fn number<'a>(
    raw: Option<&'a RawValue>,
    path: &str,
    bounds: RangeInclusive<i32>,
) -> Result<Option<&'a RawValue>, Error> {
    let Some(raw) = checked_type(raw, path, "a number", b"-0123456789")? else { return Ok(None) };
    let (min, max) = (bounds.start(), bounds.end());
    match raw.get().parse::<f64>() {
        Ok(value) if value > f64::from(*max) => {
            Err(out_of_range("decimal", path, raw.get(), Bound::Max, max))
        }
        Ok(value) if value < f64::from(*min) => {
            Err(out_of_range("decimal", path, raw.get(), Bound::Min, min))
        }
        _ => Ok(Some(raw)),
    }
}

/// An integer from `min` to `max`.
pub fn integer(raw: Option<&RawValue>, path: &str, min: u64, max: u64) -> Result<Option<u64>, Error> {
    let Some(raw) = checked_type(raw, path, "an integer", b"-0123456789")? else { return Ok(None) };
    let text = raw.get();
    if text.contains(['.', 'e', 'E']) {
        return Err(wrong_type(raw, path, "an integer"));
    }
    match text.parse::<u64>() {
        Ok(value) if value > max => Err(out_of_range("integer", path, text, Bound::Max, &max)),
        Ok(value) if value >= min => Ok(Some(value)),
        Err(_) if !text.starts_with('-') => Err(out_of_range("integer", path, text, Bound::Max, &max)),
        _ => Err(out_of_range("integer", path, text, Bound::Min, &min)),
    }
}

/// An object, as JSON text.
pub fn object<'a>(raw: Option<&'a RawValue>, path: &str) -> Result<Option<&'a RawValue>, Error> {
    checked_type(raw, path, "an object", b"{")
}

/// The elements of an array, as JSON text; at most `most`.
pub fn array<'a>(
    raw: Option<&'a RawValue>,
    path: &str,
    most: usize,
) -> Result<Option<Vec<&'a RawValue>>, Error> {
    let Some(raw) = checked_type(raw, path, "an array", b"[")? else { return Ok(None) };
    let (elements, count) = trusted_json::first_elements(raw.get(), most).unwrap_or_default();
    if count > most { Err(array_too_long(path, most, count)) } else { Ok(Some(elements)) }
}

/// Longest name and longest value in `metadata`, in characters.
const METADATA_CHARACTERS: (usize, usize) = (64, 512);

/// `metadata`: an object of at most `most` strings, as JSON text.
pub fn metadata(raw: Option<&RawValue>, most: usize) -> Result<Option<&RawValue>, Error> {
    let Some(raw) = object(raw, "metadata")? else { return Ok(None) };
    let (mut count, mut wrong) = (0, None);
    trusted_json::members(raw.get(), |name, value| {
        count += 1;
        if count <= most && wrong.is_none() {
            wrong = pair(name, value).err();
        }
    });
    match wrong {
        _ if count > most => Err(too_many_members("metadata", most, count)),
        Some(error) => Err(error),
        None => Ok(Some(raw)),
    }
}

fn pair(name: &RawValue, value: &RawValue) -> Result<(), Error> {
    let (longest_name, longest_value) = METADATA_CHARACTERS;
    let name = json::decode(name).unwrap_or_default();
    let characters = name.chars().count();
    if characters > longest_name {
        return Err(member_name_too_long("metadata", longest_name, characters));
    }
    let path = format!("metadata.{name}");
    let text = json::decode(value).ok_or_else(|| wrong_type(value, &path, "a string"))?;
    let characters = text.chars().count();
    if characters > longest_value { Err(string_too_long(&path, longest_value, characters)) } else { Ok(()) }
}

/// The known fields of an object; the default if it is absent.
pub fn fields<'a, T: Deserialize<'a> + Default>(raw: Option<&'a RawValue>, path: &str) -> Result<T, Error> {
    let Some(raw) = object(raw, path)? else { return Ok(T::default()) };
    match trusted_json::fields(raw.get()) {
        Some(read) => Ok(read),
        None => serde_json::from_str(raw.get()).map_err(|error| invalid(path, error)),
    }
}

/// The error for a field of the wrong JSON type.
pub fn wrong_type(raw: &RawValue, path: &str, expected: &str) -> Error {
    let got = json::type_name(raw);
    Error::new(
        Kind::InvalidType,
        format!("Invalid type for '{path}': expected {expected}, but got {got} instead."),
    )
    .param(path)
}

/// The error for a missing field.
pub fn missing(path: &str) -> Error {
    Error::new(Kind::MissingParameter, format!("Missing required parameter: '{path}'.")).param(path)
}

/// Longest part of a value that an error message shows, in bytes.
const SHOWN: usize = 200;

/// At most the first `bytes` bytes of a text, cut between characters.
pub fn beginning(text: &str, bytes: usize) -> &str {
    let ends = (0..=bytes.min(text.len())).rev();
    ends.filter_map(|end| text.get(..end)).next().unwrap_or_default()
}

/// The error for a value other than the documented `choices`.
pub fn not_one_of(path: &str, got: &str, choices: &[&str]) -> Error {
    let got = beginning(got, SHOWN);
    let quoted: Vec<String> = choices.iter().map(|choice| format!("'{choice}'")).collect();
    let listed = match quoted.as_slice() {
        [first, second] => format!("{first} and {second}"),
        [others @ .., last] if !others.is_empty() => format!("{}, and {last}", others.join(", ")),
        _ => quoted.concat(),
    };
    let message = format!("Invalid value: '{got}'. Supported values are: {listed}.");
    Error::new(Kind::InvalidValue, message).param(path)
}

fn invalid(path: &str, error: serde_json::Error) -> Error {
    Error::new(Kind::InvalidValue, format!("Invalid value for '{path}': {error}.")).param(path)
}

fn checked_type<'a>(
    raw: Option<&'a RawValue>,
    path: &str,
    expected: &str,
    first: &[u8],
) -> Result<Option<&'a RawValue>, Error> {
    match present(raw) {
        Some(raw) if raw.get().bytes().next().is_some_and(|byte| first.contains(&byte)) => Ok(Some(raw)),
        Some(raw) => Err(wrong_type(raw, path, expected)),
        None => Ok(None),
    }
}

enum Bound {
    Min,
    Max,
}

/// `kind`: the kind of number, in OpenAI's words.
fn out_of_range(kind: &str, path: &str, got: &str, which: Bound, bound: &impl Display) -> Error {
    let got = beginning(got, SHOWN);
    let (what, side, code) = match which {
        Bound::Min => ("below minimum value", ">=", format!("{kind}_below_min_value")),
        Bound::Max => ("above maximum value", "<=", format!("{kind}_above_max_value")),
    };
    let message =
        format!("Invalid '{path}': {kind} {what}. Expected a value {side} {bound}, but got {got} instead.");
    let mut error = Error::new(Kind::InvalidValue, message).param(path);
    error.code = Some(code);
    error
}
