//! What a WebSocket does not do for ever, or for everybody: handshakes, bad messages, age, silence, the drain, slow readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::SinkExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::proxy::{EVENTS, PATIENCE, Proxy, STOP, signal, text, until, upstream, waiting};
use crate::support::socket::{Next, Socket};

async fn answering() -> std::net::SocketAddr {
    upstream(|_, mut stream| async move {
        let _ = stream.write_all(&[EVENTS, text("a").as_bytes(), STOP.as_bytes()].concat()).await;
    })
    .await
}

fn create(input: &str) -> Value {
    json!({"type": "response.create", "model": "m", "input": input, "store": false})
}

/// Waits for the first text of a response.
async fn begun(socket: &mut Socket) {
    while socket.event().await["type"] != "response.output_text.delta" {}
}

fn code(event: &Value) -> (u64, &str) {
    assert_eq!(event["type"], "error", "{event}");
    (event["status"].as_u64().unwrap(), event["error"]["code"].as_str().unwrap_or(""))
}

#[tokio::test]
async fn a_handshake_is_refused_with_a_reason() {
    let at = answering().await;
    let proxy = Proxy::start(at, &[], true).await;
    let refused = async |proxy: &Proxy, headers: &[(&'static str, &str)]| {
        let Err(answer) = Socket::try_connect(proxy, headers).await else { panic!("it was taken") };
        let body: Value = serde_json::from_slice(answer.body().as_ref().unwrap()).unwrap();
        (answer.status().as_u16(), body["error"]["code"].as_str().unwrap_or("").to_owned())
    };
    let foreign = refused(&proxy, &[("origin", "https://evil.example")]).await;
    assert_eq!(foreign, (403, "origin_not_allowed".to_owned()));
    assert_eq!(refused(&proxy, &[("host", "evil.example")]).await.0, 403);
    assert_eq!(refused(&proxy, &[("upgrade", "h2c")]).await, (426, "upgrade_required".to_owned()));
    assert_eq!(
        refused(&proxy, &[("sec-websocket-version", "8")]).await,
        (400, "invalid_handshake".to_owned())
    );
    assert_eq!(refused(&proxy, &[("sec-websocket-key", "x")]).await, (400, "invalid_handshake".to_owned()));
    // a page of an origin that is let in
    let env = [("REJOINDER_CORS__ORIGINS", "https://app.example")];
    let open = Proxy::start(at, &env, true).await;
    let mut page = Socket::connect(&open, &[("origin", "https://app.example")]).await;
    assert_eq!(page.ask(&create("x")).await.last().unwrap()["type"], "response.completed");
    assert_eq!(refused(&open, &[("origin", "https://evil.example")]).await.0, 403);
    // switched off
    let off = Proxy::start(at, &[("REJOINDER_WEBSOCKET__ENABLED", "false")], true).await;
    assert_eq!(refused(&off, &[]).await, (426, "upgrade_required".to_owned()));
}

#[tokio::test]
async fn a_message_that_is_no_event_is_an_error_and_no_end() {
    let proxy = Proxy::start(answering().await, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    for (message, want, param) in [
        (Message::text("{"), (400, "invalid_json"), json!(null)),
        (Message::text("[]"), (400, "invalid_json"), json!(null)),
        (Message::text("{\"type\":\"session.update\"}"), (400, "invalid_value"), json!("type")),
        (Message::text("{\"model\":\"m\"}"), (400, "missing_required_parameter"), json!("type")),
        (
            Message::text("{\"type\":\"response.create\",\"model\":\"m\",\"input\":7}"),
            (400, "invalid_type"),
            json!("input"),
        ),
        (Message::binary("{\"type\":\"response.create\"}"), (400, "invalid_type"), json!(null)),
    ] {
        socket.stream.send(message.clone()).await.unwrap();
        let event = socket.event().await;
        assert_eq!((code(&event), &event["error"]["param"]), (want, &param), "{message:?}");
        assert!(event["error"]["message"].as_str().is_some_and(|text| text.len() > 10), "{event}");
        assert_eq!(event["error"]["type"], "invalid_request_error");
    }
    let events = socket.ask(&create("x")).await;
    assert_eq!(events.last().unwrap()["type"], "response.completed");
    // without an end it is no mistake
    for _ in 0..101 {
        socket.send_text("?").await;
    }
    assert_eq!(socket.close_code().await, Some(CloseCode::Policy));
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_connection_with_a_reason() {
    let env = [("REJOINDER_MAX_BODY_BYTES", "100000")];
    let proxy = Proxy::start(answering().await, &env, true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let events = socket.ask(&create(&"x".repeat(90_000))).await;
    assert_eq!(events.last().unwrap()["type"], "response.completed");
    // all of it is taken, so that the client reads why
    socket.send(&create(&"x".repeat(3_000_000))).await;
    let event = socket.event().await;
    assert_eq!(code(&event), (413, "request_too_large"));
    assert_eq!(socket.close_code().await, Some(CloseCode::Size));
}

/// What is no frame, or no text, ends the connection with the code that RFC 6455 has for it.
#[tokio::test]
async fn what_is_no_frame_ends_the_connection() {
    let proxy = Proxy::start(answering().await, &[], true).await;
    let frames: [(&[u8], CloseCode); 4] = [
        // text that is not UTF-8, a frame without a mask, one of a reserved kind, one with a bit of an extension
        (b"\x81\x81\0\0\0\0\xff", CloseCode::Invalid),
        (b"\x81\x01x", CloseCode::Protocol),
        (b"\x83\x80\0\0\0\0", CloseCode::Protocol),
        (b"\xc1\x81\0\0\0\0x", CloseCode::Protocol),
    ];
    for (frame, code) in frames {
        let mut socket = Socket::connect(&proxy, &[]).await;
        socket.stream.get_mut().write_all(frame).await.unwrap();
        assert_eq!(socket.close_code().await, Some(code), "{frame:?}");
    }
}

#[tokio::test]
async fn frames_may_be_cut_anywhere() {
    let proxy = Proxy::start(answering().await, &[], true).await;
    let address = proxy.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let head = format!(
        "GET /v1/responses HTTP/1.1\r\nHost: {address}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    // two fragments with a ping in between; masked by zeros, which change nothing
    let text = create("caf\u{e9}").to_string();
    let (first, rest) = text.as_bytes().split_at(text.find('\u{e9}').unwrap() + 1);
    let frame = |first: u8, payload: &[u8]| {
        [&[first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0], payload].concat()
    };
    let frames = [frame(0x01, first), frame(0x89, b"here"), frame(0x80, rest)].concat();
    // the first frame comes with the head, as far as that goes
    for byte in head.as_bytes().iter().chain(&frames) {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut seen = Vec::new();
    let has = |seen: &[u8], what: &str| seen.windows(what.len()).any(|window| window == what.as_bytes());
    while !has(&seen, "\"response.completed\"") {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut seen)).await.unwrap();
        assert!(read.unwrap() > 0, "{}", String::from_utf8_lossy(&seen));
    }
    assert!(seen.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
    assert!(has(&seen, "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "the example of RFC 6455");
    assert!(has(&seen, "\u{8a}") || seen.windows(6).any(|window| window == b"\x8a\x04here"), "no pong");
}

#[tokio::test]
async fn creates_are_bounded_in_number() {
    let (at, go) = waiting().await;
    let proxy = Proxy::start(at, &[("REJOINDER_WEBSOCKET__MAX_PENDING", "2")], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    socket.send(&create("one")).await;
    begun(&mut socket).await;
    socket.send(&create("two")).await;
    let mut third = create("three");
    third["stream_id"] = json!("a");
    socket.send(&third).await;
    let refused = socket.event().await;
    assert_eq!((code(&refused).0, &refused["stream_id"]), (429, &json!("a")));
    assert!(refused["error"]["message"].as_str().unwrap().contains("websocket.max_pending"), "{refused}");
    assert!(refused["error"]["headers"]["retry-after"].is_string(), "{refused}");
    go.notify_one();
    assert_eq!(socket.answer().await.last().unwrap()["type"], "response.completed");
    go.notify_one();
    assert_eq!(socket.answer().await.last().unwrap()["type"], "response.completed");
}

/// What runs ends in its time, what waits is refused, and the code tells the client to open another connection.
#[tokio::test]
async fn the_drain_ends_a_connection_behind_what_runs() {
    let (at, go) = waiting().await;
    let mut proxy = Proxy::start(at, &[], true).await;
    let mut idle = Socket::connect(&proxy, &[]).await;
    let mut busy = Socket::connect(&proxy, &[]).await;
    busy.send(&create("one")).await;
    begun(&mut busy).await;
    busy.send(&create("two")).await;
    // a bad message's error shows that all before it was read
    busy.send_text("?").await;
    assert_eq!(code(&busy.event().await).1, "invalid_json");
    signal(&proxy.child, "TERM");
    assert_eq!(idle.close_code().await, Some(CloseCode::Away));
    assert_eq!(code(&busy.event().await).0, 503, "what waits");
    busy.send(&create("three")).await;
    assert_eq!(code(&busy.event().await).0, 503, "what comes");
    go.notify_one();
    assert_eq!(busy.answer().await.last().unwrap()["type"], "response.completed");
    assert_eq!(busy.close_code().await, Some(CloseCode::Away));
    let status = tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn the_end_of_the_drain_fails_what_still_runs() {
    let (at, _go) = waiting().await;
    let mut proxy = Proxy::start(at, &[("REJOINDER_DRAIN_TIMEOUT", "100ms")], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    socket.send(&create("one")).await;
    begun(&mut socket).await;
    signal(&proxy.child, "TERM");
    let events = socket.answer().await;
    assert_eq!(events.last().unwrap()["type"], "response.failed");
    assert_eq!(socket.close_code().await, Some(CloseCode::Away));
    assert!(tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn a_connection_has_an_age() {
    let (at, go) = waiting().await;
    let proxy = Proxy::start(at, &[("REJOINDER_WEBSOCKET__MAX_AGE", "1s")], true).await;
    let mut idle = Socket::connect(&proxy, &[]).await;
    let mut busy = Socket::connect(&proxy, &[]).await;
    busy.send(&create("one")).await;
    begun(&mut busy).await;
    busy.send(&create("two")).await;
    let limit = (400, "websocket_connection_limit_reached");
    assert_eq!(code(&idle.event().await), limit);
    assert_eq!(idle.close_code().await, Some(CloseCode::Away));
    assert_eq!(code(&busy.event().await), limit, "what waits");
    go.notify_one();
    assert_eq!(busy.answer().await.last().unwrap()["type"], "response.completed", "what runs");
    assert_eq!(code(&busy.event().await), limit);
    assert_eq!(busy.close_code().await, Some(CloseCode::Away));
}

#[tokio::test]
async fn an_idle_connection_is_pinged_and_closed_one_day() {
    let (at, go) = waiting().await;
    let env =
        [("REJOINDER_WEBSOCKET__PING_INTERVAL", "100ms"), ("REJOINDER_WEBSOCKET__IDLE_TIMEOUT", "500ms")];
    let proxy = Proxy::start(at, &env, true).await;
    let mut idle = Socket::connect(&proxy, &[]).await;
    let mut busy = Socket::connect(&proxy, &[]).await;
    busy.send(&create("one")).await;
    let mut pings = 0;
    loop {
        match idle.next().await {
            Next::Ping => pings += 1,
            Next::Closed(code) => {
                assert_eq!(code, Some(CloseCode::Away));
                break;
            }
            Next::Event(event) => panic!("{event}"),
        }
    }
    assert!(pings >= 2, "{pings} pings");
    // its response is older than that by now
    go.notify_one();
    assert_eq!(busy.answer().await.last().unwrap()["type"], "response.completed");
}

/// A client that does not read holds up its server's answer, and not our memory; in the end it loses its place.
#[tokio::test]
async fn a_client_that_does_not_read_holds_up_the_upstream() {
    let written = Arc::new(AtomicUsize::new(0));
    let (count, gone) = (written.clone(), Arc::new(Notify::new()));
    let told = gone.clone();
    let at = upstream(move |_, mut stream| {
        let (count, told) = (count.clone(), told.clone());
        async move {
            stream.write_all(EVENTS).await.unwrap();
            let chunk = text(&"x".repeat(1000));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {
                count.fetch_add(chunk.len(), Ordering::SeqCst);
            }
            told.notify_one();
        }
    })
    .await;
    let proxy = Proxy::start(at, &[("REJOINDER_SEND_TIMEOUT", "1s")], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    socket.send(&create("x")).await;
    tokio::time::timeout(PATIENCE, gone.notified()).await.expect("its place is free");
    let written = written.load(Ordering::SeqCst);
    assert!(written < 32 << 20, "{written} bytes were taken for a client that does not read");
    until(async || proxy.metric("rejoinder_open_websockets").await == 0).await;
}

/// What is on its way of messages counts in the memory of all requests.
#[tokio::test]
async fn messages_count_in_the_budget_as_they_come() {
    let env = [("REJOINDER_MAX_BUFFERED_BYTES", "4000000"), ("REJOINDER_BUFFER_TIMEOUT", "100ms")];
    let proxy = Proxy::start(answering().await, &env, true).await;
    let address = proxy.base.strip_prefix("http://").unwrap();
    // the most of a message, whose end does not come
    let mut first = Socket::connect(&proxy, &[]).await;
    let length = 3_000_000_u64;
    let raw = first.stream.get_mut();
    raw.write_all(&[0x81, 0xff]).await.unwrap();
    raw.write_all(&length.to_be_bytes()).await.unwrap();
    raw.write_all(&[0; 4]).await.unwrap();
    raw.write_all(&vec![b' '; 2_900_000]).await.unwrap();
    until(async || proxy.metric("rejoinder_buffered_bytes").await > 2_500_000).await;
    let mut second = Socket::connect(&proxy, &[]).await;
    second.send(&create(&"x".repeat(2_000_000))).await;
    let refused = second.event().await;
    assert_eq!(code(&refused), (429, "rate_limit_exceeded"));
    assert_eq!(second.close_code().await, Some(CloseCode::Again));
    assert!(!address.is_empty());
    drop(first);
    until(async || proxy.metric("rejoinder_buffered_bytes").await == 0).await;
    let mut third = Socket::connect(&proxy, &[]).await;
    let events = third.ask(&create(&"x".repeat(1_000_000))).await;
    assert_eq!(events.last().unwrap()["type"], "response.completed");
}

/// Bytes of memory of a process, its share of what it shares.
#[cfg(target_os = "linux")]
fn memory(pid: u32) -> usize {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn idle_connections_are_cheap() {
    const SOCKETS: usize = 2000;
    let limit = rlimit::increase_nofile_limit(2 * SOCKETS as u64).unwrap();
    assert!(limit > SOCKETS as u64 + 100, "{limit} file descriptors are too few for this test");
    let proxy = Proxy::start(answering().await, &[], true).await;
    let pid = proxy.child.id().unwrap();
    let before = memory(pid);
    let mut sockets = Vec::with_capacity(SOCKETS);
    for _ in 0..SOCKETS {
        sockets.push(Socket::connect(&proxy, &[]).await);
    }
    until(async || proxy.metric("rejoinder_open_websockets").await == SOCKETS as u64).await;
    let grown = memory(pid).saturating_sub(before);
    assert!(grown < 100_000_000, "{grown} bytes for {SOCKETS} idle connections");
    // and so are those that had a response
    for socket in &mut sockets {
        assert_eq!(socket.ask(&create("x")).await.last().unwrap()["type"], "response.completed");
    }
    let grown = memory(pid).saturating_sub(before);
    assert!(grown < 150_000_000, "{grown} bytes for {SOCKETS} connections that had a response");
    println!("{SOCKETS} idle connections: {grown} bytes");
}

/// What a long message took goes back while its connection goes on.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_long_message_leaves_no_buffer_behind() {
    const SOCKETS: usize = 40;
    let env = [("REJOINDER_WEBSOCKET__MEMORY_MAX_BYTES", "1024")];
    let proxy = Proxy::start(answering().await, &env, true).await;
    let pid = proxy.child.id().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(Socket::connect(&proxy, &[]).await);
    }
    let (short, long) = (create("x"), create(&"x".repeat(2 << 20)));
    for socket in &mut sockets {
        socket.ask(&short).await;
    }
    let before = memory(pid);
    for (n, socket) in sockets.iter_mut().enumerate() {
        // one that is no event is let go of before the next is read
        match n % 2 {
            0 => drop(socket.ask(&long).await),
            _ => {
                socket.send_text(&"x".repeat(2 << 20)).await;
                assert_eq!(code(&socket.event().await).1, "invalid_json");
            }
        }
        // what comes then is read by the new buffer
        assert_eq!(socket.ask(&short).await.last().unwrap()["type"], "response.completed");
    }
    until(async || memory(pid).saturating_sub(before) < SOCKETS << 19).await;
}
