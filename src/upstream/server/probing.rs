//! Owns the watch over a server: when it is probed, and what is announced of it.

use super::{RETRY, SILENCES, Server, State, USUAL};
use crate::config::redact_url;
use crate::panics;
use crate::upstream::address::Address;
use crate::upstream::probe::{Probe, ProbeResult};
use std::sync::Arc;

impl Server {
    /// [`Server::watch`], also after a defect in it.
    pub async fn watched(self: Arc<Server>, own_port: u16) {
        panics::restarted("the watch over a server", || self.clone().watch(own_port)).await;
    }

    /// Looks at the server until it is removed: often until it is ready, then every `probe_interval`. `own_port` is
    /// skipped in the search, so that we never take ourselves for the upstream.
    async fn watch(self: Arc<Server>, own_port: u16) {
        let mut silences = 0;
        loop {
            let probed = tokio::select! {
                probed = self.probe(own_port) => probed,
                () = self.removed.cancelled() => return,
            };
            let was_ready = self.ready();
            let next = match probed {
                Probed::Silent(_) if was_ready && silences + 1 < SILENCES => {
                    silences += 1;
                    None
                }
                Probed::Silent(state) | Probed::Answered(state) => {
                    silences = 0;
                    Some(state)
                }
            };
            if let Some(next) = next {
                self.announce(next);
            }
            let pause = if self.ready() && silences == 0 { self.config.probe_interval } else { RETRY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.suspected.notified() => {}
                () = self.removed.cancelled() => return,
            }
        }
    }

    /// Probes the server once, and announces what it found.
    pub async fn probe_once(&self, own_port: u16) {
        let (Probed::Answered(state) | Probed::Silent(state)) = self.probe(own_port).await;
        self.announce(state);
    }

    async fn probe(&self, own_port: u16) -> Probed {
        let named = self.config.url.as_deref();
        let own = format!(":{own_port}");
        let places = named.into_iter().chain(USUAL.into_iter().filter(|_| named.is_none()));
        let before = self.state();
        let mut reasons = Vec::new();
        let mut silent = false;
        for base in places.filter(|base| named.is_some() || !base.ends_with(&own)) {
            let address = Address::of(base);
            let probe = Probe { client: &self.client.general, address: &address, key: self.key.as_ref() };
            match probe.run().await {
                ProbeResult::Unseen => return Probed::Answered(before),
                ProbeResult::Absent(reason) => reasons.push(format!("{}: {reason}", redact_url(base))),
                ProbeResult::Silent(reason) => {
                    silent = true;
                    reasons.push(format!("{}: {reason}", redact_url(base)));
                }
                ProbeResult::Loading(reason) => {
                    return Probed::Answered(State {
                        address: before.address.or(Some(address)),
                        facts: before.facts,
                        ready: Err(reason),
                        probed: true,
                    });
                }
                ProbeResult::Ready(facts) => {
                    let address = if facts.unversioned { address.without_version() } else { address };
                    let (address, facts) = (Some(address), Some(Arc::new(*facts)));
                    return Probed::Answered(State { address, facts, ready: Ok(()), probed: true });
                }
            }
        }
        // what was learned of a server that is away for a moment stays true, where it was named
        let kept = named.is_some();
        let state = State {
            address: before.address.filter(|_| kept),
            facts: before.facts.filter(|_| kept),
            ready: Err(reasons.join("; ")),
            probed: true,
        };
        if silent { Probed::Silent(state) } else { Probed::Answered(state) }
    }

    pub(super) fn announce(&self, next: State) {
        let changed = self.state.send_if_modified(|state| {
            if *state == next {
                return false;
            }
            let base = next.address.as_ref().map(Address::label).unwrap_or_default();
            match &next.ready {
                Ok(()) if state.ready.is_ok() => tracing::info!(upstream = %base, "upstream has changed"),
                Ok(()) => {
                    let facts = next.facts.as_deref();
                    let dialect = facts.map_or("", |facts| facts.dialect.name);
                    let context = facts.and_then(|facts| facts.traits.context).unwrap_or_default();
                    tracing::info!(upstream = %base, dialect, context, "upstream is ready");
                }
                Err(reason) if state.ready.is_ok() || !state.probed => {
                    tracing::warn!(upstream = %base, %reason, "upstream is not ready");
                }
                Err(reason) => tracing::debug!(upstream = %base, %reason, "upstream is still not ready"),
            }
            *state = next;
            true
        });
        if changed {
            self.changes.tell();
        }
    }

    /// Takes it for unable to serve until a probe, which is asked for now, shows otherwise.
    pub fn suspect(&self, reason: &str) {
        let before = self.state();
        self.announce(State { ready: Err(reason.to_owned()), probed: true, ..before });
        self.suspected.notify_one();
    }

    /// Asks for a probe now.
    pub fn recheck(&self) {
        self.suspected.notify_one();
    }
}

enum Probed {
    Answered(State),
    /// It took the connection, no more.
    Silent(State),
}
