//! Owns plain HTTP/1.1 to a server: its connections, kept between requests, and one exchange at a time on each. An
//! answer's body is read in the task that wants it, straight from the socket: a general client's task, channel and
//! buffers for every stream cost more than the translation (docs/performance.md). It must not know what is exchanged.

mod chunked;
mod head;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Buf;
use http::{HeaderName, HeaderValue, Uri};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::send::Body as RequestBody;
use head::{Arriving, Framing, Head};

pub use head::Told;

/// Bytes that one read takes at most. The room for them is a thread's, not a connection's: between two reads a stream
/// holds nothing.
const READ: usize = 32 << 10;
/// Most bytes of a success that are taken in while its request is still being written: a server that goes on beyond them
/// does not want the rest of the request.
const EARLY: usize = 256 << 10;
/// Bytes of a request that are written until other tasks get their turn.
const TURN: usize = 1 << 20;

thread_local! {
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Broken {
    /// Whether the server was not even reached.
    pub refused: bool,
    /// For the log.
    pub cause: String,
}

impl Broken {
    fn midway(cause: impl ToString) -> Broken {
        Broken { refused: false, cause: cause.to_string() }
    }
}

/// Connections to one server.
pub struct Pool {
    host: String,
    port: u16,
    /// As the `Host` header has it.
    authority: String,
    /// What stands before every path.
    prefix: String,
    connect_timeout: Duration,
    /// How long one is kept for the next request.
    idle_timeout: Duration,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// The one that was used last at the end.
    streams: Vec<(TcpStream, Instant)>,
    /// Whether a task watches over their age.
    watched: bool,
}

/// A response whose body is still to be read.
pub struct Response {
    pub told: Told,
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
    broken: Option<Broken>,
}

struct Exchange {
    stream: TcpStream,
    pool: Arc<Pool>,
    /// Whether the connection may serve another request.
    keeps: bool,
}

impl Pool {
    /// Connections to the server at `base`; `None` for what needs more than plain HTTP: TLS, or a user in the URL.
    pub fn new(base: &str, connect_timeout: Duration, idle_timeout: Duration) -> Option<Arc<Pool>> {
        let uri: Uri = base.parse().ok()?;
        let authority = uri.authority()?;
        if uri.scheme_str() != Some("http") || authority.as_str().contains('@') || uri.query().is_some() {
            return None;
        }
        let host = authority.host();
        Some(Arc::new(Pool {
            host: host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.as_str().to_owned(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            connect_timeout,
            idle_timeout,
            idle: Mutex::default(),
        }))
    }

    /// Sends a `POST` of JSON and waits for the head of its response.
    ///
    /// # Errors
    /// When the server cannot be reached, or answers with no HTTP response.
    pub async fn post(
        self: &Arc<Pool>,
        path: &str,
        headers: &[(HeaderName, &HeaderValue)],
        body: RequestBody,
    ) -> Result<Response, Broken> {
        let head = head::request(&self.authority, [&self.prefix, path], headers, body.len());
        let stream = match self.take() {
            Some(stream) => stream,
            None => Box::pin(self.connect()).await?,
        };
        let mut exchange = Exchange { stream, pool: self.clone(), keeps: true };
        let (head, held) = exchange.ask(&head, body).await?;
        let Head { told, framing, keeps } = head;
        exchange.keeps &= keeps;
        let mut body = Body { exchange: Some(exchange), framing, held, broken: None };
        body.end_if_over();
        Ok(Response { told, body })
    }

    async fn connect(&self) -> Result<TcpStream, Broken> {
        let refused = |cause: String| Broken { refused: true, cause };
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let stream = match tokio::time::timeout(self.connect_timeout, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(refused(format!("cannot connect: {error}"))),
            Err(_) => return Err(refused("cannot connect in time".to_owned())),
        };
        let set =
            stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive()));
        if let Err(error) = set {
            tracing::debug!(%error, "cannot set the options of a connection");
        }
        Ok(stream)
    }

    /// A connection that was used before and that the server has not closed.
    fn take(&self) -> Option<TcpStream> {
        let mut idle = self.idle();
        while let Some((stream, since)) = idle.streams.pop() {
            if since.elapsed() >= self.idle_timeout {
                // the others are older
                idle.streams.clear();
                return None;
            }
            // an end, or bytes that nobody asked for
            let silent =
                stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            if silent {
                return Some(stream);
            }
        }
        None
    }

    fn keep(self: &Arc<Pool>, stream: TcpStream) {
        let mut idle = self.idle();
        idle.streams.push((stream, Instant::now()));
        if idle.watched {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            idle.watched = true;
            let (pool, pause) = (Arc::downgrade(self), self.idle_timeout);
            runtime.spawn(async move {
                loop {
                    tokio::time::sleep(pause).await;
                    match pool.upgrade() {
                        Some(pool) if pool.close_old() => {}
                        _ => return,
                    }
                }
            });
        }
    }

    /// Closes connections that were idle for too long; whether any is left to watch over.
    fn close_old(&self) -> bool {
        let mut idle = self.idle();
        idle.streams.retain(|(_, since)| since.elapsed() < self.idle_timeout);
        idle.watched = !idle.streams.is_empty();
        idle.watched
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exchange {
    /// Sends a request and reads the head of the response, with what came behind it.
    async fn ask(&mut self, head: &[u8], body: RequestBody) -> Result<(Head, Vec<u8>), Broken> {
        let mut out = head.chain(&*body);
        let mut came = Arriving::default();
        let mut found = Ok(None);
        // a server may refuse a request that it has not read to its end
        let sent = poll_fn(|cx| self.poll_send(cx, &mut out, &mut came, &mut found)).await;
        let whole = !out.has_remaining();
        // the server has it, and may think for long
        drop(body);
        loop {
            if let Some(mut head) = found.map_err(Broken::midway)? {
                head.keeps &= sent.is_ok() && whole;
                return Ok((head, came.bytes));
            }
            found = Ok(None);
            match poll_fn(|cx| self.poll_read(cx, |bytes| found = came.add(bytes))).await {
                Ok(0) => {
                    return Err(Broken::midway(sent.err().map_or_else(closed, |error| error.to_string())));
                }
                Ok(_) => {}
                Err(error) => return Err(Broken::midway(sent.err().unwrap_or(error))),
            }
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
    ) -> Poll<Option<Result<usize, Broken>>> {
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
                Err(cause) => self.broken = Some(Broken::midway(cause)),
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

/// Has the kernel ask a silent peer whether it is there, and end the connection after half a minute without an answer. A
/// peer that has no room for more data answers: a living one is never cut. TCP_USER_TIMEOUT would cut it, since that counts
/// the time until the peer makes room.
pub fn keepalive() -> TcpKeepalive {
    let (time, interval) = (Duration::from_secs(15), Duration::from_secs(5));
    TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(3)
}

fn closed() -> String {
    "connection closed before the message was complete".to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Posts 32 MB to a server that reads the head alone and writes `answer`, then `more` for ever.
    async fn post_to(answer: &'static [u8], more: &'static [u8]) -> Result<Response, Broken> {
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
        let post = pool.post("/", &[], RequestBody::Own(vec![b'x'; 32 << 20].into()));
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
