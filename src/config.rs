//! Owns the configuration: its keys, their defaults, where they come from (file, environment, flags) and every
//! check on them. It must not open a socket or read anything that no key names.

mod keys;
mod layers;
mod page;
mod resolve;
mod telemetry;
mod tls;
mod url;
mod values;

pub use layers::{Flags, Problem};
pub use page::UiConfig;
pub use resolve::{Resolved, ServerConfig, client_keys_file, load, load_from, open_to_all, redact_url};
pub use telemetry::{MetricsConfig, TracesConfig};
pub use tls::{ClientCertificates, Tls, TlsConfig};
pub use url::split as split_url;
pub use values::{
    Api, AuthMode, ClientAddressHeader, DialectChoice, LogFormat, MetricNames, ProxyProtocol, Switch,
    read_budgets, read_efforts, read_network,
};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use rejoinder_core::limits::Limits;
pub use rejoinder_core::options::{
    DeveloperMessages, FoundTools, ReasoningDisplay, SealReasoning, ThinkTags,
};

/// Every key of `rejoinder.toml`, with its default in [`Config::default`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the API that clients use.
    pub listen: SocketAddr,
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    pub admin: SocketAddr,
    /// Names by which clients may call us beside those of this machine's loopback.
    pub allowed_hosts: Vec<String>,
    /// Networks of the proxies that may say which address their client has.
    pub trusted_proxies: Vec<String>,
    /// The header in which they say it.
    pub client_address_header: ClientAddressHeader,
    /// Whether they say it ahead of each connection.
    pub proxy_protocol: ProxyProtocol,
    /// Most connections to `listen`.
    pub max_connections: usize,
    /// Most of these of one address; of proxies, requests.
    pub max_connections_per_address: Option<usize>,
    /// Most responses that are made at a time.
    pub max_open_streams: usize,
    /// Most bytes of a stream that wait for its client: of one frame, and as many before the kernel has them.
    pub stream_buffer_bytes: usize,
    /// Model named upstream when a request names none; without it such a request is refused.
    pub default_model: Option<String>,
    /// How the upstream's reasoning reaches the client.
    pub reasoning: ReasoningDisplay,
    /// Whose reasoning is also sealed into `encrypted_content`, which gives it back where a client drops the rest.
    pub seal_reasoning: SealReasoning,
    /// What becomes of `system` and `developer` messages after the first turn.
    pub developer_messages: DeveloperMessages,
    /// Largest request body in bytes, counted after decompression.
    pub max_body_bytes: usize,
    /// Most bytes that all requests together hold until the upstream has them.
    pub max_buffered_bytes: usize,
    /// How long a request waits for room among them.
    #[serde(with = "humantime_serde")]
    pub buffer_timeout: Duration,
    /// Longest pause within a request body.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long a client may leave what is sent to it untaken.
    #[serde(with = "humantime_serde")]
    pub send_timeout: Duration,
    /// How long the status line waits for the upstream's before a stream begins without it.
    #[serde(with = "humantime_serde")]
    pub commit_after: Duration,
    /// Silence after which a stream gets an SSE comment.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Silence after which a stream gets `response.in_progress` again (SSE comments do not count as life for Codex).
    #[serde(with = "humantime_serde")]
    pub in_progress_after: Duration,
    /// How long requests are served as before after SIGTERM, while `/readyz` says that it is not ready.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// How long open streams may go on after that.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// File with the keys that seal what clients carry and name what is stored; without it each start makes its own.
    pub keys_file: Option<PathBuf>,
    /// TLS for clients.
    pub tls: TlsConfig,
    /// Who may call.
    pub auth: AuthConfig,
    /// Which web pages may be clients.
    pub cors: CorsConfig,
    /// What is passed on as it is.
    pub passthrough: PassthroughConfig,
    /// The Responses API over WebSocket.
    pub websocket: WebsocketConfig,
    /// The upstream server; where the file lists several (`[[upstream]]`), the values for all of them.
    pub upstream: UpstreamConfig,
    /// What outlives a request.
    pub store: StoreConfig,
    /// What is done for tools that a chat server does not know.
    pub tools: ToolsConfig,
    /// How much a request may hold, apart from its bytes.
    pub limits: Limits,
    /// What is logged, and how.
    pub log: LogConfig,
    /// The page for operators.
    pub ui: UiConfig,
    /// What is counted, and how it is called.
    pub metrics: MetricsConfig,
    /// Where traces go.
    pub traces: TracesConfig,
}

/// `[auth]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// What is asked of clients.
    pub mode: AuthMode,
    /// File of the keys that may call, made by `rejoinder keys add`; read again when it changes.
    pub keys_file: Option<PathBuf>,
    /// Whether `mode = "none"` may listen on an address that other machines reach.
    pub allow_remote: bool,
}

/// `[cors]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsConfig {
    /// Origins whose pages may call `listen`.
    pub origins: Vec<String>,
}

/// `[passthrough]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PassthroughConfig {
    /// Patterns of the paths that are passed on to the upstream.
    pub paths: Vec<String>,
}

impl Default for PassthroughConfig {
    fn default() -> Self {
        PassthroughConfig { paths: vec!["*".to_owned()] }
    }
}

/// `[websocket]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebsocketConfig {
    /// Whether `GET /v1/responses` with an upgrade becomes a WebSocket; otherwise it is answered with 426.
    pub enabled: bool,
    /// Most creates of one connection that run or wait.
    pub max_pending: usize,
    /// Age from which on a connection takes no more creates.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// How long a connection may be open without a response and without a message.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Time between two pings to a client.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// Most bytes of the responses that all connections together remember.
    pub memory_max_bytes: usize,
}

impl Default for WebsocketConfig {
    fn default() -> Self {
        WebsocketConfig {
            enabled: true,
            max_pending: 32,
            max_age: Duration::from_secs(60 * 60),
            idle_timeout: Duration::from_secs(30 * 60),
            ping_interval: Duration::from_secs(30),
            memory_max_bytes: 256 << 20,
        }
    }
}

/// `[upstream]`, or one of several `[[upstream]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Base URL as the SDKs take it: with its version, or without, which means `/v1`. Where it is not set, rejoinder searches 127.0.0.1:8080 and :8000.
    pub url: Option<String>,
    /// Models it is asked for: `name`, or `name=its own name for it`, where the name `*` is any other; without the list, those that it lists itself.
    pub models: Option<Vec<String>>,
    /// Its share among servers that could take a request: twice the weight, twice the requests in flight.
    pub weight: u32,
    /// Most requests that it is given at a time; further ones wait here. Without it the server queues by itself.
    pub max_in_flight: Option<usize>,
    /// Which server it is; `auto` asks it.
    pub dialect: DialectChoice,
    /// The API that it is asked to speak.
    pub api: Api,
    /// File whose trimmed content is sent as the bearer token, in place of what the client sent.
    pub api_key_file: Option<PathBuf>,
    /// Whether the client's own `Authorization` header goes to the upstream when no `api_key_file` is set.
    pub forward_authorization: bool,
    /// Whether adjacent messages of one role are joined; `auto` joins for chat templates that refuse them.
    pub alternate_roles: Switch,
    /// Whether its text may begin with reasoning between tags (`<think>`), as that of a server without a reasoning
    /// parser does.
    pub think_tags: ThinkTags,
    /// Whether its models take images, where it does not tell.
    pub images: Switch,
    /// Thinking budget in tokens by `reasoning.effort`: `minimal=2048,low=4096`. A request's own
    /// `X-Rejoinder-Reasoning-Budget-Tokens` header takes precedence.
    pub reasoning_budget_tokens: Option<String>,
    /// Levels of `reasoning.effort` that its model takes, `low,medium,high`; another is sent as the nearest of them.
    pub reasoning_efforts: Option<String>,
    /// Members that every chat body gets; a request's own value of the same name takes precedence.
    pub extra_body: Option<serde_json::Map<String, serde_json::Value>>,
    /// Whether each conversation is held to one slot of a llama-server; off where others use that server directly.
    pub pin_slots: bool,
    /// Whether slots of a llama-server are saved to its `--slot-save-path` and restored from there.
    pub slot_save: bool,
    /// That folder, where it is on this machine: the index of what is saved is kept there too, and survives a restart.
    pub slot_save_dir: Option<PathBuf>,
    /// How long a conversation rests until its slot is saved.
    #[serde(with = "humantime_serde")]
    pub slot_save_after: Duration,
    /// Most files of saved slots.
    pub slot_save_max_files: usize,
    /// Most bytes of saved slots.
    pub slot_save_max_bytes: usize,
    /// How long a request waits for a server that loads its model, restarts or refuses connections.
    #[serde(with = "humantime_serde")]
    pub ready_timeout: Duration,
    /// Most requests that wait at a time; one more gets 429.
    pub max_waiting: usize,
    /// Wait for the first byte after which a request is taken to another server, when one is free.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// Longest TCP (and TLS) connect.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest wait for the upstream's status line, its queue and its prefill included.
    #[serde(with = "humantime_serde")]
    pub response_timeout: Duration,
    /// Longest silence within an upstream body.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Time between two probes of a ready upstream.
    #[serde(with = "humantime_serde")]
    pub probe_interval: Duration,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// `redis://...` for a store that several replicas share; without it everything is in this process's memory.
    pub url: Option<String>,
    /// Idle time after which a record is gone; use of a conversation renews all of it.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Most records in memory.
    pub max_entries: usize,
    /// Most bytes of records in memory.
    pub max_bytes: usize,
    /// Most turns of one conversation by `previous_response_id`.
    pub max_turns: usize,
    /// Longest wait for a shared store.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Whether records are sealed before they go to a shared store.
    pub seal: bool,
    /// How long a stream with an explicit `"store": true` goes on after its client left, for the client to resume it.
    #[serde(with = "humantime_serde")]
    pub resume_window: Duration,
    /// How long the events of an ended background response can be replayed.
    #[serde(with = "humantime_serde")]
    pub replay_window: Duration,
    /// Most bytes of one run's events, of which the oldest go first.
    pub replay_max_bytes: usize,
    /// Most bytes of the events of all runs that go on, and as many of those that have ended.
    pub replay_total_bytes: usize,
    /// How long a run of a replica that died is taken for alive.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
}

/// `[tools]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolsConfig {
    /// Command that serves web searches through the client's own shell tool, for example `tvly`. A request's own
    /// `X-Rejoinder-Web-Search-Wrapper` header takes precedence.
    pub web_search_wrapper: Option<String>,
    /// Command that serves file searches in the same way, for example `rg`; header
    /// `X-Rejoinder-File-Search-Wrapper`.
    pub file_search_wrapper: Option<String>,
    /// Repairs of the model's calls that are switched off, by the names of [`Quirk`](rejoinder_core::quirk::Quirk),
    /// separated by commas.
    pub disabled_quirks: Option<String>,
    /// What becomes of tools that a tool search finds.
    pub found_tools: FoundTools,
}

impl Default for ToolsConfig {
    fn default() -> Self {
        ToolsConfig {
            web_search_wrapper: None,
            file_search_wrapper: None,
            disabled_quirks: None,
            found_tools: FoundTools::Declared,
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A `tracing` filter: `info`, `debug`, `rejoinder=trace`, ...
    pub level: String,
    /// `auto` writes text to a terminal and JSON elsewhere.
    pub format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            admin: SocketAddr::from(([127, 0, 0, 1], 8082)),
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            client_address_header: ClientAddressHeader::XForwardedFor,
            proxy_protocol: ProxyProtocol::Off,
            max_connections: 10_000,
            max_connections_per_address: None,
            max_open_streams: 5_000,
            stream_buffer_bytes: 64 << 10,
            default_model: None,
            reasoning: ReasoningDisplay::Summary,
            seal_reasoning: SealReasoning::Unstored,
            developer_messages: DeveloperMessages::Leading,
            max_body_bytes: 128 << 20,
            max_buffered_bytes: 1 << 30,
            buffer_timeout: Duration::from_secs(2),
            body_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(120),
            commit_after: Duration::from_secs(1),
            heartbeat: Duration::from_secs(8),
            in_progress_after: Duration::from_secs(60),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            keys_file: None,
            tls: TlsConfig::default(),
            auth: AuthConfig::default(),
            cors: CorsConfig::default(),
            passthrough: PassthroughConfig::default(),
            websocket: WebsocketConfig::default(),
            store: StoreConfig::default(),
            upstream: UpstreamConfig::default(),
            tools: ToolsConfig::default(),
            limits: Limits::DEFAULT,
            log: LogConfig::default(),
            ui: UiConfig::default(),
            metrics: MetricsConfig::default(),
            traces: TracesConfig::default(),
        }
    }
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        UpstreamConfig {
            url: None,
            models: None,
            weight: 1,
            max_in_flight: None,
            dialect: DialectChoice::Auto,
            api: Api::Chat,
            api_key_file: None,
            forward_authorization: true,
            alternate_roles: Switch::Auto,
            think_tags: ThinkTags::Read,
            images: Switch::Auto,
            reasoning_budget_tokens: None,
            reasoning_efforts: None,
            extra_body: None,
            pin_slots: true,
            slot_save: false,
            slot_save_dir: None,
            slot_save_after: Duration::from_secs(2),
            slot_save_max_files: 8,
            slot_save_max_bytes: 8 << 30,
            ready_timeout: Duration::from_secs(60),
            max_waiting: 64,
            stall_timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(1800),
            idle_timeout: Duration::from_secs(300),
            probe_interval: Duration::from_secs(10),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            url: None,
            ttl: Duration::from_secs(24 * 60 * 60),
            max_entries: 1_000_000,
            max_bytes: 1 << 30,
            max_turns: 10_000,
            timeout: Duration::from_secs(2),
            seal: false,
            resume_window: Duration::from_secs(30),
            replay_window: Duration::from_secs(600),
            replay_max_bytes: 64 << 20,
            replay_total_bytes: 256 << 20,
            lease: Duration::from_secs(15),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { level: "info".to_owned(), format: LogFormat::Auto }
    }
}
