//! Owns the shapes of our own HTTP answers: JSON, errors in OpenAI's envelope, plain text. It must not decide which.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use rejoinder_core::error::{Error, Kind, Origin};

/// The body of every answer; its error ends the connection, which is how a cut passed-through body is told.
pub type ResponseBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Tells SDKs whether to try again, over their own rules.
pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An answer of one piece.
pub fn full(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<ResponseBody> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer whose body is JSON text.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<ResponseBody> {
    full(status, "application/json", body)
}

/// An answer that streams events; each element is one frame of whole events.
pub fn events(frames: impl Stream<Item = Bytes> + Send + 'static) -> Response<ResponseBody> {
    event_stream(StreamBody::new(frames.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync())
}

/// An answer that streams events, with the headers that keep proxies from buffering it.
pub fn event_stream(body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold events back
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The answer with the upstream's rate limit headers.
pub fn limited(mut response: Response<ResponseBody>, limits: HeaderMap) -> Response<ResponseBody> {
    response.headers_mut().extend(limits);
    response
}

/// An error in its envelope, with the headers that clients act on; it is logged here, once.
pub fn error(error: &Error) -> Response<ResponseBody> {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    log(error);
    let mut response = json(status, error.envelope());
    let headers = response.headers_mut();
    headers.extend(error_headers(error));
    if error.kind == Kind::Unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    if status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(header::UPGRADE, HeaderValue::from_static("HTTP/1.1"));
    }
    response
}

/// The log lines of an error that a client is told.
pub fn log(error: &Error) {
    let (status_code, code) = (error.status(), error.label());
    match error.origin() {
        // it is told once, not for each request
        Origin::Internal if error.kind == Kind::NoDescriptor => {
            tracing::debug!(status = status_code, code, "request failed");
        }
        Origin::Internal => tracing::error!(status = status_code, code, "request failed"),
        Origin::Upstream => tracing::warn!(status = status_code, code, "upstream failed a request"),
        Origin::Client => tracing::debug!(status = status_code, code, "request refused"),
    }
    // an upstream may repeat the prompt in its words
    tracing::debug!(error = error.message, detail = error.detail.as_deref().unwrap_or(""), "why it failed");
}

/// The headers of an error that clients act on.
pub fn error_headers(error: &Error) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in error.limits.iter().flat_map(|limits| &limits.0) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value)) {
            headers.insert(name, value);
        }
    }
    if let Some(seconds) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.is_final() {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    headers
}
