//! Owns tools and `tool_choice`: what the model is shown of them, and what the client hears back of its own list.
//! It must not look at history.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::params::{array, fields, literal, missing, not_one_of, object, present, string, wrong_type};
use super::plan::Notes;
use crate::dialect::Dialect;
use crate::error::{Error, Kind};
use crate::wire::json::{self, compact};
use crate::wire::request::{Tool, ToolChoice};

/// The tools that a chat model can be shown, and what else was declared.
#[derive(Debug, Default)]
pub struct Tools<'a> {
    functions: Vec<Function<'a>>,
    /// The `tools` array as the response shows it.
    pub echo: Vec<u8>,
}

#[derive(Debug)]
struct Function<'a> {
    name: Cow<'a, str>,
    tool: Tool<'a>,
}

/// `tool_choice`, read.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// Absent, or `auto`.
    Auto,
    /// The model may not call.
    None,
    /// The model must call.
    Required,
    /// It must call this function.
    Function(Cow<'a, str>),
    /// It may (or, if true, must) call one of these.
    Allowed(Vec<Cow<'a, str>>, bool),
}

impl<'a> Tools<'a> {
    /// Reads `tools`. Types other than `function` are echoed but hidden from the model.
    pub fn read(raw: Option<&'a RawValue>, notes: &mut Notes) -> Result<Tools<'a>, Error> {
        let mut tools = Tools { functions: Vec::new(), echo: vec![b'['] };
        for (n, raw) in array(raw, "tools")?.unwrap_or_default().into_iter().enumerate() {
            let path = format!("tools[{n}]");
            if object(Some(raw), &path)?.is_none() {
                return Err(wrong_type(raw, &path, "an object"));
            }
            let tool: Tool<'a> = fields(Some(raw), &path)?;
            let kind_path = format!("{path}.type");
            let kind = string(tool.r#type, &kind_path)?.ok_or_else(|| missing(&kind_path))?;
            if n > 0 {
                tools.echo.push(b',');
            }
            if kind != "function" {
                notes.add("hidden_tool", &kind);
                tools.echo.extend_from_slice(compact(raw.get()).as_bytes());
                continue;
            }
            let name_path = format!("{path}.name");
            let name = string(tool.name, &name_path)?.filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| missing(&name_path))?;
            literal(tool.description, &format!("{path}.description"))?;
            object(tool.parameters, &format!("{path}.parameters"))?;
            tools.echo_function(&tool);
            tools.functions.push(Function { name, tool });
        }
        tools.echo.push(b']');
        Ok(tools)
    }

    /// A function tool with all the keys that both published schemas require (WIRE.md 0, `tools[]` echo).
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
                Some(value) => out.extend_from_slice(compact(value.get()).as_bytes()),
                None => out.extend_from_slice(absent.as_bytes()),
            }
        }
        out.push(b'}');
    }

    /// Whether the model is shown any tool.
    pub fn visible(&self) -> bool {
        !self.functions.is_empty()
    }

    /// Appends `,"tools":[...],"tool_choice":...` as this server can take them; nothing without visible tools, since
    /// vLLM refuses an empty array. Forced and allowed choices narrow the list where the server knows no such choice.
    pub fn write(&self, out: &mut Vec<u8>, choice: &Choice<'_>, dialect: &Dialect) {
        let shown: Vec<&Function<'_>> = self
            .functions
            .iter()
            .filter(|function| match choice {
                Choice::Function(name) => dialect.named_tool_choice || *name == function.name,
                Choice::Allowed(names, _) => names.contains(&function.name),
                _ => true,
            })
            .collect();
        for (n, function) in shown.iter().enumerate() {
            out.extend_from_slice(if n == 0 { b",\"tools\":[" } else { b"," });
            write_function(out, &function.tool);
        }
        if shown.is_empty() {
            return;
        }
        out.extend_from_slice(b"],\"tool_choice\":");
        match choice {
            Choice::Function(name) if dialect.named_tool_choice => {
                out.extend_from_slice(b"{\"type\":\"function\",\"function\":{\"name\":");
                json::push_string(out, name);
                out.extend_from_slice(b"}}");
            }
            Choice::Required | Choice::Function(_) | Choice::Allowed(_, true) => {
                out.extend_from_slice(b"\"required\"");
            }
            Choice::Auto | Choice::Allowed(_, false) => out.extend_from_slice(b"\"auto\""),
            Choice::None => out.extend_from_slice(b"\"none\""),
        }
    }
}

/// `{"type":"function","function":{...}}`; the schema's text is the client's own.
fn write_function(out: &mut Vec<u8>, tool: &Tool<'_>) {
    out.extend_from_slice(b"{\"type\":\"function\",\"function\":{\"name\":");
    out.extend_from_slice(tool.name.map_or("\"\"", RawValue::get).as_bytes());
    if let Some(description) = present(tool.description) {
        out.extend_from_slice(b",\"description\":");
        out.extend_from_slice(description.get().as_bytes());
    }
    out.extend_from_slice(b",\"parameters\":");
    match present(tool.parameters) {
        Some(parameters) => out.extend_from_slice(parameters.get().as_bytes()),
        None => out.extend_from_slice(b"{\"type\":\"object\",\"properties\":{}}"),
    }
    if let Some(strict) = present(tool.strict).filter(|strict| matches!(strict.get(), "true" | "false")) {
        out.extend_from_slice(b",\"strict\":");
        out.extend_from_slice(strict.get().as_bytes());
    }
    out.extend_from_slice(b"}}");
}

impl<'a> Choice<'a> {
    /// Reads `tool_choice`. A choice of a hidden tool is no choice.
    pub fn read(
        raw: Option<&'a RawValue>,
        tools: &Tools<'a>,
        notes: &mut Notes,
    ) -> Result<Choice<'a>, Error> {
        const PATH: &str = "tool_choice";
        let Some(raw) = present(raw) else { return Ok(Choice::Auto) };
        if let Some(word) = json::decode(raw) {
            return match &*word {
                "auto" => Ok(Choice::Auto),
                "none" => Ok(Choice::None),
                "required" => Ok(Choice::Required),
                other => Err(not_one_of(PATH, other, "'none', 'auto' and 'required'")),
            };
        }
        if !raw.get().starts_with('{') {
            return Err(wrong_type(raw, PATH, "a string or an object"));
        }
        let choice: ToolChoice<'a> = fields(Some(raw), PATH)?;
        let kind = string(choice.r#type, "tool_choice.type")?.ok_or_else(|| missing("tool_choice.type"))?;
        match &*kind {
            "function" => {
                // the chat form nests the name; SDK users mix the two up
                let name = match string(choice.name, "tool_choice.name")? {
                    Some(name) => name,
                    None => nested_name(raw).ok_or_else(|| missing("tool_choice.name"))?,
                };
                if !tools.functions.iter().any(|function| function.name == name) {
                    let message = format!("Tool choice '{name}' not found in 'tools' parameter.");
                    return Err(Error::new(Kind::InvalidValue, message).param(PATH));
                }
                Ok(Choice::Function(name))
            }
            "allowed_tools" => {
                let mode = string(choice.mode, "tool_choice.mode")?;
                let required = match mode.as_deref() {
                    None | Some("auto") => false,
                    Some("required") => true,
                    Some(other) => {
                        return Err(not_one_of("tool_choice.mode", other, "'auto' and 'required'"));
                    }
                };
                let mut names = Vec::new();
                for (n, raw) in
                    array(choice.tools, "tool_choice.tools")?.unwrap_or_default().into_iter().enumerate()
                {
                    let path = format!("tool_choice.tools[{n}]");
                    let tool: Tool<'a> = fields(Some(raw), &path)?;
                    names.extend(string(tool.name, &format!("{path}.name"))?);
                }
                Ok(Choice::Allowed(names, required))
            }
            other => {
                notes.add("hidden_tool_choice", other);
                Ok(Choice::Auto)
            }
        }
    }
}

fn nested_name(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct Chat<'a> {
        #[serde(borrow)]
        function: Named<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        name: &'a RawValue,
    }
    serde_json::from_str::<Chat<'_>>(raw.get()).ok().and_then(|chat| json::decode(chat.function.name))
}
