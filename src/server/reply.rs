//! Owns the shapes of our own HTTP answers: JSON, errors in OpenAI's envelope, plain text. It must not decide which.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use rejoinder_core::error::{Detail, Error, Kind};

use super::client_limits::{AddressPlace, Counted};
use crate::client_keys::KeyRequest;
use crate::telemetry::{BodyEnd, CONTENTS, OpenRequest};

/// An error of a body ends the connection, which is how a cut passed-through body is told.
type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every answer.
pub struct ResponseBody {
    body: UnsyncBoxBody<Bytes, BodyError>,
    /// The request of an API key that lasts as long as this does.
    key_request: Option<KeyRequest>,
    /// What its request counts for, as long as this lasts.
    counted: Counted,
    /// Behind the body: what that leaves at its end is in the request's line.
    open: Option<OpenRequest>,
}

impl ResponseBody {
    /// A body whose end nobody is told.
    pub fn new(body: impl Body<Data = Bytes, Error: Into<BodyError>> + Send + 'static) -> ResponseBody {
        let body = body.map_err(Into::into).boxed_unsync();
        ResponseBody { body, key_request: None, counted: (None, AddressPlace::NONE), open: None }
    }

    /// Has the API key's request last as long as the body.
    pub fn hold(&mut self, key_request: Option<KeyRequest>) {
        self.key_request = key_request;
    }

    /// Has the request count as long as the body lasts.
    pub fn count(&mut self, counted: Counted) {
        self.counted = counted;
    }

    /// Has the end of the body be the end of that request.
    pub fn ends(&mut self, open: OpenRequest) {
        self.open = Some(open);
    }
}

impl Default for ResponseBody {
    fn default() -> ResponseBody {
        ResponseBody::new(Full::default())
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let (Poll::Ready(frame), Some(open)) = (&polled, &mut this.open) {
            match frame {
                Some(Ok(frame)) => open.sent(frame.data_ref().map_or(0, Bytes::len)),
                Some(Err(_)) => open.ended(BodyEnd::Cut),
                None => open.ended(BodyEnd::Complete),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Tells SDKs whether to try again, over their own rules.
pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An answer of one piece.
pub fn full(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::new(Full::new(body.into())));
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
    event_stream(StreamBody::new(frames.map(|bytes| Ok::<_, std::convert::Infallible>(Frame::data(bytes)))))
}

/// An answer that streams events, with the headers that keep proxies from buffering it.
pub fn event_stream(
    body: impl Body<Data = Bytes, Error: Into<BodyError>> + Send + 'static,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold events back
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The answer, at whose end the request's line is written. `head`: its body is not sent.
pub fn told_at_end(
    mut response: Response<ResponseBody>,
    open: OpenRequest,
    head: bool,
) -> Response<ResponseBody> {
    let status = response.status();
    open.record().set_status(status.as_u16());
    let bodiless = head || matches!(status.as_u16(), 101 | 204 | 304);
    let length = || {
        let header = response.headers().get(header::CONTENT_LENGTH);
        let header = header.and_then(|value| value.to_str().ok()?.parse().ok());
        response.body().size_hint().exact().or(header)
    };
    let length = if bodiless { Some(0) } else { length() };
    response.body_mut().ends(open.of_length(length));
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

/// Logs why a client is told an error. That it is told is in the request's own line.
pub fn log(error: &Error) {
    let (status, code) = (error.status(), error.label());
    let (detail, quoted) = match error.detail.as_deref() {
        Some(Detail::Own(text)) => (Some(text.as_str()), None),
        Some(Detail::Quoted(text)) => (None, Some(text.as_str())),
        None => (None, None),
    };
    tracing::debug!(status, code, detail, "why it failed");
    // an upstream may repeat the prompt in its words, and we what a field has
    let param = error.param.as_deref();
    tracing::debug!(target: CONTENTS, status, code, param, error = error.message, quoted, "what was said");
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
