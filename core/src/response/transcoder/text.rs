//! Owns the text of a chat answer: when it opens an item, which of it waits, and its log probabilities. It must not end
//! the response.

use serde_json::value::RawValue;

use crate::ids;
use crate::response::channel::Channel;
use crate::response::open_item::{Ending, OpenKind, append_logprobs};
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::output::TextDestination;
use crate::wire::chat::{Logprobs, TokenLogprob};
use crate::wire::escaped::is_blank;
use crate::wire::json::{self, SurrogateJoiner, minify};

/// Text that arrived while a call with incomplete arguments was open.
#[derive(Debug, Default)]
pub(super) struct TextDuringCall {
    /// Channel, escaped text and log probabilities of each piece.
    pieces: Vec<(Channel, String, String)>,
    bytes: usize,
}

impl TextDuringCall {
    fn push(&mut self, channel: Channel, piece: &str, logprobs: String) {
        self.bytes += piece.len() + logprobs.len() + size_of::<(Channel, String, String)>();
        self.pieces.push((channel, piece.to_owned(), logprobs));
    }

    /// Takes the pieces, leaving none.
    pub(super) fn take(&mut self) -> Vec<(Channel, String, String)> {
        self.bytes = 0;
        std::mem::take(&mut self.pieces)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes held.
    pub(super) fn held(&self) -> usize {
        self.bytes
    }
}

/// Text of a channel that is held back.
#[derive(Debug, Default)]
pub(super) struct HeldChannel {
    /// The first half of a surrogate pair.
    pub(super) surrogates: SurrogateJoiner,
    /// White space that has not opened an item yet, and its log probabilities.
    pub(super) blank: String,
    pub(super) blank_logprobs: String,
}

/// The texts of an answer that are held back, by channel.
#[derive(Debug)]
pub(super) struct Texts {
    text: HeldChannel,
    reasoning: HeldChannel,
    refusal: HeldChannel,
    /// The channel of the open part.
    last: Channel,
    pub(super) late: TextDuringCall,
}

impl Texts {
    pub(super) fn new() -> Texts {
        Texts {
            text: HeldChannel::default(),
            reasoning: HeldChannel::default(),
            refusal: HeldChannel::default(),
            last: Channel::Text,
            late: TextDuringCall::default(),
        }
    }

    /// What a channel holds back. Reasoning and its summary share it: an answer has only one of them at a time.
    #[inline(always)]
    pub(super) fn channel(&mut self, channel: Channel) -> &mut HeldChannel {
        match channel {
            Channel::Reasoning | Channel::Summary => &mut self.reasoning,
            Channel::Text => &mut self.text,
            Channel::Refusal => &mut self.refusal,
        }
    }

    /// The channel of the open part.
    #[inline(always)]
    pub(super) fn last(&self) -> Channel {
        self.last
    }

    /// Records that the part of this channel is open.
    #[inline(always)]
    pub(super) fn set_last(&mut self, channel: Channel) {
        self.last = channel;
    }
}

impl Transcoder {
    /// Processes an escaped piece of a chat answer's text, which may hold reasoning tags and end marks.
    pub(super) fn take_text(&mut self, channel: Channel, piece: &str, out: &mut Vec<u8>) {
        if self.think.is_searching() && !piece.is_empty() {
            match channel {
                Channel::Text => return self.search_tags(piece, out),
                Channel::Reasoning | Channel::Summary if self.think.awaits_text() => {}
                Channel::Reasoning | Channel::Summary => self.begin_separate(out),
                Channel::Refusal => self.end_think(out),
            }
        }
        // cheap test first: hardly any piece ends like this
        if (self.think.marked || matches!(piece.as_bytes(), [.., b'>']))
            && channel == Channel::Text
            && self.think.marks(piece)
        {
            return self.take_marked(piece, out);
        }
        self.route_text(channel, piece, out);
    }

    /// Processes an escaped piece of text without tags and marks.
    #[inline(always)]
    pub(super) fn route_text(&mut self, channel: Channel, piece: &str, out: &mut Vec<u8>) {
        match self.destination(channel) {
            TextDestination::Item(channel) => {
                let piece = self.texts.channel(channel).surrogates.join(piece);
                self.emit_text(channel, &piece, out);
            }
            destination => self.store_text(destination, piece),
        }
    }

    /// Sends a piece of text in the item it belongs to, opening that if needed. While an incomplete call is open the
    /// piece waits; white space alone does not open an item.
    pub(super) fn emit_text(&mut self, channel: Channel, piece: &str, out: &mut Vec<u8>) {
        if piece.is_empty() {
            return;
        }
        if self.has_incomplete_call() {
            let logprobs = std::mem::take(&mut self.logprobs);
            return self.texts.late.push(channel, piece, logprobs);
        }
        let open = match &self.open {
            Some(open) if channel.is_reasoning() => matches!(open.kind, OpenKind::Reasoning),
            Some(open) => matches!(open.kind, OpenKind::Message),
            None => false,
        };
        if !open {
            if is_blank(piece) {
                return self.hold_blank(channel, piece);
            }
            self.close(Ending::Completed, out);
            match channel.is_reasoning() {
                true => self.open_item(OpenKind::Reasoning, ids::REASONING, out),
                false => self.open_item(OpenKind::Message, ids::MESSAGE, out),
            }
        }
        if self.texts.last() != channel {
            self.flush_surrogate(out);
            self.texts.set_last(channel);
        }
        if self.texts.channel(channel).blank.is_empty() {
            self.write_text(channel, piece, out);
        } else {
            let piece = self.take_blank(channel) + piece;
            self.write_text(channel, &piece, out);
        }
        if !open && self.has_pending_annotations(channel) {
            self.send_annotations(out);
        }
    }

    fn hold_blank(&mut self, channel: Channel, piece: &str) {
        let logprobs = std::mem::take(&mut self.logprobs);
        let channel = self.texts.channel(channel);
        channel.blank.push_str(piece);
        append_logprobs(&mut channel.blank_logprobs, &logprobs);
    }

    /// Takes the held white space of a channel, with its log probabilities put before those of the text.
    fn take_blank(&mut self, channel: Channel) -> String {
        let channel = self.texts.channel(channel);
        let blank = std::mem::take(&mut channel.blank);
        let mut logprobs = std::mem::take(&mut channel.blank_logprobs);
        append_logprobs(&mut logprobs, &self.logprobs);
        self.logprobs = logprobs;
        blank
    }

    /// Sends the text that waited for a call to be complete.
    pub(super) fn emit_late_text(&mut self, out: &mut Vec<u8>) {
        for (channel, piece, logprobs) in self.texts.late.take() {
            let current = std::mem::replace(&mut self.logprobs, logprobs);
            self.emit_text(channel, &piece, out);
            self.logprobs = current;
        }
    }

    /// Processes the `logprobs` of a choice.
    pub(super) fn take_logprobs(&mut self, raw: &RawValue) {
        let Ok(Logprobs { content: Some(tokens) }) = serde_json::from_str::<Logprobs<'_>>(raw.get()) else {
            return;
        };
        self.add_logprobs(&tokens);
    }

    /// Adds the log probabilities of tokens to those of the next piece of text.
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
    // vLLM replaces -infinity by -9999.0, because JSON has no infinity
    let number = token.logprob.get().starts_with(|c: char| c == '-' || c.is_ascii_digit());
    out.push_str(if number { token.logprob.get() } else { "-9999.0" });
    out.push_str(",\"bytes\":");
    match token.bytes {
        Some(raw) if serde_json::from_str::<Vec<u8>>(raw.get()).is_ok() => out.push_str(&minify(raw.get())),
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
