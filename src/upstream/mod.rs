//! Owns the server behind us: where it is, what it is, whether it is ready, and the requests that go to it. It must
//! not know Responses.

mod probe;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;

use crate::config::{DialectChoice, Resolved, Switch, UpstreamConfig, redact_url};
use crate::dialect::{Dialect, GENERIC, LLAMA_SERVER, VLLM};
use crate::error::{Error, Kind};
use crate::translate::refusal;
use probe::Sight;

/// Where servers usually listen, looked at in this order when none is named.
const USUAL: [&str; 2] = ["http://127.0.0.1:8080", "http://127.0.0.1:8000"];
/// Both llama-server and vLLM (uvicorn) close an idle connection after 5 s; a request sent just then would be lost.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// Time between two looks at a server that is not ready.
const RETRY: Duration = Duration::from_millis(500);
/// How long a request waits for the first look to be over.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Longest upstream body that is held as a whole, in bytes.
const WHOLE_BODY: usize = 256 << 20;
/// Longest error body that is read, in bytes.
const ERROR_BODY: usize = 256 << 10;

/// The server behind, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Base URL without `/v1` and without a trailing slash.
    pub base: Arc<str>,
    /// How it reads requests.
    pub dialect: &'static Dialect,
    /// Whether its chat template refuses two messages of one role in a row.
    pub alternate_roles: bool,
    /// Whether its model takes images.
    pub sees: bool,
}

/// What the last look showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The server; with `upstream.url` it is known before it was seen.
    pub target: Option<Target>,
    /// `Ok`, or why it cannot serve.
    pub ready: Result<(), String>,
    /// Whether any look is over.
    looked: bool,
}

/// The upstream. Cheap to clone.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
}

struct Shared {
    client: reqwest::Client,
    config: UpstreamConfig,
    key: Option<SecretString>,
    state: watch::Sender<State>,
}

impl Upstream {
    /// An upstream that nobody has looked at; [`Upstream::watch`] does.
    ///
    /// # Errors
    /// When the TLS set-up of the machine cannot be read.
    pub fn new(resolved: &Resolved) -> Result<Upstream, String> {
        let config = resolved.config.upstream.clone();
        let client = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(POOL_IDLE)
            .tcp_nodelay(true)
            // an upstream is named on purpose; HTTP_PROXY is not about it
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .build()
            .map_err(|error| format!("cannot set up the HTTP client: {error}"))?;
        let target = config.url.as_deref().map(|url| Target {
            base: Arc::from(url),
            dialect: chosen(config.dialect).unwrap_or(&GENERIC),
            alternate_roles: config.alternate_roles == Switch::On,
            sees: true,
        });
        let state = State { target, ready: Err("not looked at yet".to_owned()), looked: false };
        let shared =
            Shared { client, config, key: resolved.upstream_key.clone(), state: watch::Sender::new(state) };
        Ok(Upstream { shared: Arc::new(shared) })
    }

    /// What the last look showed.
    pub fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// Looks at the server for ever: often until it is ready, then every `probe_interval`. `own_port` is skipped in
    /// the search, so that we never take ourselves for the upstream.
    pub async fn watch(self, own_port: u16) {
        loop {
            let next = self.look(own_port).await;
            let pause = if next.ready.is_ok() { self.shared.config.probe_interval } else { RETRY };
            self.announce(next);
            tokio::time::sleep(pause).await;
        }
    }

    async fn look(&self, own_port: u16) -> State {
        let named = self.shared.config.url.as_deref();
        let own = format!(":{own_port}");
        let places = named.into_iter().chain(USUAL.into_iter().filter(|_| named.is_none()));
        let before = self.state();
        let mut reasons = Vec::new();
        for base in places.filter(|base| named.is_some() || !base.ends_with(&own)) {
            match probe::look(&self.shared.client, base, self.shared.key.as_ref()).await {
                Sight::Absent(reason) => reasons.push(format!("{}: {reason}", redact_url(base))),
                Sight::Loading(reason) => {
                    let target = before.target.or_else(|| Some(self.target(base, &GENERIC, false, true)));
                    return State { target, ready: Err(reason), looked: true };
                }
                Sight::Ready { dialect, alternates, sees } => {
                    let target = Some(self.target(base, dialect, alternates, sees));
                    return State { target, ready: Ok(()), looked: true };
                }
            }
        }
        // what was learned of a server that is away for a moment stays true, where it was named
        let target = before.target.filter(|_| named.is_some());
        State { target, ready: Err(reasons.join("; ")), looked: true }
    }

    fn target(&self, base: &str, seen: &'static Dialect, alternates: bool, sees: bool) -> Target {
        Target {
            base: Arc::from(base),
            dialect: chosen(self.shared.config.dialect).unwrap_or(seen),
            alternate_roles: match self.shared.config.alternate_roles {
                Switch::Auto => alternates,
                Switch::On => true,
                Switch::Off => false,
            },
            sees,
        }
    }

    fn announce(&self, next: State) {
        self.shared.state.send_if_modified(|state| {
            if *state == next {
                return false;
            }
            let base = next.target.as_ref().map(|target| redact_url(&target.base)).unwrap_or_default();
            match &next.ready {
                Ok(()) => {
                    let dialect = next.target.as_ref().map_or("", |target| target.dialect.name);
                    tracing::info!(upstream = %base, dialect, "upstream is ready");
                }
                Err(reason) if state.ready.is_ok() || !state.looked => {
                    tracing::warn!(upstream = %base, %reason, "upstream is not ready");
                }
                Err(reason) => tracing::debug!(upstream = %base, %reason, "upstream is still not ready"),
            }
            *state = next;
            true
        });
    }

    /// The server to send a request to; it need not be ready.
    ///
    /// # Errors
    /// 503 when none is named and none was found.
    pub async fn wait_target(&self) -> Result<Target, Error> {
        let mut state = self.shared.state.subscribe();
        let looked = state.wait_for(|state| state.looked);
        let _ = tokio::time::timeout(FIRST_LOOK, looked).await;
        self.state().target.ok_or_else(|| {
            let message =
                "No upstream server was found on 127.0.0.1:8080 or 127.0.0.1:8000, and none is configured.";
            Error::new(Kind::Unavailable, message)
        })
    }

    /// Sends a Chat Completions request. The future resolves with the upstream's success, or with what its refusal
    /// means; dropped, it takes the request back. `client` are the headers of the client's own request.
    pub fn chat(
        &self,
        target: &Target,
        body: Vec<u8>,
        client: &HeaderMap,
        stream: bool,
    ) -> impl Future<Output = Result<reqwest::Response, Error>> + Send + use<> {
        self.post(target, "/v1/chat/completions", body, client, stream)
    }

    /// Posts JSON to a path of the upstream's, in the way of [`Upstream::chat`].
    pub fn post(
        &self,
        target: &Target,
        path: &str,
        body: Vec<u8>,
        client: &HeaderMap,
        stream: bool,
    ) -> impl Future<Output = Result<reqwest::Response, Error>> + Send + use<> {
        let url = format!("{}{path}", target.base);
        let accept = if stream { "text/event-stream" } else { "application/json" };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        for name in FORWARDED {
            if let Some(value) = client.get(name) {
                headers.insert(HeaderName::from_static(name), value.clone());
            }
        }
        self.authorize(&mut headers, client);
        let sent = self.shared.client.post(url).headers(headers).body(body).send();
        let limit = self.shared.config.response_timeout;
        async move {
            let response = match tokio::time::timeout(limit, sent).await {
                Err(_) => {
                    let message = format!("The upstream server did not answer within {} s.", limit.as_secs());
                    return Err(Error::new(Kind::Timeout, message));
                }
                Ok(Err(error)) => return Err(unreachable(error)),
                Ok(Ok(response)) => response,
            };
            if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
        }
    }

    /// Passes a request on as it is and returns the upstream's answer, whatever its status.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn pass(
        &self,
        target: &Target,
        method: Method,
        path_and_query: &str,
        mut headers: HeaderMap,
        body: reqwest::Body,
    ) -> Result<reqwest::Response, Error> {
        let client = headers.clone();
        headers.remove(header::HOST);
        headers.remove(header::AUTHORIZATION);
        if self.shared.key.is_some() || !self.shared.config.forward_authorization {
            // the other places where clients put a key
            for name in
                [header::COOKIE, HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")]
            {
                headers.remove(name);
            }
        }
        self.authorize(&mut headers, &client);
        let url = format!("{}{path_and_query}", target.base);
        self.shared.client.request(method, url).headers(headers).body(body).send().await.map_err(unreachable)
    }

    /// The configured key, or the client's own where that is allowed.
    fn authorize(&self, headers: &mut HeaderMap, client: &HeaderMap) {
        let value = match &self.shared.key {
            Some(key) => bearer(key),
            None if self.shared.config.forward_authorization => client.get(header::AUTHORIZATION).cloned(),
            None => None,
        };
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, value);
        }
    }

    /// Longest silence within an upstream body.
    pub fn idle_timeout(&self) -> Duration {
        self.shared.config.idle_timeout
    }

    /// Longest wait for a whole answer.
    pub fn response_timeout(&self) -> Duration {
        self.shared.config.response_timeout
    }
}

/// Headers of the client's that concern the upstream too.
const FORWARDED: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];

fn chosen(choice: DialectChoice) -> Option<&'static Dialect> {
    match choice {
        DialectChoice::Auto => None,
        DialectChoice::LlamaServer => Some(&LLAMA_SERVER),
        DialectChoice::Vllm => Some(&VLLM),
        DialectChoice::Generic => Some(&GENERIC),
    }
}

fn bearer(key: &SecretString) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What it means that a request got no answer.
fn unreachable(error: reqwest::Error) -> Error {
    let connect = error.is_connect();
    let error = error.without_url();
    let mut causes = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        causes.push_str(": ");
        causes.push_str(&cause.to_string());
        source = cause.source();
    }
    if connect {
        Error::new(Kind::Unavailable, "The upstream server cannot be reached.").detail(causes)
    } else {
        Error::new(Kind::BadGateway, "The upstream server closed the connection without an answer.")
            .detail(causes)
    }
}

async fn refused(response: reqwest::Response) -> Error {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    // a body that does not come is no reason to keep the client waiting
    let body = tokio::time::timeout(Duration::from_secs(5), collect(response, ERROR_BODY)).await;
    let mut error = match status {
        status if status.is_redirection() => Error::new(
            Kind::BadGateway,
            format!(
                "The upstream server answered with a redirect ({}); check upstream.url.",
                status.as_u16()
            ),
        ),
        _ => refusal::from_http(status, &body.ok().and_then(Result::ok).unwrap_or_default()),
    };
    error.retry_after = retry_after;
    error
}

/// `Retry-After` in seconds; a date is read as our own default.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value
        .trim()
        .parse::<f64>()
        .ok()
        .filter(|s| (0.0..86_400.0).contains(s))
        .map(|s| Duration::from_secs_f64(s.ceil()))
}

/// The whole body of a success.
///
/// # Errors
/// When it is cut, too long, or not there within `limit`.
pub async fn whole(response: reqwest::Response, limit: Duration) -> Result<Bytes, Error> {
    match tokio::time::timeout(limit, collect(response, WHOLE_BODY)).await {
        Ok(body) => body,
        Err(_) => {
            let message = format!("The upstream server did not answer within {} s.", limit.as_secs());
            Err(Error::new(Kind::Timeout, message))
        }
    }
}

async fn collect(mut response: reqwest::Response, cap: usize) -> Result<Bytes, Error> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= cap => body.extend_from_slice(&chunk),
            Ok(Some(_)) => {
                let message = format!("The upstream server's answer is longer than {cap} bytes.");
                return Err(Error::new(Kind::BadGateway, message));
            }
            Ok(None) => return Ok(Bytes::from(body)),
            Err(error) => {
                let message = "The upstream server closed the connection before its answer was complete.";
                return Err(Error::new(Kind::BadGateway, message).detail(error.without_url()));
            }
        }
    }
}

/// Whether a success's body is a stream of events, a JSON object, or something that is no chat answer at all.
pub fn is_event_stream(response: &reqwest::Response) -> Result<bool, Error> {
    let value =
        response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match kind.as_str() {
        "text/event-stream" | "" => Ok(true),
        kind if kind == "application/json" || kind.ends_with("+json") => Ok(false),
        other => {
            let message = format!("The upstream server answered with {other} in place of a chat completion.");
            Err(Error::new(Kind::BadGateway, message).detail(StatusCode::OK))
        }
    }
}
