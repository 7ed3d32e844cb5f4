//! For tests: a store that panics, and what the clients of its server see of that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::accept::{Port, accept};
use super::app::App;
use super::{routes, start};
use crate::config::{Flags, load_from};
use crate::panics;
use crate::store::{Chain, Conversation, Scope, Store, StoreError, StoredItem, Turn};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;

struct FaultyStore;

#[async_trait]
impl Store for FaultyStore {
    async fn put(&self, _: Scope, _: Arc<Turn>) -> Result<(), StoreError> {
        panic!("a defect")
    }

    async fn turn(&self, _: Scope, _: &str) -> Result<Option<Arc<Turn>>, StoreError> {
        panic!("a defect")
    }

    async fn chain(&self, _: Scope, _: &str, _: usize) -> Result<Chain, StoreError> {
        panic!("a defect")
    }

    async fn delete(&self, _: Scope, _: &str) -> Result<bool, StoreError> {
        panic!("a defect")
    }

    async fn put_conversation(&self, _: Scope, _: Conversation) -> Result<(), StoreError> {
        panic!("a defect")
    }

    async fn conversation(&self, _: Scope, _: &str) -> Result<Option<Conversation>, StoreError> {
        panic!("a defect")
    }

    async fn delete_conversation(&self, _: Scope, _: &str) -> Result<bool, StoreError> {
        panic!("a defect")
    }

    async fn items(&self, _: Scope, _: &str) -> Result<Option<Vec<StoredItem>>, StoreError> {
        panic!("a defect")
    }

    async fn append(&self, _: Scope, _: &str, _: Vec<StoredItem>) -> Result<bool, StoreError> {
        panic!("a defect")
    }

    async fn delete_item(&self, _: Scope, _: &str, _: &str) -> Result<bool, StoreError> {
        panic!("a defect")
    }
}

const LIST: &str = "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\"}]}";
const ANSWER: &str =
    "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"Hello.\"},\"finish_reason\":\"stop\"}]}";

/// The body of a message, after its head, and the first line of that.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first).await.ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        match line.trim_end().to_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, String::from_utf8(body).ok()?))
}

async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some((line, _)) = read(&mut stream).await {
                    let (status, body) = match line.split(' ').nth(1) {
                        Some("/v1/models") => ("200 OK", LIST),
                        Some("/v1/chat/completions") => ("200 OK", ANSWER),
                        _ => ("404 Not Found", "{}"),
                    };
                    let head =
                        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length:");
                    let answer = format!("{head} {}\r\n\r\n{body}", body.len());
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    address
}

/// A server with that store, and where it listens.
async fn serve() -> (Arc<App>, SocketAddr) {
    panics::tests::watch_in_tests();
    let flags = Flags { upstream: Some(format!("http://{}", upstream().await)), ..Flags::default() };
    let resolved = load_from(&flags, []).unwrap();
    let metrics = Metrics::new(resolved.config.metrics.names);
    let upstream = Upstream::new(&resolved, &metrics.routing).unwrap();
    upstream.probe().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut app = start::app(resolved, [address; 2], upstream, metrics).unwrap();
    app.store = Arc::new(FaultyStore);
    let app = Arc::new(app);
    let handle = |app, peer, request| async move { routes::answer(app, peer, request).await };
    tokio::spawn(accept(listener, app.clone(), Port::Api, CancellationToken::new(), handle));
    (app, address)
}

/// Waits until nothing of any request is left.
async fn left_clean(app: &App) {
    let clean = async {
        app.runs.idle().await;
        while app.metrics.open_streams.get() > 0
            || app.budget.taken() > 0
            || app.upstream.seen().iter().any(|server| server.in_flight > 0)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), clean).await.expect("everything is released");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_one_request_with_an_error_and_its_connection_goes_on() {
    let (app, address) = serve().await;
    let mut connection = BufReader::new(TcpStream::connect(address).await.unwrap());
    let post = "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let body = |more: &str| format!("{{\"model\":\"m\",\"input\":\"hi\"{more}}}");
    let with_body = |body: String| format!("{post}Content-Length: {}\r\n\r\n{body}", body.len());
    let before = panics::count();
    let requests = [
        "GET /v1/responses/resp_1 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        with_body(body(",\"previous_response_id\":\"resp_1\"")),
        with_body(body("")),
        with_body(body(",\"background\":true")),
    ];
    for request in &requests {
        connection.write_all(request.as_bytes()).await.unwrap();
        let (status, body) = read(&mut connection).await.expect("an answer");
        assert!(status.starts_with("HTTP/1.1 500 "), "{request}: {status} {body}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(error["error"]["type"], "server_error", "{request}");
    }
    assert!(panics::count() >= before + requests.len() as u64);
    let health = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    connection.write_all(health.as_bytes()).await.unwrap();
    assert!(read(&mut connection).await.unwrap().0.starts_with("HTTP/1.1 200 "));
    left_clean(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_response_cannot_be_kept_ends_as_it_did() {
    let (app, address) = serve().await;
    // in its connection's task, and in a task of its own
    for more in ["", ",\"store\":true"] {
        let body = format!("{{\"model\":\"m\",\"input\":\"hi\",\"stream\":true{more}}}");
        let url = format!("http://{address}/v1/responses");
        let answer = reqwest::Client::new().post(url).body(body).send().await.unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.contains("event: response.completed") && text.ends_with("[DONE]\n\n"), "{text}");
    }
    left_clean(&app).await;
}
