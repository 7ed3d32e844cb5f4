//! Owns what of a native item is still owed: its text or arguments came in deltas, or whole when they were done, or
//! both; its item opens with the first of them. It must not decide when an item ends.

use serde_json::value::RawValue;

use crate::fields::present;
use crate::ids;
use crate::options::ReasoningDisplay;
use crate::response::native_items::{ItemKind, PartMatch, Text};
use crate::response::open_item::{Call, Family, Kind, OUTPUT_TEXT, REASONING_TEXT, REFUSAL, SUMMARY};
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::bounds::MOST_ITEMS;
use crate::response::transcoder::call_slot::{Slot, Stage};
use crate::response::transcoder::text::is_blank;
use crate::wire::chat::TokenLogprob;
use crate::wire::json::{self, compact};
use crate::wire::native_event::{Event, Item, Part};
use crate::wire::request::fields;
use crate::wire::trusted_json::first_elements;

impl Transcoder {
    pub(super) fn text_delta(
        &mut self,
        text: Text,
        index: Option<u64>,
        event: &Event<'_>,
        out: &mut Vec<u8>,
    ) {
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

    pub(super) fn text_done(&mut self, text: Text, index: Option<u64>, event: &Event<'_>, out: &mut Vec<u8>) {
        let whole = if text == Text::Refusal { event.refusal.or(event.text) } else { event.text };
        let Some(whole) = whole.and_then(json::literal) else { return };
        let Some(entry) = self.mend.current() else { return };
        let turn = entry.turn(text, index);
        self.settle_text(text, turn, whole, out);
    }

    /// Adds a piece to a text, opening item and part where they are not open.
    fn write_text(&mut self, text: Text, turn: PartMatch, piece: &str, out: &mut Vec<u8>) {
        let reasoning = matches!(text, Text::Raw | Text::Summary);
        if turn == PartMatch::Late {
            self.dropped += u64::from(!piece.is_empty());
            return;
        }
        let hidden = reasoning && self.plan.reasoning == ReasoningDisplay::Hidden;
        let sealed = reasoning && self.plan.seals_reasoning;
        if hidden && !sealed {
            return;
        }
        let functions = self.functions();
        let holds = text == Text::Output && self.holds_text();
        let Some(entry) = self.mend.current() else { return };
        if self.plan.compacts.is_some() {
            entry.heard.push_str(piece);
            if text == Text::Output {
                let piece = self.mend.seam.join(piece);
                self.summary.push_str(&piece);
            }
            return;
        }
        if holds {
            if turn == PartMatch::New {
                entry.heard.clear();
            }
            entry.heard.push_str(piece);
            return self.hold_text(piece);
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
        if turn == PartMatch::New {
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
        open.delta(&mut self.events, out, &piece, self.plan.logprobs.then_some(self.logprobs.as_str()));
        self.logprobs.clear();
    }

    /// Sends the half of a surrogate pair that the open part or call still owes.
    pub(super) fn settle_seam(&mut self, out: &mut Vec<u8>) {
        let rest = self.mend.seam.flush();
        if let Some(open) = self.open.as_mut().filter(|open| !rest.is_empty() && open.has_part()) {
            open.delta(&mut self.events, out, rest, None);
        }
    }

    /// Sends what of a text was not sent yet.
    fn settle_text(&mut self, text: Text, turn: PartMatch, whole: &str, out: &mut Vec<u8>) {
        if turn == PartMatch::Late {
            return;
        }
        self.settle_seam(out);
        // what becomes no text of the client's yet
        let kept = self.plan.compacts.is_some() || text == Text::Output && self.holds_text();
        let Some(entry) = self.mend.current() else { return };
        let unsent = if kept && turn == PartMatch::Same { &entry.heard } else { &entry.blank }.clone();
        let sent = match (&self.open, &turn) {
            (Some(open), PartMatch::Same) if open.has_part() => open.text.clone(),
            _ => unsent,
        };
        match rest(&sent, whole) {
            Some(rest) => self.write_text(text, turn, &rest, out),
            // it said one thing and then another: what was sent stays
            None => self.dropped += 1,
        }
    }

    pub(super) fn settle_part(&mut self, part: &Part<'_>, text: Text, turn: PartMatch, out: &mut Vec<u8>) {
        if turn == PartMatch::Late {
            return;
        }
        if turn == PartMatch::New
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
        let annotations = part.annotations.and_then(|raw| first_elements(raw.get(), MOST_ITEMS));
        let (annotations, _) = annotations.unwrap_or_default();
        if let Some(open) = &mut self.open {
            for annotation in annotations.iter().skip(open.annotated() as usize) {
                open.annotate(&mut self.events, out, &compact(annotation.get()));
            }
        }
    }

    /// Sends what of a finished item was not sent yet.
    pub(super) fn settle_item(&mut self, raw: &RawValue, out: &mut Vec<u8>) {
        let item: Item<'_> = fields(raw).unwrap_or_default();
        let Some(entry) = self.mend.current() else { return };
        entry.done = true;
        entry.cut = item.status.is_some_and(|status| status.get() == "\"incomplete\"");
        match entry.sort {
            ItemKind::Call(custom) => {
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
            open.extra = merged(&open.extra, &extra(raw, functions));
        }
    }

    fn settle_parts(&mut self, list: Option<&RawValue>, default: Text, out: &mut Vec<u8>) {
        let Some(list) = present(list) else { return };
        if let Some(whole) = json::literal(list) {
            let turn = self.mend.current().map_or(PartMatch::Late, |entry| entry.turn_at(default, 0));
            return self.settle_text(default, turn, whole, out);
        }
        let (parts, count) = first_elements(list.get(), MOST_ITEMS).unwrap_or_default();
        self.dropped += (count - parts.len()) as u64;
        for (position, raw) in parts.into_iter().enumerate() {
            let Some(entry) = self.mend.current() else { return };
            let part: Part<'_> = fields(raw).unwrap_or_default();
            let kind = part.r#type.and_then(json::decode).unwrap_or_default();
            if let Some(text) = Text::of_part(&kind) {
                let turn = entry.turn_at(text, position as u64);
                self.settle_part(&part, text, turn, out);
            } else {
                self.dropped += 1;
            }
        }
    }

    /// Opens the current item, unless it is open.
    pub(super) fn open_item(&mut self, out: &mut Vec<u8>) {
        let number = self.count;
        let functions = self.functions();
        let compacts = self.plan.compacts.is_some();
        let Some(entry) = self.mend.current() else { return };
        if compacts || entry.opened.is_some() || entry.skipped || !entry.ready() {
            return;
        }
        entry.opened = Some(number);
        let id = entry.id.clone();
        match entry.sort {
            ItemKind::Message => {
                self.mend.wanted = self.kept(&id, ids::MESSAGE);
                self.begin(Kind::Message, ids::MESSAGE, out);
            }
            ItemKind::Reasoning => {
                self.mend.wanted = self.kept(&id, ids::REASONING);
                self.begin(Kind::Reasoning, ids::REASONING, out);
            }
            ItemKind::Call(custom) => {
                let call_id = call_id(&entry.call_id, &entry.id).unwrap_or_default();
                let call_id = match self.mend.twin(&call_id) {
                    None => call_id,
                    // two calls of one id would be executed twice under it
                    Some(true) => format!("{call_id}_{number}"),
                    Some(false) => return self.skip(),
                };
                if custom || !functions {
                    self.open_call(custom, call_id, out);
                } else {
                    self.open_function(call_id, out);
                }
            }
            ItemKind::Own => {}
        }
    }

    /// The upstream's id, where that matters: a server that seals its reasoning does not know it again under another.
    /// Ours are found by the store.
    fn kept(&mut self, id: &str, prefix: &str) -> Option<String> {
        if self.functions() { None } else { self.mend.keep(id, prefix) }
    }

    /// A call of a tool that the upstream knows as the client declared it.
    fn open_call(&mut self, custom: bool, call_id: String, out: &mut Vec<u8>) {
        let slot = self.calls.len();
        let Some(entry) = self.mend.current() else { return };
        entry.slot = slot;
        let (id, name, namespace) = (entry.id.clone(), entry.name.clone(), entry.namespace.clone());
        let call_id = if call_id.is_empty() { self.ids.item("call_") } else { call_id };
        self.calls.push(Slot {
            id: call_id.clone(),
            name: name.clone(),
            stage: Stage::Begun,
            ..Slot::default()
        });
        let prefix = if custom { ids::CUSTOM_TOOL_CALL } else { ids::FUNCTION_CALL };
        self.mend.wanted = self.kept(&id, prefix);
        self.begin(Kind::Call(Call { slot, custom, name, namespace, call_id, encrypts: false }), prefix, out);
    }

    /// A call of a function that stands for a declared tool.
    fn open_function(&mut self, call_id: String, out: &mut Vec<u8>) {
        let slot = self.calls.len();
        if self.plan.one_call && slot > 0 {
            return self.skip();
        }
        self.hold_no_longer(out);
        let Some(entry) = self.mend.current() else { return };
        entry.slot = slot;
        let name = entry.name.clone();
        self.calls.push(Slot { index: slot as u64, id: call_id, name, ..Slot::default() });
        self.begin_call(slot, out);
        if self.open.is_none()
            && let Some(entry) = self.mend.current()
        {
            entry.skipped = true;
        }
    }

    /// Leaves the current item out.
    fn skip(&mut self) {
        if let Some(entry) = self.mend.current() {
            entry.skipped = true;
            self.dropped += 1;
        }
    }

    /// Adds a piece to a call's arguments or input.
    pub(super) fn arguments(&mut self, piece: &str, out: &mut Vec<u8>) {
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

    pub(super) fn settle_arguments(&mut self, whole: Option<&RawValue>, out: &mut Vec<u8>) {
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
pub(super) fn extra(item: &RawValue, sealed: bool) -> String {
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

/// Members as they were announced and as they were done. A phase stays what it was: clients act on it.
fn merged(announced: &str, done: &str) -> String {
    let object = |members: &str| format!("{{{}}}", members.trim_start_matches(','));
    let (before, after) = (object(announced), object(done));
    let before = json::members(&before).unwrap_or_default();
    let after = json::members(&after).unwrap_or_default();
    let stays = |key: &str| before.iter().any(|(known, _)| known == "phase" && key == "phase");
    let told = |key: &str| after.iter().any(|(known, _)| known == key);
    let new = after.iter().filter(|(key, _)| !stays(key));
    let old = before.iter().filter(|(key, _)| stays(key) || !told(key));
    let mut out = Vec::with_capacity(announced.len() + done.len());
    for (key, value) in new.chain(old) {
        out.push(b',');
        json::push_string(&mut out, key);
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
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
