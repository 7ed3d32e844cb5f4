//! Owns `POST /v1/responses` from body to answer: read, plan, send. It must not translate anything itself.

use std::future::ready;
use std::sync::Arc;

use futures::TryFutureExt;
use http::header::HeaderValue;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::ids::Ids;
use rejoinder_core::request::plan::Plan;
use rejoinder_core::response::transcoder::Transcoder;

use super::app::App;
use super::body;
use super::ids::seed_ending;
use super::pending_response::PendingResponse;
use super::prepared_request::{CreateRequest, Planned, PreparedRequest};
use super::reply::ResponseBody;
use super::response_recorder::ResponseRecorder;
use super::send::{send, send_again};
use super::socket_turns::SocketCreate;
use crate::driver::{AskAgain, PendingAnswer, unix_now};
use crate::telemetry::RequestRecord;
use crate::upstream::Target;

/// `POST /v1/responses`.
///
/// # Errors
/// What is wrong with the request; what the upstream refuses, or why it cannot be asked, where that is known before a
/// stream has begun.
pub async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    record: &Arc<RequestRecord>,
    request_id: &HeaderValue,
) -> Result<Response<ResponseBody>, Error> {
    let (Parts { headers, .. }, incoming) = request.into_parts();
    let body = body::read(&app, &headers, incoming).await?;
    let (id, record) = (request_id.clone(), record.clone());
    respond(app, CreateRequest { headers, id, record, body, socket: None }).await
}

/// Answers it. One that came over a WebSocket gets a stream, whatever it says.
///
/// # Errors
/// As [`answer`].
pub async fn respond(app: Arc<App>, request: CreateRequest) -> Result<Response<ResponseBody>, Error> {
    let socket = request.socket.clone();
    let key_request = app.client_keys.still(&request.headers)?.map(|key| key.begin()).transpose()?;
    let place = app.limits.response(&app.metrics)?;
    let planned = PreparedRequest::plan(&app, request).await?;
    let response = pending(app, planned, socket).counted(key_request, place);
    let id = ResponseId(response.transcoder.id().to_owned());
    let mut answer = response.answer().await?;
    answer.extensions_mut().insert(id);
    Ok(answer)
}

/// The id of the response that an HTTP answer holds, as an extension of it.
#[derive(Clone)]
pub struct ResponseId(pub String);

/// Has a planned request sent as soon as its response is polled.
fn pending(app: Arc<App>, planned: Planned, socket: Option<SocketCreate>) -> PendingResponse {
    let Planned { request: mut job, target, plan, body, input } = planned;
    let on_socket = socket.is_some();
    let Plan { stream, chat_stream, model, reply, droppable_turns, .. } = plan;
    let keep = input.map(|(input, held)| {
        let (scope, asks) = (job.caller.scope(), job.asks.clone());
        ResponseRecorder::new(app.clone(), scope, asks, &job.past, input, held).on_socket(socket, &job.past)
    });
    let (asks, scope, client) = (job.asks.clone(), job.caller.scope(), job.client);
    let warms_up = job.warms_up;
    let ending = keep.as_ref().filter(|keep| keep.stores());
    let ids = Ids::new(seed_ending(ending.and_then(|_| app.store.id_ending(job.past.turns()))));
    if on_socket {
        job.begins_conversation(ids.response());
    }
    let timeout = app.upstream.response_timeout();
    let record = job.record.clone();
    let job = Arc::new(job);
    let ask_again: Option<AskAgain> = reply.format.is_some().then(|| {
        let (app, job, target) = (app.clone(), job.clone(), target.clone());
        Box::new(move |unfit| -> PendingAnswer {
            let sent = send_again(app, job, target, unfit, chat_stream);
            Box::pin(sent.and_then(move |answered| answered.answer(timeout)))
        }) as AskAgain
    });
    let transcoder = Box::new(Transcoder::new(reply, ids, unix_now()));
    record.set_response(transcoder.id());
    record.planned();
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
        record,
        timeout,
        keep,
        key_request: None,
        place: None,
    }
}

/// Whether it is of use to have that server read a prompt ahead of its request.
fn can_warm_up(target: &Target) -> bool {
    target.native.is_none() && target.dialect.keeps_prompts
}
