//! The formats on both wires: request bodies, chat chunks, native events, and the JSON text in them. Types and parsing
//! only.

pub mod chat;
pub mod chunk_template;
pub mod escaped;
pub mod json;
pub mod native_event;
pub mod quoted;
pub mod request;
mod string_scan;
pub mod trusted_json;
