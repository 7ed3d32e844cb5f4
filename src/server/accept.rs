//! Owns connections: accepting them, which protocol they speak, and their end. It must not look into a request.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rejoinder_core::error::{Error, Kind};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::unconstrained;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::app::App;
use super::client_socket::{ClientSocket, ClientStream};
use super::graceful_connection::{BUFFER, GracefulConnection, HEAD_TIMEOUT};
use super::http2;
use super::reply::{self, ResponseBody};
use crate::descriptors::{self, Use};

/// Time until another connection is accepted, when there was no file descriptor for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time for the first bytes of a connection that was opened just before the drain: whoever connects has a request to send,
/// and many clients do not send it again elsewhere.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// How an HTTP/2 connection begins, and no HTTP/1 request.
const PREFACE: &[u8] = b"PRI";
/// How a TLS connection begins, and no request.
const TLS_HANDSHAKE: u8 = 22;
/// Most bytes that wait, encrypted, for a client to take them.
const TLS_BUFFER: usize = 32 << 10;

/// Which of the two addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// `listen`.
    Api,
    /// `admin`, whose connections may have the file descriptors that are kept for what must go on.
    Admin,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    /// Whether it showed a certificate of `tls.client_ca`.
    pub has_certificate: bool,
}

/// What the connections of a port have in common.
struct Shared<H> {
    app: Arc<App>,
    port: Port,
    http1: http1::Builder,
    stop: CancellationToken,
    handle: H,
}

/// A connection whose client may send requests.
struct Opened {
    stream: ClientStream,
    peer: Peer,
    is_http2: bool,
}

/// Accepts until `stop`; returns the connections that are still open.
pub(super) async fn accept<H, F>(
    listener: TcpListener,
    app: Arc<App>,
    port: Port,
    stop: CancellationToken,
    handle: H,
) -> TaskTracker
where
    H: Fn(Arc<App>, Peer, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let connections = TaskTracker::new();
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER);
    let shared = Arc::new(Shared { app, port, http1, stop, handle });
    let mut full = false;
    loop {
        let stream = tokio::select! {
            stream = next(&listener, full) => stream,
            // what connected before waits in the kernel, and would be reset as the socket closes
            () = shared.stop.cancelled() => match unconstrained(listener.accept()).now_or_never() {
                Some(Ok((stream, _))) => stream,
                _ => return connections,
            },
        };
        if port == Port::Api {
            full = !descriptors::within(&stream, Use::Client);
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        connections.spawn(serve(shared.clone(), stream));
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

/// Serves one connection to its end, or to that of the requests that it has at `stop`.
async fn serve<H, F>(shared: Arc<Shared<H>>, socket: TcpStream)
where
    H: Fn(Arc<App>, Peer, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let opened = tokio::select! {
        biased;
        opened = tokio::time::timeout(HEAD_TIMEOUT, open(&shared, socket)) => opened,
        () = first_request_is_late(&shared.stop) => return,
    };
    let Opened { stream, peer, is_http2 } = match opened {
        Ok(Ok(Some(opened))) => opened,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection ended before its first request");
            return;
        }
        Err(_) => {
            tracing::debug!("a connection was silent or did not end its handshake in time");
            return;
        }
    };
    let (stream, stop) = (TokioIo::new(stream), shared.stop.clone());
    let send_timeout = shared.app.config.send_timeout;
    let http1 = shared.http1.clone();
    let service = service_fn(move |request| {
        // 22 KB that the connection would otherwise hold for as long as it lives
        let answer = Box::pin((shared.handle)(shared.app.clone(), peer, request));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let ended = if is_http2 {
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

/// Finds out which protocol a connection speaks, by its first bytes or its TLS handshake; `None` where it was answered
/// already.
async fn open<H>(shared: &Shared<H>, socket: TcpStream) -> io::Result<Option<Opened>> {
    let app = &shared.app;
    let mut first = [0; PREFACE.len()];
    let read = socket.peek(&mut first).await?;
    let first = first.get(..read).unwrap_or_default();
    let begins_http2 = PREFACE.starts_with(first);
    let config = match (&app.tls, shared.port) {
        (Some(tls), Port::Api) => Some(tls.listen()),
        (Some(tls), Port::Admin) if app.config.tls.admin => Some(tls.admin()),
        _ => None,
    };
    let is_tls = first.first() == Some(&TLS_HANDSHAKE);
    let socket = ClientSocket::new(socket, app.config.send_timeout);
    match config {
        None => {
            let peer = Peer { has_certificate: false };
            Ok(Some(Opened { stream: Either::Left(socket), peer, is_http2: begins_http2 }))
        }
        Some(config) if is_tls => Box::pin(handshake(config, socket)).await.map(Some),
        Some(_) => {
            Box::pin(refuse_plain(shared.http1.clone(), socket)).await;
            Ok(None)
        }
    }
}

async fn handshake(config: Arc<ServerConfig>, socket: ClientSocket) -> io::Result<Opened> {
    let mut stream = TlsAcceptor::from(config).accept(socket).await?;
    let session = stream.get_mut().1;
    session.set_buffer_limit(Some(TLS_BUFFER));
    let peer = Peer { has_certificate: session.peer_certificates().is_some() };
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    Ok(Opened { stream: Either::Right(Box::new(stream)), peer, is_http2 })
}

/// Answers a request that came without TLS to a port that takes nothing else.
async fn refuse_plain(mut http1: http1::Builder, socket: ClientSocket) {
    let service = service_fn(|_: Request<Incoming>| async {
        let message =
            "A plain HTTP request was sent to a port that takes HTTPS: call https:// in place of http://.";
        let error = Error::new(Kind::BadRequest, message).code_as("https_required");
        Ok::<_, Infallible>(reply::error(&error))
    });
    let stream = TokioIo::new(ClientStream::Left(socket));
    let ended = http1.keep_alive(false).serve_connection(stream, service).await;
    tracing::debug!(?ended, "a connection without TLS was refused");
}
