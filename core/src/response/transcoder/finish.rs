//! Owns what counts as the end of an answer: the values of `finish_reason`, and the other ways in which a server ends.
//! It must not bring anything into the output.

use crate::error::Error;
use crate::error::Kind as ErrorKind;
use crate::response::argument_scan::Scan;
use crate::response::open_item::{Ending, OpenKind};
use crate::response::transcoder::Transcoder;

/// What the upstream said about the end of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finish {
    /// The model stopped or called a tool.
    Stop,
    /// The answer was cut; the reason as in `incomplete_details`.
    Cut(&'static str),
    /// The server gave up; holds its `finish_reason`.
    Failed(String),
    /// An unknown value: the end, provided that the server confirms it in another way.
    Unfamiliar(String),
}

impl Finish {
    /// Parses a `finish_reason`. The values are OpenAI's, then those of servers that kept another API's: Anthropic,
    /// Gemini, Cohere, Text Generation Inference, Mistral, DeepSeek, GLM.
    pub fn parse(reason: &str) -> Finish {
        // Python formats an enum member as `FinishReason.STOP`
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

/// What is known about the end of an answer.
#[derive(Debug, Default)]
pub(super) struct AnswerEnd {
    finish: Option<Finish>,
    /// Whether the upstream ended its answer in another way than by a `finish_reason`, such as `[DONE]`.
    whole: bool,
}

impl AnswerEnd {
    /// Records the upstream's `finish_reason`.
    pub(super) fn set(&mut self, finish: Finish) {
        self.finish = Some(finish);
    }

    /// Records that the answer is complete, without a `finish_reason`.
    pub(super) fn set_whole(&mut self) {
        self.whole = true;
    }

    /// The upstream's `finish_reason`, if it sent one.
    pub(super) fn finish(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }
}

impl Finish {
    /// The status of the last item of such an answer.
    pub fn ending(&self) -> Ending {
        match self {
            Finish::Cut(_) => Ending::Incomplete,
            Finish::Stop | Finish::Failed(_) | Finish::Unfamiliar(_) => Ending::Completed,
        }
    }
}

impl Transcoder {
    /// Processes `[DONE]`: completes the response, or fails it if the answer is not complete.
    pub(super) fn done(&mut self, now: u64, out: &mut Vec<u8>) {
        self.answer_end.set_whole();
        if self.is_whole() {
            return self.complete(now, out);
        }
        let error = self.unfinished();
        self.fail(error, out);
    }

    /// Whether the answer is complete, as far as the chunks received tell.
    pub(super) fn is_whole(&mut self) -> bool {
        match &self.answer_end.finish {
            Some(Finish::Unfamiliar(_)) => self.answer_end.whole || self.usage().is_some(),
            Some(_) => true,
            None => self.answer_end.whole && self.has_text_or_call() && self.calls_are_whole(),
        }
    }

    /// Whether there is text or a call. Reasoning alone is no answer yet.
    fn has_text_or_call(&self) -> bool {
        let message = self.open.as_ref().is_some_and(|open| matches!(open.kind, OpenKind::Message));
        message
            || self.has_held_text()
            || !self.calls.is_empty()
            || !self.items.output_text().is_empty()
            || !self.summary.is_empty()
    }

    fn calls_are_whole(&mut self) -> bool {
        if self.open_slot().is_some() && self.has_incomplete_call() {
            return false;
        }
        self.calls.iter().all(|slot| !slot.waits() || Scan::default().complete(&slot.waiting))
    }

    /// The error for an answer that ended before it was complete.
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
