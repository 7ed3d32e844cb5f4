//! Owns the counting of prompt tokens: by the upstream's own tokenizer and template, never by an estimate of ours.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json as value};

use super::App;
use super::job::Job;
use super::reply::{self, ResponseBody};
use crate::error::{Error, Kind};
use crate::upstream::{CHAT, ChatRequest, Route, Target};

/// `POST /v1/responses/input_tokens`: what the same body would cost as a create request.
///
/// # Errors
/// As a create request's; the upstream's own refusal.
pub async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    request_id: &HeaderValue,
) -> Result<Response<ResponseBody>, Error> {
    let (job, target) = Job::read(&app, request, request_id).await?;
    let tokens = of(&app, &job, &target).await?;
    let body = value!({"object": "response.input_tokens", "input_tokens": tokens});
    Ok(reply::json(StatusCode::OK, body.to_string()))
}

/// Prompt tokens of a request. A server that speaks Responses well is asked in its own words.
///
/// # Errors
/// As [`answer`].
pub async fn of(app: &App, job: &Job, target: &Target) -> Result<u64, Error> {
    if let Some(native) = target.native.filter(|native| !native.functions) {
        let plan = job.plan_with(app, target, None, |_| {})?;
        let mut body: Value = serde_json::from_slice(&plan.body).unwrap_or_default();
        if let Some(body) = body.as_object_mut() {
            body.retain(|key, _| !matches!(key.as_str(), "stream" | "store"));
        }
        let answer = ask(app, job, native.count_path, body.to_string()).await?;
        return answer.get("input_tokens").and_then(Value::as_u64).ok_or_else(uncounted);
    }
    let plan = job.plan_with(app, target, None, |options| options.native = None)?;
    count(app, job, target, &plan.body).await
}

fn uncounted() -> Error {
    Error::new(Kind::BadGateway, "The upstream server does not count the tokens of a prompt.")
}

/// Prompt tokens of a chat request: by the server's endpoint for it, or, where it has none, by having it generate one
/// token and reading `usage`.
///
/// # Errors
/// What the upstream refuses; 502 for an answer without a count.
async fn count(app: &App, job: &Job, target: &Target, chat: &[u8]) -> Result<u64, Error> {
    let mut chat: Value = serde_json::from_slice(chat).unwrap_or_default();
    if let Some(chat) = chat.as_object_mut() {
        chat.insert("stream".to_owned(), value!(false));
        chat.remove("stream_options");
    }
    if let Some((path, member)) = target.dialect.count_tokens {
        let counted = ask(app, job, path, chat.to_string()).await;
        match counted.as_ref().map(|answer| answer.get(member).and_then(Value::as_u64)) {
            Ok(Some(tokens)) => return Ok(tokens),
            // an older server without that path
            Ok(None) => {}
            Err(error) if matches!(error.status().as_u16(), 404 | 405 | 501) => {}
            Err(_) => return counted.map(|_| 0),
        }
    }
    if let Some(chat) = chat.as_object_mut() {
        chat.insert("max_tokens".to_owned(), value!(1));
    }
    let answer = ask(app, job, CHAT, chat.to_string()).await?;
    answer.pointer("/usage/prompt_tokens").and_then(Value::as_u64).ok_or_else(uncounted)
}

async fn ask(app: &App, job: &Job, path: &'static str, body: String) -> Result<Value, Error> {
    // to count is no turn of the conversation
    let route = Arc::new(Route { side: true, ..Route::clone(&job.route) });
    let body = move |_: &Target| Ok(body.clone().into_bytes());
    let headers = job.headers.clone();
    let request = ChatRequest { route, path: Some(path), headers, stream: false, body: Arc::new(body) };
    let limit = app.upstream.response_timeout();
    let answer = app.upstream.send(request).await?.whole(limit).await?;
    Ok(serde_json::from_slice(&answer).unwrap_or_default())
}
