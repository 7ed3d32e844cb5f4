//! Owns the circuit of one server: failures in a row open it, time half-opens it, one success closes it. It must not
//! look at a clock of its own.

use std::time::{Duration, Instant};

/// Failures in a row that open the circuit.
const FAILURES: u32 = 3;
/// How long it stays open at first; twice as long after each failed trial.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest time that it stays open.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What requests that were really sent have shown.
#[derive(Debug, Default)]
pub struct Health {
    failures: u32,
    open_until: Option<Instant>,
    /// Whether the one request that tries a half-open circuit is under way.
    trial: bool,
}

impl Health {
    /// Whether a request may go there now.
    pub fn admits(&self, now: Instant) -> bool {
        self.open_until.is_none_or(|until| until <= now && !self.trial)
    }

    /// Notes that a request goes to the server: with the circuit open, as its one trial.
    pub fn begin(&mut self) {
        self.trial = self.open_until.is_some();
    }

    /// Closes the circuit: the server's answer to a request began.
    pub fn succeeded(&mut self) {
        *self = Health::default();
    }

    /// Notes that the server failed a request: several in a row open the circuit, each time for longer.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.trial = false;
        if self.failures >= FAILURES {
            let doublings = (self.failures - FAILURES).min(5);
            self.open_until = Some(now + (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE));
        }
    }

    /// It ended without telling anything of the server: the client left, or was refused.
    pub fn gave_up(&mut self) {
        self.trial = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_circuit_opens_half_opens_and_closes() {
        let (mut health, start) = (Health::default(), Instant::now());
        for _ in 0..FAILURES {
            assert!(health.admits(start));
            health.begin();
            health.failed(start);
        }
        assert!(!health.admits(start));
        let later = start + FIRST_PAUSE;
        assert!(health.admits(later));
        health.begin();
        assert!(!health.admits(later), "one trial at a time");
        health.failed(later);
        assert!(!health.admits(later + FIRST_PAUSE), "the pause grows");
        let much_later = later + LONGEST_PAUSE;
        health.begin();
        health.gave_up();
        assert!(health.admits(much_later), "a trial that told nothing is followed by another");
        health.begin();
        health.succeeded();
        assert!(health.admits(start));
    }
}
