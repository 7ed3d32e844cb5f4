//! Owns the map from method and path to handler, and has each request told of at its end. It must not know what a body says.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use rejoinder_core::client::kind_of;
use rejoinder_core::error::{Error, Kind};
use tower::{Layer, ServiceExt, service_fn};
use tracing::Instrument;
use tracing::field::Empty;

use super::app::App;
use super::client_address::Peer;
use super::client_limits::AddressPlace;
use super::ids::seed;
use super::query::{Query, decoded};
use super::reply::{self, ResponseBody};
use super::{
    body, compact, conversations, create, models, origin, passthrough, paths, prepared_request, stored,
    tokens, websocket,
};
use crate::panics;
use crate::telemetry::{Answered, OpenRequest, RequestHead, RequestRecord};
use crate::upstream::{REQUEST_ID, copied};

/// Most bytes of a body without meaning that are read for the sake of its connection.
const IGNORED_BODY: usize = 1 << 20;
const PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");

#[derive(Clone, Copy)]
enum Route<'a> {
    Create,
    InputTokens,
    Compact,
    /// `GET` with an upgrade to a WebSocket.
    Upgrade,
    /// A stored response, or something of it: its id, and what follows.
    Stored(&'a str, &'a str),
    /// What follows `/v1/conversations`.
    Conversations(&'a str),
    NotAllowed,
    Health,
    /// The list of models, or one of them.
    Models(Option<&'a str>),
    Pass,
}

impl Route<'_> {
    fn name(&self) -> &'static str {
        match self {
            Route::Create | Route::Upgrade | Route::NotAllowed => "responses",
            Route::InputTokens => "input_tokens",
            Route::Compact => "compact",
            Route::Stored(..) => "stored",
            Route::Conversations(_) => "conversations",
            Route::Health => "health",
            Route::Models(_) => "models",
            Route::Pass => "passthrough",
        }
    }
}

impl Route<'_> {
    /// Whether a request counts as such, against its key's limits and among all responses. A create request does so when it is planned, as each
    /// create message of a WebSocket does.
    fn counts(self) -> bool {
        match self {
            Route::Pass | Route::Compact | Route::InputTokens => true,
            Route::Create
            | Route::Upgrade
            | Route::Stored(..)
            | Route::Conversations(_)
            | Route::NotAllowed
            | Route::Health
            | Route::Models(_) => false,
        }
    }
}

/// Query strings play no part: Codex appends whatever its provider's `query_params` say.
fn route<'a>(method: &Method, path: &'a str, upgrade: bool) -> Route<'a> {
    if path == "/health" && method == Method::GET {
        return Route::Health;
    }
    let own = paths::without_client_prefix(path);
    if method == Method::GET
        && let Some(id) = below("/models", own)
    {
        return Route::Models(Some(id).filter(|id| !id.is_empty()));
    }
    if let Some(rest) = below("/conversations", path) {
        return match method {
            &Method::OPTIONS => Route::Pass,
            _ => Route::Conversations(rest),
        };
    }
    let Some(rest) = below("/responses", own) else {
        return Route::Pass;
    };
    match (rest, method) {
        ("", &Method::POST) => Route::Create,
        ("", &Method::GET | &Method::CONNECT) if upgrade => Route::Upgrade,
        ("", &Method::OPTIONS) => Route::Pass,
        ("", _) => Route::NotAllowed,
        ("input_tokens", &Method::POST) => Route::InputTokens,
        ("compact", &Method::POST) => Route::Compact,
        (_, &Method::OPTIONS) => Route::Pass,
        (rest, _) => {
            let (id, what) = rest.split_once('/').unwrap_or((rest, ""));
            Route::Stored(id, what)
        }
    }
}

/// Whether another protocol is asked for: by a header, or over HTTP/2 by `:protocol`.
fn upgrades<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(header::UPGRADE) || request.extensions().get::<Protocol>().is_some()
}

/// What a path has below that one, with or without `/v1` before it.
fn below<'a>(base: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix("/v1").unwrap_or(path).strip_prefix(base)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/'))
}

/// What is known of a request beside itself.
#[derive(Clone, Copy)]
struct Asked<'a> {
    app: &'a Arc<App>,
    peer: Peer,
    path: &'a str,
    route: Route<'a>,
    id: &'a HeaderValue,
    record: &'a Arc<RequestRecord>,
}

/// Answers one request of the API's address, errors included. Its line is written when the answer's body is over.
pub async fn answer(app: Arc<App>, peer: Peer, request: Request<Incoming>) -> Response<ResponseBody> {
    let begun = Instant::now();
    let id = request_id(&request);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let version = request.version();
    let has_two_lengths = body::has_two_lengths(request.headers());
    let route = route(&method, &path, upgrades(&request));
    let endpoint = route.name();
    let shown = id.to_str().unwrap_or_default();
    let record = RequestRecord::new(
        RequestHead {
            id: shown.to_owned(),
            method: method.to_string(),
            path: path.clone(),
            endpoint,
            client: kind_of(prepared_request::client_headers(request.headers())),
            address: app.proxies.address(&peer, request.headers()),
            begun,
        },
        app.activity.as_ref(),
    );
    record.trace_by(app.traces.as_ref(), request.headers());
    let open = OpenRequest::new(record.clone());
    let span = tracing::info_span!("request", id = shown, key = Empty);
    let asked = Asked { app: &app, peer, path: &path, route, id: &id, record: &record };
    let result = until_cut(&app, admitted(asked, request)).instrument(span.clone()).await;
    let _entered = span.enter();
    let mut response = result.unwrap_or_else(|error| failed(asked, &error));
    if (app.leaving.is_cancelled() || has_two_lengths) && version <= Version::HTTP_11 {
        // a client that keeps its connection would send its next request into the end of this process; behind a body of
        // doubtful length nobody knows where that begins
        let headers = response.headers_mut();
        headers.entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
    }
    let status = response.status().as_u16();
    app.metrics.requests.get_or_create(&Answered { endpoint, status }).inc();
    response.headers_mut().entry(REQUEST_ID).or_insert(id);
    if endpoint == "responses" {
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        response.headers_mut().insert(PROCESSING_MS, HeaderValue::from(ms));
    }
    reply::told_at_end(response, open, method == Method::HEAD)
}

/// The answer, if it is there before the end of the drain: after that a stream would end at once.
async fn until_cut(
    app: &App,
    answer: impl Future<Output = Result<Response<ResponseBody>, Error>>,
) -> Result<Response<ResponseBody>, Error> {
    tokio::select! {
        biased;
        answer = panics::answered("a request", answer) => answer,
        () = app.cut.cancelled() => Err(Error::new(Kind::ShuttingDown, "The server is shutting down.")),
    }
}

/// Answers a request if its sender may call, with the headers that let its web page read the answer.
async fn admitted(asked: Asked<'_>, request: Request<Incoming>) -> Result<Response<ResponseBody>, Error> {
    let app = asked.app;
    app.origins.admit(&request)?;
    if body::has_two_lengths(request.headers()) {
        let message = "The request has both Content-Length and Transfer-Encoding: send one of them.";
        return Err(Error::new(Kind::BadRequest, message));
    }
    if !request.headers().contains_key(header::ORIGIN) {
        let mut response = routed(asked, request).await?;
        // a cache must not give this to a page
        response.headers_mut().append(header::VARY, HeaderValue::from_name(header::ORIGIN));
        return Ok(response);
    }
    let readable = app.origins.cors().layer(service_fn(|request| async move {
        let answer = routed(asked, request).await;
        Ok::<_, Infallible>(answer.unwrap_or_else(|error| failed(asked, &error)))
    }));
    let Ok(response) = Box::pin(readable.oneshot(request)).await;
    Ok(response)
}

fn failed(asked: Asked<'_>, error: &Error) -> Response<ResponseBody> {
    asked.app.metrics.error(error.label());
    asked.record.failed(error);
    reply::error(error)
}

/// Answers a request of somebody who may call, which counts among all that reach an upstream, and for its address where the
/// connection is a proxy's.
async fn routed(asked: Asked<'_>, mut request: Request<Incoming>) -> Result<Response<ResponseBody>, Error> {
    let Asked { app, peer, route, record, .. } = asked;
    let place = if route.counts() { Some(app.limits.response(&app.metrics)?) } else { None };
    let address = record.address();
    let many = !peer.forwards || app.proxies.contains(address) || matches!(route, Route::Health);
    let of_address = if many { AddressPlace::NONE } else { app.limits.forwarded(address, &app.metrics)? };
    if matches!(route, Route::Upgrade) {
        // it lasts as long as the WebSocket does
        request.extensions_mut().insert(Arc::new(of_address));
        return of_key(asked, request).await;
    }
    let mut response = of_key(asked, request).await?;
    response.body_mut().count((place, of_address));
    Ok(response)
}

/// Answers a request if its key may send it, and tells what is left of the key's limits.
async fn of_key(asked: Asked<'_>, mut request: Request<Incoming>) -> Result<Response<ResponseBody>, Error> {
    let Asked { app, route, .. } = asked;
    origin::check_body(&request, matches!(route, Route::Pass))?;
    let key = match route {
        Route::Health => None,
        _ => app.client_keys.admit(request.headers_mut())?,
    };
    let Some(key) = key else { return handled(asked, request).await };
    tracing::Span::current().record("key", key.name.as_str());
    asked.record.set_key(&key.name);
    app.metrics.key_request(&key.name);
    if matches!(route, Route::Pass) {
        key.check_unread()?;
    }
    let key_request = if route.counts() { Some(key.begin()?) } else { None };
    let mut response = handled(asked, request).await?;
    response.headers_mut().extend(key.rate_headers());
    // it lasts as long as the body does
    response.body_mut().hold(key_request);
    Ok(response)
}

async fn handled(asked: Asked<'_>, request: Request<Incoming>) -> Result<Response<ResponseBody>, Error> {
    let Asked { app, path, route, id, record, .. } = asked;
    match route {
        // the large ones on the heap: what holds them is moved several times before it runs
        Route::Create => Box::pin(create::answer(app.clone(), request, record, id)).await,
        Route::InputTokens => Box::pin(tokens::answer(app.clone(), request, (id, record))).await,
        Route::Compact => Box::pin(compact::answer(app.clone(), request, (id, record))).await,
        Route::Upgrade => websocket::upgrade(app, request, id, record),
        Route::NotAllowed => {
            let message = format!("Method {} is not allowed for {path}; use POST.", request.method());
            Err(Error::new(Kind::MethodNotAllowed, message))
        }
        Route::Stored(id, what) => Box::pin(stored_answer(app, request, id, what)).await,
        Route::Conversations(rest) => Box::pin(conversations_answer(app, request, rest)).await,
        Route::Health => Ok(health(app)),
        Route::Models(id) => {
            let id = id.map(decoded);
            Box::pin(models::answer(app, request, id.as_deref(), record)).await
        }
        Route::Pass => {
            check_spelling(&request)?;
            Box::pin(passthrough::answer(app, request, record)).await
        }
    }
}

/// Refuses what an upstream would read as a path that is answered here.
fn check_spelling(request: &Request<Incoming>) -> Result<(), Error> {
    let path = request.uri().path();
    let plain = paths::plain(path)?;
    if matches!(route(request.method(), &plain, upgrades(request)), Route::Pass) {
        return Ok(());
    }
    let message = format!("{path} is another way to write {plain}, which is answered here: write that.");
    Err(Error::new(Kind::BadRequest, message).code_as("invalid_path"))
}

async fn stored_answer(
    app: &Arc<App>,
    request: Request<Incoming>,
    id: &str,
    what: &str,
) -> Result<Response<ResponseBody>, Error> {
    let (request, incoming) = request.into_parts();
    // nothing in it matters, but a body that nobody reads ends the connection under the next request
    let _ = tokio::time::timeout(app.config.body_timeout, body::ignore(incoming, IGNORED_BODY)).await;
    let scope = app.keyring.caller(&request.headers).scope();
    let (id, query) = (&*decoded(id), Query::of(&request.uri));
    match (what, &request.method) {
        ("", &Method::GET) => stored::get(app.clone(), scope, id, &query).await,
        ("", &Method::DELETE) => stored::delete(app, scope, id).await,
        ("cancel", &Method::POST) => stored::cancel(app, scope, id).await,
        ("input_items", &Method::GET) => stored::input_items(app, scope, id, &query).await,
        ("" | "cancel" | "input_items", method) => {
            let message = format!("Method {method} is not allowed for {}.", request.uri.path());
            Err(Error::new(Kind::MethodNotAllowed, message))
        }
        _ => Err(Error::new(Kind::NotFound, format!("Unknown path: {}.", request.uri.path()))),
    }
}

async fn conversations_answer(
    app: &App,
    request: Request<Incoming>,
    rest: &str,
) -> Result<Response<ResponseBody>, Error> {
    let (Parts { method, uri, headers, .. }, incoming) = request.into_parts();
    let scope = app.keyring.caller(&headers).scope();
    let body = body::read(app, &headers, incoming).await?;
    conversations::answer(app, scope, &method, rest, &Query::of(&uri), &body).await
}

/// The client's own id where it is fit for a log line, a new one otherwise.
fn request_id(request: &Request<Incoming>) -> HeaderValue {
    let fit = |value: &&HeaderValue| {
        value.len() <= 128
            && value.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(b))
    };
    let own = request.headers().get(REQUEST_ID).filter(fit).filter(|value| !value.is_empty());
    own.and_then(copied).unwrap_or_else(|| {
        HeaderValue::try_from(["req_", &seed()].concat()).unwrap_or(HeaderValue::from_static("req_unknown"))
    })
}

/// As llama-server words it, so that what watched the server can watch us.
fn health(app: &App) -> Response<ResponseBody> {
    match app.upstream.ready() {
        Ok(()) => reply::json(StatusCode::OK, "{\"status\":\"ok\"}"),
        Err(reason) => {
            let error = Error::new(Kind::Unavailable, "The upstream server is not ready.").detail(reason);
            reply::error(&error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_place() {
        for (method, path, want) in [
            (Method::POST, "/v1/responses", "responses"),
            (Method::POST, "/responses/", "responses"),
            (Method::POST, "/codex/v1/responses", "responses"),
            (Method::GET, "/v1/responses/resp_1", "stored"),
            (Method::POST, "/v1/responses/resp_1/cancel", "stored"),
            (Method::POST, "/v1/responses/input_tokens", "input_tokens"),
            (Method::POST, "/v1/responses/compact", "compact"),
            (Method::GET, "/v1/conversations/conv_1", "conversations"),
            (Method::GET, "/v1/conversationsx", "passthrough"),
            (Method::GET, "/v1/responsesx", "passthrough"),
            (Method::GET, "/v1/models", "models"),
            (Method::GET, "/codex/v1/models/org/name", "models"),
            (Method::GET, "/v1/modelsx", "passthrough"),
            (Method::POST, "/v1/chat/completions", "passthrough"),
            (Method::GET, "/health", "health"),
        ] {
            assert_eq!(route(&method, path, false).name(), want, "{method} {path}");
        }
        assert!(matches!(route(&Method::GET, "/v1/responses", true), Route::Upgrade));
        assert!(matches!(route(&Method::GET, "/v1/responses", false), Route::NotAllowed));
    }
}
