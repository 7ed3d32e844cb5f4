//! Owns the combination of steps into entries of a conversation: what forms one assistant message, and which id a call
//! gets. It must not read items.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::notes::Notes;
use crate::request::content::Piece;
use crate::request::history::{Assistant, Call, Entry, Role, Step};

/// An id of more than this many bytes is replaced if it repeats.
const LONG_ID: usize = 1024;

/// Reads steps one by one, in the order in which the model gets them.
#[derive(Default)]
pub(super) struct Reader<'a> {
    entries: Vec<Entry<'a>>,
    /// The assistant message that following steps may extend.
    open: Option<Assistant<'a>>,
    /// Positions of the reasoning steps in `open`.
    open_reasoning: Vec<usize>,
    /// Positions of reasoning steps without a message or call.
    unanswered: Vec<usize>,
    /// Ids in use, each with the last number appended to it.
    ids: HashMap<Cow<'a, str>, usize>,
    calls: usize,
}

impl<'a> Reader<'a> {
    /// Reads the next step, at position `at`. `answer`: the output, if the step is a call that has one.
    pub(super) fn read(
        &mut self,
        at: usize,
        step: Step<'a>,
        answer: Option<Vec<Piece<'a>>>,
        notes: &mut Notes,
    ) {
        match step {
            Step::Prompt(role, pieces) => self.prompt(role, pieces),
            Step::Message(text) => self.assistant().append_text(text),
            Step::Reasoning(text) => {
                if !text.is_empty() {
                    self.open_reasoning.push(at);
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
                let heading = Piece::Text(Cow::Owned(format!("[Output of tool call {id}]")));
                self.prompt(Role::User, std::iter::once(heading).chain(pieces).collect());
            }
            Step::Summary { text, .. } => self.prompt(Role::User, vec![Piece::Text(text)]),
            Step::UnknownRole(..) | Step::Skipped => {}
        }
    }

    /// The conversation, and the positions of reasoning that led to neither a message nor a call.
    pub(super) fn end(mut self) -> (Vec<Entry<'a>>, Vec<usize>) {
        self.close();
        self.entries.retain(|entry| match entry {
            Entry::Prompt(_, pieces) => !pieces.is_empty(),
            // chat templates have no place for reasoning alone
            Entry::Assistant(assistant) => assistant.has_content(),
        });
        (self.entries, self.unanswered)
    }

    fn prompt(&mut self, role: Role, pieces: Vec<Piece<'a>>) {
        self.close();
        self.entries.push(Entry::Prompt(role, pieces));
    }

    /// Ends the open assistant message, if there is one.
    pub(super) fn close(&mut self) {
        if let Some(open) = self.open.take() {
            if !open.has_content() {
                self.unanswered.append(&mut self.open_reasoning);
            }
            self.open_reasoning.clear();
            self.entries.push(Entry::Assistant(open));
        }
    }

    fn assistant(&mut self) -> &mut Assistant<'a> {
        self.open.get_or_insert_default()
    }

    /// The call id for the upstream: the client's, made unique if it repeats or is empty. It depends only on what
    /// precedes it, so the beginning of the prompt stays the same when the history grows.
    fn unique(&mut self, id: Cow<'a, str>, notes: &mut Notes) -> Cow<'a, str> {
        self.calls += 1;
        let wanted = if id.is_empty() { Cow::Owned(format!("call_{}", self.calls)) } else { id };
        let Some(again) = self.ids.get(&*wanted).copied() else {
            self.ids.insert(wanted.clone(), 1);
            return wanted;
        };
        notes.add("duplicate_call_id", &wanted);
        // a long id is not copied for each call that has it
        let wanted = if wanted.len() > LONG_ID { Cow::Owned(format!("call_{}", self.calls)) } else { wanted };
        let mut n = again + 1;
        // continue after the last number used, so that many equal ids take linear time
        while self.ids.contains_key(&*format!("{wanted}_{n}")) {
            n += 1;
        }
        let unique: Cow<'a, str> = Cow::Owned(format!("{wanted}_{n}"));
        self.ids.insert(unique.clone(), 1);
        self.ids.insert(wanted, n);
        unique
    }
}
