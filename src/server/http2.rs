//! Owns HTTP/2 connections of clients: what no option of the HTTP library ends. A stream whose client does not take what
//! is sent is reset after `send_timeout`, since flow control holds it back while its connection goes on; a
//! connection without streams is closed. It must not look into a request.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pin_project_lite::pin_project;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client_socket::ClientStream;
use super::graceful_connection::{GracefulConnection, HEAD_TIMEOUT};
use super::reply::ResponseBody;
use crate::config::Config;

/// Silence after which a client is asked by a PING whether it is there.
const PING: Duration = Duration::from_secs(30);

thread_local! {
    /// What the last look at a response body brought, since a stream of this thread was last polled: something to send
    /// (true), or nothing yet.
    static BODY: Cell<Option<bool>> = const { Cell::new(None) };
}

/// What a stream may hold, and for how long.
#[derive(Clone, Copy)]
pub struct Limits {
    send_timeout: Duration,
    /// Bytes that wait for the client's window.
    send_buffer: usize,
}

impl Limits {
    pub fn of(config: &Config) -> Limits {
        Limits { send_timeout: config.send_timeout, send_buffer: config.stream_buffer_bytes }
    }
}

/// Serves a connection that begins as HTTP/2 does, until it ends or `stop` and the streams that it has.
///
/// # Errors
/// What ended it, in words.
pub async fn serve<S>(
    stream: TokioIo<ClientStream>,
    service: S,
    stop: CancellationToken,
    limits: Limits,
) -> Result<(), String>
where
    S: HttpService<Incoming, ResBody = ResponseBody, Error = Infallible>,
    S::Future: Send + 'static,
{
    let Limits { send_timeout, send_buffer } = limits;
    let streams = Streams { running: Arc::new(watch::Sender::new(0)), send_timeout };
    let mut either = auto::Builder::new(streams.clone());
    either.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    // WebSockets (RFC 8441)
    either.http2().enable_connect_protocol().max_send_buf_size(send_buffer);
    either.http2().timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(send_timeout);
    let service = std::sync::Mutex::new(service);
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = service.lock().unwrap_or_else(std::sync::PoisonError::into_inner).call(request);
        async move { answer.await.map(|response: Response<ResponseBody>| response.map(Sending::new)) }
    });
    let connection = either.serve_connection_with_upgrades(stream, service).into_owned();
    let mut connection = pin!(GracefulConnection::new(connection, stop));
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = streams.idle(HEAD_TIMEOUT) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            // what ended streams left unsent, and the client does not take, is let go after that
            timeout(send_timeout, connection).await.unwrap_or(Ok(()))
        }
    };
    ended.map_err(|error| error.to_string())
}

/// The streams of one connection, each run in a task of its own.
#[derive(Clone)]
struct Streams {
    running: Arc<watch::Sender<usize>>,
    send_timeout: Duration,
}

impl Streams {
    /// Waits until there was none for that long.
    async fn idle(&self, limit: Duration) {
        let mut running = self.running.subscribe();
        loop {
            let _ = running.wait_for(|running| *running == 0).await;
            if timeout(limit, running.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl<F: Future + Send + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        self.running.send_modify(|running| *running += 1);
        let running = Counted(self.running.clone());
        let limit = self.send_timeout;
        tokio::spawn(Stream { future, limit, timer: None, blocked: false, _running: running });
    }
}

struct Counted(Arc<watch::Sender<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

pin_project! {
    /// A stream, which ends early when what it has to send is not taken for `limit`; dropped, it is reset.
    struct Stream<F> {
        #[pin]
        future: F,
        limit: Duration,
        timer: Option<Pin<Box<Sleep>>>,
        // whether something waits to be sent
        blocked: bool,
        _running: Counted,
    }
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        BODY.set(None);
        if this.future.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match BODY.take() {
            // it was not asked for more: what it gave last still waits
            None => {}
            Some(blocked) => {
                *this.blocked = blocked;
                if blocked {
                    let until = Instant::now() + *this.limit;
                    match this.timer {
                        Some(timer) => timer.as_mut().reset(until),
                        None => *this.timer = Some(Box::pin(tokio::time::sleep_until(until))),
                    }
                }
            }
        }
        match this.timer {
            Some(timer) if *this.blocked => {
                ready!(timer.as_mut().poll(cx));
                tracing::debug!("a client does not read: its stream is reset");
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }
}

pin_project! {
    /// The body of a response, which tells its stream whether it gave something to send.
    struct Sending {
        #[pin]
        body: ResponseBody,
    }
}

impl Sending {
    fn new(body: ResponseBody) -> Sending {
        Sending { body }
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = self.project().body.poll_frame(cx);
        BODY.set(Some(frame.is_ready()));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
