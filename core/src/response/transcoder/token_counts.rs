//! Owns the token counts that an upstream reports for its answer, in `usage` and in llama-server's `timings`, and how long
//! these say that they took. It must not invent a count.

use serde_json::value::RawValue;

use crate::response::usage::Usage;
use crate::wire::chat::Timings;

/// The token counts of an answer, as far as they were reported.
#[derive(Debug, Default)]
pub(super) struct TokenCounts {
    usage: Option<Usage>,
    timings: Option<Timings>,
}

impl TokenCounts {
    /// Records the counts of a `usage`; `None` keeps the earlier ones.
    pub(super) fn take_usage(&mut self, usage: Option<Usage>) {
        self.usage = usage.or(self.usage);
    }

    /// Records `timings`, whose counts are used if there is no `usage`. With `timings_per_token` every chunk has them; the
    /// last ones win.
    pub(super) fn take_timings(&mut self, timings: Option<&RawValue>) {
        let timings = timings.and_then(|timings| serde_json::from_str(timings.get()).ok());
        self.timings = timings.or(self.timings);
    }

    /// The counts: `usage` if it was reported, else those of `timings`.
    pub(super) fn best(&self) -> Option<Usage> {
        self.usage.or_else(|| Usage::from_timings(self.timings.as_ref()?))
    }

    /// What `timings` say, if there are any.
    pub(super) fn timings(&self) -> Option<Timings> {
        self.timings
    }

    /// Takes the counts, leaving none: those of another answer follow.
    pub(super) fn take(&mut self) -> Option<Usage> {
        let counts = std::mem::take(self);
        counts.best()
    }
}
