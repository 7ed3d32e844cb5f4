//! Owns what outlives a request: the trait of a store, and what every store keeps to. It must not know HTTP, and it
//! must not look into an item.
//!
//! Every record belongs to a [`Scope`], and there is no way to ask for a record without one: somebody else's id is
//! looked up exactly as one that never was.

mod echo_cache;
mod id;
pub mod memory;
pub mod redis;
pub mod turn;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;

pub use crate::scope::Scope;
pub use echo_cache::EchoCache;
pub use id::Id;
pub use turn::{Conversation, Marks, StoredItem, Turn, TurnState};

use self::memory::{MemoryLimits, MemoryStore};
use self::redis::{QueueLimits, RedisStore};
use crate::config::Resolved;

/// The store that the configuration names. One that is shared connects in the background.
///
/// # Errors
/// When `store.url` cannot be used, or is set outside of a tokio runtime; a server that is away does not matter.
pub fn open(resolved: &Resolved) -> Result<Arc<dyn Store>, String> {
    let config = &resolved.config.store;
    if config.url.is_some() {
        return Ok(Arc::new(RedisStore::connect(config, resolved.keyring.clone(), QueueLimits::default())?));
    }
    let bounds =
        MemoryLimits { ttl: config.ttl, entries: config.max_entries as u64, bytes: config.max_bytes as u64 };
    Ok(Arc::new(MemoryStore::new(bounds, Arc::new(now_ms))))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A store that could not be asked, in time or at all. For the log; the client gets 503.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Milliseconds since 1970; injected, so that tests turn it forward.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The turns that lead to a response.
#[derive(Debug, Clone)]
pub enum Chain {
    /// All of them, the oldest first, the named one last.
    Whole(Vec<Arc<Turn>>),
    /// One of them is unknown, expired, deleted or cannot be continued from.
    Broken,
    /// There are more than was allowed.
    TooLong,
}

/// How a store does, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Whether it can be asked.
    pub up: bool,
    /// Writes that wait in memory for it to come back.
    pub waiting: usize,
    /// Writes that were given up since the start.
    pub lost: u64,
}

/// Where responses and conversations are kept. Each read of a record begins its idle time anew; a chain's read that
/// of every turn in it.
///
/// An error of `put`, `put_conversation` or `append` is for the log: a shared store that is away keeps such a write in
/// this process's memory, within bounds, and does it when it is back; the error says so ("kept in memory until ...").
/// To try it again does no harm. What is kept there can be read on this replica meanwhile. Deletes are not kept: what was
/// refused has not happened.
#[async_trait]
pub trait Store: Send + Sync {
    /// Keeps a turn, in place of an older record of the same id. A shared store leaves one that can be continued from
    /// as it is when this one cannot: another replica has taken its run for dead.
    async fn put(&self, scope: Scope, turn: Arc<Turn>) -> Result<(), StoreError>;

    /// The turn of that response id; `None` if there is none, or it has expired.
    async fn turn(&self, scope: Scope, id: &str) -> Result<Option<Arc<Turn>>, StoreError>;

    /// The turns from the beginning of its conversation up to the response `id`; at most `limit` of them.
    async fn chain(&self, scope: Scope, id: &str, limit: usize) -> Result<Chain, StoreError>;

    /// Forgets a turn; false if there was none.
    async fn delete(&self, scope: Scope, id: &str) -> Result<bool, StoreError>;

    /// Keeps a conversation's head (metadata), in place of an older one; its items stay.
    async fn put_conversation(&self, scope: Scope, head: Conversation) -> Result<(), StoreError>;

    /// A conversation's head; `None` if there is no such conversation, or it has expired.
    async fn conversation(&self, scope: Scope, id: &str) -> Result<Option<Conversation>, StoreError>;

    /// Forgets a conversation and its items; false if there was none.
    async fn delete_conversation(&self, scope: Scope, id: &str) -> Result<bool, StoreError>;

    /// A conversation's items, the oldest first; `None` if there is no such conversation.
    async fn items(&self, scope: Scope, conversation: &str) -> Result<Option<Vec<StoredItem>>, StoreError>;

    /// Adds items at a conversation's end, one call's items together; false if there is no such conversation. An item
    /// whose id is there already replaces that one in its place.
    async fn append(
        &self,
        scope: Scope,
        conversation: &str,
        items: Vec<StoredItem>,
    ) -> Result<bool, StoreError>;

    /// Removes one item of a conversation; false if there was none.
    async fn delete_item(&self, scope: Scope, conversation: &str, item: &str) -> Result<bool, StoreError>;

    /// The last bytes that the id of a response is to have that continues these turns, where the store keeps together
    /// what ends alike.
    fn id_ending(&self, _turns: &[Arc<Turn>]) -> Option<[u8; 4]> {
        None
    }

    /// What other replicas may know of runs; `None` where there are no other replicas.
    fn runs(&self) -> Option<&dyn SharedRuns> {
        None
    }

    /// Removes what has expired, where the store does not do so by itself.
    async fn sweep(&self) {}

    /// Whether it can be asked now, and what waits for it; does not ask it.
    fn health(&self) -> Health {
        Health { up: true, waiting: 0, lost: 0 }
    }
}

/// Events that a run has sent so far.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Whole frames (`event: ..\ndata: ..\n\n`), in the order of their `sequence_number`.
    pub events: Vec<Bytes>,
    /// Whether the last of them ends the stream.
    pub ended: bool,
    /// The events before this number are no longer kept; the first of these has it, where an earlier one was asked for.
    pub gone: u64,
}

/// Runs that several replicas can watch and cancel. A run belongs to the replica that began it, for as long as that
/// one renews its lease.
#[async_trait]
pub trait SharedRuns: Send + Sync {
    /// Takes or renews the lease on a run; true: a cancel was asked for.
    async fn renew(&self, scope: Scope, id: &str, lease: Duration) -> Result<bool, StoreError>;

    /// Gives the lease back: the run's final record is stored.
    async fn release(&self, scope: Scope, id: &str) -> Result<(), StoreError>;

    /// Whether some replica holds the lease.
    async fn leased(&self, scope: Scope, id: &str) -> Result<bool, StoreError>;

    /// Adds events to a run's log, each once; `keep`: how long the log stays after its last change or the lease's last
    /// renewal. Only the run's own replica may. After an error it appends the same events again, with later ones behind
    /// them, or gives up; "kept" in the error means what it does for [`Store::put`]. Beyond the bytes that a log may have,
    /// its oldest events go.
    async fn append(&self, scope: Scope, id: &str, batch: Batch, keep: Duration) -> Result<(), StoreError>;

    /// The events from number `from` on, or from the oldest that is kept; `None` if there is no log.
    async fn events(&self, scope: Scope, id: &str, from: u64) -> Result<Option<Batch>, StoreError>;

    /// How many events a run has sent so far, kept or not.
    async fn count(&self, scope: Scope, id: &str) -> Result<u64, StoreError>;

    /// Asks the replica that holds the lease to cancel.
    async fn cancel(&self, scope: Scope, id: &str) -> Result<(), StoreError>;
}
