//! Rejoinder gives a Chat Completions server the OpenAI Responses API.

pub mod config;
pub mod dialect;
pub mod error;
pub mod ids;
pub mod translate;
pub mod wire;
