//! Rejoinder gives a Chat Completions server the OpenAI Responses API.

pub mod cli;
pub mod config;
pub mod telemetry;
