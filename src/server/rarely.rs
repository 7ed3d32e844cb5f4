//! Owns how often the log says the same of many connections: whoever opens connections must not be able to fill it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time until it is said again.
const PAUSE: Duration = Duration::from_secs(5);

/// What was said, and when.
#[derive(Debug, Default)]
pub struct Rarely(Mutex<HashMap<&'static str, Instant>>);

impl Rarely {
    /// Whether that may be said now; it counts as said then.
    pub fn may_say(&self, what: &'static str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may = said.get(what).is_none_or(|last| now.duration_since(*last) >= PAUSE);
        if may {
            said.insert(what, now);
        }
        may
    }
}
