//! Owns the store of a single process: moka bounds it in entries and bytes and drops what was not used for longest;
//! idle time is counted here, by an injected clock. It must not keep anything that no read can reach.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use foldhash::fast::RandomState;
use moka::Entry;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::turn::LastUsed;
use super::{Chain, Clock, Conversation, Id, Scope, Store, StoreError, StoredItem, Turn};

/// What an entry costs beside its record: the cache's own bookkeeping, in bytes.
const OVERHEAD: usize = 256;

/// MemoryLimits of a [`MemoryStore`].
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimits {
    /// Idle time after which a record is gone.
    pub ttl: Duration,
    /// Largest number of records.
    pub entries: u64,
    /// Largest number of bytes, the cache's own included.
    pub bytes: u64,
}

/// Records in this process's memory.
pub struct MemoryStore {
    /// A long conversation asks for a hundred of them at a time: its hash is a fast one. Keys are made by us.
    records: Cache<Key, Record, RandomState>,
    clock: Clock,
    ttl: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    scope: Scope,
    name: Name,
}

/// What the ids of responses that are kept together have in common: their last four bytes, random ones.
type Group = [u8; 4];

/// The most turns of a group.
const GROUP_TURNS: usize = 32;

/// Bytes of a group from which on no other joins.
const GROUP_BYTES: usize = 256 << 10;

/// The group of a response whose id is ours.
fn group(id: &Id) -> Option<Group> {
    match id {
        Id::Response(bytes) => bytes.last_chunk().copied(),
        _ => None,
    }
}

/// What is kept together. What the cache keeps of an entry is a tenth of a turn.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    Group(Group),
    One(Id),
}

impl Key {
    fn new(scope: Scope, id: &Id) -> Key {
        Key { scope, name: group(id).map_or_else(|| Name::One(id.clone()), Name::Group) }
    }

    fn bytes(&self) -> usize {
        match &self.name {
            Name::Group(_) => 0,
            Name::One(id) => id.bytes(),
        }
    }
}

#[derive(Clone)]
enum Record {
    Turn(Arc<Turn>),
    /// Those of one group, in the order in which they came.
    Turns(Arc<Vec<Arc<Turn>>>),
    Conversation(Arc<Kept>),
}

impl Record {
    fn turns(&self) -> &[Arc<Turn>] {
        match self {
            Record::Turn(turn) => std::slice::from_ref(turn),
            Record::Turns(turns) => turns,
            Record::Conversation(_) => &[],
        }
    }

    /// Where the turn of that id is. `before`: it probably came before that one.
    fn find(&self, id: &Id, before: usize) -> Option<usize> {
        let turns = self.turns();
        let early = turns.get(..before).unwrap_or(turns);
        early.iter().rposition(|turn| turn.id == *id).or_else(|| turns.iter().position(|turn| turn.id == *id))
    }

    fn turn(&self, id: &Id) -> Option<&Arc<Turn>> {
        self.turns().get(self.find(id, usize::MAX)?)
    }

    /// With `turn`, in place of an older record of it.
    fn with(&self, turn: Arc<Turn>) -> Record {
        let mut turns = Vec::with_capacity(self.turns().len() + 1);
        turns.extend_from_slice(self.turns());
        match self.find(&turn.id, usize::MAX).and_then(|at| turns.get_mut(at)) {
            Some(old) => *old = turn,
            None => turns.push(turn),
        }
        Record::of(turns).unwrap_or_else(|| self.clone())
    }

    /// Its turns that `wanted` is true of; `None` if it is of none.
    fn keep(&self, wanted: impl Fn(&Turn) -> bool) -> Option<Record> {
        Record::of(self.turns().iter().filter(|turn| wanted(turn)).cloned().collect())
    }

    /// `None` if there is nothing in it.
    fn of(mut turns: Vec<Arc<Turn>>) -> Option<Record> {
        match turns.len() {
            0 | 1 => turns.pop().map(Record::Turn),
            _ => {
                turns.shrink_to_fit();
                Some(Record::Turns(Arc::new(turns)))
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Record::Conversation(kept) => kept.bytes(),
            _ => self.turns().iter().map(|turn| turn.bytes() + size_of::<Arc<Turn>>()).sum(),
        }
    }

    /// How many records a client sees in it.
    fn len(&self) -> u64 {
        self.turns().len().max(1) as u64
    }
}

#[derive(Clone)]
struct Kept {
    head: Conversation,
    items: Vec<StoredItem>,
    used: LastUsed,
}

impl Kept {
    fn bytes(&self) -> usize {
        let item = |item: &StoredItem| item.id.len() + item.json.len() + size_of::<StoredItem>();
        self.head.metadata.len() + self.items.iter().map(item).sum::<usize>()
    }
}

impl MemoryStore {
    /// An empty store. `clock`: milliseconds.
    pub fn new(bounds: MemoryLimits, clock: Clock) -> MemoryStore {
        // one bound serves both: an entry weighs its bytes, and at least its records' share of them
        let share = bounds.bytes / bounds.entries.max(1);
        let weigh = move |key: &Key, record: &Record| {
            let bytes = (record.bytes() + key.bytes() + OVERHEAD) as u64;
            u32::try_from(bytes.max(share * record.len())).unwrap_or(u32::MAX)
        };
        let records = Cache::builder()
            .weigher(weigh)
            .max_capacity(bounds.bytes)
            .eviction_policy(EvictionPolicy::lru())
            .build_with_hasher(RandomState::default());
        let ttl = u64::try_from(bounds.ttl.as_millis()).unwrap_or(u64::MAX);
        MemoryStore { records, clock, ttl }
    }

    /// Records that are there, expired ones that were not swept included.
    pub fn len(&self) -> u64 {
        self.records.run_pending_tasks();
        self.records.iter().map(|(_, record)| record.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the records count for.
    pub fn bytes(&self) -> u64 {
        self.records.run_pending_tasks();
        self.records.weighted_size()
    }

    fn now(&self) -> u64 {
        (self.clock)()
    }

    fn fresh(&self, used: &LastUsed, now: u64) -> bool {
        now.saturating_sub(used.at()) < self.ttl
    }

    /// Whether it has not expired; then its idle time begins anew.
    fn touch(&self, used: &LastUsed, now: u64) -> bool {
        let fresh = self.fresh(used, now);
        if fresh {
            used.set(now);
        }
        fresh
    }

    fn touch_turn(&self, scope: Scope, id: &Id) -> Option<Arc<Turn>> {
        let record = self.records.get(&Key::new(scope, id))?;
        record.turn(id).filter(|turn| self.touch(&turn.marks.used, self.now())).cloned()
    }

    fn touch_conversation(&self, scope: Scope, id: &str) -> Option<Arc<Kept>> {
        match self.records.get(&Key::new(scope, &id.into()))? {
            Record::Conversation(kept) => self.touch(&kept.used, self.now()).then_some(kept),
            _ => None,
        }
    }

    /// Changes what is kept under a key, as one step: to what `change` makes of it; by `None` it goes.
    fn change(&self, key: Key, change: impl FnOnce(Option<&Record>) -> Option<Record>) {
        self.records.entry(key).and_compute_with(|entry| match change(entry.as_ref().map(Entry::value)) {
            Some(record) => Op::Put(record),
            None if entry.is_some() => Op::Remove,
            None => Op::Nop,
        });
    }

    /// Changes a conversation; `None` leaves it as it was. Returns false if there is no such conversation.
    fn change_conversation(
        &self,
        scope: Scope,
        id: &str,
        change: impl FnOnce(&Kept) -> Option<Kept>,
    ) -> bool {
        let mut found = false;
        self.change(Key::new(scope, &id.into()), |record| {
            let kept = record.and_then(|record| self.conversation_of(record));
            found = kept.is_some();
            kept.and_then(change).map(|kept| self.used_now(kept)).or_else(|| record.cloned())
        });
        found
    }

    fn conversation_of<'r>(&self, record: &'r Record) -> Option<&'r Kept> {
        match record {
            Record::Conversation(kept) => self.fresh(&kept.used, self.now()).then_some(kept),
            _ => None,
        }
    }

    fn used_now(&self, kept: Kept) -> Record {
        kept.used.set(self.now());
        Record::Conversation(Arc::new(kept))
    }
}

#[async_trait]
impl Store for MemoryStore {
    /// The group of the last of these turns, if there is room in it. The first that goes on from a turn joins, and no
    /// other: else all conversations that begin alike would be kept together, and be given up together.
    fn id_ending(&self, turns: &[Arc<Turn>]) -> Option<Group> {
        let last = turns.last()?;
        let own = group(&last.id)?;
        let (mut count, mut bytes) = (0, 0);
        for turn in turns.iter().rev().take_while(|turn| group(&turn.id) == Some(own)) {
            count += 1;
            bytes += turn.bytes();
        }
        let room = count < GROUP_TURNS && bytes < GROUP_BYTES;
        (room && !last.marks.continued.swap(true, Ordering::Relaxed)).then_some(own)
    }

    async fn put(&self, scope: Scope, turn: Arc<Turn>) -> Result<(), StoreError> {
        turn.marks.used.set(self.now());
        let key = Key::new(scope, &turn.id);
        // nobody else writes where nothing is yet, but for those that go on from a turn of the same group
        let parent = turn.parent.as_ref().and_then(group);
        if (parent.is_none() || parent != group(&turn.id)) && !self.records.contains_key(&key) {
            self.records.insert(key, Record::Turn(turn));
        } else {
            self.change(key, |record| {
                Some(match record {
                    Some(record) => record.with(turn),
                    None => Record::Turn(turn),
                })
            });
        }
        Ok(())
    }

    async fn turn(&self, scope: Scope, id: &str) -> Result<Option<Arc<Turn>>, StoreError> {
        Ok(self.touch_turn(scope, &id.into()))
    }

    async fn chain(&self, scope: Scope, id: &str, limit: usize) -> Result<Chain, StoreError> {
        let mut turns: Vec<Arc<Turn>> = Vec::new();
        let mut next = Some(Id::from(id));
        let mut near: Option<(Key, Record, usize)> = None;
        let now = self.now();
        while let Some(id) = next {
            let key = Key::new(scope, &id);
            let (key, record, before) = match near.take().filter(|(near, ..)| *near == key) {
                Some(near) => near,
                None => match self.records.get(&key) {
                    Some(record) => (key, record, usize::MAX),
                    None => return Ok(Chain::Broken),
                },
            };
            let at = record.find(&id, before);
            let turn = at.and_then(|at| record.turns().get(at));
            let Some(turn) =
                turn.filter(|turn| self.touch(&turn.marks.used, now) && turn.state.continuable())
            else {
                return Ok(Chain::Broken);
            };
            if turns.len() == limit {
                return Ok(Chain::TooLong);
            }
            next = turn.parent.clone();
            turns.push(turn.clone());
            near = at.map(|at| (key, record, at));
        }
        turns.reverse();
        Ok(Chain::Whole(turns))
    }

    async fn delete(&self, scope: Scope, id: &str) -> Result<bool, StoreError> {
        let id = Id::from(id);
        let found = self.touch_turn(scope, &id).is_some();
        if found {
            self.change(Key::new(scope, &id), |record| record?.keep(|turn| turn.id != id));
        }
        Ok(found)
    }

    async fn put_conversation(&self, scope: Scope, head: Conversation) -> Result<(), StoreError> {
        self.change(Key::new(scope, &(&*head.id).into()), |record| {
            let kept = record.and_then(|record| self.conversation_of(record));
            let items = kept.map(|kept| kept.items.clone()).unwrap_or_default();
            Some(self.used_now(Kept { head, items, used: LastUsed::default() }))
        });
        Ok(())
    }

    async fn conversation(&self, scope: Scope, id: &str) -> Result<Option<Conversation>, StoreError> {
        Ok(self.touch_conversation(scope, id).map(|kept| kept.head.clone()))
    }

    async fn delete_conversation(&self, scope: Scope, id: &str) -> Result<bool, StoreError> {
        let found = self.touch_conversation(scope, id).is_some();
        if found {
            self.records.invalidate(&Key::new(scope, &id.into()));
        }
        Ok(found)
    }

    async fn items(&self, scope: Scope, conversation: &str) -> Result<Option<Vec<StoredItem>>, StoreError> {
        Ok(self.touch_conversation(scope, conversation).map(|kept| kept.items.clone()))
    }

    async fn append(
        &self,
        scope: Scope,
        conversation: &str,
        items: Vec<StoredItem>,
    ) -> Result<bool, StoreError> {
        Ok(self.change_conversation(scope, conversation, |kept| {
            let mut kept = kept.clone();
            for item in items {
                match kept.items.iter_mut().find(|old| old.id == item.id) {
                    Some(old) => *old = item,
                    None => kept.items.push(item),
                }
            }
            Some(kept)
        }))
    }

    async fn delete_item(&self, scope: Scope, conversation: &str, item: &str) -> Result<bool, StoreError> {
        let mut found = false;
        self.change_conversation(scope, conversation, |kept| {
            let mut kept = kept.clone();
            let before = kept.items.len();
            kept.items.retain(|old| *old.id != *item);
            found = kept.items.len() < before;
            found.then_some(kept)
        });
        Ok(found)
    }

    async fn sweep(&self) {
        let now = self.now();
        for (key, record) in &self.records {
            match &record {
                Record::Conversation(kept) if !self.fresh(&kept.used, now) => self.records.invalidate(&*key),
                Record::Conversation(_) => {}
                _ if record.turns().iter().all(|turn| self.fresh(&turn.marks.used, now)) => {}
                _ => self.change(Key::clone(&key), |record| {
                    record?.keep(|turn| self.fresh(&turn.marks.used, now))
                }),
            }
        }
        self.records.run_pending_tasks();
    }
}
