//! Owns the one step from a create request to everything that serving it needs: the chat body to send, and what
//! the answer must echo. Every refusal of a request happens here.

mod native_body;

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::error::{Error, Kind};
use crate::fields::{
    array, beginning, boolean, fields, integer, literal, metadata, missing, not_one_of, number, object,
    present, string, wrong_type,
};
use crate::json_schema::Format;
use crate::limits::Limits;
use crate::notes::Notes;
use crate::options::Compact;
use crate::options::PlanOptions;
use crate::options::ReasoningDisplay;
use crate::options::SealReasoning;
use crate::options::ThinkTags;
use crate::options::Wrappers;
use crate::reply_plan::ReplyPlan;
use crate::request::content::{self, Piece};
use crate::request::history::{self, Assistant, Entry, History, Role};
use crate::request::parse::{Context, Draft, conversation, text};
use crate::request::{effort, extra_fields, messages};
use crate::tools::table::Table;
use crate::tools::{Choice, Tools};
use crate::wire::json::{self, compact};
use crate::wire::request::fields as known_fields;
use crate::wire::request::{
    ConfigurationUpdate, CreateResponse, InputItem, Item, ReasoningConfig, TextConfig, TextFormat,
};
use crate::wire::trusted_json;
use crate::{compaction, item_views, mapped};

/// A request, understood.
#[derive(Debug)]
pub struct Plan {
    /// The Chat Completions request, or the upstream's own kind of Responses request, ready to be sent.
    pub body: Vec<u8>,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// Whether the chat body asks for one.
    pub chat_stream: bool,
    /// The model named in the request, or the default.
    pub model: String,
    /// What the answer echoes, and how it is told.
    pub reply: ReplyPlan,
    /// What was left out or changed on the way, for the log and the metrics.
    pub notes: Notes,
    /// Items of the request's own `input` that only tell again what the store holds, by their place.
    pub repeated: Vec<usize>,
    /// How many turns are in `body` that `drop_turns` may still leave out.
    pub droppable_turns: usize,
}

/// Turns the body of `POST /v1/responses` into a plan, without anything that was stored.
///
/// # Errors
/// As [`Draft::read`], [`Draft::asks`] and [`Draft::plan`].
pub fn plan(body: &[u8], options: &PlanOptions<'_>) -> Result<Plan, Error> {
    let text = text(body)?;
    let draft = Draft::read(&text, &Limits::DEFAULT)?;
    draft.asks()?;
    draft.plan(options, &Context::default())
}

impl<'a> Draft<'a> {
    /// Makes the plan: what goes upstream, and what the answer echoes.
    ///
    /// # Errors
    /// Only for a body that is no Responses request (docs/requests.md): no model and no default, `input` neither string nor
    /// array, a known field of the wrong type; or one that names what `context` does not hold. The error names the
    /// field. Unknown fields are dropped; unknown items and parts are skipped and noted.
    pub fn plan(&self, options: &PlanOptions<'_>, context: &Context<'a>) -> Result<Plan, Error> {
        let (request, notes) = (&self.request, Notes::default());
        Planner {
            draft: self,
            request,
            options,
            context,
            notes,
            repeated: Vec::new(),
            left_out: Vec::new(),
            update: Update::default(),
            droppable_turns: 0,
        }
        .plan()
    }
}

struct Planner<'a, 'o> {
    draft: &'o Draft<'a>,
    request: &'o CreateResponse<'a>,
    options: &'o PlanOptions<'o>,
    context: &'o Context<'a>,
    notes: Notes,
    repeated: Vec<usize>,
    /// Reasoning that the model does not get, and why.
    left_out: Vec<(String, &'static str)>,
    update: Update<'a>,
    droppable_turns: usize,
}

impl<'a, 'o> Planner<'a, 'o> {
    fn plan(mut self) -> Result<Plan, Error> {
        let request = self.request;
        // a server that speaks Responses well answers for itself
        let own = self.options.native.is_some_and(|native| !native.functions);
        if !own {
            unsupported(request)?;
        }
        let model = string(request.model, "model")?.filter(|model| !model.is_empty());
        let model: Cow<'_, str> = match (model, self.options.default_model) {
            (Some(model), _) => model,
            (None, Some(model)) => Cow::Borrowed(model),
            (None, None) => return Err(missing("model")),
        };
        let stream = boolean(request.stream, "stream")?;
        let stream = self.options.stream.or(stream).unwrap_or(false);
        let instructions = literal(request.instructions, "instructions")?;
        let items = self.items()?;
        let limits = &self.draft.limits;
        self.update = Update::of(&items);
        let none = Wrappers::default();
        let wrappers = self.options.wrappers.unwrap_or(&none);
        let mut tools =
            Tools::read(request.tools, &items, wrappers, self.options.found_tools, limits, &mut self.notes)?;
        tools.table.quirks_off = self.options.quirks_off.to_vec();
        let mut choice = Choice::read(request.tool_choice, &mut tools.table, limits, &mut self.notes)?;
        if matches!(choice, Choice::Required | Choice::Allowed(true))
            && tools.echo == b"[]"
            && !tools.visible()
        {
            let message = "Tool choice 'required' must be specified with 'tools' parameter.";
            return Err(Error::new(Kind::InvalidValue, message).param("tool_choice"));
        }
        let mut entries = self.entries(&items, &tools.table, instructions.is_some())?;
        let mut reply = self.reply(&model, stream, &tools)?;
        // and makes its own compactions
        let triggered = !own && items.last().is_some_and(|(_, item)| item.as_ref().is_some_and(is_trigger));
        reply.compacts = self.options.compact.or(triggered.then_some(Compact::Beside));
        if reply.compacts.is_some() {
            entries.push(Entry::Prompt(Role::User, vec![Piece::Text(json::escape(compaction::PROMPT))]));
            // the tools stay where they are: without them the prompt would begin differently
            choice = Choice::None;
            reply.logprobs = false;
        }
        let format = self.text_format()?;
        if let Some(unfit) = &self.options.unfit {
            let text = json::escape(unfit).into_owned();
            if !unfit.trim().is_empty() {
                let said = Assistant { text: vec![Cow::Owned(text)], ..Assistant::default() };
                entries.push(Entry::Assistant(said));
            }
            entries.push(Entry::Prompt(Role::User, vec![Piece::Text(Cow::Owned(format.prompt()))]));
            // the tools stay where they are, as for a summary
            choice = Choice::None;
        } else if tools.visible()
            && choice != Choice::None
            && self.options.native.is_none_or(|native| native.functions)
            && !self.options.dialect.format_beside_tools
        {
            reply.format = format.wanted().map(Arc::new);
        }
        if let Some(native) = self.options.native {
            let named = self.options.upstream_model.unwrap_or(&model);
            let body = match native.functions {
                true => self.functions(native, named, instructions, entries, (&tools, &choice), &reply)?,
                false => self.whole(native, named, &items, &reply),
            };
            let chat_stream = stream || native.streams_only;
            let (model, droppable_turns) = (model.into_owned(), self.droppable_turns);
            let (notes, repeated) = (self.notes, self.repeated);
            return Ok(Plan { body, stream, chat_stream, model, reply, notes, repeated, droppable_turns });
        }

        let length = text_length(&self.context.earlier, self.request.input) + tools.echo.len() + 512;
        let mut body = Vec::with_capacity(mapped::room(length));
        body.extend_from_slice(b"{\"model\":");
        json::push_string(&mut body, self.options.upstream_model.unwrap_or(&model));
        body.extend_from_slice(b",\"messages\":");
        messages::write(&mut body, instructions, entries, self.options);
        tools.write(&mut body, &choice, self.options.dialect, false);
        let settings = body.len();
        let dialect = self.options.dialect;
        // log probabilities beside tools go with no stream there
        let torn = reply.logprobs && tools.visible() && !dialect.logprobs_with_tools;
        let chat_stream = stream || (dialect.always_streams && !torn);
        let parallel = boolean(self.request.parallel_tool_calls, "parallel_tool_calls")?;
        if let Some(parallel) = parallel.filter(|_| tools.visible()) {
            push_key(&mut body, "parallel_tool_calls", if parallel { "true" } else { "false" });
        }
        self.sampling(&mut body, &reply)?;
        self.reasoning_effort(&mut body)?;
        if reply.compacts.is_none() {
            self.logprobs(&mut body, &reply, stream && tools.visible())?;
            if reply.format.is_none() {
                format.write(&mut body);
            }
        }
        if let Some(user) = literal(self.request.user, "user")? {
            push_key(&mut body, "user", user.get());
        }
        let own = self.request.others.iter().filter(|(key, _)| dialect.extra_keys.contains(&&**key));
        extra_fields::merge(&mut body, settings, own, self.options.extra_body);
        if let Some(key) = dialect.progress_key.filter(|_| chat_stream) {
            push_key(&mut body, key, "true");
        }
        body.extend_from_slice(match chat_stream {
            true => b",\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
            false => b",\"stream\":false}",
        });
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

    /// The items of earlier turns and of an array input, with references resolved; a string has none, it is one user
    /// message.
    fn items(&self) -> Result<Vec<&'o InputItem<'a>>, Error> {
        let mut items: Vec<_> = self.context.earlier.iter().collect();
        let Some(input) = present(self.request.input) else {
            return if items.is_empty() { Err(missing("input")) } else { Ok(items) };
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
        items.extend(&self.draft.items);
        for (n, id) in &self.draft.references {
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
            // what the user said last is answered in its own words; anything else is covered by the summary
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
        let reading = history::Reading { table, seal: self.options.seal.as_deref(), earlier };
        let History { mut entries, unknown_role, repeated, clash, left_out } =
            history::read(items, &reading, &mut self.notes);
        (self.repeated, self.left_out) = (repeated, left_out);
        // a conversation keeps its items by their ids
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

    /// Fields that have the same name and meaning on both sides; `max_output_tokens` is `max_tokens`, which every
    /// server takes.
    fn sampling(&self, body: &mut Vec<u8>, reply: &ReplyPlan) -> Result<(), Error> {
        let request = self.request;
        // a limit of the answer's is none of the summary's that goes before it
        if let Some(max) = reply.max_output_tokens.filter(|_| reply.compacts != Some(Compact::Replacing)) {
            let key = if self.options.native.is_some() { "max_output_tokens" } else { "max_tokens" };
            push_key(body, key, &max.to_string());
        }
        for (key, value, bounds) in [
            ("temperature", request.temperature, TEMPERATURE),
            ("top_p", request.top_p, TOP_P),
            ("presence_penalty", request.presence_penalty, PENALTY),
            ("frequency_penalty", request.frequency_penalty, PENALTY),
        ] {
            if let Some(value) = number(value, key, bounds)? {
                push_key(body, key, value.get());
            }
        }
        Ok(())
    }

    fn logprobs(
        &mut self,
        body: &mut Vec<u8>,
        reply: &ReplyPlan,
        tools_in_stream: bool,
    ) -> Result<(), Error> {
        if !reply.logprobs {
            return Ok(());
        }
        if tools_in_stream && !self.options.dialect.logprobs_with_tools {
            self.notes.add("dropped_logprobs", "this server refuses them beside tools in a stream");
            return Ok(());
        }
        push_key(body, "logprobs", "true");
        push_key(body, "top_logprobs", &reply.top_logprobs.to_string());
        Ok(())
    }

    /// The level that the server takes and is nearest to the client's; the budget is that of the client's own.
    fn reasoning_effort(&mut self, body: &mut Vec<u8>) -> Result<(), Error> {
        let reasoning: ReasoningConfig<'_> = fields(self.request.reasoning, "reasoning")?;
        let own = string(reasoning.effort, "reasoning.effort")?;
        let Some(asked) = self.update.effort.and_then(json::decode).or(own) else { return Ok(()) };
        let dialect = self.options.dialect;
        let by_template = asked == "none" && dialect.template_kwargs;
        let sent = match self.options.efforts {
            Some(taken) => effort::nearest(&asked, taken),
            None => effort::nearest(&asked, dialect.efforts),
        };
        // the template turns thinking off by its own switch, below
        if let Some(sent) = sent.filter(|sent| *sent == asked || !by_template) {
            push_key(body, "reasoning_effort", "");
            json::push_string(body, sent);
        }
        if sent != Some(&*asked) {
            self.notes.add("changed_effort", &format!("{asked} is sent as {}", sent.unwrap_or("nothing")));
        }
        let budget = self.options.budgets.iter().find(|(name, _)| *name == asked);
        if let (Some(key), Some((_, tokens))) = (dialect.budget_key, budget) {
            push_key(body, key, &tokens.to_string());
        }
        if by_template {
            push_key(body, "chat_template_kwargs", "{\"enable_thinking\":false}");
        }
        Ok(())
    }

    /// That of the last item which set one, else the request's own.
    fn text_format(&self) -> Result<TextForm<'a>, Error> {
        let text: TextConfig<'_> = fields(self.request.text, "text")?;
        TextForm::read(self.update.format.or(text.format))
    }
    /// What the response says about its request: 31 fields, each always there (docs/protocol.md 6).
    fn reply(&self, model: &str, stream: bool, tools: &Tools<'_>) -> Result<ReplyPlan, Error> {
        let request = self.request;
        let reasoning: ReasoningConfig<'_> = fields(request.reasoning, "reasoning")?;
        let text: TextConfig<'_> = fields(request.text, "text")?;
        let max_output_tokens =
            integer(request.max_output_tokens, "max_output_tokens", 1, u64::from(u32::MAX))?;
        let top_logprobs = integer(request.top_logprobs, "top_logprobs", 0, 20)?;
        let truncation = string(request.truncation, "truncation")?.unwrap_or(Cow::Borrowed("disabled"));
        if !matches!(&*truncation, "auto" | "disabled") {
            return Err(not_one_of("truncation", &truncation, &["auto", "disabled"]));
        }
        let include = array(request.include, "include", self.draft.limits.include)?.unwrap_or_default();
        let sealed = include.iter().any(|raw| raw.get() == "\"reasoning.encrypted_content\"");
        let logprobs = top_logprobs.is_some_and(|n| n > 0)
            || include.iter().any(|raw| raw.get() == "\"message.output_text.logprobs\"");
        let parallel = boolean(request.parallel_tool_calls, "parallel_tool_calls")?.unwrap_or(true);
        let store = boolean(request.store, "store")?.unwrap_or(true);
        let raw = |value: Option<&'a RawValue>, absent: &'static str| match value {
            Some(value) => compact(value.get()),
            None => Cow::Borrowed(absent),
        };
        let count = |n: Option<u64>, absent: &'static str| {
            n.map_or(Cow::Borrowed(absent), |n| Cow::Owned(n.to_string()))
        };
        let flag = |is: bool| Cow::Borrowed(if is { "true" } else { "false" });
        let number_or = |value, key, bounds, absent| Ok::<_, Error>(raw(number(value, key, bounds)?, absent));
        let background = boolean(request.background, "background")?.unwrap_or(false);
        let told = request.instructions.map_or(0, |raw| raw.get().len()) + tools.echo.len();
        let mut echo = Vec::with_capacity(640 + told);
        let max_tool_calls = integer(request.max_tool_calls, "max_tool_calls", 1, u64::from(u32::MAX))?;
        echo.extend_from_slice(b"\"background\":");
        echo.extend_from_slice(flag(background).as_bytes());
        let fields: [(&str, Cow<'_, str>); 14] = [
            ("frequency_penalty", number_or(request.frequency_penalty, "frequency_penalty", PENALTY, "0")?),
            ("instructions", raw(literal(request.instructions, "instructions")?, "null")),
            ("max_output_tokens", count(max_output_tokens, "null")),
            ("max_tool_calls", count(max_tool_calls, "null")),
            ("metadata", raw(metadata(request.metadata, self.draft.limits.metadata)?, "{}")),
            ("parallel_tool_calls", flag(parallel)),
            ("presence_penalty", number_or(request.presence_penalty, "presence_penalty", PENALTY, "0")?),
            ("prompt_cache_key", raw(literal(request.prompt_cache_key, "prompt_cache_key")?, "null")),
            ("safety_identifier", raw(literal(request.safety_identifier, "safety_identifier")?, "null")),
            ("store", flag(store)),
            ("temperature", number_or(request.temperature, "temperature", TEMPERATURE, "1")?),
            ("top_logprobs", count(top_logprobs, "0")),
            ("top_p", number_or(request.top_p, "top_p", TOP_P, "1")?),
            ("user", raw(literal(request.user, "user")?, "null")),
        ];
        for (key, value) in fields {
            push_key(&mut echo, key, &value);
        }
        push_key(&mut echo, "truncation", "");
        json::push_literal(&mut echo, &truncation);
        push_key(&mut echo, "model", "");
        json::push_string(&mut echo, model);
        if let Some(id) = conversation(request)? {
            push_key(&mut echo, "conversation", "{\"id\":");
            json::push_string(&mut echo, &id);
            echo.push(b'}');
        }
        if let Some(retention) = literal(request.prompt_cache_retention, "prompt_cache_retention")? {
            push_key(&mut echo, "prompt_cache_retention", retention.get());
        }
        literal(request.service_tier, "service_tier")?;
        push_key(&mut echo, "service_tier", "\"default\"");
        let effort = self.update.effort.or(literal(reasoning.effort, "reasoning.effort")?);
        let summary = literal(reasoning.summary, "reasoning.summary")?
            .or(literal(reasoning.generate_summary, "reasoning.generate_summary")?);
        push_key(&mut echo, "reasoning", "{\"effort\":");
        echo.extend_from_slice(raw(effort, "null").as_bytes());
        push_key(&mut echo, "summary", &raw(summary, "null"));
        echo.push(b'}');
        push_key(&mut echo, "text", "{\"format\":");
        let format = self.update.format.or(object(text.format, "text.format")?);
        echo.extend_from_slice(raw(format, "{\"type\":\"text\"}").as_bytes());
        if let Some(verbosity) = literal(text.verbosity, "text.verbosity")? {
            let level = json::decode(verbosity).unwrap_or_default();
            if !matches!(&*level, "low" | "medium" | "high") {
                return Err(not_one_of("text.verbosity", &level, &["low", "medium", "high"]));
            }
            push_key(&mut echo, "verbosity", verbosity.get());
        }
        echo.push(b'}');
        for (n, (id, reason)) in self.left_out.iter().enumerate() {
            match n {
                0 => push_key(&mut echo, "input_transformations", "["),
                _ => echo.push(b','),
            }
            echo.extend_from_slice(b"{\"id\":");
            json::push_string(&mut echo, id);
            echo.extend_from_slice(b",\"action\":\"removed\",\"reason\":");
            json::push_string(&mut echo, reason);
            echo.extend_from_slice(b",\"type\":\"reasoning\"}");
        }
        if !self.left_out.is_empty() {
            echo.push(b']');
        }
        push_key(&mut echo, "tool_choice", &raw(present(request.tool_choice), "\"auto\""));
        push_key(&mut echo, "tools", "");
        echo.extend_from_slice(&tools.echo);
        Ok(ReplyPlan {
            echo,
            stream,
            reasoning: match sealed && null_summary(request.reasoning) {
                true => ReasoningDisplay::Hidden,
                false => self.options.reasoning,
            },
            seal: self.options.seal.clone(),
            // a server that speaks Responses well seals its own
            seals_reasoning: (sealed || !store && self.options.seal_reasoning == SealReasoning::Unstored)
                && self.options.native.is_none_or(|native| native.functions),
            compacts: None,
            background,
            previous_response_id: string(request.previous_response_id, "previous_response_id")?
                .map(Cow::into_owned),
            refusal_as_text: self.options.refusal_as_text,
            one_call: !parallel,
            logprobs,
            top_logprobs: top_logprobs.unwrap_or(0),
            tools: tools.table.clone(),
            max_output_tokens,
            native: self.options.native,
            think_tags: ThinkTags::Read,
            format: None,
        })
    }
}

/// `text.format`, read.
enum TextForm<'a> {
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
    fn read(raw: Option<&'a RawValue>) -> Result<TextForm<'a>, Error> {
        let format: TextFormat<'_> = fields(raw, "text.format")?;
        let kind = string(format.r#type, "text.format.type")?;
        match kind.as_deref() {
            None if present(raw).is_some() => Err(missing("text.format.type")),
            None | Some("text") => Ok(TextForm::Free),
            Some("json_object") => Ok(TextForm::Object),
            Some("json_schema") => {
                let name =
                    literal(format.name, "text.format.name")?.ok_or_else(|| missing("text.format.name"))?;
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

    /// Appends `response_format`: what is flat in Responses is wrapped in Chat.
    fn write(&self, body: &mut Vec<u8>) {
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

    /// What a text has to fit, if anything.
    fn wanted(&self) -> Option<Format> {
        match self {
            TextForm::Free => None,
            TextForm::Object => Some(Format::Object),
            // one that is too deep to be read is the server's to refuse
            TextForm::Schema { schema, .. } => {
                Some(Format::Schema(serde_json::from_str(schema.get()).unwrap_or_default()))
            }
        }
    }

    /// What the model is asked for once it has answered in another form, escaped.
    fn prompt(&self) -> String {
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

/// Ranges of the documents.
const TEMPERATURE: RangeInclusive<i32> = 0..=2;
const TOP_P: RangeInclusive<i32> = 0..=1;
const PENALTY: RangeInclusive<i32> = -2..=2;

/// Fields of Chat Completions, and what they are called here.
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

/// Refuses what would change the answer and is not to be had: left out in silence, the client would take the answer for
/// another than it is.
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

/// What `configuration_update` items set, each until another does: the last of each counts for the answer to come.
#[derive(Debug, Default)]
struct Update<'a> {
    effort: Option<&'a RawValue>,
    format: Option<&'a RawValue>,
}

impl<'a> Update<'a> {
    fn of(items: &[&InputItem<'a>]) -> Update<'a> {
        let mut update = Update::default();
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
            // what cannot be read changes nothing: it is history
            update.format =
                present(text.format).filter(|raw| TextForm::read(Some(raw)).is_ok()).or(update.format);
        }
        update
    }
}

/// Appends `,"key":value`, or the beginning of it.
fn push_key(out: &mut Vec<u8>, key: &str, value: &str) {
    out.reserve(key.len() + value.len() + 4);
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(value.as_bytes());
}

/// Whether `summary` is there and null: the client wants no readable reasoning (docs/protocol.md 7). An absent one says nothing.
fn null_summary(reasoning: Option<&RawValue>) -> bool {
    let mut null = false;
    trusted_json::members(reasoning.map_or("", RawValue::get), |name, value| {
        null |= name.get() == "\"summary\"" && value.get() == "null";
    });
    null
}

/// About how long the messages become.
fn text_length(earlier: &[InputItem<'_>], input: Option<&RawValue>) -> usize {
    earlier.iter().map(|(raw, _)| *raw).chain(input).map(|raw| raw.get().len()).sum()
}

fn is_trigger(item: &Item<'_>) -> bool {
    item.r#type.and_then(json::decode).as_deref() == Some("compaction_trigger")
}
