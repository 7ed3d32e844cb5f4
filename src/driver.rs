//! Owns a running stream: it moves chunks from the upstream into the [`Transcoder`] and events out, bridges silence,
//! and ends exactly once. It must not know what an event means.
//!
//! It is the response body itself: hyper polls it, and dropping it (the client left) drops the upstream request.

mod answer;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
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
use crate::panics::{self, Panicked};
use crate::telemetry::RequestRecord;
use crate::wake_flag::WakeFlag;
use crate::{buffer_pool, heavy, upstream};
use rejoinder_core::response::events;

/// A frame up to this is copied out of a lent buffer, in bytes.
const SMALL_FRAME: usize = 4 << 10;

/// How silence is bridged, and how much waits for a slow client.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Silence after which a comment is sent.
    pub heartbeat: Duration,
    /// Silence after which `response.in_progress` is sent again.
    pub in_progress_after: Duration,
    /// Longest silence within the upstream's body.
    pub idle_timeout: Duration,
    /// One frame holds at most about this much, so that a fast upstream cannot fill memory through a slow client.
    pub frame_bytes: usize,
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
    /// Chunks of output so far, and who is told of them.
    chunks: u64,
    progress: Option<Arc<RequestRecord>>,
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
    /// That of the request, for what is logged of a panic.
    span: tracing::Span,
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
            chunks: 0,
            progress: None,
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
            span: tracing::Span::current(),
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

    /// Has the record told of what is written.
    pub fn progress(mut self, record: Arc<RequestRecord>) -> EventBody {
        self.progress = Some(record);
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
        if let Some((progress, first)) = self.progress.as_ref().zip(self.first_token) {
            progress.wrote(self.chunks, first.into_std());
        }
    }

    /// Moves what has arrived into the transcoder, at most a frame's worth; returns whether that was all.
    fn feed(&mut self, now: Instant) -> bool {
        let unix = self.unix(now);
        while !self.transcoder.ended() && self.out.len() < self.pace.frame_bytes {
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
                        if self.out.len() > before && self.transcoder.failure().is_none() {
                            self.chunks += 1;
                            self.first_token.get_or_insert(now);
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

/// A frame, `None` at the end.
type NextFrame = Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>>;

impl EventBody {
    /// Fails the response after a panic in it; what had left before stays true. A second panic ends the body without a word.
    fn after_panic(&mut self, panicked: &Panicked, cx: &mut Context<'_>) -> NextFrame {
        let _entered = self.span.clone().entered();
        panicked.log("a response");
        self.source = Source::Over;
        self.closing = None;
        let last = panics::catch(|| {
            if !self.transcoder.ended() {
                self.transcoder.keep_whole_events(&mut self.out);
                self.finish(End::Failed(panicked.error()));
            }
            self.next_frame(cx)
        });
        last.unwrap_or_else(|again| {
            again.log("the end of a response");
            Poll::Ready(None)
        })
    }

    fn next_frame(&mut self, cx: &mut Context<'_>) -> NextFrame {
        let mut now = None;
        if self.called.take(cx) {
            self.pull(*now.insert(Instant::now()));
        }
        if self.alarm.take(cx) {
            self.poll_alarms();
        }
        let events = !self.out.is_empty();
        self.tick();
        if self.transcoder.ended() {
            self.let_go();
            if let Some(before_end) = self.before_end.take() {
                self.closing = Some(before_end(&mut self.transcoder));
            }
            if let Some(closing) = &mut self.closing {
                futures::ready!(closing.as_mut().poll(cx));
                self.closing = None;
            }
        }
        if self.out.is_empty() {
            buffer_pool::put(std::mem::take(&mut self.out));
            if self.transcoder.ended() {
                self.report(false);
                return Poll::Ready(None);
            }
            return Poll::Pending;
        }
        self.spoke = now.unwrap_or_else(Instant::now);
        if events || self.out.first() != Some(&b':') {
            self.told = self.spoke;
        }
        let out = std::mem::take(&mut self.out);
        let shared = self.transcoder.take_shared();
        if !shared.is_empty() {
            self.pieces.extend(pieces(out.into(), shared));
            return Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))));
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

impl Body for EventBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> NextFrame {
        let this = self.get_mut();
        if let Some(piece) = this.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match panics::catch(|| this.next_frame(cx)) {
            Ok(frame) => frame,
            Err(panicked) => this.after_panic(&panicked, cx),
        }
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
        // its text is about as large as what was read
        heavy::freed(usize::try_from(self.heard_bytes).unwrap_or(usize::MAX));
    }
}

/// The current Unix time in seconds; 0 for a clock that is set before 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::{Arc, Mutex};

    use rejoinder_core::dialect::GENERIC;
    use rejoinder_core::ids::Ids;
    use rejoinder_core::options::PlanOptions;
    use rejoinder_core::request::plan::plan;
    use tokio_util::sync::CancellationToken;

    use super::*;

    const PACE: Pace = Pace {
        heartbeat: Duration::from_secs(1),
        in_progress_after: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(60),
        frame_bytes: 16 << 10,
    };

    fn transcoder() -> Box<Transcoder> {
        let options = PlanOptions::new(&GENERIC);
        let request = br#"{"model":"m","input":"hi","stream":true}"#;
        let Ok(plan) = plan(request, &options) else { panic!("a small request has a plan") };
        Box::new(Transcoder::new(plan.reply, Ids::new("0"), 0))
    }

    /// How a stream ended, as its caller is told.
    type Endings = Arc<Mutex<Vec<(&'static str, bool)>>>;

    fn body(answer: impl Future<Output = Result<Answer, Error>> + Send + 'static) -> (EventBody, Endings) {
        let endings = Endings::default();
        let told = endings.clone();
        let on_end: OnEnd = Box::new(move |transcoder, end| {
            told.lock().unwrap().push((transcoder.outcome(), end.client_left))
        });
        let shutdown = CancellationToken::new().cancelled_owned();
        (EventBody::new(transcoder(), answer, PACE, shutdown, on_end), endings)
    }

    /// The types and numbers of all events, up to the end of the body.
    async fn read(mut body: EventBody) -> Vec<(String, u64)> {
        let mut text = String::new();
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let data = text.lines().filter_map(|line| line.strip_prefix("data: {"));
        let events =
            data.map(|data| serde_json::from_str::<serde_json::Value>(&format!("{{{data}")).unwrap());
        events.map(|e| (e["type"].as_str().unwrap().into(), e["sequence_number"].as_u64().unwrap())).collect()
    }

    const FAILED: [&str; 4] = ["response.created", "response.in_progress", "error", "response.failed"];

    #[tokio::test]
    async fn a_panic_before_or_within_a_stream_fails_its_response() {
        panics::tests::watch_in_tests();
        for pause in [0, 10] {
            let (body, endings) = body(async move {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                panic!("a defect")
            });
            let events = read(body).await;
            let want: Vec<_> = FAILED.map(str::to_owned).into_iter().zip(0..).collect();
            assert_eq!(events, want);
            assert_eq!(*endings.lock().unwrap(), [("failed", false)]);
        }
    }

    #[tokio::test]
    async fn a_panic_while_a_response_is_kept_leaves_its_end_as_it_is() {
        panics::tests::watch_in_tests();
        let refused = || async { Err(Error::new(Kind::Unavailable, "Nobody is there.")) };
        let in_future: BeforeEnd = Box::new(|_| Box::pin(async { panic!("a defect") }));
        let at_once: BeforeEnd = Box::new(|_| panic!("a defect"));
        for before_end in [in_future, at_once] {
            let (body, endings) = body(refused());
            let events = read(body.before_end(Some(before_end))).await;
            assert_eq!(events.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(), FAILED);
            assert_eq!(*endings.lock().unwrap(), [("failed", false)]);
        }
    }
}
