//! Owns what a native event reveals about its item. It must not search for that item.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::fields::present;
use crate::response::native_items::kind::{ItemKind, Progress};
use crate::response::native_items::unsigned;
use crate::wire::json;
use crate::wire::native_event::{Event, Item};

/// What an event reveals about its item.
#[derive(Debug)]
pub(super) struct ItemClues<'a> {
    pub(super) kind: ItemKind,
    /// The item's `type`, or the subject of the event's type.
    pub(super) type_name: &'a str,
    /// Empty if the event has none.
    pub(super) id: Cow<'a, str>,
    pub(super) call_id: Cow<'a, str>,
    pub(super) index: Option<u64>,
    /// How far the item is, according to the event.
    pub(super) progress: Progress,
}

impl<'a> ItemClues<'a> {
    pub(super) fn new(
        kind: ItemKind,
        type_name: &'a str,
        event: &Event<'a>,
        item: Option<&Item<'a>>,
        progress: Progress,
    ) -> ItemClues<'a> {
        fn text(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
            present(raw).and_then(json::text).filter(|text| !text.is_empty())
        }
        let id = text(event.item_id).or(item.and_then(|item| text(item.id)));
        let call_id = item.and_then(|item| text(item.call_id));
        ItemClues {
            kind,
            type_name,
            id: id.unwrap_or_default(),
            call_id: call_id.unwrap_or_default(),
            index: unsigned(event.output_index),
            progress,
        }
    }
}
