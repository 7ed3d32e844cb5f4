//! Owns how servers that speak Responses themselves take requests, as data.

/// How a kind of server takes Responses requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponsesProfile {
    /// Path of its endpoint, behind the base URL.
    pub path: &'static str,
    /// Where it counts the tokens of a request.
    pub count_path: &'static str,
    /// Whether it knows function tools and plain items alone: tools are flattened to functions, and calls of them
    /// mapped back, as for a chat server.
    pub functions: bool,
    /// Whether it takes some fields under their Chat Completions names alone.
    pub chat_fields: bool,
    /// Whether it refuses a request without `stream: true`.
    pub streams_only: bool,
    /// Fields that it rejects, besides those that are never sent ([`NEVER_SENT`]).
    pub rejects: &'static [&'static str],
}

/// llama-server b11434 and xllamacpp 2026.10: answers 400 for items that are no message, call, output or reasoning,
/// drops tools that are no functions, ignores `text.format` and reads `response_format`.
pub const LLAMA_SERVER: ResponsesProfile = ResponsesProfile { chat_fields: true, ..VLLM };

/// vLLM 0.32 and 0.33.
pub const VLLM: ResponsesProfile = ResponsesProfile { functions: true, ..FULL };

/// A server that speaks Responses as OpenAI documents it.
pub const FULL: ResponsesProfile = ResponsesProfile {
    path: "/v1/responses",
    count_path: "/v1/responses/input_tokens",
    functions: false,
    chat_fields: false,
    streams_only: false,
    rejects: &[],
};

/// The backend of Codex with a ChatGPT login, which answers 400 "Unsupported parameter" to whatever Codex itself does
/// not send (pydantic-ai#6433, sub2api#589, ChatMock#103), and serves streams alone.
pub const CODEX_BACKEND: ResponsesProfile = ResponsesProfile {
    path: "/responses",
    count_path: "/responses/input_tokens",
    streams_only: true,
    rejects: &[
        "frequency_penalty",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "presence_penalty",
        "prompt_cache_retention",
        "safety_identifier",
        "temperature",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    ],
    ..FULL
};

impl ResponsesProfile {
    /// The kind of the server at `base`, whose dialect has that name.
    pub fn of(dialect: &str, base: &str) -> &'static ResponsesProfile {
        match dialect {
            _ if base.ends_with("/backend-api/codex") => &CODEX_BACKEND,
            "llama_server" => &LLAMA_SERVER,
            "vllm" => &VLLM,
            _ => &FULL,
        }
    }
}
