//! Owns what differs between the servers behind us, as data. It must not do anything: a quirk is a field here and
//! one `if` where it matters.

/// How one kind of server reads Chat Completions requests (WIRE.md 9.1, 9.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// The name in logs, metrics and `upstream.dialect`.
    pub name: &'static str,
    /// Key of an assistant message under which earlier reasoning is given back.
    pub reasoning_key: &'static str,
    /// Whether `tool_choice` may be an object that names a function. llama-server b11434 reads any object as `auto`.
    pub named_tool_choice: bool,
    /// Whether `logprobs` may stand beside tools in a stream. llama-server answers 400.
    pub logprobs_with_tools: bool,
    /// Whether `chat_template_kwargs` is understood, which is how templates of the Qwen kind turn thinking off.
    pub template_kwargs: bool,
    /// Key of the request under which a thinking budget in tokens is understood.
    pub budget_key: Option<&'static str>,
    /// Whether an assistant message at the end of the history is continued in place of being answered, whatever
    /// `continue_final_message` and `add_generation_prompt` say (llama-server b11434, by `/apply-template`).
    pub continues_assistant: bool,
    /// Path that counts the prompt tokens of a chat request, and the member of its answer that holds the count.
    pub count_tokens: Option<(&'static str, &'static str)>,
}

/// llama.cpp's `llama-server`, as of b11434.
pub const LLAMA_SERVER: Dialect = Dialect {
    name: "llama_server",
    reasoning_key: "reasoning_content",
    named_tool_choice: false,
    logprobs_with_tools: false,
    template_kwargs: true,
    budget_key: Some("reasoning_budget_tokens"),
    continues_assistant: true,
    count_tokens: Some(("/v1/chat/completions/input_tokens", "input_tokens")),
};

/// vLLM 0.32 and 0.33.
pub const VLLM: Dialect = Dialect {
    name: "vllm",
    reasoning_key: "reasoning",
    named_tool_choice: true,
    logprobs_with_tools: true,
    template_kwargs: true,
    budget_key: Some("thinking_token_budget"),
    continues_assistant: false,
    count_tokens: Some(("/tokenize", "count")),
};

/// Any other server that speaks Chat Completions as OpenAI documents it.
pub const GENERIC: Dialect = Dialect {
    name: "generic",
    reasoning_key: "reasoning_content",
    named_tool_choice: true,
    logprobs_with_tools: true,
    template_kwargs: false,
    budget_key: None,
    continues_assistant: false,
    count_tokens: None,
};
