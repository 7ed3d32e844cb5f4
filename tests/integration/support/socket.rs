//! A client of the Responses API over WebSocket.

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Response};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::proxy::{PATIENCE, Proxy};

/// One connection.
pub struct Socket<S = TcpStream> {
    pub stream: WebSocketStream<S>,
}

/// What came next.
#[derive(Debug, PartialEq)]
pub enum Next {
    Event(Value),
    Ping,
    Closed(Option<CloseCode>),
}

impl Socket {
    /// Connects, with these headers beside those of the handshake.
    pub async fn connect(proxy: &Proxy, headers: &[(&'static str, &str)]) -> Socket {
        Socket::try_connect(proxy, headers).await.unwrap_or_else(|answer| panic!("{answer:?}"))
    }

    /// The same; the answer, where that is no upgrade.
    pub async fn try_connect(
        proxy: &Proxy,
        headers: &[(&'static str, &str)],
    ) -> Result<Socket, Response<Option<Vec<u8>>>> {
        let address = proxy.base.strip_prefix("http://").unwrap();
        let mut request = format!("ws://{address}/v1/responses").into_client_request().unwrap();
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let stream = TcpStream::connect(address).await.unwrap();
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((stream, _)) => Ok(Socket { stream }),
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(*answer),
            Err(error) => panic!("{error}"),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub async fn send(&mut self, event: &Value) {
        self.send_text(&event.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.stream.send(Message::text(text)).await.unwrap();
    }

    pub async fn next(&mut self) -> Next {
        let next = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("something comes in time");
        match next {
            Some(Ok(Message::Text(text))) => Next::Event(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Ping(_))) => Next::Ping,
            Some(Ok(Message::Close(close))) => Next::Closed(close.map(|close| close.code)),
            Some(Ok(other)) => panic!("{other:?}"),
            Some(Err(_)) | None => Next::Closed(None),
        }
    }

    /// The next event; pings are passed over.
    pub async fn event(&mut self) -> Value {
        let event = async {
            loop {
                match self.next().await {
                    Next::Event(event) => return event,
                    Next::Ping => {}
                    closed => panic!("{closed:?}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, event).await.expect("an event comes in time")
    }

    /// The events up to one that ends a response, or an error that is no response's.
    pub async fn answer(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await;
            let ends = is_end(&event);
            events.push(event);
            if ends {
                return events;
            }
        }
    }

    /// Sends a create and takes its answer.
    pub async fn ask(&mut self, event: &Value) -> Vec<Value> {
        self.send(event).await;
        self.answer().await
    }

    /// The code with which the connection is closed; what came before it is dropped.
    pub async fn close_code(&mut self) -> Option<CloseCode> {
        loop {
            if let Next::Closed(code) = self.next().await {
                return code;
            }
        }
    }
}

/// Whether nothing of the same response comes after it.
pub fn is_end(event: &Value) -> bool {
    let ends = ["response.completed", "response.incomplete", "response.failed"];
    let kind = event["type"].as_str().unwrap();
    ends.contains(&kind) || (kind == "error" && event.get("sequence_number").is_none())
}

/// The events as a stream over HTTP has them.
pub fn as_sse(events: &[Value]) -> String {
    let event = |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
    events.iter().map(event).chain(["data: [DONE]\n\n".to_owned()]).collect()
}
