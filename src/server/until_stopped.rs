//! Owns the end of a connection: it is served until the drain, then to the end of the request that it has.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::wake_flag::WakeFlag;

/// How long a client may take to send its request's head.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

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

impl<C: GracefulConnection> UntilStopped<C> {
    pub(super) fn graceful_shutdown(self: Pin<&mut Self>) {
        self.project().connection.graceful_shutdown();
    }
}

impl<C: GracefulConnection> Future for UntilStopped<C> {
    type Output = Result<(), C::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.wake_flag.take(cx)
            && this.stopped.as_mut().poll(&mut Context::from_waker(&this.wake_flag.waker)).is_ready()
        {
            this.connection.as_mut().graceful_shutdown();
        }
        this.connection.poll(cx)
    }
}
