//! Owns the names under which a chat model sees tools: legal, unique, the same in every turn, and found again from
//! what the model makes of them. It must not know what a tool does.

use std::borrow::Cow;

use crate::client::CODEX;

/// Longest function name that every server takes.
const LIMIT: usize = 64;

/// The name of a tool in a namespace, where no other tool has it.
pub fn flat<'a>(namespace: Option<&str>, name: &'a str) -> Cow<'a, str> {
    let joined = match namespace {
        None | Some("") => Cow::Borrowed(name),
        Some(_) if namespace == CODEX.namespace => Cow::Borrowed(name),
        Some(namespace) => Cow::Owned(format!("{namespace}__{name}")),
    };
    let legal = !joined.is_empty() && joined.len() <= LIMIT && joined.bytes().all(is_legal);
    if legal { joined } else { Cow::Owned(hashed(namespace, name, 0)) }
}

/// A name that tells two tools apart whose flat names are one; `round` counts further collisions.
pub fn hashed(namespace: Option<&str>, name: &str, round: u32) -> String {
    let joined = match namespace {
        None | Some("") => name.to_owned(),
        Some(namespace) => format!("{namespace}__{name}"),
    };
    let mut short: String =
        joined.chars().map(|c| if c.is_ascii() && is_legal(c as u8) { c } else { '_' }).collect();
    short.truncate(LIMIT - 9);
    // FNV-1a: stable between builds, which std's hasher does not promise
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let round = round.to_le_bytes();
    for byte in namespace.unwrap_or("").bytes().chain([0]).chain(name.bytes()).chain(round) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{short}_{:08x}", (hash ^ (hash >> 32)) as u32)
}

/// The same name with the separators that models put in place of `__`, and without Codex's own namespace.
pub fn normal(called: &str) -> Cow<'_, str> {
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
