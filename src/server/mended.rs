//! Owns the choice of the API that the upstream is asked to speak. It must not translate: what each API means is
//! `translate`'s business.

use crate::translate::native::Native;
use crate::upstream::{CHAT, Target};

/// Where on the server a request for an answer goes.
pub fn path(native: Option<&'static Native>) -> &'static str {
    native.map_or(CHAT, |native| native.path)
}

/// Whether conversations are summarised here, not by a server that does so itself.
pub fn compacts(target: &Target) -> bool {
    target.native.is_none_or(|native| native.functions)
}
