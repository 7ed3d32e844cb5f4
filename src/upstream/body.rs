//! Owns the body of a request to the upstream.

use bytes::Bytes;

use crate::budget::Counted;

/// The bytes of a request body.
pub enum Body {
    /// Sent once: the memory is freed when the server has it.
    Own(Counted),
    /// Also held by others: for another attempt, or for the store.
    Shared(Bytes),
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Body::Own(body) => body,
            Body::Shared(body) => body,
        }
    }
}

impl Body {
    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            Body::Own(body) => body.into_bytes(),
            Body::Shared(body) => body,
        }
    }
}
