//! Owns the promise that the core asks of whoever holds the keys: text sealed for the caller, to be carried by its
//! client and opened again. It must not hold a key.

use std::fmt::Debug;

/// What a sealed text is for; a blob opens only as what it was sealed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `encrypted_content` of a reasoning item: its raw text.
    Reasoning,
    /// `encrypted_content` of a compaction item: the summary.
    Compaction,
}

impl Purpose {
    /// A name that never changes, since blobs outlive a release.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Reasoning => "reasoning",
            Purpose::Compaction => "compaction",
        }
    }
}

/// Seals and opens texts of one caller.
pub trait Seal: Debug + Send + Sync {
    /// A blob of letters, digits, `-` and `_`; `None` where it cannot be made.
    fn seal(&self, purpose: Purpose, text: &str) -> Option<String>;

    /// The text; `None` for a blob that is tampered with, of another caller, purpose or key, or no blob at all.
    fn open(&self, purpose: Purpose, blob: &str) -> Option<String>;
}
