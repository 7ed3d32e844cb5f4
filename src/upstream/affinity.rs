//! Owns which server a conversation's last request went to, whose cache holds its prompt. It must not choose a server, and
//! has no clock of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Most conversations that are remembered.
const MAX_CONVERSATIONS: usize = 8192;
/// How long one is remembered after its last request: an upstream's prompt cache expires, too.
const TTL: Duration = Duration::from_secs(2 * 60 * 60);

/// Conversations and their servers.
#[derive(Debug, Default)]
pub struct Affinity {
    entries: HashMap<Box<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    server: usize,
    used: Instant,
}

impl Affinity {
    /// The server of a conversation, by its place among all; asking does not renew the entry.
    pub fn server_of(&self, conversation: &str, now: Instant) -> Option<usize> {
        let entry = self.entries.get(conversation)?;
        (now.duration_since(entry.used) < TTL).then_some(entry.server)
    }

    /// Records where a conversation's request went.
    pub fn record(&mut self, conversation: &str, server: usize, now: Instant) {
        if let Some(entry) = self.entries.get_mut(conversation) {
            *entry = Entry { server, used: now };
            return;
        }
        if self.entries.len() >= MAX_CONVERSATIONS {
            self.entries.retain(|_, entry| now.duration_since(entry.used) < TTL);
        }
        if self.entries.len() >= MAX_CONVERSATIONS {
            // the oldest quarter at once, so that this scan is rare
            let mut ages: Vec<Instant> = self.entries.values().map(|entry| entry.used).collect();
            let quarter = ages.len() / 4;
            let (_, cutoff, _) = ages.select_nth_unstable(quarter);
            let cutoff = *cutoff;
            self.entries.retain(|_, entry| entry.used > cutoff);
        }
        self.entries.insert(Box::from(conversation), Entry { server, used: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_last_and_is_bounded() {
        let (mut affinity, start) = (Affinity::default(), Instant::now());
        let count = u32::try_from(2 * MAX_CONVERSATIONS).unwrap();
        for n in 0..count {
            let now = start + Duration::from_millis(1) * n;
            affinity.record(&format!("c{n}"), 7, now);
            assert!(affinity.entries.len() <= MAX_CONVERSATIONS);
        }
        let end = start + Duration::from_millis(1) * count;
        assert_eq!(affinity.server_of(&format!("c{}", count - 1), end), Some(7));
        assert_eq!(affinity.server_of("c0", end), None);
        affinity.record("x", 1, end);
        affinity.record("x", 2, end);
        assert_eq!(affinity.server_of("x", end), Some(2));
        assert_eq!(affinity.server_of("x", end + TTL), None);
    }
}
