//! Owns one item of a native stream: what the upstream has sent of it, and what became of it in the response. It must
//! not know the other items.

use std::borrow::Cow;

use crate::fields::present;
use crate::response::native_items::clues::ItemClues;
use crate::response::native_items::kind::{ItemKind, Progress};
use crate::response::native_items::parts::Parts;
use crate::response::native_items::{unique_part, unsigned};
use crate::wire::json;
use crate::wire::native_event::{Event, Item};

/// What became of an upstream item in the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nothing yet.
    Pending,
    /// It is open, or was.
    Opened,
    /// It is a call, at this position in the transcoder's `calls`.
    Call(usize),
    /// It is left out of the response.
    LeftOut,
}

/// One item of the upstream. All texts are escaped.
#[derive(Debug)]
pub(crate) struct NativeItem {
    kind: ItemKind,
    /// Its `type`, or the beginning of it if no event had all of it.
    type_name: String,
    /// The upstream's id; empty while unknown.
    id: String,
    /// A second id, used by the events about its texts.
    alias: String,
    call_id: String,
    name: String,
    namespace: Option<String>,
    /// A hosted item as JSON: as announced, later as done.
    whole: String,
    /// Members that only the upstream knows, as announced, each with a leading comma.
    pub extra: String,
    index: Option<u64>,
    progress: Progress,
    outcome: Outcome,
    /// Events that arrived before the item became current.
    waiting: Vec<String>,
    waiting_bytes: usize,
    /// The arguments received, or text that is held back from the client.
    pub received: String,
    /// White space that has not opened an item yet.
    pub blank: String,
    pub parts: Parts,
}

impl NativeItem {
    pub(super) fn new(kind: ItemKind, type_name: &str) -> NativeItem {
        NativeItem {
            kind,
            type_name: type_name.to_owned(),
            id: String::new(),
            alias: String::new(),
            call_id: String::new(),
            name: String::new(),
            namespace: None,
            whole: String::new(),
            extra: String::new(),
            index: None,
            progress: Progress::Mentioned,
            outcome: Outcome::Pending,
            waiting: Vec::new(),
            waiting_bytes: 0,
            received: String::new(),
            blank: String::new(),
            parts: Parts::default(),
        }
    }

    /// The kind of item.
    pub fn kind(&self) -> ItemKind {
        self.kind
    }

    /// The upstream's id; empty while unknown.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id that the client's output refers to. Some servers send it as the item's `id`. Empty while unknown.
    pub fn call_id(&self) -> &str {
        if self.call_id.is_empty() && self.id.starts_with("call_") { &self.id } else { &self.call_id }
    }

    /// The called function's name; empty while unknown.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The called function's namespace.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// A hosted item as the upstream sent it, as JSON without line breaks.
    pub fn whole(&self) -> &str {
        &self.whole
    }

    /// Keeps an event until the item is current.
    pub fn wait(&mut self, data: &str) {
        self.waiting_bytes += data.len() + size_of::<String>();
        self.waiting.push(data.to_owned());
    }

    /// Whether events wait for the item to become current.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes the waiting events.
    pub fn take_waiting(&mut self) -> Vec<String> {
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    /// Whether enough is known to open the item.
    pub fn is_known(&self) -> bool {
        match self.kind {
            ItemKind::FunctionCall | ItemKind::CustomToolCall => !self.name.is_empty(),
            ItemKind::Hosted => !self.whole.is_empty(),
            ItemKind::Message | ItemKind::Reasoning => true,
        }
    }

    /// Whether the upstream closed the item.
    pub fn is_done(&self) -> bool {
        self.progress >= Progress::Completed
    }

    /// Whether the upstream closed the item as `incomplete`.
    pub fn is_incomplete(&self) -> bool {
        self.progress == Progress::Incomplete
    }

    /// Records the upstream's progress, which never goes back.
    pub fn reach(&mut self, progress: Progress) {
        self.progress = self.progress.max(progress);
    }

    /// Whether the item is neither opened nor left out.
    pub fn is_pending(&self) -> bool {
        self.outcome == Outcome::Pending
    }

    /// Whether the item is left out of the response.
    pub fn is_left_out(&self) -> bool {
        self.outcome == Outcome::LeftOut
    }

    /// Records that the item was opened in the response.
    pub fn open(&mut self) {
        self.outcome = Outcome::Opened;
    }

    /// Records that the item was opened as the call at this position in the transcoder's `calls`.
    pub fn open_call(&mut self, slot: usize) {
        self.outcome = Outcome::Call(slot);
    }

    /// Records that the item is left out of the response.
    pub fn leave_out(&mut self) {
        self.outcome = Outcome::LeftOut;
    }

    /// The item's position in the transcoder's `calls`, if it is a call.
    pub fn slot(&self) -> Option<usize> {
        match self.outcome {
            Outcome::Call(slot) => Some(slot),
            Outcome::Pending | Outcome::Opened | Outcome::LeftOut => None,
        }
    }

    /// Bytes held by the item.
    pub(super) fn held(&self) -> usize {
        self.waiting_bytes + self.received.len() + self.blank.len() + self.whole.len() + self.extra.len()
    }

    /// Whether an id or an index shows that `other` is a different item.
    pub(super) fn differs(&self, other: &NativeItem) -> bool {
        self.differs_by(&other.id, other.index)
    }

    fn differs_by(&self, id: &str, index: Option<u64>) -> bool {
        unique_part(id).is_some() && unique_part(&self.id).is_some() && self.id != id
            || index.is_some() && self.index.is_some() && self.index != index
    }

    /// Records what an event reveals about the item.
    pub(super) fn learn(&mut self, event: &Event<'_>, item: Option<&Item<'_>>) {
        fn fill(known: &mut String, value: Option<Cow<'_, str>>) {
            if let Some(value) = value.filter(|_| known.is_empty()) {
                *known = value.into_owned();
            }
        }
        self.index = self.index.or(unsigned(event.output_index));
        let text = |raw| present(raw).and_then(json::text);
        fill(&mut self.id, text(event.item_id));
        if text(event.item_id).is_some_and(|id| *id != *self.id) {
            fill(&mut self.alias, text(event.item_id));
        }
        if self.kind.is_call() {
            fill(&mut self.name, text(event.name));
        }
        let Some(item) = item else { return };
        fill(&mut self.id, text(item.id));
        fill(&mut self.call_id, text(item.call_id));
        fill(&mut self.name, text(item.name));
        if self.namespace.is_none() {
            self.namespace = text(item.namespace).filter(|name| !name.is_empty()).map(Cow::into_owned);
        }
        let done = event.r#type.is_some_and(|kind| kind.get().ends_with(".done\""));
        let hosted = self.kind == ItemKind::Hosted && (done || self.whole.is_empty());
        if let Some(raw) = event.item.filter(|_| hosted) {
            self.whole = json::minify(raw.get()).into_owned();
        }
    }
}

/// Comparisons of an item with an event's clues.
impl NativeItem {
    /// Whether the event continues this item; a fast test that nearly every event passes.
    pub(super) fn continues(&self, kind: ItemKind, id: &str, index: Option<u64>) -> bool {
        self.kind == kind && self.id == id && self.index == index
    }

    /// Whether the event repeats this item, so that a call is not executed twice. Short ids do not count: servers reuse
    /// them for other items.
    pub(super) fn is_repeated(&self, clues: &ItemClues<'_>) -> bool {
        let same_id = unique_part(&clues.id).is_some() && self.id == clues.id;
        let same_call = self.has_call_id(&clues.call_id);
        self.is_of_kind(clues) && (same_id || same_call && !self.differs_by(&clues.id, clues.index))
    }

    /// Whether the event may be about this item, by kind and progress.
    pub(super) fn may_be(&self, clues: &ItemClues<'_>) -> bool {
        let open = match clues.progress {
            Progress::Mentioned => true,
            // an announcement starts a new item, unless deltas arrived before it
            Progress::Announced => self.progress == Progress::Mentioned,
            Progress::Completed | Progress::Incomplete => !self.is_done(),
        };
        self.is_of_kind(clues) && open
    }

    fn is_of_kind(&self, clues: &ItemClues<'_>) -> bool {
        // `mcp_call_arguments.delta` is about an `mcp_call`
        let same =
            clues.type_name.starts_with(&*self.type_name) || self.type_name.starts_with(clues.type_name);
        self.kind == clues.kind && (self.kind != ItemKind::Hosted || same)
    }

    /// Whether the event names this item by id, by its second id, or by call_id.
    pub(super) fn has_id(&self, clues: &ItemClues<'_>) -> bool {
        // llama-server uses a call's id in one event and its call_id in the next
        let same_unique_part = unique_part(&clues.id).is_some_and(|rest| Some(rest) == unique_part(&self.id));
        let id = &*clues.id;
        !id.is_empty() && ([&*self.id, &*self.alias, &*self.call_id].contains(&id) || same_unique_part)
    }

    /// Whether the indices are equal; an event without an index matches.
    pub(super) fn has_index(&self, clues: &ItemClues<'_>) -> bool {
        clues.index.is_none() || self.index == clues.index
    }

    /// Whether the event has this item's index, and no other call_id.
    pub(super) fn is_at_index(&self, clues: &ItemClues<'_>) -> bool {
        clues.index.is_some() && self.index == clues.index && !self.is_other_call(clues)
    }

    /// Whether nothing contradicts that the event is about this item.
    pub(super) fn is_compatible(&self, clues: &ItemClues<'_>) -> bool {
        let untouched = self.parts.is_empty() && self.received.is_empty() && self.waiting.is_empty();
        let ends = clues.progress == Progress::Completed;
        !self.is_other_call(clues)
            && !self.is_done()
            && (ends || clues.id.is_empty() || self.id.is_empty() || untouched)
            && (clues.index.is_none() || self.index.is_none())
    }

    fn is_other_call(&self, clues: &ItemClues<'_>) -> bool {
        !clues.call_id.is_empty() && !self.call_id.is_empty() && self.call_id != clues.call_id
    }

    /// Whether the item has one of these ids.
    pub(super) fn has_one_of(&self, id: Option<&str>, call_id: Option<&str>) -> bool {
        id == Some(&*self.id) || call_id.is_some_and(|id| id == self.call_id)
    }

    /// Whether the item is a call with this id.
    pub(super) fn has_call_id(&self, call_id: &str) -> bool {
        !call_id.is_empty() && self.call_id == call_id
    }
}
