//! Owns what is known of a request at its end, and the line of the log that tells it. It must not see a prompt, a key or a
//! header's value.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rejoinder_core::Usage;
use rejoinder_core::error::{Error, Kind};

/// The target of the lines, by which `log.level` can choose them.
pub const TARGET: &str = "rejoinder::access";

/// What is known of a request from its head.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// Its id, in the log and for its client.
    pub id: String,
    /// `POST`; `response.create` for a message of a WebSocket.
    pub method: String,
    /// The path, without a query.
    pub path: String,
    /// The name of the endpoint.
    pub endpoint: &'static str,
    /// The kind of client that sent it, if it is one that is known.
    pub client: Option<&'static str>,
    /// The address of that client.
    pub address: IpAddr,
    /// When its head had arrived.
    pub begun: Instant,
}

/// What becomes known of a request until its end.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub key: Option<String>,
    pub model: Option<String>,
    pub response: Option<String>,
    pub upstream: Option<String>,
    pub own_model: Option<String>,
    pub status: Option<u16>,
    pub ended: Option<String>,
    pub code: Option<&'static str>,
    /// Whether a failure is the server's own or its upstream's.
    pub warns: bool,
    pub first_token: Option<Duration>,
    pub queued: Option<Duration>,
    pub usage: Option<Usage>,
    pub sent_bytes: Option<u64>,
    /// Whether the line was written.
    pub told: bool,
    /// Whether nothing more comes of it.
    pub over: bool,
    /// Whether a WebSocket came of it, whose end is that of the request.
    pub upgraded: bool,
}

impl Facts {
    /// It failed.
    pub fn fail(&mut self, error: &Error) {
        self.code = Some(error.label());
        let ended = match error.kind {
            Kind::ShuttingDown => "drained",
            Kind::ClientGone => "client_left",
            _ if error.status() < 500 => "refused",
            _ => "failed",
        };
        self.ended = Some(ended.to_owned());
        // a lack of descriptors is told once, not for each request
        self.warns = ended == "failed" && error.kind != Kind::NoDescriptor;
    }
}

/// A time in whole milliseconds.
pub fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl RequestHead {
    /// Writes the line.
    pub fn tell(&self, facts: &Facts, message: &str) {
        let usage = facts.usage;
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: TARGET,
                    parent: None,
                    $level,
                    id = self.id.as_str(),
                    response = facts.response.as_deref(),
                    key = facts.key.as_deref(),
                    client = self.client,
                    address = %self.address,
                    model = facts.model.as_deref(),
                    upstream = facts.upstream.as_deref(),
                    endpoint = self.endpoint,
                    method = self.method.as_str(),
                    path = self.path.as_str(),
                    status = facts.status,
                    ended = facts.ended.as_deref(),
                    code = facts.code,
                    first_token_ms = facts.first_token.map(ms),
                    queued_ms = facts.queued.map(ms),
                    input_tokens = usage.map(|usage| usage.input),
                    cached_tokens = usage.map(|usage| usage.cached),
                    output_tokens = usage.map(|usage| usage.output),
                    reasoning_tokens = usage.map(|usage| usage.reasoning),
                    sent_bytes = facts.sent_bytes,
                    duration_ms = ms(self.begun.elapsed()),
                    "{message}"
                )
            };
        }
        match facts.warns {
            true => line!(tracing::Level::WARN),
            // probes ask for it all the time
            false if self.endpoint == "health" => line!(tracing::Level::DEBUG),
            false => line!(tracing::Level::INFO),
        }
    }
}
