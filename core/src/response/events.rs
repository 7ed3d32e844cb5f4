//! Owns what stands around the events of a stream, and the events that are written for a run whose own writer is gone.

use bytes::Bytes;
use serde_json::{Map, Value, json as value};

use crate::error::Error;

/// What every stream ends with.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// A comment, which shows that the connection is alive.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// An `error` event of that number. It has both published shapes: its members flat, and as `error`.
pub fn error(error: &Error, number: usize) -> Bytes {
    let mut object = Vec::new();
    error.write_object(&mut object);
    event("error", number, |body| {
        body.insert("code".to_owned(), value!(error.failed_code()));
        body.insert("message".to_owned(), value!(error.message));
        body.insert("param".to_owned(), value!(error.param));
        body.insert("error".to_owned(), serde_json::from_slice(&object).unwrap_or_default());
    })
}

/// The last event of a stream, of that number: `response.completed`, `.incomplete` or `.failed`.
pub fn last(kind: &str, number: usize, response: Value) -> Bytes {
    event(kind, number, |body| {
        body.insert("response".to_owned(), response);
    })
}

fn event(kind: &str, number: usize, fill: impl FnOnce(&mut Map<String, Value>)) -> Bytes {
    let mut body = Map::new();
    body.insert("type".to_owned(), value!(kind));
    body.insert("sequence_number".to_owned(), value!(number));
    fill(&mut body);
    Bytes::from(format!("event: {kind}\ndata: {}\n\n", Value::Object(body)))
}
