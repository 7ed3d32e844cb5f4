//! Owns what differs between the servers behind us, as data. It must not do anything: a quirk is a field here and
//! one `if` where it matters.

/// How one kind of server reads Chat Completions requests (docs/servers.md).
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    /// The name in logs, `doctor` and `upstream.dialect`.
    pub name: &'static str,
    /// Key of an assistant message under which earlier reasoning is given back.
    pub reasoning_key: &'static str,
    /// Whether `tool_choice` may be an object that names a function. llama-server b11434 reads any object as `auto`.
    pub named_tool_choice: bool,
    /// Whether `logprobs` may stand beside tools in a stream. llama-server answers 400.
    pub logprobs_with_tools: bool,
    /// Whether `response_format` beside tools binds the final text alone. llama-server (b11434, b11549) turns the format
    /// into a grammar for all that it writes, so that the model can call nothing, not even under `required`; vLLM (0.32)
    /// does so with `auto`, and answers a forced call with a message that begins with `<tool_call>`. With
    /// `tool_choice: "none"` both keep the tools in the prompt and the format in force.
    pub format_beside_tools: bool,
    /// Whether `chat_template_kwargs` is understood, which is how templates of the Qwen kind turn thinking off.
    pub template_kwargs: bool,
    /// Levels of `reasoning_effort` that it takes; any other is sent as the nearest of them.
    pub efforts: &'static [&'static str],
    /// Key of the request under which a thinking budget in tokens is understood.
    pub budget_key: Option<&'static str>,
    /// Whether an assistant message at the end of the history is continued in place of being answered, whatever
    /// `continue_final_message` and `add_generation_prompt` say (llama-server b11434, by `/apply-template`).
    pub continues_assistant: bool,
    /// Keys beyond the Responses documents that are passed on when a request has them at its top level.
    pub extra_keys: &'static [&'static str],
    /// Whether every chat request asks for a stream. llama-server b11434 notices a hang-up only when it writes: it goes
    /// on with an answer that nobody waits for to its very end.
    pub always_streams: bool,
    /// Key that asks for chunks with `prompt_progress` before the first token, which tell a long prefill from a
    /// server that hangs.
    pub progress_key: Option<&'static str>,
    /// Key that names the slot, and so the cached prompt, to use.
    pub slot_key: Option<&'static str>,
    /// Whether one model answers to every name.
    pub any_model: bool,
    /// Whether a prompt that was read stays in a cache, and reading it costs nobody money: a warm-up asks for one token.
    pub keeps_prompts: bool,
    /// Path that counts the prompt tokens of a chat request, and the member of its answer that holds the count.
    pub count_tokens: Option<(&'static str, &'static str)>,
}

/// They are told apart by their names.
impl PartialEq for Dialect {
    fn eq(&self, other: &Dialect) -> bool {
        self.name == other.name
    }
}

impl Eq for Dialect {}

/// The levels of OpenAI's own Chat Completions, the least first.
const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// llama.cpp's `llama-server`, as of b11434.
pub const LLAMA_SERVER: Dialect = Dialect {
    name: "llama_server",
    reasoning_key: "reasoning_content",
    named_tool_choice: false,
    logprobs_with_tools: false,
    format_beside_tools: false,
    template_kwargs: true,
    // the template sees the word as it came (ggml-org/llama.cpp#26941)
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
    // a literal of these seven, else 400 (ls1intum/edutelligence#750)
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

/// SGLang, by its documentation.
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

/// Ollama's `/v1`, by its documentation: `tool_choice` is not read there, so a forced tool is the only one shown.
pub const OLLAMA: Dialect = Dialect {
    name: "ollama",
    reasoning_key: "reasoning",
    named_tool_choice: false,
    logprobs_with_tools: true,
    format_beside_tools: false,
    template_kwargs: false,
    // its every release takes these; some take `max` or `xhigh` too, none `minimal` (openai/openai.go, "invalid
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

/// LM Studio, by its documentation: `tool_choice` takes words alone.
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

/// Any other server that speaks Chat Completions. What only some such servers can do, none is asked for.
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

/// OpenAI's own API, and what answers for it.
pub const OPENAI: Dialect = Dialect { name: "openai", format_beside_tools: true, ..GENERIC };
