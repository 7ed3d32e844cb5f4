//! Owns the state of one call of a chat answer: what was received of it, and whether its item is open. It must not
//! write events.

use std::borrow::Cow;

use crate::response::argument_scan::Scan;
use crate::tools::custom_input::CustomInput;
use crate::wire::chat::{Function, ToolCall};
use crate::wire::json::{self, SurrogateJoiner, minify};

/// One call of the answer.
#[derive(Debug, Default)]
pub(super) struct CallSlot {
    pub(super) index: u64,
    /// Escaped; empty until the upstream sends one.
    pub(super) id: String,
    /// Escaped; empty until the upstream sends it.
    pub(super) name: String,
    /// Escaped arguments that have not been sent yet.
    pub(super) waiting: String,
    pub(super) surrogates: SurrogateJoiner,
    pub(super) scan: Scan,
    pub(super) form: Form,
    /// Whether each piece of the arguments repeats all earlier ones.
    pub(super) cumulative: bool,
    /// Escaped text that followed complete arguments.
    pub(super) later: String,
    /// Decodes the arguments of a custom tool call into its input.
    pub(super) custom: Option<CustomInput>,
    pub(super) stage: Stage,
}

/// The stage of a call's item.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The call has no item yet.
    #[default]
    Waiting,
    /// The item is open, or the call gets none.
    Begun,
    /// The item is closed: further pieces are dropped.
    Closed,
}

impl CallSlot {
    /// Whether the call still waits for its item.
    pub(super) fn waits(&self) -> bool {
        self.stage == Stage::Waiting
    }

    /// Marks the call as begun, unless it already is.
    pub(super) fn mark_begun(&mut self) {
        if self.waits() {
            self.stage = Stage::Begun;
        }
    }
}

/// The form in which arguments arrive.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Nothing was sent yet; the text so far may stand for no arguments.
    #[default]
    Undecided,
    /// A JSON text inside a JSON string, scanned up to byte `read`.
    Encoded { read: usize, escaped: bool, closed: bool },
    /// Inside a list or a code block.
    Wrapped,
    /// A plain object.
    Plain,
    /// They were complete, and begin again.
    Repeated,
}

/// One piece of a call; all strings are escaped.
pub(super) struct CallDelta<'a> {
    pub(super) index: Option<u64>,
    pub(super) id: &'a str,
    pub(super) name: Cow<'a, str>,
    pub(super) arguments: Cow<'a, str>,
}

impl<'a> CallDelta<'a> {
    /// From an element of `tool_calls`. `position`: stands in for a missing index, in a whole completion.
    pub(super) fn from_tool_call(call: &ToolCall<'a>, position: Option<u64>) -> CallDelta<'a> {
        let index = call.index.and_then(|raw| raw.get().parse().ok()).or(position);
        let id = call.id.and_then(json::literal).unwrap_or("");
        match &call.function {
            Some(function) => CallDelta { id, ..CallDelta::from_function(index, function) },
            // some servers leave out the `function` object around name and arguments
            None => {
                let function = Function { name: call.name, arguments: call.arguments, parameters: None };
                CallDelta { id, ..CallDelta::from_function(index, &function) }
            }
        }
    }

    /// From a `function` or a `function_call`. Arguments that are not a string are taken as JSON text.
    pub(super) fn from_function(index: Option<u64>, function: &Function<'a>) -> CallDelta<'a> {
        let arguments = match function.arguments.or(function.parameters) {
            None => Cow::Borrowed(""),
            Some(raw) => match json::literal(raw) {
                Some(text) => Cow::Borrowed(text),
                None => Cow::Owned(json::escape(&minify(raw.get())).into_owned()),
            },
        };
        CallDelta { index, id: "", name: function.name.and_then(json::text).unwrap_or_default(), arguments }
    }
}
