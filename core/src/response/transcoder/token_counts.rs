//! Owns the token counts that an upstream reports for its answer, in `usage` and in llama-server's `timings`. It must
//! not invent a count.

use serde_json::value::RawValue;

use crate::response::usage::Usage;

/// The token counts of an answer, as far as they were reported.
#[derive(Debug, Default)]
pub(super) struct TokenCounts {
    usage: Option<Usage>,
    timings: Option<Usage>,
}

impl TokenCounts {
    /// Records the counts of a `usage`; `None` keeps the earlier ones.
    pub(super) fn take_usage(&mut self, usage: Option<Usage>) {
        self.usage = usage.or(self.usage);
    }

    /// Records `timings`, used if there is no `usage`. With `timings_per_token` every chunk has them; the last ones
    /// win.
    pub(super) fn take_timings(&mut self, timings: Option<&RawValue>) {
        if self.usage.is_none() {
            self.timings = timings.and_then(Usage::from_timings).or(self.timings);
        }
    }

    /// The counts: `usage` if it was reported, else `timings`.
    pub(super) fn best(&self) -> Option<Usage> {
        self.usage.or(self.timings)
    }

    /// Takes the counts, leaving none: those of another answer follow.
    pub(super) fn take(&mut self) -> Option<Usage> {
        let counts = std::mem::take(self);
        counts.best()
    }
}
