//! Owns plain HTTP/1.1 to a server: one exchange at a time on a connection. An answer's body is read in the task that wants it, straight from the socket: a general client's task, channel and
//! buffers for every stream cost more than the translation (docs/performance.md). It must not know what is exchanged.

mod chunked;
mod gone;
mod head;
mod pool;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Buf;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::body::Body as RequestBody;
use gone::{Gone, LOOK};
use head::{Arriving, Framing, Head};

pub use head::ResponseHead;
pub use pool::{MOST_KEPT, Pool, keepalive};

/// Bytes that one read takes at most. The room for them is a thread's, not a connection's: between two reads a stream
/// holds nothing.
const READ: usize = 32 << 10;
/// Most bytes of a success that are taken in while its request is still being written: a server that goes on beyond them
/// does not want the rest of the request.
const EARLY: usize = 256 << 10;
/// How long after a request was begun the end of a kept connection is taken for older than the request. The answer of a
/// server that had closed it takes one round trip.
pub const STALE: Duration = Duration::from_secs(1);
/// Bytes of a request that are written until other tasks get their turn.
const TURN: usize = 1 << 20;

thread_local! {
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct TransportError {
    /// Which sort of reason it is.
    pub why: Why,
    /// For the log.
    pub cause: String,
}

/// Sorts of reasons for which there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The server was not reached.
    Refused,
    /// This process had no file descriptor for a connection.
    NoDescriptor,
    /// The connection ended before the answer did.
    Cut,
}

impl TransportError {
    fn cut(cause: impl ToString) -> TransportError {
        TransportError { why: Why::Cut, cause: cause.to_string() }
    }

    /// A lack of our own, which is noted.
    pub(super) fn no_descriptor() -> TransportError {
        crate::descriptors::lacking();
        TransportError { why: Why::NoDescriptor, cause: "no file descriptor for a connection".to_owned() }
    }
}

/// A response whose body is still to be read.
pub struct Response {
    pub told: ResponseHead,
    pub body: Body,
}

/// The rest of a response. Dropped before its end, it closes the connection, which is how a server learns that nobody
/// listens any more.
pub struct Body {
    /// `None` once the body has ended.
    exchange: Option<Exchange>,
    framing: Framing,
    /// Came with the head.
    held: Vec<u8>,
    /// Told after the data before it.
    broken: Option<TransportError>,
}

struct Exchange {
    stream: TcpStream,
    pool: Arc<Pool>,
    /// Whether the connection may serve another request.
    keeps: bool,
}

/// Sends a `POST` of JSON and waits for the head of its response. A kept connection that turns out to be stale, since the
/// server closed it just then or answers 408, is none of the server's failures: the request is sent on a fresh one.
///
/// # Errors
/// When the server cannot be reached, or answers with no HTTP response.
pub async fn post(
    pool: &Arc<Pool>,
    path: &str,
    headers: &[(HeaderName, &HeaderValue)],
    body: RequestBody,
) -> Result<Response, TransportError> {
    let head = head::request(&pool.authority, [&pool.prefix, path], headers, body.len());
    let mut kept = pool.take();
    let mut body = Some(body);
    loop {
        let was_kept = kept.is_some();
        let stream = match kept.take() {
            Some(stream) => stream,
            None => Box::pin(pool.connect()).await?,
        };
        let mut exchange = Exchange { stream, pool: pool.clone(), keeps: true };
        match exchange.ask(&head, &mut body, was_kept).await {
            Ok((Head { told, framing, keeps }, held)) => {
                exchange.keeps &= keeps;
                let mut body = Body { exchange: Some(exchange), framing, held, broken: None };
                body.end_if_over();
                return Ok(Response { told, body });
            }
            Err(broken) if body.is_some() => {
                tracing::debug!(cause = broken.cause, "a kept connection was stale")
            }
            Err(broken) => return Err(broken),
        }
    }
}

impl Exchange {
    /// Sends a request and reads the head of the response, with what came behind it. `body` is left there where the
    /// connection `was_kept` and is stale; else it is let go as soon as the server has it, who may think for long.
    async fn ask(
        &mut self,
        head: &[u8],
        body: &mut Option<RequestBody>,
        was_kept: bool,
    ) -> Result<(Head, Vec<u8>), TransportError> {
        let begun = Instant::now();
        let mut came = Arriving::default();
        let mut found = Ok(None);
        let mut gone = Gone::default();
        let mut out = head.chain(body.as_deref().unwrap_or_default());
        // a server may refuse a request that it has not read to its end
        let sent = loop {
            let send = poll_fn(|cx| self.poll_send(cx, &mut out, &mut came, &mut found));
            match tokio::time::timeout(LOOK, send).await {
                Ok(sent) => break sent,
                Err(_) if gone.look(&self.stream).await => break Err(io::ErrorKind::TimedOut.into()),
                Err(_) => {}
            }
        };
        let whole = !out.has_remaining();
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            *body = None;
            return Err(TransportError::cut(GONE));
        }
        if !was_kept {
            *body = None;
        }
        loop {
            if body.is_some() && begun.elapsed() >= STALE {
                *body = None;
            }
            match found {
                Err(cause) => {
                    *body = None;
                    return Err(TransportError::cut(cause));
                }
                Ok(Some(head)) if body.is_some() && head.told.status == StatusCode::REQUEST_TIMEOUT => {
                    return Err(TransportError::cut("answered with 408"));
                }
                Ok(Some(mut head)) => {
                    *body = None;
                    head.keeps &= sent.is_ok() && whole;
                    return Ok((head, came.bytes));
                }
                Ok(None) => {}
            }
            found = Ok(None);
            let read = poll_fn(|cx| self.poll_read(cx, |bytes| found = came.add(bytes)));
            let patience = match body {
                None => LOOK,
                Some(_) => STALE.saturating_sub(begun.elapsed()),
            };
            let read = match tokio::time::timeout(patience, read).await {
                Ok(read) => read,
                Err(_) if body.is_none() && gone.look(&self.stream).await => {
                    return Err(TransportError::cut(GONE));
                }
                Err(_) => continue,
            };
            let broken = match read {
                Ok(0) => sent.err().map_or_else(closed, |error| error.to_string()),
                Ok(_) => continue,
                Err(error) => sent.err().unwrap_or(error).to_string(),
            };
            if !came.bytes.is_empty() || begun.elapsed() >= STALE {
                *body = None;
            }
            return Err(TransportError::cut(broken));
        }
    }

    /// Writes on, until all is written, or the server has refused the request or answers without it. `found`: the head
    /// of its response, if it came meanwhile; what came behind it is in `came`.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut impl Buf,
        came: &mut Arriving,
        found: &mut Result<Option<Head>, String>,
    ) -> Poll<io::Result<()>> {
        let until = out.remaining().saturating_sub(TURN);
        while out.has_remaining() {
            if out.remaining() <= until && until > 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut slices = [IoSlice::new(&[]), IoSlice::new(&[])];
            let filled = out.chunks_vectored(&mut slices);
            let slices = slices.get(..filled).unwrap_or_default();
            match Pin::new(&mut self.stream).poll_write_vectored(cx, slices) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => out.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    let read = ready!(self.poll_read(cx, |bytes| match found {
                        Ok(Some(_)) => came.bytes.extend_from_slice(bytes),
                        _ => *found = came.add(bytes),
                    }))?;
                    let over = match found {
                        Ok(Some(head)) => !head.told.status.is_success() || came.bytes.len() > EARLY,
                        Ok(None) => false,
                        Err(_) => true,
                    };
                    if read == 0 || over {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once; 0 at the end of the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>, take: impl FnOnce(&[u8])) -> Poll<io::Result<usize>> {
        ROOM.with_borrow_mut(|room| {
            room.resize(READ, 0);
            let mut room = ReadBuf::new(room);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
            take(room.filled());
            Poll::Ready(Ok(room.filled().len()))
        })
    }
}

impl Body {
    /// Appends what one read brings to `out`: how many bytes, `None` at the end.
    pub fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<usize, TransportError>>> {
        let before = out.len();
        loop {
            if let Some(broken) = self.broken.take() {
                self.exchange = None;
                return Poll::Ready(Some(Err(broken)));
            }
            let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
            let framing = &mut self.framing;
            let whole = if self.held.is_empty() {
                let mut whole = Ok(true);
                match ready!(exchange.poll_read(cx, |bytes| whole = framing.read(bytes, out))) {
                    Ok(0) if matches!(framing, Framing::Close) => {
                        self.exchange = None;
                        return Poll::Ready(None);
                    }
                    Ok(0) => Err(closed()),
                    Ok(_) => whole.map_err(str::to_owned),
                    Err(error) => Err(error.to_string()),
                }
            } else {
                framing.take(std::mem::take(&mut self.held), out).map_err(str::to_owned)
            };
            match whole {
                Ok(whole) => exchange.keeps &= whole,
                Err(cause) => self.broken = Some(TransportError::cut(cause)),
            }
            self.end_if_over();
            if out.len() > before {
                return Poll::Ready(Some(Ok(out.len() - before)));
            }
        }
    }

    /// Gives the connection back once nothing is left to read.
    fn end_if_over(&mut self) {
        if self.framing.ended()
            && let Some(Exchange { stream, pool, keeps }) = self.exchange.take()
            && keeps
            && self.held.is_empty()
        {
            pool.keep(stream);
        }
    }
}

/// For the log.
const GONE: &str = "the server has acknowledged nothing for 30 s";

fn closed() -> String {
    "connection closed before the message was complete".to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Posts 32 MB to a server that reads the head alone and writes `answer`, then `more` for ever.
    async fn post_to(answer: &'static [u8], more: &'static [u8]) -> Result<Response, TransportError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 32]).await.unwrap();
            stream.write_all(answer).await.unwrap();
            while !more.is_empty() && stream.write_all(more).await.is_ok() {}
            // the rest of the request stays unread, the connection open
            std::future::pending::<()>().await;
        });
        let pool = Pool::new(&base, Duration::from_secs(5), Duration::from_secs(5)).unwrap();
        let post = post(&pool, "/", &[], RequestBody::Own(vec![b'x'; 32 << 20].into()));
        tokio::time::timeout(Duration::from_secs(20), post).await.expect("it is not read for ever")
    }

    #[tokio::test]
    async fn an_early_answer_is_bounded_while_the_request_is_written() {
        const ENDLESS: &[u8] = &[b'x'; 4096];
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n";
        let response = post_to(answer, ENDLESS).await.unwrap();
        assert_eq!(response.told.status, 200);
        assert!(response.body.held.len() <= EARLY + READ, "{}", response.body.held.len());
        assert!(!response.body.exchange.unwrap().keeps, "the request is not whole");
        for (start, more) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], &b"x: y\r\n"[..]),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            (b"", b"\r\n"),
        ] {
            let refused = post_to(start, more).await.err().map(|broken| broken.cause);
            assert!(refused.is_some_and(|cause| cause.contains("HTTP") || cause.contains("head")));
        }
    }

    #[tokio::test]
    async fn a_refusal_ends_the_writing() {
        let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
        assert_eq!(post_to(answer, b"").await.unwrap().told.status, 413);
    }
}
