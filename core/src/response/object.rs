//! Owns the Response object: its status and snapshots. It must not know how the output was produced.

use crate::response::shared::{Shared, Text};
use crate::response::usage::Usage;
use crate::wire::json::{self, push_number};

/// The status of a response.
#[derive(Debug, Clone, Copy)]
pub enum Status<'a> {
    /// A background response that has not begun.
    Queued,
    /// The response is being generated.
    InProgress,
    /// Completed at this Unix time in seconds.
    Completed(u64),
    /// Cut off: `max_output_tokens` or `content_filter`; `cancelled` only in the terminal event of a cancelled stream.
    Incomplete(&'a str),
    /// Failed.
    Failed {
        /// `error.code`
        code: &'a str,
        /// `error.message`
        message: &'a str,
    },
    /// Cancelled by the client.
    Cancelled,
}

impl Status<'_> {
    /// Whether the response may still change.
    pub fn runs(&self) -> bool {
        matches!(self, Status::Queued | Status::InProgress)
    }

    /// Appends the members that depend on the status: `status`, `completed_at`, `error` and `incomplete_details`.
    fn write(self, out: &mut Vec<u8>, created_at: u64) {
        out.extend_from_slice(b",\"status\":\"");
        out.extend_from_slice(match self {
            Status::Queued => b"queued".as_slice(),
            Status::InProgress => b"in_progress",
            Status::Completed(_) => b"completed",
            Status::Incomplete(_) => b"incomplete",
            Status::Failed { .. } => b"failed",
            Status::Cancelled => b"cancelled",
        });
        out.extend_from_slice(b"\",\"completed_at\":");
        match self {
            // the clock may have been set back, but a response cannot end before it was created
            Status::Completed(at) => push_number(out, at.max(created_at)),
            _ => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"error\":");
        match self {
            Status::Failed { code, message } => {
                out.extend_from_slice(b"{\"code\":");
                json::push_string(out, code);
                out.extend_from_slice(b",\"message\":");
                json::push_string(out, message);
                out.push(b'}');
            }
            _ => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"incomplete_details\":");
        match self {
            Status::Incomplete(reason) => {
                out.extend_from_slice(b"{\"reason\":");
                json::push_string(out, reason);
                out.push(b'}');
            }
            _ => out.extend_from_slice(b"null"),
        }
    }
}

/// The state of a response at one moment, without the members that echo its request.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// `resp_...`
    pub id: &'a str,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Whether it is running, or how it ended.
    pub status: Status<'a>,
    /// The finished items as JSON, joined with commas.
    pub output: &'a Text,
    /// The text of their `output_text` parts, escaped.
    pub output_text: &'a Text,
    /// The response that this one continues.
    pub previous_response_id: Option<&'a str>,
    /// `None` until the end, and afterwards if the upstream never reported usage.
    pub usage: Option<Usage>,
}

impl Snapshot<'_> {
    /// Appends the Response object. `echo`: see [`ReplyPlan::echo`](crate::reply_plan::ReplyPlan::echo). With
    /// `shared`, long texts are left out of `out` and added there instead.
    pub fn write(&self, out: &mut Vec<u8>, echo: &[u8], mut shared: Option<&mut Shared>) {
        let mut text = |out: &mut Vec<u8>, text: &Text| match &mut shared {
            Some(shared) => text.write(out, shared),
            None => text.write_whole(out),
        };
        let snapshot = self;
        out.extend_from_slice(b"{\"id\":");
        json::push_string(out, snapshot.id);
        out.extend_from_slice(b",\"object\":\"response\",\"created_at\":");
        push_number(out, snapshot.created_at);
        snapshot.status.write(out, snapshot.created_at);
        out.extend_from_slice(b",\"output\":[");
        text(out, snapshot.output);
        out.extend_from_slice(b"],");
        if !snapshot.status.runs() {
            out.extend_from_slice(b"\"output_text\":\"");
            text(out, snapshot.output_text);
            out.extend_from_slice(b"\",");
        }
        out.extend_from_slice(b"\"usage\":");
        match snapshot.usage {
            Some(usage) => usage.write(out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"previous_response_id\":");
        json::push_option(out, snapshot.previous_response_id);
        out.push(b',');
        out.extend_from_slice(echo);
        out.push(b'}');
    }
}
