//! Exchanges on connections whose server is a script: it is given in pieces, and the reader is parked before each of them.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::connection::Connection;
use super::{Pool, Response, TransportError, Why, post};
use crate::upstream::body::Body as RequestBody;

const BODY: &[u8] = b"{\"a\":1}";
const REQUEST: &[u8] = b"POST /v1/x HTTP/1.1\r\nhost: a:1\r\ncontent-length: 7\r\n\r\n{\"a\":1}";

/// How the bytes of a script are read, and how many are written at a time.
#[derive(Debug, Clone, Copy)]
enum Pieces {
    /// One byte each.
    Bytes,
    /// All up to here, then the rest.
    Two(usize),
}

/// What follows the last response.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    Open,
    Close,
    Reset,
    /// The same as the next request arrives.
    CloseWhenAsked,
    ResetWhenAsked,
}

/// A server's side of one connection.
#[derive(Clone)]
struct Script {
    /// One for each request, sent once that is there as a whole.
    responses: Vec<Vec<u8>>,
    then: Then,
}

struct Scripted {
    script: Script,
    pieces: Pieces,
    read: usize,
    written: Vec<u8>,
    /// Whether the next read and the next write are ready.
    ready: [bool; 2],
    /// What all connections of a test were sent.
    requests: Arc<Mutex<Vec<u8>>>,
}

fn script(responses: &[&[u8]], then: Then) -> Script {
    Script { responses: responses.iter().map(|response| response.to_vec()).collect(), then }
}

impl Scripted {
    fn asked(&self) -> usize {
        self.written.len() / REQUEST.len()
    }

    /// What the server has sent by now.
    fn sent(&self) -> Vec<u8> {
        self.script.responses.iter().take(self.asked()).flatten().copied().collect()
    }

    fn is_over(&self) -> bool {
        let more = usize::from(matches!(self.script.then, Then::CloseWhenAsked | Then::ResetWhenAsked));
        self.asked() >= self.script.responses.len() + more
    }

    /// Not ready at every other call.
    fn park(&mut self, which: usize, cx: &Context<'_>) -> bool {
        self.ready[which] = !self.ready[which];
        if self.ready[which] {
            cx.waker().wake_by_ref();
        }
        self.ready[which]
    }
}

impl Connection for Scripted {
    fn is_silent(&self) -> bool {
        let ended = self.is_over() && self.script.then != Then::Open;
        !ended && self.read == self.sent().len()
    }

    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl AsyncRead for Scripted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let sent = this.sent();
        if this.read == sent.len() && !(this.is_over() && this.script.then != Then::Open) {
            return Poll::Pending;
        }
        if this.park(0, cx) {
            return Poll::Pending;
        }
        let rest = &sent[this.read..];
        let piece = match this.pieces {
            Pieces::Two(at) if this.read < at => rest.len().min(at - this.read),
            Pieces::Two(_) => rest.len(),
            Pieces::Bytes => rest.len().min(1),
        };
        if piece == 0 && matches!(this.script.then, Then::Reset | Then::ResetWhenAsked) {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        out.put_slice(&rest[..piece]);
        this.read += piece;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.park(1, cx) {
            return Poll::Pending;
        }
        let written = match this.pieces {
            Pieces::Bytes => 1,
            Pieces::Two(at) => bytes.len().min(at.max(1)),
        };
        this.written.extend_from_slice(&bytes[..written]);
        this.requests.lock().unwrap().extend_from_slice(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.get_mut().park(1, cx) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A pool whose connections are these scripts, one after another.
struct Server {
    pool: Arc<Pool<Scripted>>,
    opened: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<u8>>>,
}

/// What an exchange came to.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// The status, or why there is none.
    status: Result<u16, String>,
    data: Vec<u8>,
    /// Why the body is cut.
    cut: Option<String>,
}

impl Server {
    fn new(scripts: &[Script], pieces: Pieces) -> Server {
        let (opened, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, sent, scripts) = (opened.clone(), requests.clone(), scripts.to_vec());
        let open = move || {
            let script = scripts.get(count.fetch_add(1, Ordering::SeqCst)).cloned();
            let requests = sent.clone();
            let refused = TransportError { why: Why::Refused, cause: "no more connections".to_owned() };
            let opened = script.ok_or(refused).map(|script| Scripted {
                script,
                pieces,
                read: 0,
                written: Vec::new(),
                ready: [false; 2],
                requests,
            });
            async { opened }.boxed()
        };
        let pool = Pool::opening("a:1", "/v1", None, Duration::from_secs(60), Box::new(open));
        Server { pool, opened, requests }
    }

    async fn post(&self) -> Result<Response<Scripted>, TransportError> {
        let connection = self.pool.connection().await?;
        post(&self.pool, connection, "/x", &[], RequestBody::Own(BODY.to_vec().into())).await
    }

    async fn ask(&self) -> Outcome {
        let mut response = match self.post().await {
            Ok(response) => response,
            Err(error) => return Outcome { status: Err(error.cause), data: Vec::new(), cut: None },
        };
        let (mut data, mut cut) = (Vec::new(), None);
        while let Some(read) = poll_fn(|cx| response.body.poll_more(cx, &mut data)).await {
            cut = read.err().map(|error| error.cause).or(cut);
        }
        Outcome { status: Ok(response.head.status.as_u16()), data, cut }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// Each request as it stands here, and so many.
    fn assert_requests(&self, count: usize) {
        let requests = self.requests.lock().unwrap();
        assert_eq!(String::from_utf8_lossy(&requests), String::from_utf8_lossy(&REQUEST.repeat(count)));
    }
}

/// A stall at every byte, and one at each byte alone.
fn pieces(bytes: usize) -> impl Iterator<Item = Pieces> {
    (0..=bytes).map(Pieces::Two).chain([Pieces::Bytes])
}

const KEPT: bool = true;
const LEFT: bool = false;

/// What comes of one response: its status and data, why the body is cut, and whether the connection is kept.
const RESPONSES: &[(&str, Then, u16, &str, &str, bool)] = &[
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Then::Open, 200, "hello", "", KEPT),
    ("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", Then::Open, 200, "hello", "", KEPT),
    ("\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Open, 200, "", "", KEPT),
    ("HTTP/1.1 204 No Content\r\n\r\n", Then::Open, 204, "", "", KEPT),
    ("HTTP/1.1 429 No\r\nContent-Length: 2\r\n\r\nno", Then::Open, 429, "no", "", KEPT),
    // interim responses, one of them with a body's header
    (
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
        Then::Open,
        200,
        "a",
        "",
        KEPT,
    ),
    (
        "HTTP/1.1 103 Early\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
        Then::Open,
        200,
        "a",
        "",
        KEPT,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=\"y\"\r\nde\r\n0\r\nT: u\r\n\r\n",
        Then::Open,
        200,
        "abcde",
        "",
        KEPT,
    ),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Then::Open, 200, "", "", KEPT),
    // no length: the body ends with the connection
    ("HTTP/1.1 200 OK\r\n\r\nall of it", Then::Close, 200, "all of it", "", LEFT),
    ("HTTP/1.0 200 OK\r\n\r\nall of it", Then::Close, 200, "all of it", "", LEFT),
    ("HTTP/1.1 200 OK\r\n\r\nall", Then::Reset, 200, "all", "reset", LEFT),
    // who keeps the connection, and who does not
    ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na", Then::Open, 200, "a", "", LEFT),
    ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", Then::Open, 200, "a", "", LEFT),
    (
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
        Then::Open,
        200,
        "a",
        "",
        KEPT,
    ),
    // two lengths: chunks are read, and the connection is left
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        Then::Open,
        200,
        "a",
        "",
        LEFT,
    ),
    // more than the body is no answer to anything
    ("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1", Then::Open, 204, "", "", LEFT),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\r\n", Then::Open, 200, "", "", LEFT),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200", Then::Open, 200, "a", "", LEFT),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nHTTP",
        Then::Open,
        200,
        "a",
        "",
        LEFT,
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", Then::Close, 200, "hel", "closed", LEFT),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", Then::Reset, 200, "hel", "reset", LEFT),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", Then::Close, 200, "ab", "closed", LEFT),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
        Then::Close,
        200,
        "a",
        "closed",
        LEFT,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naX\n",
        Then::Open,
        200,
        "a",
        "not ended by CRLF",
        LEFT,
    ),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx", Then::Open, 200, "", "without a size", LEFT),
];

#[tokio::test]
async fn a_response_is_the_same_in_any_pieces() {
    for &(response, then, status, data, cut, kept) in RESPONSES {
        for pieces in pieces(response.len()) {
            let server = Server::new(&[script(&[response.as_bytes()], then)], pieces);
            let outcome = server.ask().await;
            let shown = format!("{response:?} {then:?} {pieces:?}: {outcome:?}");
            assert_eq!(outcome.status, Ok(status), "{shown}");
            assert_eq!(outcome.data, data.as_bytes(), "{shown}");
            assert_eq!(outcome.cut.is_some(), !cut.is_empty(), "{shown}");
            assert!(outcome.cut.unwrap_or_default().contains(cut), "{shown}");
            // there is but one script: the next connection is that one, or none
            assert_eq!(server.pool.connection().await.is_ok(), kept, "{shown}");
            server.assert_requests(1);
        }
    }
}

#[tokio::test]
async fn what_is_no_response_is_an_error_in_any_pieces() {
    for (response, then, cause) in [
        ("SSH-2.0-OpenSSH_9.9\r\n", Then::Open, "HTTP"),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Then::Open, "HTTP/1.0"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Then::Open, "Content-Length"),
        ("HTTP/1.1 200 OK\r\nContent-Len", Then::Close, "closed"),
        ("HTTP/1.1 100 Continue\r\n\r\n", Then::Close, "closed"),
        ("HTTP/1.1 200 OK\r\n", Then::Reset, "reset"),
        ("", Then::Close, "closed"),
        ("", Then::Reset, "reset"),
    ] {
        for pieces in pieces(response.len()) {
            let server = Server::new(&[script(&[response.as_bytes()], then)], pieces);
            let outcome = server.ask().await;
            let found = outcome.status.expect_err("an error");
            assert!(found.contains(cause), "{response:?} {then:?} {pieces:?}: {found}");
            // the connection was fresh: nobody asks once more
            assert_eq!((server.opened(), server.pool.kept()), (1, 0), "{response:?} {pieces:?}");
            server.assert_requests(1);
        }
    }
}

#[tokio::test]
async fn one_connection_serves_request_after_request() {
    let responses: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ];
    let bytes = responses.iter().map(|response| response.len()).sum();
    for pieces in pieces(bytes) {
        let server = Server::new(&[script(&responses, Then::Open)], pieces);
        for (status, data) in [(200, &b"hello"[..]), (200, b"hello"), (503, b"hello"), (204, b"")] {
            let want = Outcome { status: Ok(status), data: data.to_vec(), cut: None };
            assert_eq!(server.ask().await, want, "{pieces:?}");
            assert_eq!((server.opened(), server.pool.kept()), (1, 1), "{pieces:?}");
        }
        server.assert_requests(4);
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Each first connection is kept, and ends as the second request arrives, or with 408: that is sent again, once.
#[tokio::test]
async fn a_stale_connection_costs_another_one_and_no_failure() {
    const LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    for stale in [
        script(&[OK], Then::CloseWhenAsked),
        script(&[OK], Then::ResetWhenAsked),
        script(&[OK, LATE], Then::Close),
    ] {
        for pieces in pieces(OK.len() + LATE.len()) {
            let server = Server::new(&[stale.clone(), script(&[OK], Then::Open)], pieces);
            let want = || Outcome { status: Ok(200), data: b"ok".to_vec(), cut: None };
            assert_eq!([server.ask().await, server.ask().await], [want(), want()], "{pieces:?}");
            assert_eq!(server.opened(), 2, "{pieces:?}");
            server.assert_requests(3);
            // and no third time
            let server = Server::new(&[stale.clone(), script(&[], Then::CloseWhenAsked)], pieces);
            server.ask().await;
            assert!(server.ask().await.status.is_err_and(|cause| cause.contains("closed")), "{pieces:?}");
            server.assert_requests(3);
        }
    }
}

/// A server that closed, or said something, while nothing was asked.
#[tokio::test]
async fn a_kept_connection_is_looked_at_before_it_is_used() {
    for then in [Then::Close, Then::Reset] {
        let server = Server::new(&[script(&[OK], then), script(&[OK], Then::Open)], Pieces::Bytes);
        server.ask().await;
        assert_eq!(server.ask().await.status, Ok(200));
        assert_eq!(server.opened(), 2);
        server.assert_requests(2);
    }
}

/// A request of which a part was answered is not sent again, on a kept connection either: it may have been carried out.
#[tokio::test]
async fn a_request_that_was_answered_in_part_is_not_sent_again() {
    for part in [&b"HTTP/1.1 100 Continue\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\nContent", b"H"] {
        for pieces in pieces(OK.len() + part.len()) {
            let server = Server::new(&[script(&[OK, part], Then::Close)], pieces);
            server.ask().await;
            assert!(server.ask().await.status.is_err_and(|cause| cause.contains("closed")), "{part:?}");
            assert_eq!(server.opened(), 1);
        }
    }
}

/// A token that has arrived does not wait for what is behind it.
#[tokio::test]
async fn each_byte_of_a_body_is_there_when_it_has_arrived() {
    for response in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhello world",
        "HTTP/1.1 200 OK\r\n\r\nhello world",
    ] {
        let server = Server::new(&[script(&[response.as_bytes()], Then::Open)], Pieces::Bytes);
        let mut body = server.post().await.unwrap().body;
        let mut data = Vec::new();
        for at in 1..="hello world".len() {
            let read = poll_fn(|cx| body.poll_more(cx, &mut data)).await;
            assert_eq!((read.unwrap().unwrap(), data.len()), (1, at), "{response}");
        }
        assert_eq!(data, b"hello world");
        // the server says no more, and the connection is not kept while it may
        assert!(poll_fn(|cx| body.poll_more(cx, &mut data)).now_or_never().is_none());
        drop(body);
        assert_eq!(server.pool.kept(), 0);
    }
}
