//! Owns one WebSocket connection from its first message to its end: what becomes of each message, and why it ends. It must
//! not translate anything.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;
use http::HeaderMap;
use http::header::HeaderValue;
use rejoinder_core::client::kind_of;
use rejoinder_core::error::{Error, Kind};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tracing::Instrument;
use tracing::field::Empty;

use super::client_event::{BadEvent, ClientEvent, CreateEvent};
use super::clock::{Clock, Due};
use super::lanes::{Answerer, Answering, Create, Lanes};
use super::server_event;
use super::socket::{Received, Socket};
use super::steering::{self, Steering};
use crate::server::app::App;
use crate::server::client_limits::AddressPlace;
use crate::server::conversation::METADATA;
use crate::server::create;
use crate::server::prepared_request::{CreateRequest, client_headers};
use crate::server::reply;
use crate::server::socket_turns::{Lane, SocketCreate, SocketTurns};
use crate::telemetry::{Answered, BodyEnd, OpenRequest, RequestHead, RequestRecord};
use crate::{heavy, panics};

/// Most messages in a row that are no events; a client that sends more knows nothing of the protocol.
const MOST_BAD: usize = 100;

/// What is known of the request that opened a connection: its creates share its headers.
pub struct Opened {
    pub headers: HeaderMap,
    pub id: HeaderValue,
    pub path: String,
    /// Its client's.
    pub address: IpAddr,
    /// What it counts for, where a proxy sent it.
    pub _place: Option<Arc<AddressPlace>>,
}

/// One connection.
pub struct Connection {
    socket: Socket,
    lanes: Lanes,
    responder: Responder,
    clock: Clock,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Why no more creates are taken; once none runs, the connection ends.
    ending: Option<Ending>,
    /// Messages since the last event.
    bad: usize,
}

/// Why a connection takes no more creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Drain,
    Age,
}

/// How a connection ended.
enum End {
    /// It broke; for the log.
    Gone(String),
    /// One side closes it. `discard`: what the client still sends is not to be read.
    Closed { discard: bool },
}

impl Connection {
    pub fn new(app: Arc<App>, socket: Socket, opened: Opened) -> Connection {
        Connection {
            socket,
            lanes: Lanes::default(),
            clock: Clock::new(&app.config.websocket),
            draining: Box::pin(app.draining.clone().cancelled_owned()),
            responder: Responder {
                turns: app.socket_turns.connection(),
                app,
                opened,
                count: 0,
                steering: Steering::default(),
                goes_on: true,
            },
            ending: None,
            bad: 0,
        }
    }

    /// Serves it to its end. What runs then is dropped, and with it its request to the upstream.
    pub async fn run(mut self) -> BodyEnd {
        let end = poll_fn(|cx| self.poll(cx)).await;
        drop(self.lanes);
        match end {
            End::Gone(why) => {
                tracing::debug!(why, "a WebSocket ended");
                BodyEnd::Dropped
            }
            End::Closed { discard } => {
                self.socket.finish(discard).await;
                BodyEnd::Complete
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let sent = match self.socket.poll_send(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(End::Gone(error.to_string())),
                sent => sent.is_ready(),
            };
            self.look_for_drain(cx);
            if let Poll::Ready(due) = self.clock.poll(cx, self.lanes.is_empty()) {
                match due {
                    Due::Ping => self.socket.ping(),
                    Due::Age => self.end_after(Ending::Age),
                    Due::Idle => {
                        return Poll::Ready(self.close(CloseCode::Away, "idle (websocket.idle_timeout)"));
                    }
                }
                continue;
            }
            let mut any = false;
            while self.socket.has_room()
                && let Poll::Ready(received) = self.socket.poll_receive(cx)
            {
                any = true;
                if let Some(end) = self.take(received) {
                    return Poll::Ready(end);
                }
            }
            // a client that does not take what was sent holds up what is to come
            if sent {
                any |= self.poll_lanes(cx);
            }
            if let Some(ending) = self.ending
                && self.lanes.is_empty()
            {
                return Poll::Ready(self.end(ending));
            }
            if !any {
                return Poll::Pending;
            }
        }
    }

    fn poll_lanes(&mut self, cx: &mut Context<'_>) -> bool {
        let ran = !self.lanes.is_empty();
        let any = self.lanes.poll(cx, &mut self.responder, &mut self.socket);
        if ran && self.lanes.is_empty() {
            self.clock.used(true);
        }
        any
    }

    fn look_for_drain(&mut self, cx: &mut Context<'_>) {
        if self.ending != Some(Ending::Drain) && self.draining.as_mut().poll(cx).is_ready() {
            self.end_after(Ending::Drain);
        }
    }

    /// Refuses what waits, and takes nothing more; what runs goes on.
    fn end_after(&mut self, ending: Ending) {
        self.ending = Some(ending);
        self.responder.goes_on = false;
        for create in self.lanes.take_waiting() {
            self.refuse(&ending.error(), &create.event.lane, Some(&create.id));
        }
    }

    fn end(&mut self, ending: Ending) -> End {
        match ending {
            Ending::Drain => self.close(CloseCode::Away, "shutting down"),
            Ending::Age => {
                self.refuse(&ending.error(), &None, None);
                self.close(CloseCode::Away, "too old (websocket.max_age)")
            }
        }
    }

    fn close(&mut self, code: CloseCode, reason: &str) -> End {
        tracing::debug!(reason, "a WebSocket is closed");
        self.socket.close(code, reason);
        End::Closed { discard: false }
    }

    /// Does what a message asks for; how the connection ends, if it does.
    fn take(&mut self, received: Received) -> Option<End> {
        match received {
            Received::Text(text) => return self.message(text),
            Received::Binary => {
                let message = "Binary messages are not understood here; send events as text.";
                return self.bad(&Error::new(Kind::InvalidType, message), &None);
            }
            Received::Refused(error) => {
                self.refuse(&error, &None, None);
                self.close(CloseCode::Again, "no room (max_buffered_bytes)");
            }
            Received::TooLarge => {
                let most = self.responder.app.config.max_body_bytes;
                let message = format!("The message is larger than {most} bytes (max_body_bytes).");
                self.refuse(&Error::new(Kind::BodyTooLarge, message), &None, None);
                self.close(CloseCode::Size, "too large (max_body_bytes)");
            }
            Received::Broken(code, why) => {
                self.close(code, &why);
            }
            Received::Closed(why) => {
                tracing::debug!(why, "a WebSocket was closed");
                self.socket.discard();
                return Some(End::Closed { discard: false });
            }
        }
        // the rest of a message that is not read may be on its way
        Some(End::Closed { discard: true })
    }

    fn message(&mut self, text: Bytes) -> Option<End> {
        self.clock.used(self.lanes.is_empty());
        // it was found to be UTF-8 as it arrived
        let read =
            heavy::aside(text.len(), || ClientEvent::read(std::str::from_utf8(&text).unwrap_or_default()));
        match read {
            Ok(ClientEvent::Create(event)) => self.create(event, text),
            Ok(ClientEvent::Steer(steer)) => {
                let known = self.responder.turns.find(&steer.previous_response_id).is_some();
                self.socket.push(self.responder.steering.take(steer, known));
            }
            Err(BadEvent { lane, error }) => return self.bad(&error, &lane),
        }
        self.bad = 0;
        None
    }

    fn create(&mut self, event: CreateEvent, body: Bytes) {
        let id = self.responder.next_id();
        let most = self.responder.app.config.websocket.max_pending;
        let refused = match self.ending {
            Some(ending) => Some(ending.error()),
            None if self.lanes.pending() >= most => {
                let message = format!(
                    "{most} creates of this connection run or wait already (websocket.max_pending). Send another when \
                     one has ended."
                );
                Some(Error::new(Kind::OverCapacity, message))
            }
            None => None,
        };
        match refused {
            Some(error) => self.refuse(&error, &event.lane, Some(&id)),
            None => self.lanes.push(Create::new(event, body, id)),
        }
    }

    /// Answers a message that is no event.
    fn bad(&mut self, error: &Error, lane: &Lane) -> Option<End> {
        self.refuse(error, lane, None);
        self.bad += 1;
        (self.bad > MOST_BAD).then(|| self.close(CloseCode::Policy, "too many messages that are no events"))
    }

    /// Sends an error that is no response's.
    fn refuse(&mut self, error: &Error, lane: &Lane, request: Option<&HeaderValue>) {
        self.responder.refused(error);
        if let Some(id) = request {
            let record = self.responder.record(id, Instant::now());
            record.failed(error);
            record.set_status(error.status());
            record.finish(BodyEnd::Complete, 0);
        }
        let request = request.and_then(|id| id.to_str().ok());
        self.socket.push(server_event::error(error, lane, request));
    }
}

impl Ending {
    fn error(self) -> Error {
        match self {
            Ending::Drain => Error::new(Kind::ShuttingDown, "The server is shutting down."),
            Ending::Age => {
                let message = "This WebSocket connection is as old as it may be (websocket.max_age). Open another one and \
                               go on there.";
                Error::new(Kind::BadRequest, message).code_as("websocket_connection_limit_reached")
            }
        }
    }
}

/// Answers the creates of a connection.
struct Responder {
    app: Arc<App>,
    opened: Opened,
    turns: Arc<SocketTurns>,
    /// How many creates there were.
    count: u64,
    steering: Steering,
    /// Whether creates are taken.
    goes_on: bool,
}

impl Responder {
    /// The id of the next request: the connection's with a number.
    fn next_id(&mut self) -> HeaderValue {
        self.count += 1;
        let id = self.opened.id.to_str().unwrap_or_default();
        HeaderValue::try_from(format!("{id}-{}", self.count)).unwrap_or_else(|_| self.opened.id.clone())
    }

    /// The span of a create's log lines, as a request over HTTP has it.
    fn span(&self, create: &Create) -> tracing::Span {
        let span = tracing::info_span!("request", id = %create.id.to_str().unwrap_or(""), key = Empty);
        if let Some(key) = self.app.client_keys.of(&self.opened.headers) {
            span.record("key", key.name.as_str());
        }
        span
    }

    /// Logs and counts an error.
    fn refused(&self, error: &Error) {
        reply::log(error);
        self.app.metrics.error(error.label());
    }

    /// What is told of a create at its end, as of a request over HTTP.
    fn record(&self, id: &HeaderValue, begun: Instant) -> Arc<RequestRecord> {
        let record = RequestRecord::new(
            RequestHead {
                id: id.to_str().unwrap_or_default().to_owned(),
                method: "response.create".to_owned(),
                path: self.opened.path.clone(),
                endpoint: "responses",
                client: kind_of(client_headers(&self.opened.headers)),
                address: self.opened.address,
                begun,
            },
            self.app.activity.as_ref(),
        );
        record.trace_by(self.app.traces.as_ref(), &self.opened.headers);
        if let Some(key) = self.app.client_keys.of(&self.opened.headers) {
            record.set_key(&key.name);
        }
        record
    }

    /// The count that an HTTP answer has.
    fn answered(&self, status: u16) {
        self.app.metrics.requests.get_or_create(&Answered { endpoint: "responses", status }).inc();
    }
}

impl Answerer for Responder {
    fn answer(&mut self, create: &mut Create) -> Answering {
        if let Some((body, steers)) = self.steering.prepend(&create.event, &create.body) {
            (create.body, create.steers) = (body, steers);
        }
        create.settings = steering::settings(&create.body);
        let CreateEvent { lane, generate, .. } = &create.event;
        let socket = SocketCreate { turns: self.turns.clone(), lane: lane.clone(), generate: *generate };
        let mut headers = self.opened.headers.clone();
        // that of the handshake is of the turn before the first
        if let Some(turn) = create.event.turn_metadata.take().and_then(|turn| turn.try_into().ok()) {
            headers.insert(METADATA, turn);
        }
        let record = self.record(&create.id, create.begun);
        let request = CreateRequest {
            headers,
            id: create.id.clone(),
            record: record.clone(),
            body: std::mem::take(&mut create.body),
            socket: Some(socket),
        };
        let open = OpenRequest::new(record.clone());
        let answer = panics::answered("a request", create::respond(self.app.clone(), request));
        let answer = answer.map(move |answer| match answer {
            Ok(answer) => Ok(reply::told_at_end(answer, open, false)),
            Err(error) => {
                record.failed(&error);
                record.set_status(error.status());
                Err(error)
            }
        });
        answer.instrument(self.span(create)).boxed()
    }

    fn began(&mut self, create: Create, status: u16, response: &str) {
        self.answered(status);
        self.steering.began(response.to_owned(), create.event.lane, create.settings);
    }

    fn failed(&mut self, create: &Create, error: &Error) -> Vec<Bytes> {
        let entered = self.span(create).entered();
        self.refused(error);
        drop(entered);
        // what cannot be continued from once is not there to be continued from
        if let Some(id) = &create.event.previous_response_id {
            self.turns.forget(id);
        }
        self.answered(error.status());
        let lane = &create.event.lane;
        let mut events =
            self.steering.failed_all(&create.steers, lane, "successor_creation_failed", &error.message);
        if !create.automatic {
            events.push(server_event::error(error, lane, create.id.to_str().ok()));
        }
        events
    }

    fn ended(&mut self, response: &str) -> (Vec<Bytes>, Option<Create>) {
        let turns = self.turns.find(response);
        let turn = turns.as_ref().and_then(|turns| turns.last());
        let ended = self.steering.ended(response, turn.map(|turn| &**turn), self.goes_on);
        let next = ended.successor.map(|(event, body, steers)| Create {
            steers,
            automatic: true,
            ..Create::new(event, body, self.next_id())
        });
        (ended.events, next)
    }
}
