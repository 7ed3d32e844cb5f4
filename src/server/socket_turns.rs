//! Owns what WebSocket connections remember: the latest response of each lane with the turns that led to it, whether it is
//! stored or not, for as long as its connection is open. It must not outlive a connection, nor be read by another one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::store::Turn;

/// Most lanes of one connection whose latest response is remembered.
const MOST_LANES: usize = 32;
/// What an entry costs beside its turns, in bytes.
const OVERHEAD: usize = 256;

/// The name of a lane (`stream_id`), if it has one.
pub type Lane = Option<Arc<str>>;
/// A response and the turns before it, the oldest first.
type Turns = Arc<Vec<Arc<Turn>>>;

/// What all connections remember, bounded in bytes: what was not used for longest is forgotten.
pub struct AllSocketTurns {
    turns: Cache<(u64, Box<str>), Turns>,
    connections: AtomicU64,
}

impl AllSocketTurns {
    /// Nothing yet; at most so many bytes.
    pub fn new(most: usize) -> Arc<AllSocketTurns> {
        let weigh = |_: &(u64, Box<str>), turns: &Turns| {
            let bytes = turns.iter().map(|turn| turn.bytes()).sum::<usize>() + OVERHEAD;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let turns = Cache::builder()
            .weigher(weigh)
            .max_capacity(most as u64)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Arc::new(AllSocketTurns { turns, connections: AtomicU64::new(0) })
    }

    /// The part of a new connection.
    pub fn connection(self: &Arc<AllSocketTurns>) -> Arc<SocketTurns> {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        Arc::new(SocketTurns { all: self.clone(), connection, latest: Mutex::default() })
    }
}

/// What one connection remembers; dropped, it is forgotten.
pub struct SocketTurns {
    all: Arc<AllSocketTurns>,
    connection: u64,
    /// The latest response of each lane; the lane that was used last at the end.
    latest: Mutex<Vec<(Lane, Box<str>)>>,
}

impl SocketTurns {
    /// The turns up to that response, the oldest first, if it is remembered.
    pub fn find(&self, id: &str) -> Option<Turns> {
        self.all.turns.get(&self.key(id))
    }

    /// Takes the last of `turns` for the latest response of its lane.
    pub fn remember(&self, lane: &Lane, turns: Vec<Arc<Turn>>) {
        let Some(last) = turns.last() else { return };
        let id: Box<str> = last.id.to_string().into();
        let mut latest = self.latest();
        let at = latest.iter().position(|(of, _)| of == lane);
        let at = at.or((latest.len() >= MOST_LANES).then_some(0));
        let before = at.map(|at| latest.remove(at).1);
        latest.push((lane.clone(), id.clone()));
        let kept = |id: &str| latest.iter().any(|(_, other)| **other == *id);
        if let Some(before) = before.filter(|before| !kept(before)) {
            self.all.turns.invalidate(&(self.connection, before));
        }
        self.all.turns.insert((self.connection, id), Arc::new(turns));
    }

    /// Forgets that response.
    pub fn forget(&self, id: &str) {
        self.latest().retain(|(_, latest)| **latest != *id);
        self.all.turns.invalidate(&self.key(id));
    }

    fn key(&self, id: &str) -> (u64, Box<str>) {
        (self.connection, Box::from(id))
    }

    fn latest(&self) -> MutexGuard<'_, Vec<(Lane, Box<str>)>> {
        // what a panicking holder left is still a list of ids
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SocketTurns {
    fn drop(&mut self) {
        let latest = std::mem::take(&mut *self.latest());
        for (_, id) in latest {
            self.all.turns.invalidate(&(self.connection, id));
        }
    }
}

/// What a create request has of the connection that it came over.
#[derive(Clone)]
pub struct SocketCreate {
    /// What the connection remembers.
    pub turns: Arc<SocketTurns>,
    /// The request's lane.
    pub lane: Lane,
    /// Whether the model is to answer; otherwise its prompt is made ready.
    pub generate: bool,
}

#[cfg(test)]
mod tests {
    use rejoinder_core::{Input, Output};

    use super::*;
    use crate::store::TurnState;

    fn turn(id: &str, bytes: usize) -> Arc<Turn> {
        Arc::new(Turn {
            id: id.into(),
            parent: None,
            created_at: 1,
            state: TurnState::Completed(1),
            input: Input::new(&format!("\"{}\"", "x".repeat(bytes))),
            output: Output::new("[]".to_owned(), id),
            echo: "".into(),
            usage: None,
            background: false,
            marks: Default::default(),
        })
    }

    fn lane(name: &str) -> Lane {
        Some(name.into())
    }

    #[test]
    fn the_latest_of_each_lane_is_known_to_its_connection_alone() {
        let all = AllSocketTurns::new(1 << 20);
        let (one, other) = (all.connection(), all.connection());
        one.remember(&None, vec![turn("resp_1", 1)]);
        one.remember(&lane("a"), vec![turn("resp_1", 1), turn("resp_2", 1)]);
        assert_eq!(one.find("resp_2").unwrap().len(), 2);
        assert!(one.find("resp_1").is_some() && other.find("resp_1").is_none());
        one.remember(&None, vec![turn("resp_3", 1)]);
        assert!(one.find("resp_1").is_none(), "it is no lane's latest any more");
        assert!(one.find("resp_2").is_some() && one.find("resp_3").is_some());
        one.forget("resp_2");
        assert!(one.find("resp_2").is_none());
        drop(one);
        all.turns.run_pending_tasks();
        assert_eq!(all.turns.entry_count(), 0, "a closed connection leaves nothing");
    }

    #[test]
    fn bytes_and_lanes_are_bounded() {
        let all = AllSocketTurns::new(100_000);
        let one = all.connection();
        for n in 0..100 {
            one.remember(&lane(&n.to_string()), vec![turn(&format!("resp_{n}"), 1)]);
        }
        assert_eq!(one.latest().len(), MOST_LANES);
        assert!(one.find("resp_99").is_some() && one.find("resp_0").is_none());
        for n in 0..10 {
            one.remember(&lane(&n.to_string()), vec![turn(&format!("resp_{n}"), 30_000)]);
        }
        all.turns.run_pending_tasks();
        assert!(all.turns.weighted_size() <= 100_000, "{}", all.turns.weighted_size());
        assert!(one.find("resp_9").is_some(), "the last one");
    }
}
