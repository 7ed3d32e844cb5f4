//! Owns the way of a chat request to a server: sending, watching until its answer begins, and taking it elsewhere
//! while nothing was generated. It must not choose servers or read an answer's events.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::options::ThinkTags;
use rejoinder_core::responses_profile::ResponsesProfile;

use super::answer::Form;
use super::body::Body;
use super::exchange::{Response, TransportError, Why};
use super::forwarded::{FORWARDED, Forwarded};
use super::server::{Lease, RETRY, Server};
use super::{RoutingKey, Shared, Target, Upstream, answer};
use crate::budget::Counted;
use crate::telemetry::{PromptProgress, RequestRecord};

/// Where chat requests go.
pub const CHAT: &str = "/v1/chat/completions";
/// Connections that may break before an answer until the request itself is taken for the cause.
const BREAKS: u32 = 2;
/// Servers that it may be taken from because they hang.
const HANGS: u32 = 4;

/// A Chat Completions request, not yet rendered for any server.
pub struct ChatRequest {
    /// What decides where it goes.
    pub route: Arc<RoutingKey>,
    /// Where on the server, where it is not an answer that is wanted: that has the place of the server's API.
    pub path: Option<&'static str>,
    /// What its upstream gets to see of the client's headers.
    pub headers: Arc<Forwarded>,
    /// What is told of the request at its end.
    pub record: Arc<RequestRecord>,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// The body as that server reads it.
    pub body: Arc<dyn Fn(&Target) -> Rendered + Send + Sync>,
}

/// The body of a request for one server.
pub enum Rendered {
    /// It was there already.
    Now(Body),
    /// It is planned for the server that asks.
    Later(BoxFuture<'static, Result<Counted, Error>>),
}

/// A success whose body is still to be read. As long as it lives, the request counts as running on its server; dropped,
/// it takes the request back.
pub struct UpstreamResponse {
    response: Response,
    first: Vec<u8>,
    form: Form,
    /// How the server speaks that answered.
    pub native: Option<&'static ResponsesProfile>,
    /// Whether its text may begin with reasoning.
    pub think_tags: ThinkTags,
    /// Whether it was told of a format beside tools, and keeps both apart.
    pub keeps_format: bool,
    lease: Lease,
}

/// Why an attempt gave nothing.
enum Failure {
    /// Nobody else would say anything else.
    Final(Error),
    /// Nothing reached the server.
    Refused(Error),
    /// The server says that it is not ready, or has no room.
    NotNow(Error),
    /// The connection ended before anything was generated.
    Broke(Error),
    /// Nothing came for so long that another server is the better guess.
    Hung(Error),
    /// The server failed by itself.
    Failed(Error),
}

impl Upstream {
    /// Sends a chat request to the server that the route leads to, waiting for it if need be. The future resolves
    /// with the beginning of an answer, or with what the last refusal means; dropped, it takes the request back. A
    /// second server is asked only while the first has generated nothing.
    pub fn send(
        &self,
        request: ChatRequest,
    ) -> impl Future<Output = Result<UpstreamResponse, Error>> + Send + use<> {
        let shared = self.shared.clone();
        async move { Dispatch::new(&shared, request).run().await }
    }
}

/// One request on its way.
struct Dispatch<'a> {
    shared: &'a Arc<Shared>,
    request: ChatRequest,
    /// Servers to leave out: those that failed it, and those that broke or hung while there are others.
    tried: Vec<usize>,
    /// Servers that failed it by their own word, who would do so again.
    failed: Vec<usize>,
    breaks: u32,
    hangs: u32,
    /// When it first waited for a server to become ready.
    since: Option<Instant>,
}

impl<'a> Dispatch<'a> {
    fn new(shared: &'a Arc<Shared>, request: ChatRequest) -> Dispatch<'a> {
        Dispatch { shared, request, tried: Vec::new(), failed: Vec::new(), breaks: 0, hangs: 0, since: None }
    }

    async fn run(mut self) -> Result<UpstreamResponse, Error> {
        let mut last = None;
        loop {
            let queued = self.request.record.queue(&self.shared.metrics);
            let place = self.shared.place(&self.request.route, &self.tried, &mut self.since).await;
            drop(queued);
            let (lease, target) = match (place, last.take()) {
                (Ok(place), _) => place,
                (Err(_), Some(earlier)) => return Err(earlier),
                (Err(error), None) => return Err(error),
            };
            self.request.record.set_upstream(target.address.label(), target.model.as_deref());
            let failure = match self.attempt(&lease, &target).await {
                Ok((response, first, form)) => {
                    let (native, think_tags) = (target.native, target.think_tags);
                    // one that speaks Responses well has the client's own words
                    let keeps_format = native
                        .map_or(target.dialect.format_beside_tools, |native| !native.function_tools_only);
                    let mut sent =
                        UpstreamResponse { response, first, form, native, think_tags, keeps_format, lease };
                    sent.lease.succeeded();
                    let _ = self.request.route.answered.set((sent.lease.server.id, sent.lease.slot));
                    return Ok(sent);
                }
                Err(failure) => failure,
            };
            let error = self.judge(failure, lease).await?;
            tracing::debug!(upstream = %target.address.label(), code = error.label(), "taken elsewhere");
            self.shared.metrics.failover(error.label());
            last = Some(error);
        }
    }

    /// Whether the request goes on, and with which error if nobody takes it.
    async fn judge(&mut self, failure: Failure, mut lease: Lease) -> Result<Error, Error> {
        let server = lease.server.clone();
        match failure {
            Failure::Final(error) => Err(error),
            Failure::Refused(error) => {
                lease.failed();
                server.suspect("connection refused");
                let since = *self.since.get_or_insert_with(Instant::now);
                if since.elapsed() < server.config.ready_timeout { Ok(error) } else { Err(error) }
            }
            Failure::NotNow(error) => {
                drop(lease);
                if self.look_again(&server).await {
                    return Ok(error);
                }
                if server.ready() {
                    // so it is full, not loading
                    return Err(error);
                }
                self.since.get_or_insert_with(Instant::now);
                self.tried.retain(|tried| *tried != server.id);
                Ok(error)
            }
            Failure::Broke(error) => {
                lease.failed();
                drop(lease);
                // it may have died
                self.look_again(&server).await;
                self.breaks += 1;
                if self.breaks < BREAKS && self.others() { Ok(error) } else { Err(error) }
            }
            Failure::Hung(error) => {
                lease.failed();
                self.tried.push(server.id);
                self.hangs += 1;
                if self.hangs < HANGS && self.others() { Ok(error) } else { Err(error) }
            }
            Failure::Failed(error) => {
                lease.failed();
                self.tried.push(server.id);
                self.failed.push(server.id);
                if self.others() { Ok(error) } else { Err(error) }
            }
        }
    }

    /// Has the server looked at, and waits for that unless another is free now (true).
    async fn look_again(&mut self, server: &Server) -> bool {
        self.tried.push(server.id);
        if !self.shared.free(&self.request.route, &self.tried, None).is_empty() {
            server.recheck();
            return true;
        }
        // what is rare, here and below, has its room only when it comes to that
        Box::pin(server.probe_once(self.shared.own_port.get().copied().unwrap_or_default())).await;
        false
    }

    /// Whether there are servers left that did not fail it, ready or not. Those that broke or hung come last.
    fn others(&mut self) -> bool {
        let candidates = self.shared.candidates(&self.request.route).unwrap_or_default();
        let left = |out: &[usize]| candidates.iter().any(|server| !out.contains(&server.id));
        if !left(&self.tried) {
            self.tried.clone_from(&self.failed);
        }
        left(&self.tried)
    }

    /// One request to one server, until its answer begins.
    async fn attempt(&self, lease: &Lease, target: &Target) -> Result<(Response, Vec<u8>, Form), Failure> {
        let mut body = match (self.request.body)(target) {
            Rendered::Now(body) => body,
            Rendered::Later(body) => Body::Own(body.await.map_err(Failure::Final)?),
        };
        let answers = self.request.path.is_none();
        if answers && lease.server.warm.is_some() {
            Box::pin(self.prepare_slot(lease, target, &body)).await;
        }
        if answers && let (Some(key), Some(slot)) = (target.dialect.slot_key, lease.slot) {
            pin_slot(&mut body, key, slot);
        }
        let path = target.address.path(self.request.path.unwrap_or(target.path()));
        let now = Instant::now();
        let mut watch = AttemptTimeout { trip: self, lease, begun: now, quiet: now, answered: false };
        // a count is no answer
        let traced = self.request.record.ask(if answers { "chat" } else { "count_tokens" });
        let headers = self.headers(&lease.server, &traced);
        let sent = pin!(lease.server.client.post(&target.address.root, &path, &headers, body));
        let response = match watch.over(sent).await? {
            Err(broken) => return Err(Failure::unanswered(broken)),
            Ok(response) => response,
        };
        if !response.head.status.is_success() {
            let error = Box::pin(answer::refused(response, target.context)).await;
            return Err(Failure::refused(error));
        }
        if !answers {
            return Ok((response, Vec::new(), Form::Whole));
        }
        watch.answered = Form::is_labelled_events(&response.head.content_type);
        self.beginning(response, watch).await
    }

    /// Brings the saved state of the conversation into its slot, where slots are saved.
    async fn prepare_slot(&self, lease: &Lease, target: &Target, body: &[u8]) {
        let Some(warm) = &lease.server.warm else { return };
        let Some(slot) = lease.slot else {
            // nobody knows which slot it will get
            return warm.forget().await;
        };
        let client = self.request.headers.authorization.as_ref();
        let line = lease.server.line(target.address.root.clone(), client);
        let route = &self.request.route;
        let owner = route.slot_owner().filter(|_| !route.side);
        if let Some(turn) = warm.before(&line, slot, owner.as_deref(), body).await {
            let _ = lease.turn.set(turn);
        }
    }

    /// Reads on until it is known in which form the answer comes, and of events, until something was generated.
    async fn beginning(
        &self,
        mut response: Response,
        mut watch: AttemptTimeout<'_, '_>,
    ) -> Result<(Response, Vec<u8>, Form), Failure> {
        let mut first = answer::Beginning::default();
        let mut form = None;
        let mut prompt = None;
        loop {
            watch.quiet = Instant::now();
            let more = match watch.over(pin!(response.more(&mut first.bytes))).await? {
                Some(Ok(_)) => true,
                None if form.is_none() => false,
                None => return Err(Failure::Broke(ended())),
                Some(Err(broken)) => return Err(Failure::Broke(ended().detail(broken.cause))),
            };
            if form.is_none() {
                form = first.form(&response.head.content_type, !more).map_err(Failure::Final)?;
                watch.answered |= form == Some(Form::Events);
            }
            match form {
                Some(Form::Whole) => return Ok((response, first.bytes, Form::Whole)),
                Some(Form::Events) if !more => return Err(Failure::Broke(ended())),
                Some(Form::Events) if self.has_begun(&mut first, &mut prompt, watch.lease) => {
                    return Ok((response, first.bytes, Form::Events));
                }
                _ => {}
            }
        }
    }

    /// Whether anything was generated; until then, the server is said to have a prompt to process.
    fn has_begun(
        &self,
        first: &mut answer::Beginning,
        prompt: &mut Option<PromptProgress>,
        lease: &Lease,
    ) -> bool {
        let begun = first.begun();
        if let Some(pending) = first.pending.take() {
            prompt.get_or_insert_with(|| self.shared.metrics.prompt(lease.server.label())).set(pending);
        }
        begun
    }

    /// `traced`: those that name our span, in the place of the client's own.
    fn headers<'h>(
        &'h self,
        server: &'h Server,
        traced: &'h [(HeaderName, HeaderValue)],
    ) -> Vec<(HeaderName, &'h HeaderValue)> {
        static JSON: HeaderValue = HeaderValue::from_static("application/json");
        static EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
        let Forwarded { authorization, others } = &*self.request.headers;
        let accept = if self.request.stream { &EVENTS } else { &JSON };
        let mut headers = Vec::with_capacity(3 + others.len() + traced.len());
        headers.extend([(header::CONTENT_TYPE, &JSON), (header::ACCEPT, accept)]);
        let others = others.iter().filter(|(name, _)| traced.is_empty() || !FORWARDED.contains(name));
        headers.extend(others.chain(traced).map(|(name, value)| (name.clone(), value)));
        headers.extend(server.key_for(authorization.as_ref()).map(|key| (header::AUTHORIZATION, key)));
        headers
    }
}

impl Failure {
    /// There is no response.
    fn unanswered(error: TransportError) -> Failure {
        let failure = match error.why {
            Why::Refused | Why::NoHttp1 => Failure::Refused,
            // none of the server's doing
            Why::NoDescriptor => Failure::Final,
            Why::Cut => Failure::Broke,
        };
        failure(answer::unreachable(error))
    }

    /// The response is an error.
    fn refused(error: Error) -> Failure {
        match error.kind {
            Kind::Unavailable | Kind::RateLimited => Failure::NotNow(error),
            Kind::UpstreamFailed | Kind::BadGateway | Kind::Timeout => Failure::Failed(error),
            _ => Failure::Final(error),
        }
    }
}

/// Writes which slot is to be used into a body, behind its last member.
fn pin_slot(body: &mut Body, key: &str, slot: u32) {
    if body.last() == Some(&b'}')
        && let Body::Own(body) = body
    {
        let json = body.bytes_mut();
        json.pop();
        json.extend_from_slice(format!(",\"{key}\":{slot}}}").as_bytes());
    }
}

/// Watches over one attempt: the clock, and whether the server hangs while another is free.
struct AttemptTimeout<'a, 't> {
    trip: &'a Dispatch<'t>,
    lease: &'a Lease,
    begun: Instant,
    /// When the server last sent anything.
    quiet: Instant,
    answered: bool,
}

impl AttemptTimeout<'_, '_> {
    /// `work` stays where it is: what is taken and awaited has its room twice.
    async fn over<T>(&mut self, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Failure> {
        let config = &self.lease.server.config;
        loop {
            let left = match self.answered {
                true => config.idle_timeout.saturating_sub(self.quiet.elapsed()),
                false => config.response_timeout.saturating_sub(self.begun.elapsed()),
            };
            if let Ok(done) = tokio::time::timeout(left.min(RETRY), &mut work).await {
                return Ok(done);
            }
            if left <= RETRY {
                return Err(self.silent(config));
            }
            let hung = !self.lease.server.ready()
                || (self.trip.request.stream && self.quiet.elapsed() >= config.stall_timeout);
            if hung && self.elsewhere() {
                return Err(Failure::Hung(answer::silent(self.quiet.elapsed())));
            }
        }
    }

    fn silent(&self, config: &crate::config::UpstreamConfig) -> Failure {
        match self.answered {
            true => Failure::Final(answer::silent(config.idle_timeout)),
            false => Failure::Final(answer::too_late(config.response_timeout)),
        }
    }

    fn elsewhere(&self) -> bool {
        let mut tried = self.trip.tried.clone();
        tried.push(self.lease.server.id);
        !self.trip.shared.free(&self.trip.request.route, &tried, None).is_empty()
    }
}

fn ended() -> Error {
    Error::new(Kind::BadGateway, "The upstream server closed the connection before its answer began.")
}

impl UpstreamResponse {
    /// In which form the body comes.
    pub fn form(&self) -> Form {
        self.form
    }

    /// What the server says of how much may still be asked of it.
    pub fn take_limits(&mut self) -> HeaderMap {
        std::mem::take(&mut self.response.head.limits)
    }

    /// The whole body.
    ///
    /// # Errors
    /// When it is cut, too long, or not there within `limit`.
    pub async fn whole(&mut self, limit: Duration) -> Result<Bytes, Error> {
        let start = std::mem::take(&mut self.first);
        let body = answer::whole(start, &mut self.response, limit).await;
        if body.is_err() {
            self.lease.failed();
        }
        body
    }

    /// What of the body was read already, the rest, and its place on the server, to be given up when the answer is
    /// over.
    pub fn into_body(self) -> (Vec<u8>, Response, Lease) {
        (self.first, self.response, self.lease)
    }
}
