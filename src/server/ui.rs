//! Owns the page for operators on the admin address: its files, what it is told once a second, and the plan of a request that
//! somebody tries. It must not show what a client sent or was answered.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use rejoinder_core::error::{Error, Kind};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::app::App;
use super::body;
use super::prepared_request::PreparedRequest;
use super::query::Query;
use super::reply::{self, ResponseBody, full};
use crate::config::Switch;
use crate::driver::unix_now;
use crate::telemetry::{Period, RequestView};
use crate::upstream::ServerStatus;

/// Path, content type and content of each file.
const FILES: [(&str, &str, &str); 5] = [
    ("/ui", "text/html; charset=utf-8", include_str!("../../ui/index.html")),
    ("/ui/page.js", "text/javascript; charset=utf-8", include_str!("../../ui/page.js")),
    ("/ui/page.css", "text/css; charset=utf-8", include_str!("../../ui/page.css")),
    ("/ui/uplot.js", "text/javascript; charset=utf-8", include_str!("../../ui/vendor/uPlot.iife.min.js")),
    ("/ui/uplot.css", "text/css; charset=utf-8", include_str!("../../ui/vendor/uPlot.min.css")),
];
/// Nothing from elsewhere, and in no other page.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Whether there is a page, for an admin address that other machines do or do not reach.
pub fn is_on(page: Switch, only_this_machine: bool) -> bool {
    match page {
        Switch::Auto => only_this_machine,
        Switch::On => true,
        Switch::Off => false,
    }
}

/// Answers a request for a path below `/ui`.
pub async fn answer(app: &App, request: Request<Incoming>) -> Response<ResponseBody> {
    let path = request.uri().path().trim_end_matches('/').to_owned();
    let result = match (request.method(), path.as_str()) {
        _ if app.activity.is_none() => Err(no_page()),
        (&Method::GET, "/ui/state") => state(app, &Query::of(request.uri())),
        (&Method::POST, "/ui/plan") => plan(app, request).await,
        (&Method::GET | &Method::HEAD, _) => file(&path),
        (method, _) => {
            Err(Error::new(Kind::MethodNotAllowed, format!("Method {method} is not allowed for {path}.")))
        }
    };
    let mut response = result.unwrap_or_else(|error| reply::error(&error));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn file(path: &str) -> Result<Response<ResponseBody>, Error> {
    let found = FILES.iter().find(|(name, ..)| *name == path);
    let (_, content_type, content) =
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("Unknown path: {path}.")))?;
    Ok(full(StatusCode::OK, content_type, *content))
}

/// What the page shows.
#[derive(Serialize)]
struct State {
    version: &'static str,
    /// Of this process: the counts below begin with it.
    started: u64,
    /// In seconds since 1970.
    now: u64,
    draining: bool,
    waiting: usize,
    open_streams: i64,
    open_websockets: i64,
    store_up: bool,
    upstreams: Vec<Upstream>,
    running: Vec<RequestView>,
    ended: Vec<RequestView>,
    /// How many requests ever ended.
    ended_count: u64,
    periods: Vec<Period>,
}

#[derive(Serialize)]
struct Upstream {
    label: String,
    ready: bool,
    reason: Option<String>,
    server: Option<&'static str>,
    version: Option<String>,
    models: Vec<String>,
    context: Option<u64>,
    slots: Option<u32>,
    in_flight: usize,
}

/// What runs, and what is new to a page that has seen so many requests end (`ended` in the query) and the periods before
/// that time (`from`).
fn state(app: &App, query: &Query) -> Result<Response<ResponseBody>, Error> {
    let Some(activity) = &app.activity else { return Err(no_page()) };
    let number = |name| query.integer(name, 0, u64::MAX).map(Option::unwrap_or_default);
    let (ended, ended_count) = activity.ended(number("ended")?);
    let state = State {
        version: env!("CARGO_PKG_VERSION"),
        started: activity.started(),
        now: unix_now(),
        draining: app.leaving.is_cancelled(),
        waiting: app.upstream.waiting(),
        open_streams: app.metrics.open_streams.get(),
        open_websockets: app.metrics.open_websockets.get(),
        store_up: app.store.health().up,
        upstreams: app.upstream.seen().into_iter().map(Upstream::of).collect(),
        running: activity.running(),
        ended,
        ended_count,
        periods: activity.periods(number("from")?),
    };
    let text = serde_json::to_vec(&state)
        .map_err(|error| Error::new(Kind::Internal, "The state is no JSON.").detail(error))?;
    Ok(reply::json(StatusCode::OK, text))
}

impl Upstream {
    fn of(status: ServerStatus) -> Upstream {
        let facts = status.facts.as_deref();
        let names = status.models.map(|names| names.into_iter().map(|(name, _)| name).collect());
        let listed = || facts.map(|facts| facts.models.iter().map(|model| model.id.clone()).collect());
        Upstream {
            label: status.label,
            ready: status.ready.is_ok(),
            reason: status.ready.err(),
            server: facts.map(|facts| facts.dialect.name),
            version: facts.and_then(|facts| facts.version.clone()),
            models: names.or_else(listed).unwrap_or_default(),
            context: facts.and_then(|facts| facts.traits.context),
            slots: facts.and_then(|facts| facts.slots),
            in_flight: status.in_flight,
        }
    }
}

fn no_page() -> Error {
    let message = "There is no page: ui.page is off, or \"auto\" and other machines reach the admin address.";
    Error::new(Kind::NotFound, message)
}

/// The body that would be sent for the request in this one's body, and what was left out of it or changed. `upstream` in the
/// query names the server; without it, the one that the request would likely go to. Nothing is sent.
async fn plan(app: &App, request: Request<Incoming>) -> Result<Response<ResponseBody>, Error> {
    let query = Query::of(request.uri());
    let upstream = query.text("upstream").map(str::to_owned);
    // no encoding is undone, and nothing is stored: of the headers none matters
    let body = body::read(app, &HeaderMap::new(), request.into_body()).await?;
    let (plan, target) = PreparedRequest::preview(app, body, upstream.as_deref()).await?;
    let sent: &RawValue = serde_json::from_slice(&plan.body)
        .map_err(|error| Error::new(Kind::Internal, "The planned body is no JSON.").detail(error))?;
    let notes: Vec<Value> =
        plan.notes.texts().iter().map(|(kind, what)| json!({ "kind": kind, "what": what })).collect();
    let answer = json!({
        "upstream": target.address.label(),
        "server": target.dialect.name,
        "path": target.path(),
        "notes": notes,
        "body": serde_json::value::to_raw_value(sent).ok(),
    });
    Ok(reply::json(StatusCode::OK, answer.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_see_a_page_only_where_the_key_says_so() {
        for (page, only_this_machine, want) in [
            (Switch::Auto, true, true),
            (Switch::Auto, false, false),
            (Switch::On, false, true),
            (Switch::Off, true, false),
        ] {
            assert_eq!(is_on(page, only_this_machine), want, "{page:?} {only_this_machine}");
        }
    }
}
