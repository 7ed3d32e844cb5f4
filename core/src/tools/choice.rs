//! Owns `tool_choice`: which declared tools the model may or must call. It must not write the request.

use crate::error::Error;
use crate::error::Kind as ErrorKind;
use crate::fields::{array, beginning, fields, missing, not_one_of, string, word, wrong_type};
use crate::limits::Limits;
use crate::notes::Notes;
use crate::tools::table::{self, BUILT_IN, Table, ToolKind};
use crate::wire::json;
use crate::wire::request::ToolChoice;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;

/// A parsed `tool_choice`, with chat names.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// Absent, or `auto`.
    Auto,
    /// The model must not call tools.
    None,
    /// The model must call a tool.
    Required,
    /// The model must call this function.
    Function(String),
    /// The model may or must call one of the allowed tools, which are marked in the table.
    Allowed(Mode),
}

/// The `mode` of a choice of allowed tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The model may call one.
    Auto,
    /// The model must call one.
    Required,
}

const PATH: &str = "tool_choice";

impl Choice {
    /// Parses `tool_choice`, and marks in the table which tools may be called. A choice of a hidden tool is noted and
    /// ignored.
    pub fn read(
        raw: Option<&RawValue>,
        table: &mut Table,
        limits: &Limits,
        notes: &mut Notes,
    ) -> Result<Choice, Error> {
        let Some(raw) = word(raw, PATH)? else { return Ok(Choice::Auto) };
        if let Some(word) = json::decode(raw) {
            return match &*word {
                "auto" => Ok(Choice::Auto),
                "none" => {
                    table.forbids_calls = true;
                    Ok(Choice::None)
                }
                "required" => Ok(Choice::Required),
                other => Err(not_one_of(PATH, other, &["none", "auto", "required"])),
            };
        }
        if !raw.get().starts_with('{') {
            return Err(wrong_type(raw, PATH, "a string or an object"));
        }
        let choice: ToolChoice<'_> = fields(Some(raw), PATH)?;
        let kind = string(choice.r#type, "tool_choice.type")?.ok_or_else(|| missing("tool_choice.type"))?;
        match &*kind {
            "function" | "custom" => Choice::declared(&kind, raw, &choice, table),
            "allowed_tools" => Choice::allowed(&choice, table, limits),
            other => {
                let built_in = BUILT_IN.iter().any(|kind| kind.type_name() == other);
                let at = built_in.then(|| Index::new(&table.tools).find(other, None, other)).flatten();
                Ok(match at {
                    Some(at) => Choice::Function(only(table, at)),
                    None => {
                        notes.add("hidden_tool_choice", other);
                        Choice::Auto
                    }
                })
            }
        }
    }

    /// A choice of one declared tool.
    fn declared(
        kind: &str,
        raw: &RawValue,
        choice: &ToolChoice<'_>,
        table: &mut Table,
    ) -> Result<Choice, Error> {
        // Chat Completions nests the name, and SDK users confuse the two forms
        let name = match string(choice.name, "tool_choice.name")? {
            Some(name) => name,
            None => nested_name(raw).ok_or_else(|| missing("tool_choice.name"))?,
        };
        let namespace = string(choice.namespace, "tool_choice.namespace")?;
        match Index::new(&table.tools).find(kind, namespace.as_deref(), &name) {
            Some(at) => Ok(Choice::Function(only(table, at))),
            None => {
                let name = beginning(&name, 200);
                let message = format!("Tool choice '{name}' not found in 'tools' parameter.");
                Err(Error::new(ErrorKind::InvalidValue, message).param(PATH))
            }
        }
    }

    /// A choice from a list of tools.
    fn allowed(choice: &ToolChoice<'_>, table: &mut Table, limits: &Limits) -> Result<Choice, Error> {
        let mode = string(choice.mode, "tool_choice.mode")?;
        let mode = match mode.as_deref() {
            None | Some("auto") => Mode::Auto,
            Some("required") => Mode::Required,
            Some(other) => {
                return Err(not_one_of("tool_choice.mode", other, &["auto", "required"]));
            }
        };
        let mut allowed = vec![false; table.tools.len()];
        let named = Index::new(&table.tools);
        let tools = array(choice.tools, "tool_choice.tools", limits.allowed_tools)?;
        for (n, raw) in tools.unwrap_or_default().into_iter().enumerate() {
            let path = format!("tool_choice.tools[{n}]");
            let tool: ToolChoice<'_> = fields(Some(raw), &path)?;
            let kind = string(tool.r#type, &format!("{path}.type"))?.unwrap_or_default();
            let name = string(tool.name, &format!("{path}.name"))?.unwrap_or(Cow::Borrowed(&kind));
            let namespace = string(tool.namespace, &format!("{path}.namespace"))?;
            let at = named.find(&kind, namespace.as_deref(), &name);
            if let Some(allowed) = at.and_then(|at| allowed.get_mut(at)) {
                *allowed = true;
            }
        }
        for (tool, allowed) in table.tools.iter_mut().zip(allowed) {
            tool.allowed = allowed;
        }
        Ok(Choice::Allowed(mode))
    }
}

/// An index of tools by the members of a choice, so that a long list of choices takes linear time.
struct Index<'t> {
    /// By name and namespace (`None` if the choice has none): the first tool of any kind, function, and custom tool.
    places: HashMap<(&'t str, Option<&'t str>), [Option<usize>; 3]>,
}

impl<'t> Index<'t> {
    fn new(tools: &'t [table::DeclaredTool]) -> Index<'t> {
        let mut places: HashMap<_, [Option<usize>; 3]> = HashMap::new();
        for (at, tool) in tools.iter().enumerate() {
            let function = matches!(tool.kind, ToolKind::Function).then_some(at);
            let custom = matches!(tool.kind, ToolKind::Custom(_)).then_some(at);
            for namespace in [Some(tool.namespace.as_deref()), tool.namespace.as_ref().and(Some(None))] {
                let Some(namespace) = namespace else { continue };
                let [any, functions, customs] = places.entry((tool.name.as_str(), namespace)).or_default();
                *any = any.or(Some(at));
                *functions = functions.or(function);
                *customs = customs.or(custom);
            }
        }
        Index { places }
    }

    fn find(&self, kind: &str, namespace: Option<&str>, name: &str) -> Option<usize> {
        let [any, function, custom] = *self.places.get(&(name, namespace))?;
        match kind {
            "function" => function,
            "custom" => custom,
            _ => any,
        }
    }
}

/// Allows only the tool at position `at`, and returns its chat name.
fn only(table: &mut Table, at: usize) -> String {
    for (n, tool) in table.tools.iter_mut().enumerate() {
        tool.allowed = n == at;
    }
    table.tools.get(at).map(|tool| tool.chat.clone()).unwrap_or_default()
}

fn nested_name(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct Chat<'a> {
        #[serde(borrow)]
        function: Function<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Function<'a> {
        #[serde(borrow)]
        name: &'a RawValue,
    }
    serde_json::from_str::<Chat<'_>>(raw.get()).ok().and_then(|chat| json::decode(chat.function.name))
}
