//! Owns `POST /v1/responses` from body to answer: read, plan, send. It must not translate anything itself.

use std::borrow::Cow;
use std::future::ready;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::TryFutureExt;
use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use rejoinder_core::Input;
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::ids::Ids;
use rejoinder_core::request::parse::{self, ParsedRequest};
use rejoinder_core::request::plan::Plan;
use rejoinder_core::response::transcoder::Transcoder;

use super::app::App;
use super::body;
use super::ids::seed_ending;
use super::pending_response::PendingResponse;
use super::prepared_request::{PreparedRequest, count, counted};
use super::reply::ResponseBody;
use super::response_recorder::ResponseRecorder;
use super::send::{send, send_again};
use super::socket_turns::SocketCreate;
use crate::budget::Held;
use crate::driver::{AskAgain, Waiting as PendingAnswer, unix_now};
use crate::heavy;
use crate::upstream::Target;

/// `POST /v1/responses`, `begun` when its head had arrived.
///
/// # Errors
/// What is wrong with the request; what the upstream refuses, or why it cannot be asked, where that is known before a
/// stream has begun.
pub async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    begun: Instant,
    request_id: &HeaderValue,
) -> Result<Response<ResponseBody>, Error> {
    let (Parts { headers, .. }, incoming) = request.into_parts();
    let body = body::read(&app, &headers, incoming).await?;
    respond(app, CreateRequest { headers, id: request_id.clone(), begun, body, socket: None }).await
}

/// A create request that was read: over HTTP, or as an event of a WebSocket.
pub struct CreateRequest {
    pub headers: HeaderMap,
    pub id: HeaderValue,
    pub begun: Instant,
    pub body: Bytes,
    /// What it has of the WebSocket that it came over.
    pub socket: Option<SocketCreate>,
}

/// Answers it. One that came over a WebSocket gets a stream, whatever it says.
///
/// # Errors
/// As [`answer`].
pub async fn respond(app: Arc<App>, request: CreateRequest) -> Result<Response<ResponseBody>, Error> {
    let (begun, socket) = (request.begun, request.socket.clone());
    let key_request = app.client_keys.still(&request.headers)?.map(|key| key.begin()).transpose()?;
    let planned = plan(&app, request).await?;
    let response = pending(app, planned, begun, socket).of_key(key_request);
    let id = ResponseId(response.transcoder.id().to_owned());
    let mut answer = response.answer().await?;
    answer.extensions_mut().insert(id);
    Ok(answer)
}

/// The id of the response that an HTTP answer holds, as an extension of it.
#[derive(Clone)]
pub struct ResponseId(pub String);

/// A request that nothing is wrong with, and what is to be sent for it.
struct Planned {
    job: PreparedRequest,
    target: Target,
    plan: Plan,
    /// What is kept of its input, where its response is to be stored or remembered.
    input: Option<Input>,
    room: Option<Held>,
}

/// Parses a request, fetches its past, and plans it for the server that it will likely go to.
async fn plan(app: &App, request: CreateRequest) -> Result<Planned, Error> {
    let CreateRequest { headers, id, mut body, socket, .. } = request;
    let text = loop {
        match heavy::run(body.len(), || parse::text(&body)).await? {
            // mended, in the place of what came
            Cow::Owned(text) => {
                let mut held = app.budget.begin();
                held.reach(text.len()).await?;
                body = held.of(text.into_bytes()).into_bytes();
            }
            Cow::Borrowed(text) => break text,
        }
    };
    let (draft, asks) = heavy::run(body.len(), || {
        let draft = ParsedRequest::read(text, &app.config.limits)?;
        let asks = draft.asks()?;
        Ok::<_, Error>((draft, asks))
    })
    .await?;
    let kept = ResponseRecorder::wanted(&asks) || socket.is_some();
    let job = PreparedRequest::new(app, headers, &id, body.clone(), asks, socket.as_ref()).await?;
    let target = job.target(app).await?;
    let room = job.room(app, if kept { body.len() } else { 0 }).await?;
    let planned = heavy::run(job.bytes(), || {
        let context = job.past.context(target.native);
        let plan = draft.plan(&job.options(app, &target), &context)?;
        let input = kept.then(|| draft.stored_input(&context, &plan.repeated));
        // what many items are told apart into goes here too
        drop(draft);
        Ok::<_, Error>((plan, input))
    });
    let (plan, input) = planned.await?;
    Ok(Planned { job, target, plan, input, room })
}

/// Has a planned request sent as soon as its response is polled.
fn pending(app: Arc<App>, planned: Planned, begun: Instant, socket: Option<SocketCreate>) -> PendingResponse {
    let Planned { mut job, target, plan, input, mut room } = planned;
    let on_socket = socket.is_some();
    let Plan { body, stream, chat_stream, model, reply, notes, repeated: _, droppable_turns } = plan;
    count(&app, &notes);
    let keep = input.map(|input| {
        let held = room.as_mut().map(|room| room.split(input.bytes()));
        let (scope, asks) = (job.caller.scope(), job.asks.clone());
        ResponseRecorder::new(app.clone(), scope, asks, &job.past, input, held).on_socket(socket, &job.past)
    });
    let body = counted(body, room);
    let (asks, scope, client) = (job.asks.clone(), job.caller.scope(), job.client);
    let warms_up = job.warms_up;
    let ending = keep.as_ref().filter(|keep| keep.stores());
    let ids = Ids::new(seed_ending(ending.and_then(|_| app.store.id_ending(job.past.turns()))));
    if on_socket {
        job.begins_conversation(ids.response());
    }
    let timeout = app.upstream.response_timeout();
    let job = Arc::new(job);
    let ask_again: Option<AskAgain> = reply.format.is_some().then(|| {
        let (app, job, target) = (app.clone(), job.clone(), target.clone());
        Box::new(move |unfit| -> PendingAnswer {
            let sent = send_again(app, job, target, unfit, chat_stream);
            Box::pin(sent.and_then(move |answered| answered.answer(timeout)))
        }) as AskAgain
    });
    let transcoder = Box::new(Transcoder::new(reply, ids, unix_now()));
    tracing::debug!(response = transcoder.id(), model, stream, "planned");
    let sent: PendingAnswer = match warms_up && !can_warm_up(&target) {
        true => Box::pin(ready(Err(Error::new(Kind::Internal, "This server's cache is not made ready.")))),
        false => {
            let sent = send(app.clone(), job, target, body, droppable_turns, chat_stream);
            // an `async` block would have room for it twice
            Box::pin(sent.and_then(move |answered| answered.answer(timeout)))
        }
    };
    PendingResponse {
        app,
        asks,
        scope,
        stream,
        client,
        warms_up,
        transcoder,
        sent,
        ask_again,
        begun,
        timeout,
        keep,
        key_request: None,
    }
}

/// Whether it is of use to have that server read a prompt ahead of its request.
fn can_warm_up(target: &Target) -> bool {
    target.native.is_none() && target.dialect.keeps_prompts
}
