//! Owns what remains to be sent of a native item. Servers send text and arguments in deltas, whole when they are done,
//! or both; the first of them opens the item. It must not decide when an item ends.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::fields::present;
use crate::ids;
use crate::response::channel::Channel;
use crate::response::native_items::{Earlier, ItemKind, Place, Progress};
use crate::response::open_item::{Call, HostedItem, OpenKind};
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::bounds::MOST_ITEMS;
use crate::response::transcoder::call_slot::{CallSlot, Stage};
use crate::response::transcoder::output::TextDestination;
use crate::wire::chat::TokenLogprob;
use crate::wire::escaped::is_blank;
use crate::wire::json::{self, minify};
use crate::wire::native_event::{Event, Item, Part};
use crate::wire::request::fields;
use crate::wire::trusted_json::first_elements;

impl Transcoder {
    /// Processes a delta of a text.
    pub(super) fn text_delta(
        &mut self,
        channel: Channel,
        index: Option<u64>,
        event: &Event<'_>,
        out: &mut Vec<u8>,
    ) {
        let Some(piece) = event.delta.and_then(json::literal) else { return };
        let Some(item) = self.native.current() else { return };
        let place = item.parts.place(channel, index);
        self.take_token_logprobs(event.logprobs);
        self.add_text(channel, place, piece, out);
    }

    /// Processes the `done` event of a text, which repeats all of it.
    pub(super) fn text_done(
        &mut self,
        channel: Channel,
        index: Option<u64>,
        event: &Event<'_>,
        out: &mut Vec<u8>,
    ) {
        let whole = if channel == Channel::Refusal { event.refusal.or(event.text) } else { event.text };
        let Some(whole) = whole.and_then(json::literal) else { return };
        let Some(item) = self.native.current() else { return };
        let place = item.parts.place(channel, index);
        self.complete_text(channel, place, whole, out);
    }

    /// Adds a piece to a text, opening its item and part if needed.
    fn add_text(&mut self, channel: Channel, place: Place, piece: &str, out: &mut Vec<u8>) {
        if place == Place::Closed {
            self.dropped += u64::from(!piece.is_empty());
            return;
        }
        let translated = self.is_translated_native();
        let destination = self.destination(channel);
        let Some(item) = self.native.current() else { return };
        let TextDestination::Item(channel) = destination else {
            if destination == TextDestination::Nowhere {
                return;
            }
            if place == Place::New {
                item.received.clear();
            }
            item.received.push_str(piece);
            return self.store_text(destination, piece);
        };
        let mut joined = Cow::Borrowed(piece);
        if translated && item.is_pending() {
            if is_blank(piece) {
                return item.blank.push_str(piece);
            }
            joined = Cow::Owned(std::mem::take(&mut item.blank) + piece);
        }
        self.open_native_item(out);
        if place == Place::New {
            self.flush_surrogate(out);
            if let Some(open) = &mut self.open {
                open.end_part(&mut self.events, out);
            }
        }
        self.texts.set_last(channel);
        let piece = self.texts.channel(channel).surrogates.join(&joined);
        self.write_text(channel, &piece, out);
        self.logprobs.clear();
    }

    /// Sends the part of a whole text that has not been sent yet.
    fn complete_text(&mut self, channel: Channel, place: Place, whole: &str, out: &mut Vec<u8>) {
        if place == Place::Closed {
            return;
        }
        self.flush_surrogate(out);
        let shown = matches!(self.destination(channel), TextDestination::Item(_));
        let Some(item) = self.native.current() else { return };
        let received = match (&self.open, place) {
            (_, Place::New) => &item.blank,
            (Some(open), _) if open.has_part() => &open.text,
            // the text is sealed and not shown
            (Some(_), _) if shown && channel.is_reasoning() => &self.raw_reasoning,
            _ if shown => &item.blank,
            _ => &item.received,
        };
        match remaining(received, whole) {
            Some(rest) => self.add_text(channel, place, &rest, out),
            // the text contradicts its deltas: what was sent stays
            None => self.dropped += 1,
        }
    }

    /// Processes a whole part: its text, log probabilities and annotations.
    pub(super) fn complete_part(
        &mut self,
        part: &Part<'_>,
        channel: Channel,
        place: Place,
        out: &mut Vec<u8>,
    ) {
        if place == Place::Closed {
            return;
        }
        if place == Place::New {
            self.take_token_logprobs(part.logprobs);
        }
        let whole = if channel == Channel::Refusal { part.refusal.or(part.text) } else { part.text };
        if let Some(whole) = whole.and_then(json::literal) {
            self.complete_text(channel, place, whole, out);
        }
        let annotations = part.annotations.and_then(|raw| first_elements(raw.get(), MOST_ITEMS));
        let (annotations, _) = annotations.unwrap_or_default();
        if let Some(open) = &mut self.open {
            for annotation in annotations.iter().skip(open.annotated() as usize) {
                open.annotate(&mut self.events, out, &minify(annotation.get()));
            }
        }
    }

    fn take_token_logprobs(&mut self, raw: Option<&RawValue>) {
        if self.plan.logprobs
            && let Some(raw) = raw
            && let Ok(tokens) = serde_json::from_str::<Vec<TokenLogprob<'_>>>(raw.get())
        {
            self.add_logprobs(&tokens);
        }
    }

    /// Processes a whole item, and sends what has not been sent of it.
    pub(super) fn complete_item(&mut self, raw: &RawValue, out: &mut Vec<u8>) {
        let done: Item<'_> = fields(raw).unwrap_or_default();
        let Some(item) = self.native.current() else { return };
        item.reach(match done.status.map(RawValue::get) {
            Some("\"incomplete\"") => Progress::Incomplete,
            _ => Progress::Completed,
        });
        match item.kind() {
            ItemKind::FunctionCall => self.complete_arguments(done.arguments, out),
            ItemKind::CustomToolCall => self.complete_arguments(done.input, out),
            ItemKind::Message | ItemKind::Reasoning | ItemKind::Hosted => {
                for (list, channel) in [(done.summary, Channel::Summary), (done.content, Channel::Text)] {
                    self.complete_parts(list, channel, out);
                }
                if !self.is_translated_native() {
                    // an item without any text is still an item
                    self.open_native_item(out);
                }
            }
        }
        let translated = self.is_translated_native();
        if let Some(open) = &mut self.open {
            open.extra = merged(&open.extra, &extra(raw, translated));
        }
    }

    fn complete_parts(&mut self, list: Option<&RawValue>, default: Channel, out: &mut Vec<u8>) {
        let Some(list) = present(list) else { return };
        if let Some(whole) = json::literal(list) {
            let item = self.native.current();
            let place = item.map_or(Place::Closed, |item| item.parts.place_at(default, 0));
            return self.complete_text(default, place, whole, out);
        }
        let (parts, count) = first_elements(list.get(), MOST_ITEMS).unwrap_or_default();
        self.dropped += (count - parts.len()) as u64;
        for (position, raw) in parts.into_iter().enumerate() {
            let Some(item) = self.native.current() else { return };
            let part: Part<'_> = fields(raw).unwrap_or_default();
            let kind = part.r#type.and_then(json::decode).unwrap_or_default();
            if let Some(channel) = Channel::of_part(&kind) {
                let place = item.parts.place_at(channel, position as u64);
                self.complete_part(&part, channel, place, out);
            } else {
                self.dropped += 1;
            }
        }
    }

    /// Opens the current item, unless it is open or its kind is not known yet.
    pub(super) fn open_native_item(&mut self, out: &mut Vec<u8>) {
        let compacts = self.plan.compacts.is_some();
        let Some(item) = self.native.current() else { return };
        if compacts || !item.is_pending() || !item.is_known() {
            return;
        }
        let kind = match item.kind() {
            ItemKind::Message => (OpenKind::Message, ids::MESSAGE),
            ItemKind::Reasoning => (OpenKind::Reasoning, ids::REASONING),
            ItemKind::FunctionCall | ItemKind::CustomToolCall => return self.open_native_call(out),
            ItemKind::Hosted => {
                let whole = item.whole().to_owned();
                let kind = json::members(&whole).unwrap_or_default();
                let kind =
                    kind.iter().find(|(key, _)| key == "type").and_then(|(_, value)| json::decode(value));
                let prefix = ids::prefix_of(&kind.unwrap_or_default());
                (OpenKind::Hosted(HostedItem::Announced(whole)), prefix)
            }
        };
        item.open();
        self.begin_native_item(kind, out);
    }

    /// Opens the current item as `kind`. The upstream's id is kept when it speaks Responses fully, because it looks up
    /// its sealed reasoning by id. A generated id tells the store whose response the item belongs to.
    fn begin_native_item(&mut self, (kind, prefix): (OpenKind, &str), out: &mut Vec<u8>) {
        let translated = self.is_translated_native();
        let Some(item) = self.native.current() else { return };
        let (id, extra) = (item.id().to_owned(), std::mem::take(&mut item.extra));
        let kept = if translated { None } else { self.native.reuse_id(&id, prefix) };
        let id = kept.unwrap_or_else(|| self.ids.item(prefix));
        self.open_item_as(kind, id, extra, out);
    }

    fn open_native_call(&mut self, out: &mut Vec<u8>) {
        let Some(item) = self.native.current() else { return };
        let (custom, call_id) = (item.kind() == ItemKind::CustomToolCall, item.call_id().to_owned());
        let call_id = match self.native.earlier(&call_id) {
            Earlier::None => call_id,
            // clients identify a call by its id: two with the same one would be mixed up
            Earlier::OtherCall => format!("{call_id}_{}", self.items.next_index()),
            Earlier::SameCall => return self.leave_out(),
        };
        if custom || !self.is_translated_native() {
            self.open_declared_call(custom, call_id, out);
        } else {
            self.open_function(call_id, out);
        }
    }

    /// Opens a call of a tool that the upstream knows as the client declared it.
    fn open_declared_call(&mut self, custom: bool, call_id: String, out: &mut Vec<u8>) {
        let slot = self.calls.len();
        let Some(item) = self.native.current() else { return };
        item.open_call(slot);
        let (name, namespace) = (item.name().to_owned(), item.namespace().map(str::to_owned));
        let call_id = if call_id.is_empty() { self.ids.item("call_") } else { call_id };
        self.calls.push(CallSlot {
            id: call_id.clone(),
            name: name.clone(),
            stage: Stage::Begun,
            ..CallSlot::default()
        });
        let prefix = if custom { ids::CUSTOM_TOOL_CALL } else { ids::FUNCTION_CALL };
        let call = Call { slot, custom, name, namespace, call_id, encrypts: false };
        self.begin_native_item((OpenKind::Call(call), prefix), out);
    }

    /// Opens a call of a function that stands for a declared tool.
    fn open_function(&mut self, call_id: String, out: &mut Vec<u8>) {
        let slot = self.calls.len();
        if self.plan.one_call && slot > 0 {
            return self.leave_out();
        }
        self.release_as_reasoning(out);
        let Some(item) = self.native.current() else { return };
        item.open_call(slot);
        let name = item.name().to_owned();
        self.calls.push(CallSlot { index: slot as u64, id: call_id, name, ..CallSlot::default() });
        self.open_call(slot, out);
        if self.open.is_none()
            && let Some(item) = self.native.current()
        {
            item.leave_out();
        }
    }

    /// Leaves the current item out of the response.
    fn leave_out(&mut self) {
        if let Some(item) = self.native.current() {
            item.leave_out();
            self.dropped += 1;
        }
    }

    /// Adds an escaped piece to a call's arguments or input.
    pub(super) fn add_native_arguments(&mut self, piece: &str, out: &mut Vec<u8>) {
        self.open_native_item(out);
        let Some(item) = self.native.current().filter(|item| !item.is_left_out()) else { return };
        item.received.push_str(piece);
        let slot = item.slot();
        if let Some(slot) = slot.and_then(|slot| self.calls.get_mut(slot)) {
            let piece = slot.surrogates.join(piece);
            slot.waiting.push_str(&piece);
        }
        self.drain_open_call(out);
    }

    /// Processes the whole arguments or input of a call, and sends the part that has not been sent.
    pub(super) fn complete_arguments(&mut self, whole: Option<&RawValue>, out: &mut Vec<u8>) {
        let whole = match present(whole) {
            None => String::new(),
            Some(raw) => match json::literal(raw) {
                Some(text) => text.to_owned(),
                None => json::escape(&minify(raw.get())).into_owned(),
            },
        };
        let received = self.native.current().map(|item| item.received.clone()).unwrap_or_default();
        match remaining(&received, &whole) {
            Some(rest) => self.add_native_arguments(&rest, out),
            None => self.dropped += u64::from(!whole.is_empty()),
        }
    }
}

/// The part of `whole` that follows `sent`; `None` if `whole` does not begin with it. Both are escaped, perhaps
/// differently.
fn remaining(sent: &str, whole: &str) -> Option<String> {
    if let Some(rest) = whole.strip_prefix(sent) {
        return Some(rest.to_owned());
    }
    let (sent, whole) = (json::unescape(sent)?, json::unescape(whole)?);
    whole.strip_prefix(&*sent).map(|rest| json::escape(rest).into_owned())
}

/// The members of an item that `OpenItem` does not write itself, each with a leading comma. Null and empty ones are
/// left out. `sealed`: `encrypted_content` is left out too, because the proxy writes its own.
pub(super) fn extra(item: &RawValue, sealed: bool) -> String {
    let mut out = Vec::new();
    for (key, value) in json::members(item.get()).unwrap_or_default() {
        let ours = MODELLED.contains(&&*key) || sealed && key == "encrypted_content";
        if !ours && !matches!(value.get(), "null" | "\"\"") {
            out.push(b',');
            json::push_string(&mut out, &key);
            out.push(b':');
            out.extend_from_slice(minify(value.get()).as_bytes());
        }
    }
    String::from_utf8(out).unwrap_or_default()
}

/// Merges the members announced with those of the `done` event, which win. A `phase` stays as announced: clients have
/// already acted on it.
fn merged(announced: &str, done: &str) -> String {
    let object = |members: &str| format!("{{{}}}", members.trim_start_matches(','));
    let (before, after) = (object(announced), object(done));
    let before = json::members(&before).unwrap_or_default();
    let after = json::members(&after).unwrap_or_default();
    let stays = |key: &str| before.iter().any(|(known, _)| known == "phase" && key == "phase");
    let replaced = |key: &str| after.iter().any(|(known, _)| known == key);
    let new = after.iter().filter(|(key, _)| !stays(key));
    let old = before.iter().filter(|(key, _)| stays(key) || !replaced(key));
    let mut out = Vec::with_capacity(announced.len() + done.len());
    for (key, value) in new.chain(old) {
        out.push(b',');
        json::push_string(&mut out, key);
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    String::from_utf8(out).unwrap_or_default()
}

/// Members that `OpenItem` writes itself.
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
