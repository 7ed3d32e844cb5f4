//! Owns the ids of one response: unique, and derived from a seed alone, so that the core needs no randomness. It must
//! not know what the ids identify.

use std::fmt::Write as _;

/// Makes all ids of one response from one seed.
///
/// All ids contain the seed, so searching the logs for the response's id finds its items too. Tests use a fixed seed.
#[derive(Debug, Clone)]
pub struct Ids {
    seed: String,
    next: u32,
}

impl Ids {
    /// `seed`: letters and digits, unique to the response. The server passes a UUID v7 without dashes.
    pub fn new(seed: impl Into<String>) -> Self {
        Ids { seed: seed.into(), next: 0 }
    }

    /// The id of the response, `resp_` followed by the seed.
    pub fn response(&self) -> String {
        ["resp_", &self.seed].concat()
    }

    /// The next id of an item or call: `prefix`, seed and a counter, such as `msg_0192...0001`.
    pub fn item(&mut self, prefix: &str) -> String {
        let mut id = String::with_capacity(prefix.len() + self.seed.len() + 4);
        id.push_str(prefix);
        id.push_str(&self.seed);
        let _ = write!(id, "{:04x}", self.next);
        self.next = self.next.wrapping_add(1);
        id
    }
}

/// Prefix of a message's id.
pub const MESSAGE: &str = "msg_";
/// Prefix of a reasoning item's id.
pub const REASONING: &str = "rs_";
/// Prefix of a function call's id.
pub const FUNCTION_CALL: &str = "fc_";
/// Prefix of a custom tool call's id.
pub const CUSTOM_TOOL_CALL: &str = "ctc_";
/// Prefix of a compaction item's id.
pub const COMPACTION: &str = "cmp_";
/// Prefix of a tool search's id.
pub const TOOL_SEARCH_CALL: &str = "tsc_";
/// Prefix of a local shell call's id.
pub const LOCAL_SHELL_CALL: &str = "lsh_";
/// Prefix of a shell call's id.
pub const SHELL_CALL: &str = "sh_";

/// Types of items, and the prefixes of their ids (docs/protocol.md 6).
const PREFIXES: [(&str, &str); 24] = [
    ("message", MESSAGE),
    ("reasoning", REASONING),
    ("function_call", FUNCTION_CALL),
    ("function_call_output", "fco_"),
    ("custom_tool_call", CUSTOM_TOOL_CALL),
    ("custom_tool_call_output", "ctco_"),
    ("compaction", COMPACTION),
    ("tool_search_call", TOOL_SEARCH_CALL),
    ("tool_search_output", "tso_"),
    ("local_shell_call", LOCAL_SHELL_CALL),
    ("local_shell_call_output", LOCAL_SHELL_CALL),
    ("shell_call", SHELL_CALL),
    ("shell_call_output", "sho_"),
    ("apply_patch_call", "apc_"),
    ("apply_patch_call_output", "apc_"),
    ("web_search_call", "ws_"),
    ("file_search_call", "fs_"),
    ("code_interpreter_call", "ci_"),
    ("image_generation_call", "ig_"),
    ("computer_call", "cu_"),
    ("mcp_call", "mcp_"),
    ("mcp_list_tools", "mcpl_"),
    ("mcp_approval_request", "mcpr_"),
    ("program", "cm_"),
];

/// The id prefix for an item type; `item_` if the type is unknown.
pub fn prefix_of(kind: &str) -> &'static str {
    PREFIXES.iter().find(|(known, _)| *known == kind).map_or("item_", |(_, prefix)| prefix)
}

/// The seed in a response id: what follows its prefix.
pub fn seed_of(response: &str) -> &str {
    response.strip_prefix("resp_").unwrap_or(response)
}

#[cfg(test)]
mod tests {
    use super::{Ids, PREFIXES, prefix_of};

    #[test]
    fn ids_are_counted_in_hexadecimal() {
        let mut ids = Ids { seed: "s".to_owned(), next: 0 };
        assert_eq!((ids.response(), ids.item("msg_")), ("resp_s".to_owned(), "msg_s0000".to_owned()));
        for (next, want) in
            [(0x1f, "a_s001f"), (0xffff, "a_sffff"), (0x10000, "a_s10000"), (u32::MAX, "a_sffffffff")]
        {
            ids.next = next;
            assert_eq!(ids.item("a_"), want);
        }
        assert_eq!(ids.next, 0);
    }

    #[test]
    fn every_known_type_has_one_prefix() {
        assert_eq!(
            ["message", "web_search_call", "mcp_call", "function_call_output", "made_up"].map(prefix_of),
            ["msg_", "ws_", "mcp_", "fco_", "item_"]
        );
        let known = PREFIXES.map(|(kind, prefix)| (kind, prefix.trim_end_matches('_')));
        for (kind, prefix) in known {
            assert!(prefix.len() >= 2 && prefix.bytes().all(|byte| byte.is_ascii_lowercase()), "{kind}");
            assert_eq!(known.iter().filter(|(other, _)| *other == kind).count(), 1, "{kind}");
        }
    }
}
