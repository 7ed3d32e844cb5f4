//! How much clients may have at a time, by the running binary: connections, connections of one address, responses. What is
//! refused is told to the client and counted, and what has ended makes room.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::keeping::Keeping;
use crate::support::proxy::{PATIENCE, Proxy, STREAM, until};
use crate::support::socket::Socket;

async fn start(env: &[(&str, &str)]) -> (Keeping, Proxy) {
    let server = Keeping::start(None).await;
    let proxy = Proxy::start(server.address, env, true).await;
    (server, proxy)
}

fn listens(proxy: &Proxy) -> SocketAddr {
    proxy.base.strip_prefix("http://").unwrap().parse().unwrap()
}

/// A connection whose first request was answered.
async fn served(proxy: &Proxy) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(listens(proxy)).await.unwrap();
    ask(&mut stream).await.then_some(stream)
}

/// Whether a request on that connection is answered; otherwise it was closed.
async fn ask(stream: &mut TcpStream) -> bool {
    let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"{\"status\":\"ok\"}") {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await.unwrap();
        if read.is_err() || read.is_ok_and(|read| read == 0) {
            return false;
        }
    }
    true
}

fn endless() -> String {
    json!({"model": "m", "input": "endless", "stream": true}).to_string()
}

async fn refused(answer: reqwest::Response, key: &str) {
    assert_eq!(answer.status(), 429);
    let after: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    let error: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "rate_limit_exceeded");
    assert!(error["error"]["message"].as_str().unwrap().contains(key), "{error}");
}

fn reached(key: &str) -> String {
    format!("rejoinder_limit_reached_total{{kind=\"{key}\"}}")
}

#[tokio::test]
async fn more_connections_wait_in_the_queue() {
    let (_server, proxy) = start(&[("REJOINDER_MAX_CONNECTIONS", "2")]).await;
    let first = served(&proxy).await.unwrap();
    let second = served(&proxy).await.unwrap();
    assert_eq!(proxy.metric("rejoinder_open_connections").await, 2);
    // the kernel takes it, and what it sends
    let mut third = TcpStream::connect(listens(&proxy)).await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(300), ask(&mut third)).await;
    assert!(waits.is_err(), "it was answered");
    until(async || proxy.metric(&reached("max_connections")).await == 1).await;
    assert!(proxy.log().contains("max_connections"), "{}", proxy.log());
    drop(first);
    // the request that it has sent is answered, and this one
    assert!(ask(&mut third).await);
    drop((second, third));
    until(async || proxy.metric("rejoinder_open_connections").await == 0).await;
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let (_server, proxy) = start(&[("REJOINDER_MAX_CONNECTIONS_PER_ADDRESS", "2")]).await;
    let first = served(&proxy).await.unwrap();
    let second = served(&proxy).await.unwrap();
    assert!(served(&proxy).await.is_none());
    assert_eq!(proxy.metric(&reached("max_connections_per_address")).await, 1);
    // another address of this machine has its own
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    if cfg!(target_os = "linux") {
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        let mut other = socket.connect(listens(&proxy)).await.unwrap();
        assert!(ask(&mut other).await);
    }
    drop((first, second));
    until(async || proxy.metric("rejoinder_open_connections").await == 0).await;
    // a WebSocket is a connection to its end
    let _websockets = (Socket::connect(&proxy, &[]).await, Socket::connect(&proxy, &[]).await);
    assert!(served(&proxy).await.is_none());
    drop(_websockets);
    until(async || served(&proxy).await.is_some()).await;
}

#[tokio::test]
async fn behind_a_proxy_the_requests_of_an_address_are_counted() {
    let env = [("REJOINDER_TRUSTED_PROXIES", "127.0.0.1"), ("REJOINDER_MAX_CONNECTIONS_PER_ADDRESS", "2")];
    let (server, proxy) = start(&env).await;
    let of = |body: String, address: &str| proxy.post(body).header("x-forwarded-for", address).send();
    let _first = of(endless(), "192.0.2.1").await.unwrap();
    let second = of(endless(), "192.0.2.1").await.unwrap();
    until(async || server.going() == 2).await;
    refused(of(STREAM.to_owned(), "192.0.2.1").await.unwrap(), "max_connections_per_address").await;
    assert_eq!(of(STREAM.to_owned(), "192.0.2.2").await.unwrap().status(), 200);
    // what has no address but the proxy's is of anybody
    for _ in 0..3 {
        assert_eq!(proxy.post(STREAM).send().await.unwrap().status(), 200);
    }
    drop(second);
    until(async || of(STREAM.to_owned(), "192.0.2.1").await.unwrap().status() == 200).await;
    // a WebSocket is a request to its end
    let websocket = Socket::connect(&proxy, &[("x-forwarded-for", "192.0.2.1")]).await;
    refused(of(STREAM.to_owned(), "192.0.2.1").await.unwrap(), "max_connections_per_address").await;
    drop(websocket);
    until(async || of(STREAM.to_owned(), "192.0.2.1").await.unwrap().status() == 200).await;
}

#[tokio::test]
async fn more_responses_are_refused_before_they_are_sent() {
    let (server, proxy) = start(&[("REJOINDER_MAX_OPEN_STREAMS", "1")]).await;
    let stream = proxy.post(endless()).send().await.unwrap();
    until(async || server.going() == 1).await;
    refused(proxy.post(STREAM).send().await.unwrap(), "max_open_streams").await;
    refused(proxy.post(r#"{"model":"m","input":"hi"}"#).send().await.unwrap(), "max_open_streams").await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let create = json!({"type": "response.create", "model": "m", "input": "hi", "store": false});
    let events = socket.ask(&create).await;
    assert_eq!((&events[0]["type"], &events[0]["status"]), (&json!("error"), &json!(429)), "{events:?}");
    // what is passed on is a response as well
    let chat = reqwest::Client::new().post(format!("{}/v1/chat/completions", proxy.base));
    let chat = chat.body(r#"{"model":"m","messages":[{"role":"user","content":"endless"}],"stream":true}"#);
    refused(chat.try_clone().unwrap().send().await.unwrap(), "max_open_streams").await;
    assert_eq!(server.seen().len(), 1);
    assert_eq!(proxy.metric(&reached("max_open_streams")).await, 4);
    drop(stream);
    until(async || proxy.metric("rejoinder_open_streams").await == 0).await;
    assert_eq!(socket.ask(&create).await.last().unwrap()["type"], "response.completed");
    until(async || proxy.metric("rejoinder_open_streams").await == 0).await;
    let passed = chat.send().await.unwrap();
    assert_eq!(passed.status(), 200);
    until(async || server.going() == 1).await;
    refused(proxy.post(STREAM).send().await.unwrap(), "max_open_streams").await;
    drop(passed);
    until(async || server.going() == 0).await;
    until(async || proxy.post(STREAM).send().await.unwrap().status() == 200).await;
    // neither a whole answer nor a refused one keeps its place
    let bad = proxy.post(r#"{"model":"m","input":7}"#).send();
    assert_eq!(bad.await.unwrap().status(), 400);
    for _ in 0..3 {
        until(async || proxy.post(r#"{"model":"m","input":"hi"}"#).send().await.unwrap().status() == 200)
            .await;
    }
}

#[tokio::test]
async fn five_hundred_idle_http_2_connections_hold_up_no_request() {
    let (_server, proxy) = start(&[]).await;
    let mut idle = Vec::new();
    for _ in 0..500 {
        let stream = TcpStream::connect(listens(&proxy)).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        idle.push((requests, tokio::spawn(connection)));
    }
    until(async || proxy.metric("rejoinder_open_connections").await >= 500).await;
    let begun = std::time::Instant::now();
    assert_eq!(proxy.post(STREAM).send().await.unwrap().status(), 200);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for (requests, connection) in idle {
        drop(requests);
        connection.abort();
    }
    until(async || proxy.metric("rejoinder_open_connections").await <= 1).await;
}
