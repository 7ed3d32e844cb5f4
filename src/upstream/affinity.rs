//! Owns which server a conversation is at home on: the one that has its prompt in its cache. It must not choose one,
//! and has no clock of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Most conversations that are remembered.
const MOST: usize = 8192;
/// How long one is remembered after its last request: caches do not live for ever either.
const MEMORY: Duration = Duration::from_secs(2 * 60 * 60);

/// Conversations and their servers.
#[derive(Debug, Default)]
pub struct Affinity {
    homes: HashMap<Box<str>, Home>,
}

#[derive(Debug)]
struct Home {
    server: usize,
    used: Instant,
}

impl Affinity {
    /// The server of a conversation.
    pub fn home(&self, conversation: &str, now: Instant) -> Option<usize> {
        let home = self.homes.get(conversation)?;
        (now.duration_since(home.used) < MEMORY).then_some(home.server)
    }

    /// Remembers where a conversation's request went.
    pub fn settle(&mut self, conversation: &str, server: usize, now: Instant) {
        if let Some(home) = self.homes.get_mut(conversation) {
            *home = Home { server, used: now };
            return;
        }
        if self.homes.len() >= MOST {
            self.homes.retain(|_, home| now.duration_since(home.used) < MEMORY);
        }
        if self.homes.len() >= MOST {
            // a quarter at once, so that this is rare
            let mut ages: Vec<Instant> = self.homes.values().map(|home| home.used).collect();
            let quarter = ages.len() / 4;
            let (_, limit, _) = ages.select_nth_unstable(quarter);
            let limit = *limit;
            self.homes.retain(|_, home| home.used > limit);
        }
        self.homes.insert(Box::from(conversation), Home { server, used: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_last_and_is_bounded() {
        let (mut affinity, start) = (Affinity::default(), Instant::now());
        let count = u32::try_from(2 * MOST).unwrap();
        for n in 0..count {
            let now = start + Duration::from_millis(1) * n;
            affinity.settle(&format!("c{n}"), 7, now);
            assert!(affinity.homes.len() <= MOST);
        }
        let end = start + Duration::from_millis(1) * count;
        assert_eq!(affinity.home(&format!("c{}", count - 1), end), Some(7));
        assert_eq!(affinity.home("c0", end), None);
        affinity.settle("x", 1, end);
        affinity.settle("x", 2, end);
        assert_eq!(affinity.home("x", end), Some(2));
        assert_eq!(affinity.home("x", end + MEMORY), None);
    }
}
