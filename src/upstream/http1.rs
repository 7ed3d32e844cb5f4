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
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::io::ReadBuf;

use super::body::Body as RequestBody;
use connection::Connection;
use gone::{Gone, LOOK};
use head::{Arriving, Framing, Head};

pub use connect::{keepalive, tls};
pub use connection::Stream;
pub use head::ResponseHead;
pub use pool::{Lent, MOST_KEPT, Pool};

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
    /// The server speaks no HTTP/1.1 over TLS, only another version.
    NoHttp1,
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
pub struct Response<S: Connection = Stream> {
    /// What its head says of its answer.
    pub told: ResponseHead,
    /// What is read of it from here on.
    pub body: Body<S>,
}

/// The rest of a response. Dropped before its end, it closes the connection, which is how a server learns that nobody
/// listens any more.
pub struct Body<S: Connection = Stream> {
    /// `None` once the body has ended.
    exchange: Option<Exchange<S>>,
    framing: Framing,
    /// Came with the head.
    held: Vec<u8>,
    /// Told after the data before it.
    broken: Option<TransportError>,
}

struct Exchange<S> {
    stream: S,
    pool: Arc<Pool<S>>,
    /// Whether the connection may serve another request.
    keeps: bool,
}

/// Sends a `POST` of JSON on this connection and waits for the head of its response. A kept connection that turns out to be
/// stale, since the server closed it just then or answers 408, is none of the server's failures: the request is sent on a fresh
/// one.
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
    let head = head::request(&pool.authority, [&pool.prefix, path], headers, body.len());
    let Lent { mut stream, mut was_kept } = connection;
    let mut body = Some(body);
    loop {
        let mut exchange = Exchange { stream, pool: pool.clone(), keeps: true };
        match exchange.ask(&head, &mut body, was_kept).await {
            Ok((Head { told, framing, keeps }, held)) => {
                exchange.keeps &= keeps;
                let mut body = Body { exchange: Some(exchange), framing, held, broken: None };
                body.end_if_over();
                return Ok(Response { told, body });
            }
            Err(Unanswered::Stale(cause)) => tracing::debug!(cause, "a kept connection was stale"),
            Err(Unanswered::Broken(error)) => return Err(error),
        }
        stream = Box::pin(pool.connect()).await?;
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

/// What came of a response.
struct Incoming {
    begun: Instant,
    arriving: Arriving,
    /// Its head, until it is taken.
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
    /// Sends a request and reads the head of the response, with what came behind it. `body` is left there while the connection
    /// `was_kept` and may be stale; else it is let go as soon as the server has it, who may think for long.
    async fn ask(
        &mut self,
        head: &[u8],
        body: &mut Option<RequestBody>,
        was_kept: bool,
    ) -> Result<(Head, Vec<u8>), Unanswered> {
        let mut incoming = Incoming::new();
        let mut gone = Gone::default();
        let mut out = head.chain(body.as_deref().unwrap_or_default());
        let sent = loop {
            let send = poll_fn(|cx| self.poll_send(cx, &mut out, &mut incoming));
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
        self.read_head(body, sent, incoming, gone).await
    }

    /// Reads on until the head is there.
    async fn read_head(
        &mut self,
        body: &mut Option<RequestBody>,
        sent: Sent,
        mut incoming: Incoming,
        mut gone: Gone,
    ) -> Result<(Head, Vec<u8>), Unanswered> {
        loop {
            let age = incoming.begun.elapsed();
            if age >= STALE {
                *body = None;
            }
            match incoming.take().map_err(Unanswered::broken)? {
                Some(head) if body.is_some() && head.told.status == StatusCode::REQUEST_TIMEOUT => {
                    return Err(Unanswered::Stale("answered with 408".to_owned()));
                }
                Some(mut head) => {
                    *body = None;
                    head.keeps &= matches!(sent, Sent::Whole);
                    return Ok((head, incoming.arriving.bytes));
                }
                None => {}
            }
            let patience = if body.is_some() { STALE.saturating_sub(age) } else { LOOK };
            let read = poll_fn(|cx| self.poll_read(cx, |bytes| incoming.add(bytes)));
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
            let stale = body.is_some() && incoming.is_empty() && incoming.begun.elapsed() < STALE;
            return Err(if stale { Unanswered::Stale(cause) } else { Unanswered::broken(cause) });
        }
    }

    /// Writes on, until all is written (true), or the server has refused the request, which it need not have read to its end,
    /// or answers without it.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut impl Buf,
        incoming: &mut Incoming,
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
                    let read = ready!(self.poll_read(cx, |bytes| incoming.add(bytes)))?;
                    if read == 0 || incoming.ends_sending() {
                        return Poll::Ready(Ok(false));
                    }
                }
            }
        }
    }

    /// Writes once; whether all is written, and no longer in a buffer of TLS.
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

impl Incoming {
    fn new() -> Incoming {
        Incoming { begun: Instant::now(), arriving: Arriving::default(), found: Ok(None) }
    }

    fn add(&mut self, bytes: &[u8]) {
        match self.found {
            Ok(Some(_)) => self.arriving.bytes.extend_from_slice(bytes),
            _ => self.found = self.arriving.add(bytes),
        }
    }

    fn take(&mut self) -> Result<Option<Head>, String> {
        std::mem::replace(&mut self.found, Ok(None))
    }

    /// Whether nothing came.
    fn is_empty(&self) -> bool {
        self.arriving.is_empty()
    }

    /// Whether the server does not want the rest of the request: it refuses it, answers with no HTTP, or goes on without it.
    fn ends_sending(&self) -> bool {
        match &self.found {
            Ok(Some(head)) => !head.told.status.is_success() || self.arriving.bytes.len() > EARLY,
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
