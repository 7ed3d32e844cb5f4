//! Rejoinder gives a Chat Completions server the OpenAI Responses API.
//!
//! # Invariants
//! - No IO and no clock in [`rejoinder_core`], which translates: its functions depend on their arguments alone.
//! - Every started stream ends with exactly one terminal event.
//! - Nothing that the network sends can panic us.
//! - The terminal snapshot is the fold of the events sent.
//! - Unknown input is skipped and counted, or refused by name; never lost in silence.
//! - The same history always makes the same bytes upstream.
//! - No prompt text in logs at the default level; a client's key never reaches a log or a metric.

mod budget;
mod buffer_pool;
pub mod cli;
pub mod client_keys;
pub mod config;
mod descriptors;
mod doctor;
pub mod driver;
mod heavy;
mod hex;
pub mod keyring;
pub mod panics;
pub mod scope;
pub mod server;
mod service_manager;
mod setup;
mod signals;
pub mod sse;
pub mod store;
pub mod telemetry;
pub mod upstream;
mod wake_flag;
