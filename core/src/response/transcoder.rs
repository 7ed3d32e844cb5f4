//! Owns the state machine that turns chat chunks or native events into Responses events: which item is open, which
//! deltas wait, and when the response ends. One machine serves streams and single completions (a completion is one
//! chunk). It must not do IO, and it cannot fail: an error becomes a failed response.
//!
//! Items never overlap. Text that arrives while a call is open, and calls that arrive while another call is open, wait
//! until the open call's arguments are complete. White space alone opens no item.

mod annotations;
mod arguments;
mod bounds;
mod call_slot;
mod calls;
mod chunk;
mod ending;
mod finish;
mod finished_items;
mod native_events;
mod output;
mod reconcile;
mod repeat;
mod text;
mod text_format;
mod text_forms;
mod think;
mod think_tags;
mod token_counts;

use crate::error::Error;
use crate::ids;
use crate::ids::Ids;
pub use crate::options::ThinkTags;
use crate::quirk::Repaired;
use crate::reply_plan::ReplyPlan;
use crate::response::event_writer::EventWriter;
use crate::response::native_items::NativeItems;
use crate::response::object::{Snapshot, Status};
use crate::response::open_item::{Ending, OpenItem, OpenKind};
use crate::response::shared::{Shared, Text};
use crate::response::transcoder::bounds::AnswerLimit;
use crate::response::transcoder::call_slot::CallSlot;
use crate::response::transcoder::ending::failed;
use crate::response::transcoder::finish::AnswerEnd;
use crate::response::transcoder::finished_items::FinishedItems;
use crate::response::transcoder::repeat::FastPath;
use crate::response::transcoder::text::Texts;
use crate::response::transcoder::text_format::UncheckedText;
use crate::response::transcoder::text_forms::ReasoningSeen;
use crate::response::transcoder::think::Think;
use crate::response::transcoder::token_counts::TokenCounts;
use crate::response::usage::Usage;
use crate::responses_profile::ResponsesProfile;
use crate::wire::chat::Timings;

static NOTHING: Text = Text::new();

/// How the upstream's answer ended.
#[derive(Debug)]
pub enum End {
    /// The body ended. The last chunks decide whether the answer is complete.
    Eof,
    /// The connection broke, went silent, or was never established.
    Failed(Error),
}

/// Turns one upstream answer into one response.
///
/// Call [`start`](Transcoder::start) once, [`chunk`](Transcoder::chunk) for each upstream event, and
/// [`end`](Transcoder::end) when the body ends. Each appends whole events to `out`.
/// Once [`ended`](Transcoder::ended) is true, `chunk` and `end` do nothing.
#[derive(Debug)]
pub struct Transcoder {
    repeat_path: FastPath,
    terminal: Option<Terminal>,
    bounds: AnswerLimit,
    events: EventWriter,
    texts: Texts,
    think: Think,
    calls: Vec<CallSlot>,
    open: Option<OpenItem>,
    plan: ReplyPlan,
    /// Log probabilities of the next piece of text: JSON objects joined with commas.
    logprobs: String,
    reasoning_seen: ReasoningSeen,
    /// Annotations that arrived before their text, as JSON objects.
    annotations: Vec<String>,
    /// Escaped text of the open reasoning item, collected only if it is to be sealed.
    raw_reasoning: String,
    ids: Ids,
    id: String,
    created_at: u64,
    items: FinishedItems,
    /// The escaped summary so far, if the request asks for a compaction instead of an answer.
    summary: String,
    answer_end: AnswerEnd,
    /// The text so far, if it must fit a `text.format` that the upstream does not know about.
    held: Option<Box<UncheckedText>>,
    token_counts: TokenCounts,
    failure: Option<Error>,
    dropped: u64,
    repaired: Repaired,
    /// The items of an upstream that speaks the Responses API itself.
    native: NativeItems,
    body: Vec<u8>,
}

/// How the response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terminal {
    Completed(u64),
    Incomplete(&'static str),
    Failed,
    Cancelled,
}

impl Transcoder {
    /// Prepares the response; nothing is written yet. `created_at` is a Unix time in seconds.
    pub fn new(plan: ReplyPlan, ids: Ids, created_at: u64) -> Self {
        let events = EventWriter::new(plan.stream);
        Transcoder {
            id: ids.response(),
            think: Think::new(plan.think_tags),
            held: plan.format.clone().map(UncheckedText::boxed),
            plan,
            ids,
            created_at,
            events,
            bounds: AnswerLimit::new(),
            texts: Texts::new(),
            items: FinishedItems::default(),
            reasoning_seen: ReasoningSeen::default(),
            answer_end: AnswerEnd::default(),
            token_counts: TokenCounts::default(),
            open: None,
            calls: Vec::new(),
            annotations: Vec::new(),
            logprobs: String::new(),
            raw_reasoning: String::new(),
            summary: String::new(),
            terminal: None,
            failure: None,
            dropped: 0,
            repaired: Repaired::default(),
            repeat_path: FastPath::default(),
            native: NativeItems::default(),
            body: Vec::new(),
        }
    }

    /// The response id, `resp_...`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the terminal event has been written. Nothing follows it.
    pub fn ended(&self) -> bool {
        self.terminal.is_some()
    }

    /// Why the response failed, if it did.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// The final status: `completed`, `incomplete`, `failed` or `cancelled`; `in_progress` until the response has
    /// ended.
    pub fn outcome(&self) -> &'static str {
        match self.terminal {
            None => "in_progress",
            Some(Terminal::Completed(_)) => "completed",
            Some(Terminal::Incomplete(_)) => "incomplete",
            Some(Terminal::Failed) => "failed",
            Some(Terminal::Cancelled) => "cancelled",
        }
    }

    /// Why the response is incomplete, if it is.
    pub fn incomplete_reason(&self) -> Option<&'static str> {
        match self.terminal {
            Some(Terminal::Incomplete(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Leaves texts of at least [`LONG`](crate::response::shared::LONG) bytes out of the output from now on. The caller
    /// inserts them at the positions that [`Transcoder::take_shared`] returns.
    pub fn share_long_texts(&mut self) {
        self.events.shared.get_or_insert_default();
    }

    /// The long texts left out of the output since the last call, with their positions in the output buffer.
    pub fn take_shared(&mut self) -> Shared {
        self.events.shared.as_deref_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Removes from `out`, into which it wrote last, the event whose writing was broken off by a panic. What comes next is to
    /// be [`Transcoder::end`].
    pub fn keep_whole_events(&mut self, out: &mut Vec<u8>) {
        self.events.keep_whole_events(out);
    }

    /// Takes the finished items as a JSON array, leaving none behind. Meant for the store, after the last event: items
    /// are the largest part of a response, so they are moved, not copied.
    pub fn take_output(&mut self) -> String {
        self.items.take()
    }

    /// The current Response object, for the store. A cancelled response is `cancelled` here although its stream ends
    /// with `response.incomplete`, because no event says `cancelled`.
    pub fn snapshot(&self) -> Snapshot<'_> {
        self.state(match self.terminal {
            None => Status::InProgress,
            Some(Terminal::Completed(at)) => Status::Completed(at),
            Some(Terminal::Incomplete(reason)) => Status::Incomplete(reason),
            Some(Terminal::Cancelled) => Status::Cancelled,
            Some(Terminal::Failed) => failed(self.failure.as_ref()),
        })
    }

    /// The request members that the Response object repeats (see [`ReplyPlan::echo`]), each with a leading comma.
    pub fn echo(&self) -> &[u8] {
        &self.plan.echo
    }

    /// Token counts as the upstream reported them; `None` if it reported none.
    pub fn usage(&self) -> Option<Usage> {
        let usage = self.token_counts.best();
        match self.held.as_deref().and_then(UncheckedText::first_usage) {
            Some(first) => usage.map(|usage| usage.after(first)),
            None => usage,
        }
    }

    /// What the upstream says of the work for its answer, if it is a llama-server.
    pub fn timings(&self) -> Option<Timings> {
        self.token_counts.timings()
    }

    /// How many pieces of the upstream's answer were discarded, such as arguments after a complete call or calls
    /// without a name.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How often each repair of calls was applied.
    pub fn repaired(&self) -> Repaired {
        self.repaired
    }

    /// The final Response object. Empty if the response was streamed.
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// Sets the server that answers, which may differ from the one the plan was made for. `native`: its profile, if it
    /// speaks Responses. `keeps_format`: it accepts a format beside tools, and constrains its text to it.
    pub fn set_server(
        &mut self,
        native: Option<&'static ResponsesProfile>,
        think_tags: ThinkTags,
        keeps_format: bool,
    ) {
        if keeps_format && self.holds_text() {
            self.held = None;
        }
        self.plan.native = native;
        self.think = Think::new(think_tags);
        // a server with full Responses support seals its own reasoning
        self.plan.seals_reasoning &= native.is_none_or(|native| native.function_tools_only);
    }

    /// Writes `response.created` and `response.in_progress`, with `response.queued` between them for a background
    /// response.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        let first = if self.plan.background { Status::Queued } else { Status::InProgress };
        self.announce(out, "response.created", first);
        if self.plan.background {
            self.announce(out, "response.queued", first);
        }
        self.announce(out, "response.in_progress", Status::InProgress);
    }

    /// Writes a `compaction` item with this blob: the conversation was summarised before the answer. Call it before the
    /// first chunk.
    pub fn compacted(&mut self, blob: &str, out: &mut Vec<u8>) {
        self.open_item(OpenKind::Compaction { blob: blob.to_owned() }, ids::COMPACTION, out);
        self.close(Ending::Completed, out);
        self.items.begin_answer();
    }

    /// Ends the response at the client's request; the open item becomes `incomplete`. No event says `cancelled`, so the
    /// stream ends with `response.incomplete`. Does nothing if the response has ended.
    pub fn cancel(&mut self, out: &mut Vec<u8>) {
        if self.ended() {
            return;
        }
        self.calls.iter_mut().for_each(|slot| slot.mark_begun());
        self.texts.late.take();
        self.close(Ending::Incomplete, out);
        self.terminate("response.incomplete", Status::Incomplete("cancelled"), Terminal::Cancelled, out);
    }

    /// Repeats `response.in_progress`, the only heartbeat that every client accepts as a sign of life.
    pub fn heartbeat(&mut self, out: &mut Vec<u8>) {
        if !self.ended() {
            self.announce(out, "response.in_progress", Status::InProgress);
        }
    }

    /// Processes the payload of one upstream event, or a whole completion. `now` is a Unix time in seconds.
    pub fn chunk(&mut self, data: &str, now: u64, out: &mut Vec<u8>) {
        if self.ended() || !self.fits(data, out) {
            return;
        }
        let data = data.trim_ascii();
        if !self.try_repeat(data, out) && !data.is_empty() {
            self.parse(data, now, out);
        }
    }

    /// Processes the end of the upstream's answer. Afterwards the response has ended, or its text must be requested
    /// again in the right format ([`Transcoder::take_unfit`]).
    pub fn end(&mut self, end: End, now: u64, out: &mut Vec<u8>) {
        if self.ended() || self.is_unfit() {
            return;
        }
        match end {
            // the answer is complete; at most its usage is missing
            _ if self.is_whole() => self.complete(now, out),
            End::Failed(error) => self.fail(error, out),
            End::Eof => {
                let error = self.unfinished();
                self.fail(error, out);
            }
        }
    }
}
