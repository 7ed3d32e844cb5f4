//! Owns the lanes of one connection: the creates of one lane are answered one after the other, those of different lanes side
//! by side. It must not read a create, nor decide whether one is taken.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::Response;
use http::header::HeaderValue;
use http_body::Body;
use rejoinder_core::error::Error;

use super::client_event::CreateEvent;
use super::event_cutter::{Cut, EventCutter};
use super::server_event;
use super::socket::{Part, Socket};
use super::steering::{Settings, Steer};
use crate::server::create::ResponseId;
use crate::server::reply::ResponseBody;
use crate::server::socket_turns::Lane;

/// A create that was taken.
pub struct Create {
    pub event: CreateEvent,
    pub body: Bytes,
    /// The id of the request.
    pub id: HeaderValue,
    /// When it came.
    pub begun: Instant,
    /// What it says beside its input, once it is being answered.
    pub settings: Settings,
    /// Inputs of the client's that are part of its own.
    pub steers: Vec<Steer>,
    /// Whether it continues a response by itself, for the sake of these.
    pub automatic: bool,
}

impl Create {
    pub fn new(event: CreateEvent, body: Bytes, id: HeaderValue) -> Create {
        let begun = Instant::now();
        Create { event, body, id, begun, settings: None, steers: Vec::new(), automatic: false }
    }
}

/// A create on its way to its answer.
pub type Answering = BoxFuture<'static, Result<Response<ResponseBody>, Error>>;

/// What answers creates, and is told how that went.
pub trait Answerer {
    /// Takes the create's body.
    fn answer(&mut self, create: &mut Create) -> Answering;
    /// Told that an answer begins, with its status and the response's id.
    fn began(&mut self, create: Create, status: u16, response: &str);
    /// What is sent in place of an answer.
    fn failed(&mut self, create: &Create, error: &Error) -> Vec<Bytes>;
    /// What is sent behind an answer, and what the lane goes on with.
    fn ended(&mut self, response: &str) -> (Vec<Bytes>, Option<Create>);
}

/// All lanes that have something to do.
#[derive(Default)]
pub struct Lanes {
    lanes: Vec<LaneQueue>,
}

struct LaneQueue {
    name: Lane,
    queue: VecDeque<Create>,
    running: Option<Running>,
}

enum Running {
    Begins(Answering, Option<Box<Create>>),
    Streams(Box<Streaming>),
}

struct Streaming {
    status: u16,
    /// The id of the response.
    response: String,
    body: ResponseBody,
    cutter: EventCutter,
    /// The beginning of an event whose end has not come.
    event: Vec<Part>,
}

impl Lanes {
    /// How many creates run or wait.
    pub fn pending(&self) -> usize {
        self.lanes.iter().map(|lane| lane.queue.len() + usize::from(lane.running.is_some())).sum()
    }

    /// Whether none runs or waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Puts a create at the end of its lane.
    pub fn push(&mut self, create: Create) {
        match self.lanes.iter_mut().find(|lane| lane.name == create.event.lane) {
            Some(lane) => lane.queue.push_back(create),
            None => {
                let name = create.event.lane.clone();
                self.lanes.push(LaneQueue { name, queue: VecDeque::from([create]), running: None });
            }
        }
    }

    /// Takes out what waits.
    pub fn take_waiting(&mut self) -> Vec<Create> {
        let waiting = self.lanes.iter_mut().flat_map(|lane| lane.queue.drain(..)).collect();
        self.lanes.retain(|lane| lane.running.is_some());
        waiting
    }

    /// Gives the socket what each lane has now, at most one read of its body; whether that was anything.
    pub fn poll(&mut self, cx: &mut Context<'_>, answerer: &mut impl Answerer, socket: &mut Socket) -> bool {
        let mut any = false;
        for lane in &mut self.lanes {
            any |= lane.poll(cx, answerer, socket);
        }
        self.lanes.retain(|lane| lane.running.is_some() || !lane.queue.is_empty());
        any
    }
}

impl LaneQueue {
    fn poll(&mut self, cx: &mut Context<'_>, answerer: &mut impl Answerer, socket: &mut Socket) -> bool {
        let running = match &mut self.running {
            Some(running) => running,
            None => {
                let Some(mut create) = self.queue.pop_front() else { return false };
                self.running.insert(Running::Begins(answerer.answer(&mut create), Some(Box::new(create))))
            }
        };
        match running {
            Running::Begins(answering, create) => {
                let Poll::Ready(answer) = answering.as_mut().poll(cx) else { return false };
                let Some(create) = create.take() else { return false };
                match answer {
                    Ok(answer) => {
                        let streaming = Streaming::new(answer);
                        answerer.began(*create, streaming.status, &streaming.response);
                        self.running = Some(Running::Streams(Box::new(streaming)));
                    }
                    Err(error) => {
                        answerer.failed(&create, &error).into_iter().for_each(|event| socket.push(event));
                        self.running = None;
                    }
                }
            }
            Running::Streams(streaming) => match streaming.poll(cx, &self.name, socket) {
                Poll::Pending => return false,
                Poll::Ready(true) => {}
                Poll::Ready(false) => {
                    let (events, next) = answerer.ended(&streaming.response);
                    events.into_iter().for_each(|event| socket.push(event));
                    self.running = None;
                    if let Some(next) = next {
                        self.queue.push_front(next);
                    }
                }
            },
        }
        true
    }
}

impl Streaming {
    fn new(answer: Response<ResponseBody>) -> Streaming {
        let status = answer.status().as_u16();
        let (mut parts, body) = answer.into_parts();
        let response = parts.extensions.remove::<ResponseId>().map(|id| id.0).unwrap_or_default();
        Streaming { status, response, body, cutter: EventCutter::default(), event: Vec::new() }
    }

    /// Gives the socket the events that the next read of the body brings, and of a long one all that is needed to end it;
    /// false at the body's end.
    fn poll(&mut self, cx: &mut Context<'_>, lane: &Lane, socket: &mut Socket) -> Poll<bool> {
        loop {
            let mut bytes = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                // a body of events has no errors
                Some(Err(_)) | None => return Poll::Ready(false),
            };
            while let Some(cut) = self.cutter.cut(&mut bytes) {
                let Cut::Part { bytes, last } = cut else {
                    socket.ping();
                    continue;
                };
                let begins = self.event.is_empty();
                let bytes = if begins { server_event::in_lane(bytes, lane) } else { bytes };
                // whole events alone: those of other lanes must not come between
                self.event.push(Part { bytes, last });
                if last {
                    self.event.drain(..).for_each(|part| socket.push_part(part));
                }
            }
            if self.event.is_empty() {
                return Poll::Ready(true);
            }
        }
    }
}
