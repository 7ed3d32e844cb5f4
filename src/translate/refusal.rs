//! Owns the reading of an upstream's errors: its status and words in, one row of our table out. The words of
//! llama-server b11434 and vLLM 0.32 are known (WIRE.md 9.4); anything else is judged by its status.

use std::borrow::Cow;

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, Kind};
use crate::wire::json;
use crate::wire::known::elements;

/// Longest part of an upstream's message that a client is shown, in bytes.
const MESSAGE_LIMIT: usize = 4096;

#[derive(Debug, Default, Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    /// FastAPI's own
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    param: Option<&'a RawValue>,
}

/// OpenAI's words for an overflow: some clients know no others.
const OVERFLOW: &str = "Your input exceeds the context window of this model";
/// Some clients look for the code in the message alone.
const OVERFLOW_CODE: &str = "(context_length_exceeded)";

/// What an HTTP answer that is no success means. `body` may be anything.
pub fn from_http(status: StatusCode, body: &[u8]) -> Error {
    let text = std::str::from_utf8(body).ok();
    match text.and_then(|text| serde_json::from_str::<Body<'_>>(unlisted(text)).ok()) {
        Some(body) => judge(Some(status), &body),
        None => {
            let kind = match status.as_u16() {
                429 => Kind::RateLimited,
                503 => Kind::Unavailable,
                504 => Kind::Timeout,
                400..=499 => Kind::Rejected(status),
                _ => Kind::BadGateway,
            };
            let shown = String::from_utf8_lossy(body.get(..200).unwrap_or(body)).into_owned();
            Error::new(
                kind,
                format!("The upstream server answered with status {} and no JSON.", status.as_u16()),
            )
            .detail(shown)
        }
    }
}

/// What an error object within a stream (`data: {"error": ...}`) means; `raw` is the whole payload.
pub fn from_stream(raw: &str) -> Error {
    judge(None, &serde_json::from_str::<Body<'_>>(unlisted(raw)).unwrap_or_default())
}

/// The first of a list (Gemini), or what it is.
fn unlisted(text: &str) -> &str {
    elements(text).and_then(|list| list.first().map(|first| first.get())).unwrap_or(text)
}

/// An overflow, in OpenAI's words and in the server's.
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

/// Adds how many tokens the model has to the message of an overflow that does not say it.
pub fn add_context(message: &mut String, context: u64) {
    if !message.contains(&context.to_string()) {
        let words = message.strip_suffix(OVERFLOW_CODE).unwrap_or(message).trim_end();
        *message = overflow(&format!("{words} This model has {context} tokens of context."));
    }
}

fn judge(status: Option<StatusCode>, body: &Body<'_>) -> Error {
    let inner = body.error.and_then(|raw| serde_json::from_str::<Body<'_>>(raw.get()).ok());
    let body = inner.as_ref().unwrap_or(body);
    let text = |raw: Option<&RawValue>| raw.and_then(json::decode).map(Cow::into_owned);
    let message = text(body.message)
        .filter(|message| !message.is_empty())
        .or_else(|| body.error.and_then(json::decode).map(Cow::into_owned).filter(|m| !m.is_empty()))
        .or_else(|| {
            body.detail
                .map(|raw| json::decode(raw).map_or(raw.get().to_owned(), Cow::into_owned))
                .filter(|m| !m.is_empty())
        })
        .unwrap_or_else(|| "it reported an error without a message".to_owned());
    let message = shorten(message);
    let kind = text(body.r#type).unwrap_or_default();
    let param = text(body.param);
    let code = text(body.code).filter(|code| !code.is_empty() && code.parse::<u16>().is_err());
    let number = body.code.and_then(|raw| raw.get().trim_matches('"').parse::<u16>().ok());
    let status = status
        .or_else(|| number.and_then(|n| StatusCode::from_u16(n).ok()).filter(|status| status.as_u16() >= 400))
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);

    if is_overflow(&kind, code.as_deref(), &message) {
        return Error::new(Kind::ContextLength, overflow(&message)).param("input");
    }
    let row = match status.as_u16() {
        500 if code.is_some() => by_code(code.as_deref().unwrap_or_default(), &message),
        429 => Kind::RateLimited,
        503 => Kind::Unavailable,
        504 | 408 => Kind::Timeout,
        404 if message.to_ascii_lowercase().contains("model") => Kind::ModelNotFound,
        401 | 403 | 404 | 413 | 415 => Kind::Rejected(status),
        400..=499 => Kind::Rejected(StatusCode::BAD_REQUEST),
        _ if is_deterministic(&message) => Kind::Rejected(StatusCode::BAD_REQUEST),
        502 => Kind::BadGateway,
        _ => Kind::UpstreamFailed,
    };
    let message = match row {
        // alone, its words would be taken for ours: "Internal Server Error"
        Kind::UpstreamFailed => format!("The upstream server failed: {message}"),
        _ => message,
    };
    let mut error = Error::new(row, message);
    error.param = param.map(|param| ours(&param));
    error.code = code;
    error
}

/// What the `code` of a failed response says (WIRE.md 4), where there is no status.
fn by_code(code: &str, message: &str) -> Kind {
    match code {
        "rate_limit_exceeded" | "slow_down" | "insufficient_quota" => Kind::RateLimited,
        "server_is_overloaded" => Kind::Unavailable,
        "invalid_prompt" | "invalid_request_error" => Kind::Rejected(StatusCode::BAD_REQUEST),
        _ if is_deterministic(message) => Kind::Rejected(StatusCode::BAD_REQUEST),
        _ => Kind::UpstreamFailed,
    }
}

/// Our name of the field that the upstream names.
fn ours(param: &str) -> String {
    match param {
        "max_tokens" | "max_completion_tokens" => "max_output_tokens",
        "messages" => "input",
        "response_format" => "text.format",
        "reasoning_effort" => "reasoning.effort",
        other => other,
    }
    .to_owned()
}

/// The prompt does not fit; `max_tokens` beyond the model's length alone is a plain mistake in the request.
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
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// llama-server reports what is wrong with a request as 500 in places (every `std::runtime_error`); a client that
/// retried would get the same answer for ever.
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
        from_http(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn the_words_of_real_servers() {
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
            (413, "<html>too large</html>", 413, None),
            (500, r#"{"error":{"code":500,"message":"unexpected end of worker pipe"}}"#, 500, None),
            (500, r#"{"error":{"code":500,"message":"CUDA error: invalid argument"}}"#, 500, None),
            (429, "busy", 429, Some("rate_limit_exceeded")),
            (422, r#"{"detail":[{"loc":["body"],"msg":"x"}]}"#, 400, None),
        ] {
            let error = http(status, body);
            assert_eq!(error.status().as_u16(), want, "{body}");
            assert_eq!(error.code().as_deref(), code, "{body}");
            assert_eq!(error.retry_after().is_some(), matches!(want, 429 | 503), "{body}");
        }
    }

    #[test]
    fn an_overflow_is_told_in_the_words_that_clients_know() {
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
    }

    #[test]
    fn an_error_in_a_list_is_that_error_and_a_failure_is_the_servers() {
        let error =
            http(400, r#"[{"error":{"code":400,"message":"schema too deep","status":"INVALID_ARGUMENT"}}]"#);
        assert_eq!((error.status().as_u16(), error.message.as_str()), (400, "schema too deep"));
        let error = from_stream(r#"[{"error":{"code":503,"message":"overloaded"}}]"#);
        assert_eq!((error.status().as_u16(), error.message.as_str()), (503, "overloaded"));
        let error = http(500, r#"{"error":{"code":500,"message":"Internal Server Error"}}"#);
        assert_eq!(error.message, "The upstream server failed: Internal Server Error");
        assert_eq!(error.label(), "upstream_error");
        assert_eq!(http(500, "[]").label(), "upstream_error");
    }

    #[test]
    fn fields_have_our_names() {
        let error = http(400, r#"{"error":{"message":"m","param":"max_tokens","code":400}}"#);
        assert_eq!(error.param.as_deref(), Some("max_output_tokens"));
    }
}
