//! Owns tools and `tool_choice`: what the model is shown of the declared tools, wherever they are declared, and the
//! `tools` array that the response repeats. It must not read messages.

pub mod call_items;
mod choice;
pub mod custom_input;
mod definition;
pub mod names;
mod parameters;
pub mod search;
pub mod table;

pub use choice::{Choice, Mode};

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::client;
use crate::dialect::Dialect;
use crate::error::Error;
use crate::fields::{array, fields, literal, missing, not_one_of, object, present, string, wrong_type};
use crate::limits::{Limits, arrays_too_long, string_too_long};
use crate::notes::Notes;
use crate::options::{FoundTools, Wrappers};
use crate::tools::definition::{Definition, grammar, head};
use crate::tools::search::{Search, ShellForm, ShellTool};
use crate::tools::table::{Freeform, Table, ToolKind};
use crate::wire::json::{self, minify};
use crate::wire::request::{InputItem, Item, Tool};
use crate::wire::trusted_json;

/// The tools of a request: those the model is shown, and the `tools` array for the echo.
#[derive(Debug, Default)]
pub struct Tools<'a> {
    definitions: Vec<Definition<'a>>,
    /// Maps declared tools to chat functions and back.
    pub table: Table,
    /// The `tools` array as the response repeats it.
    pub echo: Vec<u8>,
    limits: Limits,
}

const CUSTOM_PARAMETERS: &str =
    r#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}"#;
const LOCAL_SHELL_PARAMETERS: &str = r#"{"type":"object","properties":{"command":{"type":"array","items":{"type":"string"},"description":"The command and its arguments."},"working_directory":{"type":"string"},"timeout_ms":{"type":"integer"}},"required":["command"]}"#;
const SHELL_PARAMETERS: &str = r#"{"type":"object","properties":{"commands":{"type":"array","items":{"type":"string"},"description":"Shell commands, run one after the other."},"timeout_ms":{"type":"integer"},"max_output_length":{"type":"integer"}},"required":["commands"]}"#;
const APPLY_PATCH_PARAMETERS: &str = r#"{"type":"object","properties":{"type":{"type":"string","enum":["create_file","update_file","delete_file"]},"path":{"type":"string"},"diff":{"type":"string","description":"Lines with a leading +, - or space; hunks begin with @@. Empty for delete_file."}},"required":["type","path"]}"#;
const CALL_FOUND: &str = "call_found_tool";
const CALL_FOUND_DESCRIPTION: &str = "Calls a tool that tool_search has found: its `name` as it was shown there, and the `arguments` object that its parameters describe.";
const CALL_FOUND_PARAMETERS: &str = r#"{"type":"object","properties":{"name":{"type":"string"},"arguments":{"type":"object"}},"required":["name","arguments"]}"#;
const TOOL_SEARCH_PARAMETERS: &str = r#"{"type":"object","properties":{"query":{"type":"string"},"limit":{"type":"integer"}},"required":["query"]}"#;

impl<'a> Tools<'a> {
    /// Reads `tools`, then the tools inside input items (`additional_tools`, `tool_search_output`) in the order of the
    /// history, so that a longer history only appends tools and the beginning of the prompt stays the same.
    ///
    /// # Errors
    /// 400 for an invalid or too long `tools`; invalid tools inside items are noted instead.
    pub fn read(
        raw: Option<&'a RawValue>,
        items: &[&InputItem<'a>],
        wrappers: &Wrappers,
        found: FoundTools,
        limits: &Limits,
        notes: &mut Notes,
    ) -> Result<Tools<'a>, Error> {
        let echo = Vec::with_capacity(raw.map_or(2, |raw| raw.get().len() + 256));
        let mut tools = Tools { echo, limits: *limits, ..Tools::default() };
        tools.echo.push(b'[');
        tools.table.wrappers = wrappers.clone();
        let declared = array(raw, "tools", limits.tools)?.unwrap_or_default();
        let mut left = limits.tools - declared.len();
        let searches = declared.iter().any(|raw| raw.get().contains("\"tool_search\""));
        for (n, raw) in declared.into_iter().enumerate() {
            let path = format!("tools[{n}]");
            let (kind, tool) = tools.check(raw, &path)?;
            if n > 0 {
                tools.echo.push(b',');
            }
            if kind == "function" {
                tools.echo_function(&tool);
            } else {
                let text = minify(raw.get());
                tools.echo.extend_from_slice(text.as_bytes());
                if kind == "custom" && tool.format.is_none() {
                    // the default is written out, because strict parsers of the echo require it
                    tools.echo.pop();
                    tools.echo.extend_from_slice(b",\"format\":{\"type\":\"text\"}}");
                }
            }
            // a deferred tool comes back inside a `tool_search_output` item
            let deferred = searches && tool.defer_loading.is_some_and(|raw| raw.get() == "true");
            match &*kind {
                _ if deferred => {}
                "namespace" => tools.namespace(&tool, Some((&path, &mut left)), notes)?,
                _ => tools.declare(None, &kind, &tool, notes),
            }
        }
        tools.echo.push(b']');
        tools.add_searches();
        if found == FoundTools::Described && tools.table.of_kind(ToolKind::ToolSearch).is_some() {
            tools.add_caller();
        }
        for (_, item) in items {
            if let Some(item) = item {
                tools.add_found(item, notes);
            }
        }
        // again, because the shell itself may have come with an item
        tools.add_searches();
        Ok(tools)
    }

    /// The type and the fields of a declared tool, validated.
    fn check(&self, raw: &'a RawValue, path: &str) -> Result<(Cow<'a, str>, Tool<'a>), Error> {
        if object(Some(raw), path)?.is_none() {
            return Err(wrong_type(raw, path, "an object"));
        }
        let tool: Tool<'a> = fields(Some(raw), path)?;
        let kind_path = format!("{path}.type");
        let kind = string(tool.r#type, &kind_path)?.ok_or_else(|| missing(&kind_path))?;
        if matches!(&*kind, "function" | "custom" | "namespace") {
            let name_path = format!("{path}.name");
            let name = string(tool.name, &name_path)?
                .filter(|name| !name.is_empty())
                .ok_or_else(|| missing(&name_path))?;
            if name.len() > self.limits.name_bytes {
                return Err(string_too_long(&name_path, self.limits.name_bytes, name.len()));
            }
        }
        if kind == "function" {
            literal(tool.description, &format!("{path}.description"))?;
            object(tool.parameters, &format!("{path}.parameters"))?;
        }
        Ok((kind, tool))
    }

    /// Adds the tools inside an input item. Items are history: invalid tools are noted, never refused.
    fn add_found(&mut self, item: &Item<'a>, notes: &mut Notes) {
        let searched = match item.r#type.map(RawValue::get) {
            Some("\"additional_tools\"") => false,
            Some("\"tool_search_output\"") => true,
            _ => return,
        };
        let before = self.table.tools.len();
        for raw in self.history_tools(item.tools, notes) {
            match self.check(raw, "") {
                // without a place, nothing is refused
                Ok((kind, tool)) if kind == "namespace" => drop(self.namespace(&tool, None, notes)),
                Ok((kind, tool)) => self.declare(None, &kind, &tool, notes),
                Err(error) => notes.add("skipped_tool", &error.message),
            }
        }
        if searched && self.table.of_kind(ToolKind::Found).is_some() {
            for declared_tool in self.table.tools.iter_mut().skip(before) {
                declared_tool.indirect = true;
            }
            for definition in self.definitions.iter_mut().skip(before) {
                definition.indirect = true;
            }
        }
    }

    /// Adds the function that calls tools found later. It is declared from the first turn on: tool definitions precede
    /// the messages in the prompt, and any change there invalidates the server's cache of the whole conversation.
    fn add_caller(&mut self) {
        if self.table.add(None, CALL_FOUND, ToolKind::Found).is_some() {
            self.definitions.push(Definition {
                description: Some(Cow::Borrowed(CALL_FOUND_DESCRIPTION)),
                freeform: None,
                parameters: Some(CALL_FOUND_PARAMETERS),
                strict: None,
                indirect: false,
            });
        }
    }

    /// The tools of a list in the history, at most as many as a request may declare.
    fn history_tools(&self, list: Option<&'a RawValue>, notes: &mut Notes) -> Vec<&'a RawValue> {
        let most = self.limits.tools;
        let list = present(list).and_then(|list| trusted_json::first_elements(list.get(), most));
        let (tools, count) = list.unwrap_or_default();
        if count > most {
            notes.add("skipped_tool", "over limits.tools");
        }
        tools
    }

    /// Adds the tools of a namespace. A nested namespace is invalid: it is refused in the request, and noted in
    /// history, because following it would let a request choose the depth of the stack. `place`: path in the request,
    /// and how many more tools the request may declare; `None` in history.
    fn namespace(
        &mut self,
        namespace: &Tool<'a>,
        place: Option<(&str, &mut usize)>,
        notes: &mut Notes,
    ) -> Result<(), Error> {
        let name = present(namespace.name).and_then(json::decode).unwrap_or_default();
        let (tools, path) = match place {
            None => (self.history_tools(namespace.tools, notes), None),
            Some((path, left)) => {
                let list =
                    present(namespace.tools).and_then(|list| trusted_json::first_elements(list.get(), *left));
                let (tools, count) = list.unwrap_or_default();
                *left = left
                    .checked_sub(count)
                    .ok_or_else(|| arrays_too_long(&format!("{path}.tools"), "tools", self.limits.tools))?;
                (tools, Some(path))
            }
        };
        for (n, raw) in tools.into_iter().enumerate() {
            let path = path.map(|path| format!("{path}.tools[{n}]"));
            match (self.check(raw, path.as_deref().unwrap_or_default()), path) {
                (Ok((kind, _)), Some(path)) if kind == "namespace" => {
                    return Err(not_one_of(&format!("{path}.type"), &kind, &["function", "custom"]));
                }
                (Ok((kind, _)), None) if kind == "namespace" => {
                    notes.add("skipped_tool", "a namespace within a namespace");
                }
                (Ok((kind, tool)), _) => self.declare(Some(&name), &kind, &tool, notes),
                // a name that is too long
                (Err(error), Some(_)) if error.code.is_some() => return Err(error),
                (Err(error), _) => notes.add("skipped_tool", &error.message),
            }
        }
        Ok(())
    }

    /// Adds one tool. Hosted tools, which cannot run here, are noted and not shown.
    fn declare(&mut self, namespace: Option<&str>, kind: &str, tool: &Tool<'a>, notes: &mut Notes) {
        if self.table.tools.len() >= self.limits.tools {
            // only history gets here: a request with too many tools was refused before
            notes.add("skipped_tool", "over limits.tools");
            return;
        }
        let name = present(tool.name).and_then(json::decode).unwrap_or_default();
        let Some(declared) = kind_of(kind, &name, tool) else {
            notes.add("hidden_tool", kind);
            return;
        };
        let place = match declared {
            ToolKind::Function | ToolKind::Custom(_) => self.table.add(namespace, &name, declared),
            // a built-in tool is named after its type
            _ => self.table.add(None, kind, declared),
        };
        let Some(place) = place else {
            notes.add("repeated_tool", &name);
            return;
        };
        let own = present(tool.parameters).map(RawValue::get);
        if own.is_some_and(parameters::encrypts)
            && let Some(declared_tool) = self.table.tools.get_mut(place)
        {
            declared_tool.encrypts = true;
        }
        if self.table.shell.is_none() {
            self.table.shell = match declared {
                ToolKind::LocalShell => Some(ShellTool {
                    tool: place,
                    form: ShellForm::Vector("command".to_owned()),
                    others: Vec::new(),
                }),
                ToolKind::Function => {
                    own.and_then(|parameters| ShellTool::from_function(place, &name, parameters))
                }
                _ => None,
            };
        }
        self.definitions.push(definition_of(declared, tool, own));
    }

    /// Adds the search functions if a wrapper is configured and the client has a shell to run it.
    fn add_searches(&mut self) {
        if self.table.shell.is_none() {
            return;
        }
        let web = self.table.wrappers.web.is_some();
        let file = self.table.wrappers.file.is_some();
        for (search, wanted) in [(Search::Web, web), (Search::Page, web), (Search::File, file)] {
            let (name, description, parameters) = search.function();
            // a function that the client declared under that name takes precedence
            let taken = self.table.has_chat_name(name);
            if wanted && !taken && self.table.add(None, name, ToolKind::Search(search)).is_some() {
                self.definitions.push(Definition {
                    description: Some(Cow::Borrowed(description)),
                    freeform: None,
                    parameters: Some(parameters),
                    strict: None,
                    indirect: false,
                });
            }
        }
    }

    /// Appends a function tool to the echo, with all keys that the two published schemas require (docs/protocol.md 1).
    fn echo_function(&mut self, tool: &Tool<'_>) {
        let out = &mut self.echo;
        out.extend_from_slice(b"{\"type\":\"function\"");
        for (key, value, absent) in [
            (&b",\"name\":"[..], tool.name, "null"),
            (b",\"description\":", tool.description, "null"),
            (b",\"parameters\":", tool.parameters, "null"),
            (b",\"strict\":", tool.strict, "true"),
        ] {
            out.extend_from_slice(key);
            match value {
                Some(value) => out.extend_from_slice(minify(value.get()).as_bytes()),
                None => out.extend_from_slice(absent.as_bytes()),
            }
        }
        // optional keys
        for (key, value) in [
            (&b",\"defer_loading\":"[..], tool.defer_loading),
            (b",\"output_schema\":", tool.output_schema),
            (b",\"allowed_callers\":", tool.allowed_callers),
            (b",\"async\":", tool.r#async),
        ] {
            if let Some(value) = present(value) {
                out.extend_from_slice(key);
                out.extend_from_slice(minify(value.get()).as_bytes());
            }
        }
        out.push(b'}');
    }

    /// Whether the model is shown any tool.
    pub fn visible(&self) -> bool {
        !self.definitions.is_empty()
    }

    /// Approximate length in a request, in bytes.
    pub fn length(&self) -> usize {
        let lengths = self.definitions.iter().map(|definition| {
            let grammar = definition.freeform.iter().flatten().map(|text| text.len()).sum::<usize>();
            let description = definition.description.as_deref().map_or(0, str::len);
            512 + grammar + description + definition.parameters.map_or(0, str::len)
        });
        lengths.sum()
    }

    /// Appends `,"tools":[...],"tool_choice":...`, or nothing if no tool is shown: vLLM refuses an empty array. If the
    /// server does not support a named or an allowed choice, the list is reduced to the chosen tools instead. `flat`:
    /// a function's fields are in the tool itself, as in Responses.
    pub fn write(&self, out: &mut Vec<u8>, choice: &Choice, dialect: &Dialect, flat: bool) {
        let mut any = false;
        for (declared_tool, definition) in self.table.tools.iter().zip(&self.definitions) {
            let wanted = match choice {
                Choice::Function(name) => dialect.named_tool_choice || *name == declared_tool.chat,
                _ => declared_tool.allowed,
            };
            // a tool that the choice names must be declared
            let named = matches!(choice, Choice::Function(_) | Choice::Allowed(_));
            if !wanted || (definition.indirect && !named) {
                continue;
            }
            out.extend_from_slice(if any { b"," } else { b",\"tools\":[" });
            any = true;
            definition.write(out, &declared_tool.chat, flat);
        }
        if !any {
            return;
        }
        out.extend_from_slice(b"],\"tool_choice\":");
        match choice {
            Choice::Function(name) if dialect.named_tool_choice => {
                out.extend_from_slice(head(flat));
                json::push_string(out, name);
                out.extend_from_slice(if flat { b"}" } else { b"}}" });
            }
            Choice::Required | Choice::Function(_) | Choice::Allowed(Mode::Required) => {
                out.extend_from_slice(b"\"required\"");
            }
            Choice::Auto | Choice::Allowed(Mode::Auto) => out.extend_from_slice(b"\"auto\""),
            Choice::None => out.extend_from_slice(b"\"none\""),
        }
    }
}

/// The kind of a declared tool; `None` for hosted tools.
fn kind_of(kind: &str, name: &str, tool: &Tool<'_>) -> Option<ToolKind> {
    let by_client = || present(tool.execution).is_none_or(|raw| raw.get() == "\"client\"");
    match kind {
        "function" => Some(ToolKind::Function),
        "custom" => Some(ToolKind::Custom(match client::is_patch_tool(name) {
            true => Freeform::Patch,
            false => Freeform::Text,
        })),
        "tool_search" => by_client().then_some(ToolKind::ToolSearch),
        "local_shell" => Some(ToolKind::LocalShell),
        "shell" => Some(ToolKind::Shell),
        "apply_patch" => Some(ToolKind::ApplyPatch),
        _ => None,
    }
}

/// The definition that stands for a declared tool. `own`: the parameters that the client declared.
fn definition_of<'a>(kind: ToolKind, tool: &Tool<'a>, own: Option<&'a str>) -> Definition<'a> {
    let given = present(tool.description).and_then(json::text);
    let (description, parameters) = match kind {
        ToolKind::Function | ToolKind::Search(_) | ToolKind::Found => (None, own),
        ToolKind::Custom(_) => (None, Some(CUSTOM_PARAMETERS)),
        ToolKind::ToolSearch => {
            (Some("Search for more tools by what they do."), own.or(Some(TOOL_SEARCH_PARAMETERS)))
        }
        ToolKind::LocalShell => (Some("Run a command on the user's machine."), Some(LOCAL_SHELL_PARAMETERS)),
        ToolKind::Shell => (Some("Run shell commands on the user's machine."), Some(SHELL_PARAMETERS)),
        ToolKind::ApplyPatch => {
            (Some("Create, update or delete a file by a diff."), Some(APPLY_PATCH_PARAMETERS))
        }
    };
    let strict = present(tool.strict).map(RawValue::get);
    Definition {
        description: given.or(description.map(Cow::Borrowed)),
        freeform: matches!(kind, ToolKind::Custom(_)).then(|| grammar(tool)),
        parameters,
        strict: strict.filter(|strict| kind == ToolKind::Function && matches!(*strict, "true" | "false")),
        indirect: false,
    }
}
