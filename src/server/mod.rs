//! Owns the sockets: listening, accepting, and the drain at the end. It must not look into a request.

mod admin;
mod body;
mod client;
mod compact;
mod conversation;
mod conversations;
mod create;
mod http2;
mod job;
mod models;
mod origin;
mod passthrough;
mod query;
mod reload;
mod reply;
mod routes;
mod runs;
mod state;
mod stored;
mod tokens;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use pin_project_lite::pin_project;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

use crate::bell::Bell;
use crate::budget::Budget;
use crate::config::{Config, Resolved};
use crate::descriptors::{self, Use};
use crate::keyring::Keyring;
use crate::signals::Stop;
use crate::store::{self, Echoes, Group, Store};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
use client::ClientStream;
use origin::Callers;
use passthrough::Paths;
use reply::ResponseBody;
use runs::Runs;

/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time until another connection is accepted, when there was no file descriptor for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest wait for servers to save their slots, at the very end.
const SAVING: Duration = Duration::from_secs(20);
/// How an HTTP/2 connection begins, and no HTTP/1 request.
const PREFACE: &[u8] = b"PRI";
/// What is left for streams to say that they were cut off, once the drain's time is over.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What every request handler needs.
pub(crate) struct App {
    config: Config,
    upstream: Upstream,
    /// Bytes of requests that are held.
    budget: Arc<Budget>,
    metrics: Metrics,
    keyring: Arc<Keyring>,
    store: Arc<dyn Store>,
    echoes: Echoes,
    runs: Runs,
    /// Who may call `listen`.
    callers: Callers,
    /// Who may call `admin`.
    admin_callers: Callers,
    /// Which paths are passed on.
    paths: Paths,
    /// Cancelled when open streams must end.
    cut: CancellationToken,
    /// Cancelled when no new work is wanted.
    draining: CancellationToken,
}

/// What makes an id unique: letters and digits that come in the order of time.
fn seed() -> String {
    seed_in(None)
}

/// One whose end names a group. What is before it is a time and a counter, unique in this process and random otherwise.
fn seed_in(group: Option<Group>) -> String {
    let mut bytes = uuid::Uuid::now_v7().into_bytes();
    if let (Some(group), Some(end)) = (group, bytes.last_chunk_mut()) {
        *end = group;
    }
    uuid::Uuid::from_bytes(bytes).simple().encode_lower(&mut uuid::Uuid::encode_buffer()).to_owned()
}

/// Bytes from which on a buffer is mapped by itself, so that its memory goes back when it is freed. To map and unmap costs
/// half as much again as all else that is done to a request, and smaller ones are more often wanted again.
const LARGE_BUFFER: usize = 16 << 20;
/// Bytes of freed memory that are kept for the next request.
const KEPT: usize = 64 << 20;

/// Serves until SIGTERM or SIGINT, then drains; a second signal ends at once.
///
/// # Errors
/// What kept it from starting.
pub fn run(resolved: Resolved) -> Result<(), String> {
    heap::keep_up_to(LARGE_BUFFER, KEPT);
    heap::share_among_threads(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime =
        builder.enable_all().build().map_err(|error| format!("cannot start the runtime: {error}"))?;
    let result = runtime.block_on(serve(resolved));
    runtime.shutdown_background();
    result
}

async fn serve(resolved: Resolved) -> Result<(), String> {
    descriptors::raise();
    let mut signals = Stop::new().map_err(|error| format!("cannot handle signals: {error}"))?;
    let listener = client::listen(resolved.config.listen)?;
    let admin = client::listen(resolved.config.admin)?;
    let address = |listener: &TcpListener| listener.local_addr().map_err(|error| error.to_string());
    let (own, own_admin) = (address(&listener)?, address(&admin)?);
    let metrics = Metrics::new();
    let (bytes, timeout) = (resolved.config.max_buffered_bytes, resolved.config.buffer_timeout);
    let budget = Budget::new(bytes, timeout, metrics.over_capacity.clone());
    let upstream = Upstream::new(&resolved, &metrics.routing)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %own,
        admin = %own_admin,
        "rejoinder is listening"
    );
    upstream.watch(own.port());
    tokio::spawn(reload::watch(upstream.clone(), resolved.clone()));
    let (hosts, origins) = (&resolved.config.allowed_hosts, &resolved.config.cors.origins);
    let callers = Callers::of_api(own, hosts, origins);
    if callers.any_origin() {
        tracing::warn!(
            "cors.origins has \"*\": every web page that is opened where this address is reached may use it"
        );
    }
    let admin_callers = Callers::of_admin(own_admin, hosts);
    let store = store::open(&resolved)?;
    let app = Arc::new(App {
        keyring: resolved.keyring,
        runs: Runs::new(&resolved.config.store),
        store,
        callers,
        admin_callers,
        paths: Paths::new(&resolved.config.passthrough.paths),
        echoes: Echoes::default(),
        config: resolved.config,
        upstream,
        budget,
        metrics,
        cut: CancellationToken::new(),
        draining: CancellationToken::new(),
    });

    tokio::spawn(sweep(app.clone()));
    tokio::spawn(crate::heavy::give_memory_back());
    // the admin port answers until the very end: a probe must see the drain
    tokio::spawn(accept(admin, app.clone(), true, CancellationToken::new(), |app, request| async move {
        admin::answer(&app, &request)
    }));
    let api = accept(listener, app.clone(), false, app.draining.clone(), |app, request| async move {
        routes::answer(app, request).await
    });
    let api = tokio::spawn(api);
    signals.next().await;
    drain(&app, api, &mut signals).await;
    tokio::select! {
        () = app.upstream.save_slots() => {}
        () = signals.next() => {}
        () = tokio::time::sleep(SAVING) => {}
    }
    Ok(())
}

/// Has the store remove what has expired, for ever.
async fn sweep(app: Arc<App>) {
    let pause = (app.config.store.ttl / 4).clamp(Duration::from_millis(100), Duration::from_secs(60));
    loop {
        tokio::time::sleep(pause).await;
        app.store.sweep().await;
        app.echoes.sweep();
    }
}

/// Lets what runs end in its own time, then in ours.
async fn drain(app: &App, api: tokio::task::JoinHandle<TaskTracker>, signals: &mut Stop) {
    tracing::info!(open_streams = app.metrics.open_streams.get(), "draining; a second signal ends at once");
    app.draining.cancel();
    let Ok(connections) = api.await else { return };
    connections.close();
    let idle = async {
        tokio::join!(connections.wait(), app.runs.idle());
    };
    tokio::pin!(idle);
    tokio::select! {
        () = &mut idle => return,
        () = signals.next() => return,
        () = tokio::time::sleep(app.config.drain_timeout) => {}
    }
    tracing::warn!(
        open_streams = app.metrics.open_streams.get(),
        "drain_timeout is over, ending open streams"
    );
    app.cut.cancel();
    tokio::select! {
        () = &mut idle => {}
        () = signals.next() => {}
        () = tokio::time::sleep(LAST_WORDS) => {}
    }
}

/// Accepts until `stop`; returns the connections that are still open. `reserve`: whether they may have the file descriptors
/// that are kept for what must go on.
async fn accept<H, F>(
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
        // others wait in the kernel's queue
        while full && !stop.is_cancelled() {
            full = !descriptors::available(Use::Client);
            if full {
                descriptors::lacking();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return connections,
        };
        let stream: TcpStream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                match descriptors::is_lack(&error) {
                    true => descriptors::lacking(),
                    false => tracing::warn!(%error, "cannot accept a connection"),
                }
                // busy looping would not help
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
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
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });
        let (http1, stop) = (http1.clone(), stop.clone());
        connections.spawn(async move {
            let mut first = [0; PREFACE.len()];
            let first = tokio::select! {
                biased;
                read = tokio::time::timeout(HEAD_TIMEOUT, stream.peek(&mut first)) => match read {
                    Ok(Ok(read)) => first.get(..read).unwrap_or_default(),
                    _ => return,
                },
                () = stop.cancelled() => return,
            };
            let begins_http2 = PREFACE.starts_with(first);
            let stream = TokioIo::new(ClientStream::new(stream, send_timeout));
            let ended = if begins_http2 {
                Box::pin(http2::serve(stream, service, stop, send_timeout)).await
            } else {
                // what looks for HTTP/2 itself doubles the read buffer for as long as the connection lives
                let connection = http1.serve_connection(stream, service);
                UntilStopped::new(connection, stop).await.map_err(|error| error.to_string())
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }
}

pin_project! {
    /// Serves a connection to its end; once `stopped` is ready, to that of the request that it has.
    struct UntilStopped<C> {
        #[pin]
        connection: C,
        stopped: Pin<Box<WaitForCancellationFutureOwned>>,
        bell: Bell,
    }
}

impl<C> UntilStopped<C> {
    fn new(connection: C, stop: CancellationToken) -> UntilStopped<C> {
        UntilStopped { connection, stopped: Box::pin(stop.cancelled_owned()), bell: Bell::new() }
    }
}

impl<C: GracefulConnection> UntilStopped<C> {
    fn graceful_shutdown(self: Pin<&mut Self>) {
        self.project().connection.graceful_shutdown();
    }
}

impl<C: GracefulConnection> Future for UntilStopped<C> {
    type Output = Result<(), C::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.bell.rang(cx)
            && this.stopped.as_mut().poll(&mut Context::from_waker(&this.bell.waker)).is_ready()
        {
            this.connection.as_mut().graceful_shutdown();
        }
        this.connection.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Those that end alike differ before it, also when many are made within one millisecond.
    #[test]
    fn ids_of_one_group_are_unique() {
        let made = || (0..20_000).map(|_| seed_in(Some([0xab; 4]))).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(made)).collect();
        let made: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(made.iter().all(|seed| seed.len() == 32 && seed.ends_with("abababab")));
        assert_eq!(made.iter().collect::<HashSet<_>>().len(), 80_000);
        assert_ne!(seed()[24..], seed()[24..]);
    }
}
