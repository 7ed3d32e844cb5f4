//! Owns what came back for a chat request, up to its end: the events with the place on the server that they hold, or
//! one whole completion. It must not know what an event means.

use std::borrow::Cow;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::HeaderMap;
use rejoinder_core::Usage;
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::options::ThinkTags;
use rejoinder_core::response::transcoder::{End, Transcoder};
use rejoinder_core::responses_profile::ResponsesProfile;
use rejoinder_core::wire::json;
use serde::de::IgnoredAny;

use super::{AskAgain, unix_now};
use crate::sse::{self, SseError, SseReader};
use crate::upstream::{self, Lease, Response, TransportError, UpstreamResponse};

/// How long the rest of an upstream's body may take once the response has ended; then its connection is given up.
const REST: Duration = Duration::from_secs(1);

/// What an upstream answered to a chat request.
pub struct Answer {
    native: Option<&'static ResponsesProfile>,
    think_tags: ThinkTags,
    keeps_format: bool,
    compaction: Option<String>,
    form: Form,
    /// Headers that tell what may still be asked of the server.
    limits: HeaderMap,
}

/// In which form it comes.
enum Form {
    /// A stream of chunks.
    Events(Box<Events>),
    /// One whole completion, although a stream was asked for.
    Whole(Bytes),
}

impl Answer {
    /// Takes a success. `compaction`: the blob into which the conversation was summarised before.
    ///
    /// # Errors
    /// When a JSON body does not come.
    pub async fn of(
        mut sent: UpstreamResponse,
        compaction: Option<String>,
        limit: Duration,
    ) -> Result<Answer, Error> {
        let (native, think_tags, limits) = (sent.native, sent.think_tags, sent.take_limits());
        let keeps_format = sent.keeps_format;
        let form = match sent.form() {
            upstream::Form::Events => Form::Events(Box::new(Events::of(sent))),
            upstream::Form::Whole => Form::Whole(sent.whole(limit).await?),
        };
        Ok(Answer { native, think_tags, keeps_format, compaction, form, limits })
    }

    /// Headers that tell a client what may still be asked of the server.
    pub fn take_limits(&mut self) -> HeaderMap {
        std::mem::take(&mut self.limits)
    }

    /// Tells the transcoder what it has to know before the first chunk, and a whole completion to its end; the events, where
    /// it comes as such.
    pub(super) fn begin(self, transcoder: &mut Transcoder, out: &mut Vec<u8>) -> Option<Box<Events>> {
        if let Some(blob) = &self.compaction {
            transcoder.compacted(blob, out);
        }
        transcoder.set_server(self.native, self.think_tags, self.keeps_format);
        match self.form {
            Form::Events(events) => Some(events),
            Form::Whole(body) => {
                let now = unix_now();
                // JSON has no other encoding; what is not UTF-8 fails as no JSON
                for chunk in chunks(&json::lossy(&body)) {
                    transcoder.chunk(chunk, now, out);
                }
                transcoder.end(End::Eof, now, out);
                None
            }
        }
    }

    /// Reads it to its end, for a response that is not streamed; how it ended, the transcoder tells.
    ///
    /// # Errors
    /// When the upstream was asked once more, and refused.
    pub async fn read(
        self,
        transcoder: &mut Transcoder,
        idle_timeout: Duration,
        ask_again: Option<AskAgain>,
    ) -> Result<(), Error> {
        self.read_once(transcoder, idle_timeout).await;
        if let Some(text) = transcoder.take_unfit() {
            let ask_again = ask_again.ok_or_else(unfit)?;
            ask_again(text).await?.read_once(transcoder, idle_timeout).await;
        }
        Ok(())
    }

    /// Reads it to its end, or to where another is wanted.
    async fn read_once(self, transcoder: &mut Transcoder, idle_timeout: Duration) {
        let mut unused = Vec::new();
        let Some(mut events) = self.begin(transcoder, &mut unused) else { return };
        while !transcoder.ended() && !transcoder.is_unfit() {
            let read = poll_fn(|cx| {
                Poll::Ready(match ready!(events.poll(cx)) {
                    Some(Ok(data)) => {
                        transcoder.chunk(&data, unix_now(), &mut unused);
                        None
                    }
                    Some(Err(error)) => Some(End::Failed(broken(error))),
                    None => Some(End::Eof),
                })
            });
            let end = match tokio::time::timeout(idle_timeout, read).await {
                Ok(None) => continue,
                Ok(Some(end)) => end,
                Err(_) => End::Failed(upstream::silent(idle_timeout)),
            };
            transcoder.end(end, unix_now(), &mut unused);
        }
        if transcoder.failure().is_none() {
            events.let_end(transcoder.usage());
        }
    }
}

/// The chunks of a body that is no event stream: all of it is one, or each of its lines (NDJSON).
fn chunks(body: &str) -> impl Iterator<Item = &str> {
    let is_json = |line: &str| serde_json::from_str::<IgnoredAny>(line).is_ok();
    let lines = body.trim_ascii().split_once('\n').is_some_and(|(first, _)| is_json(first));
    body.split(move |c| lines && c == '\n')
}

/// The events of a stream. Dropped, they take the request back.
pub struct Events {
    reader: SseReader<Response>,
    lease: Lease,
}

impl sse::Source for Response {
    type Error = TransportError;

    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<usize, TransportError>>> {
        Response::poll_more(self, cx, out)
    }
}

impl Events {
    fn of(sent: UpstreamResponse) -> Events {
        let (first, rest, lease) = sent.into_body();
        let mut reader = sse::events(rest);
        reader.put(&first);
        Events { reader, lease }
    }

    /// How many bytes have arrived.
    pub fn bytes_read(&self) -> u64 {
        self.reader.bytes_read()
    }

    /// The payload of the next event.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Cow<'_, str>, SseError>>> {
        let next = ready!(self.reader.poll_payload(cx));
        if let Some(Err(SseError::Transport(_))) = next {
            self.lease.failed();
        }
        Poll::Ready(next)
    }

    /// Lets an upstream that has only `[DONE]` left say so: its connection can then serve the next request. Its place on
    /// the server is free at once: a client's next request may be here before that.
    /// `usage`: what the answer says of it.
    pub fn let_end(self, usage: Option<Usage>) {
        let Events { mut reader, mut lease } = self;
        if let Some(usage) = usage {
            lease.found_cached(usage.cached.into());
        }
        drop(lease);
        let mut rest = Box::pin(async move { while let Some(Ok(_)) = reader.next().await {} });
        // mostly it came with the last event
        if rest.as_mut().now_or_never().is_none() {
            tokio::spawn(tokio::time::timeout(REST, rest));
        }
    }
}

/// The text has another form than the request asks for, and nobody can be asked again.
pub fn unfit() -> Error {
    Error::new(Kind::UpstreamFailed, "The model's answer does not fit text.format.")
}

/// Maps the failure of the upstream's event stream to the error that the client gets.
pub fn broken(error: SseError) -> Error {
    let message = match &error {
        SseError::Transport(_) => "The upstream server closed the connection before its answer was complete.",
        SseError::InvalidUtf8 => "The upstream server sent bytes that are not UTF-8.",
        _ => "The upstream server sent an event that is too long.",
    };
    Error::new(Kind::BadGateway, message).detail(error)
}
