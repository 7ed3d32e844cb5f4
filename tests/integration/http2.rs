//! Clients that speak HTTP/2 to us: several requests on one connection, one of them taken back, bodies of any length.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::keeping::{Keeping, TEXT};
use crate::support::proxy::{PATIENCE, Proxy, until};

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
