//! Owns the messages of one connection: what is to be sent, and how much of that the connection's buffer takes at a time;
//! what arrives, counted in the budget as it does. It must not know what a message says.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use rejoinder_core::error::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::meter::Meter;
use crate::budget::{Budget, Held};

/// Most bytes of one frame, and about as many of what waits in the connection's own buffer: it would keep the size of the
/// largest message for as long as the connection lives.
const FRAME: usize = 16 << 10;
/// Bytes of the buffer into which a connection reads.
const READ: usize = 8 << 10;
/// Most bytes that are counted ahead of what was read of a message.
const AHEAD: usize = 1 << 20;
/// How long a client may take to answer the end of its connection, or to go on with a message that is refused.
const LINGER: Duration = Duration::from_secs(5);

/// One connection's messages.
pub struct Socket {
    stream: WebSocketStream<Meter>,
    config: WebSocketConfig,
    /// What is still to be sent, in order.
    waiting: VecDeque<Part>,
    /// Whether a message was begun whose end was not sent.
    within: bool,
    /// Whether something was given to the connection's buffer that may still be there.
    unflushed: bool,
    ping: bool,
    close: Option<CloseFrame>,
    budget: Arc<Budget>,
    /// The count of the message that is on its way here.
    held: Option<Held>,
    counting: Option<BoxFuture<'static, Result<Held, Error>>>,
    /// A message that is whole, and not counted.
    uncounted: Option<Bytes>,
}

/// A part of a message.
pub struct Part {
    pub bytes: Bytes,
    /// Whether the message is whole with it.
    pub last: bool,
}

/// What a client sent.
#[derive(Debug)]
pub enum Received {
    /// A message of text; counted for as long as it lives.
    Text(Bytes),
    Binary,
    /// There is no room for the message.
    Refused(Error),
    /// The message is larger than may be.
    TooLarge,
    /// It sent what is no frame of a WebSocket, or no text: the code that says so, and why.
    Broken(CloseCode, String),
    /// The client closed the connection; for the log.
    Closed(String),
}

impl Socket {
    /// The messages of a connection, of so many bytes at most.
    pub async fn new(stream: Meter, most: usize, budget: Arc<Budget>) -> Socket {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(FRAME)
            .max_message_size(Some(most))
            .max_frame_size(Some(most));
        let stream = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        Socket {
            stream,
            config,
            waiting: VecDeque::new(),
            within: false,
            unflushed: false,
            ping: false,
            close: None,
            budget,
            held: None,
            counting: None,
            uncounted: None,
        }
    }

    /// Has a message sent.
    pub fn push(&mut self, bytes: Bytes) {
        self.push_part(Part { bytes, last: true });
    }

    /// Has a part of a message sent; the next ones have to follow up to the last.
    pub fn push_part(&mut self, part: Part) {
        self.waiting.push_back(part);
    }

    /// Has the client asked whether it is there.
    pub fn ping(&mut self) {
        self.ping = true;
    }

    /// Has the connection closed once all is sent.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.close.get_or_insert_with(|| CloseFrame { code, reason: reason.into() });
    }

    /// Whether so little waits to be sent that what answers a message may be added.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < 64
    }

    /// Sends what waits; ready once all of it has left.
    ///
    /// # Errors
    /// When the client is gone, or does not take it for `send_timeout`.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        while self.ping || self.close.is_some() || !self.waiting.is_empty() {
            ready!(self.stream.poll_ready_unpin(cx))?;
            if let Some(message) = self.next() {
                self.unflushed = true;
                self.stream.start_send_unpin(message)?;
            }
        }
        if self.unflushed {
            ready!(self.stream.poll_flush_unpin(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// What is sent next: a ping, which may stand between the parts of a message; a part; the end.
    fn next(&mut self) -> Option<Message> {
        if std::mem::take(&mut self.ping) {
            return Some(Message::Ping(Bytes::new()));
        }
        let Some(part) = self.waiting.front_mut() else {
            return self.close.take().map(|close| Message::Close(Some(close)));
        };
        let bytes = part.bytes.split_to(part.bytes.len().min(FRAME));
        let is_final = part.last && part.bytes.is_empty();
        if part.bytes.is_empty() {
            self.waiting.pop_front();
        }
        let data = if self.within { Data::Continue } else { Data::Text };
        self.within = !is_final;
        Some(Message::Frame(Frame::message(bytes, OpCode::Data(data), is_final)))
    }

    /// What the client sent.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        loop {
            if let Some(counting) = &mut self.counting {
                let counted = ready!(counting.as_mut().poll(cx));
                self.counting = None;
                match (counted, self.uncounted.take()) {
                    (Err(error), _) => return Poll::Ready(Received::Refused(error)),
                    (Ok(held), Some(message)) => return Poll::Ready(Received::Text(held.of_shared(message))),
                    (Ok(held), None) => self.held = Some(held),
                }
            }
            let received = match self.stream.poll_next_unpin(cx) {
                Poll::Pending => {
                    let Some(read) = self.stream.get_ref().stopped_at() else {
                        if self.renewed(cx) {
                            continue;
                        }
                        return Poll::Pending;
                    };
                    let bytes = read + read.min(AHEAD);
                    self.count(bytes);
                    self.stream.get_mut().counted(bytes);
                    continue;
                }
                Poll::Ready(received) => received,
            };
            return Poll::Ready(match received {
                Some(Ok(Message::Text(text))) => {
                    self.stream.get_mut().begin();
                    let bytes = Bytes::from(text);
                    self.count(bytes.len());
                    self.uncounted = Some(bytes);
                    continue;
                }
                Some(Ok(Message::Binary(_))) => {
                    self.stream.get_mut().begin();
                    self.held = None;
                    Received::Binary
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(close))) => {
                    Received::Closed(close.map_or("without a code".to_owned(), |close| close.to_string()))
                }
                Some(Err(SocketError::Capacity(_))) => Received::TooLarge,
                Some(Err(error @ SocketError::Utf8(_))) => {
                    Received::Broken(CloseCode::Invalid, error.to_string())
                }
                Some(Err(error @ SocketError::Protocol(_))) => {
                    Received::Broken(CloseCode::Protocol, error.to_string())
                }
                Some(Err(error)) => Received::Closed(error.to_string()),
                None => Received::Closed("gone".to_owned()),
            });
        }
    }

    /// Gives the connection a new buffer behind a long message: the library would keep one of that size until the connection
    /// ends. Nothing may be in it, nor in the one for what is sent.
    fn renewed(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.stream.get_ref().was_long()
            || self.unflushed
            || !matches!(self.stream.poll_flush_unpin(cx), Poll::Ready(Ok(())))
        {
            return false;
        }
        let mut meter = std::mem::take(self.stream.get_mut());
        meter.is_new();
        let renewed = WebSocketStream::from_raw_socket(meter, Role::Server, Some(self.config)).now_or_never();
        if let Some(stream) = renewed {
            self.stream = stream;
        }
        true
    }

    /// Begins to count so many bytes of the message, or waits for room.
    fn count(&mut self, bytes: usize) {
        let mut held = self.held.take().unwrap_or_else(|| self.budget.begin());
        self.counting = Some(Box::pin(async move { held.reach(bytes).await.map(|()| held) }));
    }

    /// Has nothing more sent.
    pub fn discard(&mut self) {
        self.waiting.clear();
    }

    /// Sends what is left, and waits for the client to take note of the end. `discard`: what it still sends is no message of ours to read.
    pub async fn finish(mut self, discard: bool) {
        // a client that does not take it is gone after `send_timeout`
        let _ = poll_fn(|cx| self.poll_send(cx)).await;
        let end = async {
            while let Some(Ok(_)) = self.stream.next().await {}
            let stream = self.stream.get_mut();
            let _ = stream.shutdown().await;
            let mut rest = [0; READ];
            stream.counted(usize::MAX);
            while discard && stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        };
        let _ = timeout(LINGER, end).await;
    }
}
