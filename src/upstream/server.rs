//! Owns one upstream server: what is known of it, what runs on it now, and the watch over both. It must not choose
//! between servers or send chat requests.

mod lease;
mod probing;

pub use lease::Lease;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use rejoinder_core::responses_profile::ResponsesProfile;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::exchange::Client;
use super::facts::ServerInfo;
use super::health::Health;
use super::slots::Slots;
use super::warm::{SlotCache, SlotClient};
use super::{Changes, Saves, Target, probe};
use crate::config::{Api, ServerConfig, Switch, UpstreamConfig, read_budgets, read_efforts};
use crate::telemetry::Routing;

/// Where servers usually listen, probed at in this order when none is named.
const USUAL: [&str; 2] = ["http://127.0.0.1:8080", "http://127.0.0.1:8000"];
/// Time between two probes of a server that is not ready.
pub const RETRY: Duration = Duration::from_millis(500);
/// Probes in a row without an answer until a server that was ready is taken for hung: one may be busy for a moment.
const SILENCES: u32 = 2;

/// What the last probes found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Where it is; `None` while the search has found nothing.
    pub address: Option<Address>,
    /// What was learned; it outlives an outage.
    pub facts: Option<Arc<ServerInfo>>,
    /// `Ok`, or why it cannot serve.
    pub ready: Result<(), String>,
    /// Whether the first probe is over.
    pub probed: bool,
}

/// One upstream server: what is known of it, and what runs on it.
pub struct Server {
    /// Never given twice in a process.
    pub id: usize,
    pub config: UpstreamConfig,
    key: Option<SecretString>,
    /// The key as a header has it.
    bearer: Option<HeaderValue>,
    pub client: Client,
    /// Client's model name and the server's own, from `models`.
    models: Option<Vec<(String, String)>>,
    efforts: Option<Arc<[String]>>,
    budgets: Arc<[(String, u64)]>,
    limit_to_slots: bool,
    /// The states of its slots on disk, where they are to be kept.
    pub warm: Option<Arc<SlotCache>>,
    state: watch::Sender<State>,
    load: Mutex<Load>,
    /// Has the watch probe the server now.
    suspected: Notify,
    /// Cancelled when the configuration no longer has it.
    pub removed: CancellationToken,
    changes: Changes,
}

#[derive(Debug, Default)]
struct Load {
    in_flight: usize,
    health: Health,
    slots: Slots,
}

impl Server {
    /// A server that was not probed yet; [`Server::watch`] does so.
    ///
    /// # Errors
    /// When the TLS set-up of the machine cannot be read.
    pub fn new(configured: &ServerConfig, changes: Changes, metrics: &Routing) -> Result<Server, String> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let config = configured.config.clone();
        // the search probes plain HTTP alone
        let tls = config.url.as_deref().is_some_and(|url| !url.starts_with("http:"));
        let client = Client::new(config.connect_timeout, tls)?;
        let state = State {
            address: config.url.as_deref().map(Address::of),
            facts: None,
            ready: Err("not probed yet".to_owned()),
            probed: false,
        };
        let split = |name: &String| match name.split_once('=') {
            Some((client, own)) => (client.trim().to_owned(), own.trim().to_owned()),
            None => (name.clone(), name.clone()),
        };
        Ok(Server {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            models: config.models.as_ref().map(|names| names.iter().map(split).collect()),
            efforts: config
                .reasoning_efforts
                .as_deref()
                .and_then(|text| read_efforts(text).ok())
                .map(Arc::from),
            budgets: config
                .reasoning_budget_tokens
                .as_deref()
                .and_then(|text| read_budgets(text).ok())
                .unwrap_or_default()
                .into(),
            warm: config.slot_save.then(|| Arc::new(SlotCache::new(&config, metrics))),
            limit_to_slots: configured.limit_to_slots,
            config,
            key: configured.key.clone(),
            bearer: configured.key.as_ref().and_then(bearer),
            client,
            state: watch::Sender::new(state),
            load: Mutex::default(),
            suspected: Notify::new(),
            removed: CancellationToken::new(),
            changes,
        })
    }

    /// Whether it is the server of that configuration, unchanged.
    pub fn is(&self, configured: &ServerConfig) -> bool {
        let secret = |key: &Option<SecretString>| key.as_ref().map(|key| key.expose_secret().to_owned());
        self.config == configured.config && secret(&self.key) == secret(&configured.key)
    }

    /// Takes over what another server of the same URL has learned.
    pub fn inherit(&self, other: &Server) {
        self.state.send_replace(other.state());
    }

    /// What the last probes found.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// A receiver of every change of [`Server::state`].
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Whether the last probe found it able to serve.
    pub fn ready(&self) -> bool {
        self.state.borrow().ready.is_ok()
    }

    /// Whether the first probe is over.
    pub fn probed(&self) -> bool {
        self.state.borrow().probed
    }

    /// Where it is; `None` while the search has found nothing.
    pub fn address(&self) -> Option<Address> {
        self.state.borrow().address.clone()
    }

    /// Whether it lists that model itself.
    pub fn lists(&self, model: &str) -> bool {
        self.state.borrow().facts.as_ref().is_some_and(|facts| facts.lists(model))
    }

    /// Host and port, or the whole URL without its user: the label in logs and metrics.
    pub fn label(&self) -> String {
        self.address().map_or_else(|| "not found".to_owned(), |address| address.label())
    }

    /// How `upstream.models` maps that name.
    pub fn named<'n>(&'n self, model: &'n str) -> Named<'n> {
        let Some(names) = &self.models else { return Named::Open };
        let own =
            |wanted: &str| names.iter().find(|(client, _)| client == wanted).map(|(_, own)| own.as_str());
        match (own(model), own(ANY)) {
            (Some(own), _) => Named::Own(own),
            (None, Some(ANY)) => Named::Any(model),
            (None, Some(own)) => Named::Any(own),
            (None, None) => Named::Not,
        }
    }

    /// The names of `models`: the client's, then its own.
    pub fn named_models(&self) -> Option<&[(String, String)]> {
        self.models.as_deref()
    }

    /// How it reads a request for that model; `None` while the search has found nothing.
    pub fn target(&self, model: &str) -> Option<Target> {
        let state = self.state.borrow();
        let address = state.address.clone()?;
        let unknown = ServerInfo::default();
        let facts = state.facts.as_deref().unwrap_or(&unknown);
        let own = match self.named(model) {
            Named::Own(own) | Named::Any(own) => Some(own),
            Named::Open | Named::Not => None,
        };
        let own = own.filter(|own| *own != model);
        let dialect = probe::chosen(self.config.dialect).unwrap_or(facts.dialect);
        let traits = facts.traits_of(own.unwrap_or(model));
        Some(Target {
            native: (self.config.api == Api::Responses)
                .then(|| ResponsesProfile::of(dialect.name, &address.root)),
            address,
            dialect,
            alternate_roles: match self.config.alternate_roles {
                Switch::Auto => traits.alternates.unwrap_or(false),
                Switch::On => true,
                Switch::Off => false,
            },
            // who does not say gets to see them, and says so itself
            accepts_images: self.images().or(traits.accepts_images).unwrap_or(true),
            model: own.map(str::to_owned),
            extra_body: self.config.extra_body.clone(),
            // such a template raises an error for any level
            efforts: self
                .efforts
                .clone()
                .or_else(|| (traits.efforts == Some(false)).then(|| ["none".to_owned()].into())),
            budgets: self.budgets.clone(),
            think_tags: self.config.think_tags,
            context: traits.context,
        })
    }

    /// Whether its models take images, where the configuration says so.
    pub fn images(&self) -> Option<bool> {
        match self.config.images {
            Switch::Auto => None,
            Switch::On => Some(true),
            Switch::Off => Some(false),
        }
    }

    /// Values of `reasoning.effort` that the configuration has for it: levels, or those with a thinking budget.
    pub fn named_efforts(&self) -> Vec<String> {
        let budgets = || self.budgets.iter().map(|(effort, _)| effort.clone()).collect();
        self.efforts.as_ref().map_or_else(budgets, |efforts| efforts.to_vec())
    }

    /// The `Authorization` of a request to it: the configured key, or the client's own where that is allowed.
    pub fn key_for<'a>(&'a self, client: Option<&'a HeaderValue>) -> Option<&'a HeaderValue> {
        match self.key {
            Some(_) => self.bearer.as_ref(),
            None => client.filter(|_| self.config.forward_authorization),
        }
    }

    /// The same among other headers.
    pub fn authorize(&self, headers: &mut HeaderMap, client: Option<&HeaderValue>) {
        if let Some(key) = self.key_for(client) {
            headers.insert(header::AUTHORIZATION, key.clone());
        }
    }

    /// Removes what a client may have put a key into, where that key is not for this server.
    pub fn strip_keys(&self, headers: &mut HeaderMap) {
        headers.remove(header::AUTHORIZATION);
        if self.key.is_some() || !self.config.forward_authorization {
            for name in
                [header::COOKIE, HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")]
            {
                headers.remove(name);
            }
        }
    }

    /// The way to its slots, with the key of this client where that is the one to use.
    pub fn line(&self, root: Arc<str>, client: Option<&HeaderValue>) -> SlotClient {
        let mut headers = HeaderMap::new();
        self.authorize(&mut headers, client);
        SlotClient { client: self.client.general.clone(), base: root, headers }
    }

    /// Looks up what is known of its saved slots, and changes nothing.
    pub async fn read_saves(&self) {
        if let (Some(warm), Some(address)) = (&self.warm, self.address()) {
            warm.look(&self.line(address.root, None)).await;
        }
    }

    /// Whether its slots are saved.
    pub fn saves(&self) -> Saves {
        match &self.warm {
            None => Saves::Off,
            Some(warm) if warm.is_useless() => Saves::Useless,
            Some(_) => Saves::On,
        }
    }

    // what runs on it

    /// Requests that it has now.
    pub fn in_flight(&self) -> usize {
        self.load().in_flight
    }

    /// Requests that it could be given beside those.
    pub fn room(&self) -> usize {
        self.max_in_flight().map_or(usize::MAX, |most| most.saturating_sub(self.in_flight()))
    }

    /// Most requests that it is given at a time.
    fn max_in_flight(&self) -> Option<usize> {
        let slots = || self.state.borrow().facts.as_ref().and_then(|facts| facts.slots);
        let by_slots = || slots().filter(|_| self.limit_to_slots).and_then(|count| count.try_into().ok());
        self.config.max_in_flight.or_else(by_slots)
    }

    /// Whether its circuit is closed, or a single trial is due.
    pub fn admits(&self) -> bool {
        self.load().health.admits(Instant::now())
    }

    /// Counts a request in, unless the server has all it may be given by now; the circuit's trial, if one is due, is
    /// this one. Dropped, the lease counts it out. `owner` is whose slot it is, where there are slots; `again`: the
    /// slot that has its prompt already, where nobody owns it.
    pub fn lease(self: &Arc<Server>, owner: Option<&str>, side: bool, again: Option<u32>) -> Option<Lease> {
        let (slots, most) = (self.slots(), self.max_in_flight());
        let mut load = self.load();
        if most.is_some_and(|most| load.in_flight >= most) {
            return None;
        }
        load.in_flight += 1;
        load.health.begin();
        let again = again.filter(|_| owner.is_none()).and_then(|slot| load.slots.again(slot));
        let slot = again.or_else(|| slots.and_then(|count| load.slots.take(count, owner, side)));
        drop(load);
        Some(Lease { server: self.clone(), slot, turn: OnceLock::new(), cached: None, told: false })
    }

    /// Counts in a request whose place nobody chose: one that is passed through.
    pub fn lease_any(self: &Arc<Server>) -> Lease {
        self.load().in_flight += 1;
        Lease { server: self.clone(), slot: None, turn: OnceLock::new(), cached: None, told: false }
    }

    /// How many slots there are to choose from, where the choice is ours.
    fn slots(&self) -> Option<u32> {
        let state = self.state.borrow();
        let facts = state.facts.as_ref()?;
        let dialect = probe::chosen(self.config.dialect).unwrap_or(facts.dialect);
        let ours = self.config.pin_slots && dialect.slot_key.is_some();
        // a single slot needs no choice, but its state has to be kept apart
        facts.slots.filter(|count| ours && (*count > 1 || self.warm.is_some()))
    }

    fn load(&self) -> std::sync::MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // the watch
}

/// How `upstream.models` maps a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Named<'n> {
    /// `upstream.models` is not set.
    Open,
    /// The name stands for this one of the server's own.
    Own(&'n str),
    /// It has `*`, for this one.
    Any(&'n str),
    /// It leaves the name out.
    Not,
}

/// The name in `models` that stands for every other.
pub const ANY: &str = "*";

fn bearer(key: &SecretString) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}
