//! Owns the parsing of a chat chunk: its choice, the delta, its usage. It must not decide which item a delta goes to.

use crate::error::Error;
use crate::error::Kind as ErrorKind;
use crate::fields::present;
use crate::quirk::Quirk;
use crate::response::channel::Channel;
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::bounds::MOST_ITEMS;
use crate::response::transcoder::call_slot::CallDelta;
use crate::response::transcoder::finish::Finish;
use crate::response::upstream_error;
use crate::response::usage::Usage;
use crate::wire::chat::{Choice, Chunk, Delta, usage_elsewhere};
use crate::wire::json;
use crate::wire::trusted_json::first_elements;

impl Transcoder {
    /// Processes the payload of one upstream event: a chunk, a native event, `[DONE]`, or an error.
    pub(super) fn parse(&mut self, data: &str, now: u64, out: &mut Vec<u8>) {
        if self.plan.native.is_some() {
            return self.native_event(data, now, out);
        }
        if data.eq_ignore_ascii_case("[DONE]") {
            return self.done(now, out);
        }
        if data.starts_with('[')
            && let Some((chunks, _)) = first_elements(data, MOST_ITEMS)
        {
            // Gemini sends errors in a list
            for chunk in chunks {
                self.chunk(chunk.get(), now, out);
            }
            return;
        }
        // serde would also read an array, by position
        let chunk = match data.starts_with('{').then(|| serde_json::from_str::<Chunk<'_>>(data)) {
            Some(Ok(chunk)) => chunk,
            other => return self.reject_chunk(other.and_then(Result::err), out),
        };
        if let Some(error) = error_in(&chunk, data) {
            return self.fail(error, out);
        }
        self.take_usage(&chunk, data);
        let last = chunk.choices.is_none() && chunk.usage.is_some();
        self.repeat_path.learn(data, &chunk, self.plan.logprobs);
        if let Some(choice) = &chunk.choices {
            self.choice(choice, out);
        }
        if self.answer_end.finish().is_some() {
            self.annotate_sources(data, out);
        }
        if last && self.answer_end.finish().is_some() {
            self.complete(now, out);
        }
    }

    fn reject_chunk(&mut self, why: Option<serde_json::Error>, out: &mut Vec<u8>) {
        if matches!(self.answer_end.finish(), Some(Finish::Stop | Finish::Cut(_))) {
            // the answer is complete without this
            self.dropped += 1;
            return;
        }
        let message = "The upstream server sent an event that is not a chat completion chunk.";
        let why = why.map_or("no object".to_owned(), |error| error.to_string());
        self.fail(Error::new(ErrorKind::BadGateway, message).quoting(why), out);
    }

    fn take_usage(&mut self, chunk: &Chunk<'_>, data: &str) {
        let ends = chunk.choices.as_ref().is_none_or(|choice| choice.finish_reason.is_some());
        let usage = match chunk.usage {
            // some servers put it elsewhere in the last chunk of a choice, or in a chunk after that
            None if self.answer_end.finish().is_some() || ends => usage_elsewhere(data),
            usage => usage,
        };
        self.token_counts.take_usage(usage.and_then(Usage::from_chat));
        self.token_counts.take_timings(chunk.timings);
    }

    /// Processes a choice: its log probabilities, its delta or message, its `finish_reason`, its error.
    pub(super) fn choice(&mut self, choice: &Choice<'_>, out: &mut Vec<u8>) {
        if self.plan.logprobs
            && let Some(raw) = choice.logprobs
        {
            self.take_logprobs(raw);
        }
        if let Some(delta) = choice.delta.as_ref().or(choice.message.as_ref())
            && !self.plan.warm_up
        {
            // a completion has a message in place of a delta, and it is the whole answer
            if choice.delta.is_none() {
                self.answer_end.set_whole();
            }
            self.delta(delta, choice.delta.is_none(), out);
        }
        self.logprobs.clear();
        if let Some(reason) = choice
            .finish_reason
            .and_then(json::decode)
            .filter(|reason| !reason.is_empty() && reason != "null")
        {
            self.answer_end.set(Finish::parse(&reason));
        }
        if let Some(error) = present(choice.error) {
            self.fail(upstream_error::from_stream(error.get()), out);
        }
    }

    /// Processes a delta. `whole`: it is the message of a whole completion, whose calls are numbered by position.
    pub(super) fn delta(&mut self, delta: &Delta<'_>, whole: bool, out: &mut Vec<u8>) {
        self.take_reasoning(delta, out);
        if let Some(content) = delta.content {
            self.take_value(Channel::Text, content, out);
        }
        if let Some(refusal) = delta.refusal {
            self.take_value(Channel::Refusal, refusal, out);
        }
        if let Some(annotations) = delta.annotations {
            self.annotate(annotations, out);
        }
        if let Some(function) = &delta.function_call {
            self.call_delta(&CallDelta::from_function(Some(0), function), out);
        }
        if delta.tool_calls.malformed {
            if !self.plan.tools.quirk(Quirk::CallList) {
                let message = "The upstream server sent tool_calls that are not a list of calls.";
                return self.fail(Error::new(ErrorKind::BadGateway, message), out);
            }
            self.repaired.count(Quirk::CallList);
        }
        for (position, call) in delta.tool_calls.list.iter().enumerate() {
            self.call_delta(&CallDelta::from_tool_call(call, whole.then_some(position as u64)), out);
        }
    }
}

/// The error that a server sent instead of a chunk.
fn error_in(chunk: &Chunk<'_>, data: &str) -> Option<Error> {
    let named = chunk.error.is_some_and(|error| error.get() != "null");
    if named || chunk.object.is_some_and(|object| object.get() == "\"error\"") {
        return Some(upstream_error::from_stream(data));
    }
    let empty = chunk.choices.is_none() && chunk.usage.is_none() && chunk.timings.is_none();
    if empty { upstream_error::from_bare_object(data) } else { None }
}
