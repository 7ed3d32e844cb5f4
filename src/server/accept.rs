//! Owns connections: accepting them, which protocol they speak, and their end. It must not look into a request.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::app::App;
use super::client_socket::ClientStream;
use super::graceful_connection::{GracefulConnection, HEAD_TIMEOUT};
use super::http2;
use super::reply::ResponseBody;
use crate::descriptors::{self, Use};

/// Time until another connection is accepted, when there was no file descriptor for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time for the first bytes of a connection that was opened just before the drain: whoever connects has a request to send,
/// and many clients do not send it again elsewhere.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// How an HTTP/2 connection begins, and no HTTP/1 request.
const PREFACE: &[u8] = b"PRI";

/// Accepts until `stop`; returns the connections that are still open. `reserve`: whether they may have the file descriptors
/// that are kept for what must go on.
pub(super) async fn accept<H, F>(
    listener: TcpListener,
    app: Arc<App>,
    reserve: bool,
    stop: CancellationToken,
    handle: H,
) -> TaskTracker
where
    H: Fn(Arc<App>, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let connections = TaskTracker::new();
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let send_timeout = app.config.send_timeout;
    let mut full = false;
    loop {
        let stream = tokio::select! {
            stream = next(&listener, full) => stream,
            () = stop.cancelled() => return connections,
        };
        if !reserve {
            full = !descriptors::within(&stream, Use::Client);
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let app = app.clone();
        let service = service_fn(move |request| {
            // 22 KB that the connection would otherwise hold for as long as it lives
            let answer = Box::pin(handle(app.clone(), request));
            async move { Ok::<_, Infallible>(answer.await) }
        });
        connections.spawn(serve(stream, http1.clone(), service, stop.clone(), send_timeout));
    }
}

/// The next connection. `full`: the last one took the last file descriptor that clients may have, so that others wait in
/// the kernel's queue until one is free. May be dropped at any time: no connection is lost.
async fn next(listener: &TcpListener, full: bool) -> TcpStream {
    if full {
        while !descriptors::available(Use::Client) {
            descriptors::lacking();
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if descriptors::is_lack(&error) => descriptors::lacking(),
            Err(error) => tracing::warn!(%error, "cannot accept a connection"),
        }
        // busy looping would not help
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Waits until the drain is so old that no first request is on its way any more.
async fn first_request_is_late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(FIRST_REQUEST).await;
}

/// Serves one connection, by the protocol that its first bytes speak, to its end or to that of the requests that it has
/// at `stop`.
async fn serve<S>(
    stream: TcpStream,
    http1: http1::Builder,
    service: S,
    stop: CancellationToken,
    send_timeout: Duration,
) where
    S: HttpService<Incoming, ResBody = ResponseBody, Error = Infallible>,
    S::Future: Send + 'static,
{
    let mut first = [0; PREFACE.len()];
    let first = tokio::select! {
        biased;
        read = tokio::time::timeout(HEAD_TIMEOUT, stream.peek(&mut first)) => match read {
            Ok(Ok(read)) => first.get(..read).unwrap_or_default(),
            _ => return,
        },
        () = first_request_is_late(&stop) => return,
    };
    let begins_http2 = PREFACE.starts_with(first);
    let stream = TokioIo::new(ClientStream::new(stream, send_timeout));
    let ended = if begins_http2 {
        Box::pin(http2::serve(stream, service, stop, send_timeout)).await
    } else {
        // what looks for HTTP/2 itself doubles the read buffer for as long as the connection lives
        let connection = http1.serve_connection(stream, service).with_upgrades();
        GracefulConnection::new(connection, stop).await.map_err(|error| error.to_string())
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}
