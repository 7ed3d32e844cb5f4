//! Owns the Response object: its echo of the request, rendered once, and its snapshots. It must not know how the
//! output came about.

use super::native::Native;
use super::plan::ReasoningDisplay;
use super::tools::table::Table;
use super::usage::Usage;
use crate::error::Error;
use crate::wire::json::{self, push_number};

/// What a plan says about the answer.
#[derive(Debug, Clone)]
pub struct ReplyPlan {
    /// The fields of the Response object that repeat the request, as JSON members without braces.
    pub echo: Vec<u8>,
    /// Whether events are wanted, or the last snapshot alone.
    pub stream: bool,
    /// How reasoning is shown.
    pub reasoning: ReasoningDisplay,
    /// Whether a refusal is sent as `output_text`.
    pub refusal_as_text: bool,
    /// `parallel_tool_calls: false`: only the first call is passed on.
    pub one_call: bool,
    /// Whether log probabilities were asked for.
    pub logprobs: bool,
    /// How many alternatives a token.
    pub top_logprobs: u64,
    /// Which chat function stands for which declared tool.
    pub tools: Table,
    /// The token limit, if there is one.
    pub max_output_tokens: Option<u64>,
    /// The upstream speaks Responses itself.
    pub native: Option<&'static Native>,
}

/// How a response stands.
#[derive(Debug, Clone, Copy)]
pub enum Status<'a> {
    /// Not ended.
    InProgress,
    /// Ended well, at this Unix time in seconds.
    Completed(u64),
    /// Cut off: `max_output_tokens` or `content_filter`.
    Incomplete(&'static str),
    /// Ended badly.
    Failed(&'a Error),
}

/// The part of a snapshot that changes.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// `resp_...`
    pub id: &'a str,
    /// Unix time in seconds.
    pub created_at: u64,
    /// How it stands.
    pub status: Status<'a>,
    /// The finished items, joined with commas.
    pub output: &'a str,
    /// All `output_text` of them, escaped.
    pub output_text: &'a str,
    /// Null until the end, and for ever if the upstream never reported it.
    pub usage: Option<Usage>,
}

impl ReplyPlan {
    /// Appends the Response object.
    pub fn write(&self, out: &mut Vec<u8>, snapshot: &Snapshot<'_>) {
        out.extend_from_slice(b"{\"id\":");
        json::push_string(out, snapshot.id);
        out.extend_from_slice(b",\"object\":\"response\",\"created_at\":");
        push_number(out, snapshot.created_at);
        out.extend_from_slice(b",\"status\":\"");
        out.extend_from_slice(match snapshot.status {
            Status::InProgress => b"in_progress",
            Status::Completed(_) => b"completed",
            Status::Incomplete(_) => b"incomplete",
            Status::Failed(_) => b"failed",
        });
        out.extend_from_slice(b"\",\"completed_at\":");
        match snapshot.status {
            // a clock that was set back must not make an answer end before it began
            Status::Completed(at) => push_number(out, at.max(snapshot.created_at)),
            _ => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"error\":");
        match snapshot.status {
            Status::Failed(error) => {
                out.extend_from_slice(b"{\"code\":");
                json::push_string(out, error.failed_code());
                out.extend_from_slice(b",\"message\":");
                json::push_string(out, &error.message);
                out.push(b'}');
            }
            _ => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"incomplete_details\":");
        match snapshot.status {
            Status::Incomplete(reason) => {
                out.extend_from_slice(b"{\"reason\":");
                json::push_string(out, reason);
                out.push(b'}');
            }
            _ => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"output\":[");
        out.extend_from_slice(snapshot.output.as_bytes());
        out.extend_from_slice(b"],");
        if !matches!(snapshot.status, Status::InProgress) {
            out.extend_from_slice(b"\"output_text\":");
            json::push_literal(out, snapshot.output_text);
            out.push(b',');
        }
        out.extend_from_slice(b"\"usage\":");
        match snapshot.usage {
            Some(usage) => usage.write(out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b',');
        out.extend_from_slice(&self.echo);
        out.push(b'}');
    }
}
