//! Owns HTTP/1.1 to a server, plain or within TLS: one exchange at a time on a connection. The body of a response is read in the
//! task that wants it, straight from the connection: a general client's task, channel and buffers for every stream cost more
//! than the translation (docs/performance.md). It must not know what is exchanged.

pub mod chunked;
mod connect;
mod connection;
mod gone;
pub mod head;
mod pool;
#[cfg(test)]
mod scripted;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Buf;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::io::ReadBuf;

use super::body::Body as RequestBody;
use connection::Connection;
use gone::{Gone, LOOK};
use head::{Framing, Head, HeadReader};

pub use connect::{keepalive, tls};
pub use connection::Stream;
pub use head::ResponseHead;
pub use pool::{Lent, MOST_KEPT, Pool};

/// Bytes that one read takes at most. The buffer belongs to the thread, not to the connection: between two reads a stream
/// holds none.
const READ: usize = 32 << 10;
/// Bytes of a success that are read at most while its request is still being written: a server that sends more does not want
/// the rest of the request.
const EARLY: usize = 256 << 10;
/// A kept connection that ends within this time of its request was closed before it: the answer of a server that had closed
/// it takes one round trip.
pub const STALE: Duration = Duration::from_secs(1);
/// Bytes of a request that are written before other tasks get their turn.
const TURN: usize = 1 << 20;

thread_local! {
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why there is no response, or no more of it.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct TransportError {
    /// What kind of failure it is.
    pub why: Why,
    /// For the log.
    pub cause: String,
}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The server was not reached.
    Refused,
    /// This process had no file descriptor for a connection.
    NoDescriptor,
    /// The connection ended before the response did.
    Cut,
    /// The server speaks no HTTP/1.1 over TLS, only another version.
    NoHttp1,
}

impl TransportError {
    fn cut(cause: impl ToString) -> TransportError {
        TransportError { why: Why::Cut, cause: cause.to_string() }
    }

    /// A lack of our own, which the log notes.
    pub(super) fn no_descriptor() -> TransportError {
        crate::descriptors::lacking();
        TransportError { why: Why::NoDescriptor, cause: "no file descriptor for a connection".to_owned() }
    }
}

/// A response whose body is still to be read.
pub struct Response<S: Connection = Stream> {
    /// Status, and what its headers say of it.
    pub head: ResponseHead,
    /// What follows.
    pub body: Body<S>,
}

/// The body of a response. Dropped before its end, it closes the connection, which is how a server learns that nobody
/// wants the rest.
pub struct Body<S: Connection = Stream> {
    /// `None` once the body has ended.
    exchange: Option<Exchange<S>>,
    framing: Framing,
    /// Read together with the head.
    buffered: Vec<u8>,
    /// Why there is no more, given after the data before it.
    failed: Option<TransportError>,
}

struct Exchange<S> {
    stream: S,
    pool: Arc<Pool<S>>,
    /// Whether the connection may serve another request.
    reusable: bool,
}

/// Sends a `POST` of JSON on this connection and waits for the head of its response. Where a kept connection turns out to be
/// stale, because the server has closed it or answers 408, the request is sent again on a new one, and nothing has failed.
/// Dropped, it closes the connection.
///
/// # Errors
/// When the server cannot be reached, or answers with no HTTP response.
pub async fn post<S: Connection>(
    pool: &Arc<Pool<S>>,
    connection: Lent<S>,
    path: &str,
    headers: &[(HeaderName, &HeaderValue)],
    body: RequestBody,
) -> Result<Response<S>, TransportError> {
    let user = pool.user.as_ref().filter(|_| !headers.iter().any(|(name, _)| *name == AUTHORIZATION));
    let user = user.map(|user| (AUTHORIZATION, user));
    let head = head::request(&pool.authority, [&pool.prefix, path], headers.iter().chain(&user), body.len());
    let Lent { mut stream, mut was_kept } = connection;
    let mut body = Some(body);
    loop {
        let mut exchange = Exchange { stream, pool: pool.clone(), reusable: true };
        match exchange.ask(&head, &mut body, was_kept).await {
            Ok((Head { response: head, framing, reusable }, buffered)) => {
                exchange.reusable &= reusable;
                let mut body = Body { exchange: Some(exchange), framing, buffered, failed: None };
                body.end_if_over();
                return Ok(Response { head, body });
            }
            Err(Unanswered::Stale(cause)) => tracing::debug!(cause, "a kept connection was stale"),
            Err(Unanswered::Broken(error)) => return Err(error),
        }
        stream = pool.connect().await?;
        was_kept = false;
    }
}

/// Why a request has no response.
enum Unanswered {
    /// The connection had been closed before the request: it can be sent again.
    Stale(String),
    Broken(TransportError),
}

impl Unanswered {
    fn broken(cause: impl ToString) -> Unanswered {
        Unanswered::Broken(TransportError::cut(cause))
    }
}

/// What has arrived of a response.
struct Reply {
    begun: Instant,
    reader: HeadReader,
    /// Its head once complete, until it is taken; or what is wrong with it.
    found: Result<Option<Head>, String>,
}

/// How the sending of a request ended.
enum Sent {
    Whole,
    /// The server answers, or has closed the connection, without the rest.
    Part,
    Failed(io::Error),
}

impl<S: Connection> Exchange<S> {
    /// Sends a request and reads the head of the response, with the bytes behind it. `body` is kept while the connection
    /// `was_kept` and may be stale; otherwise it is freed as soon as the server has it, since the response may take minutes.
    async fn ask(
        &mut self,
        head: &[u8],
        body: &mut Option<RequestBody>,
        was_kept: bool,
    ) -> Result<(Head, Vec<u8>), Unanswered> {
        let mut reply = Reply::new();
        let mut gone = Gone::default();
        let mut out = head.chain(body.as_deref().unwrap_or_default());
        let sent = loop {
            let send = poll_fn(|cx| self.poll_send(cx, &mut out, &mut reply));
            match tokio::time::timeout(LOOK, send).await {
                Ok(Ok(true)) => break Sent::Whole,
                Ok(Ok(false)) => break Sent::Part,
                Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(Unanswered::broken(GONE));
                }
                Ok(Err(error)) => break Sent::Failed(error),
                Err(_) if gone.look(self.stream.socket()).await => return Err(Unanswered::broken(GONE)),
                Err(_) => {}
            }
        };
        if !was_kept {
            *body = None;
        }
        self.read_head(body, sent, reply, gone).await
    }

    /// Reads until the head is complete.
    async fn read_head(
        &mut self,
        body: &mut Option<RequestBody>,
        sent: Sent,
        mut reply: Reply,
        mut gone: Gone,
    ) -> Result<(Head, Vec<u8>), Unanswered> {
        loop {
            let age = reply.begun.elapsed();
            if age >= STALE {
                *body = None;
            }
            match reply.take().map_err(Unanswered::broken)? {
                Some(head) if body.is_some() && head.response.status == StatusCode::REQUEST_TIMEOUT => {
                    return Err(Unanswered::Stale("answered with 408".to_owned()));
                }
                Some(mut head) => {
                    *body = None;
                    head.reusable &= matches!(sent, Sent::Whole);
                    return Ok((head, reply.reader.bytes));
                }
                None => {}
            }
            let patience = if body.is_some() { STALE.saturating_sub(age) } else { LOOK };
            let read = poll_fn(|cx| self.poll_read(cx, |bytes| reply.add(bytes)));
            let ended = match tokio::time::timeout(patience, read).await {
                Ok(Ok(1..)) => continue,
                Ok(Ok(0)) => None,
                Ok(Err(error)) => Some(error),
                Err(_) if body.is_none() && gone.look(self.stream.socket()).await => {
                    return Err(Unanswered::broken(GONE));
                }
                Err(_) => continue,
            };
            let cause = match (sent, ended) {
                (Sent::Failed(error), _) | (_, Some(error)) => error.to_string(),
                (_, None) => closed(),
            };
            let stale = body.is_some() && reply.is_empty() && reply.begun.elapsed() < STALE;
            return Err(if stale { Unanswered::Stale(cause) } else { Unanswered::broken(cause) });
        }
    }

    /// Writes until all is written (true), or until the server refuses the request, which it may do before it has read all of
    /// it, or closes the connection.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut impl Buf,
        reply: &mut Reply,
    ) -> Poll<io::Result<bool>> {
        let until = out.remaining().saturating_sub(TURN);
        loop {
            if out.remaining() <= until && until > 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_write(cx, out) {
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(true)),
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    let read = ready!(self.poll_read(cx, |bytes| reply.add(bytes)))?;
                    if read == 0 || reply.ends_sending() {
                        return Poll::Ready(Ok(false));
                    }
                }
            }
        }
    }

    /// Writes once. True when all is written, and TLS holds none of it back.
    fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut impl Buf) -> Poll<io::Result<bool>> {
        let stream = Pin::new(&mut self.stream);
        if !out.has_remaining() {
            return stream.poll_flush(cx).map_ok(|()| true);
        }
        let mut slices = [IoSlice::new(&[]), IoSlice::new(&[])];
        let filled = out.chunks_vectored(&mut slices);
        match ready!(stream.poll_write_vectored(cx, slices.get(..filled).unwrap_or_default()))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => {
                out.advance(written);
                Poll::Ready(Ok(false))
            }
        }
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

impl Reply {
    fn new() -> Reply {
        Reply { begun: Instant::now(), reader: HeadReader::default(), found: Ok(None) }
    }

    fn add(&mut self, bytes: &[u8]) {
        match self.found {
            Ok(Some(_)) => self.reader.bytes.extend_from_slice(bytes),
            _ => self.found = self.reader.add(bytes),
        }
    }

    fn take(&mut self) -> Result<Option<Head>, String> {
        std::mem::replace(&mut self.found, Ok(None))
    }

    /// Whether no byte has arrived.
    fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    /// Whether the server does not want the rest of the request: it refuses it, sends no HTTP, or more than [`EARLY`].
    fn ends_sending(&self) -> bool {
        match &self.found {
            Ok(Some(head)) => !head.response.status.is_success() || self.reader.bytes.len() > EARLY,
            Ok(None) => false,
            Err(_) => true,
        }
    }
}

impl<S: Connection> Body<S> {
    /// Appends what one read brings to `out`: how many bytes, `None` at the end.
    pub fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<usize, TransportError>>> {
        let before = out.len();
        loop {
            if let Some(error) = self.failed.take() {
                self.exchange = None;
                return Poll::Ready(Some(Err(error)));
            }
            let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
            let framing = &mut self.framing;
            let whole = if self.buffered.is_empty() {
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
                framing.take(std::mem::take(&mut self.buffered), out).map_err(str::to_owned)
            };
            match whole {
                Ok(whole) => exchange.reusable &= whole,
                Err(cause) => self.failed = Some(TransportError::cut(cause)),
            }
            self.end_if_over();
            if out.len() > before {
                return Poll::Ready(Some(Ok(out.len() - before)));
            }
        }
    }

    /// Gives the connection back to the pool once nothing is left to read.
    fn end_if_over(&mut self) {
        if self.framing.ended()
            && let Some(Exchange { stream, pool, reusable }) = self.exchange.take()
            && reusable
            && self.buffered.is_empty()
        {
            pool.keep(stream);
        }
    }
}

/// What the log says of a server that is gone.
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
        let pool = Pool::new(&base, Duration::from_secs(5), Duration::from_secs(5), None).unwrap();
        let connection = pool.connection().await.unwrap();
        let post = post(&pool, connection, "/", &[], RequestBody::Own(vec![b'x'; 32 << 20].into()));
        tokio::time::timeout(Duration::from_secs(20), post).await.expect("it is not read for ever")
    }

    #[tokio::test]
    async fn an_early_answer_is_bounded_while_the_request_is_written() {
        const ENDLESS: &[u8] = &[b'x'; 4096];
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n";
        let response = post_to(answer, ENDLESS).await.unwrap();
        assert_eq!(response.head.status, 200);
        assert!(response.body.buffered.len() <= EARLY + READ, "{}", response.body.buffered.len());
        assert!(!response.body.exchange.unwrap().reusable, "the request is not whole");
        for (start, more) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], &b"x: y\r\n"[..]),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            (b"", b"\r\n"),
        ] {
            let refused = post_to(start, more).await.err().map(|error| error.cause);
            assert!(refused.is_some_and(|cause| cause.contains("HTTP") || cause.contains("head")));
        }
    }

    #[tokio::test]
    async fn a_refusal_ends_the_writing() {
        let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
        assert_eq!(post_to(answer, b"").await.unwrap().head.status, 413);
    }
}
