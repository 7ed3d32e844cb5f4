//! Owns the connections to one server between requests: which are kept, and for how long. It must not know what is
//! exchanged on one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use tokio_rustls::rustls::ClientConfig;

use super::TransportError;
use super::connect::Connector;
use super::connection::{Connection, Stream};

/// Most connections to one server that are kept between requests.
pub const MOST_KEPT: usize = 512;

/// Connections to one server.
pub struct Pool<S = Stream> {
    /// As the `Host` header has it.
    pub(super) authority: String,
    /// What stands before every path.
    pub(super) prefix: String,
    /// The `Authorization` of a request that has none: user and password of the URL.
    pub(super) user: Option<HeaderValue>,
    open: Open<S>,
    /// How long one is kept for the next request.
    idle_timeout: Duration,
    idle: Mutex<Idle<S>>,
}

/// Opens another connection.
type Open<S> = Box<dyn Fn() -> BoxFuture<'static, Result<S, TransportError>> + Send + Sync>;

struct Idle<S> {
    /// The one that was used last at the end.
    streams: Vec<(S, Instant)>,
    /// Whether a task watches over their age.
    watched: bool,
}

/// A connection for one request.
pub struct Lent<S = Stream> {
    pub(super) stream: S,
    /// Whether it has served a request before, so that the server may have closed it.
    pub(super) was_kept: bool,
}

impl Pool {
    /// Connections to the server at `base`, `None` if that is no URL of HTTP, or of TLS without `tls`.
    pub fn new(
        base: &str,
        connect_timeout: Duration,
        idle_timeout: Duration,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Option<Arc<Pool>> {
        let uri: Uri = base.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => (Some(basic(user)?), authority),
            None => (None, authority),
        };
        let connector = Connector::new(&uri, connect_timeout, tls)?;
        let open = Box::new(move || -> BoxFuture<'static, _> { Box::pin(connector.clone().connect()) });
        let prefix = uri.path().trim_end_matches('/');
        Some(Pool::opening(authority, prefix, user, idle_timeout, open))
    }
}

impl<S: Connection> Pool<S> {
    /// The same with connections that `open` makes.
    pub(super) fn opening(
        authority: &str,
        prefix: &str,
        user: Option<HeaderValue>,
        idle_timeout: Duration,
        open: Open<S>,
    ) -> Arc<Pool<S>> {
        let (authority, prefix) = (authority.to_owned(), prefix.to_owned());
        let idle = Mutex::new(Idle { streams: Vec::new(), watched: false });
        Arc::new(Pool { authority, prefix, user, open, idle_timeout, idle })
    }

    /// A kept connection, else another one.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn connection(&self) -> Result<Lent<S>, TransportError> {
        match self.take() {
            Some(stream) => Ok(Lent { stream, was_kept: true }),
            None => Ok(Lent { stream: self.connect().await?, was_kept: false }),
        }
    }

    pub(super) async fn connect(&self) -> Result<S, TransportError> {
        (self.open)().await
    }

    /// A connection that was used before and that the server has not closed.
    fn take(&self) -> Option<S> {
        let mut idle = self.idle();
        while let Some((stream, since)) = idle.streams.pop() {
            if since.elapsed() >= self.idle_timeout {
                // the others are older
                idle.streams.clear();
                return None;
            }
            if stream.is_silent() {
                return Some(stream);
            }
        }
        None
    }

    pub(super) fn keep(self: &Arc<Pool<S>>, stream: S) {
        let mut idle = self.idle();
        if idle.streams.len() >= MOST_KEPT {
            return;
        }
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

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.idle().streams.len()
    }

    /// Closes connections that were idle for too long; whether any is left to watch over.
    fn close_old(&self) -> bool {
        let mut idle = self.idle();
        idle.streams.retain(|(_, since)| since.elapsed() < self.idle_timeout);
        idle.watched = !idle.streams.is_empty();
        idle.watched
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle<S>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `Basic` credentials (RFC 7617) of a URL's user and password.
fn basic(user: &str) -> Option<HeaderValue> {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let decoded = [user, password].map(|text| percent_decode_str(text).collect::<Vec<u8>>());
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(decoded.join(&b':')))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as Blocking};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::super::{Response, post};
    use super::*;
    use crate::upstream::body::Body as RequestBody;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    const EXTRA: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong";

    /// A server that does `then` with each connection after an answer to its first request. Its steps wait for `go`, and
    /// each is told when it is done: what was written is then in the client's socket. Counts the connections.
    fn server(
        then: fn(Blocking),
    ) -> (Arc<Pool>, Sender<()>, Receiver<()>, Arc<std::sync::atomic::AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let ((go, wait), (done, told)) = (channel(), channel());
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = count.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let mut stream = stream.unwrap();
                read_request(&mut stream);
                stream.write_all(OK).unwrap();
                if wait.recv().is_err() {
                    return;
                }
                then(stream);
                done.send(()).unwrap();
            }
        });
        let pool = Pool::new(&base, Duration::from_secs(5), Duration::from_secs(5), None).unwrap();
        (pool, go, told, count)
    }

    fn read_request(stream: &mut Blocking) {
        let mut got = Vec::new();
        while !got.ends_with(b"{}") {
            let mut piece = [0; 1024];
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0);
            got.extend_from_slice(&piece[..read]);
        }
    }

    async fn ask(pool: &Arc<Pool>) -> (u16, String) {
        let body = RequestBody::Own(b"{}".to_vec().into());
        let connection = pool.connection().await.unwrap();
        let Response { head, mut body } = post(pool, connection, "/", &[], body).await.unwrap();
        let mut read = Vec::new();
        while let Some(more) = std::future::poll_fn(|cx| body.poll_more(cx, &mut read)).await {
            more.unwrap();
        }
        (head.status.as_u16(), String::from_utf8(read).unwrap())
    }

    /// The runtime's thread waits while the server writes, so that the runtime has heard of nothing when the next request
    /// is sent: only the kernel knows.
    #[tokio::test]
    async fn what_lies_in_a_kept_connection_is_never_taken_for_an_answer() {
        fn leak(mut stream: Blocking, bytes: &[u8]) {
            stream.write_all(bytes).unwrap();
            std::mem::forget(stream);
        }
        for then in [|stream| leak(stream, LATE), |stream| leak(stream, EXTRA), drop::<Blocking> as fn(_)] {
            let (pool, go, told, count) = server(then);
            for n in 1..=20 {
                assert_eq!(ask(&pool).await, (200, "ok".to_owned()));
                assert_eq!(pool.kept(), 1);
                go.send(()).unwrap();
                told.recv().unwrap();
                assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), n);
            }
        }
    }

    /// The server closes, or answers 408, just when the next request arrives; one more connection, and nobody notices.
    #[tokio::test]
    async fn a_request_on_a_stale_connection_is_sent_once_more_on_a_fresh_one() {
        fn closes(mut stream: Blocking) {
            std::thread::spawn(move || {
                read_request(&mut stream);
            });
        }
        fn is_late(mut stream: Blocking) {
            std::thread::spawn(move || {
                read_request(&mut stream);
                stream.write_all(LATE).unwrap();
            });
        }
        for then in [closes as fn(Blocking), is_late] {
            let (pool, go, told, count) = server(then);
            for n in 1..=10 {
                assert_eq!(ask(&pool).await, (200, "ok".to_owned()));
                assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), n);
                go.send(()).unwrap();
                told.recv().unwrap();
            }
        }
    }

    #[tokio::test]
    async fn only_so_many_connections_are_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let pool = Pool::new(&base, Duration::from_secs(5), Duration::from_secs(5), None).unwrap();
        let mut accepted = Vec::new();
        for _ in 0..MOST_KEPT + 8 {
            pool.keep(pool.connect().await.unwrap());
            accepted.push(listener.accept().unwrap());
        }
        assert_eq!(pool.kept(), MOST_KEPT);
    }
}
