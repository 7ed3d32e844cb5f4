//! The core: what a Responses request means in Chat Completions, and what a chat answer means in Responses events.
//!
//! Pure: no IO, no clock, no randomness, no logging; ids and times are passed in. `tests/purity.rs` reads the `use`
//! lines of this folder and fails on anything else.

mod content;
pub mod custom;
mod extra;
mod history;
mod item;
mod messages;
mod params;
pub mod plan;
pub mod refusal;
pub mod reply;
mod scan;
pub mod tools;
pub mod transcoder;
mod usage;

pub use usage::Usage;
