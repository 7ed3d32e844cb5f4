//! Owns the operations that both chat chunks and native events end in: opening an item, adding text or arguments,
//! closing it. It must not decide when they happen.

use crate::options::ReasoningDisplay;
use crate::response::channel::{Channel, OUTPUT_TEXT, PartKind, REASONING_TEXT, REFUSAL, SUMMARY};
use crate::response::open_item::{Ending, OpenItem, OpenKind};
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::call_slot::Stage;
use crate::sealing::Purpose;
use crate::tools::custom_input::CustomInput;
use crate::wire::escaped::is_blank;
use crate::wire::json;

/// Where the text of a channel goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextDestination {
    /// Into an item, as text of this channel.
    Item(Channel),
    /// Into the text that is checked against its format before the client sees it.
    Held,
    /// Into the summary of the conversation.
    Compaction,
    /// Nowhere: the client did not ask for it.
    Nowhere,
}

impl Transcoder {
    /// Where the text of a channel goes, by what the request asked for.
    #[inline(always)]
    pub(super) fn destination(&self, channel: Channel) -> TextDestination {
        match channel {
            Channel::Text if self.plan.compacts.is_some() => TextDestination::Compaction,
            _ if self.plan.compacts.is_some() => TextDestination::Nowhere,
            Channel::Text if self.held.is_some() && self.holds_text() => TextDestination::Held,
            Channel::Refusal if self.plan.refusal_as_text => TextDestination::Item(Channel::Text),
            Channel::Reasoning | Channel::Summary if self.hides_reasoning() && !self.plan.seals_reasoning => {
                TextDestination::Nowhere
            }
            channel => TextDestination::Item(channel),
        }
    }

    fn hides_reasoning(&self) -> bool {
        self.plan.reasoning == ReasoningDisplay::Hidden
    }

    /// Stores an escaped piece of text that does not go into an item.
    pub(super) fn store_text(&mut self, destination: TextDestination, piece: &str) {
        match destination {
            TextDestination::Held => self.hold_text(piece),
            TextDestination::Compaction => {
                let piece = self.texts.channel(Channel::Text).surrogates.join(piece);
                self.summary.push_str(&piece);
            }
            TextDestination::Item(_) | TextDestination::Nowhere => {}
        }
    }

    /// Opens an item under a generated id.
    pub(super) fn open_item(&mut self, kind: OpenKind, prefix: &str, out: &mut Vec<u8>) {
        let id = self.ids.item(prefix);
        self.open_item_as(kind, id, String::new(), out);
    }

    /// Opens an item. `extra`: members that only the upstream knows, each with a leading comma.
    pub(super) fn open_item_as(&mut self, kind: OpenKind, id: String, extra: String, out: &mut Vec<u8>) {
        self.open = Some(OpenItem::begin(&mut self.events, out, kind, id, self.items.next_index(), extra));
        self.items.count();
    }

    /// Appends escaped text to the open item, in the part of its channel. Reasoning that is to be sealed is collected as
    /// well.
    #[inline(always)]
    pub(super) fn write_text(&mut self, channel: Channel, text: &str, out: &mut Vec<u8>) {
        if self.plan.seals_reasoning && channel.is_reasoning() {
            self.raw_reasoning.push_str(text);
            if self.hides_reasoning() {
                return;
            }
        }
        let part_kind = self.part_kind(channel);
        let Some(open) = &mut self.open else { return };
        open.part(&mut self.events, out, part_kind, self.plan.logprobs);
        open.delta(&mut self.events, out, text, self.plan.logprobs.then_some(self.logprobs.as_str()));
        if self.plan.logprobs && channel == Channel::Text {
            self.logprobs.clear();
        }
    }

    /// The kind of part that shows a channel. A chat server's reasoning is shown as a summary unless the request wants it
    /// as text; a server of the whole Responses API says itself which of the two it sends.
    #[inline(always)]
    fn part_kind(&self, channel: Channel) -> &'static PartKind {
        match channel {
            Channel::Text => &OUTPUT_TEXT,
            Channel::Refusal => &REFUSAL,
            Channel::Summary => &SUMMARY,
            Channel::Reasoning if self.plan.reasoning == ReasoningDisplay::Text || self.is_whole_native() => {
                &REASONING_TEXT
            }
            Channel::Reasoning => &SUMMARY,
        }
    }

    /// Sends the lone half of a surrogate pair that the open part still holds back.
    pub(super) fn flush_surrogate(&mut self, out: &mut Vec<u8>) {
        let last = self.texts.last();
        let rest = self.texts.channel(last).surrogates.flush();
        if rest.is_empty() {
            return;
        }
        if self.plan.seals_reasoning && last.is_reasoning() {
            self.raw_reasoning.push_str(rest);
        }
        if let Some(open) = self.open.as_mut().filter(|open| open.has_part()) {
            open.delta(&mut self.events, out, rest, None);
        }
    }

    /// Closes the open item, if there is one. `ending`: `Incomplete` if the upstream's answer ended inside the item.
    pub(super) fn close(&mut self, ending: Ending, out: &mut Vec<u8>) {
        let ending = match self.open.as_ref().map(|open| &open.kind) {
            None => return,
            Some(OpenKind::Call(call)) => self.end_call(call.slot, call.custom, ending, out),
            Some(OpenKind::Held { slot }) => self.end_held_call(*slot, ending, out),
            Some(OpenKind::Message) => {
                self.flush_surrogate(out);
                ending
            }
            Some(OpenKind::Reasoning) => {
                self.flush_surrogate(out);
                let sealed = self.seal_reasoning();
                if let Some(open) = &mut self.open {
                    open.sealed = sealed;
                    self.reasoning_seen.remember(&open.text);
                }
                ending
            }
            // a hosted item that the upstream left open is over as well
            Some(OpenKind::Hosted { .. }) => Ending::Completed,
            Some(OpenKind::Whole { .. } | OpenKind::Compaction { .. }) => ending,
        };
        let Some(open) = self.open.take() else { return };
        let (item, output_text) = open.end(&mut self.events, out, ending);
        self.items.push(item, output_text);
    }

    /// Sends the remaining arguments of the open call. A call with complete arguments is completed even if the answer
    /// was cut.
    fn end_call(&mut self, slot: usize, custom: bool, ending: Ending, out: &mut Vec<u8>) -> Ending {
        let mut ending = ending;
        let Some(open) = &mut self.open else { return ending };
        if let Some(slot) = self.calls.get_mut(slot) {
            slot.stage = Stage::Closed;
            let tools = &self.plan.tools;
            let waiting = slot.release(&open.text, tools, false, &mut self.repaired);
            open.delta(&mut self.events, out, &waiting, None);
            if ending == Ending::Incomplete && slot.complete(&open.text) {
                ending = Ending::Completed;
            }
            let rest = slot.release(&open.text, tools, true, &mut self.repaired);
            open.delta(&mut self.events, out, &rest, None);
            if let Some(later) = slot.later_arguments(&open.text) {
                match self.events.enabled {
                    true => self.dropped += 1,
                    // the last arguments win; without a stream, the client has not seen the first ones
                    false => open.text = later,
                }
            }
            self.repaired += slot.custom.as_ref().map(CustomInput::repaired).unwrap_or_default();
        }
        if ending == Ending::Completed && !custom && is_blank(&open.text) {
            open.delta(&mut self.events, out, "{}", None);
        }
        ending
    }

    /// Replaces a held call by the item that it stands for.
    fn end_held_call(&mut self, at: usize, ending: Ending, out: &mut Vec<u8>) -> Ending {
        let mut ending = ending;
        let Some(mut held) = self.open.take() else { return ending };
        if let Some(slot) = self.calls.get_mut(at) {
            slot.stage = Stage::Closed;
            let whole = slot.complete(&held.text);
            let rest = slot.release(&held.text, &self.plan.tools, true, &mut self.repaired);
            held.delta(&mut self.events, out, &rest, None);
            if whole || slot.complete(&held.text) {
                ending = Ending::Completed;
            }
            if let Some(later) = slot.later_arguments(&held.text) {
                held.text = later;
            }
        }
        self.open_held_call(at, &held.text, ending, out);
        ending
    }

    fn seal_reasoning(&mut self) -> Option<String> {
        let raw = std::mem::take(&mut self.raw_reasoning);
        let seal = self.plan.seal.as_ref().filter(|_| self.plan.seals_reasoning && !raw.is_empty())?;
        seal.seal(Purpose::Reasoning, &json::unescape(&raw)?)
    }
}
