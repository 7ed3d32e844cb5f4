//! Owns the tests of time-outs: a peer that lives is waited for, one that is silent or dead is noticed. Real processes
//! and sockets; the servers and some of the clients are scripted.

use crate::support::proxy;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::proxy::{EVENTS, LISTED, Proxy, STOP, STREAM, text, until, upstream, whole};
use futures::StreamExt;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A llama-server whose threads are all taken: of a chat request it reads the head alone, and gives the rest to `chat`.
/// Counts the chat requests.
async fn heads<A>(
    chat: impl Fn(String, TcpStream) -> A + Copy + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>)
where
    A: Future<Output = std::io::Result<()>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, chats) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = chats.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = count.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let head = String::from_utf8(head).unwrap();
                let answer = match head.split(' ').nth(1).unwrap() {
                    "/props" => whole("200 OK", "application/json", "{\"default_generation_settings\":{}}"),
                    "/health" => whole("200 OK", "application/json", "{}"),
                    "/v1/models" => whole("200 OK", "application/json", LISTED),
                    _ => {
                        count.fetch_add(1, Ordering::SeqCst);
                        return chat(head, stream).await;
                    }
                };
                stream.write_all(&answer).await
            });
        }
    });
    (at, chats)
}

/// Longer than the kernel's patience was: TCP_USER_TIMEOUT, which counts a closed window too, was 30 s. No shorter time
/// shows that it is gone, and that nothing else counts.
#[tokio::test]
async fn a_request_may_wait_unread_in_a_busy_servers_socket() {
    let (at, chats) = heads(|head, mut stream| async move {
        tokio::time::sleep(Duration::from_secs(40)).await;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        stream.read_exact(&mut vec![0; length.unwrap().parse().unwrap()]).await?;
        stream.write_all(&[EVENTS, text("late").as_bytes(), STOP.as_bytes()].concat()).await
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let request = json!({"model": "m", "input": "x".repeat(1 << 20), "stream": true}).to_string();
    let answer = proxy.post(request).send().await.unwrap().text().await.unwrap();
    assert!(answer.contains("event: response.completed"), "{}", &answer[answer.len().saturating_sub(600)..]);
    assert_eq!(chats.load(Ordering::SeqCst), 1, "sent again");
}

/// What the proxy says of a request for a passed-through path, and how long it took to say so.
async fn passed(proxy: &Proxy, path: &str) -> (reqwest::Result<String>, u16, Duration) {
    let begun = Instant::now();
    let response = reqwest::get(format!("{}{path}", proxy.base)).await.unwrap();
    let status = response.status().as_u16();
    (response.text().await, status, begun.elapsed())
}

#[tokio::test]
async fn a_passed_through_request_ends_by_response_timeout() {
    let at = upstream(|_, stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Proxy::start(at, &[("REJOINDER_UPSTREAM__RESPONSE_TIMEOUT", "300ms")], true).await;
    let (answer, status, took) = passed(&proxy, "/v1/other").await;
    assert_eq!(status, 504);
    let error: Value = serde_json::from_str(&answer.unwrap()).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("0.3 s"), "{error}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn a_passed_through_upload_that_nobody_reads_ends_by_response_timeout() {
    let (at, asked) = heads(|_, stream| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    let proxy = Proxy::start(at, &[("REJOINDER_UPSTREAM__RESPONSE_TIMEOUT", "300ms")], true).await;
    let length = 64 << 20;
    let head = format!("POST /v1/other HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    let (mut reads, mut writes) = connected(&proxy, &head).await.into_split();
    let begun = Instant::now();
    // more than lies in the buffers of both sockets
    let sending = tokio::spawn(async move { writes.write_all(&vec![0; length]).await });
    let mut answer = vec![0; 12];
    reads.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 504");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(asked.load(Ordering::SeqCst), 1, "sent again");
    sending.abort();
}

#[tokio::test]
async fn a_passed_through_answer_ends_by_idle_timeout() {
    let at = upstream(|_, mut stream| async move {
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n12345";
        stream.write_all(head).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Proxy::start(at, &[("REJOINDER_UPSTREAM__IDLE_TIMEOUT", "300ms")], true).await;
    let (answer, status, took) = passed(&proxy, "/v1/other").await;
    assert_eq!(status, 200);
    assert!(answer.is_err(), "a body that was cut looks whole");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// The time-outs are of silence, not of the whole: an upload and an answer that go on are not cut.
#[tokio::test]
async fn what_goes_on_is_passed_through_to_its_end() {
    let at = upstream(|got, mut stream| async move {
        let length = got.body.len() * 5;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            stream.write_all(&got.body).await.unwrap();
        }
    })
    .await;
    let env =
        [("REJOINDER_UPSTREAM__RESPONSE_TIMEOUT", "800ms"), ("REJOINDER_UPSTREAM__IDLE_TIMEOUT", "800ms")];
    let proxy = Proxy::start(at, &env, true).await;
    let pieces = futures::stream::iter(0..5).then(async |n| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok::<_, std::io::Error>(n.to_string())
    });
    let body = reqwest::Body::wrap_stream(Box::pin(pieces));
    let sent =
        reqwest::Client::new().post(format!("{}/v1/other", proxy.base)).body(body).send().await.unwrap();
    assert_eq!(sent.text().await.unwrap(), "01234".repeat(5));
}

/// A connection to the proxy, on which these bytes were sent.
async fn connected(proxy: &Proxy, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.base.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_body_that_does_not_go_on_is_408() {
    let at = upstream(|got, mut stream| async move {
        stream.write_all(&whole("200 OK", "text/plain", &got.body.len().to_string())).await.unwrap();
    })
    .await;
    let proxy = Proxy::start(at, &[("REJOINDER_BODY_TIMEOUT", "400ms")], true).await;
    for path in ["/v1/responses", "/v1/responses/input_tokens", "/v1/conversations", "/v1/other"] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
        let mut stream = connected(&proxy, &format!("{head}Content-Length: 9\r\n\r\n{{\"a")).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{path}: {answer}");
        assert!(answer.contains("\"code\":\"request_timeout\""), "{path}: {answer}");
        // the time-out is of a pause: a body that takes longer than that, but goes on, is read
        let mut stream =
            connected(&proxy, &format!("{head}Connection: close\r\nContent-Length: 8\r\n\r\n")).await;
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.write_all(b"9").await.unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(!answer.starts_with("HTTP/1.1 408 "), "{path}: {answer}");
    }
}

/// A server that sends text until its client is gone, which it counts; a request without `stream` it answers at once, with
/// 8 MB.
async fn endless() -> (SocketAddr, Arc<AtomicUsize>) {
    let gone = Arc::new(AtomicUsize::new(0));
    let count = gone.clone();
    let at = upstream(move |got, mut stream| {
        let count = count.clone();
        async move {
            let request: Value = serde_json::from_slice(&got.body).unwrap();
            if request["messages"][0]["content"] == "whole" {
                let text = text(&"x".repeat(8 << 20));
                let _ = stream.write_all(&[EVENTS, text.as_bytes(), STOP.as_bytes()].concat()).await;
                return;
            }
            let piece = text(&"x".repeat(1 << 10));
            stream.write_all(EVENTS).await.unwrap();
            while stream.write_all(piece.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    (at, gone)
}

fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Waits until the other side has reset the connection, whatever of it is unread.
async fn reset(stream: &TcpStream) {
    until(async || SockRef::from(stream).take_error().unwrap().is_some()).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_stream() {
    let (at, gone) = endless().await;
    let proxy = Proxy::start(at, &[("REJOINDER_SEND_TIMEOUT", "1s")], true).await;
    let stream = connected(&proxy, &post(STREAM)).await;
    until(async || gone.load(Ordering::SeqCst) == 1).await;
    reset(&stream).await;
    let in_flight = format!("rejoinder_upstream_in_flight{{upstream=\"http://{at}\"}}");
    until(async || proxy.metric(&in_flight).await == 0).await;
    // one answer of JSON, and the replay of a stored stream
    let stream = connected(&proxy, &post("{\"model\":\"m\",\"input\":\"whole\"}")).await;
    reset(&stream).await;
    let run = proxy.post("{\"model\":\"m\",\"input\":\"whole\",\"background\":true,\"stream\":true}");
    let events = run.send().await.unwrap().text().await.unwrap();
    let id = events.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap();
    let replay = format!("GET /v1/responses/{id}?stream=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
    reset(&connected(&proxy, &replay).await).await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_keeps_its_stream() {
    let (at, gone) = endless().await;
    let proxy = Proxy::start(at, &[("REJOINDER_SEND_TIMEOUT", "2s")], true).await;
    let mut stream = connected(&proxy, &post(STREAM)).await;
    // a tenth of what is sent, for several times the time-out
    let mut piece = [0; 10 << 10];
    for _ in 0..80 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.read_exact(&mut piece).await.unwrap();
    }
    assert_eq!(gone.load(Ordering::SeqCst), 0);
}

/// Over HTTP/2 the kernel sees a client that reads: what it does not take is held back by flow control.
#[tokio::test]
async fn an_http2_client_that_leaves_its_window_shut_loses_the_stream_alone() {
    let (at, gone) = endless().await;
    let proxy = Proxy::start(at, &[("REJOINDER_SEND_TIMEOUT", "1s")], true).await;
    let stream = TcpStream::connect(proxy.base.strip_prefix("http://").unwrap()).await.unwrap();
    let (mut client, connection) =
        h2::client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for body in [STREAM, "{\"model\":\"m\",\"input\":\"whole\"}"] {
        let request = http::Request::post(format!("{}/v1/responses", proxy.base))
            .header("content-type", "application/json")
            .body(())
            .unwrap();
        client = client.ready().await.unwrap();
        let (response, mut sender) = client.send_request(request, false).unwrap();
        sender.send_data(body.into(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let error = tokio::time::timeout(proxy::PATIENCE, body.data()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "{error}");
    }
    assert!(!connection.is_finished());
    until(async || gone.load(Ordering::SeqCst) == 1).await;
}

/// The bound is that of heads, which no key shortens.
#[tokio::test]
async fn an_http2_connection_without_streams_is_closed_in_time() {
    let (at, _) = endless().await;
    let proxy = Proxy::start(at, &[], true).await;
    let limit = Duration::from_secs(50);
    let idle = async {
        let stream = TcpStream::connect(proxy.base.strip_prefix("http://").unwrap()).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::time::timeout(limit, connection).await.expect("it is closed").unwrap();
        drop(client);
    };
    let begun_alone = async {
        let mut stream = connected(&proxy, "PRI * HTTP/2.0\r\n").await;
        tokio::time::timeout(limit, stream.read_to_end(&mut Vec::new())).await.expect("it is closed").ok();
    };
    let begun = Instant::now();
    tokio::join!(idle, begun_alone);
    assert!(begun.elapsed() > Duration::from_secs(25), "{:?}", begun.elapsed());
}

/// Set for the test that runs once more, alone in a network of its own, where it may drop packets.
const ALONE: &str = "TEST_ALONE";

/// A server that vanishes does not even refuse: nothing comes back for what is sent to it. Its packets are dropped, once
/// while a request waits in its closed window, once before a request on a kept connection.
#[tokio::test]
#[ignore = "needs root, unshare, ip and iptables"]
async fn a_server_that_vanished_is_noticed() {
    if std::env::var_os(ALONE).is_some() {
        tokio::join!(vanish(false), vanish(true));
        return;
    }
    let alone = |script: &str| {
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["-n", "sh", "-c", script]).arg(std::env::current_exe().unwrap()).env(ALONE, "1");
        unshare.output()
    };
    let test = "ip link set lo up && exec \"$0\" --exact peers::a_server_that_vanished_is_noticed --ignored --nocapture";
    let ran = tokio::task::spawn_blocking(move || alone(test)).await.unwrap().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

async fn vanish(kept: bool) {
    let (at, chats) = heads(move |_, mut stream| async move {
        if kept {
            let answer =
                json!({"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]});
            let answer = String::from_utf8(whole("200 OK", "application/json", &answer.to_string())).unwrap();
            stream.write_all(answer.replace("Connection: close\r\n", "").as_bytes()).await?;
        }
        // what comes now stays unread
        std::future::pending().await
    })
    .await;
    let env = [("REJOINDER_UPSTREAM__READY_TIMEOUT", "1s"), ("REJOINDER_UPSTREAM__CONNECT_TIMEOUT", "1s")];
    let proxy = Proxy::start(at, &env, true).await;
    let vanishes = || {
        let port = at.port().to_string();
        let rule = ["-w", "-A", "INPUT", "-p", "tcp", "--dport", &port, "-j", "DROP"];
        assert!(std::process::Command::new("iptables").args(rule).status().unwrap().success());
        Instant::now()
    };
    let input = "x".repeat(if kept { 10 } else { 1 << 20 });
    let request = json!({"model": "m", "input": input, "stream": false}).to_string();
    let first = tokio::spawn(proxy.post(request.clone()).send());
    until(async || chats.load(Ordering::SeqCst) == 1).await;
    let (answer, gone) = match kept {
        false => {
            let gone = vanishes();
            (first.await.unwrap().unwrap(), gone)
        }
        true => {
            assert_eq!(first.await.unwrap().unwrap().status(), 200);
            let gone = vanishes();
            (proxy.post(request).send().await.unwrap(), gone)
        }
    };
    assert!(answer.status().is_server_error(), "{}", answer.status());
    let took = gone.elapsed();
    assert!((Duration::from_secs(25)..Duration::from_secs(70)).contains(&took), "{took:?}");
}

/// A kept connection that the server closes just as a request arrives costs another connection, no error.
#[tokio::test]
async fn a_passed_through_request_survives_a_stale_connection() {
    let at = upstream(|_, mut stream| async move {
        let answer = String::from_utf8(whole("200 OK", "text/plain", "ok")).unwrap();
        stream.write_all(answer.replace("Connection: close\r\n", "").as_bytes()).await.unwrap();
        // the next request is read and not answered
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    for _ in 0..10 {
        let (answer, status, _) = passed(&proxy, "/v1/other").await;
        assert_eq!((status, answer.unwrap()), (200, "ok".to_owned()));
    }
}
