//! Owns what every request handler needs.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client_address::TrustedProxies;
use super::client_limits::ClientLimits;
use super::origin::OriginPolicy;
use super::paths::Paths;
use super::runs::Runs;
use super::socket_turns::AllSocketTurns;
use crate::budget::Budget;
use crate::client_keys::{ClientKey, ClientKeys};
use crate::config::{Config, Tls};
use crate::keyring::{Caller, Keyring};
use crate::store::{EchoCache, Store};
use crate::telemetry::{Activity, Metrics, Traces};
use crate::upstream::{Requester, Upstream};

/// What every request handler needs.
pub(crate) struct App {
    pub(super) config: Config,
    pub(super) upstream: Upstream,
    /// Bytes of requests that are held.
    pub(super) budget: Arc<Budget>,
    pub(super) metrics: Metrics,
    pub(super) traces: Option<Traces>,
    /// What the page for operators shows, where there is one.
    pub(super) activity: Option<Arc<Activity>>,
    pub(super) keyring: Arc<Keyring>,
    /// The keys that may call `listen`.
    pub(super) client_keys: Arc<ClientKeys>,
    pub(super) store: Arc<dyn Store>,
    pub(super) echoes: EchoCache,
    pub(super) runs: Runs,
    /// What WebSocket connections remember.
    pub(super) socket_turns: Arc<AllSocketTurns>,
    /// The tasks of WebSocket connections.
    pub(super) sockets: TaskTracker,
    /// Who may call `listen`.
    pub(super) origins: OriginPolicy,
    /// Who may call `admin`.
    pub(super) admin_origins: OriginPolicy,
    /// The proxies that say which address their client has.
    pub(super) proxies: TrustedProxies,
    /// What clients may have at a time.
    pub(super) limits: ClientLimits,
    /// The certificate for `listen`, and `admin` where `tls.admin` says so.
    pub(super) tls: Option<Arc<Tls>>,
    /// Which paths are passed on.
    pub(super) paths: Paths,
    /// Cancelled when open streams must end.
    pub(super) cut: CancellationToken,
    /// Cancelled when the process was told to end: it is not ready, and still serves for `drain_delay`.
    pub(super) leaving: CancellationToken,
    /// Cancelled when no new work is wanted.
    pub(super) draining: CancellationToken,
}

impl App {
    /// Who asks, as far as the wait for a server depends on that: a key, or without keys a caller by its credentials.
    pub(super) fn requester(key: Option<&ClientKey>, caller: &Caller) -> Requester {
        match key {
            Some(key) => {
                Requester { caller: key.number, priority: key.priority, upstreams: key.upstreams.clone() }
            }
            None => Requester { caller: caller.number(), ..Requester::default() },
        }
    }
}
