//! What is on the wires: request bodies, chat chunks, and the JSON text between them. Types and parsing only.

pub mod chat;
pub mod escaped;
pub mod json;
pub mod known;
pub mod mould;
pub mod native;
mod quote;
pub mod request;
