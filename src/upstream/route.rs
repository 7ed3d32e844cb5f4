//! Owns the choice of a server for a request: by model, then by conversation, then the least busy; and the wait when
//! there is none. It must not send anything.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rejoinder_core::error::{Error, Kind};
use smallvec::SmallVec;
use wildmatch::WildMatch;

use super::address::host_of_label;
use super::queue::Position;
use super::server::{Lease, Named, RETRY, Server};
use super::{Shared, Target};

/// Who asks, as far as the choice of a server and the wait for it depend on that.
#[derive(Debug, Clone, Default)]
pub struct Requester {
    /// The same number for all requests of one caller, which share its turns.
    pub caller: u64,
    /// Who has a higher one is served first.
    pub priority: i32,
    /// Patterns of the servers that it may use, by host and port; `None`: every server.
    pub upstreams: Option<Arc<[WildMatch]>>,
}

impl Requester {
    fn may_use(&self, server: &Server) -> bool {
        self.upstreams.as_ref().is_none_or(|patterns| {
            let label = server.label();
            patterns.iter().any(|pattern| pattern.matches(host_of_label(&label)))
        })
    }
}

/// The model and the conversation of a request, by which a server is chosen.
#[derive(Debug, Clone, Default)]
pub struct RoutingKey {
    /// The model, by the client's name.
    pub model: String,
    /// The conversation: requests of one have most of their prompt in common.
    pub conversation: Option<String>,
    /// Which of several threads of it.
    pub thread: Option<String>,
    /// Beside the conversation (a title, a summary): its prompt is not where the conversation goes on.
    pub side: bool,
    /// Who asks.
    pub requester: Requester,
    /// The server, and the slot, that answered another request for the same response: the prompt is in its cache.
    pub answered: OnceLock<(usize, Option<u32>)>,
}

impl RoutingKey {
    /// The slot of that server which has the prompt already.
    fn slot_of(&self, server: usize) -> Option<u32> {
        self.answered.get().filter(|(answered, _)| *answered == server).and_then(|(_, slot)| *slot)
    }

    /// The name under which a slot is held.
    pub fn slot_owner(&self) -> Option<String> {
        match (&self.conversation, &self.thread) {
            (Some(conversation), Some(thread)) if conversation != thread => {
                Some(format!("{conversation} {thread}"))
            }
            (conversation, thread) => conversation.clone().or_else(|| thread.clone()),
        }
    }
}

/// A place among the requests that wait; dropping it gives it up.
struct Ticket<'a> {
    shared: &'a Shared,
    position: Position,
}

impl Ticket<'_> {
    /// Gives it up for a place on a server.
    fn serve(self) {
        self.shared.waiting().serve(self.position);
    }

    /// # Errors
    /// 429 if another request has taken its place.
    fn check(&self) -> Result<(), Error> {
        if self.shared.waiting().contains(self.position) { Ok(()) } else { Err(queue_is_full()) }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.shared.waiting().leave(self.position);
        self.shared.changes.tell();
    }
}

/// Some of the servers; mostly there is one.
pub(super) type Servers = SmallVec<[Arc<Server>; 2]>;

/// Why a request has to wait.
enum Why {
    /// No server is ready.
    NotReady(String),
    /// Those that are have all they may be given.
    Busy,
}

impl Shared {
    /// The servers that the requester may use.
    pub(super) fn servers_for(&self, requester: &Requester) -> Arc<[Arc<Server>]> {
        let servers = self.servers();
        match requester.upstreams {
            None => servers,
            Some(_) => servers.iter().filter(|server| requester.may_use(server)).cloned().collect(),
        }
    }

    /// The servers that have the model, of those that the requester may use: those that are configured to or that list it;
    /// failing both, those that are configured to take any name (`*`), and then those that were not configured, whose own
    /// answer says what is wrong.
    pub(super) fn candidates(&self, route: &RoutingKey) -> Result<Servers, Error> {
        let model = route.model.as_str();
        let servers = self.servers_for(&route.requester);
        let has = |server: &Arc<Server>| match server.named(model) {
            Named::Own(_) => true,
            Named::Open => server.lists(model),
            Named::Any(_) | Named::Not => false,
        };
        if route.requester.upstreams.is_some() && !servers.iter().any(has) && self.servers().iter().any(has) {
            // a server that answers to any name would answer for the one that has it
            return Err(no_access(model));
        }
        if let [only] = &*servers
            && only.named_models().is_none()
        {
            // whether it lists the model changes nothing
            return Ok(Servers::from_iter([only.clone()]));
        }
        let (mut named, mut any, mut open) = (Servers::new(), Servers::new(), Servers::new());
        for server in servers.iter() {
            match server.named(model) {
                Named::Own(_) => named.push(server.clone()),
                Named::Open if server.lists(model) => named.push(server.clone()),
                Named::Any(_) => any.push(server.clone()),
                Named::Open => open.push(server.clone()),
                Named::Not => {}
            }
        }
        if let Some(found) = [named, any].into_iter().find(|servers| !servers.is_empty()) {
            return Ok(found);
        }
        if open.is_empty() {
            let message = match route.requester.upstreams {
                None => {
                    format!(
                        "The model '{model}' does not exist: no upstream server is configured to have it."
                    )
                }
                Some(_) => format!("The model '{model}' does not exist or you do not have access to it."),
            };
            return Err(Error::new(Kind::ModelNotFound, message).param("model"));
        }
        Ok(open)
    }

    /// How a server reads a request for that model. Where there is exactly one model and nobody has named others, it
    /// stands for OpenAI's own, which clients ask for without being told to.
    pub(super) fn target(&self, server: &Server, model: &str) -> Option<Target> {
        let mut target = server.target(model)?;
        if is_of_openai(model) && !target.dialect.any_model && server.named_models().is_none() {
            target.model = self.only_model().filter(|only| only != model);
        }
        Some(target)
    }

    /// The model that all servers list, and no other.
    pub(super) fn only_model(&self) -> Option<String> {
        let mut only: Option<String> = None;
        for server in self.servers().iter() {
            let facts = server.state().facts?;
            for listed in &facts.models {
                if server.named_models().is_some() || only.as_ref().is_some_and(|only| *only != listed.id) {
                    return None;
                }
                only = Some(listed.id.clone());
            }
        }
        only
    }

    /// The one of them that a request would go to if it went now.
    pub(super) fn preferred(&self, candidates: &[Arc<Server>], route: &RoutingKey) -> Option<Arc<Server>> {
        let ready: Servers = candidates.iter().filter(|server| server.ready()).cloned().collect();
        let known = || candidates.iter().find(|server| server.address().is_some()).cloned();
        self.choose(&ready, route).or_else(known)
    }

    /// The conversation's own server, else the one with the fewest requests for its weight.
    fn choose(&self, servers: &[Arc<Server>], route: &RoutingKey) -> Option<Arc<Server>> {
        if let [only] = servers {
            return Some(only.clone());
        }
        let home =
            route.conversation.as_deref().and_then(|name| self.affinity().server_of(name, Instant::now()));
        if let Some((answered, _)) = route.answered.get()
            && let Some(server) = servers.iter().find(|server| server.id == *answered)
        {
            return Some(server.clone());
        }
        let at_home = |server: &&Arc<Server>| Some(server.id) == home;
        if !route.side
            && let Some(server) = servers.iter().find(at_home)
        {
            return Some(server.clone());
        }
        // a side request leaves the conversation's server alone where another has nothing to do
        let busy = |server: &Arc<Server>| {
            let load = (server.in_flight() as f64 + 1.0) / f64::from(server.config.weight.max(1));
            (load, route.side && Some(server.id) == home)
        };
        let fewest = |a: &(usize, &Arc<Server>), b: &(usize, &Arc<Server>)| {
            let (x, y) = (busy(a.1), busy(b.1));
            x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)).then(a.0.cmp(&b.0))
        };
        // equals take turns
        let turn = self.waiting().turn(servers.len());
        let rotated = servers.iter().enumerate().map(|(n, server)| ((n + turn) % servers.len(), server));
        rotated.min_by(fewest).map(|(_, server)| server.clone())
    }

    /// Servers other than those tried that would take a request at once.
    pub(super) fn free(&self, route: &RoutingKey, tried: &[usize], position: Option<Position>) -> Servers {
        let candidates = self.candidates(route).unwrap_or_default();
        // where there is nobody else, an open circuit would only delay what the server itself has to say
        let only = candidates.len() == 1;
        let waiting = self.waiting();
        let takes = |server: &Arc<Server>| {
            server.ready() && (only || server.admits()) && server.room() > waiting.before(position, server.id)
        };
        candidates.into_iter().filter(|server| !tried.contains(&server.id)).filter(takes).collect()
    }

    /// A place for the request on a server that is not among those tried, waited for if need be. `since`: when this
    /// request first waited for a server to become ready.
    ///
    /// # Errors
    /// 404 without such a model, 429 when too many wait already, 503 when no server became ready in time.
    pub(super) async fn place(
        &self,
        route: &RoutingKey,
        tried: &[usize],
        since: &mut Option<Instant>,
    ) -> Result<(Lease, Target), Error> {
        let mut ticket: Option<Ticket<'_>> = None;
        let begun = Instant::now();
        loop {
            let mut changes = self.changes.0.subscribe();
            ticket.as_ref().map_or(Ok(()), Ticket::check)?;
            let position = ticket.as_ref().map(|ticket| ticket.position);
            let free = self.free(route, tried, position);
            if let Some(server) = self.choose(&free, route)
                && let Some(target) = self.target(&server, &route.model)
                && let Some(lease) =
                    server.lease(route.slot_owner().as_deref(), route.side, route.slot_of(server.id))
            {
                if let Some(ticket) = ticket {
                    ticket.serve();
                }
                self.settle(&server, route);
                return Ok((lease, target));
            }
            let mut candidates = self.candidates(route)?;
            candidates.retain(|server| !tried.contains(&server.id));
            let (limit, clock) = match why(&candidates) {
                Why::NotReady(reason) => {
                    let limit = candidates.iter().map(|server| server.config.ready_timeout).max();
                    let limit = limit.unwrap_or_default();
                    let clock = *since.get_or_insert_with(Instant::now);
                    if clock.elapsed() >= limit {
                        return Err(not_ready(&candidates, limit, &reason));
                    }
                    (limit, clock)
                }
                Why::Busy => {
                    let limit = candidates.iter().map(|server| server.config.response_timeout).max();
                    let limit = limit.unwrap_or_default();
                    if begun.elapsed() >= limit {
                        return Err(super::answer::too_late(limit));
                    }
                    (limit, begun)
                }
            };
            if ticket.is_none() {
                ticket = Some(self.queue(&route.requester, &candidates)?);
                // a place in the line may change what is free for us
                continue;
            }
            // the clock of an open circuit tells nobody
            let pause = limit.saturating_sub(clock.elapsed()).min(RETRY);
            let _ = tokio::time::timeout(pause, changes.changed()).await;
        }
    }

    /// Counts how often a conversation finds its cache, and remembers where it is now.
    fn settle(&self, server: &Server, route: &RoutingKey) {
        let Some(conversation) = &route.conversation else { return };
        let now = Instant::now();
        let mut affinity = self.affinity();
        let what = match affinity.server_of(conversation, now) {
            _ if route.side => "side",
            None => "new",
            Some(home) if home == server.id => "hit",
            Some(_) => "moved",
        };
        self.metrics.affinity(what);
        if !route.side {
            affinity.record(conversation, server.id, now);
        }
    }

    /// Puts a request into the queue. One of a caller with more waiting requests may have to make room for it.
    ///
    /// # Errors
    /// 429 when too many wait.
    fn queue(&self, requester: &Requester, candidates: &[Arc<Server>]) -> Result<Ticket<'_>, Error> {
        let most = candidates.iter().map(|server| server.config.max_waiting).sum();
        let servers = candidates.iter().map(|server| server.id).collect();
        let mut waiting = self.waiting();
        let before = waiting.len();
        let entered = waiting.enter(requester.caller, requester.priority, servers, most);
        let position = entered.ok_or_else(queue_is_full)?;
        if waiting.len() == before {
            // who had to make room learns of it
            self.changes.tell();
        }
        drop(waiting);
        Ok(Ticket { shared: self, position })
    }
}

fn queue_is_full() -> Error {
    let message = "Too many requests are already waiting for the upstream server; try again later.";
    let mut error = Error::new(Kind::RateLimited, message);
    error.retry_after = Some(FULL);
    error
}

fn no_access(model: &str) -> Error {
    let message = format!("The model '{model}' does not exist or you do not have access to it.");
    Error::new(Kind::ModelNotFound, message).param("model")
}

/// Whether it is the slug of a model that runs at OpenAI alone; the weights of gpt-oss run anywhere.
fn is_of_openai(model: &str) -> bool {
    let model = model.strip_prefix("openai/").unwrap_or(model);
    let numbered = |letter| {
        model.strip_prefix(letter).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let named = ["gpt-", "chatgpt-", "codex-"].iter().any(|slug| model.starts_with(slug));
    (named || numbered('o')) && !model.starts_with("gpt-oss")
}

fn why(candidates: &[Arc<Server>]) -> Why {
    let reasons: Vec<String> = candidates.iter().filter_map(|server| server.state().ready.err()).collect();
    if reasons.len() < candidates.len() { Why::Busy } else { Why::NotReady(reasons.join("; ")) }
}

/// What a client is told where no server is configured, and none listens on the usual ports.
pub(super) const NO_SERVER_FOUND: &str =
    "No upstream server was found on 127.0.0.1:8080 or 127.0.0.1:8000, and none is configured.";

fn not_ready(candidates: &[Arc<Server>], limit: Duration, reason: &str) -> Error {
    let searched = candidates.iter().any(|server| server.config.url.is_none() && server.address().is_none());
    let message = match searched {
        true => NO_SERVER_FOUND.to_owned(),
        false => format!("The upstream server is still not ready after {} s.", limit.as_secs_f64()),
    };
    Error::new(Kind::Unavailable, message).detail(reason)
}

/// `Retry-After` of a full line.
const FULL: Duration = Duration::from_secs(5);
