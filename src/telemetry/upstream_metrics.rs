//! Owns the metrics of the upstream servers: how they are chosen, and the work that they tell of. It must not choose.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use rejoinder_core::Timings;

use super::{Kind, TIME_BUCKETS};

/// The label of an upstream server.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Server {
    /// Its URL without user and password.
    pub upstream: String,
}

/// A kind of tokens of an upstream server.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServerKind {
    upstream: String,
    kind: &'static str,
}

/// What choosing a server is counted under, and the work of servers; clones count together.
#[derive(Debug, Clone)]
pub struct Routing {
    /// 1 while that server is ready.
    pub up: Family<Server, Gauge>,
    /// Requests that it has.
    pub in_flight: Family<Server, Gauge>,
    /// Requests that wait for a server.
    pub waiting: Gauge,
    /// How long they waited.
    queue: Histogram,
    affinity: Family<Kind, Counter>,
    failovers: Family<Kind, Counter>,
    slot_restores: Family<Kind, Counter>,
    pending_prompt: Family<Server, Gauge>,
    prompt_tokens: Family<ServerKind, Counter>,
    prompt_seconds: Family<Server, Counter<f64, AtomicU64>>,
    generated_tokens: Family<Server, Counter>,
    generation_seconds: Family<Server, Counter<f64, AtomicU64>>,
    draft_tokens: Family<ServerKind, Counter>,
}

impl Default for Routing {
    fn default() -> Self {
        Routing {
            up: Family::default(),
            in_flight: Family::default(),
            waiting: Gauge::default(),
            queue: Histogram::new(TIME_BUCKETS),
            affinity: Family::default(),
            failovers: Family::default(),
            slot_restores: Family::default(),
            pending_prompt: Family::default(),
            prompt_tokens: Family::default(),
            prompt_seconds: Family::default(),
            generated_tokens: Family::default(),
            generation_seconds: Family::default(),
            draft_tokens: Family::default(),
        }
    }
}

impl Routing {
    /// Counts a conversation's request: `hit` went where its cache is, `moved` elsewhere, `new` has none, `side` is
    /// beside its turns.
    pub fn affinity(&self, kind: &str) {
        self.affinity.get_or_create(&Kind { kind: kind.to_owned() }).inc();
    }

    /// Counts a request that was taken from a server before its answer began, by what the server did.
    pub fn failover(&self, code: &str) {
        self.failovers.get_or_create(&Kind { kind: code.to_owned() }).inc();
    }

    /// Counts a restored slot, by whether the next answer had any use of it: `used` or `unused`.
    pub fn slot_restored(&self, kind: &str) {
        self.slot_restores.get_or_create(&Kind { kind: kind.to_owned() }).inc();
    }

    /// Records how long a request waited for a place on a server.
    pub fn queued(&self, waited: Duration) {
        self.queue.observe(waited.as_secs_f64());
    }

    /// Follows how much of a prompt that server has still to process.
    pub fn prompt(&self, upstream: String) -> PromptProgress {
        let gauge = self.pending_prompt.get_or_create_owned(&Server { upstream });
        PromptProgress { gauge, pending: 0 }
    }

    /// Adds the work that a server tells of with an answer.
    pub fn worked(&self, upstream: &str, timings: &Timings) {
        let server = Server { upstream: upstream.to_owned() };
        let kind = |kind| ServerKind { upstream: upstream.to_owned(), kind };
        let seconds =
            |ms: Option<f64>| ms.filter(|ms| ms.is_finite() && *ms >= 0.0).unwrap_or_default() / 1e3;
        let prompt = &self.prompt_tokens;
        prompt.get_or_create(&kind("processed")).inc_by(timings.prompt_n.unwrap_or_default());
        prompt.get_or_create(&kind("cached")).inc_by(timings.cache_n.unwrap_or_default());
        self.prompt_seconds.get_or_create(&server).inc_by(seconds(timings.prompt_ms));
        self.generated_tokens.get_or_create(&server).inc_by(timings.predicted_n.unwrap_or_default());
        self.generation_seconds.get_or_create(&server).inc_by(seconds(timings.predicted_ms));
        if let Some(drafted) = timings.draft_n {
            let accepted = timings.draft_n_accepted.unwrap_or_default().min(drafted);
            self.draft_tokens.get_or_create(&kind("accepted")).inc_by(accepted);
            self.draft_tokens.get_or_create(&kind("rejected")).inc_by(drafted - accepted);
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("upstream_up", "1 while that server is ready", self.up.clone());
        registry.register("upstream_in_flight", "Requests that run on a server", self.in_flight.clone());
        registry.register("waiting", "Requests that wait for a server", self.waiting.clone());
        let help = "Time that requests waited for a place on a server";
        registry.register_with_unit("queue", help, Unit::Seconds, self.queue.clone());
        registry.register("affinity", "Requests of conversations, by where they went", self.affinity.clone());
        let help = "Requests sent to another server before an answer";
        registry.register("failovers", help, self.failovers.clone());
        let help = "Restored slots, by whether the next answer used them";
        registry.register("slot_restores", help, self.slot_restores.clone());
        let help = "Tokens of prompts that a llama-server has begun and not processed yet";
        registry.register("upstream_pending_prompt_tokens", help, self.pending_prompt.clone());
        let help = "Tokens of prompts of a llama-server, by whether they were in its cache";
        registry.register("upstream_prompt_tokens", help, self.prompt_tokens.clone());
        let help = "Time that a llama-server processed prompts";
        registry.register_with_unit("upstream_prompt", help, Unit::Seconds, self.prompt_seconds.clone());
        let help = "Tokens that a llama-server generated";
        registry.register("upstream_generated_tokens", help, self.generated_tokens.clone());
        let help = "Time that a llama-server generated";
        let seconds = self.generation_seconds.clone();
        registry.register_with_unit("upstream_generation", help, Unit::Seconds, seconds);
        let help = "Tokens that a draft model proposed, by whether the model took them";
        registry.register("upstream_draft_tokens", help, self.draft_tokens.clone());
    }
}

/// How much of one prompt its server has still to process; nothing, once it is dropped.
#[derive(Debug)]
pub struct PromptProgress {
    gauge: Gauge,
    pending: i64,
}

impl PromptProgress {
    /// So many tokens are left.
    pub fn set(&mut self, pending: u64) {
        let pending = i64::try_from(pending).unwrap_or(i64::MAX);
        self.gauge.inc_by(pending - self.pending);
        self.pending = pending;
    }
}

impl Drop for PromptProgress {
    fn drop(&mut self) {
        self.set(0);
    }
}
