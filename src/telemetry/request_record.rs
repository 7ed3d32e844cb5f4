//! Owns what is known of one request, and the one line of the log that tells it: when its answer has ended or was given up.
//! It must not see a prompt, a key or a header's value.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use rejoinder_core::Usage;
use rejoinder_core::error::Error;
use rejoinder_core::fields::beginning;

use super::access_line::{Facts, RequestHead, ms};
use super::activity::{Activity, RequestView, Running};
use super::{RequestTrace, Routing, Traces};

/// Longest name of a model, in bytes; it is the client's own.
const MODEL_BYTES: usize = 128;

/// How a response ended.
#[derive(Debug, Default)]
pub struct ResponseEnd<'a> {
    /// `completed`, `incomplete`, `failed` or `cancelled`.
    pub outcome: &'static str,
    /// Why it is incomplete.
    pub reason: Option<&'static str>,
    /// Why it failed.
    pub error: Option<&'a Error>,
    /// Whether its client left before.
    pub client_left: bool,
    /// The tokens that the upstream counted.
    pub usage: Option<Usage>,
    /// When the first of its output was written, if it was streamed.
    pub first_token: Option<Instant>,
}

/// How the body of an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// All of it was taken.
    Complete,
    /// It was dropped before that.
    Dropped,
    /// The upstream's was cut off.
    Cut,
}

/// One request, from its head to its end.
#[derive(Debug)]
pub struct RequestRecord {
    head: RequestHead,
    /// Its spans, if it has some.
    trace: OnceLock<RequestTrace>,
    facts: Mutex<Facts>,
    /// Where the page for operators finds it, by its number.
    activity: Option<(Arc<Activity>, u64)>,
    /// Chunks of output that were written.
    chunks: AtomicU64,
}

impl RequestRecord {
    /// A request of which only the head is known. `activity`: where it is shown, if it is.
    pub fn new(head: RequestHead, activity: Option<&Arc<Activity>>) -> Arc<RequestRecord> {
        RequestRecord::with(head, Facts::default(), activity)
    }

    /// One that is neither logged nor shown.
    pub fn unlogged() -> Arc<RequestRecord> {
        let (id, method, path) = (String::new(), String::new(), String::new());
        let (address, begun) = (Ipv4Addr::UNSPECIFIED.into(), Instant::now());
        let head = RequestHead { id, method, path, endpoint: "", client: None, address, begun };
        RequestRecord::new(head, None)
    }

    fn with(head: RequestHead, facts: Facts, activity: Option<&Arc<Activity>>) -> Arc<RequestRecord> {
        let activity = activity.map(|activity| (activity.clone(), activity.number()));
        let (facts, chunks) = (Mutex::new(facts), AtomicU64::new(0));
        let record = Arc::new(RequestRecord { head, trace: OnceLock::new(), facts, activity, chunks });
        if let Some((activity, number)) = &record.activity {
            let running: Arc<dyn Running> = record.clone();
            activity.begin(*number, Arc::downgrade(&running));
        }
        record
    }

    /// A run that this request began and does not wait for: it has a line of its own.
    pub fn run(&self) -> Arc<RequestRecord> {
        let head = RequestHead { endpoint: "run", ..self.head.clone() };
        let Facts { key, model, response, .. } = self.facts().clone();
        let facts = Facts { key, model, response, told: true, ..Facts::default() };
        let run = RequestRecord::with(head, facts, self.activity.as_ref().map(|(activity, _)| activity));
        if let Some(trace) = self.trace.get() {
            let _ = run.trace.set(trace.run());
        }
        run
    }

    /// So many chunks of output were written; the first of them at `first`.
    pub fn wrote(&self, chunks: u64, first: Instant) {
        if self.chunks.swap(chunks, Ordering::Relaxed) == 0 {
            self.facts().first_token = Some(first.saturating_duration_since(self.head.begun));
        }
    }

    fn shown(&self, facts: &Facts) -> Option<RequestView> {
        let (_, number) = self.activity.as_ref()?;
        let (head, usage, duration) = (&self.head, facts.usage, self.head.begun.elapsed());
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(duration);
        Some(RequestView {
            number: *number,
            id: head.id.clone(),
            began: ms(began),
            method: head.method.clone(),
            path: head.path.clone(),
            endpoint: head.endpoint,
            client: head.client,
            key: facts.key.clone(),
            model: facts.model.clone(),
            response: facts.response.clone(),
            upstream: facts.upstream.clone(),
            status: facts.status,
            ended: facts.ended.clone(),
            code: facts.code,
            first_token_ms: facts.first_token.map(ms),
            queued_ms: facts.queued.map(ms),
            duration_ms: ms(duration),
            chunks: self.chunks.load(Ordering::Relaxed),
            input_tokens: usage.map(|usage| usage.input),
            cached_tokens: usage.map(|usage| usage.cached),
            output_tokens: usage.map(|usage| usage.output),
            reasoning_tokens: usage.map(|usage| usage.reasoning),
        })
    }

    /// It is over: its line is written, and it no longer runs.
    fn tell(&self, facts: &Facts, head: &RequestHead, message: &str) {
        if let Some(trace) = self.trace.get() {
            trace.ended(facts);
        }
        head.tell(facts, message);
        if let Some((activity, _)) = &self.activity
            && head.endpoint != "health"
            && let Some(view) = self.shown(facts)
        {
            activity.end(RequestView { endpoint: head.endpoint, ..view });
        }
    }

    /// The path, without a query.
    pub fn path(&self) -> &str {
        &self.head.path
    }

    /// The address of its client.
    pub fn address(&self) -> IpAddr {
        self.head.address
    }

    /// When its head had arrived.
    pub fn begun(&self) -> Instant {
        self.head.begun
    }

    /// The API key that it came with, by name.
    pub fn set_key(&self, name: &str) {
        self.facts().key = Some(name.to_owned());
    }

    /// The model that it names.
    pub fn set_model(&self, model: &str) {
        self.facts().model = Some(beginning(model, MODEL_BYTES).to_owned());
    }

    /// The id of its response.
    pub fn set_response(&self, id: &str) {
        self.facts().response = Some(id.to_owned());
    }

    /// The status of its answer.
    pub fn set_status(&self, status: u16) {
        self.facts().status = Some(status);
    }

    /// The server that answers it, and its own name for the model where that differs.
    pub fn set_upstream(&self, label: String, own_model: Option<&str>) {
        let mut facts = self.facts();
        facts.upstream = Some(label);
        facts.own_model = own_model.map(str::to_owned);
    }

    /// Begins its span, below the one that the headers name, where there are traces.
    pub fn trace_by(&self, traces: Option<&Traces>, headers: &HeaderMap) {
        if let Some(traces) = traces {
            let _ = self.trace.set(traces.begin(&self.head, headers));
        }
    }

    /// Its plan is made.
    pub fn planned(&self) {
        if let Some(trace) = self.trace.get() {
            trace.took("plan", self.head.begun);
        }
    }

    /// A server is asked for something (`chat`): the headers by which that names our span as its parent; none, if the request
    /// has no spans.
    pub fn ask(&self, operation: &'static str) -> Vec<(HeaderName, HeaderValue)> {
        let Some(trace) = self.trace.get() else { return Vec::new() };
        let model = self.facts().model.clone();
        trace.ask(operation, model.as_deref())
    }

    /// The names of its model: the client's, and the upstream's own where that differs.
    pub fn models(&self) -> [Option<String>; 2] {
        let facts = self.facts();
        [facts.model.clone(), facts.own_model.clone()]
    }

    /// The server that answers it.
    pub fn upstream(&self) -> Option<String> {
        self.facts().upstream.clone()
    }

    /// Counts the time until the guard is dropped as spent waiting for a server.
    pub fn queue<'a>(&'a self, metrics: &'a Routing) -> Queued<'a> {
        Queued { record: self, metrics, since: Instant::now() }
    }

    /// A WebSocket comes of it: the end of the answer is not its end.
    pub fn upgraded(&self) {
        self.facts().upgraded = true;
    }

    /// It is answered with an error.
    pub fn failed(&self, error: &Error) {
        self.facts().fail(error);
    }

    /// Its answer says that a run goes on without it.
    pub fn goes_on_in_background(&self) {
        self.facts().ended = Some("background".to_owned());
    }

    /// Its response has ended. The line is written with the end of the answer's body; where that is over, the run gets a
    /// line of its own now.
    pub fn response_ended(&self, end: &ResponseEnd<'_>) {
        let mut facts = self.facts();
        facts.usage = end.usage;
        facts.first_token = end.first_token.map(|at| at.saturating_duration_since(self.head.begun));
        facts.over |= facts.told;
        match end.error {
            _ if end.client_left => facts.ended = Some("client_left".to_owned()),
            Some(error) => facts.fail(error),
            None => {
                let reason = end.reason.map(|reason| [end.outcome, ":", reason].concat());
                facts.ended = Some(reason.unwrap_or_else(|| end.outcome.to_owned()));
            }
        }
        if let Some(trace) = self.trace.get() {
            trace.answered(&facts, end.first_token);
        }
        if facts.told {
            let run = Facts { sent_bytes: None, status: None, ..facts.clone() };
            drop(facts);
            self.tell(&run, &RequestHead { endpoint: "run", ..self.head.clone() }, "run ended");
        }
    }

    /// The answer's body is over, after so many bytes. Writes the line, once.
    pub fn finish(&self, end: BodyEnd, sent_bytes: u64) {
        let mut facts = self.facts();
        if facts.told || std::mem::take(&mut facts.upgraded) {
            return;
        }
        facts.told = true;
        facts.over = true;
        facts.sent_bytes = Some(sent_bytes);
        match end {
            BodyEnd::Complete => {
                facts.ended.get_or_insert_with(|| "completed".to_owned());
            }
            BodyEnd::Dropped => {
                facts.ended.get_or_insert_with(|| "client_left".to_owned());
            }
            BodyEnd::Cut => {
                facts.warns = true;
                facts.ended = Some("cut".to_owned());
            }
        }
        let written = facts.clone();
        drop(facts);
        self.tell(&written, &self.head, "request ended");
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // what a panicking holder left is still what is known
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running for RequestRecord {
    fn view(&self) -> Option<RequestView> {
        let facts = self.facts();
        if facts.over { None } else { self.shown(&facts) }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if let Some((activity, number)) = &self.activity {
            activity.forget(*number);
        }
    }
}

/// Time that is spent waiting for a server.
#[derive(Debug)]
pub struct Queued<'a> {
    record: &'a RequestRecord,
    metrics: &'a Routing,
    since: Instant,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        self.metrics.queued(waited);
        if let Some(trace) = self.record.trace.get() {
            trace.took("queue", self.since);
        }
        let mut facts = self.record.facts();
        facts.queued = Some(facts.queued.unwrap_or_default() + waited);
    }
}
