//! Owns the items of a native stream, the answer of a server that speaks Responses itself: which of them an event is
//! about, and whose turn it is. It must not write events: `transcoder::native_events` does.
//!
//! Such servers leave out indices, change an item's id from event to event, announce items late or never, and close
//! them all at the end. So an event is matched by id, then by index, then by what it is about.

mod clues;
mod item;
mod kind;
mod parts;

use serde_json::value::RawValue;

use crate::fields::present;
use crate::response::native_items::clues::Clues;
use crate::response::native_items::kind::subject;
use crate::wire::json;
use crate::wire::native_event::{Event, Item};
use crate::wire::request::fields;

pub(crate) use crate::response::native_items::item::NativeItem;
pub(crate) use crate::response::native_items::kind::{ItemKind, Progress};
pub(crate) use crate::response::native_items::parts::Place;

/// How a call stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// None has its `call_id`.
    None,
    /// One has its `call_id`, and is another call all the same.
    OtherCall,
    /// It is one of them, told of once more.
    SameCall,
}

/// All items of one answer.
#[derive(Debug, Default)]
pub(crate) struct NativeItems {
    /// In order of appearance.
    items: Vec<NativeItem>,
    /// The one whose events are passed on; all before are over.
    current: usize,
    /// Item ids that were sent.
    ids: Vec<String>,
}

impl NativeItems {
    /// The item that an event is about; it is added where it is the first to speak of it. `None`: it is about no item.
    pub fn of(&mut self, event_type: &str, event: &Event<'_>) -> Option<usize> {
        let item: Option<Item<'_>> = event.item.and_then(fields);
        let told = item.as_ref().and_then(|item| item.r#type).and_then(json::decode);
        let (kind, type_name) = match (&item, &told) {
            (Some(_), Some(told)) => (ItemKind::of(told), &**told),
            (Some(_), None) => return None,
            (None, _) => (ItemKind::of_event(event_type, event), subject(event_type)),
        };
        let anonymous = item.is_none() && event.item_id.is_none() && event.output_index.is_none();
        if kind == ItemKind::Hosted && anonymous {
            return None;
        }
        if item.is_none()
            && let Some(id) = event.item_id.and_then(json::literal)
            && let Some(current) = self.items.get(self.current)
            && current.goes_on(kind, id, number(event.output_index))
        {
            return Some(self.current);
        }
        let progress = match event_type {
            "response.output_item.added" => Progress::Announced,
            "response.output_item.done" => Progress::Completed,
            _ => Progress::Mentioned,
        };
        let found = self.find(&Clues::new(kind, type_name, event, item.as_ref(), progress));
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

    /// By id, by index, then by what the event is about.
    fn find(&self, clues: &Clues<'_>) -> Option<usize> {
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
                    self.items.iter().position(|item| item.may_be(clues) && item.fits(clues))
                }
                _ => last(&|item| item.fits(clues)),
            })
    }

    /// The item of a finished response, by its ids or as the next of its kind that is not `matched`.
    pub fn of_output(&self, item: &Item<'_>, matched: &[usize]) -> Option<usize> {
        let kind = ItemKind::of(&present(item.r#type).and_then(json::decode)?);
        let text = |raw| present(raw).and_then(json::text).filter(|text| !text.is_empty());
        let (id, call_id) = (text(item.id), text(item.call_id));
        let free = |at: &usize, item: &NativeItem| item.kind() == kind && !matched.contains(at);
        let mut all = self.items.iter().enumerate();
        all.clone()
            .find(|(at, item)| free(at, item) && item.has_one_of(id.as_deref(), call_id.as_deref()))
            .or_else(|| all.find(|(at, item)| free(at, item)))
            .map(|(at, _)| at)
    }

    /// Whether the `call_id` of the current item was told of before.
    pub fn earlier(&self, call_id: &str) -> Earlier {
        let Some(current) = self.items.get(self.current) else { return Earlier::None };
        match self.items.iter().take(self.current).find(|item| item.calls(call_id)) {
            None => Earlier::None,
            Some(before) if before.differs(current) => Earlier::OtherCall,
            Some(_) => Earlier::SameCall,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes that are held of all items.
    pub fn held(&self) -> usize {
        self.items.iter().map(NativeItem::held).sum()
    }

    /// One of them.
    pub fn get(&self, at: usize) -> Option<&NativeItem> {
        self.items.get(at)
    }

    /// One of them, to be changed.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut NativeItem> {
        self.items.get_mut(at)
    }

    /// The item whose turn it is.
    pub fn current(&mut self) -> Option<&mut NativeItem> {
        self.items.get_mut(self.current)
    }

    /// Whether it is this one's turn.
    pub fn is_current(&self, at: usize) -> bool {
        at == self.current
    }

    /// Whether this one is over.
    pub fn is_past(&self, at: usize) -> bool {
        at < self.current
    }

    /// Goes to the next item.
    pub fn advance(&mut self) {
        self.current += 1;
    }

    /// How many wait behind the current one.
    pub fn behind(&self) -> usize {
        self.items.len().saturating_sub(self.current + 1)
    }

    /// No items yet, of another answer to the same request.
    pub fn of_next_answer(&mut self) -> NativeItems {
        NativeItems { ids: std::mem::take(&mut self.ids), ..NativeItems::default() }
    }

    /// The upstream's id, where it is fit to be ours: unique, stable over servers, with the right prefix.
    pub fn keep(&mut self, id: &str, prefix: &str) -> Option<String> {
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

/// An unsigned integer, where it is one.
pub(crate) fn number(raw: Option<&RawValue>) -> Option<u64> {
    raw?.get().parse().ok()
}

/// What follows an id's prefix; ids without one have none in common.
fn tail(id: &str) -> Option<&str> {
    id.split_once('_').map(|(_, rest)| rest).filter(|rest| rest.len() >= SHORTEST)
}

/// `msg_0` and `msg_123456` come again in the next response, and clients key on ids.
const SHORTEST: usize = 16;
const LONGEST: usize = 120;
