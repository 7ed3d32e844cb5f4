//! Owns the way from chat chunks to Responses events: which item is open, what waits, when the response ends. One
//! machine for streams and for single answers (a completion is one chunk). It must not do IO, and cannot fail: what
//! goes wrong becomes a failed response.
//!
//! Items never overlap. Text that arrives inside a call, and calls that arrive inside another, wait until the open
//! call's arguments are whole; text of white space alone opens no item.

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
use crate::response::event_writer::Events;
use crate::response::native_items::NativeItems;
use crate::response::object::{Snapshot, Status};
use crate::response::open_item::{Ending, Kind, Open};
use crate::response::shared::{Shared, Text};
use crate::response::transcoder::bounds::Bounds;
use crate::response::transcoder::call_slot::Slot;
use crate::response::transcoder::ending::failed;
use crate::response::transcoder::finish::AnswerEnd;
use crate::response::transcoder::finished_items::FinishedItems;
use crate::response::transcoder::repeat::RepeatPath;
use crate::response::transcoder::text::Texts;
use crate::response::transcoder::text_format::HeldText;
use crate::response::transcoder::text_forms::ReasoningSeen;
use crate::response::transcoder::think::Think;
use crate::response::transcoder::token_counts::TokenCounts;
use crate::response::usage::Usage;
use crate::responses_profile::ResponsesProfile;

static NOTHING: Text = Text::new();

/// How the upstream's answer ended.
#[derive(Debug)]
pub enum End {
    /// Its body is over. Whether that was a good end, its last chunks tell.
    Eof,
    /// It was cut, fell silent, or never came.
    Failed(Error),
}

/// Turns one chat answer into one response.
#[derive(Debug)]
pub struct Transcoder {
    again: RepeatPath,
    terminal: Option<Terminal>,
    bounds: Bounds,
    events: Events,
    texts: Texts,
    think: Think,
    calls: Vec<Slot>,
    open: Option<Open>,
    plan: ReplyPlan,
    /// Log probabilities of the tokens of the next piece of text.
    logprobs: String,
    reasoning_seen: ReasoningSeen,
    /// Annotations that wait for their text.
    annotations: Vec<String>,
    /// Raw text of the open reasoning item, escaped, where it is to be sealed.
    raw_reasoning: String,
    ids: Ids,
    id: String,
    created_at: u64,
    items: FinishedItems,
    /// The summary so far, escaped, where one was asked for in place of an answer.
    summary: String,
    answer_end: AnswerEnd,
    /// The text so far, where it has a format to fit of which the upstream was not told.
    held: Option<Box<HeldText>>,
    token_counts: TokenCounts,
    failure: Option<Error>,
    dropped: u64,
    repaired: Repaired,
    /// The items of an upstream that speaks Responses itself.
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
    /// `created_at`: Unix time in seconds.
    pub fn new(plan: ReplyPlan, ids: Ids, created_at: u64) -> Self {
        let events = Events::new(plan.stream);
        Transcoder {
            id: ids.response(),
            think: Think::new(plan.think_tags),
            held: plan.format.clone().map(HeldText::boxed),
            plan,
            ids,
            created_at,
            events,
            bounds: Bounds::new(),
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
            again: RepeatPath::default(),
            native: NativeItems::default(),
            body: Vec::new(),
        }
    }

    /// The response's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the terminal event was written: nothing follows it.
    pub fn ended(&self) -> bool {
        self.terminal.is_some()
    }

    /// Why the response failed, if it did.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// `completed`, `incomplete`, `failed` or `cancelled` once it has ended.
    pub fn outcome(&self) -> &'static str {
        match self.terminal {
            None => "in_progress",
            Some(Terminal::Completed(_)) => "completed",
            Some(Terminal::Incomplete(_)) => "incomplete",
            Some(Terminal::Failed) => "failed",
            Some(Terminal::Cancelled) => "cancelled",
        }
    }

    /// Has texts of [`LONG`](crate::response::shared::LONG) bytes and more left out of what is written, to be put in by whoever sends it:
    /// [`Transcoder::take_shared`] tells where.
    pub fn share_long_texts(&mut self) {
        self.events.shared.get_or_insert_default();
    }

    /// The long texts that belong into what was written since the last call, by their places in the buffer.
    pub fn take_shared(&mut self) -> Shared {
        self.events.shared.as_deref_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Gives the finished items away, as a JSON array. For a store, once the last event is written: they are the longest
    /// text of a response, and are not copied once more.
    pub fn take_output(&mut self) -> String {
        self.items.take()
    }

    /// The response as it stands, for a store; what the stream's last event called `incomplete` for want of a better
    /// event is `cancelled` here.
    pub fn snapshot(&self) -> Snapshot<'_> {
        self.state(match self.terminal {
            None => Status::InProgress,
            Some(Terminal::Completed(at)) => Status::Completed(at),
            Some(Terminal::Incomplete(reason)) => Status::Incomplete(reason),
            Some(Terminal::Cancelled) => Status::Cancelled,
            Some(Terminal::Failed) => failed(self.failure.as_ref()),
        })
    }

    /// What the response repeats of its request (see [`ReplyPlan::echo`]).
    pub fn echo(&self) -> &[u8] {
        &self.plan.echo
    }

    /// Token counts, as far as the upstream told.
    pub fn usage(&self) -> Option<Usage> {
        let usage = self.token_counts.best();
        match self.held.as_deref().and_then(HeldText::first_usage) {
            Some(first) => usage.map(|usage| usage.after(first)),
            None => usage,
        }
    }

    /// Pieces of the upstream's answer that had no place: arguments after a call was whole, calls without a name.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How often each repair of calls was needed.
    pub fn repaired(&self) -> Repaired {
        self.repaired
    }

    /// The Response object as it ended; only for an answer without a stream.
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// The answer comes from a server that speaks so, which may not be the one that the plan was made for.
    /// `keeps_format`: it was told of a format beside tools, and binds its text to it.
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
        // a server that speaks Responses well seals its own
        self.plan.seals_reasoning &= native.is_none_or(|native| native.functions);
    }

    /// Writes `response.created` and `response.in_progress`; a background response is `queued` in between.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        let first = if self.plan.background { Status::Queued } else { Status::InProgress };
        self.announce(out, "response.created", first);
        if self.plan.background {
            self.announce(out, "response.queued", first);
        }
        self.announce(out, "response.in_progress", Status::InProgress);
    }

    /// Puts a `compaction` item with this blob first: the conversation was summarised before it was answered.
    pub fn compacted(&mut self, blob: &str, out: &mut Vec<u8>) {
        self.open_item(Kind::Compaction { blob: blob.to_owned() }, ids::COMPACTION, out);
        self.close(Ending::Completed, out);
        self.items.begin_answer();
    }

    /// Ends the response on its client's behalf; the open item is `incomplete`. No event says `cancelled`: the stream
    /// ends with `response.incomplete`.
    pub fn cancel(&mut self, out: &mut Vec<u8>) {
        if self.ended() {
            return;
        }
        self.calls.iter_mut().for_each(|slot| slot.begin());
        self.texts.late.take();
        self.close(Ending::Incomplete, out);
        self.terminate("response.incomplete", Status::Incomplete("cancelled"), Terminal::Cancelled, out);
    }

    /// Writes `response.in_progress` once more: the one heartbeat that every client counts as life.
    pub fn heartbeat(&mut self, out: &mut Vec<u8>) {
        if !self.ended() {
            self.announce(out, "response.in_progress", Status::InProgress);
        }
    }

    /// Takes the payload of one upstream event, or a whole completion; `now`: Unix time in seconds.
    pub fn chunk(&mut self, data: &str, now: u64, out: &mut Vec<u8>) {
        if self.ended() || !self.fits(data, out) {
            return;
        }
        let data = data.trim_ascii();
        if !self.try_repeat(data, out) && !data.is_empty() {
            self.parse(data, now, out);
        }
    }

    /// Takes the end of the upstream's answer. Afterwards the response has ended, whatever came before, or wants its
    /// text in another form ([`Transcoder::take_unfit`]).
    pub fn end(&mut self, end: End, now: u64, out: &mut Vec<u8>) {
        if self.ended() || self.is_unfit() {
            return;
        }
        match end {
            // the answer is whole: what failed to come is its usage at most
            _ if self.is_whole() => self.complete(now, out),
            End::Failed(error) => self.fail(error, out),
            End::Eof => {
                let error = self.unfinished();
                self.fail(error, out);
            }
        }
    }
}
