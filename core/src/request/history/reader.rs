//! Owns the way from steps to the entries of a conversation: what forms one assistant message, and which id a call gets.
//! It must not read items.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::notes::Notes;
use crate::request::content::Piece;
use crate::request::history::{Assistant, Call, Entry, Role, Step};

/// Bytes from which on an id is long: none that repeats.
const LONG_ID: usize = 1024;

/// Reads steps one after another, in the order in which the model is to be told of them.
#[derive(Default)]
pub(super) struct Reader<'a> {
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
    /// Reads the next step, which stands at that place. `answer`: the output of a call, where it has one.
    pub(super) fn read(
        &mut self,
        at: usize,
        step: Step<'a>,
        answer: Option<Vec<Piece<'a>>>,
        notes: &mut Notes,
    ) {
        match step {
            Step::Prompt(role, pieces) => self.prompt(role, pieces),
            Step::Message(text) => self.assistant().say(text),
            Step::Reasoning(text) => {
                if !text.is_empty() {
                    self.reasoned.push(at);
                }
                self.assistant().reasoning.extend(text);
            }
            Step::Call { id, name, arguments } => {
                if answer.is_none() {
                    notes.add("missing_output", &id);
                }
                let id = self.unique(id, notes);
                self.assistant().calls.push(Call { id, name, arguments, output: answer });
            }
            Step::Output { id, pieces } => {
                notes.add("orphan_output", &id);
                let told = Piece::Text(Cow::Owned(format!("[Output of tool call {id}]")));
                self.prompt(Role::User, std::iter::once(told).chain(pieces).collect());
            }
            Step::Summary { text, .. } => self.prompt(Role::User, vec![Piece::Text(text)]),
            Step::Stranger(..) | Step::Skipped => {}
        }
    }

    /// The conversation, and the places of reasoning that led to nothing.
    pub(super) fn end(mut self) -> (Vec<Entry<'a>>, Vec<usize>) {
        self.close();
        self.entries.retain(|entry| match entry {
            Entry::Prompt(_, pieces) => !pieces.is_empty(),
            // a template has no place for reasoning that led to nothing
            Entry::Assistant(assistant) => assistant.says_anything(),
        });
        (self.entries, self.unheard)
    }

    fn prompt(&mut self, role: Role, pieces: Vec<Piece<'a>>) {
        self.close();
        self.entries.push(Entry::Prompt(role, pieces));
    }

    /// Ends the assistant message that may still grow.
    pub(super) fn close(&mut self) {
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
