//! Owns whose a record is.

use std::fmt;

use crate::hex;

/// Whose records: a keyed hash of the caller's credentials (see `keyring.rs`), never the credentials.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope(pub [u8; 16]);

impl Scope {
    /// 32 hexadecimal digits, as part of a record's name.
    pub fn hex(&self) -> String {
        hex::encode(&self.0)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope(..)")
    }
}
