//! Owns the names of tools for chat models: valid, unique, the same in every turn, and recognised in the forms in which
//! models write them. It must not know what a tool does.

use std::borrow::Cow;

use crate::client::CODEX;

/// Longest function name that every server accepts, in bytes.
const LIMIT: usize = 64;

/// The chat name of a tool in a namespace, unless another tool has the same one.
pub fn flat<'a>(namespace: Option<&str>, name: &'a str) -> Cow<'a, str> {
    let joined = match namespace {
        None | Some("") => Cow::Borrowed(name),
        Some(_) if namespace == CODEX.namespace => Cow::Borrowed(name),
        Some(namespace) => Cow::Owned(format!("{namespace}__{name}")),
    };
    let legal = !joined.is_empty() && joined.len() <= LIMIT && joined.bytes().all(is_legal);
    if legal { joined } else { Cow::Owned(hashed(namespace, name, 0)) }
}

/// A name that distinguishes two tools with the same flat name. `round` is increased after each further collision.
pub fn hashed(namespace: Option<&str>, name: &str, round: u32) -> String {
    let joined = match namespace {
        None | Some("") => name.to_owned(),
        Some(namespace) => format!("{namespace}__{name}"),
    };
    let mut short: String =
        joined.chars().map(|c| if c.is_ascii() && is_legal(c as u8) { c } else { '_' }).collect();
    short.truncate(LIMIT - 9);
    // FNV-1a, because std's hasher may change between Rust releases
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let round = round.to_le_bytes();
    for byte in namespace.unwrap_or("").bytes().chain([0]).chain(name.bytes()).chain(round) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{short}_{:08x}", (hash ^ (hash >> 32)) as u32)
}

/// The name with `__` for the separators that models use instead, and without Codex's own namespace.
pub fn normalised(called: &str) -> Cow<'_, str> {
    let own = CODEX.namespace.and_then(|namespace| called.strip_prefix(namespace));
    let bare = own.and_then(|rest| [".", "__", ":", "/"].iter().find_map(|mark| rest.strip_prefix(mark)));
    let bare = bare.unwrap_or(called);
    if bare.contains(['.', ':', '/']) {
        Cow::Owned(bare.replace(['.', ':', '/'], "__"))
    } else {
        Cow::Borrowed(bare)
    }
}

fn is_legal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}
