//! Owns the differences between Chat Completions servers, as data. It must not do anything: a difference is a field
//! here, and one `if` where it matters.

/// How one kind of server handles Chat Completions requests (docs/servers.md).
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    /// The name in logs, in `doctor` and in `upstream.dialect`.
    pub name: &'static str,
    /// Member of an assistant message that holds earlier reasoning.
    pub reasoning_key: &'static str,
    /// Whether `tool_choice` may be an object that names a function. llama-server b11434 treats any object as `auto`.
    pub named_tool_choice: bool,
    /// Whether `logprobs` may be requested beside tools in a stream. llama-server answers 400.
    pub logprobs_with_tools: bool,
    /// Whether `response_format` beside tools constrains only the final text. llama-server (b11434, b11549) applies it
    /// as a grammar to everything it generates, so the model cannot call tools, not even under `required`; vLLM (0.32)
    /// does so with `auto`, and answers a forced call with a message that begins with `<tool_call>`. With
    /// `tool_choice: "none"` both keep the tools in the prompt and enforce the format.
    pub format_beside_tools: bool,
    /// Whether `chat_template_kwargs` is supported, through which Qwen-like templates switch thinking off.
    pub template_kwargs: bool,
    /// Accepted levels of `reasoning_effort`. For any other level, the closest of them is sent.
    pub efforts: &'static [&'static str],
    /// Request member for a thinking budget in tokens.
    pub budget_key: Option<&'static str>,
    /// Whether a trailing assistant message is continued instead of answered, whatever `continue_final_message` and
    /// `add_generation_prompt` say (seen with `/apply-template` of llama-server b11434).
    pub continues_assistant: bool,
    /// Members outside the Responses API that are passed on from the top level of a request.
    pub extra_keys: &'static [&'static str],
    /// Whether every chat request asks for a stream. llama-server b11434 detects a disconnected client only when it
    /// writes, and would otherwise generate an abandoned answer to its end.
    pub always_streams: bool,
    /// Request member that asks for chunks with `prompt_progress` before the first token, which distinguish a long
    /// prefill from a server that hangs.
    pub progress_key: Option<&'static str>,
    /// Request member that selects the slot, and so the cached prompt, to use.
    pub slot_key: Option<&'static str>,
    /// Whether the server accepts any model name for its one model.
    pub any_model: bool,
    /// Whether a prompt stays in a cache after it was read, at no cost per token. Then a warm-up asks for one token.
    pub keeps_prompts: bool,
    /// Path that counts the prompt tokens of a chat request, and the member of its answer with the count.
    pub count_tokens: Option<(&'static str, &'static str)>,
}

/// Dialects are identified by name.
impl PartialEq for Dialect {
    fn eq(&self, other: &Dialect) -> bool {
        self.name == other.name
    }
}

impl Eq for Dialect {}

/// The levels of OpenAI's Chat Completions API, lowest first.
const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// llama.cpp's `llama-server`, as of b11434.
pub const LLAMA_SERVER: Dialect = Dialect {
    name: "llama_server",
    reasoning_key: "reasoning_content",
    named_tool_choice: false,
    logprobs_with_tools: false,
    format_beside_tools: false,
    template_kwargs: true,
    // the template gets the word unchanged (ggml-org/llama.cpp#26941)
    efforts: EFFORTS,
    budget_key: Some("reasoning_budget_tokens"),
    continues_assistant: true,
    extra_keys: &[
        "add_generation_prompt",
        "cache_prompt",
        "chat_template_kwargs",
        "continue_final_message",
        "dry_allowed_length",
        "dry_base",
        "dry_multiplier",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "dynatemp_exponent",
        "dynatemp_range",
        "grammar",
        "ignore_eos",
        "json_schema",
        "logit_bias",
        "lora",
        "min_keep",
        "min_p",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "n_keep",
        "parse_tool_calls",
        "reasoning_budget_tokens",
        "reasoning_format",
        "repeat_last_n",
        "repeat_penalty",
        "samplers",
        "seed",
        "stop",
        "thinking_budget_tokens",
        "top_k",
        "top_n_sigma",
        "typical_p",
        "xtc_probability",
        "xtc_threshold",
    ],
    always_streams: true,
    progress_key: Some("return_progress"),
    slot_key: Some("id_slot"),
    any_model: true,
    keeps_prompts: true,
    count_tokens: Some(("/v1/chat/completions/input_tokens", "input_tokens")),
};

/// vLLM 0.32 and 0.33.
pub const VLLM: Dialect = Dialect {
    name: "vllm",
    reasoning_key: "reasoning",
    named_tool_choice: true,
    logprobs_with_tools: true,
    format_beside_tools: false,
    template_kwargs: true,
    // any other value is answered with 400 (ls1intum/edutelligence#750)
    efforts: EFFORTS,
    budget_key: Some("thinking_token_budget"),
    continues_assistant: false,
    extra_keys: &[
        "add_generation_prompt",
        "cache_salt",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "ignore_eos",
        "include_reasoning",
        "kv_transfer_params",
        "logit_bias",
        "min_p",
        "min_tokens",
        "mm_processor_kwargs",
        "priority",
        "repetition_penalty",
        "seed",
        "skip_special_tokens",
        "stop",
        "stop_token_ids",
        "structured_outputs",
        "thinking_token_budget",
        "top_k",
        "vllm_xargs",
    ],
    always_streams: false,
    progress_key: None,
    slot_key: None,
    any_model: false,
    keeps_prompts: true,
    count_tokens: Some(("/tokenize", "count")),
};

/// SGLang, according to its documentation.
pub const SGLANG: Dialect = Dialect {
    name: "sglang",
    reasoning_key: "reasoning_content",
    named_tool_choice: true,
    logprobs_with_tools: true,
    format_beside_tools: false,
    template_kwargs: true,
    // "Input should be 'low', 'medium' or 'high'" (router-for-me/CLIProxyAPI#1572)
    efforts: &["low", "medium", "high"],
    budget_key: None,
    continues_assistant: false,
    extra_keys: &[
        "chat_template_kwargs",
        "continue_final_message",
        "custom_params",
        "ebnf",
        "ignore_eos",
        "logit_bias",
        "lora_path",
        "min_p",
        "min_tokens",
        "no_stop_trim",
        "priority",
        "regex",
        "repetition_penalty",
        "seed",
        "separate_reasoning",
        "skip_special_tokens",
        "stop",
        "stop_token_ids",
        "stream_reasoning",
        "top_k",
    ],
    always_streams: false,
    progress_key: None,
    slot_key: None,
    any_model: true,
    keeps_prompts: true,
    count_tokens: None,
};

/// Ollama's `/v1`, according to its documentation. It ignores `tool_choice`, so only a forced tool is shown.
pub const OLLAMA: Dialect = Dialect {
    name: "ollama",
    reasoning_key: "reasoning",
    named_tool_choice: false,
    logprobs_with_tools: true,
    format_beside_tools: false,
    template_kwargs: false,
    // every release accepts these; some also accept `max` or `xhigh`, none `minimal` (openai/openai.go, "invalid
    // reasoning value")
    efforts: &["none", "low", "medium", "high"],
    budget_key: None,
    continues_assistant: false,
    extra_keys: &["seed", "stop"],
    always_streams: false,
    progress_key: None,
    slot_key: None,
    any_model: false,
    keeps_prompts: true,
    count_tokens: None,
};

/// LM Studio, according to its documentation. `tool_choice` must be a string.
pub const LM_STUDIO: Dialect = Dialect {
    name: "lm_studio",
    reasoning_key: "reasoning_content",
    named_tool_choice: false,
    logprobs_with_tools: true,
    format_beside_tools: false,
    template_kwargs: false,
    // neither `minimal` nor `xhigh` and `max` (yoy123/lmstudio-copilot-provider#35)
    efforts: &["none", "low", "medium", "high"],
    budget_key: None,
    continues_assistant: false,
    extra_keys: &["draft_model", "logit_bias", "min_p", "repeat_penalty", "seed", "stop", "top_k", "ttl"],
    always_streams: false,
    progress_key: None,
    slot_key: None,
    any_model: false,
    keeps_prompts: true,
    count_tokens: None,
};

/// Any other Chat Completions server. It is never asked for anything that only some of them support.
pub const GENERIC: Dialect = Dialect {
    name: "generic",
    reasoning_key: "reasoning_content",
    named_tool_choice: true,
    logprobs_with_tools: true,
    format_beside_tools: false,
    template_kwargs: false,
    efforts: EFFORTS,
    budget_key: None,
    continues_assistant: false,
    extra_keys: &["logit_bias", "seed", "stop"],
    always_streams: false,
    progress_key: None,
    slot_key: None,
    any_model: false,
    keeps_prompts: false,
    count_tokens: None,
};

/// OpenAI's API, and services with the same behaviour.
pub const OPENAI: Dialect = Dialect { name: "openai", format_beside_tools: true, ..GENERIC };
