//! Owns the log of one run: its events by number, of which the oldest go when there are too many bytes of them. It must not
//! know who reads it.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::store::Batch;

/// What an event takes beside its text.
const EACH: u64 = 64;
/// A reader gets about so many bytes at a time.
const READ: usize = 256 << 10;

/// The events of one run.
#[derive(Default)]
pub struct Log {
    /// How many events came before these and are gone.
    pub gone: usize,
    events: VecDeque<Bytes>,
    pub bytes: u64,
}

impl Log {
    /// Events that there were ever.
    pub fn count(&self) -> usize {
        self.gone + self.events.len()
    }

    /// Takes a frame apart into its events, comments and `[DONE]` are none; how many bytes came.
    pub fn push(&mut self, frame: &[u8]) -> u64 {
        let before = self.bytes;
        let mut rest = frame;
        while let Some(length) = memchr::memmem::find(rest, b"\n\n").map(|at| at + 2) {
            let (event, after) = rest.split_at(length);
            rest = after;
            if event.starts_with(b"event: ") {
                self.bytes += event.len() as u64 + EACH;
                // not a slice of the frame: comments beside it would stay in memory
                self.events.push_back(Bytes::copy_from_slice(event));
            }
        }
        self.bytes - before
    }

    /// Lets the oldest go until at most so many bytes are left, or the last event; how many bytes went.
    pub fn shrink(&mut self, most: u64) -> u64 {
        let before = self.bytes;
        while self.bytes > most && self.events.len() > 1 {
            let oldest = self.events.pop_front().unwrap_or_default();
            self.bytes -= oldest.len() as u64 + EACH;
            self.gone += 1;
        }
        before - self.bytes
    }

    /// Events from number `from` on, as many as a reader takes at a time. `ended`: there will be no more.
    pub fn from(&self, from: usize, ended: bool) -> Batch {
        let mut bytes = 0;
        let fits = |event: &&Bytes| {
            bytes += event.len();
            bytes <= READ || bytes == event.len()
        };
        let rest = self.events.iter().skip(from.saturating_sub(self.gone));
        let events: Vec<Bytes> = rest.take_while(fits).cloned().collect();
        let ended = ended && from.max(self.gone) + events.len() >= self.count();
        Batch { gone: self.gone as u64, events, ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize, size: usize) -> String {
        format!("event: e\ndata: {n:06}{}\n\n", "x".repeat(size))
    }

    #[test]
    fn the_oldest_go_and_numbers_stay() {
        let mut log = Log::default();
        let most = 100_000;
        for n in 0..10_000 {
            log.push(event(n, 100).as_bytes());
            log.shrink(most);
            assert!(log.bytes <= most);
        }
        assert_eq!(log.count(), 10_000);
        let batch = log.from(9_990, true);
        assert_eq!(batch.events.first().unwrap(), event(9_990, 100).as_bytes());
        assert!(batch.ended && batch.gone as usize == log.gone && log.gone > 9_000);
        // an event longer than all may be is kept alone
        log.push(event(10_000, 200_000).as_bytes());
        log.shrink(most);
        assert_eq!((log.gone, log.from(0, true).events.len()), (10_000, 1));
    }

    #[test]
    fn a_reader_gets_a_bounded_piece_at_a_time() {
        let mut log = Log::default();
        for n in 0..100 {
            log.push(event(n, 100_000).as_bytes());
        }
        log.push(b": comment\n\ndata: [DONE]\n\n");
        let mut from = 0;
        loop {
            let batch = log.from(from, true);
            assert!((1..=2).contains(&batch.events.len()));
            from += batch.events.len();
            if batch.ended {
                break;
            }
        }
        assert_eq!(from, 100);
    }
}
