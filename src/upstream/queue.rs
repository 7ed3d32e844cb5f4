//! Owns the order of the requests that wait for a server: by priority, then fairly between callers. It must not know the
//! servers, nor wait itself.
//!
//! Within a priority this is start-time fair queueing (Goyal, Vin and Cheng 1996): a request's start is the queue's virtual
//! time, or the end of its caller's last request if that is later; the smallest start is served first. So a caller with
//! many waiting requests has its turn as often as one with a single request.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// The place of a waiting request in the order: the smallest is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    priority: Reverse<i32>,
    start: u64,
    number: u64,
}

/// Requests that wait, in the order in which they are served.
#[derive(Debug, Default)]
pub struct Queue {
    /// Requests that ever waited.
    count: u64,
    requests: BTreeMap<Position, Request>,
    /// The virtual time of each priority that has waiting requests.
    times: HashMap<Reverse<i32>, VirtualTime>,
    turn: usize,
}

#[derive(Debug)]
struct Request {
    caller: u64,
    /// The servers that could take it.
    servers: Vec<usize>,
}

#[derive(Debug, Default)]
struct VirtualTime {
    /// The start of the request that was served last.
    now: u64,
    /// The start of a caller's next request, if that is later than `now`.
    next: HashMap<u64, u64>,
}

impl Queue {
    /// The number of requests that wait.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// The number of requests that wait for that server and are served before the one at `position`; of all that wait for
    /// it, if that has no position yet.
    pub(super) fn before(&self, position: Option<Position>, server: usize) -> usize {
        let earlier = self.requests.iter().take_while(|(other, _)| position.is_none_or(|own| **other < own));
        earlier.filter(|(_, request)| request.servers.contains(&server)).count()
    }

    /// Whether the request still waits; one that made room for another does not.
    pub(super) fn contains(&self, position: Position) -> bool {
        self.requests.contains_key(&position)
    }

    /// Puts a request of that caller into the queue, if fewer than `most` wait or another has to make room for it.
    pub(super) fn enter(
        &mut self,
        caller: u64,
        priority: i32,
        servers: Vec<usize>,
        most: usize,
    ) -> Option<Position> {
        if self.len() >= most {
            let last = self.replaceable(caller, Reverse(priority))?;
            self.leave(last);
        }
        self.count += 1;
        let priority = Reverse(priority);
        let time = self.times.entry(priority).or_default();
        let start = time.next.get(&caller).map_or(time.now, |next| time.now.max(*next));
        time.next.insert(caller, start + 1);
        let position = Position { priority, start, number: self.count };
        self.requests.insert(position, Request { caller, servers });
        Some(position)
    }

    /// Takes a request out that was not served: its caller has not had its turn.
    pub(super) fn leave(&mut self, position: Position) {
        let Some(request) = self.requests.remove(&position) else { return };
        if let Some(time) = self.times.get_mut(&position.priority)
            && let Some(next) = time.next.get_mut(&request.caller)
            && *next == position.start + 1
        {
            *next = position.start;
        }
        self.forget(position.priority);
    }

    /// Takes a request out that is served now.
    pub(super) fn serve(&mut self, position: Position) {
        if self.requests.remove(&position).is_none() {
            return;
        }
        if let Some(time) = self.times.get_mut(&position.priority) {
            time.now = time.now.max(position.start);
            let now = time.now;
            time.next.retain(|_, next| *next > now);
        }
        self.forget(position.priority);
    }

    /// Another number below `count` every time.
    pub(super) fn turn(&mut self, count: usize) -> usize {
        self.turn = self.turn.wrapping_add(1);
        self.turn.checked_rem(count).unwrap_or_default()
    }

    /// Drops the virtual time of a priority that nobody waits with any more.
    fn forget(&mut self, priority: Reverse<i32>) {
        if !self.requests.keys().any(|position| position.priority == priority) {
            self.times.remove(&priority);
        }
    }

    /// The request that has to make room for one more of `caller`: the last of those with the lowest priority, if that is
    /// lower; else the last of the caller that has the most waiting, if it has more than `caller` would then have.
    fn replaceable(&self, caller: u64, priority: Reverse<i32>) -> Option<Position> {
        let last = *self.requests.last_key_value()?.0;
        if last.priority > priority {
            return Some(last);
        }
        let same = || self.requests.range(Position { priority, start: 0, number: 0 }..);
        let mut waiting: HashMap<u64, usize> = HashMap::new();
        for (_, request) in same() {
            *waiting.entry(request.caller).or_default() += 1;
        }
        let own = waiting.get(&caller).copied().unwrap_or_default();
        let (most, _) =
            waiting.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > own + 1)?;
        same().rfind(|(_, request)| request.caller == *most).map(|(position, _)| *position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 8;

    /// A queue in which these callers wait, by (caller, priority).
    fn queue(requests: &[(u64, i32)]) -> (Queue, Vec<Position>) {
        let mut queue = Queue::default();
        let positions =
            requests.iter().map(|(caller, priority)| queue.enter(*caller, *priority, vec![0], MOST).unwrap());
        let positions = positions.collect();
        (queue, positions)
    }

    /// Serves the first request, and gives its caller.
    fn serve(queue: &mut Queue) -> u64 {
        let (position, caller) =
            queue.requests.first_key_value().map(|(position, request)| (*position, request.caller)).unwrap();
        assert_eq!(queue.before(Some(position), 0), 0);
        queue.serve(position);
        caller
    }

    #[test]
    fn callers_take_turns_however_many_requests_each_has() {
        let (mut queue, _) = queue(&[(1, 0), (1, 0), (1, 0), (1, 0), (2, 0), (2, 0)]);
        assert_eq!(serve(&mut queue), 1);
        // one that comes later is served before what the others have beyond their turn
        queue.enter(3, 0, vec![0], MOST).unwrap();
        let order: Vec<u64> = (0..6).map(|_| serve(&mut queue)).collect();
        assert_eq!(order, [2, 3, 1, 2, 1, 1]);
        assert!(queue.times.is_empty(), "nothing is kept of callers that are gone");
    }

    #[test]
    fn one_that_asks_again_and_again_waits_for_its_turn() {
        let (mut queue, _) = queue(&[(1, 0), (2, 0)]);
        let mut order = Vec::new();
        for _ in 0..6 {
            let caller = serve(&mut queue);
            order.push(caller);
            queue.enter(caller, 0, vec![0], MOST).unwrap();
        }
        assert_eq!(order, [1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn a_higher_priority_is_served_first() {
        let (mut queue, _) = queue(&[(1, 0), (2, -1), (3, 5), (3, 5), (1, 0)]);
        let order: Vec<u64> = (0..5).map(|_| serve(&mut queue)).collect();
        assert_eq!(order, [3, 3, 1, 1, 2]);
    }

    #[test]
    fn a_full_queue_makes_room_for_who_has_less_in_it() {
        let (mut queue, positions) = queue(&[(1, 0); MOST]);
        assert_eq!(queue.enter(1, 0, vec![0], MOST), None);
        let other = queue.enter(2, 0, vec![0], MOST).unwrap();
        assert!(!queue.contains(positions[MOST - 1]) && queue.contains(positions[MOST - 2]));
        // up to its share, and no further
        for _ in 0..3 {
            assert!(queue.enter(2, 0, vec![0], MOST).is_some());
        }
        assert_eq!(queue.enter(2, 0, vec![0], MOST), None);
        assert_eq!(queue.enter(1, 0, vec![0], MOST), None);
        assert_eq!(queue.enter(3, -1, vec![0], MOST), None, "no room is made for a lower priority");
        assert!(queue.enter(1, 1, vec![0], MOST).is_some());
        assert!(queue.contains(other));
        assert_eq!(queue.len(), MOST);
    }

    #[test]
    fn a_request_that_leaves_was_no_turn_and_servers_are_counted_apart() {
        let mut queue = Queue::default();
        let gone = queue.enter(1, 0, vec![0], MOST).unwrap();
        let other = queue.enter(2, 0, vec![1], MOST).unwrap();
        queue.leave(gone);
        let again = queue.enter(1, 0, vec![0, 1], MOST).unwrap();
        assert_eq!(queue.before(Some(again), 0), 0);
        assert_eq!(queue.before(Some(again), 1), 1);
        assert_eq!((queue.before(None, 0), queue.before(None, 1)), (1, 2));
        assert!(other < again);
        let third = queue.enter(2, 0, vec![0], MOST).unwrap();
        assert!(again < third);
    }
}
