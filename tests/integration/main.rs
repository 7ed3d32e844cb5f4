//! All tests that may share a process: of the core from outside, and of the running binary between a client and a
//! scripted upstream. `cargo test --test integration NAME::` runs those of one file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and shows what it measured"
)]

mod access_line;
mod answers;
mod attacks;
mod budget;
mod callers;
mod canary;
mod checker;
mod client_addresses;
mod client_keys;
mod client_limits;
mod client_tls;
mod compaction;
mod config;
mod dashboards;
mod descriptors;
mod fair_queue;
mod faults;
mod fixtures;
mod history;
mod hostile;
mod http2;
mod https;
mod imports;
#[cfg(unix)]
mod life;
mod limits;
mod log;
mod mending;
mod metrics;
mod models;
mod native;
mod passthrough;
mod peers;
mod prefix;
mod properties;
mod request;
mod reuse;
mod server;
mod sizes;
mod stopped;
mod store;
mod store_log;
mod store_redis;
mod store_tls;
mod support;
mod text_format;
mod tools;
mod traces;
mod upstream_bytes;
mod upstreams;
mod warm;
mod websocket;
mod websocket_limits;
mod websocket_steer;
