//! Owns texts that come in another form than a string, and reasoning by all its names: parts, objects, lists of both.
//! It must not lose a text because its wrapper is unknown.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Transcoder;
use super::text::Channel;
use crate::translate::item::Kind;
use crate::translate::params::present;
use crate::wire::chat::Delta;
use crate::wire::json;
use crate::wire::known::{elements, fields};

/// How deep parts lie within parts at most.
const DEPTH: u8 = 6;

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

impl Transcoder {
    /// Takes the reasoning of a delta, once, by however many names it comes.
    pub(super) fn say_reasoning(&mut self, delta: &Delta<'_>, out: &mut Vec<u8>) {
        let names = [
            delta.reasoning_content,
            delta.reasoning,
            delta.reasoning_text,
            delta.thinking,
            delta.reasoning_details,
        ];
        let told = names.into_iter().enumerate().find_map(|(name, raw)| Some((name, says_something(raw?)?)));
        let Some((name, raw)) = told else { return };
        let first = *self.reasoning_name.get_or_insert(name);
        if name != first && self.repeats_reasoning(raw) {
            return;
        }
        self.say_value(Channel::Reasoning, raw, out);
    }

    /// Whether reasoning by another name than before was heard already: all of it at once, or behind it.
    fn repeats_reasoning(&self, raw: &RawValue) -> bool {
        match &self.open {
            Some(open) if matches!(open.kind, Kind::Reasoning) => {
                json::literal(raw).is_none_or(|text| text == open.text)
            }
            _ => true,
        }
    }

    /// Takes a text in whatever form.
    pub(super) fn say_value(&mut self, channel: Channel, raw: &RawValue, out: &mut Vec<u8>) {
        self.say_nested(channel, raw, DEPTH, out);
    }

    fn say_nested(&mut self, channel: Channel, raw: &RawValue, depth: u8, out: &mut Vec<u8>) {
        if let Some(text) = json::literal(raw) {
            return self.say(channel, text, out);
        }
        let Some(depth) = depth.checked_sub(1) else { return };
        if let Some(parts) = elements(raw.get()) {
            for part in parts {
                self.say_nested(channel, part, depth, out);
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
                self.say_nested(channel, raw, depth, out);
            }
            if let Some(annotations) = part.annotations {
                self.annotate(annotations, out);
            }
        }
    }
}

/// A value that may hold a text.
fn says_something(raw: &RawValue) -> Option<&RawValue> {
    let starts = raw.get().starts_with(['"', '[', '{']);
    (starts && !matches!(raw.get(), "\"\"" | "[]" | "{}")).then_some(raw)
}
