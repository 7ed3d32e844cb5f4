//! Owns a running stream: it moves chunks from the upstream into the [`Transcoder`] and events out, bridges silence,
//! and ends exactly once. It must not know what an event means.
//!
//! It is the response body itself: hyper polls it, and dropping it (the client left) drops the upstream request.

mod answer;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body, Frame};
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::response::shared::pieces;
use rejoinder_core::response::transcoder::{End, Transcoder};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

pub use self::answer::Answer;
use self::answer::{Events, broken};
use crate::wake_flag::WakeFlag;
use crate::{buffer_pool, upstream};
use rejoinder_core::response::events;

/// One frame holds at most about this much, so that a fast upstream cannot fill memory through a slow client.
const FRAME: usize = 64 << 10;
/// A frame up to this is copied out of a lent buffer, in bytes.
const SMALL_FRAME: usize = 4 << 10;

/// How silence is bridged.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Silence after which a comment is sent.
    pub heartbeat: Duration,
    /// Silence after which `response.in_progress` is sent again.
    pub in_progress_after: Duration,
    /// Longest silence within the upstream's body.
    pub idle_timeout: Duration,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy)]
pub struct StreamEnd {
    /// Whether the client left first.
    pub client_left: bool,
    /// When the first of the upstream's output was written.
    pub first_token: Option<std::time::Instant>,
}

/// Told once how the stream ended.
pub type OnEnd = Box<dyn FnOnce(&Transcoder, StreamEnd) + Send>;
/// What is done between the response's end and its terminal event: nobody learns of a response that is not kept yet.
pub type BeforeEnd = Box<dyn FnOnce(&mut Transcoder) -> BoxFuture<'static, ()> + Send>;

/// An answer on its way.
pub type PendingAnswer = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;
/// Asks once more for an answer whose text does not fit its format (see [`Transcoder::take_unfit`]).
pub type AskAgain = Box<dyn FnOnce(String) -> PendingAnswer + Send>;

enum Source {
    Waiting(PendingAnswer),
    Events(Box<Events>),
    Over,
}

/// The body of a streamed response.
pub struct EventBody {
    /// On the heap: it is large, and handed on several times before the stream begins.
    transcoder: Box<Transcoder>,
    source: Source,
    pace: Pace,
    out: Vec<u8>,
    /// What of the last write is still to leave.
    pieces: VecDeque<Bytes>,
    /// Set when the source wakes the task.
    called: WakeFlag,
    /// When bytes last came from the upstream; when any, and when an event last went to the client.
    heard: Instant,
    heard_bytes: u64,
    first_token: Option<Instant>,
    /// One moment on both clocks: to ask one of them at every event is enough.
    begun: (Instant, u64),
    spoke: Instant,
    told: Instant,
    timer: Pin<Box<Sleep>>,
    /// Whether the timer has run out.
    due: bool,
    /// Ready when the drain is over: the stream must end.
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Set when the timer or the shutdown wakes the task.
    alarm: WakeFlag,
    ask_again: Option<AskAgain>,
    before_end: Option<BeforeEnd>,
    closing: Option<BoxFuture<'static, ()>>,
    on_end: Option<OnEnd>,
}

impl EventBody {
    /// Begins the stream at once: `answer` may still be on its way.
    pub fn new(
        mut transcoder: Box<Transcoder>,
        answer: impl Future<Output = Result<Answer, Error>> + Send + 'static,
        pace: Pace,
        shutdown: WaitForCancellationFutureOwned,
        on_end: OnEnd,
    ) -> EventBody {
        let now = Instant::now();
        let mut out = Vec::with_capacity(4096);
        transcoder.start(&mut out);
        EventBody {
            transcoder,
            source: Source::Waiting(Box::pin(answer)),
            pace,
            out,
            pieces: VecDeque::new(),
            called: WakeFlag::new(),
            heard: now,
            heard_bytes: 0,
            first_token: None,
            begun: (now, unix_now()),
            spoke: now,
            told: now,
            timer: Box::pin(tokio::time::sleep(pace.heartbeat.min(pace.idle_timeout))),
            due: false,
            shutdown: Box::pin(shutdown),
            alarm: WakeFlag::new(),
            ask_again: None,
            before_end: None,
            closing: None,
            on_end: Some(on_end),
        }
    }

    /// Has `before_end` done before the terminal event leaves.
    pub fn before_end(mut self, before_end: Option<BeforeEnd>) -> EventBody {
        self.before_end = before_end;
        self
    }

    /// Has long texts leave in pieces that several events share, so that a client that stops reading holds up one of each,
    /// not five. A frame is then no whole event.
    pub fn in_pieces(mut self) -> EventBody {
        self.transcoder.share_long_texts();
        self
    }

    /// Has `ask_again` ask for a text in another form, where the transcoder wants one.
    pub fn ask_again(mut self, ask_again: Option<AskAgain>) -> EventBody {
        self.ask_again = ask_again;
        self
    }

    /// Ends the response on its client's behalf; what is left to send comes with the next polls.
    pub fn cancel(&mut self) {
        self.source = Source::Over;
        self.transcoder.cancel(&mut self.out);
    }

    fn finish(&mut self, end: End) {
        let unix = self.unix(Instant::now());
        self.transcoder.end(end, unix, &mut self.out);
    }

    /// `now` as Unix time in seconds.
    fn unix(&self, now: Instant) -> u64 {
        let (begun, unix) = self.begun;
        unix + now.duration_since(begun).as_secs()
    }

    /// Takes what the upstream has for us now.
    fn pull(&mut self, now: Instant) {
        if !self.feed(now) {
            self.called.set();
        }
        if let Source::Events(events) = &self.source
            && events.bytes_read() != self.heard_bytes
        {
            self.heard_bytes = events.bytes_read();
            self.heard = now;
        }
    }

    /// Moves what has arrived into the transcoder, at most a frame's worth; returns whether that was all.
    fn feed(&mut self, now: Instant) -> bool {
        let unix = self.unix(now);
        while !self.transcoder.ended() && self.out.len() < FRAME {
            if self.transcoder.is_unfit() {
                // before its usage is taken, which tells what of the prompt was cached
                self.let_go();
                let unfit = self.transcoder.take_unfit().unwrap_or_default();
                match self.ask_again.take() {
                    Some(ask_again) => self.source = Source::Waiting(ask_again(unfit)),
                    None => self.finish(End::Failed(answer::unfit())),
                }
                continue;
            }
            let cx = &mut Context::from_waker(&self.called.waker);
            match &mut self.source {
                Source::Over => return true,
                Source::Waiting(answer) => match answer.as_mut().poll(cx) {
                    Poll::Pending => return true,
                    Poll::Ready(answer) => {
                        self.source = Source::Over;
                        self.heard = now;
                        match answer {
                            Err(error) => self.finish(End::Failed(error)),
                            Ok(answer) => {
                                if let Some(events) = answer.begin(&mut self.transcoder, &mut self.out) {
                                    self.source = Source::Events(events);
                                }
                            }
                        }
                    }
                },
                Source::Events(events) => match events.poll(cx) {
                    Poll::Pending => return true,
                    Poll::Ready(Some(Ok(data))) => {
                        if self.out.capacity() == 0 {
                            self.out = buffer_pool::take();
                        }
                        let before = self.out.len();
                        self.transcoder.chunk(&data, unix, &mut self.out);
                        if self.first_token.is_none()
                            && self.out.len() > before
                            && self.transcoder.failure().is_none()
                        {
                            self.first_token = Some(now);
                        }
                    }
                    Poll::Ready(Some(Err(error))) => {
                        self.source = Source::Over;
                        self.finish(End::Failed(broken(error)));
                    }
                    Poll::Ready(None) => {
                        self.source = Source::Over;
                        self.finish(End::Eof);
                    }
                },
            }
        }
        false
    }

    /// Polls the end of the drain and the timer.
    fn poll_alarms(&mut self) {
        let cx = &mut Context::from_waker(&self.alarm.waker);
        let over = self.shutdown.as_mut().poll(cx).is_ready();
        self.due |= self.timer.as_mut().poll(cx).is_ready();
        if over && !self.transcoder.ended() {
            let message = "The server is shutting down.";
            self.finish(End::Failed(Error::new(Kind::ShuttingDown, message)));
        }
    }

    /// Looks at the clock; whatever is due goes into `out`.
    fn tick(&mut self) {
        while self.due && self.out.is_empty() {
            let now = Instant::now();
            let streaming = matches!(self.source, Source::Events(_));
            if streaming && now.duration_since(self.heard) >= self.pace.idle_timeout {
                self.finish(End::Failed(upstream::silent(self.pace.idle_timeout)));
                return;
            }
            if now.duration_since(self.told) >= self.pace.in_progress_after {
                self.transcoder.heartbeat(&mut self.out);
            } else if now.duration_since(self.spoke) >= self.pace.heartbeat {
                self.out.extend_from_slice(events::KEEP_ALIVE);
                self.spoke = now;
            }
            let mut due = (self.spoke + self.pace.heartbeat).min(self.told + self.pace.in_progress_after);
            if streaming {
                due = due.min(self.heard + self.pace.idle_timeout);
            }
            // what is due already was done just now, and its clock is set when the frame leaves
            let due = if due <= now { now + self.pace.heartbeat } else { due };
            self.timer.as_mut().reset(due);
            self.due = self.timer.as_mut().poll(&mut Context::from_waker(&self.alarm.waker)).is_ready();
        }
    }

    fn let_go(&mut self) {
        if let Source::Events(events) = std::mem::replace(&mut self.source, Source::Over)
            && self.transcoder.failure().is_none()
        {
            events.let_end(self.transcoder.usage());
        }
    }

    fn report(&mut self, client_left: bool) {
        if let Some(on_end) = self.on_end.take() {
            let first_token = self.first_token.map(Instant::into_std);
            on_end(&self.transcoder, StreamEnd { client_left, first_token });
        }
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if let Some(piece) = this.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let mut now = None;
        if this.called.take(cx) {
            this.pull(*now.insert(Instant::now()));
        }
        if this.alarm.take(cx) {
            this.poll_alarms();
        }
        let events = !this.out.is_empty();
        this.tick();
        if this.transcoder.ended() {
            this.let_go();
            if let Some(before_end) = this.before_end.take() {
                this.closing = Some(before_end(&mut this.transcoder));
            }
            if let Some(closing) = &mut this.closing {
                futures::ready!(closing.as_mut().poll(cx));
                this.closing = None;
            }
        }
        if this.out.is_empty() {
            buffer_pool::put(std::mem::take(&mut this.out));
            if this.transcoder.ended() {
                this.report(false);
                return Poll::Ready(None);
            }
            return Poll::Pending;
        }
        this.spoke = now.unwrap_or_else(Instant::now);
        if events || this.out.first() != Some(&b':') {
            this.told = this.spoke;
        }
        let out = std::mem::take(&mut this.out);
        let shared = this.transcoder.take_shared();
        if !shared.is_empty() {
            this.pieces.extend(pieces(out.into(), shared));
            return Poll::Ready(this.pieces.pop_front().map(|piece| Ok(Frame::data(piece))));
        }
        let frame = match out.len() {
            ..=SMALL_FRAME => {
                let frame = Bytes::copy_from_slice(&out);
                buffer_pool::put(out);
                frame
            }
            _ => Bytes::from(out),
        };
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        // hyper may not ask again after the terminal event; that is no hang-up
        let left = !self.transcoder.ended();
        if let Some(closing) = self.closing.take() {
            // the answer was whole; that its client left does not unmake it
            tokio::spawn(closing);
        }
        self.report(left);
    }
}

/// The current Unix time in seconds; 0 for a clock that is set before 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
