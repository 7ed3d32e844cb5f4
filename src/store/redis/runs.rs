//! Owns what replicas know of each other's runs: lease, wish to cancel, log of events. It must not decide when a run is
//! dead.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::{cmd, pipe};
use tokio::sync::Mutex;

use super::RedisStore;
use super::ask::{Ask, Write, millis};
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
        both.cmd("EXISTS").arg(name(scope, Kind::Cancel, id));
        let (cancelled,): (bool,) = self.link.call(&Ask::Pipeline(both)).await?;
        Ok(cancelled)
    }

    async fn release(&self, scope: Scope, id: &str) -> Result<(), StoreError> {
        self.places().remove(&(scope, Box::from(id)));
        let mut delete = cmd("DEL");
        delete.arg(name(scope, Kind::Lease, id)).arg(name(scope, Kind::Cancel, id));
        let _: u64 = self.link.call(&Ask::Command(delete)).await?;
        Ok(())
    }

    async fn leased(&self, scope: Scope, id: &str) -> Result<bool, StoreError> {
        let mut exists = cmd("EXISTS");
        exists.arg(name(scope, Kind::Lease, id));
        Ok(self.link.call(&Ask::Command(exists)).await?)
    }

    async fn append(&self, scope: Scope, id: &str, batch: Batch, keep: Duration) -> Result<(), StoreError> {
        let log = self.places().entry((scope, Box::from(id))).or_default().clone();
        // held over the call: a run's batches go one after another
        let mut next = log.lock().await;
        let place = *next;
        let ended = batch.ended;
        *next += batch.events.len() as u64 + u64::from(ended);
        if ended {
            self.places().remove(&(scope, Box::from(id)));
        }
        match self.link.write(Write::Events(scope, Box::from(id), place, batch, keep)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError(format!("the run's log is not {place} entries long any more"))),
            Err(error) => Err(error),
        }
    }

    async fn events(&self, scope: Scope, id: &str, from: u64) -> Result<Option<Batch>, StoreError> {
        if let Some((events, ended)) = self.link.waiting(|waiting| waiting.events(scope, id, from)) {
            return Ok(Some(Batch { events, ended }));
        }
        let key = name(scope, Kind::Events, id);
        let mut read = pipe();
        read.atomic().cmd("LLEN").arg(&key).cmd("LINDEX").arg(&key).arg(-1);
        read.cmd("LRANGE").arg(&key).arg(from).arg(-1);
        let (length, last, entries): (u64, Option<Vec<u8>>, Vec<Vec<u8>>) =
            self.link.call(&Ask::Pipeline(read)).await?;
        let Some(last) = last else { return Ok(None) };
        let codec = &self.link.asker.codec;
        let mut batch = Batch::default();
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

    async fn cancel(&self, scope: Scope, id: &str) -> Result<(), StoreError> {
        let mut set = cmd("SET");
        set.arg(name(scope, Kind::Cancel, id)).arg("1").arg("PX").arg(self.link.asker.ttl());
        let _: () = self.link.call(&Ask::Command(set)).await?;
        Ok(())
    }
}

/// The place of the next entry of each run's log that is written here.
pub(super) type Places = std::collections::HashMap<(Scope, Box<str>), Arc<Mutex<u64>>>;

impl RedisStore {
    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
