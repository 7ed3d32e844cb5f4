//! Owns the frames around a stream's events, the members of an `error` event, and the events written for a run whose
//! own transcoder is gone. It must not hold state.

use bytes::Bytes;

use crate::error::Error;
use crate::response::event_writer::EventWriter;
use crate::wire::json;

/// Ends every stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// A comment that shows that the connection is alive.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// An `error` event with this sequence number.
pub fn error(error: &Error, number: usize) -> Bytes {
    one("error", number, |out| push_error(out, error))
}

/// The terminal event of a stream, with this sequence number: `response.completed`, `.incomplete` or `.failed` with the
/// JSON of the Response object.
pub fn last(kind: &str, number: usize, response: &[u8]) -> Bytes {
    one(kind, number, |out| {
        out.extend_from_slice(b",\"response\":");
        out.extend_from_slice(response);
    })
}

fn one(kind: &str, number: usize, members: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::new();
    EventWriter::from_number(number as u64).write(&mut out, kind, members);
    Bytes::from(out)
}

/// Appends the members of an `error` event in both published shapes: flat, and nested in `error`.
pub(super) fn push_error(out: &mut Vec<u8>, error: &Error) {
    out.extend_from_slice(b",\"code\":");
    json::push_string(out, error.failed_code());
    out.extend_from_slice(b",\"message\":");
    json::push_string(out, &error.message);
    out.extend_from_slice(b",\"param\":");
    json::push_option(out, error.param.as_deref());
    out.extend_from_slice(b",\"error\":");
    error.write_object(out);
}
