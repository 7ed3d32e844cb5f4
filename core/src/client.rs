//! Owns what differs between the clients in front of us, as data. The evidence of each fact is in docs/clients.md. It must
//! not do more than look a name up: a habit of a client is a field here and one `if` where it matters.

/// What one client sends, accepts and dies of.
#[derive(Debug)]
pub struct Client {
    /// Its name, as documents and `doctor` call it.
    pub name: &'static str,
    /// How its `originator` or `user-agent` begins, in any case; `None` where it does not say who it is.
    pub announced_as: Option<&'static str>,
    /// Whether it drops a message that has a `refusal` part, with all of its text.
    pub drops_refusals: bool,
    /// Whether it knows that a conversation has become too long from `response.failed` alone, and takes a 400 for the end.
    pub overflow_in_stream: bool,
    /// What stands before `/v1` in the paths of its own backend.
    pub path_prefix: Option<&'static str>,
    /// The namespace of its own tools, which it leaves out when it gives calls back.
    pub namespace: Option<&'static str>,
    /// Names of its functions that run a line of a shell.
    pub shell_tools: &'static [&'static str],
    /// Name of its freeform tool whose input is a patch.
    pub patch_tool: Option<&'static str>,
}

/// Headers about the conversation that a request belongs to. Sub-agents share the session of their parent.
#[derive(Debug)]
pub struct ConversationHeaders {
    /// Names a thread; the threads of one session differ by it.
    pub thread: &'static str,
    /// Names a session.
    pub session: &'static str,
    /// Holds a JSON object about the request.
    pub metadata: &'static str,
    /// Members of that object, and their values in requests beside the conversation: for its title, for a summary of it.
    pub beside: &'static [(&'static str, &'static str)],
}

/// What a client knows of models, and where it learns it.
#[derive(Debug)]
pub struct Models {
    /// The context in tokens that it assumes where nobody tells.
    pub assumed_context: u64,
    /// The tokens that its first request takes alone, as a round number.
    pub first_request: u64,
    /// The keys of its configuration for the context, and for the length at which it summarises.
    pub keys: [&'static str; 2],
    /// Levels of effort that it knows, the least first.
    pub efforts: &'static [&'static str],
    /// Most tokens of a tool's output that it shows a model.
    pub longest_output: u64,
    /// The system prompt for models of the catalog.
    pub instructions: &'static str,
}

/// The length in tokens at which a conversation is to be summarised: the summary has to be written, too.
pub fn compact_at(context: u64) -> u64 {
    context * 4 / 5
}

/// Codex CLI 0.169 to 0.171.
pub const CODEX: Client = Client {
    name: "Codex",
    // headers: docs/clients.md, "Codex: requests"
    announced_as: Some("codex"),
    // docs/clients.md, "Codex: the stream" (codex-rs/codex-api/src/sse/responses.rs)
    drops_refusals: true,
    // docs/clients.md, "Codex: errors"
    overflow_in_stream: true,
    path_prefix: Some("/codex"),
    // docs/clients.md, "Tools that it declares"
    namespace: Some("functions"),
    // the last three of earlier versions
    shell_tools: &["exec_command", "shell", "shell_command", "local_shell"],
    patch_tool: Some("apply_patch"),
};

/// How Codex tells conversations apart (docs/clients.md, "Codex: requests"). Whoever sends these headers is read so.
pub const CODEX_HEADERS: ConversationHeaders = ConversationHeaders {
    thread: "thread-id",
    session: "session-id",
    metadata: "x-codex-turn-metadata",
    beside: &[("thread_source", "thread_title"), ("request_kind", "compaction")],
};

/// What Codex knows of models (docs/clients.md, "The catalog of models").
pub const CODEX_MODELS: Models = Models {
    assumed_context: 272_000,
    first_request: 8000,
    keys: ["model_context_window", "model_auto_compact_token_limit"],
    efforts: &["none", "minimal", "low", "medium", "high", "xhigh", "max"],
    longest_output: 10_000,
    // short on purpose: it is part of every prompt, in place of 17 KB
    instructions: include_str!("client/codex_instructions.txt"),
};

/// Factory Droid CLI 0.215, which sends openai-node's headers (docs/clients.md, "Droid 0.215").
pub const DROID: Client =
    Client { name: "Droid", shell_tools: &["Execute"], patch_tool: Some("ApplyPatch"), ..OTHER };

/// Any other client: what it declares like several of them (docs/clients.md, "Other coding agents").
pub const OTHER: Client = Client {
    name: "other",
    announced_as: None,
    drops_refusals: false,
    overflow_in_stream: false,
    path_prefix: None,
    namespace: None,
    shell_tools: &["bash", "Bash"],
    patch_tool: None,
};

/// All of them. A tool is known by its name whoever declares it.
pub static CLIENTS: [Client; 3] = [CODEX, DROID, OTHER];

impl Client {
    /// The client whose headers, `originator` and `user-agent`, have these values.
    pub fn announced(headers: [Option<&[u8]>; 2]) -> &'static Client {
        let [.., other] = &CLIENTS;
        let is = |name: &str| {
            headers.iter().flatten().any(|value| {
                value.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name.as_bytes()))
            })
        };
        CLIENTS.iter().find(|client| client.announced_as.is_some_and(is)).unwrap_or(other)
    }
}

/// Whether a function of that name runs a line of a shell.
pub fn is_shell_tool(name: &str) -> bool {
    CLIENTS.iter().any(|client| client.shell_tools.contains(&name))
}

/// Whether the input of a freeform tool of that name is a patch.
pub fn is_patch_tool(name: &str) -> bool {
    CLIENTS.iter().any(|client| client.patch_tool == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_what_it_says_of_itself() {
        for (headers, name) in [
            ([Some(&b"codex_exec"[..]), None], "Codex"),
            ([Some(b"Codex Desktop"), Some(b"other")], "Codex"),
            ([Some(b"other"), Some(b"codex-tui/0.171.0")], "Codex"),
            ([None, Some(b"OpenAI/JS 6.1.0")], "other"),
            ([Some(b"code"), Some(b"my codex")], "other"),
            ([None, None], "other"),
        ] {
            assert_eq!(Client::announced(headers).name, name, "{headers:?}");
        }
    }
}
