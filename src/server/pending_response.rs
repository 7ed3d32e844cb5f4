//! Owns a response that was sent for, until its body: which of the four forms it takes (an HTTP error, one JSON object,
//! a stream, a run in the background), and what is logged and counted of its end. It must not plan.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use rejoinder_core::client::Client;
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::request::parse::RequestSummary;
use rejoinder_core::response::transcoder::{End, Transcoder};

use super::app::App;
use super::client_limits::Place;
use super::reply::{self, ResponseBody};
use super::response_recorder::ResponseRecorder;
use super::{run_tasks, stored_run};
use crate::client_keys::KeyRequest;
use crate::driver::{AskAgain, BeforeEnd, EventBody, OnEnd, Pace, PendingAnswer, StreamEnd, unix_now};
use crate::store::{Scope, TurnState};
use crate::telemetry::{Ended, RequestRecord, ResponseEnd, ResponseNumbers};
use crate::upstream::too_late;

/// A response that was requested from the upstream and has not begun.
pub(super) struct PendingResponse {
    pub app: Arc<App>,
    pub asks: Arc<RequestSummary>,
    /// The scope of the caller, under which it is stored.
    pub scope: Scope,
    /// Whether its client wants events.
    pub stream: bool,
    /// The client that sent the request.
    pub client: &'static Client,
    /// Whether nothing is answered: the upstream only reads the prompt.
    pub warms_up: bool,
    pub transcoder: Box<Transcoder>,
    /// Resolves to the upstream's answer; nothing is sent before it is polled, and dropping it cancels the request.
    pub sent: PendingAnswer,
    /// Asks the upstream again where its text does not match `text.format`.
    pub ask_again: Option<AskAgain>,
    /// What is told of the request at its end.
    pub record: Arc<RequestRecord>,
    /// Longest time until the answer is whole.
    pub timeout: Duration,
    /// Stores the response; `None` where it is not to be stored.
    pub keep: Option<ResponseRecorder>,
    /// The key that began the request, where keys are asked for.
    pub key_request: Option<KeyRequest>,
    /// Its place among all responses.
    pub place: Option<Place>,
}

impl PendingResponse {
    /// The same, begun by a key: it lasts, and pays for its tokens.
    pub(super) fn counted(self, key_request: Option<KeyRequest>, place: Place) -> PendingResponse {
        PendingResponse { key_request, place: Some(place), ..self }
    }

    /// Answers in the form that the request asks for.
    ///
    /// # Errors
    /// What becomes known before a stream has begun.
    pub(super) async fn answer(self) -> Result<Response<ResponseBody>, Error> {
        match (self.stream, self.asks.background) {
            (false, _) => self.whole().await,
            (true, true) => self.background().await,
            (true, false) if self.warms_up => Ok(streamed(self.open())),
            (true, false) if self.asks.store_named => self.resumable().await,
            (true, false) => {
                let (body, limits) = self.streamed().await?;
                Ok(reply::limited(streamed(body), limits))
            }
        }
    }

    /// Streams it, and goes on where the client can read it later: who says `"store": true` means to come back for the rest.
    async fn resumable(self) -> Result<Response<ResponseBody>, Error> {
        let (app, scope, id) = (self.app.clone(), self.scope, self.transcoder.id().to_owned());
        let turn = self.keep.as_ref().map(|keep| keep.turn(&self.transcoder));
        let (body, limits) = self.streamed().await?;
        let run = run_tasks::start(&app, scope, &id, body, turn, Some(app.config.store.resume_window));
        Ok(reply::limited(reply::events(run.read(0, app.config.heartbeat)), limits))
    }

    /// Begins a background response and returns at once: with what it is now, or with its events.
    async fn background(mut self) -> Result<Response<ResponseBody>, Error> {
        let (app, scope, events) = (self.app.clone(), self.scope, self.asks.stream);
        let id = self.transcoder.id().to_owned();
        let Some(keep) = &self.keep else {
            return Err(Error::new(Kind::Internal, "A background response must be stored."));
        };
        if let Some(runs) = app.store.runs() {
            // before its record: a run without a lease is taken for dead
            runs.renew(scope, &id, app.config.store.lease).await?;
        }
        // what is not in the store can be neither polled nor fetched
        let mut turn = keep.turn(&self.transcoder);
        app.store.put(scope, Arc::new(turn.clone())).await?;
        turn.state = TurnState::Queued;
        if !events {
            let run = self.record.run();
            std::mem::replace(&mut self.record, run).goes_on_in_background();
        }
        let body = self.open();
        let run = run_tasks::start(&app, scope, &id, body, None, None);
        Ok(match events {
            true => reply::events(run.read(0, app.config.heartbeat)),
            false => reply::json(StatusCode::OK, stored_run::render(&turn)),
        })
    }

    /// Waits `commit_after` for the upstream's status; then the stream begins without it, and without what its head tells of
    /// limits.
    async fn streamed(mut self) -> Result<(EventBody, HeaderMap), Error> {
        let app = self.app.clone();
        let waiting = Waiting { app: &app, stream: "true", over: false };
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
                    Err(error) if !(self.client.overflow_in_stream && error.kind == Kind::ContextLength) => {
                        return Err(error);
                    }
                    Err(error) => Err(error),
                };
                Box::pin(std::future::ready(answer))
            }
            Err(_) => self.sent,
        };
        Ok((self.open(), limits))
    }

    /// The body of a stream that begins now.
    fn open(self) -> EventBody {
        let PendingResponse { app, transcoder, sent, ask_again, record, keep, key_request, place, .. } = self;
        let pace = Pace {
            heartbeat: app.config.heartbeat,
            in_progress_after: app.config.in_progress_after,
            idle_timeout: app.upstream.idle_timeout(),
            frame_bytes: app.config.stream_buffer_bytes,
        };
        app.metrics.open_streams.inc();
        let shutdown = app.cut.clone().cancelled_owned();
        let span = tracing::Span::current();
        let keep = keep.map(Arc::new);
        let before_end = keep.clone().map(|keep| -> BeforeEnd { Box::new(move |ended| keep.keep(ended)) });
        let progress = record.clone();
        let on_end: OnEnd = Box::new(move |transcoder, end| {
            let _entered = span.enter();
            drop(place);
            app.metrics.open_streams.dec();
            spent(&app, transcoder, key_request.as_ref());
            ended(&app, transcoder, end, "true", &record);
            if let Some(error) = transcoder.failure() {
                // without a stream it becomes an HTTP error, which is counted as such
                app.metrics.error(error.label());
                reply::log(error);
            }
            if let Some(keep) = keep.filter(|_| end.client_left) {
                tokio::spawn(keep.keep_cancelled(transcoder));
            }
        });
        let body = EventBody::new(transcoder, sent, pace, shutdown, on_end).progress(progress);
        body.ask_again(ask_again).before_end(before_end)
    }

    /// One completion is one chunk.
    async fn whole(self) -> Result<Response<ResponseBody>, Error> {
        let PendingResponse {
            app, mut transcoder, sent, ask_again, record, timeout, keep, key_request, ..
        } = self;
        let waiting = Waiting { app: &app, stream: "false", over: false };
        let idle_timeout = app.upstream.idle_timeout();
        let read = async {
            let mut answer = sent.await?;
            let limits = answer.take_limits();
            let read = answer.read(&mut transcoder, idle_timeout, ask_again);
            match tokio::time::timeout(timeout, read).await {
                Ok(read) => read?,
                // one whose finish reason is there is whole all the same
                Err(_) => transcoder.end(End::Failed(too_late(timeout)), unix_now(), &mut Vec::new()),
            }
            Ok::<_, Error>(limits)
        }
        .await;
        waiting.over();
        let limits = read?;
        spent(&app, &transcoder, key_request.as_ref());
        let end = StreamEnd { client_left: false, first_token: None };
        ended(&app, &transcoder, end, "false", &record);
        if let Some(error) = transcoder.failure() {
            return Err(error.clone());
        }
        if let Some(keep) = keep {
            keep.keep(&mut transcoder).await;
        }
        Ok(reply::limited(reply::json(StatusCode::OK, transcoder.into_body()), limits))
    }
}

fn streamed(body: EventBody) -> Response<ResponseBody> {
    reply::event_stream(body.in_pieces())
}

/// A client that leaves before its answer: the request's future is dropped, and so is this.
struct Waiting<'a> {
    app: &'a App,
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
        }
    }
}

/// Takes the tokens of a response that has ended from the limits of its key.
fn spent(app: &App, transcoder: &Transcoder, key_request: Option<&KeyRequest>) {
    let Some((key_request, usage)) = key_request.zip(transcoder.usage()) else { return };
    let tokens = u64::from(usage.input) + u64::from(usage.output);
    key_request.spend(tokens);
    app.metrics.key_tokens(&key_request.key().name, tokens);
}

/// Counts how a response ended, and has it told with the end of its request.
fn ended(app: &App, transcoder: &Transcoder, end: StreamEnd, stream: &'static str, record: &RequestRecord) {
    let StreamEnd { client_left, first_token } = end;
    let outcome = if client_left { "cancelled" } else { transcoder.outcome() };
    app.metrics.responses.get_or_create(&Ended { outcome, stream }).inc();
    let (usage, error) = (transcoder.usage(), transcoder.failure());
    let model = app.upstream.known_model(record.models());
    app.metrics.response.ended(&ResponseNumbers {
        model: model.as_deref(),
        error: error.map(Error::label),
        usage,
        duration: record.begun().elapsed(),
        first_token: first_token.map(|at| at.saturating_duration_since(record.begun())),
        whole: !client_left && error.is_none(),
    });
    if let Some((upstream, timings)) = record.upstream().zip(transcoder.timings()) {
        app.metrics.routing.worked(&upstream, &timings);
    }
    for _ in 0..transcoder.dropped() {
        app.metrics.note("dropped_output");
    }
    for (quirk, times) in transcoder.repaired().counts() {
        app.metrics.repair(quirk.name(), times);
    }
    let reason = transcoder.incomplete_reason();
    record.response_ended(&ResponseEnd { outcome, reason, error, client_left, usage, first_token });
}
