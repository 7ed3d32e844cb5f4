//! Translates between the OpenAI Responses API and Chat Completions: what a Responses request means in Chat Completions,
//! and what a chat answer means in Responses events.
//!
//! Pure: no IO, no clock, no randomness, no logging; ids and times are passed in.

pub mod compaction;
pub mod dialect;
pub mod error;
pub mod fields;
pub mod ids;
pub mod item_views;
pub mod json_schema;
pub mod limits;
pub mod notes;
pub mod options;
pub mod quirk;
pub mod reply_plan;
pub mod request;
pub mod response;
pub mod responses_profile;
pub mod sealing;
mod stored_items;
pub mod tools;
pub mod wire;

pub use response::usage::Usage;
pub use stored_items::{Input, Output};
