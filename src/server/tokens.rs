//! Owns the counting of prompt tokens, by the upstream's own tokenizer and template. It must not estimate.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::wire::json;
use serde_json::{Value, json as value};

use super::app::App;
use super::prepared_request::{PreparedRequest, counted};
use super::reply::{self, ResponseBody};
use crate::budget::Counted;
use crate::heavy;
use crate::telemetry::RequestRecord;
use crate::upstream::{Body, CHAT, ChatRequest, Rendered, RoutingKey, Target};

/// `POST /v1/responses/input_tokens`: what the same body would cost as a create request.
///
/// # Errors
/// As a create request's; the upstream's own refusal.
pub async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    id: (&HeaderValue, &Arc<RequestRecord>),
) -> Result<Response<ResponseBody>, Error> {
    let (job, target) = PreparedRequest::read(&app, request, id).await?;
    let tokens = of(&app, &job, &target).await?;
    let body = value!({"object": "response.input_tokens", "input_tokens": tokens});
    Ok(reply::json(StatusCode::OK, body.to_string()))
}

/// Prompt tokens of a request. A server that speaks Responses well is asked in its own words.
///
/// # Errors
/// As [`answer`].
pub async fn of(app: &App, job: &PreparedRequest, target: &Target) -> Result<u64, Error> {
    if let Some(native) = target.native.filter(|native| !native.function_tools_only) {
        let (_, planned) = job.plan_with(app, target, |_| {}).await?;
        let body = altered(planned, &["stream", "store"], "").await.into_bytes();
        let answer = ask(app, job, native.count_path, body).await?;
        return answer.get("input_tokens").and_then(Value::as_u64).ok_or_else(uncounted);
    }
    let (_, chat) = job.plan_with(app, target, |options| options.native = None).await?;
    count(app, job, target, chat).await
}

fn uncounted() -> Error {
    Error::new(Kind::BadGateway, "The upstream server does not count the tokens of a prompt.")
}

/// Prompt tokens of a chat request: by the server's endpoint for it, or, where it has none, by having it generate one
/// token and reading `usage`.
///
/// # Errors
/// What the upstream refuses; 502 for an answer without a count.
async fn count(app: &App, job: &PreparedRequest, target: &Target, chat: Counted) -> Result<u64, Error> {
    let chat = altered(chat, &["stream", "stream_options"], r#""stream":false"#).await.into_bytes();
    if let Some((path, member)) = target.dialect.count_tokens {
        let answer = ask(app, job, path, chat.clone()).await;
        match answer.as_ref().map(|answer| answer.get(member).and_then(Value::as_u64)) {
            Ok(Some(tokens)) => return Ok(tokens),
            // an older server without that path
            Ok(None) => {}
            Err(error) if matches!(error.status(), 404 | 405 | 501) => {}
            Err(_) => return answer.map(|_| 0),
        }
    }
    let room = job.room(app, 0).await?;
    let one = heavy::run(chat.len(), || with_members(&chat, &["max_tokens"], r#""max_tokens":1"#)).await;
    drop(chat);
    let answer = ask(app, job, CHAT, counted(one, room).into_bytes()).await?;
    answer.pointer("/usage/prompt_tokens").and_then(Value::as_u64).ok_or_else(uncounted)
}

/// See [`with_members`]; the count goes over.
async fn altered(body: Counted, without: &[&str], with: &str) -> Counted {
    let changed = heavy::run(body.len(), || with_members(&body, without, with)).await;
    body.replaced(changed)
}

/// A JSON object without some of its members, and with others at its end.
fn with_members(object: &[u8], without: &[&str], with: &str) -> Vec<u8> {
    let text = std::str::from_utf8(object).unwrap_or_default();
    let mut out = Vec::with_capacity(object.len() + with.len());
    for (name, value) in json::members(text).unwrap_or_default() {
        if without.contains(&&*name) {
            continue;
        }
        out.push(if out.is_empty() { b'{' } else { b',' });
        json::push_string(&mut out, &name);
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    if !with.is_empty() {
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(with.as_bytes());
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    out
}

async fn ask(app: &App, job: &PreparedRequest, path: &'static str, body: Bytes) -> Result<Value, Error> {
    // counting is not a turn of the conversation
    let route = Arc::new(RoutingKey { side: true, ..RoutingKey::clone(&job.route) });
    let body = move |_: &Target| Rendered::Now(Body::Shared(body.clone()));
    let (headers, record) = (job.headers.clone(), job.record.clone());
    let request =
        ChatRequest { route, path: Some(path), headers, record, stream: false, body: Arc::new(body) };
    let limit = app.upstream.response_timeout();
    let answer = app.upstream.send(request).await?.whole(limit).await?;
    Ok(serde_json::from_slice(&answer).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_left_out_and_added() {
        for (object, want) in [
            (r#"{"a":1,"b":[{"a":2}],"c":"\u0061"}"#, r#"{"b":[{"a":2}],"c":"\u0061","n":0}"#),
            (r#"{"a":1}"#, r#"{"n":0}"#),
            ("{}", r#"{"n":0}"#),
        ] {
            assert_eq!(with_members(object.as_bytes(), &["a"], "\"n\":0"), want.as_bytes());
        }
        assert_eq!(with_members(b"{\"a\":1}", &["a"], ""), b"{}");
    }
}
