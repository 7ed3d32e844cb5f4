//! Owns the identifiers of one response: made once, unique, and a function of the seed alone, so that the core
//! stays free of randomness. It must not know what the identifiers name.

use std::fmt::Write as _;

/// Makes every id of one response from one seed.
///
/// All ids share the seed, so a log line with the response's id finds its items too. Tests pass a fixed seed.
#[derive(Debug, Clone)]
pub struct Ids {
    seed: String,
    next: u32,
}

impl Ids {
    /// `seed`: letters and digits that no other response has (the server passes a UUID v7 without dashes).
    pub fn new(seed: impl Into<String>) -> Self {
        Ids { seed: seed.into(), next: 0 }
    }

    /// The response's own id, `resp_` + seed.
    pub fn response(&self) -> String {
        format!("resp_{}", self.seed)
    }

    /// The next item or call id: `prefix` + seed + a counter, for example `msg_0192...0001`.
    pub fn item(&mut self, prefix: &str) -> String {
        let mut id = String::with_capacity(prefix.len() + self.seed.len() + 4);
        id.push_str(prefix);
        id.push_str(&self.seed);
        let _ = write!(id, "{:04x}", self.next);
        self.next = self.next.wrapping_add(1);
        id
    }
}
