//! Owns the records: a turn keeps what it added to its conversation and nothing else, so that n turns cost n times
//! their own size. It must not know where they are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rejoinder_core::{Input, Output, Usage};
use serde::{Deserialize, Serialize};

use super::Id;

/// One response with the input that led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// `resp_...`
    pub id: Id,
    /// The response that it continued, by `previous_response_id`.
    pub parent: Option<Id>,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Whether it runs or how it ended.
    pub state: TurnState,
    /// Its own input items, as the client sent them; references are resolved.
    #[serde(skip)]
    pub input: Input,
    /// Its finished output items.
    #[serde(skip)]
    pub output: Output,
    /// Members of the Response object that repeat the request (see `ReplyPlan::echo`), shared between turns where
    /// they are alike.
    pub echo: Arc<str>,
    /// Token counts, where the upstream told them.
    pub usage: Option<Usage>,
    /// Whether it was asked for with `background: true`: only such a response can be cancelled.
    pub background: bool,
    /// For the store that holds it in memory.
    #[serde(skip)]
    pub marks: Marks,
}

/// What the store that holds a turn in memory notes at it.
#[derive(Debug, Default)]
pub struct Marks {
    pub(super) used: LastUsed,
    /// Whether a conversation has gone on from it.
    pub(super) continued: AtomicBool,
}

/// When a record was last asked for: milliseconds, by its store's clock. It lies with the record, since each look at one
/// is a look elsewhere in memory.
#[derive(Debug, Default)]
pub(super) struct LastUsed(AtomicU64);

impl LastUsed {
    /// The time of the last use, in milliseconds of the store's clock.
    pub fn at(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the time of the last use.
    pub fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }
}

/// What a process notes at a record is no part of what the record says: a copy begins anew, and all of it is equal.
macro_rules! noted {
    ($($name:ident),*) => {$(
        impl Clone for $name {
            fn clone(&self) -> $name {
                $name::default()
            }
        }

        impl PartialEq for $name {
            fn eq(&self, _: &$name) -> bool {
                true
            }
        }

        impl Eq for $name {}
    )*};
}

noted!(LastUsed, Marks);

/// How a response stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnState {
    /// A background run that has not begun.
    Queued,
    /// It is being generated.
    InProgress,
    /// Ended well, at this Unix time in seconds.
    Completed(u64),
    /// Cut off, for this reason.
    Incomplete(Box<str>),
    /// It failed.
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
    /// The id of the response that it continued, as text.
    pub fn parent_id(&self) -> Option<String> {
        self.parent.as_ref().map(Id::to_string)
    }

    /// About how many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        let ids = self.id.bytes() + self.parent.as_ref().map_or(0, Id::bytes);
        ids + self.input.bytes() + self.output.bytes() + self.echo.len() + size_of::<Turn>()
    }
}

/// The head of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// `conv_...`
    pub id: Box<str>,
    /// Unix time in seconds.
    pub created_at: u64,
    /// Its `metadata` as JSON text.
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
