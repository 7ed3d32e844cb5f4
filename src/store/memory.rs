//! Owns the store of a single process: moka bounds it in entries and bytes and drops what was not used for longest;
//! idle time is counted here, by an injected clock. It must not keep anything that no read can reach.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use foldhash::fast::RandomState;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{Chain, Clock, Conversation, Id, Scope, Store, StoreError, StoredItem, Turn, Used};

/// What an entry costs beside its record: the cache's own bookkeeping, in bytes.
const OVERHEAD: usize = 256;

/// Bounds of a [`MemoryStore`].
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Idle time after which a record is gone.
    pub ttl: Duration,
    /// Most records.
    pub entries: u64,
    /// Most bytes, counted with the cache's own.
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
    id: Id,
}

impl Key {
    fn new(scope: Scope, id: &str) -> Key {
        Key { scope, id: id.into() }
    }
}

#[derive(Clone)]
enum Record {
    Turn(Arc<Turn>),
    Conversation(Arc<Kept>),
}

impl Record {
    fn bytes(&self) -> usize {
        match self {
            Record::Turn(turn) => turn.bytes(),
            Record::Conversation(kept) => kept.bytes(),
        }
    }

    fn used(&self) -> &Used {
        match self {
            Record::Turn(turn) => &turn.used,
            Record::Conversation(kept) => &kept.used,
        }
    }
}

#[derive(Clone)]
struct Kept {
    head: Conversation,
    items: Vec<StoredItem>,
    used: Used,
}

impl Kept {
    fn bytes(&self) -> usize {
        let item = |item: &StoredItem| item.id.len() + item.json.len() + size_of::<StoredItem>();
        self.head.metadata.len() + self.items.iter().map(item).sum::<usize>()
    }
}

impl MemoryStore {
    /// An empty store. `clock`: milliseconds.
    pub fn new(bounds: Bounds, clock: Clock) -> MemoryStore {
        // one bound serves both: an entry weighs its bytes, and at least its share of them
        let share = bounds.bytes / bounds.entries.max(1);
        let weigh = move |key: &Key, record: &Record| {
            let bytes = (record.bytes() + key.id.bytes() + OVERHEAD) as u64;
            u32::try_from(bytes.max(share)).unwrap_or(u32::MAX)
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
        self.records.entry_count()
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

    fn fresh(&self, record: &Record, now: u64) -> bool {
        now.saturating_sub(record.used().at()) < self.ttl
    }

    /// The record, if it has not expired; its idle time begins anew.
    fn touch(&self, key: &Key, now: u64) -> Option<Record> {
        let record = self.records.get(key)?;
        if !self.fresh(&record, now) {
            self.records.invalidate(key);
            return None;
        }
        record.used().set(now);
        Some(record)
    }

    fn touch_turn(&self, key: &Key, now: u64) -> Option<Arc<Turn>> {
        match self.touch(key, now)? {
            Record::Turn(turn) => Some(turn),
            Record::Conversation(_) => None,
        }
    }

    fn touch_conversation(&self, scope: Scope, id: &str) -> Option<Arc<Kept>> {
        match self.touch(&Key::new(scope, id), self.now())? {
            Record::Conversation(kept) => Some(kept),
            Record::Turn(_) => None,
        }
    }

    /// As it is kept from now on.
    fn used_now(&self, record: Record) -> Record {
        record.used().set(self.now());
        record
    }

    /// Changes a conversation as one step; `None` leaves it as it was. False if there is none.
    fn change(&self, scope: Scope, id: &str, change: impl FnOnce(&Kept) -> Option<Kept>) -> bool {
        let mut found = false;
        self.records.entry(Key::new(scope, id)).and_compute_with(|entry| {
            let Some(entry) = entry.filter(|entry| self.fresh(entry.value(), self.now())) else {
                return Op::Nop;
            };
            let Record::Conversation(kept) = entry.value() else { return Op::Nop };
            let Some(kept) = change(kept) else { return Op::Nop };
            found = true;
            Op::Put(self.used_now(Record::Conversation(Arc::new(kept))))
        });
        found
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put(&self, scope: Scope, turn: Arc<Turn>) -> Result<(), StoreError> {
        let key = Key { scope, id: turn.id.clone() };
        self.records.insert(key, self.used_now(Record::Turn(turn)));
        Ok(())
    }

    async fn turn(&self, scope: Scope, id: &str) -> Result<Option<Arc<Turn>>, StoreError> {
        Ok(self.touch_turn(&Key::new(scope, id), self.now()))
    }

    async fn chain(&self, scope: Scope, id: &str, limit: usize) -> Result<Chain, StoreError> {
        let mut turns: Vec<Arc<Turn>> = Vec::new();
        let mut next = Some(Key::new(scope, id));
        let now = self.now();
        while let Some(key) = next {
            let Some(turn) = self.touch_turn(&key, now).filter(|turn| turn.state.continuable()) else {
                return Ok(Chain::Broken);
            };
            if turns.len() == limit {
                return Ok(Chain::TooLong);
            }
            next = turn.parent.clone().map(|id| Key { scope, id });
            turns.push(turn);
        }
        turns.reverse();
        Ok(Chain::Whole(turns))
    }

    async fn delete(&self, scope: Scope, id: &str) -> Result<bool, StoreError> {
        let key = Key::new(scope, id);
        let found = self.touch_turn(&key, self.now()).is_some();
        if found {
            self.records.invalidate(&key);
        }
        Ok(found)
    }

    async fn put_conversation(&self, scope: Scope, head: Conversation) -> Result<(), StoreError> {
        let key = Key::new(scope, &head.id);
        self.records.entry(key).and_compute_with(|entry| {
            let items = entry
                .filter(|entry| self.fresh(entry.value(), self.now()))
                .and_then(|entry| match entry.value() {
                    Record::Conversation(kept) => Some(kept.items.clone()),
                    Record::Turn(_) => None,
                })
                .unwrap_or_default();
            Op::Put(self.used_now(Record::Conversation(Arc::new(Kept {
                head,
                items,
                used: Used::default(),
            }))))
        });
        Ok(())
    }

    async fn conversation(&self, scope: Scope, id: &str) -> Result<Option<Conversation>, StoreError> {
        Ok(self.touch_conversation(scope, id).map(|kept| kept.head.clone()))
    }

    async fn delete_conversation(&self, scope: Scope, id: &str) -> Result<bool, StoreError> {
        let found = self.touch_conversation(scope, id).is_some();
        if found {
            self.records.invalidate(&Key::new(scope, id));
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
        Ok(self.change(scope, conversation, |kept| {
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
        Ok(self.change(scope, conversation, |kept| {
            let mut kept = kept.clone();
            let before = kept.items.len();
            kept.items.retain(|old| *old.id != *item);
            (kept.items.len() < before).then_some(kept)
        }))
    }

    async fn sweep(&self) {
        for (key, entry) in &self.records {
            if !self.fresh(&entry, self.now()) {
                self.records.invalidate(&*key);
            }
        }
        self.records.run_pending_tasks();
    }
}
