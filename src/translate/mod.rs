//! The core: what a Responses request means in Chat Completions, and what a chat answer means in Responses events.
//!
//! Pure: no IO, no clock, no randomness, no logging; ids and times are passed in. `tests/purity.rs` reads the `use`
//! lines of this folder and fails on anything else.

pub mod compaction;
mod content;
pub mod custom;
pub mod draft;
mod effort;
mod extra;
mod history;
mod item;
mod items;
pub mod limits;
pub mod listing;
mod mend;
mod messages;
pub mod native;
mod params;
mod plain;
pub mod plan;
pub mod quirk;
pub mod refusal;
pub mod reply;
mod scan;
pub mod schema;
pub mod sealing;
pub mod shared;
pub mod tools;
pub mod transcoder;
mod usage;

pub use items::{Input, Output};
pub use usage::Usage;
