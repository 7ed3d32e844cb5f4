//! Owns every path that is not ours, if it is let through: it goes upstream and back unchanged, both ways streamed, so that rejoinder can
//! stand at the server's own address. It must not look into a body.

use super::paths::{plain, without_client_prefix};
use futures::TryStreamExt;
use http::header::{self, HeaderName};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as _, Incoming};
use rejoinder_core::error::Error;

use super::app::App;
use super::reply::ResponseBody;
use crate::telemetry::RequestRecord;

/// Headers that concern one connection alone (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Which page may read an answer is told by `cors.origins`, not by the upstream.
const CORS: [HeaderName; 7] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("access-control-allow-private-network"),
];

pub async fn answer(
    app: &App,
    request: Request<Incoming>,
    record: &RequestRecord,
) -> Result<Response<ResponseBody>, Error> {
    let (parts, body) = request.into_parts();
    let path = without_client_prefix(parts.uri.path());
    app.paths.check(&parts.method, &plain(path)?)?;
    let query = parts.uri.query();
    let target = query.map_or_else(|| path.to_owned(), |query| [path, "?", query].concat());
    let key = app.client_keys.of(&parts.headers);
    let requester = App::requester(key.as_deref(), &app.keyring.caller(&parts.headers));
    let mut headers = end_to_end(parts.headers);
    // an upstream that asks the same question would refuse whom we let in
    headers.remove(header::ORIGIN);
    for (name, value) in record.ask("pass") {
        headers.insert(name, value);
    }
    let body = (!body.is_end_stream()).then(|| body.into_data_stream());
    let silence = app.config.body_timeout;
    let answer = app.upstream.pass(parts.method, &target, headers, body, silence, requester).await?;
    record.set_upstream(answer.upstream(), None);
    let mut response = Response::new(());
    *response.status_mut() = answer.response.status();
    *response.headers_mut() = end_to_end(answer.response.headers().clone());
    for name in &CORS {
        response.headers_mut().remove(name);
    }
    let frames = answer.into_stream().map_ok(Frame::data).inspect_err(|cause| {
        tracing::debug!(cause, "a passed-through answer was cut off");
    });
    Ok(response.map(|()| ResponseBody::new(StreamBody::new(frames))))
}

fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers
}
