//! Owns the store that several replicas share, on Redis 6.2 or newer or Valkey: what each call of [`Store`] asks there.
//! It must not keep what the server has, and no call may outlast `store.timeout`.
//!
//! Redis Cluster is out of scope: the chain's script reads records that it learns of on its way.
//!
//! | name, behind `rejoinder:{scope}:` | type | holds |
//! | --- | --- | --- |
//! | `t:` response id | string | a turn |
//! | `c:` conversation id | hash | `head`; `i:` item id: its place, `:`, the item; `next`: the last place |
//! | `e:` response id | list | a run's events, and its end |
//! | `l:` and `x:` response id | string | a run's lease; the wish to cancel it |

mod ask;
mod link;
mod record;
mod runs;
mod write_queue;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use redis::Client;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use write_queue::QueueLimits;

use self::ask::{Commands, Write};
use self::link::Connection;
use self::record::{Codec, HEAD, ITEM, Kind, name};
use self::runs::Logs;
use super::{Chain, Conversation, Health, Scope, SharedRuns, Store, StoreError, StoredItem, Turn};
use crate::config::{StoreConfig, redact_url};
use crate::keyring::Keyring;
use crate::panics;

/// A store in Redis, which several replicas share; dropping it ends its background task.
pub struct RedisStore {
    link: Arc<Connection>,
    logs: Mutex<Logs>,
    keeper: JoinHandle<()>,
}

impl RedisStore {
    /// A store that connects in the background, for as long as it lives; whether the server is there does not matter
    /// here. `room`: what may wait in memory while the server is away.
    ///
    /// # Errors
    /// When the configuration names no usable URL, and outside of a tokio runtime.
    pub fn connect(
        config: &StoreConfig,
        keyring: Arc<Keyring>,
        room: QueueLimits,
    ) -> Result<RedisStore, String> {
        let url = config.url.as_deref().unwrap_or_default().trim();
        let shown = redact_url(url);
        let client = Client::open(url).map_err(|error| format!("store.url ({shown}): {error}"))?;
        let asker = Commands::new(Codec { keyring, seal: config.seal }, config.ttl, config.replay_max_bytes);
        let link = Arc::new(Connection::new(client, shown, config.timeout, asker, room));
        let runtime = Handle::try_current().map_err(|error| error.to_string())?;
        let keeper = runtime.spawn({
            let link = link.clone();
            let run = move || {
                let link = link.clone();
                async move { link.run().await }
            };
            panics::restarted("the connection to the store", run)
        });
        Ok(RedisStore { link, logs: Mutex::default(), keeper })
    }

    fn read_turn(&self, scope: Scope, id: &str, record: &[u8]) -> Option<Turn> {
        readable(self.link.asker.codec.read_turn(&name(scope, Kind::Turn, id), id, record), id)
    }

    fn read_head(&self, key: &str, id: &str, record: Option<&[u8]>) -> Option<Conversation> {
        readable(self.link.asker.codec.read_head(key, record?), id)
    }

    async fn delete_key(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.link.call(&self.link.asker.delete(key)).await?)
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn put(&self, scope: Scope, turn: Arc<Turn>) -> Result<(), StoreError> {
        self.link.write(Write::Turn(scope, turn)).await.map(drop)
    }

    async fn turn(&self, scope: Scope, id: &str) -> Result<Option<Arc<Turn>>, StoreError> {
        if let Some(turn) = self.link.waiting(|waiting| waiting.turn(scope, &id.into())) {
            return Ok(Some(turn));
        }
        let ask = self.link.asker.turn(&name(scope, Kind::Turn, id));
        let record: Option<Vec<u8>> = self.link.call(&ask).await?;
        Ok(record.and_then(|record| self.read_turn(scope, id, &record)).map(Arc::new))
    }

    async fn chain(&self, scope: Scope, id: &str, limit: usize) -> Result<Chain, StoreError> {
        if let Some(chain) = self.link.waiting(|waiting| waiting.chain(scope, id, limit)) {
            return Ok(chain);
        }
        let records: Vec<Vec<u8>> = self.link.call(&self.link.asker.chain(scope, id, limit)).await?;
        let mut turns = Vec::with_capacity(records.len());
        let mut records = records.into_iter();
        let mut next = Some(Box::from(id));
        while let Some(id) = next.take() {
            let turn = records.next().and_then(|record| self.read_turn(scope, &id, &record));
            let Some(turn) = turn.filter(|turn| turn.state.continuable()) else { return Ok(Chain::Broken) };
            if turns.len() == limit {
                return Ok(Chain::TooLong);
            }
            next = turn.parent_id().map(Box::from);
            turns.push(Arc::new(turn));
        }
        turns.reverse();
        Ok(Chain::Whole(turns))
    }

    async fn delete(&self, scope: Scope, id: &str) -> Result<bool, StoreError> {
        self.delete_key(&name(scope, Kind::Turn, id)).await
    }

    async fn put_conversation(&self, scope: Scope, head: Conversation) -> Result<(), StoreError> {
        self.link.write(Write::Head(scope, head)).await.map(drop)
    }

    async fn conversation(&self, scope: Scope, id: &str) -> Result<Option<Conversation>, StoreError> {
        if let Some(head) = self.link.waiting(|waiting| waiting.conversation(scope, id)) {
            return Ok(Some(head));
        }
        let key = name(scope, Kind::Conversation, id);
        let (record,): (Option<Vec<u8>>,) = self.link.call(&self.link.asker.head(&key)).await?;
        Ok(self.read_head(&key, id, record.as_deref()))
    }

    async fn delete_conversation(&self, scope: Scope, id: &str) -> Result<bool, StoreError> {
        self.delete_key(&name(scope, Kind::Conversation, id)).await
    }

    async fn items(&self, scope: Scope, conversation: &str) -> Result<Option<Vec<StoredItem>>, StoreError> {
        let key = name(scope, Kind::Conversation, conversation);
        let (fields,): (Vec<(Vec<u8>, Vec<u8>)>,) = self.link.call(&self.link.asker.items(&key)).await?;
        let head = fields.iter().find(|(field, _)| field == HEAD.as_bytes()).map(|(_, head)| &**head);
        if self.read_head(&key, conversation, head).is_none() {
            return Ok(None);
        }
        let codec = &self.link.asker.codec;
        let mut items: Vec<(u64, StoredItem)> = fields
            .iter()
            .filter(|(field, _)| field.starts_with(ITEM.as_bytes()))
            .filter_map(|(field, value)| readable(codec.read_item(&key, field, value), conversation))
            .collect();
        items.sort_unstable_by_key(|(place, _)| *place);
        Ok(Some(items.into_iter().map(|(_, item)| item).collect()))
    }

    async fn append(
        &self,
        scope: Scope,
        conversation: &str,
        items: Vec<StoredItem>,
    ) -> Result<bool, StoreError> {
        self.link.write(Write::Items(scope, conversation.into(), items)).await
    }

    async fn delete_item(&self, scope: Scope, conversation: &str, item: &str) -> Result<bool, StoreError> {
        let key = name(scope, Kind::Conversation, conversation);
        let ask = self.link.asker.delete_item(&key, &format!("{ITEM}{item}"));
        let (removed,): (bool,) = self.link.call(&ask).await?;
        Ok(removed)
    }

    fn runs(&self) -> Option<&dyn SharedRuns> {
        Some(self)
    }

    fn health(&self) -> Health {
        self.link.health()
    }
}

/// Says in the log that a record which is there is taken for absent: of another version, changed, or moved.
fn readable<T>(read: Option<T>, id: &str) -> Option<T> {
    if read.is_none() {
        tracing::debug!(id, "a stored record is not readable");
    }
    read
}
