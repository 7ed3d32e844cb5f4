//! Owns texts that arrive in another form than a string (parts, objects, lists of both), and reasoning under all its
//! member names. It must not lose a text because its wrapper is unknown.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::fields::present;
use crate::response::channel::Channel;
use crate::response::open_item::OpenKind;
use crate::response::transcoder::Transcoder;
use crate::wire::chat::Delta;
use crate::wire::json;
use crate::wire::trusted_json::{fields, first_elements};

/// How deeply parts may be nested.
const DEPTH: u8 = 6;
/// Shortest reasoning that is treated as a repetition, in bytes.
const SHORTEST_REPEAT: usize = 8;

/// A wrapped text. Only one of the members holds it.
#[derive(Default, Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    /// Mistral sends parts, Anthropic and its imitators a string.
    #[serde(borrow, default)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    /// OpenRouter, beside encrypted reasoning.
    #[serde(borrow, default)]
    summary: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    annotations: Option<&'a RawValue>,
}

/// What is remembered of an answer's reasoning to notice that it arrives again under a second name.
#[derive(Debug, Default)]
pub(super) struct ReasoningSeen {
    /// Position of the name under which it arrived first.
    name: Option<usize>,
    /// Fingerprint of the last finished reasoning.
    finished: Option<u64>,
}

impl ReasoningSeen {
    /// Remembers finished reasoning.
    pub(super) fn remember(&mut self, text: &str) {
        self.finished = Some(fingerprint(text));
    }
}

impl Transcoder {
    /// Processes the reasoning of a delta, once, even if it appears under several names.
    pub(super) fn take_reasoning(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        let named = delta.reasoning_content.is_some() || delta.reasoning.is_some();
        if !named && !delta.has_rare_member() {
            return;
        }
        let names = [
            delta.reasoning_content,
            delta.reasoning,
            delta.reasoning_text,
            delta.thinking,
            delta.reasoning_details,
            delta.thinking_blocks,
            delta.thought,
        ];
        let found = names.into_iter().enumerate().find_map(|(name, raw)| Some((name, may_hold_text(raw?)?)));
        let Some((name, raw)) = found else { return };
        if name != *self.reasoning_seen.name.get_or_insert(name) {
            // the fast path would not compare names
            self.repeat_path.forget();
            if self.repeats_reasoning(raw) {
                return;
            }
        }
        self.take_value(Channel::Reasoning, raw, out);
    }

    /// Whether reasoning under a second name repeats all that was received before.
    fn repeats_reasoning(&self, raw: &RawValue) -> bool {
        let mut all = String::new();
        walk(Channel::Reasoning, raw, DEPTH, &mut |found| {
            if let Found::Text(_, text) = found {
                all.push_str(text);
            }
        });
        // a single token may well occur twice
        let open = self.open.as_ref().filter(|open| matches!(open.kind, OpenKind::Reasoning));
        all.len() >= SHORTEST_REPEAT
            && match open {
                Some(open) => open.text == all,
                None => self.reasoning_seen.finished == Some(fingerprint(&all)),
            }
    }

    /// Processes a text in any form.
    pub(super) fn take_value(&mut self, channel: Channel, raw: &RawValue, out: &mut Vec<u8>) {
        match json::literal(raw) {
            Some(text) => self.take_text(channel, text, out),
            None => self.take_nested(channel, raw, out),
        }
    }

    fn take_nested(&mut self, channel: Channel, raw: &RawValue, out: &mut Vec<u8>) {
        walk(channel, raw, DEPTH, &mut |found| match found {
            Found::Text(channel, text) => self.take_text(channel, text, out),
            Found::Annotations(annotations) => self.annotate(annotations, out),
        });
    }
}

/// What `walk` finds in a value.
enum Found<'a> {
    /// An escaped text.
    Text(Channel, &'a str),
    Annotations(&'a RawValue),
}

/// Most parts of one list that are parsed. No real answer has so many, and parsing takes many times the bytes of a
/// list.
const MOST_PARTS: usize = 16_384;

/// Finds the texts and annotations of a value, in order.
fn walk<'a>(channel: Channel, raw: &'a RawValue, depth: u8, emit: &mut dyn FnMut(Found<'a>)) {
    if let Some(text) = json::literal(raw) {
        return emit(Found::Text(channel, text));
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    if let Some((parts, _)) = first_elements(raw.get(), MOST_PARTS) {
        for part in parts {
            walk(channel, part, depth, emit);
        }
    } else if let Some(part) = fields::<Part<'_>>(raw.get()) {
        let kind = present(part.r#type).and_then(json::decode).unwrap_or_default();
        let channel = match &*kind {
            kind if kind.contains("reason") || kind.contains("think") => Channel::Reasoning,
            "refusal" => Channel::Refusal,
            _ => channel,
        };
        let texts = [
            (channel, part.text),
            (Channel::Reasoning, part.thinking),
            (Channel::Reasoning, part.reasoning),
            (Channel::Refusal, part.refusal),
            (channel, part.summary),
            (channel, part.content),
            (channel, part.value),
        ];
        let found = texts.into_iter().find_map(|(channel, raw)| Some((channel, may_hold_text(raw?)?)));
        if let Some((channel, raw)) = found {
            walk(channel, raw, depth, emit);
        }
        if let Some(annotations) = part.annotations {
            emit(Found::Annotations(annotations));
        }
    }
}

/// Identifies finished reasoning, so that its text need not be kept.
fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The value, if it may hold a text.
fn may_hold_text(raw: &RawValue) -> Option<&RawValue> {
    let starts = raw.get().starts_with(['"', '[', '{']);
    (starts && !matches!(raw.get(), "\"\"" | "[]" | "{}")).then_some(raw)
}
