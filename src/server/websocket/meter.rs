//! Owns the bytes of one connection: no more are read of a message than are counted, and what is sent is taken in time. It must
//! not know where one message ends.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::frame_boundary::FrameBoundary;

/// Bytes of a message that are read before they are counted.
const FREE: usize = 16 << 10;
/// Bytes from which on a message is long.
const LONG: usize = 64 << 10;

/// A connection (none by default) whose reader stops where what it read is more than was counted.
#[derive(Default)]
pub struct Meter {
    stream: Option<TokioIo<Upgraded>>,
    read: usize,
    counted: usize,
    stopped: Option<Waker>,
    boundary: FrameBoundary,
    /// Whether a message was long: its reader's buffer may have kept that size.
    was_long: bool,
    send_timeout: Duration,
    /// Runs while a write waits for room.
    blocked: Option<Pin<Box<Sleep>>>,
}

impl Meter {
    /// Of a connection whose client has `send_timeout` to take what is sent.
    pub fn new(stream: TokioIo<Upgraded>, send_timeout: Duration) -> Meter {
        Meter {
            stream: Some(stream),
            read: 0,
            counted: FREE,
            stopped: None,
            boundary: FrameBoundary::default(),
            was_long: false,
            send_timeout,
            blocked: None,
        }
    }

    /// Bytes of the message so far, if its reader waits for more to be counted.
    pub fn stopped_at(&self) -> Option<usize> {
        self.stopped.as_ref().map(|_| self.read)
    }

    /// Whether all that was read are whole messages, one of them long.
    pub fn was_long(&self) -> bool {
        self.was_long && self.boundary.is_between_messages()
    }

    /// Its reader has a new buffer.
    pub fn is_new(&mut self) {
        self.was_long = false;
    }

    /// So many bytes of the message are counted.
    pub fn counted(&mut self, bytes: usize) {
        self.counted = bytes;
        if let Some(waker) = self.stopped.take() {
            waker.wake();
        }
    }

    /// What sending came to, or the error that the client took nothing for too long. Over HTTP/1.1 the socket has such a limit
    /// of its own; a stream of HTTP/2 has none.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if sent.is_ready() {
            self.blocked = None;
            return sent;
        }
        let limit = self.send_timeout;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(blocked.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// A message is over.
    pub fn begin(&mut self) {
        self.read = 0;
        self.counted(FREE);
    }
}

impl AsyncRead for Meter {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read >= this.counted {
            this.stopped = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let Some(stream) = &mut this.stream else { return Poll::Ready(Ok(())) };
        let read = Pin::new(stream).poll_read(cx, buffer);
        this.boundary.pass(buffer.filled().get(before..).unwrap_or_default());
        this.read += buffer.filled().len() - before;
        this.was_long |= this.read > LONG;
        read
    }
}

impl AsyncWrite for Meter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else { return Poll::Ready(Ok(0)) };
        let written = Pin::new(stream).poll_write(cx, bytes);
        this.in_time(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else { return Poll::Ready(Ok(())) };
        let flushed = Pin::new(stream).poll_flush(cx);
        this.in_time(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}
