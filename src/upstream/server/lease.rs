//! Owns the use of a server, or of one of its slots, by one request.

use super::Server;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// One request's place on a server, from its choice to the end of its answer.
pub struct Lease {
    /// The server whose place it is.
    pub(in crate::upstream) server: Arc<Server>,
    /// Which slot of it, where the choice is ours.
    pub(in crate::upstream) slot: Option<u32>,
    /// Which request to that slot it is, where the slot's state is kept.
    pub(in crate::upstream) turn: OnceLock<u64>,
    /// Tokens of its prompt that were in the server's cache, once that is told.
    pub(super) cached: Option<u64>,
    pub(super) told: bool,
}

impl Lease {
    /// The answer has begun.
    pub fn succeeded(&mut self) {
        self.told = true;
        self.server.load().health.succeeded();
    }

    /// The answer is over, and says how many tokens of its prompt were in the server's cache.
    pub fn found_cached(&mut self, tokens: u64) {
        self.cached = Some(tokens);
    }

    /// The server failed, by no fault of the request.
    pub fn failed(&mut self) {
        self.told = true;
        self.server.load().health.failed(Instant::now());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut load = self.server.load();
        load.in_flight = load.in_flight.saturating_sub(1);
        if !self.told {
            load.health.gave_up();
        }
        if let Some(slot) = self.slot {
            load.slots.free(slot);
        }
        drop(load);
        self.server.changes.tell();
        if let (Some(warm), Some(slot), Some(turn)) = (&self.server.warm, self.slot, self.turn.get())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (warm, turn, cached) = (warm.clone(), *turn, self.cached);
            runtime.spawn(async move { warm.after(slot, turn, cached).await });
        }
    }
}
