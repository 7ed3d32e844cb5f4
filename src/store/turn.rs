//! Owns the records: a turn keeps what it added to its conversation and nothing else, so that n turns cost n times
//! their own size. It must not know where they are kept.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::translate::Usage;

/// One response with the input that led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// `resp_...`
    pub id: Box<str>,
    /// The response that it continued, by `previous_response_id`.
    pub parent: Option<Box<str>>,
    /// Unix time in seconds.
    pub created_at: u64,
    /// How it stands.
    pub state: TurnState,
    /// Its own input items as a JSON array, as the client sent them; references are resolved. Shared with the request
    /// while that runs: it is the longest text of a turn, and is copied once.
    pub input: Arc<str>,
    /// Its finished output items as a JSON array.
    pub output: Box<str>,
    /// Members of the Response object that repeat the request (see `ReplyPlan::echo`), shared between turns where
    /// they are alike.
    pub echo: Arc<str>,
    /// Token counts, where the upstream told them.
    pub usage: Option<Usage>,
    /// Whether it was asked for with `background: true`: only such a response can be cancelled.
    pub background: bool,
}

/// How a response stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnState {
    /// A background run that has not begun.
    Queued,
    /// It runs.
    InProgress,
    /// Ended well, at this Unix time in seconds.
    Completed(u64),
    /// Cut off, for this reason.
    Incomplete(Box<str>),
    /// Ended badly.
    Failed {
        /// `error.code`
        code: Box<str>,
        /// `error.message`
        message: Box<str>,
    },
    /// Ended by its client.
    Cancelled,
}

impl TurnState {
    /// Whether it will change no more.
    pub fn ended(&self) -> bool {
        !matches!(self, TurnState::Queued | TurnState::InProgress)
    }

    /// Whether a conversation can go on from it.
    pub fn continuable(&self) -> bool {
        matches!(self, TurnState::Completed(_) | TurnState::Incomplete(_))
    }
}

impl Turn {
    /// About how many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        self.id.len() + self.input.len() + self.output.len() + self.echo.len() + size_of::<Turn>()
    }
}

/// The head of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// `conv_...`
    pub id: Box<str>,
    /// Unix time in seconds.
    pub created_at: u64,
    /// A JSON object.
    pub metadata: Box<str>,
}

/// One item of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredItem {
    /// Its id, which its JSON holds too.
    pub id: Box<str>,
    /// The item as JSON.
    pub json: Arc<str>,
}
