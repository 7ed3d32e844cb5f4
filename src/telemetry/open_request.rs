//! Owns that a request has one end: that of its answer's body, or where it is dropped before that. It must not know what the
//! answer is.

use std::sync::Arc;

use super::request_record::{BodyEnd, RequestRecord};

/// A request that is being answered: dropped, it is over, and its line is written.
#[derive(Debug)]
pub struct OpenRequest {
    record: Arc<RequestRecord>,
    end: BodyEnd,
    sent_bytes: u64,
    /// Bytes after which the body is whole, where that is known.
    length: Option<u64>,
}

impl OpenRequest {
    /// Nothing was sent yet.
    pub fn new(record: Arc<RequestRecord>) -> OpenRequest {
        OpenRequest { record, end: BodyEnd::Dropped, sent_bytes: 0, length: None }
    }

    /// What is known of the request.
    pub fn record(&self) -> &Arc<RequestRecord> {
        &self.record
    }

    /// Tells how long the body is.
    pub fn of_length(mut self, length: Option<u64>) -> OpenRequest {
        self.length = length;
        self
    }

    /// A part of the body was taken.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// The body is over.
    pub fn ended(&mut self, end: BodyEnd) {
        self.end = end;
        self.record.finish(end, self.sent_bytes);
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        // one whose length is known is not asked for its end
        let whole = self.length.is_some_and(|length| self.sent_bytes >= length);
        let end = if whole { BodyEnd::Complete } else { self.end };
        self.record.finish(end, self.sent_bytes);
    }
}
