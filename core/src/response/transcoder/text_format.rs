//! Owns the text of an answer that must fit a `text.format` which the upstream was not sent: beside tools it would
//! write only that format. The text is held until the answer ends. It must not ask the upstream.

use std::sync::Arc;

use crate::json_schema::Format;
use crate::response::channel::Channel;
use crate::response::open_item::{Ending, append_logprobs};
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::finish::AnswerEnd;
use crate::response::usage::Usage;
use crate::wire::json;

/// The text so far, and its state.
#[derive(Debug)]
pub(super) struct UncheckedText {
    format: Arc<Format>,
    /// The held text, escaped.
    text: String,
    logprobs: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The answer is not over.
    Holding,
    /// The answer is over and does not fit; the caller has not asked for another one yet.
    Unfit,
    /// The upstream was asked again, with the format alone, so text is passed on as it arrives. Holds the token counts
    /// of the first answer.
    Asked(Option<Usage>),
}

impl UncheckedText {
    /// Bytes held.
    pub fn length(&self) -> usize {
        self.text.len() + self.logprobs.len()
    }

    /// Starts to hold text for this format. Boxed, because few answers need it.
    pub(super) fn boxed(format: Arc<Format>) -> Box<UncheckedText> {
        let (text, logprobs) = (String::new(), String::new());
        Box::new(UncheckedText { format, text, logprobs, state: State::Holding })
    }

    /// Token counts of the first answer, if it did not fit.
    pub(super) fn first_usage(&self) -> Option<Usage> {
        match self.state {
            State::Asked(first) => first,
            State::Holding | State::Unfit => None,
        }
    }
}

impl Transcoder {
    /// Takes the text of an answer that is over and does not fit its format. The caller then asks the upstream for
    /// that format alone ([`PlanOptions::unfit`](crate::options::PlanOptions::unfit)) and feeds the result to this
    /// transcoder as if the first answer continued. `None` if the text fits, or was taken before.
    pub fn take_unfit(&mut self) -> Option<String> {
        let held = self.held.as_deref_mut().filter(|held| matches!(held.state, State::Unfit))?;
        held.state = State::Asked(self.token_counts.take());
        let text = std::mem::take(&mut held.text);
        self.answer_end = AnswerEnd::default();
        self.repeat_path = Default::default();
        self.think = self.think.restarted();
        self.native = self.native.for_next_answer();
        Some(json::unescape(&text).unwrap_or_default())
    }

    /// Whether the answer is over and its text does not fit: call [`Transcoder::take_unfit`].
    pub fn is_unfit(&self) -> bool {
        self.held.as_deref().is_some_and(|held| matches!(held.state, State::Unfit))
    }

    /// Whether text is being held at the moment.
    pub(super) fn holds_text(&self) -> bool {
        self.held.as_deref().is_some_and(|held| matches!(held.state, State::Holding))
    }

    /// Whether any text is held.
    pub(super) fn has_held_text(&self) -> bool {
        self.held.as_deref().is_some_and(|held| !held.text.is_empty())
    }

    /// Holds an escaped piece of text.
    pub(super) fn hold_text(&mut self, piece: &str) {
        let Some(held) = self.held.as_deref_mut() else { return };
        held.text.push_str(&self.texts.channel(Channel::Text).surrogates.join(piece));
        append_logprobs(&mut held.logprobs, &self.logprobs);
    }

    /// Releases held text that precedes a call and so is not the final answer. It is shown as reasoning, which clients
    /// do not parse.
    pub(super) fn release_as_reasoning(&mut self, out: &mut Vec<u8>) {
        if let Some(held) = self.held.as_deref_mut().filter(|held| !held.text.is_empty()) {
            let text = std::mem::take(&mut held.text);
            held.logprobs.clear();
            self.take_text(Channel::Reasoning, &text, out);
        }
    }

    /// Releases the held text at the end of the answer if it fits. Returns false if it does not and another is needed.
    pub(super) fn release_held(&mut self, ending: Ending, out: &mut Vec<u8>) -> bool {
        if !self.holds_text() {
            return true;
        }
        let cut = ending == Ending::Incomplete;
        let rest = self.texts.channel(Channel::Text).surrogates.flush();
        let Some(held) = self.held.as_deref_mut() else { return true };
        held.text.push_str(rest);
        let text = json::unescape(&held.text).unwrap_or_default();
        let fitting = held.format.fitting(&text);
        if !self.calls.is_empty() || (cut && fitting.is_none() && !text.trim_start().starts_with(['{', '[']))
        {
            self.release_as_reasoning(out);
        } else if let Some(fitting) = fitting.or(cut.then_some(text.as_str())) {
            // if the text was trimmed to fit, the log probabilities no longer match it
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
