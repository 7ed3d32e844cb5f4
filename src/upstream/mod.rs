//! Owns the upstream servers: which there are, where a request goes, how long it waits for one. It must not know
//! Responses.

mod address;
mod affinity;
mod answer;
mod body;
mod encoded;
mod exchange;
mod facts;
mod forwarded;
mod health;
pub mod http1;
mod pass;
mod probe;
mod queue;
mod route;
mod send;
mod server;
mod slots;
mod warm;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use http::{HeaderMap, header};
use tokio::sync::watch;

use crate::config::{Resolved, ServerConfig};
use crate::telemetry::Routing;
use address::Address;
use affinity::Affinity;
use rejoinder_core::dialect::{Dialect, GENERIC};
use rejoinder_core::error::Error;
use rejoinder_core::options::ThinkTags;
use rejoinder_core::responses_profile::ResponsesProfile;
use server::{Named, Server};

pub use address::host_of_label;
pub use answer::{Form, silent, too_late};
pub use body::Body;
pub use exchange::{Response, TransportError, causes};
pub use facts::{Model, ServerInfo, Traits};
pub use forwarded::{Forwarded, REQUEST_ID, copied};
pub use http1::keepalive;
pub use route::{Requester, RoutingKey};
pub use send::{CHAT, ChatRequest, Rendered, UpstreamResponse};
pub use server::{ANY, Lease};

/// How long a request waits for the first probe to be over.
const FIRST_PROBE: Duration = Duration::from_secs(2);

/// How one server reads the requests that it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The base of its URLs.
    pub address: Address,
    /// How it reads Chat Completions requests.
    pub dialect: &'static Dialect,
    /// Whether its chat template refuses two messages of one role in a row.
    pub alternate_roles: bool,
    /// Whether its model takes images.
    pub accepts_images: bool,
    /// Its own name for the model, where that differs from the client's.
    pub model: Option<String>,
    /// Members that every chat body gets.
    pub extra_body: Option<serde_json::Map<String, serde_json::Value>>,
    /// Levels of `reasoning.effort` that the model takes, where that is known better than from the dialect.
    pub efforts: Option<Arc<[String]>>,
    /// Thinking budget in tokens by `reasoning.effort`.
    pub budgets: Arc<[(String, u64)]>,
    /// Tokens of context of one conversation.
    pub context: Option<u64>,
    /// How it takes Responses requests, where it is asked to speak Responses itself.
    pub native: Option<&'static ResponsesProfile>,
    /// Whether its text may begin with reasoning.
    pub think_tags: ThinkTags,
}

impl Target {
    /// A server of which nothing is known.
    pub fn unknown() -> Target {
        Target {
            address: Address::of(""),
            dialect: &GENERIC,
            alternate_roles: false,
            accepts_images: true,
            model: None,
            extra_body: None,
            efforts: None,
            budgets: Arc::from([]),
            context: None,
            native: None,
            think_tags: ThinkTags::Read,
        }
    }

    /// Where it answers, as OpenAI has it.
    pub fn path(&self) -> &'static str {
        self.native.map_or(CHAT, |native| native.path)
    }

    /// Whether a body rendered for `other` is right for this one.
    pub fn reads_like(&self, other: &Target) -> bool {
        self.dialect == other.dialect
            && self.alternate_roles == other.alternate_roles
            && self.accepts_images == other.accepts_images
            && self.model == other.model
            && self.extra_body == other.extra_body
            && self.efforts == other.efforts
            && self.budgets == other.budgets
            && self.native == other.native
    }
}

/// What is known of one server, for people and metrics.
#[derive(Debug, Clone)]
pub struct ServerStatus {
    /// Its URL without user and password.
    pub label: String,
    /// `Ok`, or why it cannot serve.
    pub ready: Result<(), String>,
    /// What is known of it, if it was ever ready.
    pub facts: Option<Arc<ServerInfo>>,
    /// Requests that it has now.
    pub in_flight: usize,
    /// Its names of the configuration: the client's, then its own.
    pub models: Option<Vec<(String, String)>>,
    /// Whether its slots are saved.
    pub saves: Saves,
}

/// Whether the slots of a server are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saves {
    /// `upstream.slot_save` is off.
    Off,
    /// They are saved, as the configuration asks for.
    On,
    /// They are no longer saved: its model processes a restored prompt again.
    Useless,
}

/// The upstream servers. Cheap to clone.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
}

struct Shared {
    servers: RwLock<Arc<[Arc<Server>]>>,
    affinity: Mutex<Affinity>,
    waiting: Mutex<queue::Queue>,
    changes: Changes,
    metrics: Routing,
    /// Our own port, which the search leaves out; set when the watch begins.
    own_port: std::sync::OnceLock<u16>,
}

/// Tells those who wait for a server that something may have changed for them.
#[derive(Clone)]
struct Changes(Arc<watch::Sender<u64>>);

impl Changes {
    fn tell(&self) {
        // who waits subscribes before it reads the state, so that it misses no change
        if self.0.receiver_count() == 0 {
            return;
        }
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Upstream {
    /// The configured servers, none probed yet; [`Upstream::watch`] begins to.
    ///
    /// # Errors
    /// When the TLS set-up of the machine cannot be read.
    pub fn new(resolved: &Resolved, metrics: &Routing) -> Result<Upstream, String> {
        let changes = Changes(Arc::new(watch::Sender::new(0)));
        let server = |config| Server::new(config, changes.clone(), metrics).map(Arc::new);
        let servers: Vec<_> = resolved.servers.iter().map(server).collect::<Result<_, _>>()?;
        let shared = Shared {
            servers: RwLock::new(servers.into()),
            affinity: Mutex::default(),
            waiting: Mutex::default(),
            changes,
            metrics: metrics.clone(),
            own_port: std::sync::OnceLock::new(),
        };
        Ok(Upstream { shared: Arc::new(shared) })
    }

    /// Probes the servers from now on, in tasks of their own. `own_port`: where we listen, and so no server is searched
    /// for.
    pub fn watch(&self, own_port: u16) {
        let _ = self.shared.own_port.set(own_port);
        for server in self.shared.servers().iter() {
            tokio::spawn(server.clone().watched(own_port));
        }
    }

    /// Probes every server once.
    pub async fn probe(&self) {
        let servers = self.shared.servers();
        futures::future::join_all(servers.iter().map(|server| server.probe_once(0))).await;
    }

    /// Looks up what is known of the servers' saved slots, and changes nothing.
    pub async fn read_saves(&self) {
        let servers = self.shared.servers();
        futures::future::join_all(servers.iter().map(|server| server.read_saves())).await;
    }

    /// Takes over a new list of servers: those that it leaves out get no new requests and finish what they have,
    /// those that it has unchanged stay as they are.
    ///
    /// # Errors
    /// When a client cannot be set up; the old list stays.
    pub fn reload(&self, configured: &[ServerConfig]) -> Result<(), String> {
        let old = self.shared.servers();
        let mut servers = Vec::with_capacity(configured.len());
        let mut fresh = Vec::new();
        for config in configured {
            if let Some(same) = old.iter().find(|server| server.is(config)) {
                servers.push(same.clone());
                continue;
            }
            let server = Arc::new(Server::new(config, self.shared.changes.clone(), &self.shared.metrics)?);
            if let Some(like) = old.iter().find(|server| server.config.url == config.config.url) {
                server.inherit(like);
            }
            tracing::info!(upstream = %server.label(), "upstream is new, or has other settings");
            fresh.push(server.clone());
            servers.push(server);
        }
        for gone in old.iter().filter(|old| !servers.iter().any(|server| server.id == old.id)) {
            tracing::info!(upstream = %gone.label(), in_flight = gone.in_flight(), "upstream gets no new requests");
            gone.removed.cancel();
        }
        *self.shared.servers.write().unwrap_or_else(PoisonError::into_inner) = servers.into();
        if let Some(own_port) = self.shared.own_port.get() {
            for server in fresh {
                tokio::spawn(server.watched(*own_port));
            }
        }
        self.shared.changes.tell();
        Ok(())
    }

    /// Whether any server can serve, or why none can.
    pub fn ready(&self) -> Result<(), String> {
        let servers = self.shared.servers();
        let reasons: Vec<String> = servers.iter().filter_map(|server| server.state().ready.err()).collect();
        if reasons.len() < servers.len() { Ok(()) } else { Err(reasons.join("; ")) }
    }

    /// The status of every server now.
    pub fn seen(&self) -> Vec<ServerStatus> {
        let seen = |server: &Arc<Server>| {
            let state = server.state();
            ServerStatus {
                label: server.label(),
                ready: state.ready,
                facts: state.facts,
                in_flight: server.in_flight(),
                models: server.named_models().map(<[_]>::to_vec),
                saves: server.saves(),
            }
        };
        self.shared.servers().iter().map(seen).collect()
    }

    /// The first of these names that a server lists or is configured to have; else the only model there is.
    pub fn known_model(&self, names: [Option<String>; 2]) -> Option<String> {
        let servers = self.shared.servers();
        let has =
            |server: &Server, name: &str| matches!(server.named(name), Named::Own(_)) || server.lists(name);
        let known = |name: &String| servers.iter().any(|server| has(server, name));
        names.into_iter().flatten().find(known).or_else(|| self.shared.only_model())
    }

    /// Requests that wait for a server.
    pub fn waiting(&self) -> usize {
        self.shared.waiting().len()
    }

    /// How the server that a request would likely go to reads it. Waits only until every server was probed at once,
    /// and for that not long.
    ///
    /// # Errors
    /// 404 when no server has the model.
    pub async fn likely(&self, route: &RoutingKey) -> Result<Target, Error> {
        let servers = self.shared.servers();
        if !servers.iter().all(|server| server.probed()) {
            let probes = async {
                for server in servers.iter() {
                    let mut state = server.subscribe();
                    let _ = state.wait_for(|state| state.probed).await;
                }
            };
            let _ = tokio::time::timeout(FIRST_PROBE, probes).await;
        }
        let candidates = self.shared.candidates(route)?;
        let target = self
            .shared
            .preferred(&candidates, route)
            .and_then(|server| self.shared.target(&server, &route.model));
        Ok(target.unwrap_or_else(Target::unknown))
    }

    /// The models that every ready server that the requester may use lists to this client: the server's label, its list
    /// as it came, and what is known of the server.
    pub async fn listings(&self, client: &HeaderMap, requester: &Requester) -> Vec<Listing> {
        let _ = self.likely(&RoutingKey::default()).await;
        let servers = self.shared.servers_for(requester);
        let ready = servers.iter().filter(|server| server.ready());
        let lists = ready.map(|server| async {
            let address = server.address()?;
            let mut headers = HeaderMap::new();
            server.authorize(&mut headers, client.get(header::AUTHORIZATION));
            let request = server.client.general.get(address.url("/v1/models")).headers(headers);
            let response = request.timeout(LISTING).send().await.ok()?.error_for_status().ok()?;
            let body = answer::collect(&mut response.into(), probe::ANSWER).await.ok()?;
            let facts = server.state().facts.unwrap_or_default();
            let models = server.named_models().map(<[_]>::to_vec);
            Some(Listing {
                elements: facts::elements(&body).unwrap_or_default(),
                facts,
                models,
                images: server.images(),
                efforts: server.named_efforts(),
            })
        });
        futures::future::join_all(lists).await.into_iter().flatten().collect()
    }

    /// Saves the slots that are to be saved and are not, before we go.
    pub async fn save_slots(&self) {
        let servers = self.shared.servers();
        let warm = servers.iter().filter_map(|server| server.warm.as_ref());
        futures::future::join_all(warm.map(|warm| warm.save_all())).await;
    }

    /// Longest silence within an upstream body, the most patient server's.
    pub fn idle_timeout(&self) -> Duration {
        self.longest(|config| config.idle_timeout)
    }

    /// Longest wait for a whole answer, the most patient server's.
    pub fn response_timeout(&self) -> Duration {
        self.longest(|config| config.response_timeout)
    }

    fn longest(&self, of: impl Fn(&crate::config::UpstreamConfig) -> Duration) -> Duration {
        self.shared.servers().iter().map(|server| of(&server.config)).max().unwrap_or_default()
    }
}

/// How long a server's own list of models is waited for.
const LISTING: Duration = Duration::from_secs(5);

/// The models of one server, from its `/v1/models` and from the configuration.
pub struct Listing {
    /// Its elements as the server sent them.
    pub elements: Vec<Box<serde_json::value::RawValue>>,
    /// Whether its models take images, where the configuration says so.
    pub images: Option<bool>,
    /// Values of `reasoning.effort` that the configuration has for it.
    pub efforts: Vec<String>,
    /// What is known of it.
    pub facts: Arc<ServerInfo>,
    /// Its names of the configuration: the client's, then its own.
    pub models: Option<Vec<(String, String)>>,
}

impl Shared {
    fn servers(&self) -> Arc<[Arc<Server>]> {
        self.servers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, queue::Queue> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn affinity(&self) -> std::sync::MutexGuard<'_, Affinity> {
        self.affinity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
