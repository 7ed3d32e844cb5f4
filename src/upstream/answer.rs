//! Owns the reading of what a server answers: refusals, whole bodies, the kind of a body, and whether anything was
//! generated yet. It must not send or decide anything.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use rejoinder_core::error::{Error, Kind, RateLimits};
use rejoinder_core::large_buffer;
use rejoinder_core::response::upstream_error;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::exchange::{Response, TransportError, Why};

/// Longest upstream body that is held as a whole, in bytes.
const WHOLE_BODY: usize = 256 << 20;
/// Bytes by which a body may grow with one read.
const GROWS: usize = 64 << 10;
/// Longest error body that is read, in bytes.
const ERROR_BODY: usize = 256 << 10;

/// What it means that a request got no answer.
pub fn unreachable(broken: TransportError) -> Error {
    let error = match broken.why {
        Why::Refused | Why::NoHttp1 => {
            Error::new(Kind::Unavailable, "The upstream server cannot be reached.")
        }
        Why::NoDescriptor => Error::no_descriptor(),
        Why::Cut => {
            Error::new(Kind::BadGateway, "The upstream server closed the connection without an answer.")
        }
    };
    error.detail(broken.cause)
}

/// The error for an answer that is not a success. `context`: tokens that one conversation has, if known.
pub async fn refused(mut response: Response, context: Option<u64>) -> Error {
    let status = response.head.status;
    let retry_after = response.head.retry_after.as_deref().and_then(retry_after);
    // the client does not wait for a body that does not come
    let body = tokio::time::timeout(Duration::from_secs(5), collect(&mut response, ERROR_BODY)).await;
    let mut error = match status {
        status if status.is_redirection() => Error::new(
            Kind::BadGateway,
            format!(
                "The upstream server answered with a redirect ({}); check upstream.url.",
                status.as_u16()
            ),
        ),
        _ => upstream_error::from_http(status.as_u16(), &body.ok().and_then(Result::ok).unwrap_or_default()),
    };
    error.retry_after = retry_after;
    let limits = std::mem::take(&mut response.head.limits);
    let limits = limits.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    error.limits = Some(Box::new(RateLimits(limits.collect())));
    if let (Kind::ContextLength, Some(context)) = (error.kind, context) {
        upstream_error::add_context(&mut error.message, context);
    }
    error
}

/// `Retry-After`, in seconds or as a date; what is further away than a day is nobody's to wait for.
fn retry_after(value: &str) -> Option<Duration> {
    let seconds = match value.trim().parse::<f64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let date = httpdate::parse_http_date(value.trim()).ok()?;
            date.duration_since(SystemTime::now()).unwrap_or_default().as_secs_f64()
        }
    };
    (0.0..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds.ceil()))
}

/// The whole body of a success, of which `start` was read before.
///
/// # Errors
/// When it is cut, too long, or not there within `limit`.
pub async fn whole(start: Vec<u8>, response: &mut Response, limit: Duration) -> Result<Bytes, Error> {
    match tokio::time::timeout(limit, collect_on(start, response, WHOLE_BODY)).await {
        Ok(body) => body,
        Err(_) => Err(too_late(limit)),
    }
}

/// The error for an upstream that sent nothing for `silence` within its answer.
pub fn silent(silence: Duration) -> Error {
    Error::new(Kind::Timeout, format!("The upstream server sent nothing for {} s.", silence.as_secs_f64()))
}

/// The error for an upstream whose answer did not come within `limit`.
pub fn too_late(limit: Duration) -> Error {
    let message = format!("The upstream server did not answer within {} s.", limit.as_secs_f64());
    Error::new(Kind::Timeout, message)
}

/// The body, if it has at most `cap` bytes.
pub async fn collect(response: &mut Response, cap: usize) -> Result<Bytes, Error> {
    collect_on(Vec::new(), response, cap).await
}

async fn collect_on(mut body: Vec<u8>, response: &mut Response, cap: usize) -> Result<Bytes, Error> {
    loop {
        large_buffer::reserve(&mut body, GROWS);
        let Some(more) = response.more(&mut body).await else { break };
        if let Err(broken) = more {
            let message = "The upstream server closed the connection before its answer was complete.";
            return Err(Error::new(Kind::BadGateway, message).detail(broken));
        }
        if body.len() > cap {
            let message = format!("The upstream server's answer is longer than {cap} bytes.");
            return Err(Error::new(Kind::BadGateway, message));
        }
    }
    Ok(Bytes::from(body))
}

/// The form of a successful answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A stream of events.
    Events,
    /// One whole completion as JSON.
    Whole,
}

impl Form {
    /// By the first bytes of a body; its content type counts where they do not tell. `None`: more of them are needed.
    ///
    /// # Errors
    /// When it is something that is no chat answer at all.
    fn of(start: &[u8], content_type: &str) -> Result<Option<Form>, Error> {
        // what the lines of an event stream begin with
        const FIELDS: [&[u8]; 4] = [b"data", b"event", b"id", b"retry"];
        match start.first() {
            None => return Ok(None),
            Some(b'{' | b'[') => return Ok(Some(Form::Whole)),
            Some(b':') => return Ok(Some(Form::Events)),
            Some(_) if FIELDS.iter().any(|field| start.starts_with(field)) => return Ok(Some(Form::Events)),
            Some(_) if FIELDS.iter().any(|field| field.starts_with(start)) => return Ok(None),
            Some(_) => {}
        }
        Form::labelled(content_type).map(Some)
    }

    /// By the content type alone.
    fn labelled(content_type: &str) -> Result<Form, Error> {
        match content_type.split(';').next().unwrap_or("").trim() {
            "text/event-stream" | "" => Ok(Form::Events),
            kind if kind == "application/json" || kind.ends_with("+json") => Ok(Form::Whole),
            other => {
                let message =
                    format!("The upstream server answered with {other} instead of a chat completion.");
                Err(Error::new(Kind::BadGateway, message).detail(StatusCode::OK))
            }
        }
    }

    /// Whether an answer is labelled as events: then it has begun with its head.
    pub fn is_labelled_events(content_type: &str) -> bool {
        content_type.starts_with("text/event-stream")
    }
}

/// The beginning of an event stream, up to where something was generated: from then on nobody else may be asked. What
/// comes before that, comments and the progress of the prompt, may come for as long as a prompt takes; it is not kept.
#[derive(Debug, Default)]
pub struct Beginning {
    /// What is kept, and behind it, where the next read is to be put.
    pub bytes: Vec<u8>,
    /// Tokens of the prompt that are still to be processed, as the server last told.
    pub pending: Option<u64>,
    /// Up to here no line ends.
    searched: usize,
}

impl Beginning {
    /// In which form the answer comes, once that is known; `ended`: there is no more of it.
    ///
    /// # Errors
    /// When it is something that is no chat answer at all.
    pub fn form(&mut self, content_type: &str, ended: bool) -> Result<Option<Form>, Error> {
        const BOM: &[u8] = b"\xef\xbb\xbf";
        let text = self.bytes.strip_prefix(BOM).unwrap_or(&self.bytes).trim_ascii_start();
        // white space may come for as long as it likes, and a mark may still be cut
        let blank = self.bytes.len() - text.len();
        self.bytes.drain(..blank);
        if ended {
            return Form::labelled(content_type).map(Some);
        }
        match self.bytes.as_slice() {
            start if BOM.starts_with(start) => Ok(None),
            start => Form::of(start, content_type),
        }
    }

    /// Whether anything was generated by what has arrived. Half a line is waited for.
    pub fn begun(&mut self) -> bool {
        let mut line = 0;
        let begun = loop {
            let fresh = self.bytes.get(self.searched..).unwrap_or_default();
            let Some(end) = memchr::memchr2(b'\n', b'\r', fresh) else {
                self.searched = self.bytes.len();
                // a line that long is an event, whatever it will end with
                break self.bytes.len() - line > LONGEST_WAITING;
            };
            let end = self.searched + end;
            let read = read_line(self.bytes.get(line..end).unwrap_or_default());
            if read == Line::Answer {
                break true;
            }
            if let Line::Pending(tokens) = read {
                self.pending = Some(tokens);
            }
            line = end + 1;
            self.searched = line;
        };
        self.bytes.drain(..line);
        self.searched -= line;
        begun
    }
}

/// The longest beginning of a line that waits for its end, in bytes.
const LONGEST_WAITING: usize = 16 << 10;

/// What a line of an event stream is.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// Empty, or a comment.
    Nothing,
    /// The progress of the prompt in a chunk without any text: tokens that are still to be processed.
    Pending(u64),
    /// Anything else.
    Answer,
}

fn read_line(line: &[u8]) -> Line {
    #[derive(Deserialize)]
    struct Chunk<'a> {
        #[serde(borrow, default)]
        choices: Vec<Choice<'a>>,
        prompt_progress: Progress,
    }
    #[derive(Deserialize)]
    struct Progress {
        #[serde(default)]
        total: u64,
        #[serde(default)]
        processed: u64,
    }
    #[derive(Deserialize)]
    struct Choice<'a> {
        #[serde(borrow, default)]
        delta: BTreeMap<String, &'a RawValue>,
        finish_reason: Option<IgnoredAny>,
    }
    if line.is_empty() || line.starts_with(b":") {
        return Line::Nothing;
    }
    // inside a JSON string the closing quote would have a backslash before it
    if memchr::memmem::find(line, b"\"prompt_progress\":{").is_none() {
        return Line::Answer;
    }
    let chunk = line.strip_prefix(b"data:").and_then(|data| serde_json::from_slice::<Chunk<'_>>(data).ok());
    let silent = |choice: &Choice<'_>| {
        let mut said = choice.delta.iter().filter(|(name, _)| *name != "role");
        choice.finish_reason.is_none() && said.all(|(_, value)| matches!(value.get(), "null" | "\"\"" | "[]"))
    };
    match chunk {
        Some(Chunk { choices, prompt_progress: Progress { total, processed } })
            if choices.iter().all(silent) =>
        {
            Line::Pending(total.saturating_sub(processed))
        }
        _ => Line::Answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRESS: &[u8] = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}],\"prompt_progress\":{\"total\":9}}\n\n";

    /// What is kept of pieces of that size up to where the answer begins; `None` where it does not.
    fn kept(stream: &[u8], size: usize) -> Option<Vec<u8>> {
        let mut beginning = Beginning::default();
        for piece in stream.chunks(size) {
            beginning.bytes.extend_from_slice(piece);
            if beginning.begun() {
                return Some(beginning.bytes);
            }
            assert!(
                beginning.bytes.len() <= LONGEST_WAITING + size
                    && beginning.searched == beginning.bytes.len()
            );
        }
        None
    }

    #[test]
    fn progress_is_no_answer() {
        let text = b"data: {\"choices\":[{\"delta\":{\"content\":\"\\\"prompt_progress\\\":{\"}}]}\n\n";
        let spoken =
            b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"prompt_progress\":{\"total\":9}}\n\n";
        for (stream, want) in [
            (&b""[..], None),
            (b":\n\n", None),
            (b": ping\r\n\r\n", None),
            (PROGRESS, None),
            (b"data: {\"choi", None),
            (text, Some(&text[..])),
            (spoken, Some(spoken)),
            (&[PROGRESS, b": ping\n\n", text].concat(), Some(text)),
            (b"data: [DONE]\n\n", Some(b"data: [DONE]\n\n")),
            (b"event: error\n", Some(b"event: error\n")),
        ] {
            for size in 1..=stream.len().max(1) {
                let found = kept(stream, size);
                let shown = String::from_utf8_lossy(stream);
                assert_eq!(found.is_some(), want.is_some(), "{shown} by {size}");
                assert!(
                    want.zip(found).is_none_or(|(want, found)| want.starts_with(&found)),
                    "{shown} by {size}"
                );
            }
        }
    }

    /// The form of a body in pieces of that size, of this content type.
    fn form(body: &[u8], size: usize, content_type: &str) -> Result<Option<Form>, Error> {
        let mut beginning = Beginning::default();
        for piece in body.chunks(size) {
            beginning.bytes.extend_from_slice(piece);
            if let Some(form) = beginning.form(content_type, false)? {
                return Ok(Some(form));
            }
            assert!(beginning.bytes.len() <= 8 + size);
        }
        beginning.form(content_type, true)
    }

    #[test]
    fn an_answer_is_what_its_bytes_are() {
        let blank = " \r\n".repeat(10_000);
        for label in
            ["text/event-stream", "application/json", "text/plain", "application/x-ndjson", "", "text/html"]
        {
            for (body, want) in [
                ("data: {\"choices\":[]}\n\n", Form::Events),
                (": ping\n\ndata: {}\n\n", Form::Events),
                ("event: message\ndata: {}\n\n", Form::Events),
                ("id: 1\ndata: {}\n\n", Form::Events),
                ("retry: 10\n\n", Form::Events),
                ("\u{feff}data: {}\n\n", Form::Events),
                ("\r\n\r\ndata: {}\n\n", Form::Events),
                ("{\"choices\":[]}", Form::Whole),
                ("\u{feff}\n {\"choices\":[]}", Form::Whole),
                (&format!("{blank}{{}}"), Form::Whole),
            ] {
                for size in [1, 2, 3, 7, 100_000] {
                    assert_eq!(
                        form(body.as_bytes(), size, label).unwrap(),
                        Some(want),
                        "{label}: {body:?} by {size}"
                    );
                }
            }
        }
        assert!(form(b"<html>", 1, "text/html").is_err() && form(b"hello", 9, "text/plain").is_err());
        assert_eq!(form(b"", 1, "application/json").unwrap(), Some(Form::Whole));
        assert_eq!(form(b"dat", 1, "text/event-stream").unwrap(), Some(Form::Events));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let seconds = |value: &str| retry_after(value).map(|after| after.as_secs());
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        assert!((85..=91).contains(&seconds(&soon).unwrap()));
        for (value, want) in [
            ("7", Some(7)),
            ("0.2", Some(1)),
            ("86400", Some(86_400)),
            ("99999999999", None),
            ("-1", None),
            ("NaN", None),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(0)),
            ("soon", None),
        ] {
            assert_eq!(seconds(value), want, "{value}");
        }
    }

    #[test]
    fn what_comes_before_an_answer_is_not_held() {
        for silence in [PROGRESS, b": waiting\n\n", b"\r\n", b":\n"] {
            assert_eq!(kept(&silence.repeat(2_000_000 / silence.len()), 1000), None);
        }
        assert_eq!(kept(&[b'x'; 40_000], 1).map(|bytes| bytes.len()), Some(LONGEST_WAITING + 1));
    }
}
