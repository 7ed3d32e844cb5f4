//! Owns the items of a native stream, the answer of a server that speaks Responses itself: which item an event is
//! about, and which item is current. It must not write events: `transcoder::native_events` does.
//!
//! Such servers leave out indices, change an item's id between events, announce items late or never, and close them all
//! at the end. So an event is matched by id, then by index, then by its kind.

mod clues;
mod item;
mod kind;
mod parts;

use serde_json::value::RawValue;

use crate::fields::present;
use crate::response::native_items::clues::ItemClues;
use crate::response::native_items::kind::subject;
use crate::wire::json;
use crate::wire::native_event::{Event, Item};
use crate::wire::request::fields;

pub(crate) use crate::response::native_items::item::NativeItem;
pub(crate) use crate::response::native_items::kind::{ItemKind, Progress};
pub(crate) use crate::response::native_items::parts::Place;

/// How a call relates to the earlier calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// No earlier call has its `call_id`.
    None,
    /// An earlier call has its `call_id`, but is a different call.
    OtherCall,
    /// It repeats an earlier call.
    SameCall,
}

/// All items of one answer.
#[derive(Debug, Default)]
pub(crate) struct NativeItems {
    /// In order of appearance.
    items: Vec<NativeItem>,
    /// Position of the item whose events are passed on. All items before it are over.
    current: usize,
    /// Upstream item ids that were passed on.
    ids: Vec<String>,
}

impl NativeItems {
    /// The position of the item that an event is about, which is added if the event is the first to mention it. `None`
    /// if the event is not about an item.
    pub fn resolve(&mut self, event_type: &str, event: &Event<'_>) -> Option<usize> {
        let item: Option<Item<'_>> = event.item.and_then(fields);
        let item_type = item.as_ref().and_then(|item| item.r#type).and_then(json::decode);
        let (kind, type_name) = match (&item, &item_type) {
            (Some(_), Some(item_type)) => (ItemKind::from_type(item_type), &**item_type),
            (Some(_), None) => return None,
            (None, _) => (ItemKind::from_event(event_type, event), subject(event_type)),
        };
        let anonymous = item.is_none() && event.item_id.is_none() && event.output_index.is_none();
        if kind == ItemKind::Hosted && anonymous {
            return None;
        }
        if item.is_none()
            && let Some(id) = event.item_id.and_then(json::literal)
            && let Some(current) = self.items.get(self.current)
            && current.continues(kind, id, unsigned(event.output_index))
        {
            return Some(self.current);
        }
        let progress = match event_type {
            "response.output_item.added" => Progress::Announced,
            "response.output_item.done" => Progress::Completed,
            _ => Progress::Mentioned,
        };
        let found = self.find(&ItemClues::new(kind, type_name, event, item.as_ref(), progress));
        let at = found.unwrap_or_else(|| {
            self.items.push(NativeItem::new(kind, type_name));
            self.items.len() - 1
        });
        let found = self.items.get_mut(at)?;
        found.learn(event, item.as_ref());
        if progress > Progress::Mentioned {
            found.reach(Progress::Announced);
        }
        Some(at)
    }

    /// Matches by id, by index, then by kind.
    fn find(&self, clues: &ItemClues<'_>) -> Option<usize> {
        if let Some(at) = self.items.iter().rposition(|item| item.is_repeated(clues)) {
            return Some(at);
        }
        let last = |wanted: &dyn Fn(&NativeItem) -> bool| {
            self.items.iter().rposition(|item| item.may_be(clues) && wanted(item))
        };
        last(&|item| item.has_id(clues) && item.has_index(clues))
            .or_else(|| last(&|item| item.has_id(clues)))
            .or_else(|| last(&|item| item.is_at_index(clues)))
            .or_else(|| match clues.progress {
                // items end in the order in which they began
                Progress::Completed => {
                    self.items.iter().position(|item| item.may_be(clues) && item.is_compatible(clues))
                }
                _ => last(&|item| item.is_compatible(clues)),
            })
    }

    /// The position of an item of the final `output`: by its ids, else the next of its kind that is not in `matched`.
    pub fn find_in_output(&self, item: &Item<'_>, matched: &[usize]) -> Option<usize> {
        let kind = ItemKind::from_type(&present(item.r#type).and_then(json::decode)?);
        let text = |raw| present(raw).and_then(json::text).filter(|text| !text.is_empty());
        let (id, call_id) = (text(item.id), text(item.call_id));
        let free = |at: &usize, item: &NativeItem| item.kind() == kind && !matched.contains(at);
        let mut all = self.items.iter().enumerate();
        all.clone()
            .find(|(at, item)| free(at, item) && item.has_one_of(id.as_deref(), call_id.as_deref()))
            .or_else(|| all.find(|(at, item)| free(at, item)))
            .map(|(at, _)| at)
    }

    /// How the current item, a call with this id, relates to the earlier calls.
    pub fn earlier(&self, call_id: &str) -> Earlier {
        let Some(current) = self.items.get(self.current) else { return Earlier::None };
        match self.items.iter().take(self.current).find(|item| item.has_call_id(call_id)) {
            None => Earlier::None,
            Some(before) if before.differs(current) => Earlier::OtherCall,
            Some(_) => Earlier::SameCall,
        }
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes held by all items.
    pub fn held(&self) -> usize {
        self.items.iter().map(NativeItem::held).sum()
    }

    /// The item at this position.
    pub fn get(&self, at: usize) -> Option<&NativeItem> {
        self.items.get(at)
    }

    /// The item at this position.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut NativeItem> {
        self.items.get_mut(at)
    }

    /// The item whose events are passed on, if there is one.
    pub fn current(&mut self) -> Option<&mut NativeItem> {
        self.items.get_mut(self.current)
    }

    /// Whether the item at this position is current.
    pub fn is_current(&self, at: usize) -> bool {
        at == self.current
    }

    /// Whether the item at this position is over.
    pub fn is_past(&self, at: usize) -> bool {
        at < self.current
    }

    /// Makes the next item current.
    pub fn advance(&mut self) {
        self.current += 1;
    }

    /// How many items follow the current one.
    pub fn following(&self) -> usize {
        self.items.len().saturating_sub(self.current + 1)
    }

    /// An empty list for another answer to the same request. The ids passed on stay taken.
    pub fn for_next_answer(&mut self) -> NativeItems {
        NativeItems { ids: std::mem::take(&mut self.ids), ..NativeItems::default() }
    }

    /// Returns the upstream's id if it can be passed on: unused so far, with the expected prefix, and long enough to be
    /// unique across responses.
    pub fn reuse_id(&mut self, id: &str, prefix: &str) -> Option<String> {
        let fits = id.strip_prefix(prefix).is_some_and(|rest| {
            (SHORTEST..=LONGEST).contains(&rest.len())
                && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        });
        if !fits || self.ids.iter().any(|known| known == id) {
            return None;
        }
        self.ids.push(id.to_owned());
        Some(id.to_owned())
    }
}

/// The value as an unsigned integer, if it is one.
pub(crate) fn unsigned(raw: Option<&RawValue>) -> Option<u64> {
    raw?.get().parse().ok()
}

/// The part of an id after its prefix, if that is long enough to identify an item.
fn unique_part(id: &str) -> Option<&str> {
    id.split_once('_').map(|(_, rest)| rest).filter(|rest| rest.len() >= SHORTEST)
}

/// Ids such as `msg_0` and `msg_123456` recur in the next response, while clients use ids as keys.
const SHORTEST: usize = 16;
const LONGEST: usize = 120;
