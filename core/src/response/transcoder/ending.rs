//! Owns the end of a response: it closes what is open and writes the terminal event. It must not decide whether the
//! answer is complete: `finish` does.

use crate::compaction::Summary;
use crate::error::Error;
use crate::error::Kind as ErrorKind;
use crate::ids;
use crate::options::Compact;
use crate::response::channel::{Channel, OUTPUT_TEXT};
use crate::response::events;
use crate::response::object::{Snapshot, Status};
use crate::response::open_item::{Ending, OpenKind};
use crate::response::transcoder::call_slot::Stage;
use crate::response::transcoder::finish::Finish;
use crate::response::transcoder::text::HeldChannel;
use crate::response::transcoder::{NOTHING, Terminal, Transcoder};
use crate::sealing::Purpose;
use crate::wire::json;

impl Transcoder {
    /// Makes the summary the only item of the answer. A summary cut at the token limit is used as it is.
    pub(super) fn complete_summary(&mut self, now: u64, out: &mut Vec<u8>) {
        let text = json::unescape(&self.summary).unwrap_or_default();
        let seal = self.plan.seal.as_ref().filter(|_| !text.trim().is_empty());
        let replaces = self.plan.compacts == Some(Compact::Replacing);
        let summary = Summary { text: text.trim().to_owned(), replaces };
        match seal.and_then(|seal| seal.seal(Purpose::Compaction, &summary.to_json())) {
            Some(blob) => {
                self.compacted(&blob, out);
                self.terminate("response.completed", Status::Completed(now), Terminal::Completed(now), out);
            }
            None => {
                let message = "The model wrote no summary of the conversation.";
                self.fail(Error::new(ErrorKind::UpstreamFailed, message), out);
            }
        }
    }

    /// Ends an answer that is complete: as completed, incomplete or failed, by its `finish_reason`. If the text does
    /// not fit its format, the response does not end ([`Transcoder::take_unfit`]). `now`: Unix time in seconds.
    pub(super) fn complete(&mut self, now: u64, out: &mut Vec<u8>) {
        if self.is_unfit() {
            return;
        }
        if self.plan.warm_up {
            return self.terminate(
                "response.completed",
                Status::Completed(now),
                Terminal::Completed(now),
                out,
            );
        }
        self.end_think(out);
        if self.open.is_none() && self.items.has_no_answer() {
            let rest = self.texts.channel(Channel::Text).surrogates.flush();
            self.emit_text(Channel::Text, rest, out);
        }
        let finish = self.answer_end.finish().cloned().unwrap_or(Finish::Stop);
        if let Finish::Failed(reason) = &finish {
            let message = format!("The upstream server ended its answer with finish_reason '{reason}'.");
            return self.fail(Error::new(ErrorKind::UpstreamFailed, message), out);
        }
        if self.plan.compacts.is_some() {
            return self.complete_summary(now, out);
        }
        let ending = finish.ending();
        if ending == Ending::Completed {
            self.send_assumed_as_text(out);
        }
        if !self.release_held(ending, out) {
            return;
        }
        self.flush(ending, out);
        match finish {
            Finish::Cut(reason) => {
                let (status, terminal) = (Status::Incomplete(reason), Terminal::Incomplete(reason));
                self.terminate("response.incomplete", status, terminal, out);
            }
            _ => self.terminate("response.completed", Status::Completed(now), Terminal::Completed(now), out),
        }
    }

    /// Brings everything that waits into the output. Only the last item may be incomplete: what waits for a call that
    /// was cut is dropped, because it belongs to text that was cut as well.
    pub(super) fn flush(&mut self, ending: Ending, out: &mut Vec<u8>) {
        loop {
            if ending == Ending::Incomplete && self.has_incomplete_call() && self.anything_waits() {
                // `close` sends the remaining arguments of the open call
                self.dropped += self.calls.iter().filter(|slot| slot.waits()).count() as u64;
                self.texts.late.take();
                break;
            }
            let next = self.calls.iter().position(|slot| slot.waits());
            let late = !self.texts.late.is_empty();
            if next.is_none() && !late {
                break;
            }
            self.close(Ending::Completed, out);
            self.emit_late_text(out);
            let Some(next) = next else { continue };
            if self.calls.get(next).is_some_and(|slot| slot.name.is_empty()) {
                // a client cannot execute a call without a name
                self.dropped += 1;
                if let Some(slot) = self.calls.get_mut(next) {
                    slot.stage = Stage::Closed;
                }
                continue;
            }
            self.open_call(next, out);
            self.drain_open_call(out);
        }
        self.close(ending, out);
        let HeldChannel { blank, blank_logprobs, .. } = std::mem::take(self.texts.channel(Channel::Text));
        if self.items.has_no_answer() {
            // an empty or blank answer still gets a message: clients look for its text
            self.open_item(OpenKind::Message, ids::MESSAGE, out);
            if let Some(open) = &mut self.open {
                open.part(&mut self.events, out, &OUTPUT_TEXT, self.plan.logprobs);
                open.delta(&mut self.events, out, &blank, Some(&blank_logprobs));
            }
            self.close(ending, out);
        }
    }

    /// Fails the response: `error` in both published shapes, then `response.failed`. Any other combination breaks at
    /// least one SDK. The open item gets no `done` event; finished items are in the Response object.
    pub(super) fn fail(&mut self, mut error: Error, out: &mut Vec<u8>) {
        if self.plan.warm_up && error.kind != ErrorKind::ShuttingDown {
            // the prompt is not cached, but the response can be continued all the same: that request reports the error
            let at = self.created_at;
            self.terminate("response.completed", Status::Completed(at), Terminal::Completed(at), out);
            self.failure = Some(error);
            return;
        }
        // without a stream, it becomes an HTTP error: its status tells it, and its code is that of any HTTP error
        if self.events.enabled {
            if error.code().is_none() {
                error.code = Some(error.failed_code().to_owned());
            }
            error.message = error.retry_message().into_owned();
        }
        self.events.write(out, "error", |out| events::push_error(out, &error));
        self.open = None;
        self.terminate("response.failed", failed(Some(&error)), Terminal::Failed, out);
        self.failure = Some(error);
    }

    /// Writes the terminal event and `[DONE]`, or keeps the Response object if nothing is streamed.
    pub(super) fn terminate(
        &mut self,
        kind: &str,
        status: Status<'_>,
        terminal: Terminal,
        out: &mut Vec<u8>,
    ) {
        self.terminal = Some(terminal);
        self.announce(out, kind, status);
        if self.events.enabled {
            out.extend_from_slice(events::DONE);
        } else {
            let texts = self.items.json().copied() + self.items.output_text().copied() + self.plan.echo.len();
            let mut body = Vec::with_capacity(texts + 512);
            self.state(status).write(&mut body, &self.plan.echo, None);
            self.body = body;
        }
    }

    /// Writes an event with the Response object.
    pub(super) fn announce(&mut self, out: &mut Vec<u8>, kind: &str, status: Status<'_>) {
        let mut events = std::mem::take(&mut self.events);
        events.write_sharing(out, kind, |out, shared| {
            out.reserve_exact(self.items.json().copied() + self.plan.echo.len() + 512);
            out.extend_from_slice(b",\"response\":");
            self.state(status).write(out, &self.plan.echo, Some(shared));
        });
        self.events = events;
    }

    /// The Response object with this status. It has output and usage only once it has ended.
    pub(super) fn state<'a>(&'a self, status: Status<'a>) -> Snapshot<'a> {
        let running = status.runs();
        Snapshot {
            id: &self.id,
            created_at: self.created_at,
            status,
            output: if running { &NOTHING } else { self.items.json() },
            output_text: self.items.output_text(),
            previous_response_id: self.plan.previous_response_id.as_deref(),
            usage: if running { None } else { self.usage() },
        }
    }
}

/// The status of a failed response.
pub(super) fn failed(error: Option<&Error>) -> Status<'_> {
    let (code, message) = error.map_or(("server_error", ""), |error| (error.failed_code(), &error.message));
    Status::Failed { code, message }
}
