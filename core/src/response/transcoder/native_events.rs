//! Owns the processing of a native stream: which upstream item is passed on, when it is over, and when the response
//! ends. It ends in the same operations as a chat chunk. It must not match events to items: `native_items` does.
//!
//! Items are sent one after another. Events about a later item wait until the earlier one is over: closed by the
//! upstream or, because llama-server closes all items at the end, complete when the next one begins.

use serde_json::value::RawValue;

use crate::error::Error;
use crate::error::Kind as ErrorKind;
use crate::fields::present;
use crate::response::channel::Channel;
use crate::response::native_items::{ItemKind, Progress, unsigned};
use crate::response::open_item::Ending;
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::bounds::MOST_ITEMS;
use crate::response::transcoder::finish::Finish;
use crate::response::transcoder::reconcile::extra;
use crate::response::upstream_error;
use crate::response::usage::Usage;
use crate::wire::json::{self, minify};
use crate::wire::native_event::{Event, IncompleteDetails, Item, Part, Response};
use crate::wire::request::fields;
use crate::wire::trusted_json::first_elements;

impl Transcoder {
    /// Processes the payload of one event of an upstream that speaks Responses, or its whole Response object.
    pub(super) fn native_event(&mut self, data: &str, now: u64, out: &mut Vec<u8>) {
        if data == "[DONE]" {
            return;
        }
        let parsed = data.starts_with('{').then(|| serde_json::from_str::<Event<'_>>(data));
        let event = match parsed {
            Some(Ok(event)) => event,
            other => {
                let why =
                    other.and_then(Result::err).map_or("no object".to_owned(), |error| error.to_string());
                return self.fail_unexpected("an event that is not a Responses event", &why, out);
            }
        };
        let kind = present(event.r#type).and_then(json::decode);
        match kind.as_deref() {
            None if event.object.is_some_and(|object| object.get() == "\"response\"") => {
                match serde_json::from_str::<Response<'_>>(data) {
                    Ok(response) => self.native_end(None, &response, data, now, out),
                    Err(error) => {
                        self.fail_unexpected("a response that cannot be parsed", &error.to_string(), out);
                    }
                }
            }
            None if present(event.error).is_some() => self.fail(upstream_error::from_stream(data), out),
            None if event.choices.is_some() => {
                self.fail_unexpected("a chat completion, but upstream.api is \"responses\"", "", out);
            }
            None => self.fail_unexpected("an event without a type", "", out),
            Some("error") => self.fail(upstream_error::from_stream(data), out),
            Some(
                kind @ ("response.completed"
                | "response.incomplete"
                | "response.failed"
                | "response.done"
                | "response.cancelled"),
            ) => {
                self.token_counts.take_timings(event.timings);
                let raw = event.response.map_or("{}", RawValue::get);
                let response = event.response.and_then(fields).unwrap_or_default();
                self.native_end(Some(kind), &response, raw, now, out);
            }
            // the response's own were sent before
            Some("response.created" | "response.queued" | "response.in_progress") => {}
            Some(kind) if kind.starts_with("response.") => self.item_event(kind, &event, data, out),
            // keepalive, rate limits, ...: not part of an answer
            Some(_) => {}
        }
    }

    fn fail_unexpected(&mut self, what: &str, why: &str, out: &mut Vec<u8>) {
        let message = format!("The upstream server sent {what}.");
        self.fail(Error::new(ErrorKind::BadGateway, message).quoting(why), out);
    }

    /// Processes an event about an item: applies it if that item is current, else keeps it for later.
    fn item_event(&mut self, event_type: &str, event: &Event<'_>, data: &str, out: &mut Vec<u8>) {
        let Some(at) = self.native.resolve(event_type, event) else { return };
        if self.native.len() > MOST_ITEMS {
            return self.too_many("items", out);
        }
        if self.native.is_past(at) {
            self.dropped += u64::from(event.delta.is_some());
            return;
        }
        let current = self.native.is_current(at);
        let Some(item) = self.native.get_mut(at) else { return };
        if current && !item.waits() && item.is_known() {
            self.apply(event_type, event, data, out);
        } else {
            item.wait(data);
        }
        self.apply_pending(out);
    }

    /// Applies the waiting events, item by item, until one is not over yet.
    fn apply_pending(&mut self, out: &mut Vec<u8>) {
        while self.native.current().is_some() {
            self.apply_waiting(out);
            if !self.current_is_over() {
                return;
            }
            self.close_current(Ending::Completed, out);
        }
    }

    /// Applies the events that waited for the current item.
    fn apply_waiting(&mut self, out: &mut Vec<u8>) {
        let Some(item) = self.native.current().filter(|item| item.is_known()) else { return };
        for data in item.take_waiting() {
            let Ok(event) = serde_json::from_str::<Event<'_>>(&data) else { continue };
            let event_type = event.r#type.and_then(json::decode).unwrap_or_default();
            self.apply(&event_type, &event, &data, out);
        }
    }

    /// Whether the current item can be closed. If the token limit may have cut the answer, the last item stays open
    /// until the end says so: llama-server reports every item as completed.
    fn current_is_over(&mut self) -> bool {
        let more = self.native.following() > 0;
        let may_be_cut = self.plan.max_output_tokens.is_some();
        let call_is_whole = !self.has_incomplete_call();
        let Some(item) = self.native.current() else { return false };
        if item.is_done() {
            return more || !(may_be_cut || item.is_incomplete());
        }
        let kept = item.kind() == ItemKind::Message && !item.received.is_empty();
        let begun = !item.is_pending() || kept;
        let whole = call_is_whole || item.is_left_out();
        more && begun && item.is_known() && item.kind() != ItemKind::Hosted && whole
    }

    /// Closes the current item and makes the next one current.
    fn close_current(&mut self, ending: Ending, out: &mut Vec<u8>) {
        self.flush_surrogate(out);
        let first = self.items.next_index() == 0;
        if let Some(item) = self.native.current() {
            if first && item.is_pending() {
                let blank = std::mem::take(&mut item.blank);
                self.texts.channel(Channel::Text).blank.push_str(&blank);
            }
            if !item.is_known() {
                // a client cannot execute a call without a name
                self.dropped += 1;
            }
        }
        self.close(ending, out);
        self.native.advance();
    }

    /// Applies one event of the current item.
    fn apply(&mut self, event_type: &str, event: &Event<'_>, data: &str, out: &mut Vec<u8>) {
        let translated = self.is_translated_native();
        let Some(item) = self.native.current() else { return };
        let hosted = item.kind() == ItemKind::Hosted;
        if item.is_left_out() {
            if event_type == "response.output_item.done" {
                item.reach(Progress::Completed);
            }
            return;
        }
        if item.is_done() && (event.delta.is_some() || hosted) {
            self.dropped += 1;
            return;
        }
        if hosted {
            if self.plan.compacts.is_none() {
                self.apply_to_hosted(event_type, data, out);
            }
            return;
        }
        match event_type {
            // a server that knows only functions announces items that it then leaves empty: their text opens them
            "response.output_item.added" if translated => {}
            "response.output_item.added" => {
                item.extra = event.item.map(|item| extra(item, false)).unwrap_or_default();
                self.open_native_item(out);
            }
            "response.output_item.done" => {
                if let Some(raw) = event.item {
                    self.complete_item(raw, out);
                }
            }
            "response.output_text.annotation.added" => {
                if let (Some(annotation), Some(open)) = (event.annotation, &mut self.open) {
                    open.annotate(&mut self.events, out, &minify(annotation.get()));
                }
            }
            "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => {
                if let Some(piece) = event.delta.and_then(json::literal) {
                    self.add_native_arguments(piece, out);
                }
            }
            "response.function_call_arguments.done" => self.complete_arguments(event.arguments, out),
            "response.custom_tool_call_input.done" => self.complete_arguments(event.input, out),
            _ => self.apply_to_part(event_type, event, out),
        }
    }

    /// Applies an event about a part of the current item, or about its text.
    fn apply_to_part(&mut self, event_type: &str, event: &Event<'_>, out: &mut Vec<u8>) {
        let index = unsigned(event.content_index.or(event.summary_index));
        let Some(item) = self.native.current() else { return };
        match event_type {
            "response.content_part.added"
            | "response.reasoning_part.added"
            | "response.reasoning_summary_part.added" => item.parts.announce(index),
            "response.content_part.done"
            | "response.reasoning_part.done"
            | "response.reasoning_summary_part.done" => {
                let part: Part<'_> = event.part.and_then(fields).unwrap_or_default();
                if let Some(channel) =
                    part.r#type.and_then(json::decode).and_then(|kind| Channel::of_part(&kind))
                {
                    let place = item.parts.place(channel, index);
                    self.complete_part(&part, channel, place, out);
                }
            }
            _ => {
                let Some((text, does)) = event_type.rsplit_once('.') else { return };
                let channel = match text {
                    "response.output_text" => Channel::Text,
                    "response.refusal" => Channel::Refusal,
                    "response.reasoning_text" | "response.reasoning" => Channel::Reasoning,
                    "response.reasoning_summary_text" | "response.reasoning_summary" => Channel::Summary,
                    _ => return,
                };
                match does {
                    "delta" => self.text_delta(channel, index, event, out),
                    "done" => self.text_done(channel, index, event, out),
                    _ => {}
                }
            }
        }
    }

    /// Applies an event of the current item, which the upstream runs itself.
    fn apply_to_hosted(&mut self, event_type: &str, data: &str, out: &mut Vec<u8>) {
        self.open_native_item(out);
        let (Some(item), Some(open)) = (self.native.current(), &mut self.open) else { return };
        match event_type {
            "response.output_item.added" => {}
            "response.output_item.done" => {
                let members = json::members(item.whole()).unwrap_or_default();
                let status = members.iter().find(|(key, _)| key == "status");
                item.reach(match status.map(|(_, status)| status.get()) {
                    Some("\"incomplete\"") => Progress::Incomplete,
                    _ => Progress::Completed,
                });
                open.end_hosted(item.whole().to_owned());
                self.close(Ending::Completed, out);
            }
            _ => open.pass_event(&mut self.events, out, event_type, data),
        }
    }

    /// Whether the upstream speaks Responses but was sent function tools in place of the declared ones.
    pub(super) fn is_translated_native(&self) -> bool {
        self.plan.native.is_some_and(|native| native.function_tools_only)
    }

    /// Whether the upstream speaks Responses and was sent the request unchanged.
    pub(super) fn is_whole_native(&self) -> bool {
        self.plan.native.is_some_and(|native| !native.function_tools_only)
    }

    /// Processes the end of the response. What its `output` holds and no event carried is sent now.
    fn native_end(
        &mut self,
        kind: Option<&str>,
        response: &Response<'_>,
        raw: &str,
        now: u64,
        out: &mut Vec<u8>,
    ) {
        self.token_counts.take_usage(response.usage.and_then(Usage::from_native));
        self.token_counts.take_timings(response.timings);
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
        self.complete_output(response.output, out);
        if self.ended() {
            return;
        }
        let ending = finish.ending();
        self.answer_end.set(finish);
        self.complete_items(ending, out);
        self.complete(now, out);
    }

    fn complete_output(&mut self, output: Option<&RawValue>, out: &mut Vec<u8>) {
        let items = output.and_then(|raw| first_elements(raw.get(), MOST_ITEMS));
        let (items, count) = items.unwrap_or_default();
        if count > MOST_ITEMS {
            return self.too_many("items", out);
        }
        let mut matched = Vec::new();
        for raw in items {
            let Some(item) = fields::<Item<'_>>(raw) else { continue };
            let known = self.native.find_in_output(&item, &matched);
            matched.extend(known);
            let done = known.and_then(|at| self.native.get(at)).is_some_and(|item| item.is_done());
            if done || known.is_some_and(|at| self.native.is_past(at)) {
                continue;
            }
            // handled as a late `done` event, without an index: positions in `output` may differ from the events'
            let data = format!("{{\"type\":\"response.output_item.done\",\"item\":{}}}", minify(raw.get()));
            let Ok(event) = serde_json::from_str::<Event<'_>>(&data) else { continue };
            let before = self.native.len();
            self.item_event("response.output_item.done", &event, &data, out);
            if known.is_none() {
                matched.extend((before..self.native.len()).next());
            }
        }
    }

    /// Brings every item into the output; the last one ends with `ending`. Items after a call that was cut are dropped.
    fn complete_items(&mut self, ending: Ending, out: &mut Vec<u8>) {
        while self.native.following() > 0 {
            if ending == Ending::Incomplete && self.has_incomplete_call() {
                self.dropped += self.native.following() as u64;
                break;
            }
            self.close_current(Ending::Completed, out);
            self.apply_waiting(out);
        }
        if let Some(item) = self.native.current() {
            if item.kind().is_call() {
                // a call without arguments
                self.open_native_item(out);
            }
            self.close_current(ending, out);
        }
    }
}
