//! What is on the wires: request bodies, chat chunks, and the JSON text between them. Types and parsing only.

pub mod chat;
pub mod chunk_template;
pub mod escaped;
pub mod json;
pub mod native_event;
pub mod quoted;
pub mod request;
mod string_scan;
pub mod trusted_json;
