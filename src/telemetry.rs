//! Owns what the process says about itself: log lines and metrics. It must not see a prompt, a key or a header's
//! value.

mod access_line;
mod activity;
mod one_line;
mod open_request;
mod request_record;
mod response_metrics;
mod traces;
mod upstream_metrics;

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::atomic::AtomicI64;
use std::time::SystemTime;

use humantime_serde::re::humantime;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::config::{LogConfig, LogFormat, MetricNames};
use one_line::OneLine;
use response_metrics::ResponseMetrics;

pub use access_line::RequestHead;
pub use activity::{Activity, Period, RequestView};
pub use one_line::escaped;
pub use open_request::OpenRequest;
pub use request_record::{BodyEnd, Queued, RequestRecord, ResponseEnd};
pub use response_metrics::ResponseNumbers;
pub use traces::{RequestTrace, Traces};
pub use upstream_metrics::{PromptProgress, Routing, Server};

/// The target of lines that may hold a part of a prompt, an answer or a header. They are written only where `log.level`
/// names it.
pub const CONTENTS: &str = "rejoinder::contents";

/// Sends the process's log lines to stderr. A subscriber that is already there stays.
pub fn init_logging(log: &LogConfig) {
    let terminal = io::stderr().is_terminal();
    let filter = filter(&log.level);
    let lines = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter);
    let text = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Json => false,
        LogFormat::Text => true,
    };
    // an error says that a subscriber was there first, as in tests
    let _ = match (text, terminal) {
        // a person looks: which module says it matters less than what it says
        (true, true) if log.format == LogFormat::Auto => {
            lines.fmt_fields(OneLine::default()).with_target(false).with_timer(TimeOfDay).try_init()
        }
        (true, ansi) => lines.fmt_fields(OneLine::default()).with_ansi(ansi).try_init(),
        (false, _) => lines.json().flatten_event(true).with_span_list(false).try_init(),
    };
}

/// The time of day in seconds, UTC.
struct TimeOfDay;

impl FormatTime for TimeOfDay {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        let text = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let (_, time) = text.split_once('T').unwrap_or(("", &text));
        out.write_str(time.trim_end_matches('Z'))
    }
}

/// What `log.level` lets through: contents only if it names them.
fn filter(level: &str) -> EnvFilter {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    match (level.contains(CONTENTS), [CONTENTS, "=off"].concat().parse()) {
        (false, Ok(off)) => filter.add_directive(off),
        _ => filter,
    }
}

/// The upper ends of histograms of waits and durations, in seconds.
const TIME_BUCKETS: [f64; 14] =
    [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];

/// The single label of a counter.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Kind {
    kind: String,
}

/// What an HTTP answer is counted under.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Answered {
    /// The endpoint, such as `responses` or `passthrough`.
    pub endpoint: &'static str,
    /// The status of the HTTP answer.
    pub status: u16,
}

/// How a response ended.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Ended {
    /// `completed`, `incomplete`, `failed`, or `cancelled` where the client left.
    pub outcome: &'static str,
    /// Whether it was streamed.
    pub stream: &'static str,
}

/// The label of an API key.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KeyLabel {
    /// Its name.
    key: String,
}

/// Every metric family of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Answers by endpoint and status.
    pub requests: Family<Answered, Counter>,
    /// Panics of the process.
    pub panics: Counter,
    /// Responses by outcome.
    pub responses: Family<Ended, Counter>,
    /// Bytes of requests that are held.
    pub buffered_bytes: Gauge<i64, AtomicI64>,
    /// Requests that were refused because `max_buffered_bytes` was in use.
    pub over_capacity: Counter,
    /// Connections to `listen` that are open.
    pub open_connections: Gauge<i64, AtomicI64>,
    limit_reached: Family<Kind, Counter>,
    connections_failed: Family<Kind, Counter>,
    /// Streams that are open.
    pub open_streams: Gauge,
    /// Tasks of the runtime that have not ended.
    pub tasks: Gauge<i64, AtomicI64>,
    /// WebSocket connections that are open.
    pub open_websockets: Gauge,
    /// 1 while the upstream is ready.
    pub upstream_ready: Gauge<i64, AtomicI64>,
    /// What choosing a server is counted under.
    pub routing: Routing,
    /// 1 while the store can be asked.
    pub store_up: Gauge<i64, AtomicI64>,
    /// Writes that wait in memory for a shared store to come back.
    pub store_waiting_writes: Gauge<i64, AtomicI64>,
    /// Writes that a shared store missed for good.
    pub store_lost_writes: Gauge<i64, AtomicI64>,
    /// What responses took.
    pub response: ResponseMetrics,
    key_requests: Family<KeyLabel, Counter>,
    key_tokens: Family<KeyLabel, Counter>,
    errors: Family<Kind, Counter>,
    notes: Family<Kind, Counter>,
    repairs: Family<Kind, Counter>,
}

impl Metrics {
    /// The families, all at zero. `names`: of those for which there is a convention.
    pub fn new(names: MetricNames) -> Metrics {
        let metrics = Metrics {
            registry: Registry::default(),
            requests: Family::default(),
            responses: Family::default(),
            panics: Counter::default(),
            buffered_bytes: Gauge::default(),
            over_capacity: Counter::default(),
            open_connections: Gauge::default(),
            limit_reached: Family::default(),
            connections_failed: Family::default(),
            open_streams: Gauge::default(),
            tasks: Gauge::default(),
            open_websockets: Gauge::default(),
            upstream_ready: Gauge::default(),
            routing: Routing::default(),
            store_up: Gauge::default(),
            store_waiting_writes: Gauge::default(),
            store_lost_writes: Gauge::default(),
            response: ResponseMetrics::new(names),
            key_requests: Family::default(),
            key_tokens: Family::default(),
            errors: Family::default(),
            notes: Family::default(),
            repairs: Family::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Metrics {
        let mut root = Registry::default();
        self.response.register(&mut root);
        let registry = root.sub_registry_with_prefix("rejoinder");
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running version", info);
        registry.register("requests", "HTTP answers", self.requests.clone());
        registry.register("panics", "Defects that ended a request or a task", self.panics.clone());
        registry.register("responses", "Responses by how they ended", self.responses.clone());
        let help = "Bytes that requests hold until the upstream has them";
        registry.register("buffered_bytes", help, self.buffered_bytes.clone());
        let help = "Requests refused because max_buffered_bytes was in use";
        registry.register("over_capacity", help, self.over_capacity.clone());
        self.register_connections(registry);
        registry.register("open_streams", "Streams that are open", self.open_streams.clone());
        registry.register("tasks", "Tasks that have not ended", self.tasks.clone());
        let help = "WebSocket connections that are open";
        registry.register("open_websockets", help, self.open_websockets.clone());
        registry.register("upstream_ready", "1 while the upstream is ready", self.upstream_ready.clone());
        self.routing.register(registry);
        registry.register("store_up", "1 while the store can be asked", self.store_up.clone());
        let help = "Writes that wait in memory for the store to come back";
        registry.register("store_waiting_writes", help, self.store_waiting_writes.clone());
        let help = "Writes that were given up since the start";
        registry.register("store_lost_writes", help, self.store_lost_writes.clone());
        registry.register("key_requests", "HTTP requests by API key", self.key_requests.clone());
        let help = "Tokens of prompts and answers by API key";
        registry.register("key_tokens", help, self.key_tokens.clone());
        registry.register("errors", "Failed requests and responses by code", self.errors.clone());
        registry.register("notes", "Input left out or changed, by kind", self.notes.clone());
        registry.register(
            "repairs",
            "Repairs of the model's calls, by quirk; of patches, lines",
            self.repairs.clone(),
        );
        self.registry = root;
        self
    }

    fn register_connections(&self, registry: &mut Registry) {
        let help = "Connections to listen that are open";
        registry.register("open_connections", help, self.open_connections.clone());
        let help = "Connections and responses refused, or kept waiting, by the key of their limit";
        registry.register("limit_reached", help, self.limit_reached.clone());
        let help = "Connections that ended before their first request, by why";
        registry.register("connections_failed", help, self.connections_failed.clone());
    }

    /// Counts a connection or response that a limit did not allow, by the limit's key.
    pub fn limit_reached(&self, key: &str) {
        self.limit_reached.get_or_create(&Kind { kind: key.to_owned() }).inc();
    }

    /// Counts a connection that ended before its first request.
    pub fn connection_failed(&self, kind: &str) {
        self.connections_failed.get_or_create(&Kind { kind: kind.to_owned() }).inc();
    }

    /// Counts something that was left out of a request, or changed in it.
    pub fn note(&self, kind: &str) {
        self.notes(kind, 1);
    }

    /// Counts as many of the same.
    pub fn notes(&self, kind: &str, times: u64) {
        self.notes.get_or_create(&Kind { kind: kind.to_owned() }).inc_by(times);
    }

    /// Counts what a quirk repaired.
    pub fn repair(&self, quirk: &str, times: u64) {
        self.repairs.get_or_create(&Kind { kind: quirk.to_owned() }).inc_by(times);
    }

    /// Counts a failure by the code that the client saw.
    pub fn error(&self, code: &str) {
        self.errors.get_or_create(&Kind { kind: code.to_owned() }).inc();
    }

    /// Counts a request of an API key.
    pub fn key_request(&self, key: &str) {
        self.key_requests.get_or_create(&KeyLabel { key: key.to_owned() }).inc();
    }

    /// Counts tokens of an API key, of prompt and answer together.
    pub fn key_tokens(&self, key: &str, tokens: u64) {
        self.key_tokens.get_or_create(&KeyLabel { key: key.to_owned() }).inc_by(tokens);
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // writing to a String cannot fail
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
