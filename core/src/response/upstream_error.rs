//! Owns the reading of an upstream's errors: from a status and a body to one row of the error table. The messages of
//! llama-server b11434 and vLLM 0.32 are known (docs/servers.md); other errors are judged by their status. It must not
//! decide whether to retry.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, Kind};
use crate::wire::json;
use crate::wire::trusted_json::first_elements;

/// Longest part of an upstream's message that is passed on, in bytes.
const MESSAGE_LIMIT: usize = 4096;

/// Longest `code` and `param` that are passed on, in bytes.
const WORD_LIMIT: usize = 128;
/// How many characters of an error without a message are shown in its place.
const SHOWN_CHARACTERS: usize = 500;
/// How deeply errors may be nested.
const DEPTH: u32 = 8;
/// Elements of a list of errors that are read.
const MOST_LISTED: usize = 16;

#[derive(Debug, Default, Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    errors: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    /// FastAPI and problem+json.
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
    /// In an element of FastAPI's list.
    #[serde(borrow, default)]
    msg: Option<&'a RawValue>,
    #[serde(borrow, default)]
    loc: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error_message: Option<&'a RawValue>,
    /// OAuth, beside a code in `error`.
    #[serde(borrow, default)]
    error_description: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reason: Option<&'a RawValue>,
    /// AWS.
    #[serde(borrow, default, rename = "Message")]
    message_of_aws: Option<&'a RawValue>,
    /// Apigee.
    #[serde(borrow, default)]
    fault: Option<&'a RawValue>,
    #[serde(borrow, default)]
    faultstring: Option<&'a RawValue>,
    #[serde(borrow, default)]
    title: Option<&'a RawValue>,
    /// OpenRouter: the provider's error, in `raw`.
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    raw: Option<&'a RawValue>,
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
    #[serde(borrow, default)]
    param: Option<&'a RawValue>,
}

/// OpenAI's message for an overflow, the only one that some clients recognise.
const OVERFLOW: &str = "Your input exceeds the context window of this model";
/// Some clients search only the message for the code.
const OVERFLOW_CODE: &str = "(context_length_exceeded)";

/// What an error body contains, wherever it was found.
#[derive(Debug, Default)]
struct ParsedError {
    message: Option<String>,
    kind: Option<String>,
    code: Option<String>,
    param: Option<String>,
    /// A status inside the body.
    status: Option<u16>,
}

impl ParsedError {
    /// Fills in missing values from an enclosing error.
    fn or(self, outer: ParsedError) -> ParsedError {
        ParsedError {
            message: self.message.or(outer.message),
            kind: self.kind.or(outer.kind),
            code: self.code.or(outer.code),
            param: self.param.or(outer.param),
            status: self.status.or(outer.status),
        }
    }
}

/// The error for an HTTP response that is not a success. `body` may be anything.
pub fn from_http(status: u16, body: &[u8]) -> Error {
    let text = std::str::from_utf8(body).ok().map(str::trim);
    match text.and_then(|text| read(text, DEPTH).or_else(|| from_events(text)).or_else(|| plain_text(text))) {
        Some(mut parsed) => {
            parsed.message = parsed.message.or_else(|| as_message(text?));
            judge(Some(status), parsed)
        }
        None => {
            let kind = match status {
                429 => Kind::RateLimited,
                503 => Kind::Unavailable,
                504 => Kind::Timeout,
                400..=499 => Kind::Rejected(status),
                _ => Kind::BadGateway,
            };
            let shown = String::from_utf8_lossy(body.get(..200).unwrap_or(body)).into_owned();
            let message = format!("The upstream server answered with status {} and no message.", status);
            Error::new(kind, message).quoting(shown)
        }
    }
}

/// The error for an error object in a stream (`data: {"error": ...}`). `raw` is the whole payload.
pub fn from_stream(raw: &str) -> Error {
    judge(None, read(raw, DEPTH).unwrap_or_default())
}

/// Reads an error in JSON: an object, a list of errors, or a string.
fn read(text: &str, depth: u32) -> Option<ParsedError> {
    let depth = depth.checked_sub(1)?;
    match text.as_bytes().first()? {
        b'{' => serde_json::from_str::<Body<'_>>(text).ok().map(|body| object(&body, depth)),
        b'[' => {
            let list: &RawValue = serde_json::from_str(text).ok()?;
            let (list, _) = first_elements(list.get(), MOST_LISTED)?;
            let parsed = list.into_iter().filter_map(|raw| read(raw.get(), depth));
            parsed.filter(|parsed| parsed.message.is_some()).reduce(combine)
        }
        b'"' => {
            let raw: &RawValue = serde_json::from_str(text).ok()?;
            let text = json::decode(raw)?;
            // JSON inside a string
            let inner = text.trim().starts_with(['{', '[']).then(|| read(text.trim(), depth)).flatten();
            inner.filter(|parsed| parsed.message.is_some()).or_else(|| plain_text(&text))
        }
        _ => None,
    }
}

/// Combines two errors of a list: the first one, with both messages.
fn combine(first: ParsedError, other: ParsedError) -> ParsedError {
    let words = first.message.unwrap_or_default();
    let message = match other.message {
        Some(other) if !words.contains(&other) && words.len() < MESSAGE_LIMIT => format!("{words}; {other}"),
        _ => words,
    };
    ParsedError { message: Some(message), ..first }
}

/// The error for a payload that has a message but nothing of a chunk. Some servers mark an error only by the event's
/// name, or not at all.
pub fn from_bare_object(raw: &str) -> Option<Error> {
    let body: Body<'_> = serde_json::from_str(raw).ok()?;
    let words = [body.message, body.detail, body.error_message].into_iter().flatten();
    let says = words.into_iter().any(|raw| json::literal(raw).is_some_and(|text| !text.trim().is_empty()));
    says.then(|| from_stream(raw))
}

fn object(body: &Body<'_>, depth: u32) -> ParsedError {
    let word = |raw: Option<&RawValue>| {
        let word = raw.and_then(json::decode).filter(|word| !word.is_empty() && word.len() <= WORD_LIMIT);
        word.filter(|word| !word.contains(char::is_control)).map(Cow::into_owned)
    };
    let number = |raw: Option<&RawValue>| {
        let number = raw.and_then(|raw| raw.get().trim_matches('"').parse::<u16>().ok());
        number.filter(|status| (400..1000).contains(status))
    };
    let found = |raw: Option<&RawValue>| raw.and_then(|raw| read(raw.get(), depth));
    let message = |raw: Option<&RawValue>| found(raw).and_then(|parsed| parsed.message);
    let mut parsed = ParsedError {
        message: [body.message, body.msg, body.error_message, body.message_of_aws, body.faultstring]
            .into_iter()
            .find_map(message),
        kind: word(body.r#type),
        code: word(body.code).filter(|code| code.parse::<u16>().is_err()),
        param: word(body.param).or_else(|| field_path(body.loc?)),
        status: number(body.code).or(number(body.status)),
    };
    // a router adds the provider's message beside its own
    if let Some(provider) = found(body.metadata).or_else(|| found(body.raw)) {
        let both = match (parsed.message.take(), &provider.message) {
            (Some(own), Some(inner)) if !own.contains(&**inner) => Some(format!("{own}: {inner}")),
            (own, inner) => own.or_else(|| inner.clone()),
        };
        parsed = ParsedError {
            message: both,
            kind: provider.kind.or(parsed.kind),
            code: provider.code.or(parsed.code),
            ..parsed
        };
    }
    for inner in [body.error, body.errors, body.detail, body.fault] {
        if let Some(inner) = found(inner) {
            parsed = inner.or(parsed);
        }
    }
    if let Some(description) = message(body.error_description) {
        parsed.message = Some(description);
    }
    parsed.or(ParsedError {
        message: message(body.title).or_else(|| message(body.reason)),
        ..ParsedError::default()
    })
}

/// The field of the request that FastAPI complains about: `["body","messages",0]`.
fn field_path(loc: &RawValue) -> Option<String> {
    let parts: Vec<&RawValue> = serde_json::from_str(loc.get()).ok()?;
    let parts: Vec<&str> = parts.iter().map(|part| part.get().trim_matches('"')).collect();
    let path = parts.strip_prefix(&["body"]).unwrap_or(&parts).join(".");
    (!path.is_empty() && path.len() <= WORD_LIMIT).then_some(path)
}

/// Reads an error sent as events although the request asked for no stream.
fn from_events(text: &str) -> Option<ParsedError> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    data.take(MOST_LISTED).find_map(|data| read(data.trim(), DEPTH).filter(|parsed| parsed.message.is_some()))
}

/// Takes a plain text message. Markup is meant for browsers, and says less than the status.
fn plain_text(text: &str) -> Option<ParsedError> {
    let text = text.trim();
    let markup = text.starts_with('<') || text.to_ascii_lowercase().contains("<html");
    let unreadable = text.starts_with(['{', '[']) || text.contains('\0');
    if text.is_empty() || markup || unreadable {
        return None;
    }
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let words: String = text.chars().take(MESSAGE_LIMIT).map(clean).collect();
    Some(ParsedError { message: Some(words), ..ParsedError::default() })
}

/// The JSON of an error without a message, shortened: better than no message at all.
fn as_message(text: &str) -> Option<String> {
    let compact = json::minify(text);
    let words: String =
        compact.chars().take(SHOWN_CHARACTERS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    (words.len() > 2).then_some(words)
}

/// The message of an overflow: OpenAI's words, followed by the server's.
fn overflow(words: &str) -> String {
    let words = match words.strip_suffix(OVERFLOW_CODE) {
        Some(words) => words.trim_end(),
        None => words,
    };
    match words.starts_with(OVERFLOW) {
        true => format!("{words} {OVERFLOW_CODE}"),
        false => format!("{OVERFLOW}. {words} {OVERFLOW_CODE}"),
    }
}

/// Adds the model's context length in tokens to the message of an overflow, unless it is there already.
pub fn add_context(message: &mut String, context: u64) {
    if !message.contains(&context.to_string()) {
        let words = message.strip_suffix(OVERFLOW_CODE).unwrap_or(message);
        let words = words.trim_end_matches([' ', ':', ',', ';']);
        let stop = if words.ends_with(['.', '!', '?']) { "" } else { "." };
        *message = overflow(&format!("{words}{stop} This model has {context} tokens of context."));
    }
}

fn judge(status: Option<u16>, parsed: ParsedError) -> Error {
    let message = parsed.message.unwrap_or_else(|| "it reported an error without a message".to_owned());
    let message = shorten(message);
    let (kind, param, code) = (parsed.kind.unwrap_or_default(), parsed.param, parsed.code);
    let status = status.or(parsed.status).unwrap_or(500);

    if is_overflow(&kind, code.as_deref(), &message) {
        return Error::new(Kind::ContextLength, overflow(&message)).param("input");
    }
    let row = match status {
        500 if code.is_some() => by_code(code.as_deref().unwrap_or_default(), &message),
        429 => Kind::RateLimited,
        503 => Kind::Unavailable,
        504 | 408 => Kind::Timeout,
        404 if message.to_ascii_lowercase().contains("model") => Kind::ModelNotFound,
        400 if is_unknown_model(&message) => Kind::ModelNotFound,
        401 | 403 | 404 | 413 | 415 => Kind::Rejected(status),
        400..=499 => Kind::Rejected(400),
        _ if is_deterministic(&message) => Kind::Rejected(400),
        502 => Kind::BadGateway,
        _ => Kind::UpstreamFailed,
    };
    let message = match row {
        // by themselves, words such as "Internal Server Error" would seem to be the proxy's
        Kind::UpstreamFailed => format!("The upstream server failed: {message}"),
        _ => message,
    };
    let mut error = Error::new(row, message);
    error.param = param.map(|param| responses_name(&param));
    error.code = code;
    error
}

/// The kind for the `code` of a failed response, which has no status.
fn by_code(code: &str, message: &str) -> Kind {
    match code {
        "rate_limit_exceeded" | "slow_down" | "insufficient_quota" => Kind::RateLimited,
        "server_is_overloaded" => Kind::Unavailable,
        "invalid_prompt" | "invalid_request_error" => Kind::Rejected(400),
        _ if is_deterministic(message) => Kind::Rejected(400),
        _ => Kind::UpstreamFailed,
    }
}

/// The Responses name of a field of the chat request.
fn responses_name(param: &str) -> String {
    match param {
        "max_tokens" | "max_completion_tokens" => "max_output_tokens",
        "messages" => "input",
        "response_format" => "text.format",
        "reasoning_effort" => "reasoning.effort",
        other => other,
    }
    .to_owned()
}

/// Whether the prompt does not fit. A `max_tokens` beyond the model's length is an ordinary invalid value instead.
fn is_overflow(kind: &str, code: Option<&str>, message: &str) -> bool {
    if kind == "exceed_context_size_error" || code == Some("context_length_exceeded") {
        return true;
    }
    let message = message.to_ascii_lowercase();
    [
        "maximum context length",
        "exceeds the available context size",
        "context length exceeded",
        "context_length_exceeded",
        "exceeds the context window",
        "exceed context window",
        "context window exceeded",
        "prompt is too long",
        "input is too long",
        "longer than the model's context length",
        "longer than the maximum model length",
        "exceeds the model's maximum context",
        // Ollama
        "exceeds the context length",
        "exceeded max context length",
        "prompt too long",
        // LM Studio
        "context length of only",
        "greater than the context length",
        // xAI; then SGLang and others
        "maximum prompt length",
        "maximum sequence length",
        // MiniMax, Kimi, GLM
        "context window exceeds",
        "exceeded model token limit",
        "prompt exceeds max length",
        "model_context_window_exceeded",
        // Text Generation Inference, TensorRT-LLM
        "`inputs` tokens + `max_new_tokens` must be",
        "should not exceed max_num_tokens",
        // Anthropic, Azure
        "exceed context limit",
        "input tokens exceed the configured limit",
        "input length and `max_tokens`",
        // a provider's exception class in LiteLLM
        "contextwindowexceedederror",
    ]
    .iter()
    .any(|words| message.contains(words))
        // Gemini and GitHub Copilot name both numbers
        || message.contains("token count") && message.contains("exceeds the")
}

/// Whether the model is unknown, which these report as 400: llama-server in router mode, LiteLLM, OpenRouter, OpenAI.
fn is_unknown_model(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.starts_with("model '") && message.ends_with("' not found")
        || message.contains("invalid model name passed in model=")
        || message.contains(" is not a valid model id")
        || message.starts_with("the model ") && message.contains(" does not exist")
}

/// Whether retrying cannot help. llama-server reports some invalid requests as 500 (every `std::runtime_error`), and a
/// client would retry them forever.
fn is_deterministic(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "jinja",
        "chat template",
        "roles must alternate",
        "system message must be",
        "json schema",
        "json_schema",
        "grammar",
        "json.exception",
        "failed to parse",
        "'type' of tool",
        "missing tool call",
        "missing 'content'",
        "expected '",
        "unsupported content",
        "unsupported param",
        "invalid tool",
        "invalid type",
        "invalid role",
        "invalid message",
        "invalid param",
        "input is not supported",
        "not supported by",
        "mmproj",
    ]
    .iter()
    .any(|words| message.contains(words))
}

fn shorten(mut message: String) -> String {
    if message.len() > MESSAGE_LIMIT {
        let mut end = MESSAGE_LIMIT;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(status: u16, body: &str) -> Error {
        from_http(status, body.as_bytes())
    }

    #[test]
    fn messages_of_real_servers() {
        for (status, body, want, code) in [
            (
                400,
                r#"{"error":{"code":400,"message":"request (20024 tokens) exceeds the available context size (8192 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":20024,"n_ctx":8192}}"#,
                400,
                Some("context_length_exceeded"),
            ),
            (
                503,
                r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#,
                503,
                None,
            ),
            (
                400,
                r#"{"error":{"message":"This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens, ...","type":"BadRequestError","param":"input_tokens","code":400}}"#,
                400,
                Some("context_length_exceeded"),
            ),
            (
                400,
                r#"{"error":{"message":"max_tokens=5000 cannot be greater than max_model_len=4096. Please request fewer output tokens. (parameter=max_tokens, value=5000)","type":"BadRequestError","param":"max_tokens","code":400}}"#,
                400,
                None,
            ),
            (
                404,
                r#"{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}}"#,
                404,
                Some("model_not_found"),
            ),
            (
                400,
                r#"{"error":{"code":400,"message":"model 'x' not found","type":"invalid_request_error"}}"#,
                404,
                Some("model_not_found"),
            ),
            (
                400,
                r#"{"error":{"message":{"error":"/chat/completions: Invalid model name passed in model=x. Call `/v1/models` to view available models for your key."},"type":"None","param":"None","code":"400"}}"#,
                404,
                Some("model_not_found"),
            ),
            (
                400,
                r#"{"error":{"message":"x/y:free is not a valid model ID","code":400},"user_id":"u"}"#,
                404,
                Some("model_not_found"),
            ),
            (400, r#"{"error":{"message":"the tool for this model was not found"}}"#, 400, None),
            (
                500,
                r#"{"error":{"code":500,"message":"Jinja Exception: Conversation roles must alternate","type":"server_error"}}"#,
                400,
                None,
            ),
            (
                500,
                r#"{"error":{"code":500,"message":"CUDA out of memory","type":"server_error"}}"#,
                500,
                None,
            ),
            (502, "<html>bad</html>", 502, None),
            (500, "<html>bad</html>", 502, None),
            (500, "<!DOCTYPE html>\n<title>x</title>", 502, None),
            (502, "", 502, None),
            (400, "prompt is too long: 9 tokens", 400, Some("context_length_exceeded")),
            (400, "input length exceeds the context length", 400, Some("context_length_exceeded")),
            (
                400,
                "Trying to keep the first 9000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough",
                400,
                Some("context_length_exceeded"),
            ),
            (
                400,
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
                400,
                Some("context_length_exceeded"),
            ),
            (
                400,
                "prompt token count of 130000 exceeds the limit of 128000",
                400,
                Some("context_length_exceeded"),
            ),
            (
                400,
                "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
                400,
                Some("context_length_exceeded"),
            ),
            (
                400,
                "input length 9000 exceeds maximum sequence length 8192",
                400,
                Some("context_length_exceeded"),
            ),
            (
                400,
                "invalid params, context window exceeds limit (2013)",
                400,
                Some("context_length_exceeded"),
            ),
            (
                400,
                "Invalid request: Your request exceeded model token limit: 131072",
                400,
                Some("context_length_exceeded"),
            ),
            (400, "Prompt exceeds max length", 400, Some("context_length_exceeded")),
            (
                400,
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 20 `max_new_tokens`",
                400,
                Some("context_length_exceeded"),
            ),
            (
                400,
                "The sum of prompt length (9000.0), query length (0) should not exceed max_num_tokens (8192)",
                400,
                Some("context_length_exceeded"),
            ),
            (
                400,
                "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
                400,
                Some("context_length_exceeded"),
            ),
            (
                400,
                "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.",
                400,
                Some("context_length_exceeded"),
            ),
            (
                400,
                "prompt too long; exceeded max context length by 4 tokens",
                400,
                Some("context_length_exceeded"),
            ),
            (
                429,
                "Rate limit reached for tokens per minute (TPM): Limit 8000, Requested 9000",
                429,
                Some("rate_limit_exceeded"),
            ),
            (400, "the token count has to be a number", 400, None),
            (413, "<html>too large</html>", 413, None),
            (500, r#"{"error":{"code":500,"message":"unexpected end of worker pipe"}}"#, 500, None),
            (500, r#"{"error":{"code":500,"message":"CUDA error: invalid argument"}}"#, 500, None),
            (429, "busy", 429, Some("rate_limit_exceeded")),
            (422, r#"{"detail":[{"loc":["body"],"msg":"x"}]}"#, 400, None),
        ] {
            let error = http(status, body);
            assert_eq!(error.status(), want, "{body}");
            assert_eq!(error.code().as_deref(), code, "{body}");
            assert_eq!(error.retry_after().is_some(), matches!(want, 429 | 503), "{body}");
        }
    }

    #[test]
    fn an_overflow_has_the_message_that_clients_know() {
        for (words, want) in [
            (
                "request (20024 tokens) exceeds the available context size (8192 tokens)",
                "Your input exceeds the context window of this model. request (20024 tokens) exceeds the available context size (8192 tokens) (context_length_exceeded)",
            ),
            (
                "prompt is too long (context_length_exceeded)",
                "Your input exceeds the context window of this model. prompt is too long (context_length_exceeded)",
            ),
            (
                "Your input exceeds the context window of this model. Please adjust your input and try again.",
                "Your input exceeds the context window of this model. Please adjust your input and try again. (context_length_exceeded)",
            ),
        ] {
            let error = http(400, &format!(r#"{{"error":{{"message":"{words}"}}}}"#));
            assert_eq!(error.message, want);
        }
        let mut error = http(400, r#"{"error":{"message":"Prompt is too long."}}"#);
        add_context(&mut error.message, 8192);
        let want = "Your input exceeds the context window of this model. Prompt is too long. This model has 8192 tokens of context. (context_length_exceeded)";
        assert_eq!(error.message, want);
        add_context(&mut error.message, 8192);
        assert_eq!(error.message, want);
        for (words, ended) in [
            ("too long, try less", "too long, try less."),
            ("too long!", "too long!"),
            ("too long: ", "too long."),
        ] {
            let mut error = http(400, &format!(r#"{{"error":{{"message":"prompt is {words}"}}}}"#));
            add_context(&mut error.message, 8192);
            let want = format!("prompt is {ended} This model has 8192 tokens of context. {OVERFLOW_CODE}");
            assert_eq!(error.message, format!("{OVERFLOW}. {want}"));
        }
    }

    #[test]
    fn an_error_in_a_list_is_read_and_a_failure_names_the_server() {
        let error =
            http(400, r#"[{"error":{"code":400,"message":"schema too deep","status":"INVALID_ARGUMENT"}}]"#);
        assert_eq!((error.status(), error.message.as_str()), (400, "schema too deep"));
        let error = from_stream(r#"[{"error":{"code":503,"message":"overloaded"}}]"#);
        assert_eq!((error.status(), error.message.as_str()), (503, "overloaded"));
        let error = http(500, r#"{"error":{"code":500,"message":"Internal Server Error"}}"#);
        assert_eq!(error.message, "The upstream server failed: Internal Server Error");
        assert_eq!(error.label(), "upstream_error");
        assert_eq!(http(500, "[]").label(), "upstream_error");
    }

    #[test]
    fn fields_have_responses_names() {
        let error = http(400, r#"{"error":{"message":"m","param":"max_tokens","code":400}}"#);
        assert_eq!(error.param.as_deref(), Some("max_output_tokens"));
    }
    #[test]
    fn a_message_is_found_in_every_form() {
        for body in [
            r#"[{"error":{"code":400,"message":"the message","status":"INVALID_ARGUMENT"}}]"#,
            r#"{"detail":"the message"}"#,
            r#"{"message":"the message"}"#,
            "the message",
            r#"{"error":"the message"}"#,
            r#"{"error":{"message":"","metadata":{"raw":"{\"error\":{\"message\":\"the message\"}}"}}}"#,
            // the same kinds in other forms
            r#"[[{"message":"the message"}]]"#,
            r#"{"detail":[{"type":"missing","loc":["body","messages"],"msg":"the message"}]}"#,
            r#"{"detail":{"error":{"message":"the message"}}}"#,
            r#"{"type":"about:blank","title":"Bad Request","detail":"the message","status":400}"#,
            r#"{"title":"the message"}"#,
            r#"{"errors":[{"message":"the message"}]}"#,
            r#"{"error":{"error":{"message":"the message"}}}"#,
            r#"{"error":"{\"message\":\"the message\"}"}"#,
            r#"{"error_message":"the message"}"#,
            r#"{"error":{"message":{"detail":"the message"}}}"#,
            r#""the message""#,
            "event: error\ndata: {\"error\":{\"message\":\"the message\"}}\n\n",
            "  the\tmessage\r\n",
            r#"{"reason":"the message","status":"fail"}"#,
            r#"{"Message":"the message"}"#,
            r#"{"fault":{"faultstring":"the message","detail":{"errorcode":"x"}}}"#,
            r#"{"error":"invalid_token","error_description":"the message"}"#,
        ] {
            assert_eq!(http(400, body).message, "the message", "{body}");
        }
        let both = r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"it is too warm","provider_name":"P"}}}"#;
        assert_eq!(http(400, both).message, "Provider returned error: it is too warm");
        let provider = r#"{"error":{"message":"Provider returned error","metadata":{"raw":"{\"error\":{\"message\":\"no\",\"code\":\"context_length_exceeded\"}}"}}}"#;
        assert_eq!(http(400, provider).code().as_deref(), Some("context_length_exceeded"));
        assert_eq!(http(400, r#"{"detail":["no","such","no"]}"#).message, "no; such");
        let unnamed = http(422, r#"{"errors": {"model": ["is invalid"]}}"#);
        assert_eq!(unnamed.message, r#"{"errors":{"model":["is invalid"]}}"#);
        // in a stream as well
        assert_eq!(from_stream(both).message, "Provider returned error: it is too warm");
        assert_eq!(from_stream(provider).code().as_deref(), Some("context_length_exceeded"));
        assert_eq!(from_stream(r#"{"error":"Model is unloaded"}"#).kind, Kind::UpstreamFailed);
        assert!(from_stream(r#"{"detail":"the message"}"#).message.ends_with("the message"));
        let field = http(422, r#"{"detail":[{"loc":["body","temperature"],"msg":"too warm"}]}"#);
        assert_eq!(field.param.as_deref(), Some("temperature"));
        for body in
            ["<html><body>the message</body></html>", "<?xml version='1.0'?><Error/>", "\0\u{1}", "{}x"]
        {
            assert!(http(400, body).message.contains("status 400 and no message"), "{body}");
        }
        let deep = format!("{}\"x\"{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(http(400, &deep).message.contains("no message"));
        let long = format!(r#"{{"error":{{"message":"m","code":"{0}","param":"{0}"}}}}"#, "c".repeat(1000));
        assert_eq!((http(400, &long).code, http(400, &long).param), (None, None));
    }
}
