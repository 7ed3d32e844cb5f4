//! A client that stops reading before the end of a long answer: what the running binary holds for it.

use std::cell::Cell;
use std::time::Duration;

use serde_json::Value;

use crate::support::proxy::{EVENTS, PATIENCE, Proxy, STOP, STREAM, text, until, upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Bytes of the text of each answer.
const TEXT: usize = 2 << 20;
const STREAMS: usize = 10;
/// Of it in a chunk of the upstream's.
const CHUNK: usize = 1 << 10;

fn memory(proxy: &Proxy) -> usize {
    let file = format!("/proc/{}/smaps_rollup", proxy.child.id().unwrap());
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

async fn writes_much() -> std::net::SocketAddr {
    upstream(|_, mut stream| async move {
        stream.write_all(EVENTS).await.unwrap();
        let chunk = text(&"0123456789abcdef".repeat(CHUNK / 16));
        for _ in 0..TEXT / CHUNK {
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
        }
        let _ = stream.write_all(STOP.as_bytes()).await;
    })
    .await
}

/// A connection that takes little at a time, so that the proxy cannot leave the answer to the kernel.
async fn connect(proxy: &Proxy) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(proxy.base.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap()
}

/// Reads until `seen` says so: all that came.
async fn read_until(stream: &mut TcpStream, seen: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut all = Vec::new();
    let read = async {
        while !seen(&all) {
            assert!(stream.read_buf(&mut all).await.unwrap() > 0, "cut off");
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("it came in time");
    all
}

/// Whether these bytes end near one of that event.
fn came(bytes: &[u8], event: &str) -> bool {
    let from = bytes.len().saturating_sub(100 << 10);
    bytes[from..].windows(event.len()).any(|window| window == event.as_bytes())
}

/// A streamed request that is not stored.
fn request() -> String {
    let body = STREAM.replace("true}", "true,\"store\":false}");
    format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_long_text_is_held_about_once() {
    let at = writes_much().await;
    let proxy = Proxy::start(at, &[], true).await;
    let request = request();
    // one to its end, so that what a process takes once is not counted
    let mut first = connect(&proxy).await;
    first.write_all(request.as_bytes()).await.unwrap();
    let whole = read_until(&mut first, |all| came(all, "data: [DONE]")).await;
    let events = String::from_utf8(unchunked(&whole)).unwrap();
    let last = events.lines().filter_map(|line| line.strip_prefix("data: {")).next_back().unwrap();
    let last: Value = serde_json::from_str(&format!("{{{last}")).unwrap();
    assert_eq!(last["response"]["output_text"].as_str().unwrap().len(), TEXT);
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], last["response"]["output_text"]);
    let before = memory(&proxy);
    let mut stopped = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = connect(&proxy).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_until(&mut stream, |all| came(all, "event: response.output_text.done")).await;
        stopped.push(stream);
    }
    // each has ended, as far as its upstream goes, and waits for its client
    let each = memory(&proxy).saturating_sub(before) / STREAMS;
    println!("{each} bytes held for a text of {TEXT}");
    assert!(each < TEXT + TEXT / 2, "{each} bytes for a text of {TEXT}");
}

/// Readers that take nothing for now, of answers of a megabyte each.
const READERS: usize = 500;
/// What one of them may hold, however long its answer is: the text that its sockets took and that is to be repeated at its end
/// (190 KB, in a buffer that doubles), a frame on its way (64 KB, likewise), what was read of its server, and its task.
const BUFFERS: usize = 512 << 10;

/// A server is held back by its client: the answer waits there, not here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_slow_readers_hold_their_buffers_alone() {
    let at = upstream(|_, mut stream| async move {
        let _ = stream.write_all(EVENTS).await;
        let chunk = text(&"0123456789abcdef".repeat(256));
        for _ in 0..256 {
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
        }
        let _ = stream.write_all(STOP.as_bytes()).await;
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    proxy.stream().await;
    let body = STREAM.replace("true}", "true,\"store\":false}");
    let request = format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let before = memory(&proxy);
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut stream = connect(&proxy).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        readers.push(stream);
    }
    for stream in &mut readers {
        read_until(stream, |all| came(all, "event: response.output_text.delta")).await;
    }
    // all that their sockets take has been written once nothing grows any more
    let (mut most, mut still) = (memory(&proxy), 0);
    while still < 4 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = memory(&proxy);
        still = if now <= most + (1 << 20) { still + 1 } else { 0 };
        most = most.max(now);
    }
    let each = memory(&proxy).saturating_sub(before) / READERS;
    println!("{each} bytes held for each of {READERS} readers of a megabyte");
    assert!(each < BUFFERS, "{each} bytes for each reader");
    // and each goes on where it stopped
    let events = read_until(&mut readers[0], |all| came(all, "data: [DONE]")).await;
    assert!(String::from_utf8_lossy(&events).contains("event: response.completed"));
    drop(readers);
    until(async || proxy.metric("rejoinder_open_streams").await == 0).await;
    until(async || memory(&proxy) <= before + (24 << 20)).await;
}

/// Streams that are open at a time; `STREAMS=5000` where so many file descriptors are to be had, three for each.
const OPEN: usize = 600;
/// The most that one may take: 5,000 fit into 1 GiB.
const OF_ONE: usize = (1 << 30) / 5000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_open_streams_would_fit_into_a_gibibyte() {
    let count = std::env::var("STREAMS").map_or(OPEN, |count| count.parse().unwrap());
    let at = upstream(|_, mut stream| async move {
        let _ = stream.write_all(&[EVENTS, text("a token ").repeat(100).as_bytes()].concat()).await;
        // and no more, until the other side goes
        let _ = stream.read(&mut [0; 16]).await;
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let request = format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{STREAM}",
        STREAM.len()
    );
    let before = memory(&proxy);
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(proxy.base.strip_prefix("http://").unwrap()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    for stream in &mut streams {
        read_until(stream, |all| came(all, "event: response.output_text.delta")).await;
    }
    assert_eq!(proxy.metric("rejoinder_open_streams").await, count as u64);
    let all = memory(&proxy);
    println!("{count} open streams: {} MB, {} KB each", all >> 20, ((all - before) / count) >> 10);
    assert!(all < before + count * OF_ONE, "{all} bytes for {count} streams");
    drop(streams);
    until(async || proxy.metric("rejoinder_open_streams").await == 0).await;
}

/// What is held for each of some clients that stop after the beginning of an answer, once their upstreams are held back.
async fn held_for_each(buffer: &str) -> usize {
    let proxy = Proxy::start(writes_much().await, &[("REJOINDER_STREAM_BUFFER_BYTES", buffer)], true).await;
    assert!(proxy.stream().await.ends_with("data: [DONE]\n\n"));
    let before = memory(&proxy);
    let mut stopped = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = connect(&proxy).await;
        stream.write_all(request().as_bytes()).await.unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        stopped.push(stream);
    }
    let (last, steady) = (Cell::new(0), Cell::new(0));
    until(async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = memory(&proxy);
        steady.set(if last.replace(now) == now { steady.get() + 1 } else { 0 });
        steady.get() == 3
    })
    .await;
    assert_eq!(proxy.metric("rejoinder_open_streams").await, STREAMS as u64);
    last.get().saturating_sub(before) / STREAMS
}

#[tokio::test]
async fn a_client_that_stops_early_holds_its_buffers_alone() {
    let [small, large] = [held_for_each("65536").await, held_for_each("1048576").await];
    println!("{small} and {large} bytes held");
    // what waits, what is on the way from the upstream, and the request itself
    assert!(small < 320 << 10, "{small} bytes");
    assert!(large > small + (256 << 10), "the key has no effect: {large} bytes");
}

/// What a chunked answer says.
fn unchunked(answer: &[u8]) -> Vec<u8> {
    let mut rest = &answer[answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4..];
    let mut all = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        all.extend_from_slice(&rest[end + 2..(end + 2 + size).min(rest.len())]);
        rest = &rest[(end + 4 + size).min(rest.len())..];
    }
    all
}
