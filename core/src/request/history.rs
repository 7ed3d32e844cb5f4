//! Owns the reading of `input`: which items form one assistant message, which output answers which call. It must not
//! refuse anything: what has no place in a chat is written out as text, and noted.

mod held;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use serde_json::value::RawValue;
use serde_json::{Value, json as value};

use crate::compaction::{SUMMARY_INTRODUCTION, Summary};
use crate::fields::{beginning, present};
use crate::notes::Notes;
use crate::request::content::{Piece, pieces, pieces_of_any};
use crate::request::plain_text;
use crate::sealing::{Purpose, Seal};
use crate::tools::search::{Search, vector_line};
use crate::tools::table::{Kind, Table};
use crate::wire::quoted::Quoted;
use crate::wire::request::{
    ChatCall, ChatFunction, ChatMessage, InputItem, Item, Part, Tool, elements, fields,
};
use crate::wire::{json, trusted_json};

/// Who speaks, apart from the assistant and tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `system`
    System,
    /// `developer`
    Developer,
    /// `user`
    User,
}

impl Role {
    /// As both APIs call it.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
        }
    }
}

/// One step of the conversation.
#[derive(Debug)]
pub enum Entry<'a> {
    /// A message of the user's side.
    Prompt(Role, Vec<Piece<'a>>),
    /// What the model said and called, with the outputs of its calls.
    Assistant(Assistant<'a>),
}

/// One assistant message.
#[derive(Debug, Default)]
pub struct Assistant<'a> {
    /// Texts, one after the other.
    pub text: Vec<Piece<'a>>,
    /// Reasoning texts, apart.
    pub reasoning: Vec<Piece<'a>>,
    /// Calls in order.
    pub calls: Vec<Call<'a>>,
}

impl<'a> Assistant<'a> {
    fn says_anything(&self) -> bool {
        !self.calls.is_empty() || !self.text.iter().all(Piece::is_empty)
    }

    /// Adds the text of another message, apart from that of the one before.
    pub fn say(&mut self, text: Vec<Piece<'a>>) {
        if text.iter().all(Piece::is_empty) {
            return;
        }
        if !self.text.is_empty() {
            self.text.push(Piece::Text(Cow::Borrowed("\\n\\n")));
        }
        self.text.extend(text);
    }
}

/// One call and what came of it. All texts are escaped.
#[derive(Debug)]
pub struct Call<'a> {
    /// Unique in this history.
    pub id: Cow<'a, str>,
    /// The function's name.
    pub name: Cow<'a, str>,
    /// A JSON object, as text.
    pub arguments: Piece<'a>,
    /// `None`: interrupted.
    pub output: Option<Vec<Piece<'a>>>,
}

/// What reading depends on besides the items.
pub struct Reading<'t> {
    /// Which chat function stands for which declared tool.
    pub table: &'t Table,
    /// Opens sealed reasoning and summaries; blobs are skipped without it.
    pub seal: Option<&'t dyn Seal>,
    /// How many of the items, at the beginning, come from the chain or conversation that the request continues.
    pub earlier: usize,
}

/// The items, read.
#[derive(Debug, Default)]
pub struct History<'a> {
    /// The conversation, in order.
    pub entries: Vec<Entry<'a>>,
    /// The request's own items, by their place among these, that only tell again what is held.
    pub repeated: Vec<usize>,
    /// The first of the request's own items whose role is none: its place, and the role.
    pub unknown_role: Option<(usize, String)>,
    /// The first id under which two items of a chain or conversation say different things.
    pub clash: Option<String>,
    /// Reasoning that the model does not get: the item's id, and why.
    pub left_out: Vec<(String, &'static str)>,
}

/// Sealed by somebody else, or with a key that is gone.
const UNREADABLE: &str = "unreadable";
/// It led to no message and no call, and a template has no place for it.
const WITHOUT_ANSWER: &str = "without_answer";

/// Reads the items of `input`. An assistant's message, reasoning and calls that follow each other are one entry; an
/// output goes to the call that it answers, wherever it stands (Codex puts messages between the two).
pub fn read<'a>(items: &[&InputItem<'a>], reading: &Reading<'_>, notes: &mut Notes) -> History<'a> {
    let mut history = History::default();
    let all = items;
    let mut items: Vec<Step<'a>> = Vec::with_capacity(all.len());
    // of each step the item
    let mut places: Vec<usize> = Vec::with_capacity(all.len());
    let id_of = |n: usize| {
        let (_, item) = all.get(n)?;
        present(item.as_ref()?.id).and_then(json::decode).map(Cow::into_owned)
    };
    for (n, (raw, item)) in all.iter().enumerate() {
        match step(n, raw, item.as_ref(), reading, notes) {
            Step::Stranger(role, pieces) => {
                if let Some(own) = n.checked_sub(reading.earlier) {
                    history.unknown_role.get_or_insert((own, role));
                }
                items.push(Step::Prompt(Role::User, pieces));
            }
            step @ Step::Message(_) => {
                items.extend(
                    thoughts(raw, item.as_ref(), notes).map(|text| Step::Reasoning(vec![Piece::Text(text)])),
                );
                items.push(step);
                items.extend(chat_calls(raw, item.as_ref(), reading.table, notes));
            }
            Step::Reasoning(text) => {
                let sealed =
                    text.is_empty() && item.is_some_and(|item| present(item.encrypted_content).is_some());
                history.left_out.extend(id_of(n).filter(|_| sealed).map(|id| (id, UNREADABLE)));
                items.push(Step::Reasoning(text));
            }
            step => items.push(step),
        }
        places.resize(items.len(), n);
    }
    replace_summarised(&mut items);
    if reading.earlier > 0 {
        let held::Told { repeated, clash } = held::skip_repeats(&mut items, all, reading.earlier, &places);
        (history.repeated, history.clash) = (repeated, clash);
    }
    let mut outputs: HashMap<Cow<'a, str>, VecDeque<usize>> = HashMap::new();
    for (at, item) in items.iter().enumerate() {
        if let Step::Output { id, .. } = item {
            outputs.entry(id.clone()).or_default().push_back(at);
        }
    }
    // outputs whose call was found; they go where it is
    let mut owned = vec![false; items.len()];
    let answers: Vec<Option<usize>> = items
        .iter()
        .map(|item| {
            let Step::Call { id, .. } = item else { return None };
            let at = outputs.get_mut(id).and_then(VecDeque::pop_front)?;
            owned.get_mut(at).map(|owned| *owned = true).map(|()| at)
        })
        .collect();

    let order = if reading.earlier > 0 { held::order(&items, &answers) } else { None };
    let mut reader = Reader::default();
    for n in 0..items.len() {
        let at = order.as_ref().map_or(n, |order| order.get(n).copied().unwrap_or(n));
        if owned.get(at) == Some(&true) {
            reader.close();
            continue;
        }
        let answer = answers.get(at).copied().flatten();
        match items.get_mut(at).map(std::mem::take).unwrap_or_default() {
            Step::Prompt(role, pieces) => reader.prompt(role, pieces),
            Step::Message(text) => reader.assistant().say(text),
            Step::Reasoning(text) => {
                if !text.is_empty() {
                    reader.reasoned.push(at);
                }
                reader.assistant().reasoning.extend(text);
            }
            Step::Call { id, name, arguments } => {
                let output = match answer.and_then(|at| items.get_mut(at)) {
                    Some(Step::Output { pieces, .. }) => Some(std::mem::take(pieces)),
                    _ => None,
                };
                if output.is_none() {
                    notes.add("missing_output", &id);
                }
                let id = reader.unique(id, notes);
                reader.assistant().calls.push(Call { id, name, arguments, output });
            }
            Step::Output { id, pieces } => {
                notes.add("orphan_output", &id);
                let told = Piece::Text(Cow::Owned(format!("[Output of tool call {id}]")));
                reader.prompt(Role::User, std::iter::once(told).chain(pieces).collect());
            }
            Step::Summary { text, .. } => reader.prompt(Role::User, vec![Piece::Text(text)]),
            Step::Stranger(..) | Step::Skipped => {}
        }
    }
    reader.close();
    reader.entries.retain(|entry| match entry {
        Entry::Prompt(_, pieces) => !pieces.is_empty(),
        // a template has no place for reasoning that led to nothing
        Entry::Assistant(assistant) => assistant.says_anything(),
    });
    let item = |at: &usize| id_of(places.get(*at).copied()?);
    history.left_out.extend(reader.unheard.iter().filter_map(item).map(|id| (id, WITHOUT_ANSWER)));
    history.entries = reader.entries;
    history
}

/// What one item contributes.
#[derive(Default)]
enum Step<'a> {
    Prompt(Role, Vec<Piece<'a>>),
    Message(Vec<Piece<'a>>),
    Reasoning(Vec<Piece<'a>>),
    Call {
        id: Cow<'a, str>,
        name: Cow<'a, str>,
        arguments: Piece<'a>,
    },
    Output {
        id: Cow<'a, str>,
        pieces: Vec<Piece<'a>>,
    },
    /// A compaction, opened. `replaces`: it stands for everything before it.
    Summary {
        text: Cow<'a, str>,
        replaces: bool,
    },
    /// A message of a role that there is not.
    Stranger(String, Vec<Piece<'a>>),
    #[default]
    Skipped,
}

/// Leaves out what a summary stands for, but for the system and developer messages at the very beginning.
fn replace_summarised(steps: &mut [Step<'_>]) {
    let Some(last) = steps.iter().rposition(|step| matches!(step, Step::Summary { replaces: true, .. }))
    else {
        return;
    };
    let leading =
        |step: &Step<'_>| matches!(step, Step::Prompt(Role::System | Role::Developer, _) | Step::Skipped);
    let kept = steps.iter().position(|step| !leading(step)).unwrap_or(last);
    for step in steps.iter_mut().take(last).skip(kept) {
        *step = Step::Skipped;
    }
}

/// Leaves out the `count` oldest turns, and returns how many more could be. A turn is a user's message with all that
/// came of it; in the last turn, which stays, each answer with its tool calls and their outputs counts as one, but for
/// the last. System and developer messages at the beginning stay.
pub fn drop_turns(entries: &mut Vec<Entry<'_>>, count: usize) -> usize {
    let user = |entry: &Entry<'_>| matches!(entry, Entry::Prompt(Role::User, _));
    let answer = |entry: &Entry<'_>| matches!(entry, Entry::Assistant(_));
    let first = entries.iter().position(|entry| user(entry) || answer(entry)).unwrap_or(entries.len());
    // where a turn begins: neighbouring messages of the user's are one
    let begins =
        |at: usize, entry: &Entry<'_>| at == first || user(entry) && entries.get(at - 1).is_some_and(answer);
    let (mut turns, mut from, mut last) = (0, first, first);
    for (at, entry) in entries.iter().enumerate().skip(first) {
        if begins(at, entry) {
            turns += 1;
            last = at;
            if turns <= count + 1 {
                from = at;
            }
        }
    }
    if turns == 0 {
        return 0;
    }
    let answers = entries.iter().skip(last).filter(|entry| answer(entry)).count();
    let inner = answers.saturating_sub(1);
    let whole = count.min(turns - 1);
    let single = (count - whole).min(inner);
    if count > 0 {
        let (mut at, mut left) = (0, single);
        entries.retain(|entry| {
            at += 1;
            let at = at - 1;
            let out = at >= last && left > 0 && answer(entry);
            left -= usize::from(out);
            !(first..from).contains(&at) && !out
        });
    }
    turns - 1 - whole + inner - single
}

/// Bytes from which on an id is long: none that repeats.
const LONG_ID: usize = 1024;

#[derive(Default)]
struct Reader<'a> {
    entries: Vec<Entry<'a>>,
    /// The assistant message that may still grow.
    open: Option<Assistant<'a>>,
    /// The steps of its reasoning.
    reasoned: Vec<usize>,
    /// Those of messages that came to nothing.
    unheard: Vec<usize>,
    /// Ids that are taken, and how often each was wanted again.
    ids: HashMap<Cow<'a, str>, usize>,
    calls: usize,
}

impl<'a> Reader<'a> {
    fn prompt(&mut self, role: Role, pieces: Vec<Piece<'a>>) {
        self.close();
        self.entries.push(Entry::Prompt(role, pieces));
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            if !open.says_anything() {
                self.unheard.append(&mut self.reasoned);
            }
            self.reasoned.clear();
            self.entries.push(Entry::Assistant(open));
        }
    }

    fn assistant(&mut self) -> &mut Assistant<'a> {
        self.open.get_or_insert_default()
    }

    /// The id for the upstream: the client's own, told apart where it repeats or is empty. A function of what came
    /// before it alone, so that the prompt's beginning stays the same when the history grows.
    fn unique(&mut self, id: Cow<'a, str>, notes: &mut Notes) -> Cow<'a, str> {
        self.calls += 1;
        let wanted = if id.is_empty() { Cow::Owned(format!("call_{}", self.calls)) } else { id };
        let Some(again) = self.ids.get(&*wanted).copied() else {
            self.ids.insert(wanted.clone(), 1);
            return wanted;
        };
        notes.add("duplicate_call_id", &wanted);
        // not copied once for each call that has it
        let wanted = if wanted.len() > LONG_ID { Cow::Owned(format!("call_{}", self.calls)) } else { wanted };
        let mut n = again + 1;
        // goes on where the last one with this id ended: a thousand of them are not looked at a thousand times
        while self.ids.contains_key(&*format!("{wanted}_{n}")) {
            n += 1;
        }
        let apart: Cow<'a, str> = Cow::Owned(format!("{wanted}_{n}"));
        self.ids.insert(apart.clone(), 1);
        self.ids.insert(wanted, n);
        apart
    }
}

fn step<'a>(
    index: usize,
    raw: &'a RawValue,
    item: Option<&Item<'a>>,
    reading: &Reading<'_>,
    notes: &mut Notes,
) -> Step<'a> {
    let table = reading.table;
    let Some(item) = item else { return bare(index, raw, notes) };
    let kind = present(item.r#type).and_then(json::decode);
    let read = match kind.as_deref() {
        Some("message") => message(raw, item, notes),
        None if item.role.is_some() => message(raw, item, notes),
        Some("reasoning") => Some(Step::Reasoning(reasoning(item, reading.seal, notes))),
        Some("function_call") => function_call(item, table, notes),
        Some("custom_tool_call") => custom_tool_call(item, table, notes),
        Some("tool_search_call") => own_call(item, table, Kind::ToolSearch, item.arguments, notes),
        Some("local_shell_call") => own_call(item, table, Kind::LocalShell, item.action, notes),
        Some("shell_call") => own_call(item, table, Kind::Shell, item.action, notes),
        Some("apply_patch_call") => own_call(item, table, Kind::ApplyPatch, item.operation, notes),
        Some(
            "function_call_output"
            | "custom_tool_call_output"
            | "local_shell_call_output"
            | "apply_patch_call_output",
        ) => output(item, notes),
        Some("shell_call_output") => shell_output(item, notes).or_else(|| output(item, notes)),
        Some("tool_search_output") => found_tools(item, table, notes).or_else(|| output(item, notes)),
        Some("agent_message") => agent_message(item, notes),
        Some("compaction" | "compaction_summary" | "context_compaction") => {
            summary(item, reading.seal).or_else(|| unread_summary(index, notes))
        }
        // hoisted into the tools or the settings, or an instruction to us
        Some("additional_tools" | "compaction_trigger" | "configuration_update") => Some(Step::Skipped),
        _ => None,
    };
    read.unwrap_or_else(|| written_out(index, raw, item, kind.as_deref(), notes))
}

/// An element of the input that is no object: its text, where it has any.
fn bare<'a>(index: usize, raw: &'a RawValue, notes: &mut Notes) -> Step<'a> {
    if raw.get().starts_with(['"', '[']) && raw.get() != "[]" {
        notes.add("written_item", &format!("input[{index}] is no object"));
        return Step::Prompt(Role::User, pieces_of_any(raw, notes));
    }
    notes.add("skipped_item", &format!("input[{index}] is no object"));
    Step::Skipped
}

/// An item of a type that no chat message has: what it says, as the user's text.
fn written_out<'a>(
    index: usize,
    raw: &'a RawValue,
    item: &Item<'a>,
    kind: Option<&str>,
    notes: &mut Notes,
) -> Step<'a> {
    let kind = kind.map(|kind| beginning(kind, KIND_BYTES));
    let what = format!("input[{index}] of type {}", kind.unwrap_or("null"));
    let images = [item.content, item.output].into_iter().filter_map(present);
    let images = images.filter(|raw| raw.get().contains("\"image_url\""));
    let images: Vec<Piece<'a>> = images.flat_map(|raw| pieces_of_any(raw, notes)).collect();
    let mut said: Vec<Piece<'a>> = match notes.rewrite(raw.get().len()) {
        true => {
            plain_text::of_item(raw, kind.unwrap_or("item")).iter().map(|text| Piece::owned(text)).collect()
        }
        false => vec![Piece::Quoted(Quoted::of(raw.get()))],
    };
    said.extend(images.into_iter().filter(|piece| !piece.is_text()));
    if said.is_empty() {
        notes.add("skipped_item", &what);
        return Step::Skipped;
    }
    notes.add("written_item", &what);
    Step::Prompt(Role::User, said)
}

/// What one of Codex's agents tells another: a task, a word in between, a result. Its header is in its text.
fn agent_message<'a>(item: &Item<'a>, notes: &mut Notes) -> Option<Step<'a>> {
    let said = pieces_of_any(present(item.content)?, notes);
    (!said.is_empty()).then_some(Step::Prompt(Role::User, said))
}

fn message<'a>(raw: &'a RawValue, item: &Item<'a>, notes: &mut Notes) -> Option<Step<'a>> {
    let of_assistant = || {
        let role = present(item.role).and_then(json::decode);
        role.is_some_and(|role| role.trim().eq_ignore_ascii_case("assistant"))
    };
    let content = match present(item.content) {
        Some(content) if content.get().starts_with('[') && may_think(content) && of_assistant() => {
            let said = elements(content.get()).into_iter().filter(|part| !is_thought(part));
            said.flat_map(|part| pieces_of_any(part, notes)).collect()
        }
        Some(content) => pieces_of_any(content, notes),
        None => Vec::new(),
    };
    let Some(role) = present(item.role).and_then(json::decode) else {
        return (!content.is_empty()).then_some(Step::Prompt(Role::User, content));
    };
    Some(match &*role {
        "user" => Step::Prompt(Role::User, content),
        "assistant" => Step::Message(content.into_iter().map(Piece::into_text).collect()),
        "system" => Step::Prompt(Role::System, content),
        "developer" => Step::Prompt(Role::Developer, content),
        _ => by_another_name(raw, &role, content),
    })
}

/// The calls of an assistant message in the form of Chat Completions. Its content is a string or null there, which the
/// rest of the item is longer than.
fn chat_calls<'a>(
    raw: &'a RawValue,
    item: Option<&Item<'a>>,
    table: &Table,
    notes: &mut Notes,
) -> Vec<Step<'a>> {
    let content = item.and_then(|item| present(item.content)).map_or("", RawValue::get);
    let rest = raw.get().len() - content.len().min(raw.get().len());
    if content.starts_with('[') || rest < CHAT_CALL || !raw.get().contains("\"tool_calls\"") {
        return Vec::new();
    }
    let message: ChatMessage<'a> = fields(raw).unwrap_or_default();
    let Some(calls) = present(message.tool_calls) else { return Vec::new() };
    // some servers wrote a single one as itself
    let calls = if calls.get().starts_with('{') { vec![calls] } else { elements(calls.get()) };
    let call = |raw: &'a RawValue| {
        let call: ChatCall<'a> = fields(raw)?;
        let ChatFunction { name, arguments } = fields(present(call.function)?)?;
        function_call(&Item { call_id: call.id, name, arguments, ..Item::default() }, table, notes)
    };
    calls.into_iter().filter_map(call).collect()
}

/// Bytes that are shown of a role or a type that is none.
const KIND_BYTES: usize = 200;

/// No call is shorter.
const CHAT_CALL: usize = 64;

/// A role in other letters, or one of Chat Completions: there a tool's message names the call that it answers.
fn by_another_name<'a>(raw: &'a RawValue, role: &str, content: Vec<Piece<'a>>) -> Step<'a> {
    match beginning(role.trim(), KIND_BYTES).to_ascii_lowercase().as_str() {
        "user" => Step::Prompt(Role::User, content),
        "assistant" => Step::Message(content.into_iter().map(Piece::into_text).collect()),
        "system" => Step::Prompt(Role::System, content),
        "developer" => Step::Prompt(Role::Developer, content),
        kind @ ("tool" | "function") => {
            let chat: ChatMessage<'a> = fields(raw).unwrap_or_default();
            let id = present(chat.tool_call_id).or(present(chat.call_id)).and_then(json::text);
            if let Some(id) = id.filter(|id| !id.is_empty()) {
                return Step::Output { id, pieces: content };
            }
            let name = present(chat.name).and_then(json::decode).unwrap_or_default();
            let head =
                Piece::owned(&if name.is_empty() { format!("[{kind}]") } else { format!("[{kind} {name}]") });
            Step::Prompt(Role::User, std::iter::once(head).chain(content).collect())
        }
        _ => Step::Stranger(beginning(role, KIND_BYTES).to_owned(), content),
    }
}

/// Reasoning that stands in an assistant's message, as chat servers and their clients write it: in parts of its content
/// (Mistral, Anthropic kin), or beside it by one of its names.
fn thoughts<'a>(raw: &RawValue, item: Option<&Item<'a>>, notes: &mut Notes) -> Option<Cow<'a, str>> {
    if !may_think(raw) || !notes.rewrite(raw.get().len()) {
        return None;
    }
    let members = json::members(raw.get()).unwrap_or_default();
    let beside = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
    let content = item.and_then(|item| present(item.content)).filter(|raw| raw.get().starts_with('['));
    let parts = content.map(|raw| elements(raw.get())).unwrap_or_default().into_iter();
    let parts: Vec<&RawValue> = parts.filter(|part| is_thought(part)).collect();
    let mut text = String::new();
    parts.iter().for_each(|part| plain_text::collect(part, &mut text));
    for name in REASONING_NAMES {
        if text.is_empty() {
            beside(name).into_iter().for_each(|value| plain_text::collect(value, &mut text));
        }
    }
    (!text.trim().is_empty()).then(|| escaped(&text))
}

/// A quick look: hardly any message does.
fn may_think(raw: &RawValue) -> bool {
    ["thinking\"", "\"reasoning"].iter().any(|hint| raw.get().contains(hint))
}

/// Whether a part of a message's content is reasoning.
fn is_thought(part: &RawValue) -> bool {
    let part: Part<'_> = fields(part).unwrap_or_default();
    let kind = present(part.r#type).and_then(json::decode).unwrap_or_default();
    kind.ends_with("thinking") || kind.starts_with("reasoning")
}

/// By which names an assistant's message has its reasoning.
const REASONING_NAMES: [&str; 4] = ["reasoning_content", "reasoning", "thinking", "reasoning_details"];

/// `content` where it has text, else what is sealed in it, else `summary`: with `reasoning = "summary"` ours is all in
/// the latter.
fn reasoning<'a>(item: &Item<'a>, seal: Option<&dyn Seal>, notes: &mut Notes) -> Vec<Piece<'a>> {
    let mut read = |field: Option<&'a RawValue>| -> Vec<Piece<'a>> {
        let pieces = present(field).and_then(|raw| pieces(raw, notes)).unwrap_or_default();
        pieces.into_iter().filter(|piece| piece.is_text() && !piece.is_empty()).collect()
    };
    let content = read(item.content);
    if !content.is_empty() {
        return content;
    }
    let sealed = open(item, seal, Purpose::Reasoning).filter(|text| !text.is_empty());
    sealed.map_or_else(|| read(item.summary), |text| vec![Piece::owned(&text)])
}

fn open(item: &Item<'_>, seal: Option<&dyn Seal>, purpose: Purpose) -> Option<String> {
    let blob = present(item.encrypted_content).and_then(json::decode)?;
    seal?.open(purpose, &blob)
}

/// A compaction that somebody else made: the model hears that there was something.
fn unread_summary<'a>(index: usize, notes: &mut Notes) -> Option<Step<'a>> {
    notes.add("unread_compaction", &format!("input[{index}]"));
    Some(Step::Prompt(Role::User, vec![Piece::owned(UNREAD_SUMMARY)]))
}

const UNREAD_SUMMARY: &str =
    "[An earlier part of the conversation was summarised, and the summary cannot be read here.]";

/// A compaction that we made for this caller.
fn summary<'a>(item: &Item<'a>, seal: Option<&dyn Seal>) -> Option<Step<'a>> {
    let summary = Summary::read(&open(item, seal, Purpose::Compaction)?)?;
    let text = format!("{SUMMARY_INTRODUCTION}{}", summary.text);
    Some(Step::Summary { text: escaped(&text), replaces: summary.replaces })
}

/// The namespace and the name of a call; `None` without a name, and for one that no tool can have.
fn named<'a>(item: &Item<'a>) -> Option<(Option<Cow<'a, str>>, Cow<'a, str>)> {
    let short = |raw: &&RawValue| raw.get().len() < LONG_NAME;
    let name = present(item.name).filter(short).and_then(json::decode).filter(|name| !name.is_empty())?;
    let namespace = match present(item.namespace) {
        Some(namespace) => Some(Some(namespace).filter(short)?).and_then(json::decode),
        None => None,
    };
    Some((namespace, name))
}

/// Bytes of a name's literal that no tool has.
const LONG_NAME: usize = 4096;

fn function_call<'a>(item: &Item<'a>, table: &Table, notes: &mut Notes) -> Option<Step<'a>> {
    let (namespace, name) = named(item)?;
    let id = present(item.call_id).and_then(json::text).unwrap_or_default();
    let arguments = present(item.arguments);
    if table.shell.is_some()
        && let Some(text) = arguments.and_then(json::decode)
        && let Some((search, call)) = table.search_in(&name, &text)
    {
        return Some(search_call(id, search, &call));
    }
    let chat = table.chat_name(namespace.as_deref(), &name);
    let arguments = arguments_object(arguments, notes);
    if let Some(caller) = table.through(&chat) {
        // as the model wrote it; both are escaped already
        let before = json::escape(&format!("{{\"name\":{},\"arguments\":", value!(chat))).into_owned();
        let mut call = Vec::with_capacity(before.len() + arguments.length());
        call.extend_from_slice(before.as_bytes());
        arguments.push_text(&mut call);
        call.push(b'}');
        let arguments = Piece::Text(Cow::Owned(String::from_utf8(call).unwrap_or_default()));
        return Some(Step::Call { id, name: escaped(&caller.chat), arguments });
    }
    Some(Step::Call { id, name: escaped(&chat), arguments })
}

/// The model's own search, which the client ran through its shell.
fn search_call<'a>(id: Cow<'a, str>, search: Search, call: &Value) -> Step<'a> {
    Step::Call { id, name: Cow::Borrowed(search.function().0), arguments: Piece::owned(&call.to_string()) }
}

/// A freeform call is shown as the model wrote it: `{"input": "..."}`.
fn custom_tool_call<'a>(item: &Item<'a>, table: &Table, notes: &mut Notes) -> Option<Step<'a>> {
    let (namespace, name) = named(item)?;
    let id = present(item.call_id).and_then(json::text).unwrap_or_default();
    let name = escaped(&table.chat_name(namespace.as_deref(), &name));
    let input = present(item.input).filter(|input| input.get().starts_with('"'));
    let arguments = match input {
        // the same, but that it keeps the client's way of escaping
        Some(input) if !notes.rewrite(input.get().len()) => {
            Piece::Quoted(Quoted::member("{\"input\":", input.get()))
        }
        _ => Piece::owned(&value!({ "input": input.and_then(json::decode).unwrap_or_default() }).to_string()),
    };
    Some(Step::Call { id, name, arguments })
}

/// A call of a type of its own. `arguments`: the member that holds what the model wrote.
fn own_call<'a>(
    item: &Item<'a>,
    table: &Table,
    kind: Kind,
    arguments: Option<&'a RawValue>,
    notes: &mut Notes,
) -> Option<Step<'a>> {
    let name = match kind {
        Kind::ToolSearch => "tool_search",
        Kind::LocalShell => "local_shell",
        Kind::Shell => "shell",
        _ => "apply_patch",
    };
    let id = present(item.call_id).or(present(item.id)).and_then(json::text).unwrap_or_default();
    let mut tree = |raw: &RawValue| notes.rewrite(raw.get().len()).then(|| json::tree(raw.get())).flatten();
    let mut arguments: Value = match present(arguments).map(|raw| (raw, tree(raw))) {
        Some((_, Some(value))) => value,
        // too wide or too long to be looked into
        Some((raw, None)) => {
            let name = escaped(table.of_kind(kind).map_or(name, |route| &route.chat));
            return Some(Step::Call { id, name, arguments: arguments_object(Some(raw), notes) });
        }
        None => value!({}),
    };
    if kind == Kind::LocalShell {
        let line = arguments.get("command").and_then(vector_line);
        if let Some((search, call)) = line.and_then(|line| Search::from_line(&table.wrappers, &line)) {
            return Some(search_call(id, search, &call));
        }
    }
    if let Some(object) = arguments.as_object_mut() {
        // what the client or we put in, not the model
        object.retain(|key, value| !(value.is_null() || key == "env" && *value == value!({})));
        if kind == Kind::LocalShell {
            object.shift_remove("type");
        }
    }
    let name = table.of_kind(kind).map_or(name, |route| &route.chat);
    Some(Step::Call { id, name: escaped(name), arguments: Piece::owned(&arguments.to_string()) })
}

/// What a `shell` call printed, command by command.
fn shell_output<'a>(item: &Item<'a>, notes: &mut Notes) -> Option<Step<'a>> {
    let id = present(item.call_id).and_then(json::text).unwrap_or_default();
    let results = present(item.output).filter(|raw| raw.get().starts_with('['))?;
    if !notes.rewrite(results.get().len()) {
        return Some(Step::Output { id, pieces: vec![Piece::Quoted(Quoted::of(results.get()))] });
    }
    let results = json::tree(results.get())?;
    let text = |result: &Value, key: &str| result.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut shown = String::new();
    for result in results.as_array()? {
        shown.push_str(&text(result, "stdout"));
        let stderr = text(result, "stderr");
        if !stderr.is_empty() {
            shown.push_str(&format!("\n[stderr]\n{stderr}"));
        }
        match result.get("outcome").and_then(|outcome| outcome.get("exit_code")) {
            Some(code) => shown.push_str(&format!("\n[exit code {code}]\n")),
            None => shown.push_str("\n[timed out]\n"),
        }
    }
    Some(Step::Output { id, pieces: vec![Piece::Text(escaped(&shown))] })
}

/// What a tool search found: names and descriptions, where the tools themselves are among the request's tools by now.
fn found_tools<'a>(item: &Item<'a>, table: &Table, notes: &mut Notes) -> Option<Step<'a>> {
    let id = present(item.call_id).and_then(json::text).unwrap_or_default();
    let mut shown = String::new();
    let mut left = MOST_FOUND;
    let tools = present(item.tools)?;
    if !notes.rewrite(tools.get().len()) {
        return Some(Step::Output { id, pieces: vec![Piece::Quoted(Quoted::of(tools.get()))] });
    }
    list(tools, None, table, &mut left, &mut shown)?;
    if shown.is_empty() {
        shown.push_str("No tools were found.");
    }
    Some(Step::Output { id, pieces: vec![Piece::Text(escaped(shown.trim_end()))] })
}

/// Most tools of one output that are told of; a request may declare no more.
const MOST_FOUND: usize = 2048;

/// A line for each tool. `None` for what is no array.
fn list(
    tools: &RawValue,
    namespace: Option<&str>,
    table: &Table,
    left: &mut usize,
    into: &mut String,
) -> Option<()> {
    trusted_json::objects(tools.get(), &mut Vec::<()>::new(), |_, tool: Option<Tool<'_>>| {
        let tool = tool?;
        let text = |raw: Option<&RawValue>| raw.and_then(json::decode).unwrap_or_default().into_owned();
        if let Some(nested) = tool.tools.filter(|nested| nested.get().starts_with('[')) {
            // a namespace within a namespace was left out of the tools
            if namespace.is_none() {
                list(nested, Some(&text(tool.name)), table, left, into);
            }
            return None;
        }
        *left = left.checked_sub(1)?;
        let name = text(tool.name);
        let chat = table.chat_name(namespace, &name);
        into.push_str(&chat);
        into.push_str(": ");
        let description = text(tool.description);
        if table.through(&chat).is_some() {
            // this is all that the model will see of it
            let parameters = tool.parameters.map_or(Cow::Borrowed(""), |raw| json::compact(raw.get()));
            into.push_str(&format!("{description}\nIts parameters: {parameters}\n"));
        } else {
            into.push_str(description.lines().next().unwrap_or(""));
            into.push('\n');
        }
        None
    })
    .map(drop)
}

fn escaped<'a>(text: &str) -> Cow<'a, str> {
    Cow::Owned(json::escape(text).into_owned())
}

/// Arguments as the upstream can take them: llama-server and vLLM both parse them, and refuse the whole request for
/// ones that are no JSON object. What the model wrote amiss stays readable to it inside an object.
fn arguments_object<'a>(raw: Option<&'a RawValue>, notes: &mut Notes) -> Piece<'a> {
    let empty = Piece::Text(Cow::Borrowed("{}"));
    let Some(raw) = raw else { return empty };
    let whole = Piece::Quoted(Quoted::member("{\"invalid_arguments\":", raw.get()));
    let Some(text) = json::decode(raw) else {
        // not a string: an object is taken as it is, anything else is wrapped
        return match (raw.get().starts_with('{'), notes.rewrite(raw.get().len())) {
            (true, true) => Piece::owned(&json::compact(raw.get())),
            (true, false) => Piece::Quoted(Quoted::of(raw.get())),
            (false, true) => wrapped(raw.get()),
            (false, false) => whole,
        };
    };
    if text.trim().is_empty() {
        return empty;
    }
    let object =
        text.trim_start().starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
    match json::text(raw) {
        Some(escaped) if object => Piece::Text(escaped),
        _ if notes.rewrite(raw.get().len()) => wrapped(&text),
        _ => whole,
    }
}

fn wrapped<'a>(text: &str) -> Piece<'a> {
    Piece::owned(&value!({ "invalid_arguments": text }).to_string())
}

fn output<'a>(item: &Item<'a>, notes: &mut Notes) -> Option<Step<'a>> {
    let id = present(item.call_id).or(present(item.id)).and_then(json::text).unwrap_or_default();
    let content = match present(item.output) {
        None => present(item.status).and_then(json::text).map(Piece::Text).into_iter().collect(),
        Some(raw) => pieces_of_any(raw, notes),
    };
    Some(Step::Output { id, pieces: content })
}
