//! Owns the text of an answer that has a `text.format` to fit of which the upstream was not told, since beside tools it
//! would have written that format alone: the text is held until the answer is over. It must not ask anybody.

use std::sync::Arc;

use crate::json_schema::Format;
use crate::response::channel::Channel;
use crate::response::open_item::{Ending, append_logprobs};
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::finish::AnswerEnd;
use crate::response::usage::Usage;
use crate::wire::json;

/// The text so far, and what becomes of it.
#[derive(Debug)]
pub(super) struct HeldText {
    format: Arc<Format>,
    /// Escaped.
    text: String,
    logprobs: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The answer goes on.
    Holding,
    /// It is over and does not fit; nobody has asked for another yet.
    Unfit,
    /// The upstream was asked for the format alone: its text is passed on as it comes. The first answer cost that much.
    Asked(Option<Usage>),
}

impl HeldText {
    /// Bytes of it.
    pub fn length(&self) -> usize {
        self.text.len() + self.logprobs.len()
    }

    pub(super) fn boxed(format: Arc<Format>) -> Box<HeldText> {
        let (text, logprobs) = (String::new(), String::new());
        Box::new(HeldText { format, text, logprobs, state: State::Holding })
    }

    /// What the answer that did not fit has cost.
    pub(super) fn first_usage(&self) -> Option<Usage> {
        match self.state {
            State::Asked(first) => first,
            State::Holding | State::Unfit => None,
        }
    }
}

impl Transcoder {
    /// The text of an answer that is over and does not fit its format. The caller asks the upstream for that format
    /// alone ([`PlanOptions::unfit`](crate::options::PlanOptions::unfit)), and what comes back is fed to this
    /// transcoder as if the first answer went on.
    pub fn take_unfit(&mut self) -> Option<String> {
        let held = self.held.as_deref_mut().filter(|held| matches!(held.state, State::Unfit))?;
        held.state = State::Asked(self.token_counts.take());
        let text = std::mem::take(&mut held.text);
        self.answer_end = AnswerEnd::default();
        self.again = Default::default();
        self.think = self.think.anew();
        self.native = self.native.of_next_answer();
        Some(json::unescape(&text).unwrap_or_default())
    }

    /// Whether the answer is over and its text does not fit: [`Transcoder::take_unfit`] has it.
    pub fn is_unfit(&self) -> bool {
        self.held.as_deref().is_some_and(|held| matches!(held.state, State::Unfit))
    }

    pub(super) fn holds_text(&self) -> bool {
        self.held.as_deref().is_some_and(|held| matches!(held.state, State::Holding))
    }

    /// Whether any text waits.
    pub(super) fn has_held_text(&self) -> bool {
        self.held.as_deref().is_some_and(|held| !held.text.is_empty())
    }

    /// Takes a piece of text, escaped.
    pub(super) fn hold_text(&mut self, piece: &str) {
        let Some(held) = self.held.as_deref_mut() else { return };
        held.text.push_str(&self.texts.of(Channel::Text).surrogates.join(piece));
        append_logprobs(&mut held.logprobs, &self.logprobs);
    }

    /// A call follows: the text before it is no final answer. It is shown as reasoning, which no client parses.
    pub(super) fn hold_no_longer(&mut self, out: &mut Vec<u8>) {
        if let Some(held) = self.held.as_deref_mut().filter(|held| !held.text.is_empty()) {
            let text = std::mem::take(&mut held.text);
            held.logprobs.clear();
            self.take_text(Channel::Reasoning, &text, out);
        }
    }

    /// The answer is over: its text goes out where it fits. False: it does not, and another is wanted.
    pub(super) fn release_held(&mut self, ending: Ending, out: &mut Vec<u8>) -> bool {
        if !self.holds_text() {
            return true;
        }
        let cut = ending == Ending::Incomplete;
        let rest = self.texts.of(Channel::Text).surrogates.flush();
        let Some(held) = self.held.as_deref_mut() else { return true };
        held.text.push_str(rest);
        let text = json::unescape(&held.text).unwrap_or_default();
        let fitting = held.format.fitting(&text);
        if !self.calls.is_empty() || (cut && fitting.is_none() && !text.trim_start().starts_with(['{', '[']))
        {
            self.hold_no_longer(out);
        } else if let Some(fitting) = fitting.or(cut.then_some(text.as_str())) {
            // where something was cut off around it, the log probabilities are of another text
            if fitting == text {
                self.logprobs = std::mem::take(&mut held.logprobs);
            }
            held.state = State::Asked(None);
            self.take_text(Channel::Text, &json::escape(fitting), out);
        } else {
            held.state = State::Unfit;
            self.close(Ending::Completed, out);
            return false;
        }
        if let Some(held) = self.held.as_deref_mut() {
            held.state = State::Asked(None);
        }
        true
    }
}
