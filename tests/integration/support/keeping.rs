//! Owns an upstream that keeps its connections, as servers do: HTTP/1.1 or HTTP/2, plain or within TLS.

use std::convert::Infallible;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::proxy::{LISTED, STOP, text};

/// One request that it got.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which connection of its own, in the order of their arrival.
    pub connection: usize,
    pub version: Version,
    /// `POST /v1/chat/completions`
    pub line: String,
    pub authorization: Option<String>,
    pub body: Bytes,
}

/// The server. A chat request that says `endless` is answered by a text each 10 ms.
#[derive(Clone)]
pub struct Keeping {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    going: Arc<AtomicUsize>,
    probes: Arc<AtomicUsize>,
    /// Whether it closes a connection as the second request arrives on it, beside those that ask what it is.
    closes: bool,
}

/// The text of every other answer.
pub const TEXT: &str = "one two three";

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Keeping {
    pub async fn start(tls: Option<TlsAcceptor>) -> Keeping {
        Keeping::listen(tls, false).await
    }

    /// A plain one that closes each connection as the second request arrives on it.
    pub async fn closing() -> Keeping {
        Keeping::listen(None, true).await
    }

    async fn listen(tls: Option<TlsAcceptor>, closes: bool) -> Keeping {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Keeping {
            address,
            seen: Arc::default(),
            connections: Arc::default(),
            going: Arc::default(),
            probes: Arc::default(),
            closes,
        };
        let own = server.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let (server, tls) = (own.clone(), tls.clone());
                let task = tokio::spawn(async move {
                    match tls {
                        None => server.serve(socket, connection).await,
                        // who does not trust the certificate goes away
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(socket).await {
                                server.serve(stream, connection).await;
                            }
                        }
                    }
                });
                own.connections.lock().unwrap().push(task);
            }
        });
        server
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, connection: usize) {
        let service = service_fn(move |request| {
            let server = self.clone();
            // an error closes the connection without a word
            async move {
                server.answer(request, connection).await.ok_or(Error::from(ErrorKind::ConnectionAborted))
            }
        });
        let _ =
            auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>, connection: usize) -> Option<Response<Body>> {
        let (parts, body) = request.into_parts();
        let line = format!("{} {}", parts.method, parts.uri.path());
        match line.as_str() {
            "GET /props" => {
                self.probes.fetch_add(1, Ordering::SeqCst);
                return Some(json(r#"{"default_generation_settings":{"n_ctx":32768},"chat_template":""}"#));
            }
            "GET /health" => return Some(json("{}")),
            "GET /v1/models" => return Some(json(LISTED)),
            _ => {}
        }
        if self.closes && self.seen().iter().any(|seen| seen.connection == connection) {
            return None;
        }
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let authorization = parts.headers.get("authorization").map(|it| it.to_str().unwrap().to_owned());
        let seen = Seen {
            authorization,
            connection,
            version: parts.version,
            line: line.clone(),
            body: body.clone(),
        };
        self.seen.lock().unwrap().push(seen);
        if line != "POST /v1/chat/completions" {
            return Some(json(&serde_json::json!({"line": line, "bytes": body.len()}).to_string()));
        }
        let body = String::from_utf8_lossy(&body);
        if !body.contains("\"stream\":true") {
            let message = serde_json::json!({"role": "assistant", "content": TEXT});
            let choice = serde_json::json!({"index": 0, "finish_reason": "stop", "message": message});
            return Some(json(&serde_json::json!({"choices": [choice]}).to_string()));
        }
        if body.contains("endless") {
            let going = Going::new(&self.going);
            return Some(events(stream::unfold(going, |going| async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Some((text("a"), going))
            })));
        }
        Some(events(stream::iter(TEXT.split_inclusive(' ').map(text).chain([STOP.to_owned()]))))
    }

    /// The chat requests, and those that were passed through.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How often it was asked what it is.
    pub fn probes(&self) -> usize {
        self.probes.load(Ordering::SeqCst)
    }

    /// Closes all its connections.
    pub async fn close(&self) {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        for connection in connections {
            connection.abort();
            let _ = connection.await;
        }
    }

    /// Endless answers that go on.
    pub fn going(&self) -> usize {
        self.going.load(Ordering::SeqCst)
    }
}

/// Counts an answer as long as it goes on.
struct Going(Arc<AtomicUsize>);

impl Going {
    fn new(count: &Arc<AtomicUsize>) -> Going {
        count.fetch_add(1, Ordering::SeqCst);
        Going(count.clone())
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn json(text: &str) -> Response<Body> {
    let body = http_body_util::Full::new(Bytes::copy_from_slice(text.as_bytes()));
    Response::builder().header("content-type", "application/json").body(body.boxed_unsync()).unwrap()
}

fn events(pieces: impl futures::Stream<Item = String> + Send + 'static) -> Response<Body> {
    let frames = pieces.map(|piece| Ok(Frame::data(Bytes::from(piece))));
    let body = StreamBody::new(frames).boxed_unsync();
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}
