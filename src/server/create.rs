//! Owns `POST /v1/responses` from body to answer: plan, send, and which of the three forms the answer takes (an HTTP
//! error, one JSON object, a stream). It must not translate anything itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::reply::{self, ResponseBody};
use super::{App, body, conversation};
use crate::config::{Config, read_budgets};
use crate::driver::{Answer, EventBody, OnEnd, Pace, unix_now};
use crate::error::Error;
use crate::ids::Ids;
use crate::telemetry::Ended;
use crate::translate::plan::{self, Notes, Plan, PlanOptions};
use crate::translate::tools::search::{Wrappers, is_wrapper};
use crate::translate::transcoder::{End, Transcoder};
use crate::upstream::{ChatRequest, Sent as Begun, Target};

pub async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    begun: Instant,
    request_id: &HeaderValue,
) -> Result<Response<ResponseBody>, Error> {
    let (parts, incoming) = request.into_parts();
    let bytes = body::read(&parts.headers, incoming, app.config.max_body_bytes).await?;
    let mut headers = parts.headers;
    headers.insert("x-request-id", request_id.clone());
    let names = plan::names(&bytes);
    let model = names.model.as_deref().or(app.config.default_model.as_deref()).unwrap_or_default();
    let route = conversation::route(&headers, model, names.prompt_cache_key.as_deref(), None);
    let likely = match model {
        "" => Target::unknown(),
        _ => app.upstream.likely(&route).await?,
    };
    let planner =
        Planner { app: app.clone(), wishes: Wishes::read(&headers, &app.config), headers: headers.clone() };
    let Plan { body, stream, model, reply, notes } = planner.plan(&bytes, &likely)?;
    count(&app, &notes);
    // another server than the likely one may read requests in another way
    let body = move |target: &Target| match target.reads_like(&likely) {
        true => Ok(body.clone()),
        false => planner.plan(&bytes, target).map(|plan| plan.body),
    };
    let sent = app.upstream.send(ChatRequest { route, headers, stream, body: Arc::new(body) });
    let ids = Ids::new(uuid::Uuid::now_v7().simple().to_string());
    let transcoder = Transcoder::new(reply, ids, unix_now());
    tracing::debug!(response = transcoder.id(), model, stream, "planned");
    let limit = app.upstream.response_timeout();
    if stream {
        let sent = async move { Answer::of(sent.await?, limit).await };
        streamed(app, transcoder, Box::pin(sent), begun).await
    } else {
        whole(&app, transcoder, sent, limit, begun).await
    }
}

/// Plans a request for one server or another.
struct Planner {
    app: Arc<App>,
    wishes: Wishes,
    headers: HeaderMap,
}

impl Planner {
    fn plan(&self, body: &[u8], target: &Target) -> Result<Plan, Error> {
        let Planner { app, wishes, headers } = self;
        plan::plan(
            body,
            &PlanOptions {
                dialect: target.dialect,
                default_model: app.config.default_model.as_deref(),
                upstream_model: target.model.as_deref(),
                extra_body: target.extra_body.as_ref(),
                developer_messages: app.config.developer_messages,
                alternate_roles: target.alternate_roles,
                reasoning: app.config.reasoning,
                refusal_as_text: is_codex(headers),
                sees: target.sees,
                wrappers: Some(&wishes.wrappers),
                budgets: wishes.budgets.as_deref().unwrap_or(&target.budgets),
                quirks_off: &wishes.quirks_off,
            },
        )
    }
}

/// What headers and configuration ask for, the request's own header first.
struct Wishes {
    wrappers: Wrappers,
    budgets: Option<Vec<(String, u64)>>,
    quirks_off: Vec<String>,
}

impl Wishes {
    fn read(headers: &HeaderMap, config: &Config) -> Wishes {
        let header = |name: &str| {
            let names = [format!("x-rejoinder-{name}"), format!("x-llama-responses-{name}")];
            names.iter().find_map(|name| headers.get(name)).and_then(|value| value.to_str().ok())
        };
        let wrapper = |name: &str, key: &Option<String>| match header(name) {
            Some(command) if is_wrapper(command) => Some(command.to_owned()),
            Some(_) => {
                tracing::warn!(header = name, "a wrapper that is no bare command name or path is ignored");
                None
            }
            None => key.clone(),
        };
        let budgets = match header("reasoning-budget-tokens").map(read_budgets) {
            Some(Ok(budgets)) => Some(budgets),
            Some(Err(problem)) => {
                tracing::warn!(problem, "a reasoning budget header that cannot be read is ignored");
                None
            }
            None => None,
        };
        Wishes {
            wrappers: Wrappers {
                web: wrapper("web-search-wrapper", &config.tools.web_search_wrapper),
                file: wrapper("file-search-wrapper", &config.tools.file_search_wrapper),
            },
            budgets,
            quirks_off: config
                .tools
                .disabled_quirks
                .iter()
                .flat_map(|names| names.split(','))
                .map(|name| name.trim().to_owned())
                .collect(),
        }
    }
}

/// Codex drops a message whole when one part of it is a refusal.
fn is_codex(headers: &HeaderMap) -> bool {
    let value = headers.get("originator").or(headers.get(header::USER_AGENT));
    value.and_then(|value| value.to_str().ok()).is_some_and(|value| value.starts_with("codex"))
}

fn count(app: &App, notes: &Notes) {
    for (kind, what) in &notes.0 {
        app.metrics.note(kind);
        tracing::debug!(kind, what, "left out or changed");
    }
}

type Sent = std::pin::Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

/// Waits `commit_after` for the upstream's status; then the stream begins without it.
async fn streamed(
    app: Arc<App>,
    transcoder: Transcoder,
    mut sent: Sent,
    begun: Instant,
) -> Result<Response<ResponseBody>, Error> {
    let early = tokio::time::timeout(app.config.commit_after, &mut sent).await;
    let seen = app.clone();
    let answer: Sent = match early {
        Ok(answer) => {
            let answer = answer?;
            app.metrics.first_answer(begun.elapsed().as_secs_f64());
            Box::pin(std::future::ready(Ok(answer)))
        }
        Err(_) => Box::pin(async move {
            let answer = sent.await;
            seen.metrics.first_answer(begun.elapsed().as_secs_f64());
            answer
        }),
    };
    let pace = Pace {
        heartbeat: app.config.heartbeat,
        in_progress_after: app.config.in_progress_after,
        idle_timeout: app.upstream.idle_timeout(),
    };
    app.metrics.open_streams.inc();
    let shutdown = app.cut.clone().cancelled_owned();
    let span = tracing::Span::current();
    let on_end: OnEnd = Box::new(move |transcoder, client_left| {
        let _entered = span.enter();
        app.metrics.open_streams.dec();
        ended(&app, transcoder, client_left, "true", begun.elapsed());
    });
    let body = EventBody::new(transcoder, answer, pace, shutdown, on_end);
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold events back
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// One completion is one chunk.
async fn whole(
    app: &App,
    mut transcoder: Transcoder,
    sent: impl Future<Output = Result<Begun, Error>>,
    limit: Duration,
    begun: Instant,
) -> Result<Response<ResponseBody>, Error> {
    let waiting = Waiting { app, begun, over: false };
    let answer = waiting.through(async { sent.await?.whole(limit).await }).await?;
    let text = String::from_utf8_lossy(&answer);
    let mut unused = Vec::new();
    transcoder.chunk(&text, unix_now(), &mut unused);
    transcoder.end(End::Eof, unix_now(), &mut unused);
    ended(app, &transcoder, false, "false", begun.elapsed());
    match transcoder.failure() {
        Some(error) => Err(error.clone()),
        None => Ok(reply::json(StatusCode::OK, transcoder.into_body())),
    }
}

/// A client that leaves before its answer: the request's future is dropped, and so is this.
struct Waiting<'a> {
    app: &'a App,
    begun: Instant,
    over: bool,
}

impl Waiting<'_> {
    async fn through<T>(mut self, answer: impl Future<Output = T>) -> T {
        let answer = answer.await;
        self.over = true;
        answer
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.app.metrics.responses.get_or_create(&Ended { outcome: "cancelled", stream: "false" }).inc();
            let ms = self.begun.elapsed().as_millis() as u64;
            tracing::info!(outcome = "cancelled", ms, "response ended");
        }
    }
}

/// The one line about how a response ended.
fn ended(app: &App, transcoder: &Transcoder, client_left: bool, stream: &'static str, took: Duration) {
    let outcome = if client_left { "cancelled" } else { transcoder.outcome() };
    app.metrics.responses.get_or_create(&Ended { outcome, stream }).inc();
    app.metrics.duration(took.as_secs_f64());
    let usage = transcoder.usage();
    if let Some(usage) = usage {
        app.metrics.usage(usage);
    }
    for _ in 0..transcoder.dropped() {
        app.metrics.note("dropped_output");
    }
    let repaired = transcoder.repaired();
    for (quirk, lines) in [("patch_fences", repaired.fences), ("patch_hunk_headers", repaired.headers)] {
        app.metrics.repair(quirk, lines);
    }
    let (response, ms) = (transcoder.id(), took.as_millis() as u64);
    let (input, cached, output) = usage.map_or((0, 0, 0), |usage| (usage.input, usage.cached, usage.output));
    match transcoder.failure() {
        // without a stream it becomes an HTTP error, which is logged and counted as such
        Some(error) if stream == "true" => {
            let code = error.label();
            app.metrics.error(code);
            tracing::warn!(response, outcome, ms, code, "response ended");
            let detail = error.detail.as_deref().unwrap_or("");
            tracing::debug!(response, message = error.message, detail, "why it failed");
        }
        _ => tracing::info!(response, outcome, ms, input, cached, output, "response ended"),
    }
}
