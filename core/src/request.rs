//! Turns the body of `POST /v1/responses` into the body for the upstream server, and collects what the answer needs to
//! know about the request.

mod content;
mod effort;
mod extra_fields;
mod history;
mod messages;
pub mod parse;
mod plain_text;
pub mod plan;
pub mod responses_body;
