//! Owns the differences between servers that speak Responses themselves, as data. It must not do anything.

/// How one kind of server handles Responses requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponsesProfile {
    /// Path of the endpoint, relative to the base URL.
    pub path: &'static str,
    /// Path of the endpoint that counts the tokens of a request.
    pub count_path: &'static str,
    /// Whether it knows only function tools and plain items: other tools become functions, and their calls are mapped
    /// back, as for a chat server.
    pub function_tools_only: bool,
    /// Whether it accepts some fields only under their Chat Completions names.
    pub chat_fields: bool,
    /// Whether it refuses a request without `stream: true`.
    pub streams_only: bool,
    /// Fields that it rejects, in addition to those that are never sent
    /// ([`NEVER_SENT`](crate::request::responses_body::NEVER_SENT)).
    pub rejects: &'static [&'static str],
}

/// llama-server b11434 and xllamacpp 2026.10: answers 400 for items other than messages, calls, outputs and reasoning,
/// drops tools other than functions, ignores `text.format` and reads `response_format` instead.
pub const LLAMA_SERVER: ResponsesProfile = ResponsesProfile { chat_fields: true, ..VLLM };

/// vLLM 0.32 and 0.33.
pub const VLLM: ResponsesProfile = ResponsesProfile { function_tools_only: true, ..FULL };

/// A server that speaks Responses as OpenAI documents it.
pub const FULL: ResponsesProfile = ResponsesProfile {
    path: "/v1/responses",
    count_path: "/v1/responses/input_tokens",
    function_tools_only: false,
    chat_fields: false,
    streams_only: false,
    rejects: &[],
};

/// The backend of Codex with a ChatGPT login. It answers 400 "Unsupported parameter" to anything that Codex itself does
/// not send (pydantic-ai#6433, sub2api#589, ChatMock#103), and only serves streams.
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
    /// The profile of the server at `base` (its base URL), whose dialect has this name.
    pub fn of(dialect: &str, base: &str) -> &'static ResponsesProfile {
        match dialect {
            _ if base.ends_with("/backend-api/codex") => &CODEX_BACKEND,
            "llama_server" => &LLAMA_SERVER,
            "vllm" => &VLLM,
            _ => &FULL,
        }
    }
}
