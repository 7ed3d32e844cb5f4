//! Rejoinder gives a Chat Completions server the OpenAI Responses API.

pub mod config;
pub mod sse;
