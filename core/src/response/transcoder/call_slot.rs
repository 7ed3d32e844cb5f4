//! Owns one call of a chat answer: what came of it, and how far it is.

use std::borrow::Cow;

use crate::response::argument_scan::Scan;
use crate::tools::custom_input::CustomInput;
use crate::wire::chat::{Function, ToolCall};
use crate::wire::json::{self, SurrogateJoiner, compact};

/// One call of the answer.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) index: u64,
    /// Escaped; empty until the upstream names one.
    pub(super) id: String,
    /// Escaped; empty until the upstream says.
    pub(super) name: String,
    /// Escaped arguments that have not been sent.
    pub(super) waiting: String,
    pub(super) surrogates: SurrogateJoiner,
    pub(super) scan: Scan,
    pub(super) form: Form,
    /// Whether each piece of the arguments repeats all before it.
    pub(super) cumulative: bool,
    /// What came behind whole arguments, escaped.
    pub(super) second: String,
    /// Decodes the arguments of a freeform tool.
    pub(super) custom: Option<CustomInput>,
    pub(super) stage: Stage,
}

/// How far a call is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has no item yet.
    #[default]
    Waiting,
    /// Its item is open, or it gets none.
    Begun,
    /// Its item is closed: nothing more is taken.
    Closed,
}

impl Slot {
    /// Whether it still waits for an item.
    pub(super) fn waits(&self) -> bool {
        self.stage == Stage::Waiting
    }

    /// It waits for nothing any more.
    pub(super) fn begin(&mut self) {
        if self.waits() {
            self.stage = Stage::Begun;
        }
    }
}

/// In which form arguments come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Nothing was sent, and what came may mean nothing.
    #[default]
    Undecided,
    /// A JSON text within a JSON string, read up to there.
    Encoded { read: usize, escaped: bool, closed: bool },
    /// In a list or in a block of code.
    Wrapped,
    /// As they should.
    Plain,
    /// They were whole, and begin once more.
    Again,
}

/// A piece of a call, its values still escaped.
pub(super) struct Piece<'a> {
    pub(super) index: Option<u64>,
    pub(super) id: &'a str,
    pub(super) name: Cow<'a, str>,
    pub(super) arguments: Cow<'a, str>,
}

impl<'a> Piece<'a> {
    pub(super) fn of(call: &ToolCall<'a>, position: Option<u64>) -> Piece<'a> {
        let index = call.index.and_then(|raw| raw.get().parse().ok()).or(position);
        let id = call.id.and_then(json::literal).unwrap_or("");
        match &call.function {
            Some(function) => Piece { id, ..Piece::of_function(index, function) },
            // some have no function around them
            None => {
                let function = Function { name: call.name, arguments: call.arguments, parameters: None };
                Piece { id, ..Piece::of_function(index, &function) }
            }
        }
    }

    pub(super) fn of_function(index: Option<u64>, function: &Function<'a>) -> Piece<'a> {
        let arguments = match function.arguments.or(function.parameters) {
            None => Cow::Borrowed(""),
            Some(raw) => match json::literal(raw) {
                Some(text) => Cow::Borrowed(text),
                None => Cow::Owned(json::escape(&compact(raw.get())).into_owned()),
            },
        };
        Piece { index, id: "", name: function.name.and_then(json::text).unwrap_or_default(), arguments }
    }
}
