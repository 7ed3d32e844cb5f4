//! What all requests together may hold of memory, by the running binary: who is refused, who is not, and that all of it
//! comes back.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::support::proxy::{EVENTS, PATIENCE, Proxy, STOP, STREAM, text, until, upstream};
use async_compression::tokio::write::ZstdEncoder;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const MB: usize = 1 << 20;
/// Room for little more than two of the requests below.
const TIGHT: [(&str, &str); 2] =
    [("REJOINDER_MAX_BUFFERED_BYTES", "8388608"), ("REJOINDER_BUFFER_TIMEOUT", "100ms")];

/// A request of about so many bytes; it is not kept.
fn request(bytes: usize) -> String {
    let text = "x".repeat(bytes);
    format!("{{\"model\":\"m\",\"stream\":true,\"store\":false,\"input\":\"{text}\"}}")
}

async fn answers_at_once() -> SocketAddr {
    upstream(|_, mut stream| async move {
        stream.write_all([EVENTS, text("a").as_bytes(), STOP.as_bytes()].concat().as_slice()).await.unwrap();
    })
    .await
}

/// A connection that has sent so much of a request, with this head.
async fn begun(proxy: &Proxy, head: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.base.strip_prefix("http://").unwrap()).await.unwrap();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream
}

fn memory(proxy: &Proxy) -> usize {
    let file = format!("/proc/{}/smaps_rollup", proxy.child.id().unwrap());
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

async fn first_line(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let read = async {
        while !seen.contains(&b'\r') {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "closed without an answer");
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an answer");
    String::from_utf8(seen).unwrap().lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_the_body() {
    let at = answers_at_once().await;
    let proxy = Proxy::start(at, &[("REJOINDER_MAX_BODY_BYTES", "100000")], true).await;
    for head in ["Content-Length: 100001", "Content-Length: 100001\r\nExpect: 100-continue"] {
        let mut stream = begun(&proxy, head, b"").await;
        assert_eq!(first_line(&mut stream).await, "HTTP/1.1 413 Payload Too Large", "{head}");
    }
    // a client that writes all before it reads is told as well
    let response = proxy.post(request(4 * MB)).send().await.unwrap();
    assert_eq!(response.status(), 413);
    let mut stream = begun(&proxy, "Content-Length: 2\r\nExpect: 100-continue", b"").await;
    assert_eq!(first_line(&mut stream).await, "HTTP/1.1 100 Continue");
}

#[tokio::test]
async fn large_requests_are_refused_where_others_hold_all_and_small_ones_are_not() {
    let at = answers_at_once().await;
    let proxy = Proxy::start(at, &TIGHT, true).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(begun(&proxy, &format!("Content-Length: {}", 3 * MB), &vec![b' '; 3 * MB - 1]).await);
    }
    until(async || proxy.metric("rejoinder_buffered_bytes").await >= 6 * MB as u64).await;
    let refused = proxy.post(request(2 * MB)).send().await.unwrap();
    assert_eq!(refused.status(), 429);
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    let error: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
    assert_eq!(error["error"]["type"], "rate_limit_error");
    assert!(error["error"]["message"].as_str().unwrap().contains("max_buffered_bytes"), "{error}");
    assert_eq!(proxy.metric("rejoinder_over_capacity_total").await, 1);
    // one that is small only as long as it is compressed is large
    let mut encoder = ZstdEncoder::new(Vec::new());
    encoder.write_all(request(2 * MB).as_bytes()).await.unwrap();
    encoder.shutdown().await.unwrap();
    let packed = proxy.post(encoder.into_inner()).header("content-encoding", "zstd").send().await.unwrap();
    assert_eq!(packed.status(), 429);
    for _ in 0..3 {
        assert_eq!(proxy.post(STREAM).send().await.unwrap().status(), 200);
    }
    drop(open);
    until(async || proxy.metric("rejoinder_buffered_bytes").await == 0).await;
    let response = proxy.post(request(2 * MB)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    until(async || proxy.metric("rejoinder_buffered_bytes").await == 0).await;
}

#[tokio::test]
async fn a_request_that_waits_for_room_is_served_when_there_is_some() {
    let at = answers_at_once().await;
    let env = [("REJOINDER_MAX_BUFFERED_BYTES", "8388608"), ("REJOINDER_BUFFER_TIMEOUT", "1m")];
    let proxy = Proxy::start(at, &env, true).await;
    let open = begun(&proxy, &format!("Content-Length: {}", 7 * MB), &vec![b' '; 7 * MB - 1]).await;
    until(async || proxy.metric("rejoinder_buffered_bytes").await >= 6 * MB as u64).await;
    let mut second = begun(&proxy, &format!("Content-Length: {}", request(MB).len()), b"").await;
    let (mut reader, mut writer) = second.split();
    let body = request(MB);
    let write = async { writer.write_all(body.as_bytes()).await.unwrap() };
    let answer = async {
        let mut status = [0; 15];
        reader.read_exact(&mut status).await.unwrap();
        String::from_utf8(status.to_vec()).unwrap()
    };
    let free = async {
        until(async || proxy.metric("rejoinder_buffered_bytes").await >= 7 * MB as u64).await;
        drop(open);
    };
    let ((), answer, ()) = tokio::join!(write, answer, free);
    assert_eq!(answer, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn what_waits_for_the_upstream_is_counted_until_it_answers() {
    let go = Arc::new(Semaphore::new(0));
    let wait = go.clone();
    let at = upstream(move |_, mut stream| {
        let wait = wait.clone();
        async move {
            let _go = wait.acquire().await.unwrap();
            stream.write_all(EVENTS).await.unwrap();
            stream.write_all(text("a").as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let answers = async { proxy.post(request(2 * MB)).send().await.unwrap() };
    let counted = async {
        until(async || proxy.metric("rejoinder_buffered_bytes").await >= 2 * MB as u64).await;
        go.add_permits(1);
    };
    let (mut response, ()) = tokio::join!(answers, counted);
    while !String::from_utf8(response.chunk().await.unwrap().unwrap().to_vec()).unwrap().contains("delta") {}
    until(async || proxy.metric("rejoinder_buffered_bytes").await == 0).await;
}

#[tokio::test]
async fn memory_goes_back_after_large_requests() {
    let at = answers_at_once().await;
    let proxy = Proxy::start(at, &[], true).await;
    proxy.stream().await;
    let before = memory(&proxy);
    for round in 0..4 {
        // with and without a length in advance
        let send = async |n: usize| {
            let body = request(17 * MB + n * MB);
            let body = match round % 2 {
                0 => reqwest::Body::from(body),
                _ => reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>(body)])),
            };
            let response = proxy.post(body).send().await.unwrap();
            assert_eq!(response.status(), 200);
            response.text().await.unwrap();
        };
        tokio::join!(send(0), send(1), send(2), send(3));
    }
    let most = before + 24 * MB;
    until(async || memory(&proxy) <= most).await;
}

/// Of an upstream's long lines too, which no request announces.
#[tokio::test]
async fn memory_goes_back_after_large_answers() {
    let at = upstream(|_, mut stream| async move {
        let piece = "x".repeat(MB);
        stream.write_all([EVENTS, b"data: "].concat().as_slice()).await.unwrap();
        // more than a line may have
        for _ in 0..20 {
            if stream.write_all(piece.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    proxy.stream().await;
    let before = memory(&proxy);
    for _ in 0..3 {
        let streams = futures::future::join_all((0..8).map(|_| proxy.stream())).await;
        assert!(streams.iter().all(|stream| stream.contains("response.failed")));
    }
    let most = before + 24 * MB;
    until(async || memory(&proxy) <= most).await;
}
