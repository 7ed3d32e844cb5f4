//! Owns the reading of `input`: which items form one assistant message, which output answers which call. It must not
//! refuse anything: what has no place in a chat is written out as text, and noted.

mod calls;
mod held;
mod items;
mod reasoning;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use crate::fields::present;
use crate::notes::Notes;
use crate::request::content::Piece;
use crate::request::history::items::{chat_calls, step};
use crate::request::history::reasoning::thoughts;
use crate::sealing::Seal;
use crate::tools::table::Table;
use crate::wire::json;
use crate::wire::request::InputItem;

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

fn escaped<'a>(text: &str) -> Cow<'a, str> {
    Cow::Owned(json::escape(text).into_owned())
}
