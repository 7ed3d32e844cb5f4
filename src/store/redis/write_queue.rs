//! Owns the queue of writes that wait for the store to come back: ordered, bounded, and readable meanwhile. It must not write
//! them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::ask::Write;
use crate::store::{Batch, Chain, Conversation, Id, Scope, Turn};

/// Bounds of what may wait.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Largest number of writes.
    pub writes: usize,
    /// Largest number of their bytes together.
    pub bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        QueueLimits { writes: 10_000, bytes: 64 << 20 }
    }
}

/// Writes that the store has not got yet, oldest first, each with its sequence number.
#[derive(Debug)]
pub(super) struct WriteQueue {
    limits: QueueLimits,
    queue: VecDeque<(u64, Arc<Write>)>,
    bytes: usize,
    next: u64,
    /// Writes dropped since the start.
    pub lost: u64,
}

impl WriteQueue {
    pub(super) fn new(limits: QueueLimits) -> WriteQueue {
        WriteQueue { limits, queue: VecDeque::new(), bytes: 0, next: 0, lost: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Appends a write, removes an older one that it supersedes, and evicts the oldest to make room. Returns false for a
    /// write that can never fit.
    pub(super) fn push(&mut self, write: Write) -> bool {
        if let Some(old) = self.queue.iter().position(|(_, old)| write.replaces(old)) {
            self.take(old);
        }
        let bytes = write.bytes();
        if bytes > self.limits.bytes || self.limits.writes == 0 {
            self.lost += 1;
            return false;
        }
        while self.queue.len() >= self.limits.writes || self.bytes + bytes > self.limits.bytes {
            self.take(0);
            self.lost += 1;
        }
        self.bytes += bytes;
        self.queue.push_back((self.next, Arc::new(write)));
        self.next += 1;
        true
    }

    /// The oldest write, with its sequence number for [`WriteQueue::done`]: it may be superseded or evicted while it is being
    /// written.
    pub(super) fn first(&self) -> Option<(u64, Arc<Write>)> {
        self.queue.front().cloned()
    }

    /// Removes the oldest write, if it still has that sequence number.
    pub(super) fn done(&mut self, number: u64) {
        if self.queue.front().is_some_and(|(first, _)| *first == number) {
            self.take(0);
        }
    }

    fn take(&mut self, at: usize) {
        if let Some((_, write)) = self.queue.remove(at) {
            self.bytes -= write.bytes();
        }
    }

    pub(super) fn turn(&self, scope: Scope, id: &Id) -> Option<Arc<Turn>> {
        self.queue.iter().find_map(|(_, write)| match &**write {
            Write::Turn(of, turn) if *of == scope && turn.id == *id => Some(turn.clone()),
            _ => None,
        })
    }

    pub(super) fn conversation(&self, scope: Scope, id: &str) -> Option<Conversation> {
        self.queue.iter().find_map(|(_, write)| match &**write {
            Write::Head(of, head) if *of == scope && *head.id == *id => Some(head.clone()),
            _ => None,
        })
    }

    /// The chain of a turn, if every turn of it waits here; `None`: the store has to be asked.
    pub(super) fn chain(&self, scope: Scope, id: &str, limit: usize) -> Option<Chain> {
        let mut turns = Vec::new();
        let mut next = Some(Id::from(id));
        while let Some(id) = next.take() {
            let turn = self.turn(scope, &id)?;
            if !turn.state.continuable() {
                return Some(Chain::Broken);
            }
            if turns.len() == limit {
                return Some(Chain::TooLong);
            }
            next.clone_from(&turn.parent);
            turns.push(turn);
        }
        turns.reverse();
        Some(Chain::Whole(turns))
    }

    /// Events of a run's log from offset `from` on, if they wait here: at most one write per run does, since a later one
    /// supersedes it.
    pub(super) fn events(&self, scope: Scope, run: &str, from: u64) -> Option<Batch> {
        self.queue.iter().find_map(|(_, write)| match &**write {
            Write::Events(of, id, start, batch, _) if *of == scope && **id == *run => {
                let skipped = usize::try_from(from.checked_sub(*start)?).ok()?;
                let events = batch.events.get(skipped..)?.to_vec();
                Some(Batch { events, ended: batch.ended, gone: 0 })
            }
            _ => None,
        })
    }
}
