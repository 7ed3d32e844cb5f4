//! Owns the way of a native stream into the same events as a chat answer's: which of its items is passed on, when it is
//! over, when the response ends. It must not match events to items: `mend` does.
//!
//! Items come out one after another. What is about a later one waits until the one before is over: closed by its
//! upstream, or, since llama-server closes all at the end, whole when the next one begins.

use serde_json::value::RawValue;

use crate::error::Error;
use crate::error::Kind as ErrorKind;
use crate::fields::present;
use crate::response::native_items::{ItemKind, Text, number};
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::bounds::MOST_ITEMS;
use crate::response::transcoder::finish::Finish;
use crate::response::transcoder::reconcile::extra;
use crate::response::upstream_error;
use crate::response::usage::Usage;
use crate::wire::json::{self, compact};
use crate::wire::native_event::{Event, IncompleteDetails, Item, Part, Response};
use crate::wire::request::fields;
use crate::wire::trusted_json::first_elements;

impl Transcoder {
    /// Takes the payload of one event of an upstream that speaks Responses, or its whole Response object.
    pub(super) fn native(&mut self, data: &str, now: u64, out: &mut Vec<u8>) {
        if data == "[DONE]" {
            return;
        }
        let parsed = data.starts_with('{').then(|| serde_json::from_str::<Event<'_>>(data));
        let event = match parsed {
            Some(Ok(event)) => event,
            other => {
                let detail =
                    other.and_then(Result::err).map_or("no object".to_owned(), |error| error.to_string());
                return self.strange("an event that is no Responses event", &detail, out);
            }
        };
        let kind = present(event.r#type).and_then(json::decode);
        match kind.as_deref() {
            None if event.object.is_some_and(|object| object.get() == "\"response\"") => {
                match serde_json::from_str::<Response<'_>>(data) {
                    Ok(response) => self.finished(None, &response, data, now, out),
                    Err(error) => self.strange("a response that cannot be read", &error.to_string(), out),
                }
            }
            None if present(event.error).is_some() => self.fail(upstream_error::from_stream(data), out),
            None if event.choices.is_some() => {
                self.strange("a chat completion, but upstream.api is \"responses\"", "", out);
            }
            None => self.strange("an event without a type", "", out),
            Some("error") => self.fail(upstream_error::from_stream(data), out),
            Some(
                kind @ ("response.completed"
                | "response.incomplete"
                | "response.failed"
                | "response.done"
                | "response.cancelled"),
            ) => {
                self.timings = event.timings.and_then(Usage::from_timings).or(self.timings);
                let raw = event.response.map_or("{}", RawValue::get);
                let response = event.response.and_then(fields).unwrap_or_default();
                self.finished(Some(kind), &response, raw, now, out);
            }
            // ours were sent long ago
            Some("response.created" | "response.queued" | "response.in_progress") => {}
            Some(kind) if kind.starts_with("response.") => self.about_item(kind, &event, data, out),
            // keepalive, rate limits, ...: no part of an answer
            Some(_) => {}
        }
    }

    fn strange(&mut self, what: &str, detail: &str, out: &mut Vec<u8>) {
        let message = format!("The upstream server sent {what}.");
        self.fail(Error::new(ErrorKind::BadGateway, message).detail(detail), out);
    }

    /// Takes an event that is about an item: at once when it is the item's turn, else later.
    fn about_item(&mut self, kind: &str, event: &Event<'_>, data: &str, out: &mut Vec<u8>) {
        let Some(at) = self.mend.of(kind, event) else { return };
        if self.mend.entries.len() > MOST_ITEMS {
            return self.too_many("items", out);
        }
        if at < self.mend.live {
            self.dropped += u64::from(event.delta.is_some());
            return;
        }
        let live = self.mend.live;
        let Some(entry) = self.mend.entries.get_mut(at) else { return };
        if at == live && !entry.waits() && entry.ready() {
            self.apply(kind, event, data, out);
        } else {
            entry.wait(data);
        }
        self.move_on(out);
    }

    /// Passes on what waited for its turn, item by item.
    fn move_on(&mut self, out: &mut Vec<u8>) {
        while let Some(entry) = self.mend.current() {
            if entry.ready() {
                for data in entry.take_waiting() {
                    let Ok(event) = serde_json::from_str::<Event<'_>>(&data) else { continue };
                    let kind = event.r#type.and_then(json::decode).unwrap_or_default();
                    self.apply(&kind, &event, &data, out);
                }
            }
            if !self.is_over() {
                return;
            }
            self.leave(false, out);
        }
    }

    /// Whether the current item can be closed. The last one waits for the end where that may call it incomplete:
    /// llama-server calls everything completed, whatever cut it.
    fn is_over(&mut self) -> bool {
        let more = self.mend.more();
        let may_be_cut = self.plan.max_output_tokens.is_some();
        let call_is_whole = !self.call_in_the_way();
        let Some(entry) = self.mend.current() else { return false };
        if entry.done {
            return more || !(may_be_cut || entry.cut);
        }
        let held = entry.sort == ItemKind::Message && !entry.heard.is_empty();
        let begun = entry.opened.is_some() || entry.skipped || held;
        more && begun && entry.ready() && entry.sort != ItemKind::Own && (call_is_whole || entry.skipped)
    }

    /// Closes the current item and goes to the next.
    fn leave(&mut self, cut: bool, out: &mut Vec<u8>) {
        self.settle_seam(out);
        let first = self.count == 0;
        let unnamed = self.mend.current().is_some_and(|entry| !entry.ready());
        if let Some(entry) = self.mend.current() {
            if first && entry.opened.is_none() {
                let blank = std::mem::take(&mut entry.blank);
                self.text.blank.push_str(&blank);
            }
            if unnamed {
                // nobody can execute a call without a name
                self.dropped += 1;
            }
        }
        self.end_own(out);
        self.close(cut, out);
        self.mend.wanted = None;
        self.mend.live += 1;
    }

    /// Passes one event of the current item on.
    fn apply(&mut self, kind: &str, event: &Event<'_>, data: &str, out: &mut Vec<u8>) {
        let functions = self.functions();
        let Some(entry) = self.mend.current() else { return };
        if entry.skipped {
            entry.done |= kind == "response.output_item.done";
            return;
        }
        if entry.done && (event.delta.is_some() || entry.sort == ItemKind::Own) {
            self.dropped += 1;
            return;
        }
        let index = number(event.content_index.or(event.summary_index));
        if entry.sort == ItemKind::Own {
            if self.plan.compacts.is_none() {
                self.own(kind, data, out);
            }
            return;
        }
        match kind {
            // a server that makes nothing but functions announces what it then leaves empty
            "response.output_item.added" if functions => {}
            "response.output_item.added" => {
                self.mend.extra = event.item.map(|item| extra(item, false)).unwrap_or_default();
                self.open_item(out);
            }
            "response.output_item.done" => {
                let Some(raw) = event.item else { return };
                self.settle_item(raw, out);
            }
            "response.content_part.added"
            | "response.reasoning_part.added"
            | "response.reasoning_summary_part.added" => entry.announce_part(index),
            "response.content_part.done"
            | "response.reasoning_part.done"
            | "response.reasoning_summary_part.done" => {
                let part: Part<'_> = event.part.and_then(fields).unwrap_or_default();
                if let Some(text) = part.r#type.and_then(json::decode).and_then(|kind| Text::of_part(&kind)) {
                    let turn = entry.turn(text, index);
                    self.settle_part(&part, text, turn, out);
                }
            }
            "response.output_text.delta" => self.text_delta(Text::Output, index, event, out),
            "response.refusal.delta" => self.text_delta(Text::Refusal, index, event, out),
            "response.reasoning_text.delta" | "response.reasoning.delta" => {
                self.text_delta(Text::Raw, index, event, out);
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_summary.delta" => {
                self.text_delta(Text::Summary, index, event, out);
            }
            "response.output_text.done" => self.text_done(Text::Output, index, event, out),
            "response.refusal.done" => self.text_done(Text::Refusal, index, event, out),
            "response.reasoning_text.done" | "response.reasoning.done" => {
                self.text_done(Text::Raw, index, event, out);
            }
            "response.reasoning_summary_text.done" | "response.reasoning_summary.done" => {
                self.text_done(Text::Summary, index, event, out);
            }
            "response.output_text.annotation.added" => {
                if let (Some(annotation), Some(open)) = (event.annotation, &mut self.open) {
                    open.annotate(&mut self.events, out, &compact(annotation.get()));
                }
            }
            "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => {
                if let Some(piece) = event.delta.and_then(json::literal) {
                    self.arguments(piece, out);
                }
            }
            "response.function_call_arguments.done" => self.settle_arguments(event.arguments, out),
            "response.custom_tool_call_input.done" => self.settle_arguments(event.input, out),
            _ => {}
        }
    }

    /// Whether the upstream was shown chat functions in place of the declared tools.
    pub(super) fn functions(&self) -> bool {
        self.plan.native.is_some_and(|native| native.functions)
    }

    /// Takes the end of the response: what its output holds and no event told is told now.
    fn finished(
        &mut self,
        kind: Option<&str>,
        response: &Response<'_>,
        raw: &str,
        now: u64,
        out: &mut Vec<u8>,
    ) {
        self.usage = response.usage.and_then(Usage::from_native).or(self.usage);
        self.timings = response.timings.and_then(Usage::from_timings).or(self.timings);
        let status = present(response.status).and_then(json::decode).unwrap_or_default();
        let status = match (kind, &*status) {
            (Some("response.completed" | "response.done"), "") | (None, "") => "completed",
            (Some("response.incomplete"), _) => "incomplete",
            (Some("response.failed"), _) => "failed",
            (_, status) => status,
        };
        match status {
            "completed" | "incomplete" => {}
            "failed" => return self.fail(upstream_error::from_stream(raw), out),
            other => {
                let message = format!("The upstream server ended its response with status '{other}'.");
                return self.fail(Error::new(ErrorKind::UpstreamFailed, message), out);
            }
        }
        let details: IncompleteDetails<'_> =
            present(response.incomplete_details).and_then(fields).unwrap_or_default();
        let reason = present(details.reason).and_then(json::decode);
        let at_limit = self
            .usage()
            .zip(self.plan.max_output_tokens)
            .is_some_and(|(usage, limit)| u64::from(usage.output) >= limit);
        let finish = match (status, reason.as_deref()) {
            ("incomplete", Some("content_filter")) => Finish::Cut("content_filter"),
            ("incomplete", _) => Finish::Cut("max_output_tokens"),
            _ if at_limit => Finish::Cut("max_output_tokens"),
            _ => Finish::Stop,
        };
        self.settle_output(response.output, out);
        if self.ended() {
            return;
        }
        let cut = matches!(finish, Finish::Cut(_));
        self.finish = Some(finish);
        self.settle_all(cut, out);
        self.complete(now, out);
    }

    fn settle_output(&mut self, output: Option<&RawValue>, out: &mut Vec<u8>) {
        let items = output.and_then(|raw| first_elements(raw.get(), MOST_ITEMS));
        let (items, count) = items.unwrap_or_default();
        if count > MOST_ITEMS {
            return self.too_many("items", out);
        }
        let mut matched = Vec::new();
        for raw in items {
            let Some(item) = fields::<Item<'_>>(raw) else { continue };
            let told = self.mend.of_output(&item, &matched);
            matched.extend(told);
            let entry = told.and_then(|at| self.mend.entries.get(at));
            if entry.is_some_and(|entry| entry.done) || told.is_some_and(|at| at < self.mend.live) {
                continue;
            }
            // the same as an event that came late; its index would be that of the output
            let data = format!("{{\"type\":\"response.output_item.done\",\"item\":{}}}", compact(raw.get()));
            let Ok(event) = serde_json::from_str::<Event<'_>>(&data) else { continue };
            let before = self.mend.entries.len();
            self.about_item("response.output_item.done", &event, &data, out);
            if told.is_none() {
                matched.extend((before..self.mend.entries.len()).next());
            }
        }
    }

    /// Brings every item into the output; the last one stays open for the end. Behind a call that was cut comes
    /// nothing.
    fn settle_all(&mut self, cut: bool, out: &mut Vec<u8>) {
        while self.mend.more() {
            if cut && self.call_in_the_way() {
                self.dropped += (self.mend.entries.len() - self.mend.live - 1) as u64;
                break;
            }
            self.leave(false, out);
            if let Some(entry) = self.mend.current()
                && entry.ready()
            {
                for data in entry.take_waiting() {
                    let Ok(event) = serde_json::from_str::<Event<'_>>(&data) else { continue };
                    let kind = event.r#type.and_then(json::decode).unwrap_or_default();
                    self.apply(&kind, &event, &data, out);
                }
            }
        }
        if self.mend.live < self.mend.entries.len() {
            if self.mend.current().is_some_and(|entry| matches!(entry.sort, ItemKind::Call(_))) {
                // called without arguments
                self.open_item(out);
            }
            self.leave(cut, out);
        }
    }
}
