//! Owns `POST /v1/responses` from body to answer: plan, send, and which of the three forms the answer takes (an HTTP
//! error, one JSON object, a stream). It must not translate anything itself.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryFutureExt;
use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::ids::Ids;
use rejoinder_core::request::parse::{self, ParsedRequest, RequestSummary};
use rejoinder_core::request::plan::Plan;
use rejoinder_core::response::transcoder::Transcoder;

use super::app::App;
use super::ids::seed_in;
use super::prepared_request::{PreparedRequest, count, counted};
use super::reply::{self, ResponseBody};
use super::send::{send, send_again};
use super::state::ResponseRecorder;
use super::{body, run_tasks, stored_run};
use crate::driver::{AskAgain, BeforeEnd, EventBody, OnEnd, Pace, Waiting as PendingAnswer, unix_now};
use crate::heavy;
use crate::store::{Scope, TurnState};
use crate::telemetry::Ended;
use crate::upstream::too_late;

pub async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    begun: Instant,
    request_id: &HeaderValue,
) -> Result<Response<ResponseBody>, Error> {
    let (Parts { headers, .. }, incoming) = request.into_parts();
    let mut body = body::read(&app, &headers, incoming).await?;
    let (job, target, plan, input, mut room) = loop {
        let text = match heavy::run(body.len(), || parse::text(&body)).await? {
            // mended, in the place of what came
            Cow::Owned(text) => {
                let mut held = app.budget.begin();
                held.reach(text.len()).await?;
                body = held.of(text.into_bytes()).into_bytes();
                continue;
            }
            text => text,
        };
        let (draft, asks) = heavy::run(body.len(), || {
            let draft = ParsedRequest::read(&text, &app.config.limits)?;
            let asks = draft.asks()?;
            Ok::<_, Error>((draft, asks))
        })
        .await?;
        let kept = ResponseRecorder::wanted(&asks);
        let job = PreparedRequest::new(&app, headers, request_id, body.clone(), asks).await?;
        let target = job.target(&app).await?;
        let room = job.room(&app, if kept { body.len() } else { 0 }).await?;
        let planned = heavy::run(job.bytes(), || {
            let context = job.past.context(target.native);
            let plan = draft.plan(&job.options(&app, &target), &context)?;
            let input = kept.then(|| draft.stored_input(&context, &plan.repeated));
            // what many items are told apart into goes here too
            drop(draft);
            Ok::<_, Error>((plan, input))
        });
        let (plan, input) = planned.await?;
        break (job, target, plan, input, room);
    };
    drop(body);
    let Plan { body, stream, chat_stream, model, reply, notes, repeated: _, droppable_turns } = plan;
    count(&app, &notes);
    let keep = input.map(|input| {
        let held = room.as_mut().map(|room| room.split(input.bytes()));
        ResponseRecorder::new(app.clone(), job.caller.scope(), job.asks.clone(), &job.past, input, held)
    });
    let body = counted(body, room);
    let asks = job.asks.clone();
    let (caller, codex) = (job.caller.clone(), job.codex);
    let ids = Ids::new(seed_in(keep.as_ref().and_then(|_| job.past.group())));
    let limit = app.upstream.response_timeout();
    let job = Arc::new(job);
    let ask_again: Option<AskAgain> = reply.format.is_some().then(|| {
        let (app, job, target) = (app.clone(), job.clone(), target.clone());
        Box::new(move |unfit| -> PendingAnswer {
            let sent = send_again(app, job, target, unfit, chat_stream);
            Box::pin(sent.and_then(move |answered| answered.answer(limit)))
        }) as AskAgain
    });
    let transcoder = Box::new(Transcoder::new(reply, ids, unix_now()));
    tracing::debug!(response = transcoder.id(), model, stream, "planned");
    let sent = send(app.clone(), job, target, body, droppable_turns, chat_stream);
    // an `async` block would have room for it twice
    let sent: PendingAnswer = Box::pin(sent.and_then(move |answered| answered.answer(limit)));
    let response = PendingResponse { app, transcoder, sent, ask_again, begun, keep };
    match (stream, asks.background) {
        (false, _) => response.whole(limit).await,
        (true, true) => response.background(caller.scope(), &asks).await,
        (true, false) if asks.store_named => response.resumable(caller.scope(), codex).await,
        (true, false) => {
            let (body, limits) = response.streamed(codex).await?;
            let body = body.in_pieces().map_err(|never| match never {}).boxed_unsync();
            Ok(reply::limited(reply::event_stream(body), limits))
        }
    }
}

/// A response that was sent for, and has not begun.
struct PendingResponse {
    app: Arc<App>,
    transcoder: Box<Transcoder>,
    /// The upstream's answer.
    sent: PendingAnswer,
    /// Asks for it once more, in the form that is wanted.
    ask_again: Option<AskAgain>,
    /// When the request came.
    begun: Instant,
    /// Stores it, where that is wanted.
    keep: Option<ResponseRecorder>,
}

impl PendingResponse {
    /// Streams it, and goes on where the client can read it later: who says `"store": true` means to come back for the rest.
    async fn resumable(self, scope: Scope, codex: bool) -> Result<Response<ResponseBody>, Error> {
        let (app, id) = (self.app.clone(), self.transcoder.id().to_owned());
        let turn = self.keep.as_ref().map(|keep| keep.turn(&self.transcoder));
        let (body, limits) = self.streamed(codex).await?;
        let run = run_tasks::start(&app, scope, &id, body, turn, Some(app.config.store.resume_window));
        Ok(reply::limited(reply::events(run.read(0, app.config.heartbeat)), limits))
    }

    /// Begins a background response and returns at once: with what it is now, or with its events.
    async fn background(self, scope: Scope, asks: &RequestSummary) -> Result<Response<ResponseBody>, Error> {
        let app = self.app.clone();
        let id = self.transcoder.id().to_owned();
        let Some(keep) = &self.keep else {
            return Err(Error::new(Kind::Internal, "A background response was not to be kept."));
        };
        if let Some(runs) = app.store.runs() {
            // before its record: a run without a lease is taken for dead
            runs.renew(scope, &id, app.config.store.lease).await?;
        }
        // what is not in the store can be neither polled nor fetched
        let mut turn = keep.turn(&self.transcoder);
        app.store.put(scope, Arc::new(turn.clone())).await?;
        turn.state = TurnState::Queued;
        let body = self.open();
        let run = run_tasks::start(&app, scope, &id, body, None, None);
        Ok(match asks.stream {
            true => reply::events(run.read(0, app.config.heartbeat)),
            false => reply::json(StatusCode::OK, stored_run::render(&turn)),
        })
    }

    /// Waits `commit_after` for the upstream's status; then the stream begins without it, and without what its head tells of
    /// limits. `codex`: the client knows an overflow from a failed response alone, and takes an HTTP error for another one.
    async fn streamed(mut self, codex: bool) -> Result<(EventBody, HeaderMap), Error> {
        let (app, begun) = (self.app.clone(), self.begun);
        let waiting = Waiting { app: &app, begun, stream: "true", over: false };
        let early = tokio::time::timeout(app.config.commit_after, &mut self.sent).await;
        waiting.over();
        let mut limits = HeaderMap::new();
        self.sent = match early {
            Ok(answer) => {
                let answer = match answer {
                    Ok(mut answer) => {
                        limits = answer.take_limits();
                        Ok(answer)
                    }
                    Err(error) if !(codex && error.kind == Kind::ContextLength) => return Err(error),
                    Err(error) => Err(error),
                };
                app.metrics.first_answer(begun.elapsed().as_secs_f64());
                Box::pin(std::future::ready(answer))
            }
            Err(_) => {
                let (app, sent) = (app.clone(), self.sent);
                Box::pin(async move {
                    let answer = sent.await;
                    app.metrics.first_answer(begun.elapsed().as_secs_f64());
                    answer
                })
            }
        };
        Ok((self.open(), limits))
    }

    /// The body of a stream that begins now.
    fn open(self) -> EventBody {
        let PendingResponse { app, transcoder, sent, ask_again, begun, keep } = self;
        let pace = Pace {
            heartbeat: app.config.heartbeat,
            in_progress_after: app.config.in_progress_after,
            idle_timeout: app.upstream.idle_timeout(),
        };
        app.metrics.open_streams.inc();
        let shutdown = app.cut.clone().cancelled_owned();
        let span = tracing::Span::current();
        let keep = keep.map(Arc::new);
        let before_end = keep.clone().map(|keep| -> BeforeEnd { Box::new(move |ended| keep.keep(ended)) });
        let on_end: OnEnd = Box::new(move |transcoder, client_left| {
            let _entered = span.enter();
            app.metrics.open_streams.dec();
            ended(&app, transcoder, client_left, "true", begun.elapsed());
            if let Some(keep) = keep.filter(|_| client_left) {
                tokio::spawn(keep.keep_cancelled(transcoder));
            }
        });
        EventBody::new(transcoder, sent, pace, shutdown, on_end).ask_again(ask_again).before_end(before_end)
    }

    /// One completion is one chunk.
    async fn whole(self, limit: Duration) -> Result<Response<ResponseBody>, Error> {
        let PendingResponse { app, mut transcoder, sent, ask_again, begun, keep } = self;
        let waiting = Waiting { app: &app, begun, stream: "false", over: false };
        let idle_timeout = app.upstream.idle_timeout();
        let read = async {
            let mut answer = sent.await?;
            let limits = answer.take_limits();
            let read = answer.read(&mut transcoder, idle_timeout, ask_again);
            tokio::time::timeout(limit, read).await.map_err(|_| too_late(limit))??;
            Ok::<_, Error>(limits)
        }
        .await;
        waiting.over();
        let limits = read?;
        ended(&app, &transcoder, false, "false", begun.elapsed());
        if let Some(error) = transcoder.failure() {
            return Err(error.clone());
        }
        if let Some(keep) = keep {
            keep.keep(&mut transcoder).await;
        }
        Ok(reply::limited(reply::json(StatusCode::OK, transcoder.into_body()), limits))
    }
}

/// A client that leaves before its answer: the request's future is dropped, and so is this.
struct Waiting<'a> {
    app: &'a App,
    begun: Instant,
    stream: &'static str,
    over: bool,
}

impl Waiting<'_> {
    fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over {
            let stream = self.stream;
            self.app.metrics.responses.get_or_create(&Ended { outcome: "cancelled", stream }).inc();
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
    for (quirk, times) in transcoder.repaired().counts() {
        app.metrics.repair(quirk.name(), times);
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
            tracing::debug!(response, error = error.message, detail, "why it failed");
        }
        _ => tracing::info!(response, outcome, ms, input, cached, output, "response ended"),
    }
}
