//! Rejoinder gives a Chat Completions server the OpenAI Responses API.

pub mod cli;
pub mod config;
pub mod dialect;
pub mod error;
pub mod ids;
pub mod sse;
pub mod telemetry;
pub mod translate;
pub mod wire;
