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
        ["resp_", &self.seed].concat()
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

/// What all ids of a response share: what is behind the prefix of its own.
pub fn seed_of(response: &str) -> &str {
    response.strip_prefix("resp_").unwrap_or(response)
}

#[cfg(test)]
mod tests {
    use super::Ids;

    #[test]
    fn ids_are_counted_in_hexadecimal() {
        let mut ids = Ids { seed: "s".to_owned(), next: 0 };
        assert_eq!((ids.response(), ids.item("msg_")), ("resp_s".to_owned(), "msg_s0000".to_owned()));
        for (next, want) in
            [(0x1f, "a_s001f"), (0xffff, "a_sffff"), (0x10000, "a_s10000"), (u32::MAX, "a_sffffffff")]
        {
            ids.next = next;
            assert_eq!(ids.item("a_"), want);
        }
        assert_eq!(ids.next, 0);
    }
}
