//! Owns the book of a native stream, the answer of a server that speaks Responses itself: which of its items an event
//! is about, and what was heard of each. It must not write events: `transcoder::native` does.
//!
//! Such servers leave out indices, change an item's id from event to event, announce items late or never, and close
//! them all at the end. So an event is matched by id, then by index, then by what it is about.

mod kind;

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::fields::present;
use crate::response::native_items::kind::subject;
use crate::wire::json::{self, SurrogateJoiner};
use crate::wire::native_event::{Event, Item};
use crate::wire::request::fields;

pub(crate) use crate::response::native_items::kind::{ItemKind, PartMatch, Text};

/// One item of the upstream's.
#[derive(Debug)]
pub(crate) struct NativeItem {
    pub sort: ItemKind,
    /// Its `type`, or as much of it as is known.
    kind: String,
    /// As the upstream has them, escaped; empty while unknown.
    pub id: String,
    /// Another id, under which its texts come.
    alias: String,
    pub call_id: String,
    pub name: String,
    pub namespace: Option<String>,
    /// The item itself, of a type of its own: as it was announced, then as it was done.
    pub item: String,
    index: Option<u64>,
    announced: bool,
    /// Events that came before their turn.
    waiting: Vec<String>,
    waiting_bytes: usize,
    /// Whether our item was opened, and under which number.
    pub opened: Option<u64>,
    /// Our id, of a type of its own.
    pub own_id: String,
    /// Our call.
    pub slot: usize,
    /// Whether the upstream said that it is whole.
    pub done: bool,
    /// Whether the upstream called it incomplete.
    pub cut: bool,
    /// Left out of the answer.
    pub skipped: bool,
    /// Arguments as they came, escaped.
    pub heard: String,
    /// White space that has opened no item yet.
    pub blank: String,
    part: Option<(Text, u64)>,
    parts: u64,
    summaries: u64,
    fresh: bool,
}

impl NativeItem {
    fn new(sort: ItemKind, kind: &str) -> NativeItem {
        NativeItem {
            sort,
            kind: kind.to_owned(),
            id: String::new(),
            alias: String::new(),
            call_id: String::new(),
            name: String::new(),
            namespace: None,
            item: String::new(),
            index: None,
            announced: false,
            waiting: Vec::new(),
            waiting_bytes: 0,
            opened: None,
            own_id: String::new(),
            slot: 0,
            done: false,
            cut: false,
            skipped: false,
            heard: String::new(),
            blank: String::new(),
            part: None,
            parts: 0,
            summaries: 0,
            fresh: false,
        }
    }

    /// Keeps an event for the item's turn.
    pub fn wait(&mut self, data: &str) {
        self.waiting_bytes += data.len() + size_of::<String>();
        self.waiting.push(data.to_owned());
    }

    /// Whether events wait for the item's turn.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The events that waited.
    pub fn take_waiting(&mut self) -> Vec<String> {
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    /// Whether enough is known to announce it.
    pub fn ready(&self) -> bool {
        match self.sort {
            ItemKind::Call(_) => !self.name.is_empty(),
            ItemKind::Own => !self.item.is_empty(),
            ItemKind::Message | ItemKind::Reasoning => true,
        }
    }

    /// Whether an id or an index shows that this is another item, whatever else they share.
    fn differs(&self, id: &str, index: Option<u64>) -> bool {
        tail(id).is_some() && tail(&self.id).is_some() && self.id != id
            || index.is_some() && self.index.is_some() && self.index != index
    }

    /// A part was announced; `index` may be unknown.
    pub fn announce_part(&mut self, index: Option<u64>) {
        self.fresh = index.is_none();
    }

    /// Where text of this kind and index goes. Parts of one item come one after another.
    pub fn turn(&mut self, text: Text, index: Option<u64>) -> PartMatch {
        let next = match (self.part, index) {
            (None, index) => index.unwrap_or(0),
            (Some((open, at)), index) if open == text => match index {
                Some(index) if index == at => return PartMatch::Same,
                Some(index) if index < at => return PartMatch::Late,
                Some(index) => index,
                None if !self.fresh => return PartMatch::Same,
                None => at + 1,
            },
            (Some((_, at)), index) => index.unwrap_or(at + 1),
        };
        self.part = Some((text, next));
        self.fresh = false;
        *self.count(text) += 1;
        PartMatch::New
    }

    /// The same for the part at a position of the finished item.
    pub fn turn_at(&mut self, text: Text, position: u64) -> PartMatch {
        let seen = *self.count(text);
        match self.part {
            _ if seen <= position => {
                let next = self.part.map_or(0, |(_, at)| at + 1);
                self.turn(text, Some(next))
            }
            Some((open, _)) if seen == position + 1 && open == text => PartMatch::Same,
            _ => PartMatch::Late,
        }
    }

    fn count(&mut self, text: Text) -> &mut u64 {
        if text == Text::Summary { &mut self.summaries } else { &mut self.parts }
    }

    /// Learns what an event tells about the item itself.
    fn learn(&mut self, event: &Event<'_>, item: Option<&Item<'_>>) {
        fn fill(known: &mut String, told: Option<Cow<'_, str>>) {
            if let Some(told) = told.filter(|_| known.is_empty()) {
                *known = told.into_owned();
            }
        }
        self.index = self.index.or(number(event.output_index));
        let text = |raw| present(raw).and_then(json::text);
        fill(&mut self.id, text(event.item_id));
        if text(event.item_id).is_some_and(|id| *id != *self.id) {
            fill(&mut self.alias, text(event.item_id));
        }
        if matches!(self.sort, ItemKind::Call(_)) {
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
        if let Some(raw) = event.item.filter(|_| self.sort == ItemKind::Own && (done || self.item.is_empty()))
        {
            self.item = json::compact(raw.get()).into_owned();
        }
    }
}

/// All items of one answer.
#[derive(Debug, Default)]
pub(crate) struct NativeItems {
    /// In order of appearance.
    pub entries: Vec<NativeItem>,
    /// The one whose events are passed on; all before are over.
    pub live: usize,
    /// Half of a surrogate pair of the open part.
    pub seam: SurrogateJoiner,
    /// Item ids that were sent.
    pub ids: Vec<String>,
    /// The id that the next item should get.
    pub wanted: Option<String>,
    /// The members that the next item should get.
    pub extra: String,
}

impl NativeItems {
    /// The item that an event of `kind` is about; it is added where it is the first to speak of it. `None`: it is
    /// about no item.
    pub fn of(&mut self, kind: &str, event: &Event<'_>) -> Option<usize> {
        let item: Option<Item<'_>> = event.item.and_then(fields);
        let told = item.as_ref().and_then(|item| item.r#type).and_then(json::decode);
        let (sort, name) = match (&item, &told) {
            (Some(_), Some(told)) => (ItemKind::of(told), &**told),
            (Some(_), None) => return None,
            (None, _) => (ItemKind::of_event(kind, event), subject(kind)),
        };
        if sort == ItemKind::Own && item.is_none() && event.item_id.is_none() && event.output_index.is_none()
        {
            return None;
        }
        if item.is_none()
            && let Some(id) = event.item_id.and_then(json::literal)
            && let Some(entry) = self.entries.get(self.live)
            && entry.sort == sort
            && entry.id == id
            && entry.index == number(event.output_index)
        {
            // nearly every event: the next piece of what is being written
            return Some(self.live);
        }
        let added = kind == "response.output_item.added";
        let done = kind == "response.output_item.done";
        let alike = |entry: &NativeItem| {
            // `mcp_call_arguments.delta` is about an `mcp_call`
            let same = name.starts_with(&*entry.kind) || entry.kind.starts_with(name);
            entry.sort == sort && (sort != ItemKind::Own || same)
        };
        let found = self.find(&alike, event, item.as_ref(), added, done);
        let at = found.unwrap_or_else(|| {
            self.entries.push(NativeItem::new(sort, name));
            self.entries.len() - 1
        });
        let entry = self.entries.get_mut(at)?;
        entry.learn(event, item.as_ref());
        entry.announced |= added || done;
        Some(at)
    }

    fn find(
        &self,
        alike: &dyn Fn(&NativeItem) -> bool,
        event: &Event<'_>,
        item: Option<&Item<'_>>,
        added: bool,
        done: bool,
    ) -> Option<usize> {
        let text = |raw| present(raw).and_then(json::text).filter(|text| !text.is_empty());
        let id = text(event.item_id).or(item.and_then(|item| text(item.id))).unwrap_or_default();
        let call_id = item.and_then(|item| text(item.call_id)).unwrap_or_default();
        let index = number(event.output_index);
        // told of once more, a call must not become a second one; short ids come again for other items
        let again = |entry: &NativeItem| {
            let same_id = tail(&id).is_some() && entry.id == id;
            let same_call = !call_id.is_empty() && entry.call_id == call_id;
            alike(entry) && (same_id || same_call && !entry.differs(&id, index))
        };
        if let Some(at) = self.entries.iter().rposition(again) {
            return Some(at);
        }
        let mut fits: Vec<usize> = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            // an announcement opens an item, unless its text came first
            let open = if added { !entry.announced } else { !done || !entry.done };
            if alike(entry) && open {
                fits.push(at);
            }
        }
        let of = |wanted: &dyn Fn(&NativeItem) -> bool| {
            fits.iter().rev().copied().find(|at| self.entries.get(*at).is_some_and(wanted))
        };
        // llama-server has named a call by its id in one event and by its call_id in the next
        let same_id = |entry: &NativeItem| {
            let tails = tail(&id).is_some_and(|rest| Some(rest) == tail(&entry.id));
            !id.is_empty() && ([&*entry.id, &*entry.alias, &*entry.call_id].contains(&&*id) || tails)
        };
        let other_call =
            |entry: &NativeItem| !call_id.is_empty() && !entry.call_id.is_empty() && entry.call_id != call_id;
        let at_index = |entry: &NativeItem| index.is_some() && entry.index == index && !other_call(entry);
        of(&|entry| same_id(entry) && (index.is_none() || entry.index == index))
            .or_else(|| of(&same_id))
            .or_else(|| of(&at_index))
            .or_else(|| {
                let untold = |entry: &NativeItem| {
                    entry.part.is_none() && entry.heard.is_empty() && entry.waiting.is_empty()
                };
                let unnamed = |entry: &NativeItem| {
                    !other_call(entry)
                        && !entry.done
                        && (done || id.is_empty() || entry.id.is_empty() || untold(entry))
                        && (index.is_none() || entry.index.is_none())
                };
                match done {
                    true => fits.iter().copied().find(|at| self.entries.get(*at).is_some_and(unnamed)),
                    false => of(&unnamed),
                }
            })
    }

    /// The item of a finished response that stands at `position` among those of its sort, or was told of by id.
    pub fn of_output(&self, item: &Item<'_>, matched: &[usize]) -> Option<usize> {
        let sort = ItemKind::of(&present(item.r#type).and_then(json::decode)?);
        let text = |raw| present(raw).and_then(json::text).filter(|text| !text.is_empty());
        let (id, call_id) = (text(item.id), text(item.call_id));
        let free = |at: &usize, entry: &NativeItem| entry.sort == sort && !matched.contains(at);
        let same = |entry: &NativeItem| {
            id.as_deref() == Some(&entry.id) || call_id.as_deref().is_some_and(|id| id == entry.call_id)
        };
        let mut all = self.entries.iter().enumerate();
        all.clone()
            .find(|(at, entry)| free(at, entry) && same(entry))
            .or_else(|| all.find(|(at, entry)| free(at, entry)))
            .map(|(at, _)| at)
    }

    /// Whether a call of that `call_id` was told of before: `Some(true)` where the current one is another call all the
    /// same.
    pub fn twin(&self, call_id: &str) -> Option<bool> {
        let current = self.entries.get(self.live)?;
        let mut before = self.entries.iter().take(self.live);
        let twin = before.find(|entry| !call_id.is_empty() && entry.call_id == call_id)?;
        Some(twin.differs(&current.id, current.index))
    }

    /// Bytes that are held of all items.
    pub fn held(&self) -> usize {
        let held = |entry: &NativeItem| {
            entry.waiting_bytes + entry.heard.len() + entry.blank.len() + entry.item.len()
        };
        self.entries.iter().map(held).sum()
    }

    /// The entry whose turn it is.
    pub fn current(&mut self) -> Option<&mut NativeItem> {
        self.entries.get_mut(self.live)
    }

    /// Whether items wait behind the current one.
    pub fn more(&self) -> bool {
        self.live + 1 < self.entries.len()
    }

    /// The book of another answer to the same request.
    pub fn anew(&mut self) -> NativeItems {
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
