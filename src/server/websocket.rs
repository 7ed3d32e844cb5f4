//! Owns the Responses API over WebSocket: the handshake of `GET /v1/responses`, after which the connection is served by a
//! task of its own. It must not answer an event.

pub mod client_event;
mod clock;
mod connection;
pub mod event_cutter;
mod frame_boundary;
mod lanes;
mod meter;
pub mod server_event;
mod socket;
mod steering;

use std::sync::Arc;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use rejoinder_core::error::{Error, Kind};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::Instrument;

use self::connection::{Connection, Opened};
use self::meter::Meter;
use self::socket::Socket;
use super::app::App;
use super::reply::{self, ResponseBody};
pub use super::socket_turns::Lane;
use crate::panics::Caught;
use crate::telemetry::{OpenRequest, RequestRecord};

/// The version of the protocol, the only one there is.
const VERSION: &str = "13";
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Takes a request for a WebSocket. `id`: of the request, and the beginning of those of its creates.
///
/// # Errors
/// 426 where WebSocket is not offered, or asked for in another version; 400 for a handshake that is none; 503 while the
/// process drains.
pub(super) fn upgrade(
    app: &Arc<App>,
    mut request: Request<Incoming>,
    id: &HeaderValue,
    record: &Arc<RequestRecord>,
) -> Result<Response<ResponseBody>, Error> {
    let over_http2 = request.extensions().get::<Protocol>().map(|protocol| protocol.as_str() == "websocket");
    let asked = over_http2.unwrap_or_else(|| {
        let upgrades = request.method() == Method::GET && request.version() == Version::HTTP_11;
        upgrades && names(request.headers(), &header::UPGRADE, "websocket")
    });
    if !app.config.websocket.enabled || !asked {
        let message = "WebSocket is not offered here; use POST with \"stream\": true.";
        return Err(Error::new(Kind::UpgradeRequired, message));
    }
    check_version(request.headers())?;
    let accept = if over_http2.is_some() { None } else { Some(accept_key(request.headers())?) };
    if app.draining.is_cancelled() {
        return Err(Error::new(Kind::ShuttingDown, "The server is shutting down."));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let path = request.uri().path().to_owned();
    let (address, _place) = (record.address(), request.extensions_mut().remove());
    let headers = std::mem::take(request.headers_mut());
    let opened = Opened { headers, id: id.clone(), path, address, _place };
    record.upgraded();
    let open = OpenRequest::new(record.clone());
    let task = serve(app.clone(), upgraded, opened, open).instrument(tracing::Span::current());
    app.sockets.spawn(task);
    let mut response = reply::full(StatusCode::OK, "", "");
    let headers = response.headers_mut();
    headers.clear();
    if let Some(accept) = accept {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, WEBSOCKET);
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    Ok(response)
}

async fn serve(app: Arc<App>, upgraded: hyper::upgrade::OnUpgrade, opened: Opened, mut open: OpenRequest) {
    let stream = match upgraded.await {
        Ok(stream) => TokioIo::new(stream),
        Err(error) => {
            tracing::debug!(%error, "a connection did not become a WebSocket");
            return;
        }
    };
    app.metrics.open_websockets.inc();
    let (most, send_timeout) = (app.config.max_body_bytes, app.config.send_timeout);
    let socket = Socket::new(Meter::new(stream, send_timeout), most, app.budget.clone()).await;
    let served = Caught::new(Box::pin(Connection::new(app.clone(), socket, opened).run())).await;
    app.metrics.open_websockets.dec();
    match served {
        Ok(end) => open.ended(end),
        Err(panicked) => panicked.log("a WebSocket connection"),
    }
}

fn bad(message: &str) -> Error {
    Error::new(Kind::BadRequest, message).code_as("invalid_handshake")
}

fn check_version(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == VERSION) {
        true => Ok(()),
        false => Err(bad("A WebSocket handshake needs the header Sec-WebSocket-Version: 13.")),
    }
}

/// What the client finds its key in.
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, Error> {
    if !names(headers, &header::CONNECTION, "upgrade") {
        return Err(bad("A WebSocket handshake needs the header Connection: Upgrade."));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let key = key.ok_or_else(|| {
        bad("A WebSocket handshake needs the header Sec-WebSocket-Key with 16 bytes in base64.")
    })?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|_| Error::new(Kind::Internal, "A WebSocket key has no answer."))
}

/// Whether one of a header's words is that one.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|given| given.trim().eq_ignore_ascii_case(word))
}
