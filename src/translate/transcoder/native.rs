//! Owns the way of a native stream into the same events as a chat answer's: which of its items is passed on, what of
//! a text is still owed, when the response ends. It must not match events to items: `mend` does.
//!
//! Items come out one after another. What is about a later one waits until the one before is over: closed by its
//! upstream, or, since llama-server closes all at the end, whole when the next one begins.

use serde_json::value::RawValue;

use super::calls::Slot;
use super::text::is_blank;
use super::{Finish, Transcoder};
use crate::error::{Error, Kind as ErrorKind};
use crate::translate::item::{Call, Family, Kind, OUTPUT_TEXT, REASONING_TEXT, REFUSAL, SUMMARY};
use crate::translate::mend::{Sort, Text, Turn, number};
use crate::translate::params::present;
use crate::translate::plan::ReasoningDisplay;
use crate::translate::refusal;
use crate::translate::usage::Usage;
use crate::wire::chat::TokenLogprob;
use crate::wire::json::{self, compact};
use crate::wire::native::{Event, IncompleteDetails, Item, Part, Response};
use crate::wire::request::fields;

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
            None if present(event.error).is_some() => self.fail(refusal::from_stream(data), out),
            None if event.choices.is_some() => {
                self.strange("a chat completion, but upstream.api is \"responses\"", "", out);
            }
            None => self.strange("an event without a type", "", out),
            Some("error") => self.fail(refusal::from_stream(data), out),
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
        if at < self.mend.live {
            self.dropped += u64::from(event.delta.is_some());
            return;
        }
        let live = self.mend.live;
        let Some(entry) = self.mend.entries.get_mut(at) else { return };
        if at == live && entry.waiting.is_empty() && entry.ready() {
            self.apply(kind, event, data, out);
        } else {
            entry.waiting.push(data.to_owned());
        }
        self.move_on(out);
    }

    /// Passes on what waited for its turn, item by item.
    fn move_on(&mut self, out: &mut Vec<u8>) {
        while let Some(entry) = self.mend.current() {
            if entry.ready() {
                for data in std::mem::take(&mut entry.waiting) {
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
        let begun = entry.opened.is_some() || entry.skipped;
        more && begun && entry.ready() && entry.sort != Sort::Own && (call_is_whole || entry.skipped)
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
        let index = number(event.content_index.or(event.summary_index));
        if entry.sort == Sort::Own {
            if !self.plan.compacts {
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
    fn functions(&self) -> bool {
        self.plan.native.is_some_and(|native| native.functions)
    }

    fn text_delta(&mut self, text: Text, index: Option<u64>, event: &Event<'_>, out: &mut Vec<u8>) {
        let Some(piece) = event.delta.and_then(json::literal) else { return };
        let Some(entry) = self.mend.current() else { return };
        let turn = entry.turn(text, index);
        if self.plan.logprobs
            && let Some(raw) = event.logprobs
            && let Ok(tokens) = serde_json::from_str::<Vec<TokenLogprob<'_>>>(raw.get())
        {
            self.add_logprobs(&tokens);
        }
        self.write_text(text, turn, piece, out);
    }

    fn text_done(&mut self, text: Text, index: Option<u64>, event: &Event<'_>, out: &mut Vec<u8>) {
        let whole = if text == Text::Refusal { event.refusal.or(event.text) } else { event.text };
        let Some(whole) = whole.and_then(json::literal) else { return };
        let Some(entry) = self.mend.current() else { return };
        let turn = entry.turn(text, index);
        self.settle_text(text, turn, whole, out);
    }

    /// Adds a piece to a text, opening item and part where they are not open.
    fn write_text(&mut self, text: Text, turn: Turn, piece: &str, out: &mut Vec<u8>) {
        let reasoning = matches!(text, Text::Raw | Text::Summary);
        if turn == Turn::Late {
            self.dropped += u64::from(!piece.is_empty());
            return;
        }
        let hidden = reasoning && self.plan.reasoning == ReasoningDisplay::Hidden;
        let sealed = reasoning && self.plan.seals_reasoning;
        if hidden && !sealed {
            return;
        }
        let functions = self.functions();
        let Some(entry) = self.mend.current() else { return };
        if self.plan.compacts {
            entry.heard.push_str(piece);
            if text == Text::Output {
                let piece = self.mend.seam.join(piece);
                self.summary.push_str(&piece);
            }
            return;
        }
        let mut joined = piece.to_owned();
        if entry.opened.is_none() && functions {
            if is_blank(piece) {
                entry.blank.push_str(piece);
                return;
            }
            joined.insert_str(0, &std::mem::take(&mut entry.blank));
        }
        self.open_item(out);
        let family: &'static Family = match text {
            Text::Refusal if !self.plan.refusal_as_text => &REFUSAL,
            Text::Output | Text::Refusal => &OUTPUT_TEXT,
            Text::Raw if functions && self.plan.reasoning == ReasoningDisplay::Summary => &SUMMARY,
            Text::Raw => &REASONING_TEXT,
            Text::Summary => &SUMMARY,
        };
        if turn == Turn::New {
            self.settle_seam(out);
            if let Some(open) = &mut self.open {
                open.end_part(&mut self.events, out);
            }
        }
        let piece = self.mend.seam.join(&joined);
        if sealed {
            self.raw_reasoning.push_str(&piece);
            if hidden {
                return;
            }
        }
        let Some(open) = &mut self.open else { return };
        open.part(&mut self.events, out, family, self.plan.logprobs);
        open.delta(&mut self.events, out, &piece, self.plan.logprobs.then_some(&self.logprobs));
        self.logprobs.iter_mut().for_each(String::clear);
        if *family == OUTPUT_TEXT {
            self.output_text.push_str(&piece);
        }
    }

    /// Sends the half of a surrogate pair that the open part or call still owes.
    fn settle_seam(&mut self, out: &mut Vec<u8>) {
        let rest = self.mend.seam.flush();
        if let Some(open) = self.open.as_mut().filter(|open| !rest.is_empty() && open.has_part()) {
            let output = open.is_output_text();
            open.delta(&mut self.events, out, rest, None);
            if output {
                self.output_text.push_str(rest);
            }
        }
    }

    /// Sends what of a text was not sent yet.
    fn settle_text(&mut self, text: Text, turn: Turn, whole: &str, out: &mut Vec<u8>) {
        if turn == Turn::Late {
            return;
        }
        self.settle_seam(out);
        let compacts = self.plan.compacts;
        let Some(entry) = self.mend.current() else { return };
        let unsent = if compacts && turn == Turn::Same { &entry.heard } else { &entry.blank }.clone();
        let sent = match (&self.open, &turn) {
            (Some(open), Turn::Same) if open.has_part() => open.text.clone(),
            _ => unsent,
        };
        match rest(&sent, whole) {
            Some(rest) => self.write_text(text, turn, &rest, out),
            // it said one thing and then another: what was sent stays
            None => self.dropped += 1,
        }
    }

    fn settle_part(&mut self, part: &Part<'_>, text: Text, turn: Turn, out: &mut Vec<u8>) {
        if turn == Turn::Late {
            return;
        }
        if turn == Turn::New
            && self.plan.logprobs
            && let Some(raw) = part.logprobs
            && let Ok(tokens) = serde_json::from_str::<Vec<TokenLogprob<'_>>>(raw.get())
        {
            self.add_logprobs(&tokens);
        }
        let whole = if text == Text::Refusal { part.refusal.or(part.text) } else { part.text };
        if let Some(whole) = whole.and_then(json::literal) {
            self.settle_text(text, turn, whole, out);
        }
        let annotations: Vec<&RawValue> =
            part.annotations.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        if let Some(open) = &mut self.open {
            for annotation in annotations.iter().skip(open.annotated() as usize) {
                open.annotate(&mut self.events, out, &compact(annotation.get()));
            }
        }
    }

    /// Sends what of a finished item was not sent yet.
    fn settle_item(&mut self, raw: &RawValue, out: &mut Vec<u8>) {
        let item: Item<'_> = fields(raw).unwrap_or_default();
        let Some(entry) = self.mend.current() else { return };
        entry.done = true;
        entry.cut = item.status.is_some_and(|status| status.get() == "\"incomplete\"");
        match entry.sort {
            Sort::Call(custom) => {
                self.settle_arguments(if custom { item.input } else { item.arguments }, out);
            }
            _ => {
                for (list, text) in [(item.summary, Text::Summary), (item.content, Text::Output)] {
                    self.settle_parts(list, text, out);
                }
                if !self.functions() {
                    // without any text it is still an item
                    self.open_item(out);
                }
            }
        }
        let functions = self.functions();
        if let Some(open) = &mut self.open {
            open.extra = extra(raw, functions);
        }
    }

    fn settle_parts(&mut self, list: Option<&RawValue>, default: Text, out: &mut Vec<u8>) {
        let Some(list) = present(list) else { return };
        if let Some(whole) = json::literal(list) {
            let turn = self.mend.current().map_or(Turn::Late, |entry| entry.turn_at(default, 0));
            return self.settle_text(default, turn, whole, out);
        }
        let parts: Vec<Part<'_>> = serde_json::from_str(list.get()).unwrap_or_default();
        for (position, part) in parts.iter().enumerate() {
            let Some(entry) = self.mend.current() else { return };
            let kind = part.r#type.and_then(json::decode).unwrap_or_default();
            if let Some(text) = Text::of_part(&kind) {
                let turn = entry.turn_at(text, position as u64);
                self.settle_part(part, text, turn, out);
            } else {
                self.dropped += 1;
            }
        }
    }

    /// Opens the current item, unless it is open.
    fn open_item(&mut self, out: &mut Vec<u8>) {
        let number = self.count;
        let functions = self.functions();
        let compacts = self.plan.compacts;
        let Some(entry) = self.mend.current() else { return };
        if compacts || entry.opened.is_some() || entry.skipped || !entry.ready() {
            return;
        }
        entry.opened = Some(number);
        let id = entry.id.clone();
        match entry.sort {
            Sort::Message => {
                self.mend.wanted = self.kept(&id, "msg_");
                self.begin(Kind::Message, "msg_", out);
            }
            Sort::Reasoning => {
                self.mend.wanted = self.kept(&id, "rs_");
                self.begin(Kind::Reasoning, "rs_", out);
            }
            Sort::Call(custom) if custom || !functions => self.open_call(custom, out),
            Sort::Call(_) => self.open_function(out),
            Sort::Own => {}
        }
    }

    /// The upstream's id, where that matters: a server that seals its reasoning does not know it again under another.
    /// Ours are found by the store.
    fn kept(&mut self, id: &str, prefix: &str) -> Option<String> {
        if self.functions() { None } else { self.mend.keep(id, prefix) }
    }

    /// A call of a tool that the upstream knows as the client declared it.
    fn open_call(&mut self, custom: bool, out: &mut Vec<u8>) {
        let slot = self.calls.len();
        let Some(entry) = self.mend.current() else { return };
        entry.slot = slot;
        let (id, name, namespace) = (entry.id.clone(), entry.name.clone(), entry.namespace.clone());
        let call_id = call_id(&entry.call_id, &id);
        let call_id = call_id.unwrap_or_else(|| self.ids.item("call_"));
        self.calls.push(Slot { id: call_id.clone(), name: name.clone(), begun: true, ..Slot::default() });
        let prefix = if custom { "ctc_" } else { "fc_" };
        self.mend.wanted = self.kept(&id, prefix);
        self.begin(Kind::Call(Call { slot, custom, name, namespace, call_id }), prefix, out);
    }

    /// A call of a function that stands for a declared tool.
    fn open_function(&mut self, out: &mut Vec<u8>) {
        let slot = self.calls.len();
        let second = self.plan.one_call && slot > 0;
        let Some(entry) = self.mend.current() else { return };
        if second {
            entry.skipped = true;
            self.dropped += 1;
            return;
        }
        entry.slot = slot;
        let name = entry.name.clone();
        let call_id = call_id(&entry.call_id, &entry.id).unwrap_or_default();
        self.calls.push(Slot { index: slot as u64, id: call_id, name, ..Slot::default() });
        self.begin_call(slot, out);
        if self.open.is_none()
            && let Some(entry) = self.mend.current()
        {
            entry.skipped = true;
        }
    }

    /// Adds a piece to a call's arguments or input.
    fn arguments(&mut self, piece: &str, out: &mut Vec<u8>) {
        self.open_item(out);
        let Some(entry) = self.mend.current() else { return };
        if entry.skipped {
            return;
        }
        entry.heard.push_str(piece);
        let slot = entry.slot;
        if let Some(slot) = self.calls.get_mut(slot) {
            let piece = slot.seam.join(piece);
            slot.waiting.push_str(&piece);
        }
        self.drain_open_call(out);
    }

    fn settle_arguments(&mut self, whole: Option<&RawValue>, out: &mut Vec<u8>) {
        let whole = match present(whole) {
            None => String::new(),
            Some(raw) => match json::literal(raw) {
                Some(text) => text.to_owned(),
                None => json::escape(&compact(raw.get())).into_owned(),
            },
        };
        let heard = self.mend.current().map(|entry| entry.heard.clone()).unwrap_or_default();
        match rest(&heard, &whole) {
            Some(rest) => self.arguments(&rest, out),
            None => self.dropped += u64::from(!whole.is_empty()),
        }
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
            "failed" => return self.fail(refusal::from_stream(raw), out),
            other => {
                let message = format!("The upstream server ended its response with status '{other}'.");
                return self.fail(Error::new(ErrorKind::UpstreamFailed, message), out);
            }
        }
        let details: IncompleteDetails<'_> =
            present(response.incomplete_details).and_then(fields).unwrap_or_default();
        let reason = present(details.reason).and_then(json::decode);
        let at_limit =
            self.usage().zip(self.plan.max_output_tokens).is_some_and(|(usage, limit)| usage.output >= limit);
        let finish = match (status, reason.as_deref()) {
            ("incomplete", Some("content_filter")) => Finish::Cut("content_filter"),
            ("incomplete", _) => Finish::Cut("max_output_tokens"),
            _ if at_limit => Finish::Cut("max_output_tokens"),
            _ => Finish::Stop,
        };
        self.settle_output(response.output, out);
        let cut = matches!(finish, Finish::Cut(_));
        self.finish = Some(finish);
        self.settle_all(cut, out);
        self.complete(now, out);
    }

    fn settle_output(&mut self, output: Option<&RawValue>, out: &mut Vec<u8>) {
        let items: Vec<&RawValue> =
            output.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
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
                for data in std::mem::take(&mut entry.waiting) {
                    let Ok(event) = serde_json::from_str::<Event<'_>>(&data) else { continue };
                    let kind = event.r#type.and_then(json::decode).unwrap_or_default();
                    self.apply(&kind, &event, &data, out);
                }
            }
        }
        if self.mend.live < self.mend.entries.len() {
            if self.mend.current().is_some_and(|entry| matches!(entry.sort, Sort::Call(_))) {
                // called without arguments
                self.open_item(out);
            }
            self.leave(cut, out);
        }
    }
}

/// The call's id is what its client answers to: as it came, or what a server put in its place.
fn call_id(call_id: &str, id: &str) -> Option<String> {
    let told = if call_id.is_empty() && id.starts_with("call_") { id } else { call_id };
    (!told.is_empty()).then(|| told.to_owned())
}

/// What of `whole` follows `sent`, both escaped, each in its own way; `None` when it begins otherwise.
fn rest(sent: &str, whole: &str) -> Option<String> {
    if let Some(rest) = whole.strip_prefix(sent) {
        return Some(rest.to_owned());
    }
    let (sent, whole) = (json::unescape(sent)?, json::unescape(whole)?);
    whole.strip_prefix(&*sent).map(|rest| json::escape(rest).into_owned())
}

/// The members of an item that we have no name for, each with a leading comma. What is absent is left out, never null.
/// `sealed`: what is sealed in it is ours to say.
fn extra(item: &RawValue, sealed: bool) -> String {
    let mut out = Vec::new();
    for (key, value) in json::members(item.get()).unwrap_or_default() {
        let ours = MODELLED.contains(&&*key) || sealed && key == "encrypted_content";
        if !ours && !matches!(value.get(), "null" | "\"\"") {
            out.push(b',');
            json::push_string(&mut out, &key);
            out.push(b':');
            out.extend_from_slice(compact(value.get()).as_bytes());
        }
    }
    String::from_utf8(out).unwrap_or_default()
}

/// Members that `item::Open` writes itself.
const MODELLED: [&str; 11] = [
    "id",
    "type",
    "status",
    "role",
    "content",
    "summary",
    "arguments",
    "input",
    "call_id",
    "name",
    "namespace",
];
