//! Owns the writes that wait for the store to come back: in order, bounded, readable meanwhile. It must not write them.

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

#[derive(Debug)]
pub(super) struct Waiting {
    room: QueueLimits,
    queue: VecDeque<(u64, Arc<Write>)>,
    bytes: usize,
    next: u64,
    /// Writes that were given up since the start.
    pub lost: u64,
}

impl Waiting {
    pub(super) fn new(room: QueueLimits) -> Waiting {
        Waiting { room, queue: VecDeque::new(), bytes: 0, next: 0, lost: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Puts a write at the end, in place of an older one that it makes superfluous; the oldest give way to it. False:
    /// there is no room for it at all.
    pub(super) fn push(&mut self, write: Write) -> bool {
        if let Some(old) = self.queue.iter().position(|(_, old)| write.replaces(old)) {
            self.take(old);
        }
        let bytes = write.bytes();
        if bytes > self.room.bytes || self.room.writes == 0 {
            self.lost += 1;
            return false;
        }
        while self.queue.len() >= self.room.writes || self.bytes + bytes > self.room.bytes {
            self.take(0);
            self.lost += 1;
        }
        self.bytes += bytes;
        self.queue.push_back((self.next, Arc::new(write)));
        self.next += 1;
        true
    }

    /// The oldest, with the number to take it out by.
    pub(super) fn first(&self) -> Option<(u64, Arc<Write>)> {
        self.queue.front().cloned()
    }

    /// Takes out the oldest, if it is still the one of that number.
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

    /// The chain, where it can be told without the store.
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

    /// Events of a run's log from a place on, where the one at that place waits.
    pub(super) fn events(&self, scope: Scope, run: &str, from: u64) -> Option<Batch> {
        self.queue.iter().find_map(|(_, write)| {
            let Write::Events(of, id, place, batch, _) = &**write else { return None };
            let skipped = usize::try_from(from.checked_sub(*place)?).ok()?;
            let events = batch.events.get(skipped..)?.to_vec();
            (*of == scope && **id == *run).then_some(Batch { events, ended: batch.ended, gone: 0 })
        })
    }
}
