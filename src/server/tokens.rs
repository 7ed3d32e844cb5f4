//! Owns the counting of prompt tokens: by the upstream's own tokenizer and template, never by an estimate of ours.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json as value};

use super::job::Job;
use super::reply::{self, ResponseBody};
use super::{App, body};
use crate::error::{Error, Kind};
use crate::translate::draft::{self, Draft};
use crate::upstream::{self, Target};

/// `POST /v1/responses/input_tokens`: what the same body would cost as a create request.
///
/// # Errors
/// As a create request's; the upstream's own refusal.
pub async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    request_id: &HeaderValue,
) -> Result<Response<ResponseBody>, Error> {
    let (mut parts, incoming) = request.into_parts();
    let body = body::read(&parts.headers, incoming, app.config.max_body_bytes).await?;
    let target = app.upstream.wait_target().await?;
    parts.headers.insert("x-request-id", request_id.clone());
    let asks = Draft::read(&draft::text(&body)?)?.asks()?;
    let job = Job::new(&app, parts.headers, body, asks).await?;
    let plan = job.plan_with(&app, &target, None, |_| {})?;
    let tokens = count(&app, &target, &job.headers, &plan.body).await?;
    let body = value!({"object": "response.input_tokens", "input_tokens": tokens});
    Ok(reply::json(StatusCode::OK, body.to_string()))
}

/// Prompt tokens of a chat request: by the server's endpoint for it, or, where it has none, by having it generate one
/// token and reading `usage`.
///
/// # Errors
/// What the upstream refuses; 502 for an answer without a count.
pub async fn count(app: &App, target: &Target, headers: &HeaderMap, chat: &[u8]) -> Result<u64, Error> {
    let mut chat: Value = serde_json::from_slice(chat).unwrap_or_default();
    if let Some(chat) = chat.as_object_mut() {
        chat.insert("stream".to_owned(), value!(false));
        chat.remove("stream_options");
    }
    if let Some((path, member)) = target.dialect.count_tokens {
        let counted = ask(app, target, path, chat.to_string(), headers).await;
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
    let answer = ask(app, target, "/v1/chat/completions", chat.to_string(), headers).await?;
    answer.pointer("/usage/prompt_tokens").and_then(Value::as_u64).ok_or_else(|| {
        Error::new(Kind::BadGateway, "The upstream server does not count the tokens of a prompt.")
    })
}

async fn ask(
    app: &App,
    target: &Target,
    path: &str,
    body: String,
    headers: &HeaderMap,
) -> Result<Value, Error> {
    let response = app.upstream.post(target, path, body.into_bytes(), headers, false).await?;
    let answer = upstream::whole(response, app.upstream.response_timeout()).await?;
    Ok(serde_json::from_slice(&answer).unwrap_or_default())
}
