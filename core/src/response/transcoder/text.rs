//! Owns the text of an answer: reasoning, message and refusal, what of it waits, and its log probabilities. It must not
//! end the response.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::ids;
use crate::options::ReasoningDisplay;
use crate::response::open_item::{
    Family, Kind, OUTPUT_TEXT, Open, REASONING_TEXT, REFUSAL, SUMMARY, append_logprobs,
};
use crate::response::transcoder::Transcoder;
use crate::wire::chat::{Logprobs, TokenLogprob};
use crate::wire::json::{self, SurrogateJoiner, compact};

/// Where text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Reasoning,
    Text,
    Refusal,
}

/// What a channel holds back.
#[derive(Debug, Default)]
pub(super) struct TextChannel {
    /// Half of a surrogate pair.
    pub(super) seam: SurrogateJoiner,
    /// White space that has opened no item yet, and its log probabilities.
    pub(super) blank: String,
    pub(super) blank_logprobs: String,
}

impl Transcoder {
    /// Takes a piece of text, escaped.
    pub(super) fn say(&mut self, channel: Channel, piece: &str, out: &mut Vec<u8>) {
        if self.think.reads() && !piece.is_empty() {
            match channel {
                Channel::Text => return self.think(piece, out),
                Channel::Reasoning if self.think.awaits_text() => {}
                Channel::Reasoning => self.begin_separate(out),
                Channel::Refusal => self.end_think(out),
            }
        }
        // hardly any piece does
        if (self.think.marked || matches!(piece.as_bytes(), [.., b'>']))
            && channel == Channel::Text
            && self.think.marks(piece)
        {
            return self.say_marked(piece, out);
        }
        self.say_on(channel, piece, out);
    }

    /// Takes a piece of text that has been looked at.
    #[inline(always)]
    pub(super) fn say_on(&mut self, channel: Channel, piece: &str, out: &mut Vec<u8>) {
        let channel = match channel {
            _ if self.plan.compacts.is_some() => {
                if channel == Channel::Text {
                    let piece = self.text.seam.join(piece);
                    self.summary.push_str(&piece);
                }
                return;
            }
            Channel::Reasoning if self.hides_reasoning() && !self.plan.seals_reasoning => return,
            Channel::Text if self.held.is_some() && self.holds_text() => return self.hold_text(piece),
            Channel::Refusal if self.plan.refusal_as_text => Channel::Text,
            other => other,
        };
        let piece = self.flow(channel).seam.join(piece);
        self.put(channel, &piece, out);
    }

    fn hides_reasoning(&self) -> bool {
        self.plan.reasoning == ReasoningDisplay::Hidden
    }

    #[inline(always)]
    pub(super) fn flow(&mut self, channel: Channel) -> &mut TextChannel {
        match channel {
            Channel::Reasoning => &mut self.reasoning,
            Channel::Text => &mut self.text,
            Channel::Refusal => &mut self.refusal,
        }
    }

    pub(super) fn put(&mut self, channel: Channel, piece: &str, out: &mut Vec<u8>) {
        if piece.is_empty() {
            return;
        }
        if self.call_in_the_way() {
            let logprobs = std::mem::take(&mut self.logprobs);
            self.late_bytes += piece.len() + logprobs.len() + size_of::<(Channel, String, String)>();
            self.late.push((channel, piece.to_owned(), logprobs));
            return;
        }
        let fits = match (&self.open, channel) {
            (Some(open), Channel::Reasoning) => matches!(open.kind, Kind::Reasoning),
            (Some(open), _) => matches!(open.kind, Kind::Message),
            (None, _) => false,
        };
        let mut joined = Cow::Borrowed(piece);
        if !fits {
            if is_blank(piece) {
                let logprobs = std::mem::take(&mut self.logprobs);
                let flow = self.flow(channel);
                flow.blank.push_str(piece);
                append_logprobs(&mut flow.blank_logprobs, &logprobs);
                return;
            }
            self.close(false, out);
            let (kind, prefix) = match channel {
                Channel::Reasoning => (Kind::Reasoning, ids::REASONING),
                _ => (Kind::Message, ids::MESSAGE),
            };
            self.begin(kind, prefix, out);
        }
        if self.last != channel {
            if let Some(mut open) = self.open.take() {
                self.pay(&mut open, out);
                self.open = Some(open);
            }
            self.last = channel;
        }
        let flow = self.flow(channel);
        if !flow.blank.is_empty() {
            joined = Cow::Owned(std::mem::take(&mut flow.blank) + piece);
            let mut logprobs = std::mem::take(&mut flow.blank_logprobs);
            append_logprobs(&mut logprobs, &self.logprobs);
            self.logprobs = logprobs;
        }
        if channel == Channel::Reasoning && self.plan.seals_reasoning {
            self.raw_reasoning.push_str(&joined);
            if self.hides_reasoning() {
                return;
            }
        }
        let family: &'static Family = match channel {
            Channel::Text => &OUTPUT_TEXT,
            Channel::Refusal => &REFUSAL,
            Channel::Reasoning if self.plan.reasoning == ReasoningDisplay::Text => &REASONING_TEXT,
            Channel::Reasoning => &SUMMARY,
        };
        let Some(open) = &mut self.open else { return };
        open.part(&mut self.events, out, family, self.plan.logprobs);
        open.delta(&mut self.events, out, &joined, self.plan.logprobs.then_some(self.logprobs.as_str()));
        if channel == Channel::Text && self.plan.logprobs {
            self.logprobs.clear();
        }
        if !fits && self.owes_annotations(channel) {
            self.put_annotations(out);
        }
    }

    pub(super) fn put_late(&mut self, out: &mut Vec<u8>) {
        self.late_bytes = 0;
        for (channel, piece, logprobs) in std::mem::take(&mut self.late) {
            let current = std::mem::replace(&mut self.logprobs, logprobs);
            self.put(channel, &piece, out);
            self.logprobs = current;
        }
    }

    /// Sends the half of a surrogate pair that the open part of a message still owes.
    pub(super) fn pay(&mut self, open: &mut Open, out: &mut Vec<u8>) {
        let last = self.last;
        if !matches!(open.kind, Kind::Message) || last == Channel::Reasoning || !open.has_part() {
            return;
        }
        let rest = self.flow(last).seam.flush();
        open.delta(&mut self.events, out, rest, None);
    }

    /// Reads `logprobs.content`.
    pub(super) fn take_logprobs(&mut self, raw: &RawValue) {
        let Ok(Logprobs { content: Some(tokens) }) = serde_json::from_str::<Logprobs<'_>>(raw.get()) else {
            return;
        };
        self.add_logprobs(&tokens);
    }

    /// Adds the log probabilities of some tokens to what waits for the next piece of text.
    pub(super) fn add_logprobs(&mut self, tokens: &[TokenLogprob<'_>]) {
        for token in tokens {
            if !self.logprobs.is_empty() {
                self.logprobs.push(',');
            }
            write_logprob(&mut self.logprobs, token, true);
        }
    }
}

fn write_logprob(out: &mut String, token: &TokenLogprob<'_>, top: bool) {
    out.push_str("{\"token\":\"");
    out.push_str(&json::text(token.token).unwrap_or_default());
    out.push_str("\",\"logprob\":");
    // vLLM writes -9999.0 for what cannot be; JSON has no infinity
    let number = token.logprob.get().starts_with(|c: char| c == '-' || c.is_ascii_digit());
    out.push_str(if number { token.logprob.get() } else { "-9999.0" });
    out.push_str(",\"bytes\":");
    match token.bytes {
        Some(raw) if serde_json::from_str::<Vec<u8>>(raw.get()).is_ok() => out.push_str(&compact(raw.get())),
        _ => out.push_str("[]"),
    }
    if top {
        out.push_str(",\"top_logprobs\":[");
        for (n, token) in token.top_logprobs.iter().flatten().enumerate() {
            if n > 0 {
                out.push(',');
            }
            write_logprob(out, token, false);
        }
        out.push(']');
    }
    out.push('}');
}

/// Whether an escaped text is white space alone.
pub(super) fn is_blank(escaped: &str) -> bool {
    let mut bytes = escaped.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' => {}
            b'\\' if matches!(bytes.next(), Some(b'n' | b'r' | b't')) => {}
            _ => return false,
        }
    }
    true
}
