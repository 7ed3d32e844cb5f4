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
mod finish;
mod hosted_items;
mod native_events;
mod parts;
mod reconcile;
mod repeat;
mod text;
mod text_format;
mod think;

use crate::compaction::Summary;
use crate::error::Error;
use crate::error::Kind as ErrorKind;
use crate::fields::present;
use crate::ids;
use crate::ids::Ids;
use crate::options::Compact;
use crate::quirk::{Quirk, Repaired};
use crate::reply_plan::ReplyPlan;
use crate::response::native_items::NativeItems;
use crate::response::object::{Snapshot, Status};
use crate::response::open_item::{Call, Events, Kind, OUTPUT_TEXT, Open};
use crate::response::shared::{Shared, Text};
use crate::response::transcoder::bounds::MOST_ITEMS;
use crate::response::transcoder::call_slot::{Piece, Slot, Stage};
use crate::response::transcoder::finish::Finish;
use crate::response::transcoder::parts::fingerprint;
use crate::response::transcoder::repeat::RepeatPath;
use crate::response::transcoder::text::{Channel, TextChannel, is_blank};
use crate::response::transcoder::text_format::HeldText;
use crate::response::transcoder::think::Think;
use crate::response::usage::Usage;
use crate::response::{events, upstream_error};
use crate::responses_profile::ResponsesProfile;
use crate::sealing::Purpose;
use crate::tools::custom_input::CustomInput;
use crate::wire::chat::{Choice, Chunk, Delta, usage_elsewhere};
use crate::wire::json;
use crate::wire::trusted_json::first_elements;

pub use crate::options::ThinkTags;

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
    /// Bytes that have arrived.
    fed: usize,
    /// Most bytes that are held of the answer.
    most_held: usize,
    events: Events,
    /// Which channel the open message's part belongs to.
    last: Channel,
    text: TextChannel,
    think: Think,
    calls: Vec<Slot>,
    open: Option<Open>,
    plan: ReplyPlan,
    /// Log probabilities of the tokens of the next piece of text.
    logprobs: String,
    reasoning: TextChannel,
    refusal: TextChannel,
    /// By which of its names reasoning came first.
    reasoning_name: Option<usize>,
    /// The last finished reasoning.
    reasoned: Option<u64>,
    /// Annotations that wait for their text.
    annotations: Vec<String>,
    /// Text that arrived while a call was open whose arguments were not whole.
    late: Vec<(Channel, String, String)>,
    late_bytes: usize,
    /// Raw text of the open reasoning item, escaped, where it is to be sealed.
    raw_reasoning: String,
    ids: Ids,
    id: String,
    created_at: u64,
    /// Finished items, joined with commas, and how many there are.
    items: Text,
    count: u64,
    /// How many of them stand before the answer.
    before: u64,
    /// The `output_text` of finished items, escaped.
    output_text: Text,
    /// The summary so far, escaped, where one was asked for in place of an answer.
    summary: String,
    finish: Option<Finish>,
    /// Whether the upstream said that its answer is whole, in another way than by a `finish_reason`.
    whole: bool,
    /// The text so far, where it has a format to fit of which the upstream was not told.
    held: Option<Box<HeldText>>,
    usage: Option<Usage>,
    timings: Option<Usage>,
    failure: Option<Error>,
    dropped: u64,
    repaired: Repaired,
    /// Items of an upstream that speaks Responses itself.
    mend: NativeItems,
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
            open: None,
            items: Text::new(),
            count: 0,
            before: 0,
            output_text: Text::new(),
            last: Channel::Text,
            calls: Vec::new(),
            late: Vec::new(),
            late_bytes: 0,
            fed: 0,
            most_held: bounds::HELD,
            reasoning: TextChannel::default(),
            text: TextChannel::default(),
            refusal: TextChannel::default(),
            reasoning_name: None,
            reasoned: None,
            annotations: Vec::new(),
            logprobs: String::new(),
            raw_reasoning: String::new(),
            summary: String::new(),
            finish: None,
            whole: false,
            usage: None,
            timings: None,
            terminal: None,
            failure: None,
            dropped: 0,
            repaired: Repaired::default(),
            again: RepeatPath::default(),
            mend: NativeItems::default(),
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
        let mut output = std::mem::take(&mut self.items).into_string();
        output.insert(0, '[');
        output.push(']');
        output
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
        let usage = self.usage.or(self.timings);
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
    pub fn hear(
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
        self.begin(Kind::Compaction { blob: blob.to_owned() }, ids::COMPACTION, out);
        self.close(false, out);
        self.before = self.count;
    }

    /// Ends the response on its client's behalf; the open item is `incomplete`. No event says `cancelled`: the stream
    /// ends with `response.incomplete`.
    pub fn cancel(&mut self, out: &mut Vec<u8>) {
        if self.ended() {
            return;
        }
        self.calls.iter_mut().for_each(|slot| slot.begin());
        self.late.clear();
        self.close(true, out);
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

    fn parse(&mut self, data: &str, now: u64, out: &mut Vec<u8>) {
        if self.plan.native.is_some() {
            return self.native(data, now, out);
        }
        if data.eq_ignore_ascii_case("[DONE]") {
            return self.done(now, out);
        }
        if data.starts_with('[')
            && let Some((chunks, _)) = first_elements(data, MOST_ITEMS)
        {
            // Gemini lists its errors
            for chunk in chunks {
                self.chunk(chunk.get(), now, out);
            }
            return;
        }
        // serde would read an array by position
        let parsed = data.starts_with('{').then(|| serde_json::from_str::<Chunk<'_>>(data));
        let chunk = match parsed {
            Some(Ok(chunk)) => chunk,
            // the answer is whole, and this is no part of it
            _ if matches!(self.finish, Some(Finish::Stop | Finish::Cut(_))) => {
                self.dropped += 1;
                return;
            }
            other => {
                let message = "The upstream server sent an event that is no chat completion chunk.";
                let detail =
                    other.and_then(Result::err).map_or("no object".to_owned(), |error| error.to_string());
                return self.fail(Error::new(ErrorKind::BadGateway, message).detail(detail), out);
            }
        };
        let error = chunk.error.is_some_and(|error| error.get() != "null");
        if error || chunk.object.is_some_and(|object| object.get() == "\"error\"") {
            return self.fail(upstream_error::from_stream(data), out);
        }
        let choice = chunk.choices.as_ref();
        if choice.is_none()
            && chunk.usage.is_none()
            && chunk.timings.is_none()
            && let Some(error) = upstream_error::alone(data)
        {
            return self.fail(error, out);
        }
        let usage = match chunk.usage {
            // the last chunk of a choice, or one behind it, has it in some other place
            None if self.finish.is_some() || choice.is_none_or(|choice| choice.finish_reason.is_some()) => {
                usage_elsewhere(data)
            }
            usage => usage,
        };
        // zeros behind real counts say nothing
        self.usage = usage.and_then(Usage::from_chat).or(self.usage);
        if self.usage.is_none() {
            // on every chunk with timings_per_token: the last one counts
            self.timings = chunk.timings.and_then(Usage::from_timings).or(self.timings);
        }
        let last = chunk.choices.is_none() && chunk.usage.is_some();
        self.again.learn(data, &chunk, self.plan.logprobs);
        if let Some(choice) = &chunk.choices {
            self.choice(choice, out);
        }
        if last && self.finish.is_some() {
            self.complete(now, out);
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

    fn choice(&mut self, choice: &Choice<'_>, out: &mut Vec<u8>) {
        if self.plan.logprobs
            && let Some(raw) = choice.logprobs
        {
            self.take_logprobs(raw);
        }
        if let Some(delta) = choice.delta.as_ref().or(choice.message.as_ref()) {
            // a completion is one piece, and here is all of it
            self.whole |= choice.delta.is_none();
            self.delta(delta, choice.delta.is_none(), out);
        }
        self.logprobs.clear();
        if let Some(reason) = choice
            .finish_reason
            .and_then(json::decode)
            .filter(|reason| !reason.is_empty() && reason != "null")
        {
            self.finish = Some(Finish::of(&reason));
        }
        if let Some(error) = present(choice.error) {
            self.fail(upstream_error::from_stream(error.get()), out);
        }
    }

    fn delta(&mut self, delta: &Delta<'_>, whole: bool, out: &mut Vec<u8>) {
        self.say_reasoning(delta, out);
        if let Some(content) = delta.content {
            self.say_value(Channel::Text, content, out);
        }
        if let Some(refusal) = delta.refusal {
            self.say_value(Channel::Refusal, refusal, out);
        }
        if let Some(annotations) = delta.annotations {
            self.annotate(annotations, out);
        }
        if let Some(function) = &delta.function_call {
            self.call(&Piece::of_function(Some(0), function), out);
        }
        if delta.tool_calls.odd {
            if !self.plan.tools.quirk(Quirk::CallList) {
                let message = "The upstream server sent tool_calls that are no list of calls.";
                return self.fail(Error::new(ErrorKind::BadGateway, message), out);
            }
            self.repaired.count(Quirk::CallList);
        }
        for (position, call) in delta.tool_calls.list.iter().enumerate() {
            self.call(&Piece::of(call, whole.then_some(position as u64)), out);
        }
    }

    fn begin(&mut self, kind: Kind, prefix: &str, out: &mut Vec<u8>) {
        let wanted = self.mend.wanted.take().filter(|id| id.starts_with(prefix));
        let id = wanted.unwrap_or_else(|| self.ids.item(prefix));
        let extra = std::mem::take(&mut self.mend.extra);
        self.open = Some(Open::begin(&mut self.events, out, kind, id, self.count, extra));
        self.count += 1;
    }

    /// Closes the open item. `cut`: the upstream's answer ended inside it.
    fn close(&mut self, cut: bool, out: &mut Vec<u8>) {
        let Some(mut open) = self.open.take() else { return };
        let mut cut = cut;
        match open.kind {
            Kind::Call(Call { slot, custom, .. }) => {
                if let Some(slot) = self.calls.get_mut(slot) {
                    slot.stage = Stage::Closed;
                    let tools = &self.plan.tools;
                    let waiting = slot.release(&open.text, tools, false, &mut self.repaired);
                    open.delta(&mut self.events, out, &waiting, None);
                    cut = cut && !slot.complete(&open.text);
                    let rest = slot.release(&open.text, tools, true, &mut self.repaired);
                    open.delta(&mut self.events, out, &rest, None);
                    if let Some(others) = slot.others(&open.text) {
                        match self.events.enabled {
                            true => self.dropped += 1,
                            // the last ones count, and nobody has seen the first
                            false => open.text = others,
                        }
                    }
                    self.repaired += slot.custom.as_ref().map(CustomInput::repaired).unwrap_or_default();
                }
                if !cut && !custom && is_blank(&open.text) {
                    open.delta(&mut self.events, out, "{}", None);
                }
            }
            Kind::Held { slot: at } => {
                if let Some(slot) = self.calls.get_mut(at) {
                    slot.stage = Stage::Closed;
                    let complete = slot.complete(&open.text);
                    let rest = slot.release(&open.text, &self.plan.tools, true, &mut self.repaired);
                    open.delta(&mut self.events, out, &rest, None);
                    cut = cut && !complete && !slot.complete(&open.text);
                    if let Some(others) = slot.others(&open.text) {
                        open.text = others;
                    }
                }
                self.end_held(at, &open.text, cut, out);
                match self.open.take() {
                    Some(held) => open = held,
                    None => return,
                }
            }
            Kind::Whole { .. } | Kind::Compaction { .. } => {}
            Kind::Reasoning => {
                let rest = self.flow(Channel::Reasoning).seam.flush();
                if self.plan.seals_reasoning {
                    self.raw_reasoning.push_str(rest);
                }
                if open.has_part() {
                    open.delta(&mut self.events, out, rest, None);
                }
                open.sealed = self.seal_reasoning();
                self.reasoned = Some(fingerprint(&open.text));
            }
            Kind::Message => self.pay(&mut open, out),
        }
        let (item, said) = open.end(&mut self.events, out, cut);
        self.output_text.append(said);
        self.put_item(item);
    }

    /// Adds a finished item.
    fn put_item(&mut self, item: Text) {
        if !self.items.is_empty() {
            self.items.push(b",");
        }
        self.items.append(item);
    }

    fn seal_reasoning(&mut self) -> Option<String> {
        let raw = std::mem::take(&mut self.raw_reasoning);
        let seal = self.plan.seal.as_ref().filter(|_| self.plan.seals_reasoning && !raw.is_empty())?;
        seal.seal(Purpose::Reasoning, &json::unescape(&raw)?)
    }

    /// The summary becomes the one item of the answer. One that the token limit cut is still the best there is.
    fn complete_summary(&mut self, now: u64, out: &mut Vec<u8>) {
        let text = json::unescape(&self.summary).unwrap_or_default();
        let seal = self.plan.seal.as_ref().filter(|_| !text.trim().is_empty());
        let replaces = self.plan.compacts == Some(Compact::Replacing);
        let summary = Summary { text: text.trim().to_owned(), replaces };
        match seal.and_then(|seal| seal.seal(Purpose::Compaction, &summary.to_json())) {
            Some(blob) => {
                self.compacted(&blob, out);
                self.terminate("response.completed", Status::Completed(now), Terminal::Completed(now), out);
            }
            None => {
                let message = "The model wrote no summary of the conversation.";
                self.fail(Error::new(ErrorKind::UpstreamFailed, message), out);
            }
        }
    }

    fn complete(&mut self, now: u64, out: &mut Vec<u8>) {
        if self.is_unfit() {
            return;
        }
        self.end_think(out);
        if self.open.is_none() && self.count == self.before {
            let rest = self.flow(Channel::Text).seam.flush();
            self.put(Channel::Text, rest, out);
        }
        let finish = self.finish.clone().unwrap_or(Finish::Stop);
        if let Finish::Failed(reason) = &finish {
            let message = format!("The upstream server ended its answer with finish_reason '{reason}'.");
            return self.fail(Error::new(ErrorKind::UpstreamFailed, message), out);
        }
        if self.plan.compacts.is_some() {
            return self.complete_summary(now, out);
        }
        let cut = matches!(finish, Finish::Cut(_));
        if !cut {
            self.answer_assumed(out);
        }
        if !self.release_held(cut, out) {
            return;
        }
        self.flush(cut, out);
        match finish {
            Finish::Cut(reason) => {
                let (status, terminal) = (Status::Incomplete(reason), Terminal::Incomplete(reason));
                self.terminate("response.incomplete", status, terminal, out);
            }
            _ => self.terminate("response.completed", Status::Completed(now), Terminal::Completed(now), out),
        }
    }

    /// Brings everything that waits into the output. Only the last item may be incomplete: what waits behind a call
    /// that was cut was cut too.
    fn flush(&mut self, cut: bool, out: &mut Vec<u8>) {
        loop {
            if cut && self.call_in_the_way() && self.waiting() {
                // the open call keeps its own rest; see close()
                self.dropped += self.calls.iter().filter(|slot| slot.waits()).count() as u64;
                self.late.clear();
                break;
            }
            let next = self.calls.iter().position(|slot| slot.waits());
            let late = !self.late.is_empty();
            if next.is_none() && !late {
                break;
            }
            self.close(false, out);
            self.put_late(out);
            let Some(next) = next else { continue };
            if self.calls.get(next).is_some_and(|slot| slot.name.is_empty()) {
                // nobody can execute a call without a name
                self.dropped += 1;
                if let Some(slot) = self.calls.get_mut(next) {
                    slot.stage = Stage::Closed;
                }
                continue;
            }
            self.begin_call(next, out);
            self.drain_open_call(out);
        }
        self.close(cut, out);
        let TextChannel { blank, blank_logprobs, .. } = std::mem::take(&mut self.text);
        if self.count == self.before {
            // an answer of white space alone, or of nothing, is still the answer: clients look for its text
            self.begin(Kind::Message, ids::MESSAGE, out);
            if let Some(open) = &mut self.open {
                open.part(&mut self.events, out, &OUTPUT_TEXT, self.plan.logprobs);
                open.delta(&mut self.events, out, &blank, Some(&blank_logprobs));
            }
            self.close(cut, out);
        }
    }

    /// `error` in both published shapes, then `response.failed`: each other form breaks at least one SDK. The open
    /// item stays open, as it never became what it was to be; finished ones are in the snapshot.
    fn fail(&mut self, mut error: Error, out: &mut Vec<u8>) {
        if error.code().is_none() {
            error.code = Some(error.failed_code().to_owned());
        }
        if self.events.enabled {
            // without a stream, its status says it
            error.message = error.last_words().into_owned();
        }
        self.events.write(out, "error", |out| {
            out.extend_from_slice(b",\"code\":");
            json::push_string(out, error.failed_code());
            out.extend_from_slice(b",\"message\":");
            json::push_string(out, &error.message);
            out.extend_from_slice(b",\"param\":");
            json::push_option(out, error.param.as_deref());
            out.extend_from_slice(b",\"error\":");
            error.write_object(out);
        });
        self.open = None;
        self.terminate("response.failed", failed(Some(&error)), Terminal::Failed, out);
        self.failure = Some(error);
    }

    fn terminate(&mut self, kind: &str, status: Status<'_>, terminal: Terminal, out: &mut Vec<u8>) {
        self.terminal = Some(terminal);
        self.announce(out, kind, status);
        if self.events.enabled {
            out.extend_from_slice(events::DONE);
        } else {
            let texts = self.items.copied() + self.output_text.copied() + self.plan.echo.len();
            let mut body = Vec::with_capacity(texts + 512);
            self.state(status).write(&mut body, &self.plan.echo, None);
            self.body = body;
        }
    }

    fn announce(&mut self, out: &mut Vec<u8>, kind: &str, status: Status<'_>) {
        let mut events = std::mem::take(&mut self.events);
        events.write_sharing(out, kind, |out, shared| {
            out.reserve_exact(self.items.copied() + self.plan.echo.len() + 512);
            out.extend_from_slice(b",\"response\":");
            self.state(status).write(out, &self.plan.echo, Some(shared));
        });
        self.events = events;
    }

    fn state<'a>(&'a self, status: Status<'a>) -> Snapshot<'a> {
        let running = status.runs();
        Snapshot {
            id: &self.id,
            created_at: self.created_at,
            status,
            output: if running { &NOTHING } else { &self.items },
            output_text: &self.output_text,
            previous_response_id: self.plan.previous_response_id.as_deref(),
            usage: if running { None } else { self.usage() },
        }
    }
}

fn failed(error: Option<&Error>) -> Status<'_> {
    let (code, message) = error.map_or(("server_error", ""), |error| (error.failed_code(), &error.message));
    Status::Failed { code, message }
}
