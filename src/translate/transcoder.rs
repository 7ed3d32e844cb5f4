//! Owns the way from chat chunks to Responses events: which item is open, what waits, when the response ends. One
//! machine for streams and for single answers (a completion is one chunk). It must not do IO, and cannot fail: what
//! goes wrong becomes a failed response.
//!
//! Items never overlap. Text that arrives inside a call, and calls that arrive inside another, wait until the open
//! call's arguments are whole; text of white space alone opens no item.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::custom::{CustomInput, Repairs};
use super::item::{
    Call, Events, Family, Kind, OUTPUT_TEXT, Open, REASONING_TEXT, REFUSAL, SUMMARY, append_logprobs,
};
use super::plan::ReasoningDisplay;
use super::refusal;
use super::reply::{ReplyPlan, Snapshot, Status};
use super::scan::Scan;
use super::tools::answer;
use super::tools::table::{Called, Kind as ToolKind, Route};
use super::usage::Usage;
use crate::error::{Error, Kind as ErrorKind};
use crate::ids::Ids;
use crate::wire::chat::{Choice, Chunk, Delta, Function, Logprobs, TokenLogprob, ToolCall};
use crate::wire::json::{self, Seam, compact};

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
    plan: ReplyPlan,
    ids: Ids,
    id: String,
    created_at: u64,
    events: Events,
    open: Option<Open>,
    /// Finished items, joined with commas, and how many there are.
    items: String,
    count: u64,
    output_text: String,
    closed_text: usize,
    /// Which channel the open message's part belongs to.
    last: Channel,
    calls: Vec<Slot>,
    /// Text that arrived while a call was open whose arguments were not whole.
    late: Vec<(Channel, String, [String; 2])>,
    reasoning: Flow,
    text: Flow,
    refusal: Flow,
    logprobs: [String; 2],
    finish: Option<Finish>,
    usage: Option<Usage>,
    timings: Option<Usage>,
    ended: bool,
    failure: Option<Error>,
    dropped: u64,
    repaired: u64,
    body: Vec<u8>,
}

/// Where text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Reasoning,
    Text,
    Refusal,
}

/// What a channel holds back.
#[derive(Debug, Default)]
struct Flow {
    /// White space that has opened no item yet, and its log probabilities.
    blank: String,
    blank_logprobs: [String; 2],
    /// Half of a surrogate pair.
    seam: Seam,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Finish {
    Stop,
    Cut(&'static str),
    Unknown(String),
}

/// One call of the answer.
#[derive(Debug)]
struct Slot {
    index: u64,
    /// Escaped; empty until the upstream names one.
    id: String,
    /// Escaped; empty until the upstream says.
    name: String,
    /// Escaped arguments that have not been sent.
    waiting: String,
    seam: Seam,
    scan: Scan,
    /// Decodes the arguments of a freeform tool.
    custom: Option<CustomInput>,
    begun: bool,
    closed: bool,
}

impl Slot {
    /// What can be sent of the arguments that wait.
    fn take(&mut self, last: bool) -> String {
        let mut waiting = std::mem::take(&mut self.waiting);
        if last {
            waiting.push_str(self.seam.flush());
        }
        let Some(custom) = &mut self.custom else { return waiting };
        let mut text = custom.push(&waiting);
        if last {
            text.push_str(&custom.finish());
        }
        text
    }

    /// Whether the arguments are whole; `sent` are those of a call that is not freeform.
    fn complete(&mut self, sent: &str) -> bool {
        match &self.custom {
            Some(custom) => custom.complete(),
            None => self.scan.complete(sent),
        }
    }
}

impl Transcoder {
    /// `created_at`: Unix time in seconds.
    pub fn new(plan: ReplyPlan, ids: Ids, created_at: u64) -> Self {
        let events = Events::new(plan.stream);
        Transcoder {
            id: ids.response(),
            plan,
            ids,
            created_at,
            events,
            open: None,
            items: String::new(),
            count: 0,
            output_text: String::new(),
            closed_text: 0,
            last: Channel::Text,
            calls: Vec::new(),
            late: Vec::new(),
            reasoning: Flow::default(),
            text: Flow::default(),
            refusal: Flow::default(),
            logprobs: Default::default(),
            finish: None,
            usage: None,
            timings: None,
            ended: false,
            failure: None,
            dropped: 0,
            repaired: 0,
            body: Vec::new(),
        }
    }

    /// The response's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the terminal event was written: nothing follows it.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Why the response failed, if it did.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// `completed`, `incomplete` or `failed` once it has ended.
    pub fn outcome(&self) -> &'static str {
        match (self.ended, &self.failure, &self.finish) {
            (false, ..) => "in_progress",
            (_, Some(_), _) => "failed",
            (_, _, Some(Finish::Cut(_))) => "incomplete",
            _ => "completed",
        }
    }

    /// Token counts, as far as the upstream told.
    pub fn usage(&self) -> Option<Usage> {
        self.usage.or(self.timings)
    }

    /// Pieces of the upstream's answer that had no place: arguments after a call was whole, calls without a name.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Lines of patches that were mended.
    pub fn repaired(&self) -> u64 {
        self.repaired
    }

    /// The Response object as it ended; only for an answer without a stream.
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// Writes `response.created` and `response.in_progress`.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        self.snapshot(out, "response.created", Status::InProgress);
        self.snapshot(out, "response.in_progress", Status::InProgress);
    }

    /// Writes `response.in_progress` once more: the one heartbeat that every client counts as life.
    pub fn heartbeat(&mut self, out: &mut Vec<u8>) {
        if !self.ended {
            self.snapshot(out, "response.in_progress", Status::InProgress);
        }
    }

    /// Takes the payload of one upstream event, or a whole completion; `now`: Unix time in seconds.
    pub fn chunk(&mut self, data: &str, now: u64, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        let data = data.trim_ascii();
        if data.is_empty() {
            return;
        }
        if data == "[DONE]" {
            if self.finish.is_some() {
                self.complete(now, out);
            }
            return;
        }
        // serde would read an array by position
        let parsed = data.starts_with('{').then(|| serde_json::from_str::<Chunk<'_>>(data));
        let chunk = match parsed {
            Some(Ok(chunk)) => chunk,
            other => {
                let message = "The upstream server sent an event that is no chat completion chunk.";
                let detail =
                    other.and_then(Result::err).map_or("no object".to_owned(), |error| error.to_string());
                return self.fail(Error::new(ErrorKind::BadGateway, message).detail(detail), out);
            }
        };
        let error = chunk.error.is_some_and(|error| error.get() != "null");
        if error || chunk.object.is_some_and(|object| object.get() == "\"error\"") {
            return self.fail(refusal::from_stream(data), out);
        }
        self.usage = chunk.usage.and_then(Usage::from_chat).or(self.usage);
        if self.usage.is_none() {
            // on every chunk with timings_per_token: the last one counts
            self.timings = chunk.timings.and_then(Usage::from_timings).or(self.timings);
        }
        let last = chunk.choices.is_none() && chunk.usage.is_some();
        if let Some(choice) = &chunk.choices {
            self.choice(choice, out);
        }
        if last && self.finish.is_some() {
            self.complete(now, out);
        }
    }

    /// Takes the end of the upstream's answer. Afterwards the response has ended, whatever came before.
    pub fn end(&mut self, end: End, now: u64, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        match end {
            // the answer is whole: what failed to come is its usage at most
            _ if self.finish.is_some() => self.complete(now, out),
            End::Failed(error) => self.fail(error, out),
            End::Eof => {
                let message = "The upstream server closed the connection before its answer was complete.";
                self.fail(Error::new(ErrorKind::BadGateway, message), out);
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
            self.delta(delta, choice.delta.is_none(), out);
        }
        self.logprobs.iter_mut().for_each(String::clear);
        if let Some(reason) = choice.finish_reason.and_then(json::decode).filter(|reason| !reason.is_empty())
        {
            self.finish = Some(match &*reason {
                "stop" | "tool_calls" | "function_call" => Finish::Stop,
                "length" => Finish::Cut("max_output_tokens"),
                "content_filter" => Finish::Cut("content_filter"),
                other => Finish::Unknown(other.to_owned()),
            });
        }
    }

    fn delta(&mut self, delta: &Delta<'_>, whole: bool, out: &mut Vec<u8>) {
        // servers that send reasoning under both names send it twice
        let reasoning = delta.reasoning_content.filter(|raw| raw.get() != "\"\"").or(delta.reasoning);
        for (channel, raw) in [
            (Channel::Reasoning, reasoning),
            (Channel::Text, delta.content),
            (Channel::Refusal, delta.refusal),
        ] {
            let Some(raw) = raw else { continue };
            match json::literal(raw) {
                Some(text) => self.say(channel, text, out),
                None => self.say_parts(channel, raw, out),
            }
        }
        if let Some(function) = &delta.function_call {
            self.call(&Piece { index: Some(0), id: "", function }, out);
        }
        for (position, call) in delta.tool_calls.iter().flatten().enumerate() {
            self.call(&Piece::of(call, whole.then_some(position as u64)), out);
        }
    }

    /// Content as an array of parts, as some servers have it.
    fn say_parts(&mut self, channel: Channel, raw: &RawValue, out: &mut Vec<u8>) {
        #[derive(serde::Deserialize)]
        struct Part<'a> {
            #[serde(borrow, default)]
            text: Option<&'a RawValue>,
        }
        for part in serde_json::from_str::<Vec<Part<'_>>>(raw.get()).unwrap_or_default() {
            if let Some(text) = part.text.and_then(json::literal) {
                self.say(channel, text, out);
            }
        }
    }

    /// Takes a piece of text, escaped.
    fn say(&mut self, channel: Channel, piece: &str, out: &mut Vec<u8>) {
        let channel = match channel {
            Channel::Reasoning if self.plan.reasoning == ReasoningDisplay::Hidden => return,
            Channel::Refusal if self.plan.refusal_as_text => Channel::Text,
            other => other,
        };
        let piece = self.flow(channel).seam.join(piece);
        self.put(channel, &piece, out);
    }

    fn flow(&mut self, channel: Channel) -> &mut Flow {
        match channel {
            Channel::Reasoning => &mut self.reasoning,
            Channel::Text => &mut self.text,
            Channel::Refusal => &mut self.refusal,
        }
    }

    fn put(&mut self, channel: Channel, piece: &str, out: &mut Vec<u8>) {
        if piece.is_empty() {
            return;
        }
        if self.call_in_the_way() {
            let logprobs = std::mem::take(&mut self.logprobs);
            self.late.push((channel, piece.to_owned(), logprobs));
            return;
        }
        let fits = match (&self.open, channel) {
            (Some(open), Channel::Reasoning) => matches!(open.kind, Kind::Reasoning),
            (Some(open), _) => matches!(open.kind, Kind::Message),
            (None, _) => false,
        };
        let mut joined = Cow::Borrowed(piece);
        if !fits {
            if is_blank(piece) {
                let logprobs = std::mem::take(&mut self.logprobs);
                let flow = self.flow(channel);
                flow.blank.push_str(piece);
                append_logprobs(&mut flow.blank_logprobs, &logprobs);
                return;
            }
            self.close(false, out);
            let (kind, prefix) = match channel {
                Channel::Reasoning => (Kind::Reasoning, "rs_"),
                _ => (Kind::Message, "msg_"),
            };
            self.begin(kind, prefix, out);
        }
        if self.last != channel {
            if let Some(mut open) = self.open.take() {
                self.pay(&mut open, out);
                self.open = Some(open);
            }
            self.last = channel;
        }
        let flow = self.flow(channel);
        if !flow.blank.is_empty() {
            joined = Cow::Owned(std::mem::take(&mut flow.blank) + piece);
            let mut logprobs = std::mem::take(&mut flow.blank_logprobs);
            append_logprobs(&mut logprobs, &self.logprobs);
            self.logprobs = logprobs;
        }
        let family: &'static Family = match channel {
            Channel::Text => &OUTPUT_TEXT,
            Channel::Refusal => &REFUSAL,
            Channel::Reasoning if self.plan.reasoning == ReasoningDisplay::Text => &REASONING_TEXT,
            Channel::Reasoning => &SUMMARY,
        };
        let Some(open) = &mut self.open else { return };
        open.part(&mut self.events, out, family, self.plan.logprobs);
        open.delta(&mut self.events, out, &joined, self.plan.logprobs.then_some(&self.logprobs));
        if channel == Channel::Text {
            self.logprobs.iter_mut().for_each(String::clear);
            self.output_text.push_str(&joined);
        }
    }

    /// The call that is open, if one is.
    fn open_slot(&self) -> Option<usize> {
        match &self.open.as_ref()?.kind {
            Kind::Call(call) => Some(call.slot),
            Kind::Held { slot } => Some(*slot),
            _ => None,
        }
    }

    /// Whether a call is open that cannot be closed yet.
    fn call_in_the_way(&mut self) -> bool {
        let slot = self.open_slot().and_then(|at| self.calls.get_mut(at));
        match (slot, &self.open) {
            (Some(slot), Some(open)) => !slot.complete(&open.text),
            _ => false,
        }
    }

    /// Takes a piece of a call.
    fn call(&mut self, piece: &Piece<'_>, out: &mut Vec<u8>) {
        let name = piece.function.name.and_then(json::text).unwrap_or_default();
        let arguments = match piece.function.arguments {
            None => Cow::Borrowed(""),
            Some(raw) => match json::literal(raw) {
                Some(text) => Cow::Borrowed(text),
                None => Cow::Owned(json::escape(&compact(raw.get())).into_owned()),
            },
        };
        let at = match self.slot_of(piece, &name) {
            Some(at) => at,
            None if self.plan.one_call && !self.calls.is_empty() => {
                self.dropped += 1;
                return;
            }
            None => {
                self.calls.push(Slot {
                    index: piece.index.unwrap_or(self.calls.len() as u64),
                    id: String::new(),
                    name: String::new(),
                    waiting: String::new(),
                    seam: Seam::default(),
                    scan: Scan::default(),
                    custom: None,
                    begun: false,
                    closed: false,
                });
                self.calls.len() - 1
            }
        };
        let taken = self.calls.iter().enumerate().any(|(n, slot)| n != at && slot.id == piece.id);
        let Some(slot) = self.calls.get_mut(at) else { return };
        if slot.id.is_empty() && !piece.id.is_empty() && !slot.begun {
            // two calls of one id would be executed twice under it
            slot.id = if taken { format!("{}_{at}", piece.id) } else { piece.id.to_owned() };
        }
        if slot.name.is_empty() {
            slot.name = name.into_owned();
        }
        if slot.closed {
            self.dropped += u64::from(!is_blank(&arguments));
            return;
        }
        let arguments = slot.seam.join(&arguments);
        slot.waiting.push_str(&arguments);
        self.advance(out);
    }

    /// The call that a piece belongs to: by index; a new id together with a name on an index that is taken begins
    /// another call (servers that number every call 0); without an index, by id, or the last one.
    fn slot_of(&self, piece: &Piece<'_>, name: &str) -> Option<usize> {
        let fresh = |slot: &Slot| !piece.id.is_empty() && !slot.id.is_empty() && slot.id != piece.id;
        let at = match piece.index {
            Some(index) => self.calls.iter().rposition(|slot| slot.index == index)?,
            None if piece.id.is_empty() => self.calls.len().checked_sub(1)?,
            None => self.calls.iter().rposition(|slot| slot.id == piece.id)?,
        };
        let slot = self.calls.get(at)?;
        let another = fresh(slot) && !name.is_empty() && !slot.id.starts_with(&format!("{}_", piece.id));
        (!another).then_some(at)
    }

    /// Sends what can be sent: the open call's arguments, then, once they are whole, what waited behind it.
    fn advance(&mut self, out: &mut Vec<u8>) {
        loop {
            if self.open_slot().is_some() {
                self.drain_open_call(out);
                let more = !self.late.is_empty() || self.calls.iter().any(|slot| !slot.begun);
                if !more || self.call_in_the_way() {
                    return;
                }
                self.close(false, out);
                self.put_late(out);
                continue;
            }
            let Some(next) = self.calls.iter().position(|slot| !slot.begun) else { return };
            if self.calls.get(next).is_none_or(|slot| slot.name.is_empty()) {
                return;
            }
            self.begin_call(next, out);
        }
    }

    fn put_late(&mut self, out: &mut Vec<u8>) {
        for (channel, piece, logprobs) in std::mem::take(&mut self.late) {
            let current = std::mem::replace(&mut self.logprobs, logprobs);
            self.put(channel, &piece, out);
            self.logprobs = current;
        }
    }

    /// Opens the item of a call. What the model calls outside `tool_choice` is left out: a call that its client never
    /// allowed must not reach it. A name that nobody declared is passed on as the model wrote it: the client's own
    /// words ("unsupported call") put the model right, and the conversation goes on.
    fn begin_call(&mut self, at: usize, out: &mut Vec<u8>) {
        self.close(false, out);
        let generated =
            self.calls.get(at).is_some_and(|slot| slot.id.is_empty()).then(|| self.ids.item("call_"));
        let Some(slot) = self.calls.get_mut(at) else { return };
        if let Some(id) = generated {
            slot.id = id;
        }
        slot.begun = true;
        let called = json::unescape(&slot.name).unwrap_or_default();
        let escaped = |text: &str| json::escape(text).into_owned();
        let mut call = Call {
            slot: at,
            custom: false,
            name: slot.name.clone(),
            namespace: None,
            call_id: slot.id.clone(),
        };
        let table = &self.plan.tools;
        let route: Option<&Route> = match table.called(&called) {
            Called::Tool(route) => Some(route),
            Called::Unknown => None,
            Called::Forbidden => {
                slot.closed = true;
                slot.waiting.clear();
                self.dropped += 1;
                return;
            }
        };
        let prefix = match route {
            Some(route) if matches!(route.kind, ToolKind::Function | ToolKind::Custom(_)) => {
                call.name = escaped(&route.name);
                call.namespace = route.namespace.as_deref().map(escaped);
                if let ToolKind::Custom(patch) = route.kind {
                    let repairs = Repairs {
                        fences: table.quirk("patch_fences"),
                        headers: table.quirk("patch_hunk_headers"),
                    };
                    slot.custom = Some(CustomInput::new(patch.then_some(repairs)));
                    call.custom = true;
                    "ctc_"
                } else {
                    "fc_"
                }
            }
            Some(_) => {
                let (id, index) = (String::new(), self.count);
                self.open = Some(Open::begin(&mut self.events, out, Kind::Held { slot: at }, id, index));
                return;
            }
            None => "fc_",
        };
        self.begin(Kind::Call(call), prefix, out);
    }

    /// Sends a call that was held until its arguments were whole, as the item that it stands for.
    fn end_held(&mut self, at: usize, arguments: &str, cut: bool, out: &mut Vec<u8>) {
        let Some(slot) = self.calls.get(at) else { return };
        let (name, call_id) = (json::unescape(&slot.name).unwrap_or_default(), slot.id.clone());
        let escaped = |text: &str| json::escape(text).into_owned();
        let text = json::unescape(arguments).unwrap_or_default();
        let item = match self.plan.tools.called(&name) {
            Called::Tool(route) if !cut => answer::item(&self.plan.tools, route, &text),
            _ => answer::Item::Function { name, namespace: None, arguments: text },
        };
        match item {
            answer::Item::Function { name, namespace, arguments } => {
                let namespace = namespace.as_deref().map(escaped);
                let call = Call { slot: at, custom: false, name: escaped(&name), namespace, call_id };
                self.begin(Kind::Call(call), "fc_", out);
                let arguments = if arguments.trim().is_empty() && !cut { "{}" } else { &arguments };
                if let Some(open) = &mut self.open {
                    open.delta(&mut self.events, out, &escaped(arguments), None);
                }
            }
            answer::Item::Own { kind, prefix, members } => {
                let members = members.iter().map(|(key, value)| format!(",\"{key}\":{value}")).collect();
                self.begin(Kind::Whole { kind, call_id, members }, prefix, out);
            }
        }
    }

    fn begin(&mut self, kind: Kind, prefix: &str, out: &mut Vec<u8>) {
        let id = self.ids.item(prefix);
        self.open = Some(Open::begin(&mut self.events, out, kind, id, self.count));
        self.count += 1;
    }

    /// Closes the open item. `cut`: the upstream's answer ended inside it.
    fn close(&mut self, cut: bool, out: &mut Vec<u8>) {
        let Some(mut open) = self.open.take() else { return };
        let mut cut = cut;
        match open.kind {
            Kind::Call(Call { slot, custom, .. }) => {
                if let Some(slot) = self.calls.get_mut(slot) {
                    slot.closed = true;
                    let waiting = slot.take(false);
                    open.delta(&mut self.events, out, &waiting, None);
                    cut = cut && !slot.complete(&open.text);
                    let rest = slot.take(true);
                    open.delta(&mut self.events, out, &rest, None);
                    self.repaired += slot.custom.as_ref().map_or(0, CustomInput::repaired);
                }
                if !cut && !custom && is_blank(&open.text) {
                    open.delta(&mut self.events, out, "{}", None);
                }
            }
            Kind::Held { slot: at } => {
                if let Some(slot) = self.calls.get_mut(at) {
                    slot.closed = true;
                    let rest = slot.take(true);
                    open.delta(&mut self.events, out, &rest, None);
                    cut = cut && !slot.complete(&open.text);
                }
                self.end_held(at, &open.text, cut, out);
                match self.open.take() {
                    Some(held) => open = held,
                    None => return,
                }
            }
            Kind::Whole { .. } => {}
            Kind::Reasoning => {
                let rest = self.flow(Channel::Reasoning).seam.flush();
                open.delta(&mut self.events, out, rest, None);
            }
            Kind::Message => self.pay(&mut open, out),
        }
        let item = open.end(&mut self.events, out, cut);
        self.closed_text = self.output_text.len();
        if !self.items.is_empty() {
            self.items.push(',');
        }
        self.items.push_str(&item);
    }

    /// Sends the half of a surrogate pair that the open part of a message still owes.
    fn pay(&mut self, open: &mut Open, out: &mut Vec<u8>) {
        let last = self.last;
        if !matches!(open.kind, Kind::Message) || last == Channel::Reasoning || !open.has_part() {
            return;
        }
        let rest = self.flow(last).seam.flush();
        open.delta(&mut self.events, out, rest, None);
        if last == Channel::Text {
            self.output_text.push_str(rest);
        }
    }

    fn complete(&mut self, now: u64, out: &mut Vec<u8>) {
        if self.open.is_none() && self.count == 0 {
            let rest = self.flow(Channel::Text).seam.flush();
            self.put(Channel::Text, rest, out);
        }
        let finish = self.finish.clone().unwrap_or(Finish::Stop);
        if let Finish::Unknown(reason) = &finish {
            let message = format!("The upstream server ended its answer with finish_reason '{reason}'.");
            return self.fail(Error::new(ErrorKind::UpstreamFailed, message), out);
        }
        let cut = matches!(finish, Finish::Cut(_));
        self.flush(cut, out);
        let status = match finish {
            Finish::Cut(reason) => Status::Incomplete(reason),
            _ => Status::Completed(now),
        };
        let kind = if cut { "response.incomplete" } else { "response.completed" };
        self.terminate(kind, status, out);
    }

    /// Brings everything that waits into the output. Only the last item may be incomplete: what waits behind a call
    /// that was cut was cut too.
    fn flush(&mut self, cut: bool, out: &mut Vec<u8>) {
        loop {
            if cut && self.call_in_the_way() && self.waiting() {
                // the open call keeps its own rest; see close()
                self.dropped += self.calls.iter().filter(|slot| !slot.begun).count() as u64;
                self.late.clear();
                break;
            }
            let next = self.calls.iter().position(|slot| !slot.begun);
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
                    (slot.begun, slot.closed) = (true, true);
                }
                continue;
            }
            self.begin_call(next, out);
            self.drain_open_call(out);
        }
        self.close(cut, out);
        let Flow { blank, blank_logprobs, .. } = std::mem::take(&mut self.text);
        if self.count == 0 && !blank.is_empty() {
            // an answer of white space alone is still the answer
            self.begin(Kind::Message, "msg_", out);
            if let Some(open) = &mut self.open {
                open.part(&mut self.events, out, &OUTPUT_TEXT, self.plan.logprobs);
                open.delta(&mut self.events, out, &blank, Some(&blank_logprobs));
            }
            self.output_text.push_str(&blank);
            self.close(cut, out);
        }
    }

    fn waiting(&self) -> bool {
        !self.late.is_empty() || self.calls.iter().any(|slot| !slot.begun)
    }

    fn drain_open_call(&mut self, out: &mut Vec<u8>) {
        if let Some(slot) = self.open_slot().and_then(|at| self.calls.get_mut(at))
            && let Some(open) = &mut self.open
        {
            let waiting = slot.take(false);
            open.delta(&mut self.events, out, &waiting, None);
        }
    }

    /// `error` in both published shapes, then `response.failed`: each other form breaks at least one SDK. The open
    /// item stays open, as it never became what it was to be; finished ones are in the snapshot.
    fn fail(&mut self, mut error: Error, out: &mut Vec<u8>) {
        if error.code().is_none() {
            error.code = Some(error.failed_code().to_owned());
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
        self.output_text.truncate(self.closed_text);
        self.terminate("response.failed", Status::Failed(&error), out);
        self.failure = Some(error);
    }

    fn terminate(&mut self, kind: &str, status: Status<'_>, out: &mut Vec<u8>) {
        self.ended = true;
        self.snapshot(out, kind, status);
        if self.events.enabled {
            out.extend_from_slice(b"data: [DONE]\n\n");
        } else {
            let mut body = Vec::with_capacity(self.items.len() + self.plan.echo.len() + 512);
            self.plan.write(&mut body, &self.state(status));
            self.body = body;
        }
    }

    fn snapshot(&mut self, out: &mut Vec<u8>, kind: &str, status: Status<'_>) {
        let mut events = std::mem::take(&mut self.events);
        events.write(out, kind, |out| {
            out.extend_from_slice(b",\"response\":");
            self.plan.write(out, &self.state(status));
        });
        self.events = events;
    }

    fn state<'a>(&'a self, status: Status<'a>) -> Snapshot<'a> {
        let running = matches!(status, Status::InProgress);
        Snapshot {
            id: &self.id,
            created_at: self.created_at,
            status,
            output: if running { "" } else { &self.items },
            output_text: &self.output_text,
            usage: if running { None } else { self.usage() },
        }
    }

    /// Reads `logprobs.content` into the form of events, which has no `bytes`, and that of parts, which has.
    fn take_logprobs(&mut self, raw: &RawValue) {
        let Ok(Logprobs { content: Some(tokens) }) = serde_json::from_str::<Logprobs<'_>>(raw.get()) else {
            return;
        };
        for (form, into) in self.logprobs.iter_mut().enumerate() {
            for token in &tokens {
                if !into.is_empty() {
                    into.push(',');
                }
                write_logprob(into, token, form == 1, true);
            }
        }
    }
}

/// A piece of a call, its values still escaped.
struct Piece<'a> {
    index: Option<u64>,
    id: &'a str,
    function: &'a Function<'a>,
}

impl<'a> Piece<'a> {
    fn of(call: &'a ToolCall<'a>, position: Option<u64>) -> Piece<'a> {
        const NONE: Function<'static> = Function { name: None, arguments: None };
        let index = call.index.and_then(|raw| raw.get().parse().ok()).or(position);
        let id = call.id.and_then(json::literal).unwrap_or("");
        Piece { index, id, function: call.function.as_ref().unwrap_or(&NONE) }
    }
}

fn write_logprob(out: &mut String, token: &TokenLogprob<'_>, bytes: bool, top: bool) {
    out.push_str("{\"token\":\"");
    out.push_str(&json::text(token.token).unwrap_or_default());
    out.push_str("\",\"logprob\":");
    // vLLM writes -9999.0 for what cannot be; JSON has no infinity
    let number = token.logprob.get().starts_with(|c: char| c == '-' || c.is_ascii_digit());
    out.push_str(if number { token.logprob.get() } else { "-9999.0" });
    if bytes {
        out.push_str(",\"bytes\":");
        match token.bytes {
            Some(raw) if serde_json::from_str::<Vec<u8>>(raw.get()).is_ok() => {
                out.push_str(&compact(raw.get()))
            }
            _ => out.push_str("[]"),
        }
    }
    if top {
        out.push_str(",\"top_logprobs\":[");
        for (n, token) in token.top_logprobs.iter().flatten().enumerate() {
            if n > 0 {
                out.push(',');
            }
            write_logprob(out, token, bytes, false);
        }
        out.push(']');
    }
    out.push('}');
}

/// Whether an escaped text is white space alone.
fn is_blank(escaped: &str) -> bool {
    let mut bytes = escaped.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' => {}
            b'\\' if matches!(bytes.next(), Some(b'n' | b'r' | b't')) => {}
            _ => return false,
        }
    }
    true
}
