//! Owns the step from a create request to everything that serving it needs: the body for the upstream, and what the
//! answer must echo. Every refusal of a request happens here. It must not do IO or read the store.

mod chat_body;
mod echo;
mod native_body;
mod text_format;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::error::{Error, Kind};
use crate::fields::{beginning, boolean, literal, missing, not_one_of, present, string, wrong_type};
use crate::limits::Limits;
use crate::notes::Notes;
use crate::options::{Compact, PlanOptions, Wrappers};
use crate::reply_plan::ReplyPlan;
use crate::request::content::{self, Piece};
use crate::request::history::{self, Assistant, Entry, History, Role};
use crate::request::parse::{Context, ParsedRequest, text};
use crate::request::plan::text_format::TextForm;
use crate::tools::table::Table;
use crate::tools::{Choice, Mode, Tools};
use crate::wire::json;
use crate::wire::request::fields as known_fields;
use crate::wire::request::{
    ConfigurationUpdate, CreateResponse, InputItem, Item, ReasoningConfig, TextConfig,
};
use crate::{compaction, item_views};

/// What one create request becomes: the body for the upstream, and what the response repeats of the request.
#[derive(Debug)]
pub struct Plan {
    /// The Chat Completions request, or the Responses request for an upstream that speaks that; ready to be sent.
    pub body: Vec<u8>,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// Whether `body` asks for a stream. The client's answer may be whole all the same.
    pub chat_stream: bool,
    /// The model that the request names, or the default.
    pub model: String,
    /// What the answer echoes, and how it is shown.
    pub reply: ReplyPlan,
    /// What was left out or changed, for the log and the metrics.
    pub notes: Notes,
    /// Positions of items in the request's own `input` that only repeat stored ones.
    pub repeated: Vec<usize>,
    /// How many more turns of `body` `drop_turns` could leave out.
    pub droppable_turns: usize,
}

/// Plans the body of a `POST /v1/responses` that refers to nothing stored.
///
/// # Errors
/// Those of [`ParsedRequest::read`], [`ParsedRequest::asks`] and [`ParsedRequest::plan`].
pub fn plan(body: &[u8], options: &PlanOptions<'_>) -> Result<Plan, Error> {
    let text = text(body)?;
    let parsed = ParsedRequest::read(&text, &Limits::DEFAULT)?;
    parsed.asks()?;
    parsed.plan(options, &Context::default())
}

impl<'a> ParsedRequest<'a> {
    /// Makes the plan: the body for the upstream, and what the answer echoes. Call [`ParsedRequest::asks`] first: it
    /// checks fields that this does not.
    ///
    /// # Errors
    /// Only for a body that is not a valid Responses request (docs/requests.md): no model and no default, an
    /// `input` that is neither string nor array, a known field of the wrong type, a reference to an item that
    /// `context` does not have. The error names the field. Unknown fields are dropped; unknown items and parts are
    /// written out and noted.
    pub fn plan(&self, options: &PlanOptions<'_>, context: &Context<'a>) -> Result<Plan, Error> {
        let (request, notes) = (&self.request, Notes::new(&self.limits));
        Planner {
            parsed: self,
            request,
            options,
            context,
            notes,
            repeated: Vec::new(),
            left_out: Vec::new(),
            update: SettingsUpdate::default(),
            droppable_turns: 0,
        }
        .plan()
    }
}

struct Planner<'a, 'o> {
    parsed: &'o ParsedRequest<'a>,
    request: &'o CreateResponse<'a>,
    options: &'o PlanOptions<'o>,
    context: &'o Context<'a>,
    notes: Notes,
    repeated: Vec<usize>,
    /// Replayed reasoning that the model does not get: the item's id and the reason.
    left_out: Vec<(String, &'static str)>,
    update: SettingsUpdate<'a>,
    droppable_turns: usize,
}

/// The prompt: the request's own parts, and what was added to ask for a form of answer.
struct Prompt<'a> {
    /// A JSON string literal.
    instructions: Option<&'a RawValue>,
    entries: Vec<Entry<'a>>,
    tools: Tools<'a>,
    choice: Choice,
    format: TextForm<'a>,
}

impl<'a, 'o> Planner<'a, 'o> {
    fn plan(mut self) -> Result<Plan, Error> {
        let request = self.request;
        // a server with full Responses support validates the request itself
        let full_native = self.options.native.is_some_and(|native| !native.function_tools_only);
        if !full_native {
            unsupported(request)?;
        }
        let model = self.model()?;
        let stream = boolean(request.stream, "stream")?;
        let stream = self.options.stream.or(stream).unwrap_or(false);
        let instructions = literal(request.instructions, "instructions")?;
        let items = self.items()?;
        self.update = SettingsUpdate::read(&items);
        let (mut tools, choice) = self.tools(&items)?;
        let entries = self.entries(&items, &tools.table, instructions.is_some())?;
        let mut reply = self.reply(&model, stream, &tools)?;
        // `reply` contains it by now
        tools.echo = Vec::new();
        let format = self.text_format()?;
        let mut prompt = Prompt { instructions, entries, tools, choice, format };
        // such a server also makes its own compactions
        let triggered =
            !full_native && items.last().is_some_and(|(_, item)| item.as_ref().is_some_and(is_trigger));
        reply.compacts = self.options.compact.or((triggered && !reply.warm_up).then_some(Compact::Beside));
        self.adapt_prompt(&mut prompt, &mut reply);
        let upstream_model = self.options.upstream_model.unwrap_or(&model);
        let (body, chat_stream) = match self.options.native {
            None => self.chat_body(upstream_model, prompt, &reply)?,
            Some(native) => {
                let body = match native.function_tools_only {
                    true => self.functions_body(native, upstream_model, prompt, &reply)?,
                    false => self.full_native_body(native, upstream_model, &items, &reply),
                };
                (body, stream || native.streams_only)
            }
        };
        Ok(Plan {
            body,
            stream,
            chat_stream,
            model: model.into_owned(),
            reply,
            notes: self.notes,
            repeated: self.repeated,
            droppable_turns: self.droppable_turns,
        })
    }

    /// The model as the client names it, or the default.
    fn model(&self) -> Result<Cow<'o, str>, Error> {
        let model = string(self.request.model, "model")?.filter(|model| !model.is_empty());
        match (model, self.options.default_model) {
            (Some(model), _) => Ok(model),
            (None, Some(model)) => Ok(Cow::Borrowed(model)),
            (None, None) => Err(missing("model")),
        }
    }

    /// All declared tools, wherever they are declared, and which of them may be called.
    fn tools(&mut self, items: &[&InputItem<'a>]) -> Result<(Tools<'a>, Choice), Error> {
        let (request, limits, found) = (self.request, &self.parsed.limits, self.options.found_tools);
        let none = Wrappers::default();
        let wrappers = self.options.wrappers.unwrap_or(&none);
        let mut tools = Tools::read(request.tools, items, wrappers, found, limits, &mut self.notes)?;
        tools.table.quirks_off = self.options.quirks_off.to_vec();
        let choice = Choice::read(request.tool_choice, &mut tools.table, limits, &mut self.notes)?;
        if matches!(choice, Choice::Required | Choice::Allowed(Mode::Required))
            && tools.echo == b"[]"
            && !tools.visible()
        {
            let message = "Tool choice 'required' must be specified with 'tools' parameter.";
            return Err(Error::new(Kind::InvalidValue, message).param("tool_choice"));
        }
        Ok((tools, choice))
    }

    /// Asks for a summary, or for the text again in its format; holds back a format that would keep the model from
    /// calling tools. The tools always stay in the prompt: without them its beginning would change.
    fn adapt_prompt(&self, prompt: &mut Prompt<'a>, reply: &mut ReplyPlan) {
        let entries = &mut prompt.entries;
        if reply.compacts.is_some() {
            entries.push(Entry::Prompt(Role::User, vec![Piece::Text(json::escape(compaction::PROMPT))]));
            prompt.choice = Choice::None;
            reply.logprobs = false;
        }
        if let Some(unfit) = &self.options.unfit {
            let text = json::escape(unfit).into_owned();
            if !unfit.trim().is_empty() {
                let answer = Assistant { text: vec![Piece::Text(Cow::Owned(text))], ..Assistant::default() };
                entries.push(Entry::Assistant(answer));
            }
            entries.push(Entry::Prompt(Role::User, vec![Piece::Text(Cow::Owned(prompt.format.prompt()))]));
            prompt.choice = Choice::None;
        } else if prompt.tools.visible() && prompt.choice != Choice::None && !reply.warm_up {
            reply.format = prompt.format.required_format().map(Arc::new);
        }
    }

    /// The items of earlier turns and of an array input, with references resolved. A string input is not among them: it
    /// becomes one user message.
    fn items(&self) -> Result<Vec<&'o InputItem<'a>>, Error> {
        let mut items: Vec<_> = self.context.earlier.iter().collect();
        let Some(input) = present(self.request.input) else {
            // a warm-up can prepare the instructions alone
            let missed = items.is_empty() && !self.options.warm_up;
            return if missed { Err(missing("input")) } else { Ok(items) };
        };
        match input.get().as_bytes().first() {
            Some(b'"') => {
                items.extend(&self.context.summary);
                return Ok(items);
            }
            Some(b'[') => {}
            _ => return Err(wrong_type(input, "input", "a string or an array")),
        }
        let own = items.len();
        items.extend(&self.parsed.items);
        for (n, id) in &self.parsed.references {
            let item = self.context.references.get(id.as_str()).ok_or_else(|| {
                let id = beginning(id, 200);
                let message = format!(
                    "Item with id '{id}' not found. Items are not persisted when `store` is set to false."
                );
                Error::new(Kind::ItemNotFound, message).param(format!("input[{n}]"))
            })?;
            if let Some(place) = items.get_mut(own + n) {
                *place = item;
            }
        }
        if let Some(summary) = &self.context.summary {
            // the user's last messages are answered as they are; the summary covers everything before them
            let asked = items
                .iter()
                .rposition(|(_, item)| !item.as_ref().is_some_and(item_views::is_from_user))
                .map_or(0, |at| at + 1);
            items.insert(asked, summary);
        }
        Ok(items)
    }

    fn entries(
        &mut self,
        items: &[&InputItem<'a>],
        table: &Table,
        has_instructions: bool,
    ) -> Result<Vec<Entry<'a>>, Error> {
        let earlier = self.context.earlier.len();
        let reading = history::ReadContext { table, seal: self.options.seal.as_deref(), earlier };
        let History { mut entries, unknown_role, repeated, clash, left_out } =
            history::read(items, &reading, &mut self.notes);
        (self.repeated, self.left_out) = (repeated, left_out);
        // a conversation identifies its items by id
        if let Some(id) = clash.filter(|_| present(self.request.conversation).is_some()) {
            return Err(Error::duplicate_item(&id).param("input"));
        }
        if let Some((n, role)) = unknown_role {
            let roles = ["assistant", "system", "developer", "user"];
            return Err(not_one_of(&format!("input[{n}]"), &role, &roles));
        }
        if let Some(id) = self.notes.first("orphan_output").filter(|_| self.context.strict) {
            let message = format!("No tool call found for function call output with call_id {id}.");
            return Err(Error::new(Kind::OrphanOutput, message).param("input"));
        }
        if let Some(text) = self.request.input.filter(|input| input.get().starts_with('"')) {
            let pieces = content::pieces(text, &mut self.notes).unwrap_or_default();
            entries.push(Entry::Prompt(Role::User, pieces));
        }
        self.droppable_turns = history::drop_turns(&mut entries, self.options.drop_turns);
        if entries.is_empty() && !has_instructions {
            let message = "Invalid 'input': it holds no message that the model could be given.";
            return Err(Error::new(Kind::InvalidValue, message).param("input"));
        }
        Ok(entries)
    }
}

/// Fields of Chat Completions, and their names in Responses.
const MOVED: [(&str, &str); 8] = [
    ("messages", "input"),
    ("response_format", "text.format"),
    ("max_tokens", "max_output_tokens"),
    ("max_completion_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
    ("functions", "tools"),
    ("function_call", "tool_choice"),
];

/// Refuses unsupported fields that would change the answer: if they were ignored, the client would misunderstand the
/// answer.
fn unsupported(request: &CreateResponse<'_>) -> Result<(), Error> {
    for (key, value) in &request.others {
        if present(Some(value)).is_none() {
            continue;
        }
        let moved = MOVED.iter().find(|(name, _)| name == key);
        let message = match (moved, &**key) {
            (Some((_, name)), _) => format!(
                "Unsupported parameter: '{key}'. In the Responses API, this parameter has moved to '{name}'. Try again \
                 with the new parameter."
            ),
            (None, "prompt") => {
                "Unsupported parameter: 'prompt'. No prompt templates are stored here; send the text \
                                 of the template as 'instructions' and 'input'."
                    .to_owned()
            }
            (None, "n") if value.get() != "1" => {
                "Unsupported parameter: 'n'. A response is one answer; ask several times.".to_owned()
            }
            _ => continue,
        };
        return Err(Error::new(Kind::UnsupportedParameter, message).param(&**key));
    }
    Ok(())
}

/// The settings of `configuration_update` items. The last item that sets a value decides it.
#[derive(Debug, Default)]
struct SettingsUpdate<'a> {
    effort: Option<&'a RawValue>,
    format: Option<&'a RawValue>,
}

impl<'a> SettingsUpdate<'a> {
    fn read(items: &[&InputItem<'a>]) -> SettingsUpdate<'a> {
        let mut update = SettingsUpdate::default();
        let is_one = |item: &Item<'_>| item.r#type.map(RawValue::get) == Some("\"configuration_update\"");
        for (raw, item) in items {
            if !item.as_ref().is_some_and(is_one) {
                continue;
            }
            let read: ConfigurationUpdate<'a> = known_fields(raw).unwrap_or_default();
            let reasoning: ReasoningConfig<'a> = read.reasoning.and_then(known_fields).unwrap_or_default();
            let text: TextConfig<'a> = read.text.and_then(known_fields).unwrap_or_default();
            update.effort =
                present(reasoning.effort).filter(|raw| raw.get().starts_with('"')).or(update.effort);
            // an invalid format is ignored, because the item is history
            update.format =
                present(text.format).filter(|raw| TextForm::read(Some(raw)).is_ok()).or(update.format);
        }
        update
    }
}

/// Appends `,"key":value`, or its beginning.
fn push_key(out: &mut Vec<u8>, key: &str, value: &str) {
    out.reserve(key.len() + value.len() + 4);
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(value.as_bytes());
}

fn is_trigger(item: &Item<'_>) -> bool {
    item.r#type.and_then(json::decode).as_deref() == Some("compaction_trigger")
}
