//! Owns the shape of a create request, its items and their parts: field names only, with every value still JSON text.
//! It must not validate: `request::parse` and `request::plan` do.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::wire::trusted_json;

/// The known fields of an object; `None` for any other value. Serde would also accept an array, by position.
pub fn fields<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    trusted_json::fields(raw.get())
}

/// The elements of an array, unparsed; empty if the text is not an array.
pub fn elements(array: &str) -> Vec<&RawValue> {
    trusted_json::elements(array).unwrap_or_default()
}

/// An element of `input`: its JSON, and its members if it is an object. For a message stored as text alone, the JSON is
/// the literal of that text (see `Input::push`).
pub type InputItem<'a> = (&'a RawValue, Option<Item<'a>>);

/// Parses an element of `input`.
pub fn item(raw: &RawValue) -> InputItem<'_> {
    (raw, fields(raw))
}

/// Appends the elements of an `input` array, parsed in the same pass that separates them; nothing if the text is not an
/// array.
pub fn push_items<'a>(out: &mut Vec<InputItem<'a>>, array: &'a str) {
    let _ = trusted_json::objects(array, out, |raw, item| Some((raw, item)));
}

/// Declares a struct whose fields are optional, borrowed JSON values of the same name.
macro_rules! raw_fields {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, Deserialize)]
        #[allow(missing_docs)] // the names are the documents' own
        pub struct $name<'a> {
            $(#[serde(borrow, default)] pub $field: Option<&'a RawValue>,)*
        }
    };
}

pub(super) use raw_fields;

/// Like `raw_fields`, with all other members in `others`, in order. A duplicate member is an error.
macro_rules! raw_fields_and_others {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[allow(missing_docs)] // the names are the documents' own
        pub struct $name<'a> {
            $(pub $field: Option<&'a RawValue>,)*
            /// Members that OpenAI does not document.
            pub others: Vec<(Cow<'a, str>, &'a RawValue)>,
        }

        impl<'a> $name<'a> {
            /// The members that are present, with their names.
            pub fn members(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
                let named = [$((stringify!($field), self.$field)),*];
                let named = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
                named.chain(self.others.iter().map(|(name, value)| (&**name, *value)))
            }
        }

        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Members<'a>(std::marker::PhantomData<&'a ()>);
                impl<'de: 'a, 'a> Visitor<'de> for Members<'a> {
                    type Value = $name<'a>;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let mut read = $name::default();
                        while let Some(key) = map.next_key::<Key<'de>>()? {
                            match &*key.0 {
                                $(stringify!($field) => match read.$field {
                                    // it is unclear which one the client meant
                                    Some(_) => return Err(A::Error::duplicate_field(stringify!($field))),
                                    None => read.$field = Some(map.next_value()?),
                                },)*
                                _ if read.others.len() >= MOST_OTHERS => {
                                    return Err(A::Error::custom(format!("over {MOST_OTHERS} unknown members")));
                                }
                                _ => read.others.push((key.0, map.next_value()?)),
                            }
                        }
                        Ok(read)
                    }
                }
                deserializer.deserialize_map(Members(std::marker::PhantomData))
            }
        }
    };
}

/// Most undocumented members of a request; clients send a handful.
const MOST_OTHERS: usize = 1000;

/// A member's name, borrowed unless it contains escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

raw_fields_and_others!(
    /// `CreateResponse` (docs/protocol.md 3). Codex also sends `client_metadata`; others send `stream_options`,
    /// `prompt_cache_options`, or parameters that their server supports beyond OpenAI's.
    CreateResponse {
        background,
        context_management,
        conversation,
        frequency_penalty,
        include,
        input,
        instructions,
        max_output_tokens,
        max_tool_calls,
        metadata,
        model,
        parallel_tool_calls,
        presence_penalty,
        previous_response_id,
        prompt_cache_key,
        prompt_cache_retention,
        reasoning,
        safety_identifier,
        service_tier,
        store,
        stream,
        temperature,
        text,
        tool_choice,
        tools,
        top_logprobs,
        top_p,
        truncation,
        user,
    }
);

raw_fields!(
    /// One element of `input` (docs/protocol.md 4).
    Item {
        r#type, id, role, content, call_id, namespace, name, arguments, input, output, summary, tools, action,
        operation, status, encrypted_content,
    }
);

raw_fields!(
    /// An item that changes settings for the following answers.
    ConfigurationUpdate { reasoning, text }
);

raw_fields!(
    /// A message in Chat Completions form.
    ChatMessage { tool_calls, tool_call_id, call_id, name }
);

raw_fields!(
    /// An element of a chat message's `tool_calls`.
    ChatCall { id, function }
);

raw_fields!(
    /// The `function` of a chat call.
    ChatFunction { name, arguments }
);

raw_fields!(
    /// A part of a message's `content`, of a tool output, or of a reasoning item.
    Part {
        r#type, text, refusal, image_url, detail, file_id, file_data, file_url, filename, input_audio,
    }
);

raw_fields!(
    /// An element of `tools`.
    Tool {
        r#type, name, description, parameters, strict, format, tools, execution, defer_loading, output_schema,
        allowed_callers, r#async,
    }
);

raw_fields!(
    /// The `format` of a custom tool.
    CustomFormat { r#type, syntax, definition }
);

raw_fields!(
    /// A `conversation` given as an object.
    ConversationParam { id }
);

raw_fields!(
    /// The body of a request about a conversation.
    ConversationBody { metadata, items }
);

raw_fields!(
    /// An element of `context_management`.
    ContextManagement { r#type, compact_threshold }
);

raw_fields!(
    /// A `tool_choice` given as an object.
    ToolChoice { r#type, namespace, name, mode, tools }
);

raw_fields!(
    /// `text`.
    TextConfig { format, verbosity }
);

raw_fields!(
    /// `text.format`.
    TextFormat { r#type, name, description, schema, strict }
);

raw_fields!(
    /// `reasoning`.
    ReasoningConfig { effort, summary, generate_summary }
);
