//! Owns every way in which a request can fail, and the one table from kind to status, `type` and `code`. Text for the
//! client (`message`) and text for the log (`detail`) are separate. It must not send anything.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::wire::json;

/// Who caused a failure. Decides the log level, and a label in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The client: the request cannot be served as it is.
    Client,
    /// The upstream server failed or refused.
    Upstream,
    /// Rejoinder itself failed.
    Internal,
}

/// What went wrong. `Kind::row` is the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The body is not JSON.
    InvalidJson,
    /// A known field has the wrong JSON type.
    InvalidType,
    /// A known field has a value outside its range.
    InvalidValue,
    /// A required field is absent.
    MissingParameter,
    /// A field that would change the answer is not supported.
    UnsupportedParameter,
    /// Two fields exclude each other.
    MutuallyExclusive,
    /// Another item has the same id.
    DuplicateItem,
    /// An output answers no call of the stored history.
    OrphanOutput,
    /// `previous_response_id` names nothing that this caller stored.
    PreviousResponseNotFound,
    /// `item_reference` or `conversation` names nothing that this caller stored.
    ItemNotFound,
    /// There is no such path or stored object.
    NotFound,
    /// The path exists, but not for this method.
    MethodNotAllowed,
    /// The body exceeds `max_body_bytes`.
    BodyTooLarge,
    /// All of `max_buffered_bytes` is in use by other requests.
    OverCapacity,
    /// The body has a `Content-Encoding` that is not supported.
    UnsupportedEncoding,
    /// The body has a `Content-Type` that a web page can send without CORS permission.
    UnsupportedType,
    /// The request has no API key, or an unknown one.
    Unauthorized,
    /// The configuration does not allow this caller, or this path.
    Forbidden,
    /// The request is not valid HTTP.
    BadRequest,
    /// A WebSocket upgrade: Codex falls back to HTTP at once on 426 (docs/clients.md).
    UpgradeRequired,
    /// The client disconnected before its body was complete.
    ClientGone,
    /// The client stopped sending its body.
    BodyStalled,
    /// Another 4xx from the upstream, with its status.
    Rejected(u16),
    /// The prompt does not fit the model's context.
    ContextLength,
    /// The upstream does not have the model.
    ModelNotFound,
    /// 429 from the upstream.
    RateLimited,
    /// 503 from the upstream, or no upstream is reachable.
    Unavailable,
    /// The upstream's answer is not a Chat Completions answer.
    BadGateway,
    /// The upstream sent nothing for longer than allowed.
    Timeout,
    /// The upstream reported an error while it generated.
    UpstreamFailed,
    /// The server shut down before the stream ended.
    ShuttingDown,
    /// This process has no file descriptor left for the request.
    NoDescriptor,
    /// The store is not reachable.
    StoreUnavailable,
    /// A defect of Rejoinder.
    Internal,
}

/// The `x-ratelimit-*` headers of an upstream: names and values.
#[derive(Debug, Clone)]
pub struct RateLimits(pub Vec<(String, Vec<u8>)>);

/// A failed request: what the client gets, and what is only logged.
#[derive(Debug, Clone)]
pub struct Error {
    /// Selects the row of the table.
    pub kind: Kind,
    /// Text for the client; names the field at fault, if there is one.
    pub message: String,
    /// The field at fault, as a path: `tools[2].name`.
    pub param: Option<String>,
    /// Overrides the table's code, usually with the upstream's.
    pub code: Option<String>,
    /// Overrides the default of `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The upstream's rate limit headers, passed on to the client.
    pub limits: Option<Box<RateLimits>>,
    /// Text for the log only.
    pub detail: Option<Box<Detail>>,
}

/// Text for the log.
#[derive(Debug, Clone)]
pub enum Detail {
    /// It has nothing of a prompt or an answer.
    Own(String),
    /// What an upstream sent. It may hold a part of a prompt or an answer, as the message of an error may.
    Quoted(String),
}

/// `type` and `code` of OpenAI's error object, and the code for `response.failed`.
struct Row {
    origin: Origin,
    status: u16,
    r#type: &'static str,
    code: Option<&'static str>,
    failed_code: &'static str,
}

impl Kind {
    /// The table. Statuses and codes: docs/protocol.md 8; what Codex does on each: docs/clients.md. A deterministic
    /// refusal becomes `invalid_prompt` in `response.failed`, because Codex retries every code that it does not know.
    fn row(self) -> Row {
        use Origin::{Client, Internal, Upstream};
        const BAD: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        const LIMIT: (&str, &str) = ("rate_limit_error", "rate_limit_exceeded");
        let (origin, status, r#type, code, failed_code) = match self {
            Kind::InvalidJson => (Client, 400, BAD, Some("invalid_json"), "invalid_prompt"),
            Kind::InvalidType => (Client, 400, BAD, Some("invalid_type"), "invalid_prompt"),
            Kind::InvalidValue => (Client, 400, BAD, Some("invalid_value"), "invalid_prompt"),
            Kind::MissingParameter => {
                (Client, 400, BAD, Some("missing_required_parameter"), "invalid_prompt")
            }
            Kind::UnsupportedParameter => (Client, 400, BAD, Some("unsupported_parameter"), "invalid_prompt"),
            Kind::MutuallyExclusive => {
                (Client, 400, BAD, Some("mutually_exclusive_parameters"), "invalid_prompt")
            }
            Kind::DuplicateItem | Kind::OrphanOutput | Kind::ItemNotFound | Kind::BadRequest => {
                (Client, 400, BAD, None, "invalid_prompt")
            }
            Kind::PreviousResponseNotFound => {
                (Client, 400, BAD, Some("previous_response_not_found"), "previous_response_not_found")
            }
            Kind::NotFound => (Client, 404, BAD, None, "invalid_prompt"),
            Kind::MethodNotAllowed => (Client, 405, BAD, None, "invalid_prompt"),
            Kind::BodyTooLarge => (Client, 413, BAD, Some("request_too_large"), "invalid_prompt"),
            Kind::OverCapacity => (Client, 429, LIMIT.0, Some(LIMIT.1), LIMIT.1),
            Kind::UnsupportedEncoding => {
                (Client, 415, BAD, Some("unsupported_content_encoding"), "invalid_prompt")
            }
            Kind::UnsupportedType => (Client, 415, BAD, Some("unsupported_content_type"), "invalid_prompt"),
            Kind::Unauthorized => (Client, 401, BAD, Some("invalid_api_key"), "invalid_prompt"),
            Kind::Forbidden => (Client, 403, "permission_error", None, "invalid_prompt"),
            Kind::UpgradeRequired => (Client, 426, BAD, Some("upgrade_required"), "invalid_prompt"),
            Kind::ClientGone => (Client, 400, BAD, None, "server_error"),
            Kind::BodyStalled => (Client, 408, BAD, Some("request_timeout"), "server_error"),
            Kind::Rejected(status) => {
                let kind = if status == 403 { "permission_error" } else { BAD };
                let code = (status == 401).then_some("invalid_api_key");
                (Upstream, status, kind, code, "invalid_prompt")
            }
            Kind::ContextLength => {
                (Upstream, 400, BAD, Some("context_length_exceeded"), "context_length_exceeded")
            }
            Kind::ModelNotFound => (Upstream, 404, BAD, Some("model_not_found"), "invalid_prompt"),
            Kind::RateLimited => (Upstream, 429, LIMIT.0, Some(LIMIT.1), LIMIT.1),
            Kind::Unavailable => (Upstream, 503, "service_unavailable_error", None, SERVER),
            Kind::BadGateway => (Upstream, 502, SERVER, None, SERVER),
            Kind::Timeout => (Upstream, 504, SERVER, None, SERVER),
            Kind::UpstreamFailed => (Upstream, 500, SERVER, None, SERVER),
            Kind::ShuttingDown => (Internal, 503, "service_unavailable_error", None, SERVER),
            Kind::NoDescriptor => {
                (Internal, 503, "service_unavailable_error", Some("out_of_file_descriptors"), SERVER)
            }
            Kind::StoreUnavailable => (Internal, 503, "service_unavailable_error", None, SERVER),
            Kind::Internal => (Internal, 500, SERVER, None, SERVER),
        };
        Row { origin, status, r#type, code, failed_code }
    }
}

impl Error {
    /// An error of `kind` with a text for the client.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
            param: None,
            code: None,
            retry_after: None,
            limits: None,
            detail: None,
        }
    }

    /// The error for a lack of file descriptors in this process.
    pub fn no_descriptor() -> Self {
        let message =
            "Rejoinder has no file descriptor left for this request; its limit is too low (ulimit -n).";
        Error::new(Kind::NoDescriptor, message)
    }

    /// The error for a client that sent nothing of its body for `pause`.
    pub fn body_stalled(pause: Duration) -> Self {
        let message =
            format!("No data of the request body arrived for {} s (body_timeout).", pause.as_secs_f64());
        Error::new(Kind::BodyStalled, message)
    }

    /// The error for an id that another item has, in OpenAI's words.
    pub fn duplicate_item(id: &str) -> Self {
        let message = format!(
            "Duplicate item found with id {id}. Remove duplicate items from your input and try again."
        );
        Error::new(Kind::DuplicateItem, message)
    }

    /// Sets the field at fault.
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Overrides the table's code.
    pub fn code_as(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Sets the text for the log.
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(Box::new(Detail::Own(detail.to_string())));
        self
    }

    /// Sets what an upstream sent.
    pub fn quoting(mut self, text: impl fmt::Display) -> Self {
        self.detail = Some(Box::new(Detail::Quoted(text.to_string())));
        self
    }

    /// Who caused the failure.
    pub fn origin(&self) -> Origin {
        self.kind.row().origin
    }

    /// The HTTP status, for a response whose headers have not been sent.
    pub fn status(&self) -> u16 {
        self.kind.row().status
    }

    /// The `type` of the error object.
    pub fn r#type(&self) -> &'static str {
        self.kind.row().r#type
    }

    /// The `code` of the error object: a string or null, never a number (async-openai fails on llama-server's 400).
    pub fn code(&self) -> Option<Cow<'_, str>> {
        match &self.code {
            Some(code) => Some(Cow::Borrowed(code)),
            None => self.kind.row().code.map(Cow::Borrowed),
        }
    }

    /// A metric label: the table's code or type, never the upstream's. Internal failures and the upstream's have
    /// different labels.
    pub fn label(&self) -> &'static str {
        let row = self.kind.row();
        match (row.code, row.origin, row.r#type) {
            (Some(code), _, _) => code,
            (None, Origin::Upstream, "server_error") => "upstream_error",
            (None, _, r#type) => r#type,
        }
    }

    /// The message for the last events of a stream. If a retry may succeed, it says so in the words that clients look
    /// for.
    pub fn retry_message(&self) -> Cow<'_, str> {
        if self.is_final() {
            return Cow::Borrowed(&self.message);
        }
        let end = if self.message.ends_with(['.', '!', '?']) { "" } else { "." };
        let code = match self.kind {
            Kind::RateLimited => "rate_limit_exceeded",
            _ => "server_error",
        };
        Cow::Owned(format!("{}{end} You can retry your request. ({code})", self.message))
    }

    /// The `code` in `response.failed`, which must not be null.
    pub fn failed_code(&self) -> &str {
        self.code.as_deref().unwrap_or(self.kind.row().failed_code)
    }

    /// `Retry-After` in seconds. Always present for 429 and 503, because Codex gives up at once on a 429 without it.
    pub fn retry_after(&self) -> Option<u64> {
        let wanted = self.retry_after.map(|d| d.as_secs().max(1));
        wanted.or(match self.kind {
            Kind::RateLimited => Some(5),
            Kind::OverCapacity
            | Kind::Unavailable
            | Kind::ShuttingDown
            | Kind::NoDescriptor
            | Kind::StoreUnavailable => Some(2),
            _ => None,
        })
    }

    /// Whether the same request would fail again in the same way, for `x-should-retry: false`.
    pub fn is_final(&self) -> bool {
        !matches!(
            self.kind,
            Kind::RateLimited
                | Kind::OverCapacity
                | Kind::Unavailable
                | Kind::BadGateway
                | Kind::Timeout
                | Kind::UpstreamFailed
                | Kind::ShuttingDown
                | Kind::NoDescriptor
                | Kind::StoreUnavailable
                | Kind::ClientGone
                | Kind::BodyStalled
        )
    }

    /// Appends the error object with all four keys: `{"message":..,"type":..,"param":..,"code":..}`.
    pub fn write_object(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"message\":");
        json::push_string(out, &self.message);
        out.extend_from_slice(b",\"type\":");
        json::push_string(out, self.r#type());
        out.extend_from_slice(b",\"param\":");
        json::push_option(out, self.param.as_deref());
        out.extend_from_slice(b",\"code\":");
        json::push_option(out, self.code().as_deref());
        out.push(b'}');
    }

    /// The body of an HTTP error: `{"error":{...}}`.
    pub fn envelope(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160 + self.message.len());
        out.extend_from_slice(b"{\"error\":");
        self.write_object(&mut out);
        out.push(b'}');
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(Detail::Own(detail) | Detail::Quoted(detail)) = self.detail.as_deref() {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_has_all_four_keys() {
        let text = String::from_utf8(Error::new(Kind::NotFound, "a \"b\"\n").envelope()).unwrap();
        assert_eq!(
            text,
            r#"{"error":{"message":"a \"b\"\n","type":"invalid_request_error","param":null,"code":null}}"#
        );
    }

    #[test]
    fn retryable_failures_say_so() {
        let words = |kind, message: &str| Error::new(kind, message).retry_message().into_owned();
        let retry = "You can retry your request. (server_error)";
        assert_eq!(words(Kind::UpstreamFailed, "It broke."), format!("It broke. {retry}"));
        assert_eq!(words(Kind::BadGateway, "It broke"), format!("It broke. {retry}"));
        assert_eq!(words(Kind::ShuttingDown, "Bye!"), format!("Bye! {retry}"));
        assert_eq!(
            words(Kind::RateLimited, "Busy."),
            "Busy. You can retry your request. (rate_limit_exceeded)"
        );
        assert_eq!(words(Kind::ContextLength, "Too long."), "Too long.");
        assert_eq!(words(Kind::Rejected(400), "No."), "No.");
    }

    #[test]
    fn busy_errors_always_have_retry_after() {
        assert!(Error::new(Kind::OverCapacity, "").retry_after().is_some());
        assert!(Error::new(Kind::RateLimited, "").retry_after().is_some());
        assert!(Error::new(Kind::Unavailable, "").retry_after().is_some());
    }
}
