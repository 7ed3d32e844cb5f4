//! Owns the reading of `input`: which items form one assistant message, and which output answers which call. It must
//! not refuse anything: an item without a chat form is written out as text, and noted.

mod calls;
mod items;
mod reader;
mod reasoning;
mod repeats;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use crate::fields::present;
use crate::notes::Notes;
use crate::request::content::Piece;
use crate::request::history::items::{chat_calls, step};
use crate::request::history::reader::Reader;
use crate::request::history::reasoning::thoughts;
use crate::sealing::Seal;
use crate::tools::table::Table;
use crate::wire::json;
use crate::wire::request::InputItem;

/// The author of a prompt message.
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
    /// The name that both APIs use.
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
    /// A message that is not the assistant's.
    Prompt(Role, Vec<Piece<'a>>),
    /// One assistant turn: its text and calls, with the outputs of the calls.
    Assistant(Assistant<'a>),
}

/// One assistant message.
#[derive(Debug, Default)]
pub struct Assistant<'a> {
    /// Texts, in order.
    pub text: Vec<Piece<'a>>,
    /// Reasoning texts, in order. They are not part of `text`.
    pub reasoning: Vec<Piece<'a>>,
    /// Tool calls, in order, each with its output.
    pub calls: Vec<Call<'a>>,
}

impl<'a> Assistant<'a> {
    fn has_content(&self) -> bool {
        !self.calls.is_empty() || !self.text.iter().all(Piece::is_empty)
    }

    /// Appends the text of another message, separated by a blank line. Empty text is ignored.
    pub fn append_text(&mut self, text: Vec<Piece<'a>>) {
        if text.iter().all(Piece::is_empty) {
            return;
        }
        if !self.text.is_empty() {
            self.text.push(Piece::Text(Cow::Borrowed("\\n\\n")));
        }
        self.text.extend(text);
    }
}

/// One call and its output. All texts are escaped.
#[derive(Debug)]
pub struct Call<'a> {
    /// Unique in this history.
    pub id: Cow<'a, str>,
    /// The function's name.
    pub name: Cow<'a, str>,
    /// A JSON object as text.
    pub arguments: Piece<'a>,
    /// The output; `None` if the call was interrupted.
    pub output: Option<Vec<Piece<'a>>>,
}

/// What reading depends on besides the items.
pub struct ReadContext<'t> {
    /// Maps declared tools to chat functions.
    pub table: &'t Table,
    /// Opens sealed reasoning and summaries; sealed content is skipped without it.
    pub seal: Option<&'t dyn Seal>,
    /// How many of the first items come from the chain or conversation that the request continues.
    pub earlier: usize,
}

/// The result of reading `input`, ready to be written as chat messages.
#[derive(Debug, Default)]
pub struct History<'a> {
    /// The conversation, in order.
    pub entries: Vec<Entry<'a>>,
    /// Positions of the request's own items that only repeat stored ones.
    pub repeated: Vec<usize>,
    /// Position and role of the first of the request's own items with an unknown role.
    pub unknown_role: Option<(usize, String)>,
    /// The first id that two items of a chain or conversation share although they differ.
    pub clash: Option<String>,
    /// Reasoning that the model does not get: the item's id and the reason.
    pub left_out: Vec<(String, &'static str)>,
}

/// Sealed by another server, or with a key that is gone.
const UNREADABLE: &str = "unreadable";
/// Neither a message nor a call follows it, and chat templates have no place for reasoning alone.
const WITHOUT_ANSWER: &str = "without_answer";

/// Reads the items of `input`. Consecutive assistant messages, reasoning and calls form one entry. An output goes to
/// the call it answers, wherever it stands: Codex puts messages between the two.
pub fn read<'a>(items: &[&InputItem<'a>], reading: &ReadContext<'_>, notes: &mut Notes) -> History<'a> {
    let mut history = History::default();
    let (mut steps, places) = history.steps(items, reading, notes);
    replace_summarised(&mut steps);
    if reading.earlier > 0 {
        let repeats::Comparison { repeated, clash } =
            repeats::skip_repeats(&mut steps, items, reading.earlier, &places);
        (history.repeated, history.clash) = (repeated, clash);
    }
    let answers = Answers::find(&steps);
    let order = if reading.earlier > 0 { repeats::order(&steps, &answers.of_calls) } else { None };
    let mut reader = Reader::default();
    for n in 0..steps.len() {
        let at = order.as_ref().map_or(n, |order| order.get(n).copied().unwrap_or(n));
        if answers.owned.get(at) == Some(&true) {
            reader.close();
            continue;
        }
        let answer = answers.of_calls.get(at).copied().flatten();
        let answer = answer.and_then(|at| match steps.get_mut(at) {
            Some(Step::Output { pieces, .. }) => Some(std::mem::take(pieces)),
            _ => None,
        });
        reader.read(at, steps.get_mut(at).map(std::mem::take).unwrap_or_default(), answer, notes);
    }
    let (entries, unanswered) = reader.end();
    let item = |at: &usize| id_of(items, places.get(*at).copied()?);
    history.left_out.extend(unanswered.iter().filter_map(item).map(|id| (id, WITHOUT_ANSWER)));
    history.entries = entries;
    history
}

/// The id of the item at position `at`.
fn id_of(items: &[&InputItem<'_>], at: usize) -> Option<String> {
    let (_, item) = items.get(at)?;
    present(item.as_ref()?.id).and_then(json::decode).map(Cow::into_owned)
}

impl<'a> History<'a> {
    /// The contribution of each item, and for each step the position of its item.
    fn steps(
        &mut self,
        items: &[&InputItem<'a>],
        reading: &ReadContext<'_>,
        notes: &mut Notes,
    ) -> (Vec<Step<'a>>, Vec<usize>) {
        let mut steps: Vec<Step<'a>> = Vec::with_capacity(items.len());
        let mut places: Vec<usize> = Vec::with_capacity(items.len());
        for (n, (raw, item)) in items.iter().enumerate() {
            let item = item.as_ref();
            match step(n, raw, item, reading, notes) {
                Step::UnknownRole(role, pieces) => {
                    if let Some(own) = n.checked_sub(reading.earlier) {
                        self.unknown_role.get_or_insert((own, role));
                    }
                    steps.push(Step::Prompt(Role::User, pieces));
                }
                step @ Step::Message(_) => {
                    let thoughts = thoughts(raw, item, notes);
                    steps.extend(thoughts.map(|text| Step::Reasoning(vec![Piece::Text(text)])));
                    steps.push(step);
                    steps.extend(chat_calls(raw, item, reading.table, notes));
                }
                Step::Reasoning(text) => {
                    let sealed =
                        text.is_empty() && item.is_some_and(|item| present(item.encrypted_content).is_some());
                    self.left_out.extend(id_of(items, n).filter(|_| sealed).map(|id| (id, UNREADABLE)));
                    steps.push(Step::Reasoning(text));
                }
                step => steps.push(step),
            }
            places.resize(steps.len(), n);
        }
        (steps, places)
    }
}

/// Which output answers which call.
struct Answers {
    /// For each step, the position of its output if it is a call that has one.
    of_calls: Vec<Option<usize>>,
    /// For each step, whether it is an output whose call was found.
    owned: Vec<bool>,
}

impl Answers {
    /// Pairs outputs and calls. If several outputs have one id, the first goes to the first call with it, and so on.
    fn find(steps: &[Step<'_>]) -> Answers {
        let mut outputs: HashMap<&str, VecDeque<usize>> = HashMap::new();
        for (at, step) in steps.iter().enumerate() {
            if let Step::Output { id, .. } = step {
                outputs.entry(id).or_default().push_back(at);
            }
        }
        let mut owned = vec![false; steps.len()];
        let of_calls = steps
            .iter()
            .map(|step| {
                let Step::Call { id, .. } = step else { return None };
                let at = outputs.get_mut(&**id).and_then(VecDeque::pop_front)?;
                owned.get_mut(at).map(|owned| *owned = true).map(|()| at)
            })
            .collect();
        Answers { of_calls, owned }
    }
}

/// The contribution of one item.
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
    /// An opened compaction. `replaces`: it stands for everything before it.
    Summary {
        text: Cow<'a, str>,
        replaces: bool,
    },
    /// A message with an unknown role.
    UnknownRole(String, Vec<Piece<'a>>),
    #[default]
    Skipped,
}

/// Removes what a summary replaces, except for system and developer messages at the very beginning.
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

/// Drops the `count` oldest turns and returns how many more could be dropped. A turn is a user message with everything
/// up to the next one. The last turn stays; in it, each answer with its calls and outputs counts as a turn, except for
/// the last answer. System and developer messages at the beginning stay.
pub fn drop_turns(entries: &mut Vec<Entry<'_>>, count: usize) -> usize {
    let user = |entry: &Entry<'_>| matches!(entry, Entry::Prompt(Role::User, _));
    let answer = |entry: &Entry<'_>| matches!(entry, Entry::Assistant(_));
    let first = entries.iter().position(|entry| user(entry) || answer(entry)).unwrap_or(entries.len());
    // where a turn begins: adjacent user messages belong to one turn
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

fn escaped<'a>(text: &str) -> Cow<'a, str> {
    Cow::Owned(json::escape(text).into_owned())
}
