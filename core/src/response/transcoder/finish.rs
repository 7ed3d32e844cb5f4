//! Owns the end of an answer: what the words of `finish_reason` mean, and what else is an end. It must not bring
//! anything into the output.

use crate::error::Error;
use crate::error::Kind as ErrorKind;
use crate::response::argument_scan::Scan;
use crate::response::open_item::{Ending, Kind};
use crate::response::transcoder::Transcoder;

/// What the upstream said about the end of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finish {
    /// The model was done, or calls.
    Stop,
    /// Something cut it; the reason as `incomplete_details` has it.
    Cut(&'static str),
    /// The server gave up.
    Failed(String),
    /// A word that nobody told us: the end, if the server says in another way too that this was all.
    Unfamiliar(String),
}

impl Finish {
    /// Reads a `finish_reason`. The words are those of OpenAI, then of the servers that kept the ones of another
    /// API: Anthropic, Gemini, Cohere, Text Generation Inference, Mistral, DeepSeek, GLM.
    pub fn of(reason: &str) -> Finish {
        // Python writes an enumeration's value as `FinishReason.STOP`
        let word = reason.rsplit('.').next().unwrap_or(reason).trim();
        let word = word.to_ascii_lowercase().replace(['-', ' '], "_");
        match word.strip_prefix("finish_reason_").unwrap_or(&word) {
            "stop" | "tool_calls" | "function_call" => Finish::Stop,
            "eos" | "eos_token" | "end_of_sequence" | "end_of_turn" | "end_turn" | "end"
            | "stop_sequence" | "stop_token" | "stop_word" | "complete" | "completed" | "finish"
            | "finished" | "done" | "success" | "normal" | "tool_call" | "tool_use" | "function_calls"
            | "tool_execution" | "other" | "unknown" | "unspecified" => Finish::Stop,
            "length"
            | "max_tokens"
            | "max_token"
            | "max_length"
            | "max_new_tokens"
            | "max_output_tokens"
            | "max_completion_tokens"
            | "model_length"
            | "token_limit"
            | "context_length"
            | "context_length_exceeded"
            | "model_context_window_exceeded" => Finish::Cut("max_output_tokens"),
            "content_filter"
            | "content_filtered"
            | "safety"
            | "image_safety"
            | "recitation"
            | "blocklist"
            | "prohibited_content"
            | "spii"
            | "sensitive"
            | "refusal"
            | "error_toxic"
            | "moderation"
            | "guardrail_intervened" => Finish::Cut("content_filter"),
            "abort"
            | "aborted"
            | "error"
            | "failed"
            | "failure"
            | "cancelled"
            | "canceled"
            | "cancel"
            | "timeout"
            | "network_error"
            | "insufficient_system_resource"
            | "malformed_function_call"
            | "user_cancel" => Finish::Failed(reason.to_owned()),
            word if word.ends_with("_error") || word.ends_with("_failed") => {
                Finish::Failed(reason.to_owned())
            }
            _ => Finish::Unfamiliar(reason.to_owned()),
        }
    }
}

/// What is known of the end of an answer.
#[derive(Debug, Default)]
pub(super) struct AnswerEnd {
    finish: Option<Finish>,
    /// Whether the upstream said that its answer is whole, in another way than by a `finish_reason`.
    whole: bool,
}

impl AnswerEnd {
    /// The upstream said this about the end.
    pub(super) fn set(&mut self, finish: Finish) {
        self.finish = Some(finish);
    }

    /// The upstream said in another way that its answer is whole.
    pub(super) fn set_whole(&mut self) {
        self.whole = true;
    }

    /// What the upstream said about the end, if it did.
    pub(super) fn finish(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }
}

impl Finish {
    /// How the last item of an answer with this end ends.
    pub fn ending(&self) -> Ending {
        match self {
            Finish::Cut(_) => Ending::Incomplete,
            Finish::Stop | Finish::Failed(_) | Finish::Unfamiliar(_) => Ending::Completed,
        }
    }
}

impl Transcoder {
    /// Takes `[DONE]`: the server says that this was all.
    pub(super) fn done(&mut self, now: u64, out: &mut Vec<u8>) {
        self.answer_end.set_whole();
        if self.is_whole() {
            return self.complete(now, out);
        }
        let error = self.unfinished();
        self.fail(error, out);
    }

    /// Whether the answer is whole, as far as can be told from what came.
    pub(super) fn is_whole(&mut self) -> bool {
        match &self.answer_end.finish {
            Some(Finish::Unfamiliar(_)) => self.answer_end.whole || self.usage().is_some(),
            Some(_) => true,
            None => self.answer_end.whole && self.says_something() && self.calls_are_whole(),
        }
    }

    /// Whether there is text, or a call; reasoning alone is a beginning.
    fn says_something(&self) -> bool {
        let message = self.open.as_ref().is_some_and(|open| matches!(open.kind, Kind::Message));
        message
            || self.has_held_text()
            || !self.calls.is_empty()
            || !self.items.output_text().is_empty()
            || !self.summary.is_empty()
    }

    fn calls_are_whole(&mut self) -> bool {
        if self.open_slot().is_some() && self.call_in_the_way() {
            return false;
        }
        self.calls.iter().all(|slot| !slot.waits() || Scan::default().complete(&slot.waiting))
    }

    /// What it means that the answer came to no end.
    pub(super) fn unfinished(&self) -> Error {
        let message = match &self.answer_end.finish {
            Some(Finish::Unfamiliar(reason)) => format!(
                "The upstream server ended its answer with finish_reason '{reason}' and nothing that says it is complete."
            ),
            _ if self.answer_end.whole => {
                "The upstream server ended its answer without a finish_reason.".to_owned()
            }
            _ => "The upstream server closed the connection before its answer was complete.".to_owned(),
        };
        Error::new(ErrorKind::BadGateway, message)
    }
}
