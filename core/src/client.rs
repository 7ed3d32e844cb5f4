//! Owns the differences between clients, as data. The evidence for each fact is in docs/clients.md. It must not do more
//! than look a name up: a habit of a client is a field here, and one `if` where it matters.

/// What one client sends, accepts and cannot handle.
#[derive(Debug)]
pub struct Client {
    /// The name in documents and `doctor`.
    pub name: &'static str,
    /// The beginning of its `originator` or `user-agent`, ignoring case; `None` if neither identifies it.
    pub announced_as: Option<&'static str>,
    /// Whether it drops a whole message that contains a `refusal` part.
    pub drops_refusals: bool,
    /// Whether it recognises a too long conversation only by `response.failed`, and treats a 400 as final.
    pub overflow_in_stream: bool,
    /// Prefix before `/v1` in the paths of its own backend.
    pub path_prefix: Option<&'static str>,
    /// Namespace of its own tools, which it omits in calls it sends back.
    pub namespace: Option<&'static str>,
    /// Names of its functions that run a shell line.
    pub shell_tools: &'static [&'static str],
    /// Name of its custom tool whose input is a patch.
    pub patch_tool: Option<&'static str>,
}

/// Headers that identify the conversation of a request. Sub-agents share the session of their parent.
#[derive(Debug)]
pub struct ConversationHeaders {
    /// Identifies a thread; a session may have several.
    pub thread: &'static str,
    /// Identifies a session.
    pub session: &'static str,
    /// A JSON object about the request.
    pub metadata: &'static str,
    /// Members of that object with their values in requests that do not belong to the conversation itself: for its
    /// title, for a summary of it.
    pub beside: &'static [(&'static str, &'static str)],
}

/// What a client assumes about models, and where it gets its information.
#[derive(Debug)]
pub struct Models {
    /// The context in tokens that it assumes if nothing tells it.
    pub assumed_context: u64,
    /// The approximate number of tokens in its first request.
    pub first_request: u64,
    /// The keys of its configuration for the context, and for the length at which it summarises.
    pub keys: [&'static str; 2],
    /// Levels of effort that it knows, lowest first.
    pub efforts: &'static [&'static str],
    /// Most tokens of one tool output that it sends to a model.
    pub longest_output: u64,
    /// The system prompt for models in the catalog.
    pub instructions: &'static str,
}

/// The length in tokens at which to summarise a conversation: the summary must fit into the context as well.
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
    // the last three are from earlier versions
    shell_tools: &["exec_command", "shell", "shell_command", "local_shell"],
    patch_tool: Some("apply_patch"),
};

/// How Codex identifies conversations (docs/clients.md, "Codex: requests"). The headers are honoured from any client.
pub const CODEX_HEADERS: ConversationHeaders = ConversationHeaders {
    thread: "thread-id",
    session: "session-id",
    metadata: "x-codex-turn-metadata",
    beside: &[("thread_source", "thread_title"), ("request_kind", "compaction")],
};

/// What Codex assumes about models (docs/clients.md, "The catalog of models").
pub const CODEX_MODELS: Models = Models {
    assumed_context: 272_000,
    first_request: 8000,
    keys: ["model_context_window", "model_auto_compact_token_limit"],
    efforts: &["none", "minimal", "low", "medium", "high", "xhigh", "max"],
    longest_output: 10_000,
    // short on purpose: it is part of every prompt, where Codex's own takes 17 KB
    instructions: include_str!("client/codex_instructions.txt"),
};

/// Factory Droid CLI 0.215, which sends openai-node's headers (docs/clients.md, "Droid 0.215").
pub const DROID: Client =
    Client { name: "Droid", shell_tools: &["Execute"], patch_tool: Some("ApplyPatch"), ..OTHER };

/// Any other client, with the tool names that several of them use (docs/clients.md, "Other coding agents").
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

/// All clients. A tool name is recognised whichever client declares it.
pub static CLIENTS: [Client; 3] = [CODEX, DROID, OTHER];

impl Client {
    /// The client identified by the values of `originator` and `user-agent`.
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

/// Beginnings of the `user-agent` of libraries and programs, with a name for logs.
const PROGRAMS: [(&str, &str); 5] = [
    ("OpenAI/Python", "openai-python"),
    ("AsyncOpenAI/Python", "openai-python"),
    ("OpenAI/JS", "openai-node"),
    ("OpenAI/Go", "openai-go"),
    ("curl/", "curl"),
];

/// The kind of client for logs, by the values of `originator` and `user-agent`; `None` for one that is not known.
pub fn kind_of(headers: [Option<&[u8]>; 2]) -> Option<&'static str> {
    if Client::announced(headers).announced_as == CODEX.announced_as {
        return Some("codex");
    }
    let [_, agent] = headers;
    let agent = agent?;
    PROGRAMS.iter().find(|(begin, _)| agent.starts_with(begin.as_bytes())).map(|(_, name)| *name)
}

/// Whether a function of that name runs a shell line.
pub fn is_shell_tool(name: &str) -> bool {
    CLIENTS.iter().any(|client| client.shell_tools.contains(&name))
}

/// Whether the input of a custom tool of that name is a patch.
pub fn is_patch_tool(name: &str) -> bool {
    CLIENTS.iter().any(|client| client.patch_tool == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_identified_by_their_headers() {
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
