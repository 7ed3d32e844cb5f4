//! Owns the records: a turn keeps what it added to its conversation and nothing else, so that n turns cost n times
//! their own size. It must not know where they are kept.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
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
    /// How it stands.
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
    pub used: LastUsed,
    /// For the ids of those that come after it.
    #[serde(skip)]
    pub followed: HasSuccessor,
}

/// When a record was last asked for: milliseconds, by its store's clock. It lies with the record, since each look at one
/// is a look elsewhere in memory.
#[derive(Debug, Default)]
pub struct LastUsed(AtomicU64);

impl LastUsed {
    /// When that was.
    pub fn at(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// It is `now`.
    pub fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }
}

/// Whether a conversation has gone on from a turn.
#[derive(Debug, Default)]
pub struct HasSuccessor(AtomicBool);

impl HasSuccessor {
    /// It does now; true if it had before.
    pub fn set(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
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

noted!(LastUsed, HasSuccessor);

/// What late turns repeated of their requests. One client's requests are much alike, tools and instructions included, so
/// that conversations which begin alike share this too.
#[derive(Debug, Default)]
pub struct EchoCache {
    late: Mutex<[Option<Arc<str>>; 16]>,
    hasher: RandomState,
}

impl EchoCache {
    /// A longer one is shared within its conversation alone: what is kept here may be of no use to any turn, in bytes.
    const LONGEST: usize = 256 << 10;

    /// `echo`, as a late turn has it where one does.
    pub fn share(&self, echo: &str) -> Arc<str> {
        if echo.len() > EchoCache::LONGEST {
            return echo.into();
        }
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.hasher.hash_one(echo) as usize % late.len();
        match late.get_mut(at) {
            Some(Some(known)) if **known == *echo => known.clone(),
            Some(slot) => slot.insert(echo.into()).clone(),
            None => echo.into(),
        }
    }

    /// Forgets those that no turn has any more.
    pub fn sweep(&self) {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in late.iter_mut() {
            slot.take_if(|echo| Arc::strong_count(echo) == 1);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_echoes_are_one_and_no_long_one_is_held() {
        let echoes = EchoCache::default();
        let first = echoes.share("\"model\":\"m\"");
        assert!(Arc::ptr_eq(&first, &echoes.share("\"model\":\"m\"")));
        let shared = Arc::downgrade(&first);
        echoes.sweep();
        drop(first);
        assert!(shared.upgrade().is_some(), "a turn had it");
        echoes.sweep();
        assert!(shared.upgrade().is_none());
        for n in 0..100 {
            let other = format!("\"model\":\"m{n}\"");
            assert_eq!(*echoes.share(&other), *other);
        }
        let long = "x".repeat(EchoCache::LONGEST + 1);
        assert_eq!(Arc::strong_count(&echoes.share(&long)), 1);
        assert_eq!(*echoes.share(&long), *long);
    }
}
