//! Owns the end of a connection: it is served until the drain, then to the end of the request that it has.

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

/// A connection that can be told to end after the request that it has.
pub(super) trait Stoppable: Future {
    fn stop(self: Pin<&mut Self>);
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<I, B, S> Stoppable for http1::UpgradeableConnection<I, S>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    fn stop(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, B, S, E> Stoppable for auto::UpgradeableConnection<'_, I, S, E>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body + 'static,
    B::Error: Into<BoxError>,
    E: Http2ServerConnExec<S::Future, B>,
{
    fn stop(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

pin_project! {
    /// Serves a connection to its end; once `stopped` is ready, to that of the request that it has.
    pub(super) struct UntilStopped<C> {
        #[pin]
        connection: C,
        stopped: Pin<Box<WaitForCancellationFutureOwned>>,
        wake_flag: WakeFlag,
    }
}

impl<C> UntilStopped<C> {
    pub(super) fn new(connection: C, stop: CancellationToken) -> UntilStopped<C> {
        UntilStopped { connection, stopped: Box::pin(stop.cancelled_owned()), wake_flag: WakeFlag::new() }
    }
}

impl<C: Stoppable> UntilStopped<C> {
    pub(super) fn graceful_shutdown(self: Pin<&mut Self>) {
        self.project().connection.stop();
    }
}

impl<C: Stoppable> Future for UntilStopped<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.wake_flag.take(cx)
            && this.stopped.as_mut().poll(&mut Context::from_waker(&this.wake_flag.waker)).is_ready()
        {
            this.connection.as_mut().stop();
        }
        this.connection.poll(cx)
    }
}
