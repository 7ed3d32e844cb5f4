//! Owns what an upstream told of the tokens of its answer, in its `usage` and in llama-server's `timings`. It must not make
//! up a count.

use serde_json::value::RawValue;

use crate::response::usage::Usage;

/// The token counts of an answer, as far as they were told.
#[derive(Debug, Default)]
pub(super) struct TokenCounts {
    usage: Option<Usage>,
    timings: Option<Usage>,
}

impl TokenCounts {
    /// Takes counts by `usage`. Zeros behind real counts say nothing.
    pub(super) fn take_usage(&mut self, usage: Option<Usage>) {
        self.usage = usage.or(self.usage);
    }

    /// Takes `timings`, which count where no `usage` does. They are on every chunk with `timings_per_token`: the last ones
    /// count.
    pub(super) fn take_timings(&mut self, timings: Option<&RawValue>) {
        if self.usage.is_none() {
            self.timings = timings.and_then(Usage::from_timings).or(self.timings);
        }
    }

    /// The counts, by `usage` where it was told.
    pub(super) fn best(&self) -> Option<Usage> {
        self.usage.or(self.timings)
    }

    /// Gives them away: others follow, of another answer.
    pub(super) fn take(&mut self) -> Option<Usage> {
        let counts = std::mem::take(self);
        counts.best()
    }
}
