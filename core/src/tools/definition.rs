//! Owns the definition of one function in the request to the model. It must not choose which tools are shown.

use crate::fields::present;
use crate::tools::parameters;
use crate::wire::json;
use crate::wire::request::{self, CustomFormat, Tool};
use std::borrow::Cow;

/// The definition of a chat function. Its name is in the table.
#[derive(Debug)]
pub(super) struct Definition<'a> {
    /// The description, escaped.
    pub(super) description: Option<Cow<'a, str>>,
    /// For a custom tool: syntax and definition of its grammar, escaped; both empty if it has none.
    pub(super) freeform: Option<[Cow<'a, str>; 2]>,
    /// JSON text of a schema, whose root need not have type `object`.
    pub(super) parameters: Option<&'a str>,
    pub(super) strict: Option<&'a str>,
    /// Whether it is left out of the tools and called through another function.
    pub(super) indirect: bool,
}

impl Definition<'_> {
    /// Appends `{"type":"function","function":{...}}`, or the flat form. A schema is copied as the client wrote it.
    pub(super) fn write(&self, out: &mut Vec<u8>, name: &str, flat: bool) {
        out.extend_from_slice(head(flat));
        json::push_string(out, name);
        if self.description.is_some() || self.freeform.is_some() {
            out.extend_from_slice(b",\"description\":\"");
            let description = self.description.as_deref().unwrap_or_default();
            out.extend_from_slice(description.as_bytes());
            if let Some(grammar) = &self.freeform {
                // the model only knows JSON arguments
                out.extend_from_slice(if description.is_empty() { b"" } else { b"\\n\\n" });
                out.extend_from_slice(
                    b"Put the raw text into `input`, as it is: no code fence around it, no JSON inside it.",
                );
                push_grammar(out, grammar);
            }
            out.push(b'"');
        }
        out.extend_from_slice(b",\"parameters\":");
        parameters::push_object_rooted(out, self.parameters.unwrap_or("{}"));
        if let Some(strict) = self.strict {
            out.extend_from_slice(b",\"strict\":");
            out.extend_from_slice(strict.as_bytes());
        }
        out.extend_from_slice(if flat { b"}" } else { b"}}" });
    }
}

/// Syntax and definition of a custom tool's grammar, both empty if it has none.
pub(super) fn grammar<'a>(tool: &Tool<'a>) -> [Cow<'a, str>; 2] {
    let format: CustomFormat<'_> = present(tool.format).and_then(request::fields).unwrap_or_default();
    match present(format.definition).and_then(json::text) {
        Some(definition) => [present(format.syntax).and_then(json::text).unwrap_or_default(), definition],
        None => <[Cow<'_, str>; 2]>::default(),
    }
}

/// Appends a grammar as a sentence of the description; nothing without one.
pub(super) fn push_grammar(out: &mut Vec<u8>, [syntax, definition]: &[Cow<'_, str>; 2]) {
    if !definition.is_empty() {
        for text in ["\\n\\nThe text must match this ", syntax, " grammar:\\n", definition] {
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// The beginning of a function definition, up to its name.
pub(super) fn head(flat: bool) -> &'static [u8] {
    match flat {
        true => b"{\"type\":\"function\",\"name\":",
        false => b"{\"type\":\"function\",\"function\":{\"name\":",
    }
}
