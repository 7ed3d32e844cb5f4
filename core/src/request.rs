//! The way of a request: the body of `POST /v1/responses` becomes what the upstream server is sent, and what the answer
//! needs to know of it.

mod content;
mod effort;
mod extra_fields;
mod history;
mod messages;
pub mod parse;
mod plain_text;
pub mod plan;
pub mod responses_body;
