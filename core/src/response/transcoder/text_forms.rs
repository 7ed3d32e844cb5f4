//! Owns texts that come in another form than a string, and reasoning by all its names: parts, objects, lists of both.
//! It must not lose a text because its wrapper is unknown.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::fields::present;
use crate::response::channel::Channel;
use crate::response::open_item::Kind;
use crate::response::transcoder::Transcoder;
use crate::wire::chat::Delta;
use crate::wire::json;
use crate::wire::trusted_json::{fields, first_elements};

/// How deep parts lie within parts at most.
const DEPTH: u8 = 6;
/// Shortest reasoning that is taken for a repetition, in bytes.
const SHORTEST_REPEAT: usize = 8;

/// A text with its wrapper. Of several names one holds the text.
#[derive(Default, Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    /// Mistral: parts; Anthropic kin: a string.
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

/// What was seen of an answer's reasoning, to tell when it comes by a second name.
#[derive(Debug, Default)]
pub(super) struct ReasoningSeen {
    /// By which of its names it came first.
    name: Option<usize>,
    /// The last finished reasoning.
    finished: Option<u64>,
}

impl ReasoningSeen {
    /// This reasoning is finished.
    pub(super) fn remember(&mut self, text: &str) {
        self.finished = Some(fingerprint(text));
    }
}

impl Transcoder {
    /// Takes the reasoning of a delta, once, by however many names it comes.
    pub(super) fn take_reasoning(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        let named = delta.reasoning_content.is_some() || delta.reasoning.is_some();
        if !named && !delta.has_rare() {
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
        let told = names.into_iter().enumerate().find_map(|(name, raw)| Some((name, says_something(raw?)?)));
        let Some((name, raw)) = told else { return };
        if name != *self.reasoning_seen.name.get_or_insert(name) {
            // the short way would not look
            self.again.forget();
            if self.repeats_reasoning(raw) {
                return;
            }
        }
        self.take_value(Channel::Reasoning, raw, out);
    }

    /// Whether reasoning by another name than before is all that was heard already.
    fn repeats_reasoning(&self, raw: &RawValue) -> bool {
        let mut all = String::new();
        walk(Channel::Reasoning, raw, DEPTH, &mut |found| {
            if let Found::Text(_, text) = found {
                all.push_str(text);
            }
        });
        // a token may well be there twice
        let open = self.open.as_ref().filter(|open| matches!(open.kind, Kind::Reasoning));
        all.len() >= SHORTEST_REPEAT
            && match open {
                Some(open) => open.text == all,
                None => self.reasoning_seen.finished == Some(fingerprint(&all)),
            }
    }

    /// Takes a text in whatever form.
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

/// What is found in a value.
enum Found<'a> {
    /// Escaped.
    Text(Channel, &'a str),
    Annotations(&'a RawValue),
}

/// Most parts of one list that are read. No answer has so many, and a list of more takes many times its bytes apart.
const MOST_PARTS: usize = 16_384;

/// Finds the texts of a value, in their order.
fn walk<'a>(channel: Channel, raw: &'a RawValue, depth: u8, say: &mut dyn FnMut(Found<'a>)) {
    if let Some(text) = json::literal(raw) {
        return say(Found::Text(channel, text));
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    if let Some((parts, _)) = first_elements(raw.get(), MOST_PARTS) {
        for part in parts {
            walk(channel, part, depth, say);
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
        let told = texts.into_iter().find_map(|(channel, raw)| Some((channel, says_something(raw?)?)));
        if let Some((channel, raw)) = told {
            walk(channel, raw, depth, say);
        }
        if let Some(annotations) = part.annotations {
            say(Found::Annotations(annotations));
        }
    }
}

/// Tells reasoning that is over from other reasoning, so that it need not be kept.
fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A value that may hold a text.
fn says_something(raw: &RawValue) -> Option<&RawValue> {
    let starts = raw.get().starts_with(['"', '[', '{']);
    (starts && !matches!(raw.get(), "\"\"" | "[]" | "{}")).then_some(raw)
}
