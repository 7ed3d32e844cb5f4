//! Owns the reading of what a server answers: refusals, whole bodies, the kind of a body, and whether anything was
//! generated yet. It must not send or decide anything.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::exchange::{Broken, Response};
use crate::error::{Error, Kind};
use crate::translate::refusal;

/// Longest upstream body that is held as a whole, in bytes.
const WHOLE_BODY: usize = 256 << 20;
/// Longest error body that is read, in bytes.
const ERROR_BODY: usize = 256 << 10;

/// What it means that a request got no answer.
pub fn unreachable(broken: Broken) -> Error {
    if broken.refused {
        Error::new(Kind::Unavailable, "The upstream server cannot be reached.").detail(broken.cause)
    } else {
        Error::new(Kind::BadGateway, "The upstream server closed the connection without an answer.")
            .detail(broken.cause)
    }
}

/// What an answer that is no success means. `context`: tokens that one conversation has, if known.
pub async fn refused(mut response: Response, context: Option<u64>) -> Error {
    let status = response.told.status;
    let retry_after = response.told.retry_after.as_deref().and_then(retry_after);
    // a body that does not come is no reason to keep the client waiting
    let body = tokio::time::timeout(Duration::from_secs(5), collect(&mut response, ERROR_BODY)).await;
    let mut error = match status {
        status if status.is_redirection() => Error::new(
            Kind::BadGateway,
            format!(
                "The upstream server answered with a redirect ({}); check upstream.url.",
                status.as_u16()
            ),
        ),
        _ => refusal::from_http(status, &body.ok().and_then(Result::ok).unwrap_or_default()),
    };
    error.retry_after = retry_after;
    if let (Kind::ContextLength, Some(context)) = (error.kind, context)
        && !error.message.contains(&context.to_string())
    {
        error.message.push_str(&format!(" This model has {context} tokens of context."));
    }
    error
}

/// `Retry-After` in seconds; a date is read as our own default.
fn retry_after(value: &str) -> Option<Duration> {
    let seconds = value.trim().parse::<f64>().ok().filter(|s| (0.0..86_400.0).contains(s));
    seconds.map(|s| Duration::from_secs_f64(s.ceil()))
}

/// The whole body of a success.
///
/// # Errors
/// When it is cut, too long, or not there within `limit`.
pub async fn whole(response: &mut Response, limit: Duration) -> Result<Bytes, Error> {
    match tokio::time::timeout(limit, collect(response, WHOLE_BODY)).await {
        Ok(body) => body,
        Err(_) => Err(too_late(limit)),
    }
}

/// Silence within an answer, for that time.
pub fn silent(silence: Duration) -> Error {
    Error::new(Kind::Timeout, format!("The upstream server sent nothing for {} s.", silence.as_secs_f64()))
}

/// No answer within that time.
pub fn too_late(limit: Duration) -> Error {
    let message = format!("The upstream server did not answer within {} s.", limit.as_secs());
    Error::new(Kind::Timeout, message)
}

/// The body, if it has at most `cap` bytes.
pub async fn collect(response: &mut Response, cap: usize) -> Result<Bytes, Error> {
    let mut body: Vec<u8> = Vec::new();
    while let Some(more) = response.more(&mut body).await {
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

/// Whether a success's body is a stream of events (true) or a JSON object.
///
/// # Errors
/// When it is something that is no chat answer at all.
pub fn is_event_stream(response: &Response) -> Result<bool, Error> {
    match response.told.content_type.split(';').next().unwrap_or("").trim() {
        "text/event-stream" | "" => Ok(true),
        kind if kind == "application/json" || kind.ends_with("+json") => Ok(false),
        other => {
            let message = format!("The upstream server answered with {other} in place of a chat completion.");
            Err(Error::new(Kind::BadGateway, message).detail(StatusCode::OK))
        }
    }
}

/// Whether the beginning of an event stream holds anything but comments and the progress of the prompt: from then on
/// the answer is generated, and nobody else may be asked. Half a line is waited for.
pub fn begun(stream: &[u8]) -> bool {
    let whole = stream.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).map_or(0, |end| end + 1);
    let lines = stream.get(..whole).unwrap_or_default().split(|byte| matches!(byte, b'\n' | b'\r'));
    // inside a JSON string the closing quote would have a backslash before it
    let progress = |line: &[u8]| memchr::memmem::find(line, b"\"prompt_progress\":{").is_some();
    // a line that long is an event, whatever it will end with
    stream.len() - whole > 16 << 10
        || lines.filter(|line| !line.is_empty()).any(|line| !line.starts_with(b":") && !progress(line))
}

#[cfg(test)]
mod tests {
    use super::begun;

    #[test]
    fn progress_is_no_answer() {
        let progress =
            b"data: {\"choices\":[{\"delta\":{\"content\":null}}],\"prompt_progress\":{\"total\":9}}\n\n";
        let text = b"data: {\"choices\":[{\"delta\":{\"content\":\"\\\"prompt_progress\\\":{\"}}]}\n\n";
        for (stream, want) in [
            (&b""[..], false),
            (b":\n\n", false),
            (b": ping\r\n\r\n", false),
            (progress, false),
            (b"data: {\"choi", false),
            (text, true),
            (&[&progress[..], text].concat(), true),
            (b"data: [DONE]\n\n", true),
            (b"event: error\n", true),
        ] {
            assert_eq!(begun(stream), want, "{}", String::from_utf8_lossy(stream));
        }
    }
}
