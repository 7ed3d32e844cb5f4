//! Owns connections: accepting them, which protocol they speak, and their end. It must not look into a request.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
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
use super::client_address::Peer;
use super::client_limits::{AddressPlace, Place};
use super::client_socket::{ClientSocket, ClientStream};
use super::graceful_connection::{GracefulConnection, HEAD_TIMEOUT};
use super::rarely::Rarely;
use super::reply::{self, ResponseBody};
use super::{http2, proxy_protocol};
use crate::config::ProxyProtocol;
use crate::descriptors::{self, Use};

/// Time until another connection is accepted, when there was no file descriptor for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time for the first bytes of a connection that was opened just before the drain: whoever connects has a request to send,
/// and many clients do not send it again elsewhere.
const FIRST_REQUEST: Duration = Duration::from_secs(2);

/// Least bytes of an HTTP/1 connection's buffers, which take a request's head.
const LEAST_BUFFER: usize = 32 << 10;

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

/// What the connections of a port have in common.
struct Shared<H> {
    app: Arc<App>,
    port: Port,
    http1: http1::Builder,
    stop: CancellationToken,
    log: Rarely,
    handle: H,
}

/// A connection that was accepted.
struct Accepted {
    socket: TcpStream,
    from: IpAddr,
    /// What it counts for among all of its port, where that has a limit.
    place: Option<Place>,
}

/// A connection whose client may send requests.
struct Opened {
    stream: ClientStream,
    peer: Peer,
    is_http2: bool,
}

/// Why a connection ended before its first request.
struct Failure {
    /// For metrics; `None` where it was counted by its limit.
    kind: Option<&'static str>,
    cause: io::Error,
}

impl From<io::Error> for Failure {
    fn from(cause: io::Error) -> Failure {
        Failure { kind: Some("io"), cause }
    }
}

/// What makes an error a failure of that kind.
fn of_kind(kind: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |cause| Failure { kind: Some(kind), cause }
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
    http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    http1.max_buf_size(app.config.stream_buffer_bytes.max(LEAST_BUFFER));
    let shared = Arc::new(Shared { app, port, http1, stop, log: Rarely::default(), handle });
    let mut full = false;
    loop {
        let next = async {
            if port == Port::Api {
                shared.app.limits.room(&shared.app.metrics).await;
            }
            next(&listener, full).await
        };
        let (socket, from) = tokio::select! {
            next = next => next,
            // what connected before waits in the kernel, and would be reset as the socket closes
            () = shared.stop.cancelled() => match unconstrained(listener.accept()).now_or_never() {
                Some(Ok((socket, from))) => (socket, from.ip().to_canonical()),
                _ => return connections,
            },
        };
        let mut place = None;
        if port == Port::Api {
            full = !descriptors::within(&socket, Use::Client);
            place = shared.app.limits.connection();
        }
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        connections.spawn(serve(shared.clone(), Accepted { socket, from, place }));
    }
}

/// The next connection. `full`: the last one took the last file descriptor that clients may have, so that others wait in
/// the kernel's queue until one is free. May be dropped at any time: no connection is lost.
async fn next(listener: &TcpListener, full: bool) -> (TcpStream, IpAddr) {
    if full {
        while !descriptors::available(Use::Client) {
            descriptors::lacking();
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
    loop {
        match listener.accept().await {
            Ok((socket, from)) => return (socket, from.ip().to_canonical()),
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
async fn serve<H, F>(shared: Arc<Shared<H>>, accepted: Accepted)
where
    H: Fn(Arc<App>, Peer, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let opened = tokio::select! {
        biased;
        opened = tokio::time::timeout(HEAD_TIMEOUT, open(&shared, accepted)) => opened,
        () = first_request_is_late(&shared.stop) => return,
    };
    let Opened { stream, peer, is_http2 } = match opened {
        Ok(Ok(Some(opened))) => opened,
        Ok(Ok(None)) => return,
        Ok(Err(failure)) => return shared.failed(&failure),
        Err(_) => return shared.failed(&of_kind("timed_out")(io::ErrorKind::TimedOut.into())),
    };
    let (stream, stop) = (TokioIo::new(stream), shared.stop.clone());
    let limits = http2::Limits::of(&shared.app.config);
    let http1 = shared.http1.clone();
    let service = service_fn(move |request| {
        // 22 KB that the connection would otherwise hold for as long as it lives
        let answer = Box::pin((shared.handle)(shared.app.clone(), peer, request));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let ended = if is_http2 {
        Box::pin(http2::serve(stream, service, stop, limits)).await
    } else {
        // what looks for HTTP/2 itself doubles the read buffer for as long as the connection lives
        let connection = http1.serve_connection(stream, service).with_upgrades();
        GracefulConnection::new(connection, stop).await.map_err(|error| error.to_string())
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

impl<H> Shared<H> {
    /// Counts and logs a connection that ended before its first request.
    fn failed(&self, Failure { kind, cause }: &Failure) {
        let Some(kind) = *kind else { return };
        self.app.metrics.connection_failed(kind);
        match kind {
            "proxy_header" | "untrusted_proxy" if self.log.may_say(kind) => {
                tracing::warn!(kind, %cause, "a connection was closed (proxy_protocol)");
            }
            _ => tracing::debug!(kind, %cause, "a connection ended before its first request"),
        }
    }
}

/// Finds out who is at the other end and which protocol it speaks; `None` where nothing more is to be done.
async fn open<H>(shared: &Shared<H>, accepted: Accepted) -> Result<Option<Opened>, Failure> {
    let app = &shared.app;
    let Accepted { mut socket, from, place } = accepted;
    let (peer, address_place) = match shared.port {
        Port::Api => match identified(app, &mut socket, from).await? {
            Some(found) => found,
            None => return Ok(None),
        },
        Port::Admin => (Peer { address: from, forwards: false, has_certificate: false }, AddressPlace::NONE),
    };
    let mut first = [0; PREFACE.len()];
    let read = socket.peek(&mut first).await?;
    let first = first.get(..read).unwrap_or_default();
    let begins_http2 = PREFACE.starts_with(first);
    let Some(begin) = first.first() else { return Ok(None) };
    let config = match (&app.tls, shared.port) {
        (Some(tls), Port::Api) => Some(tls.listen()),
        (Some(tls), Port::Admin) if app.config.tls.admin => Some(tls.admin()),
        _ => None,
    };
    let socket = ClientSocket::new(socket, app.config.send_timeout, (place, address_place));
    match config {
        None => Ok(Some(Opened { stream: Either::Left(socket), peer, is_http2: begins_http2 })),
        Some(config) if *begin == TLS_HANDSHAKE => {
            Box::pin(handshake(config, socket, peer)).await.map(Some).map_err(of_kind("tls"))
        }
        Some(_) => {
            app.metrics.connection_failed("plain_http");
            Box::pin(refuse_plain(shared.http1.clone(), socket)).await;
            Ok(None)
        }
    }
}

/// Who is at the other end: whoever has its address, or whom a trusted proxy names ahead of the connection. `None` where it
/// went without a word.
async fn identified(
    app: &App,
    socket: &mut TcpStream,
    from: IpAddr,
) -> Result<Option<(Peer, AddressPlace)>, Failure> {
    let mut address = from;
    if app.config.proxy_protocol == ProxyProtocol::Required {
        if !app.proxies.contains(from) {
            let cause = io::Error::other(format!("{from} is not in trusted_proxies"));
            return Err(of_kind("untrusted_proxy")(cause));
        }
        // as a load balancer's health check does
        if socket.peek(&mut [0]).await? == 0 {
            return Ok(None);
        }
        let named = Box::pin(proxy_protocol::read(socket)).await.map_err(of_kind("proxy_header"))?;
        address = named.map_or(from, |named| named.to_canonical());
    }
    let forwards = app.proxies.contains(address);
    let place = match forwards {
        // it has the requests of many
        true => AddressPlace::NONE,
        false => app
            .limits
            .address(address, &app.metrics)
            .ok_or_else(|| Failure { kind: None, cause: io::ErrorKind::ConnectionRefused.into() })?,
    };
    Ok(Some((Peer { address, forwards, has_certificate: false }, place)))
}

async fn handshake(config: Arc<ServerConfig>, socket: ClientSocket, peer: Peer) -> io::Result<Opened> {
    let mut stream = TlsAcceptor::from(config).accept(socket).await?;
    let session = stream.get_mut().1;
    session.set_buffer_limit(Some(TLS_BUFFER));
    let peer = Peer { has_certificate: session.peer_certificates().is_some(), ..peer };
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
