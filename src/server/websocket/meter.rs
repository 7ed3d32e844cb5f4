//! Owns the bytes of a message that is on its way to us: no more of it are read than are counted. It must not know where one
//! message ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a message that are read before they are counted.
const FREE: usize = 16 << 10;

/// A connection whose reader stops where what it read is more than was counted.
pub struct Meter {
    stream: TokioIo<Upgraded>,
    read: usize,
    counted: usize,
    stopped: Option<Waker>,
}

impl Meter {
    pub fn new(stream: TokioIo<Upgraded>) -> Meter {
        Meter { stream, read: 0, counted: FREE, stopped: None }
    }

    /// Bytes of the message so far, if its reader waits for more to be counted.
    pub fn stopped_at(&self) -> Option<usize> {
        self.stopped.as_ref().map(|_| self.read)
    }

    /// So many bytes of the message are counted.
    pub fn counted(&mut self, bytes: usize) {
        self.counted = bytes;
        if let Some(waker) = self.stopped.take() {
            waker.wake();
        }
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
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        this.read += buffer.filled().len() - before;
        read
    }
}

impl AsyncWrite for Meter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
