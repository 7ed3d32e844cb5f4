//! Owns what replicas know of each other's runs: lease, wish to cancel, log of events. It must not decide when a run is
//! dead.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::{cmd, pipe};
use tokio::sync::Mutex;

use super::RedisStore;
use super::ask::{Command, Write, millis};
use super::record::{Kind, name};
use crate::store::{Batch, Scope, SharedRuns, StoreError};

#[async_trait]
impl SharedRuns for RedisStore {
    async fn renew(&self, scope: Scope, id: &str, lease: Duration) -> Result<bool, StoreError> {
        let mut both = pipe();
        both.atomic()
            .cmd("SET")
            .arg(name(scope, Kind::Lease, id))
            .arg("1")
            .arg("PX")
            .arg(millis(lease))
            .ignore();
        // a run that is silent for long must not lose the beginning of its log
        if let Some(log) = self.logs().get(&(scope, Box::from(id))) {
            for kind in [Kind::Events, Kind::Gone] {
                both.cmd("PEXPIRE").arg(name(scope, kind, id)).arg(millis(log.keep)).ignore();
            }
        }
        both.cmd("EXISTS").arg(name(scope, Kind::Cancel, id));
        let (cancelled,): (bool,) = self.link.call(&Command::Pipeline(both)).await?;
        Ok(cancelled)
    }

    async fn release(&self, scope: Scope, id: &str) -> Result<(), StoreError> {
        self.logs().remove(&(scope, Box::from(id)));
        let mut delete = cmd("DEL");
        delete.arg(name(scope, Kind::Lease, id)).arg(name(scope, Kind::Cancel, id));
        let _: u64 = self.link.call(&Command::Single(delete)).await?;
        Ok(())
    }

    async fn leased(&self, scope: Scope, id: &str) -> Result<bool, StoreError> {
        let mut exists = cmd("EXISTS");
        exists.arg(name(scope, Kind::Lease, id));
        Ok(self.link.call(&Command::Single(exists)).await?)
    }

    async fn append(&self, scope: Scope, id: &str, batch: Batch, keep: Duration) -> Result<(), StoreError> {
        let key = (scope, Box::from(id));
        let next =
            self.logs().entry(key.clone()).or_insert_with(|| Log { next: Arc::default(), keep }).next.clone();
        // held over the call: a run's batches go one after another
        let mut next = next.lock().await;
        // what our own log has lost in the meantime leaves a gap, which readers are told of
        let place = (*next).max(batch.gone);
        let after = place + batch.events.len() as u64 + u64::from(batch.ended);
        let ended = batch.ended;
        if !self.link.write(Write::Events(scope, key.1.clone(), place, batch, keep)).await? {
            return Err(StoreError(format!("entries before number {place} of the run's log are gone")));
        }
        *next = after;
        if ended {
            self.logs().remove(&key);
        }
        Ok(())
    }

    async fn events(&self, scope: Scope, id: &str, from: u64) -> Result<Option<Batch>, StoreError> {
        if let Some(batch) = self.link.waiting(|waiting| waiting.events(scope, id, from)) {
            return Ok(Some(batch));
        }
        let key = name(scope, Kind::Events, id);
        let read = self.link.asker.events(scope, id, from);
        let (gone, length, last, entries): (u64, u64, Option<Vec<u8>>, Vec<Vec<u8>>) =
            self.link.call(&read).await?;
        let Some(last) = last else { return Ok(None) };
        let codec = &self.link.asker.codec;
        let from = from.max(gone);
        let mut batch = Batch { gone, ..Batch::default() };
        let entries = (from..).zip(&entries).chain([(length.saturating_sub(1), &last)]);
        for (place, entry) in entries {
            match codec.read_entry(&key, place, entry) {
                // the last one is looked at twice: it tells of the end even to those who are past it
                Some(Some(frame)) if batch.events.len() as u64 + from == place => batch.events.push(frame),
                Some(Some(_)) => {}
                Some(None) => batch.ended = true,
                None => {
                    tracing::debug!(run = id, "an event is not readable");
                    return Ok(None);
                }
            }
        }
        Ok(Some(batch))
    }

    async fn count(&self, scope: Scope, id: &str) -> Result<u64, StoreError> {
        let (_, length, ..): (u64, u64, Option<Vec<u8>>, Vec<Vec<u8>>) =
            self.link.call(&self.link.asker.events(scope, id, u64::MAX >> 12)).await?;
        Ok(length)
    }

    async fn cancel(&self, scope: Scope, id: &str) -> Result<(), StoreError> {
        let mut set = cmd("SET");
        set.arg(name(scope, Kind::Cancel, id)).arg("1").arg("PX").arg(self.link.asker.ttl());
        let _: () = self.link.call(&Command::Single(set)).await?;
        Ok(())
    }
}

/// The logs of this replica's own runs.
pub(super) type Logs = HashMap<(Scope, Box<str>), Log>;

pub(super) struct Log {
    /// The place of its next entry.
    next: Arc<Mutex<u64>>,
    keep: Duration,
}

impl RedisStore {
    fn logs(&self) -> MutexGuard<'_, Logs> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
