//! Owns `text.format`: reading it, writing it as `response_format`, and asking for it in words. It must not check a
//! text against it.

use crate::error::Error;
use crate::fields::{boolean, fields, literal, missing, not_one_of, object, present, string, word};
use crate::json_schema::Format;
use crate::request::plan::{Planner, push_key};
use crate::wire::json;
use crate::wire::request::{TextConfig, TextFormat};
use serde_json::value::RawValue;

/// A parsed `text.format`.
pub(super) enum TextForm<'a> {
    Free,
    Object,
    Schema {
        name: &'a RawValue,
        description: Option<&'a RawValue>,
        schema: &'a RawValue,
        strict: Option<bool>,
    },
}

impl<'a> TextForm<'a> {
    /// Parses a `text.format`; absent means free text.
    ///
    /// # Errors
    /// 400 naming the member that is missing or invalid.
    pub(super) fn read(raw: Option<&'a RawValue>) -> Result<TextForm<'a>, Error> {
        let format: TextFormat<'_> = fields(raw, "text.format")?;
        let kind = string(format.r#type, "text.format.type")?;
        match kind.as_deref() {
            None if present(raw).is_some() => Err(missing("text.format.type")),
            None | Some("text") => Ok(TextForm::Free),
            Some("json_object") => Ok(TextForm::Object),
            Some("json_schema") => {
                let name = literal(word(format.name, "text.format.name")?, "text.format.name")?
                    .ok_or_else(|| missing("text.format.name"))?;
                let schema = object(format.schema, "text.format.schema")?;
                Ok(TextForm::Schema {
                    name,
                    description: literal(format.description, "text.format.description")?,
                    schema: schema.ok_or_else(|| missing("text.format.schema"))?,
                    strict: boolean(format.strict, "text.format.strict")?,
                })
            }
            Some(other) => {
                Err(not_one_of("text.format.type", other, &["text", "json_object", "json_schema"]))
            }
        }
    }

    /// Appends `response_format`: flat in Responses, nested in Chat Completions.
    pub(super) fn write(&self, body: &mut Vec<u8>) {
        match self {
            TextForm::Free => {}
            TextForm::Object => push_key(body, "response_format", "{\"type\":\"json_object\"}"),
            TextForm::Schema { name, description, schema, strict } => {
                push_key(body, "response_format", "{\"type\":\"json_schema\",\"json_schema\":{\"name\":");
                body.extend_from_slice(name.get().as_bytes());
                if let Some(description) = description {
                    push_key(body, "description", description.get());
                }
                push_key(body, "schema", schema.get());
                if let Some(strict) = strict {
                    push_key(body, "strict", if *strict { "true" } else { "false" });
                }
                body.extend_from_slice(b"}}");
            }
        }
    }

    /// The format that a text must fit, if there is one.
    pub(super) fn required_format(&self) -> Option<Format> {
        match self {
            TextForm::Free => None,
            TextForm::Object => Some(Format::Object),
            // a schema that is too deep or too wide to be parsed is left for the server to refuse
            TextForm::Schema { schema, .. } => {
                Some(Format::Schema(json::tree(schema.get()).unwrap_or_default()))
            }
        }
    }

    /// Asks the model for the format after it has answered in another one. Escaped.
    pub(super) fn prompt(&self) -> String {
        let schema = match self {
            TextForm::Schema { schema, .. } => Some(schema.get()),
            TextForm::Free | TextForm::Object => None,
        };
        let form = schema.map_or("one JSON object.".into(), |schema| {
            format!("JSON that fits this JSON Schema:\n{schema}")
        });
        json::escape(&format!("Give your final answer now, without any other text, as {form}")).into_owned()
    }
}

impl<'a> Planner<'a, '_> {
    /// The format of the last item that sets one, else the request's own.
    pub(super) fn text_format(&self) -> Result<TextForm<'a>, Error> {
        let text: TextConfig<'_> = fields(self.request.text, "text")?;
        TextForm::read(self.update.format.or(text.format))
    }
}
