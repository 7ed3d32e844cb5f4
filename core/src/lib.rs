//! Translates between the OpenAI Responses API and Chat Completions: Responses requests into chat requests, and chat
//! answers into Responses events.
//!
//! The crate does no IO, reads no clock, uses no randomness and logs nothing; ids and times are passed in. Two calls
//! matter: [`plan`] turns the body of `POST /v1/responses` into the chat body to send, and [`Transcoder`] turns the
//! chunks of the answer, one by one, into events for the client.
//!
//! ```
//! use rejoinder_core::response::transcoder::End;
//! use rejoinder_core::{Ids, PlanOptions, Transcoder, dialect, plan};
//!
//! # fn main() -> Result<(), rejoinder_core::Error> {
//! let request = br#"{"model": "qwen3", "input": "Say hi.", "stream": true}"#;
//! let plan = plan(request, &PlanOptions::new(&dialect::GENERIC))?;
//! assert!(plan.body.starts_with(br#"{"model":"qwen3","messages":[{"role":"user","content":"Say hi."}]"#));
//!
//! let (seconds, mut events) = (1_700_000_000, Vec::new());
//! let mut transcoder = Transcoder::new(plan.reply, Ids::new("0192f0"), seconds);
//! transcoder.start(&mut events);
//! transcoder.chunk(r#"{"choices":[{"index":0,"delta":{"content":"Hi!"}}]}"#, seconds, &mut events);
//! transcoder.chunk(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#, seconds, &mut events);
//! transcoder.end(End::Eof, seconds, &mut events);
//! let events = String::from_utf8_lossy(&events);
//! assert!(events.starts_with("event: response.created\ndata: {\"type\":\"response.created\""));
//! assert!(events.ends_with("data: [DONE]\n\n"));
//! # Ok(())
//! # }
//! ```

pub mod client;
pub mod compaction;
pub mod dialect;
pub mod error;
pub mod fields;
pub mod ids;
pub mod item_views;
pub mod json_schema;
pub mod large_buffer;
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

pub use error::Error;
pub use ids::Ids;
pub use options::PlanOptions;
pub use request::plan::{Plan, plan};
pub use response::transcoder::Transcoder;
pub use response::usage::Usage;
pub use stored_items::{Input, Output};
pub use wire::chat::Timings;
