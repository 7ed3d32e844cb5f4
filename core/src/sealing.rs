//! Owns the interface to sealing: text is sealed for its caller, carried by the client, and opened again. It must not
//! hold a key.

use std::fmt::Debug;

/// What a sealed text is for. A blob can only be opened for the purpose it was sealed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The text of a reasoning item, sealed into its `encrypted_content`.
    Reasoning,
    /// The summary of a compaction item, sealed into its `encrypted_content`.
    Compaction,
}

impl Purpose {
    /// A name that must never change, because blobs outlive a release.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Reasoning => "reasoning",
            Purpose::Compaction => "compaction",
        }
    }
}

/// Seals and opens texts for one caller.
pub trait Seal: Debug + Send + Sync {
    /// A blob of letters, digits, `-` and `_`; `None` if sealing fails.
    fn seal(&self, purpose: Purpose, text: &str) -> Option<String>;

    /// The text; `None` if the blob is invalid, or belongs to another caller, purpose or key.
    fn open(&self, purpose: Purpose, blob: &str) -> Option<String>;
}
