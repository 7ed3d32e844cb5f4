//! Owns the end of a client's connection: after the drain has begun it finishes the requests that it has, and closes. It must
//! not know what is served.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::server::conn::http1;
use hyper::service::{HttpService, Service};
use hyper_util::server::conn::auto;
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::wake_flag::WakeFlag;

/// How long a client may take to send its request's head.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that can be told to close after the requests that it has.
pub(super) trait GracefulShutdown: Future {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<I, B, S> GracefulShutdown for http1::UpgradeableConnection<I, S>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

impl<I, B, S, E> GracefulShutdown for auto::UpgradeableConnection<'_, I, S, E>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body + 'static,
    B::Error: Into<BoxError>,
    E: Http2ServerConnExec<S::Future, B>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

pin_project! {
    /// Serves a connection until it closes. After cancellation it finishes the requests that it has, and takes no more.
    pub(super) struct GracefulConnection<C> {
        #[pin]
        connection: C,
        cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
        wake_flag: WakeFlag,
    }
}

impl<C> GracefulConnection<C> {
    pub(super) fn new(connection: C, stop: CancellationToken) -> GracefulConnection<C> {
        GracefulConnection {
            connection,
            cancelled: Box::pin(stop.cancelled_owned()),
            wake_flag: WakeFlag::new(),
        }
    }
}

impl<C: GracefulShutdown> GracefulConnection<C> {
    pub(super) fn graceful_shutdown(self: Pin<&mut Self>) {
        self.project().connection.graceful_shutdown();
    }
}

impl<C: GracefulShutdown> Future for GracefulConnection<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // what has arrived goes first: told to close before it has read anything, a connection closes without an answer
        let polled = this.connection.as_mut().poll(cx);
        if polled.is_ready() {
            return polled;
        }
        // the token is asked only when it woke us, not on each wake of the socket
        if this.wake_flag.take(cx)
            && this.cancelled.as_mut().poll(&mut Context::from_waker(&this.wake_flag.waker)).is_ready()
        {
            this.connection.as_mut().graceful_shutdown();
            return this.connection.poll(cx);
        }
        Poll::Pending
    }
}
