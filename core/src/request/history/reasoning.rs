//! Owns reasoning and summaries that a client sends back: as items, sealed, or inside a message. It must not decide
//! where they go.

use crate::compaction::{SUMMARY_INTRODUCTION, Summary};
use crate::fields::present;
use crate::notes::Notes;
use crate::request::content::{Piece, pieces};
use crate::request::history::{Role, Step, escaped};
use crate::request::plain_text;
use crate::sealing::{Purpose, Seal};
use crate::wire::json;
use crate::wire::request::{Item, Part, elements, fields};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Reasoning inside an assistant message, as chat servers and their clients write it: in parts of its content (Mistral,
/// Anthropic and its imitators), or in a separate member.
pub(super) fn thoughts<'a>(
    raw: &RawValue,
    item: Option<&Item<'a>>,
    notes: &mut Notes,
) -> Option<Cow<'a, str>> {
    if !may_think(raw) || !notes.may_rewrite(raw.get().len()) {
        return None;
    }
    let members = json::members(raw.get()).unwrap_or_default();
    let beside = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
    let content = item.and_then(|item| present(item.content)).filter(|raw| raw.get().starts_with('['));
    let parts = content.map(|raw| elements(raw.get())).unwrap_or_default().into_iter();
    let parts: Vec<&RawValue> = parts.filter(|part| is_thought(part)).collect();
    let mut text = String::new();
    parts.iter().for_each(|part| plain_text::collect(part, &mut text));
    for name in REASONING_NAMES {
        if text.is_empty() {
            beside(name).into_iter().for_each(|value| plain_text::collect(value, &mut text));
        }
    }
    (!text.trim().is_empty()).then(|| escaped(&text))
}

/// Whether a message may contain reasoning; a cheap test that few messages pass.
pub(super) fn may_think(raw: &RawValue) -> bool {
    ["thinking\"", "\"reasoning"].iter().any(|hint| raw.get().contains(hint))
}

/// Whether a part of a message's content is reasoning.
pub(super) fn is_thought(part: &RawValue) -> bool {
    let part: Part<'_> = fields(part).unwrap_or_default();
    let kind = present(part.r#type).and_then(json::decode).unwrap_or_default();
    kind.ends_with("thinking") || kind.starts_with("reasoning")
}

/// Members of an assistant message that may hold its reasoning.
pub(super) const REASONING_NAMES: [&str; 4] =
    ["reasoning_content", "reasoning", "thinking", "reasoning_details"];

/// The text of a reasoning item: `content` if it has text, else the sealed text, else `summary`, where this proxy puts
/// all of it with `reasoning = "summary"`.
pub(super) fn reasoning<'a>(item: &Item<'a>, seal: Option<&dyn Seal>, notes: &mut Notes) -> Vec<Piece<'a>> {
    let mut read = |field: Option<&'a RawValue>| -> Vec<Piece<'a>> {
        let pieces = present(field).and_then(|raw| pieces(raw, notes)).unwrap_or_default();
        pieces.into_iter().filter(|piece| piece.is_text() && !piece.is_empty()).collect()
    };
    let content = read(item.content);
    if !content.is_empty() {
        return content;
    }
    let sealed = open(item, seal, Purpose::Reasoning).filter(|text| !text.is_empty());
    sealed.map_or_else(|| read(item.summary), |text| vec![Piece::owned(&text)])
}

/// Opens the item's `encrypted_content`; `None` if it has none, or was sealed by another server, key or caller.
pub(super) fn open(item: &Item<'_>, seal: Option<&dyn Seal>, purpose: Purpose) -> Option<String> {
    let blob = present(item.encrypted_content).and_then(json::decode)?;
    seal?.open(purpose, &blob)
}

/// Replaces a compaction that cannot be opened: the model learns that something is missing.
pub(super) fn unread_summary<'a>(index: usize, notes: &mut Notes) -> Option<Step<'a>> {
    notes.add("unread_compaction", &format!("input[{index}]"));
    Some(Step::Prompt(Role::User, vec![Piece::owned(UNREAD_SUMMARY)]))
}

/// Replaces a summary that cannot be opened.
pub(super) const UNREAD_SUMMARY: &str =
    "[An earlier part of the conversation was summarised, and the summary cannot be read here.]";

/// Opens a compaction that this proxy sealed for the same caller.
pub(super) fn summary<'a>(item: &Item<'a>, seal: Option<&dyn Seal>) -> Option<Step<'a>> {
    let summary = Summary::read(&open(item, seal, Purpose::Compaction)?)?;
    let text = format!("{SUMMARY_INTRODUCTION}{}", summary.text);
    Some(Step::Summary { text: escaped(&text), replaces: summary.replaces })
}
