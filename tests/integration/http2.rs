//! Clients that speak HTTP/2 to us: several requests on one connection, one of them taken back, bodies of any length.

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::keeping::{Keeping, TEXT};
use crate::support::proxy::{EVENTS, PATIENCE, Proxy, STOP, text, until, upstream};
use crate::support::socket::Socket;

/// One connection.
struct Client {
    base: String,
    requests: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

impl Client {
    async fn connect(proxy: &Proxy) -> Client {
        let socket = TcpStream::connect(proxy.base.strip_prefix("http://").unwrap()).await.unwrap();
        let (requests, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(async move { connection.await.unwrap() });
        Client { base: proxy.base.clone(), requests, connection }
    }

    /// Begins a request; its body is still to be sent.
    async fn begin(&mut self, method: &str, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let request = request.header("content-type", "application/json").body(()).unwrap();
        self.requests = self.requests.clone().ready().await.unwrap();
        self.requests.send_request(request, false).unwrap()
    }

    async fn send(&mut self, body: &Value) -> ResponseFuture {
        let (response, mut sender) = self.begin("POST", "/v1/responses").await;
        sender.send_data(body.to_string().into(), true).unwrap();
        response
    }
}

/// The next piece of a body; `None` at its end.
async fn piece(body: &mut RecvStream) -> Option<Bytes> {
    let piece = tokio::time::timeout(PATIENCE, body.data()).await.expect("a piece in time")?.unwrap();
    body.flow_control().release_capacity(piece.len()).unwrap();
    Some(piece)
}

async fn whole(response: Response<RecvStream>) -> String {
    let (mut body, mut whole) = (response.into_body(), Vec::new());
    while let Some(piece) = piece(&mut body).await {
        whole.extend_from_slice(&piece);
    }
    String::from_utf8(whole).unwrap()
}

async fn start() -> (Keeping, Proxy, Client) {
    let server = Keeping::start(None).await;
    let proxy = Proxy::start(server.address, &[], true).await;
    let client = Client::connect(&proxy).await;
    (server, proxy, client)
}

fn endless() -> Value {
    json!({"model": "m", "input": "endless", "stream": true})
}

#[tokio::test]
async fn streams_and_whole_answers_go_beside_each_other() {
    let (server, _proxy, mut client) = start().await;
    let mut going = Vec::new();
    for _ in 0..8 {
        let response = client.send(&endless()).await.await.unwrap();
        assert_eq!(response.status(), 200);
        let content_type = response.headers()["content-type"].to_str().unwrap();
        assert!(content_type.starts_with("text/event-stream"), "{content_type}");
        going.push(response.into_body());
    }
    for stream in [true, false, true, false] {
        let response =
            client.send(&json!({"model": "m", "input": "hi", "stream": stream})).await.await.unwrap();
        let answer = whole(response).await;
        assert!(
            answer.contains(TEXT) && answer.ends_with(if stream { "data: [DONE]\n\n" } else { "}" }),
            "{answer}"
        );
    }
    assert_eq!(server.going(), 8);
    for body in &mut going {
        assert!(piece(body).await.is_some());
    }
}

#[tokio::test]
async fn a_stream_that_its_client_resets_is_taken_back_alone() {
    let (server, _proxy, mut client) = start().await;
    let mut bodies = Vec::new();
    for _ in 0..2 {
        bodies.push(client.send(&endless()).await.await.unwrap().into_body());
    }
    // one more, of which no answer was waited for
    let unanswered = client.send(&endless()).await;
    until(async || server.going() == 3).await;
    // RST_STREAM with CANCEL
    drop(unanswered);
    drop(bodies.pop());
    until(async || server.going() == 1).await;
    for _ in 0..20 {
        assert!(piece(&mut bodies[0]).await.is_some());
    }
    assert!(!client.connection.is_finished());
    // and a connection that goes takes all with it
    client.connection.abort();
    until(async || server.going() == 0).await;
}

#[tokio::test]
async fn a_refusal_is_a_status_and_an_error_object() {
    let (_server, _proxy, mut client) = start().await;
    let response = client.send(&json!({"model": "m", "input": 7})).await.await.unwrap();
    assert_eq!(response.status(), 400);
    let error: Value = serde_json::from_str(&whole(response).await).unwrap();
    assert_eq!(error["error"]["param"], "input");
    let (response, mut sender) = client.begin("POST", "/v1/responses").await;
    sender.send_data(Bytes::from_static(b"{"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 400);
}

/// Larger than the windows of stream and connection.
#[tokio::test]
async fn a_body_larger_than_the_window_arrives_whole() {
    let (server, _proxy, mut client) = start().await;
    let input = "long ".repeat(800_000);
    let response = client.send(&json!({"model": "m", "input": input})).await.await.unwrap();
    assert!(whole(response).await.contains(TEXT));
    let body: Value = serde_json::from_slice(&server.seen()[0].body).unwrap();
    assert_eq!(body["messages"][0]["content"], input);
}

/// Over HTTP/2 a body need not tell its length.
#[tokio::test]
async fn a_body_of_unknown_length_is_passed_on_with_every_method() {
    let (_server, _proxy, mut client) = start().await;
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for pieces in [0, 1, 3] {
            let (response, mut sender) = client.begin(method, "/files/1").await;
            for _ in 0..pieces {
                sender.send_data(Bytes::from_static(&[b'x'; 1000]), false).unwrap();
            }
            sender.send_data(Bytes::new(), true).unwrap();
            let answer: Value = serde_json::from_str(&whole(response.await.unwrap()).await).unwrap();
            assert_eq!(answer, json!({"line": format!("{method} /files/1"), "bytes": pieces * 1000}));
        }
    }
}

/// Bytes to and from a stream of HTTP/2.
fn tunnel(mut sender: SendStream<Bytes>, mut body: RecvStream) -> DuplexStream {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (mut from, mut to) = tokio::io::split(far);
    tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        while from.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
            if sender.send_data(buffer.split().freeze(), false).is_err() {
                return;
            }
        }
        let _ = sender.send_data(Bytes::new(), true);
    });
    tokio::spawn(async move {
        while let Some(Ok(piece)) = body.data().await {
            let _ = body.flow_control().release_capacity(piece.len());
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    near
}

/// Asks for another protocol on a stream (RFC 8441).
async fn upgrade(client: &mut Client, protocol: &'static str) -> (Response<RecvStream>, SendStream<Bytes>) {
    client.requests = client.requests.clone().ready().await.unwrap();
    let request = Request::builder().method("CONNECT").uri(format!("{}/v1/responses", client.base));
    let request = request.header("sec-websocket-version", "13");
    let request = request.extension(Protocol::from_static(protocol)).body(()).unwrap();
    let (response, sender) = client.requests.send_request(request, false).unwrap();
    (response.await.unwrap(), sender)
}

/// A WebSocket is a stream beside others.
#[tokio::test]
async fn a_websocket_is_a_stream() {
    let at = upstream(|_, mut stream| async move {
        let _ = stream.write_all(&[EVENTS, text("a").as_bytes(), STOP.as_bytes()].concat()).await;
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut client = Client::connect(&proxy).await;
    let (refused, _) = upgrade(&mut client, "bytestream").await;
    assert_eq!(refused.status(), 426);
    assert!(client.requests.is_extended_connect_protocol_enabled());
    let (answer, sender) = upgrade(&mut client, "websocket").await;
    assert_eq!(answer.status(), 200);
    let stream = tunnel(sender, answer.into_body());
    let stream = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    let mut socket = Socket { stream };
    let create = json!({"type": "response.create", "model": "m", "input": "hi", "store": false});
    let first = socket.ask(&create).await.last().unwrap()["response"].clone();
    assert_eq!(first["output_text"], "a");
    let beside = client.send(&json!({"model": "m", "input": "hi", "stream": true})).await;
    assert!(whole(beside.await.unwrap()).await.contains("event: response.completed"));
    let mut next = create;
    next["previous_response_id"] = first["id"].clone();
    assert_eq!(socket.ask(&next).await.last().unwrap()["response"]["status"], "completed");
    drop(socket);
    until(async || proxy.metric("rejoinder_open_websockets").await == 0).await;
}

/// Flow control holds back what its client does not take, but not for ever.
#[tokio::test]
async fn a_websocket_that_is_not_read_loses_its_place() {
    let server = Keeping::start(None).await;
    let proxy = Proxy::start(server.address, &[("REJOINDER_SEND_TIMEOUT", "1s")], true).await;
    let mut client = Client::connect(&proxy).await;
    let (answer, mut sender) = upgrade(&mut client, "websocket").await;
    let text =
        json!({"type": "response.create", "model": "m", "input": "endless", "store": false}).to_string();
    // a frame masked by zeros
    let head = [0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    sender.send_data([&head[..], text.as_bytes()].concat().into(), false).unwrap();
    until(async || proxy.metric("rejoinder_open_streams").await == 1).await;
    until(async || proxy.metric("rejoinder_open_streams").await == 0).await;
    assert_eq!(proxy.metric("rejoinder_open_websockets").await, 0);
    drop(answer);
}
