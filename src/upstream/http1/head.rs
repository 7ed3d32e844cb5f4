//! Owns the heads of plain HTTP/1.1: a request's as bytes, a response's as status, headers, and the form of the body
//! behind it (RFC 9112, section 6.3), by which that body is read. It must not touch a socket.

use std::mem::MaybeUninit;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httparse::Header;

use super::chunked::Chunked;

/// Most headers of a response.
const HEADERS: usize = 100;
/// The longest head of a response in bytes, with the interim responses before it.
const LONGEST: usize = 256 << 10;

/// The parts of a response's head that the proxy uses.
#[derive(Debug)]
pub struct ResponseHead {
    /// As the server sent it, final.
    pub status: StatusCode,
    /// Its `Content-Type` in lower case, empty without one.
    pub content_type: String,
    /// Its `Retry-After`, or `retry-after-ms` in seconds.
    pub retry_after: Option<String>,
    /// Its `Content-Encoding` in lower case, empty without one.
    pub encoding: String,
    /// Its `x-ratelimit-*`.
    pub limits: HeaderMap,
}

/// A response's head, and how to read on behind it.
#[derive(Debug)]
pub struct Head {
    /// Status, and what its headers say of it.
    pub response: ResponseHead,
    /// How its body is read.
    pub framing: Framing,
    /// Whether the connection may carry another request once the body has ended.
    pub reusable: bool,
}

/// Collects the head of a response as it arrives. It holds a bounded number of bytes, and parses only where the head may
/// have ended, so the work is linear however small the pieces are.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// The head so far; once it is complete, the bytes that follow it.
    pub bytes: Vec<u8>,
    /// Bytes that were skipped: interim responses, and line ends before a head.
    skipped: usize,
}

/// Names of headers with a client's rate limits begin so.
const RATE_LIMIT: &str = "x-ratelimit-";
/// How many of them are passed on at most, and how long one may be, in bytes.
const MOST_LIMITS: usize = 16;
const LONGEST_LIMIT: usize = 256;

/// How the end of a body is found.
#[derive(Debug)]
pub enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// After the chunk of no bytes.
    Chunked(Chunked),
    /// Where the connection ends.
    Close,
}

impl ResponseHead {
    /// From a status and all headers, each as name and value.
    pub fn new<'h>(status: StatusCode, headers: impl Iterator<Item = (&'h str, &'h [u8])>) -> ResponseHead {
        let mut head = ResponseHead {
            status,
            content_type: String::new(),
            retry_after: None,
            encoding: String::new(),
            limits: HeaderMap::new(),
        };
        for (name, value) in headers {
            let text = std::str::from_utf8(value).unwrap_or("?").trim();
            if name.eq_ignore_ascii_case("content-type") && head.content_type.is_empty() {
                head.content_type = text.to_ascii_lowercase();
            } else if name.eq_ignore_ascii_case("content-encoding") && head.encoding.is_empty() {
                head.encoding = text.to_ascii_lowercase();
            } else if name.eq_ignore_ascii_case("retry-after") {
                head.retry_after.get_or_insert_with(|| text.to_owned());
            } else if name.eq_ignore_ascii_case("retry-after-ms") {
                // the finer of the two
                let seconds = text.parse::<f64>().ok().map(|ms| (ms / 1000.0).to_string());
                head.retry_after = seconds.or(head.retry_after);
            } else {
                head.limit(name, value);
            }
        }
        head
    }

    fn limit(&mut self, name: &str, value: &[u8]) {
        let named = name.get(..RATE_LIMIT.len()).is_some_and(|start| start.eq_ignore_ascii_case(RATE_LIMIT));
        if !named || self.limits.len() >= MOST_LIMITS || name.len() + value.len() > LONGEST_LIMIT {
            return;
        }
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            self.limits.insert(name, value);
        }
    }
}

impl HeadReader {
    /// Whether no byte has arrived.
    pub fn is_empty(&self) -> bool {
        self.skipped + self.bytes.len() == 0
    }

    /// Takes what was read, and gives the head once it is complete. To be called until then.
    ///
    /// # Errors
    /// When it is no HTTP/1 response, or its head is too long; what is wrong, in words.
    pub fn add(&mut self, piece: &[u8]) -> Result<Option<Head>, String> {
        let found = if self.bytes.is_empty() {
            // mostly all of it comes at once
            let (found, read) = response(piece)?;
            self.bytes.extend_from_slice(piece.get(read..).unwrap_or_default());
            self.skipped += read;
            found
        } else {
            let searched = self.bytes.len().saturating_sub(b"\n\r".len());
            self.bytes.extend_from_slice(piece);
            let fresh = self.bytes.get(searched..).unwrap_or_default();
            let ends = |end: &[u8]| memchr::memmem::find(fresh, end).is_some();
            if ends(b"\n\r\n") || ends(b"\n\n") {
                let (found, read) = response(&self.bytes)?;
                self.bytes.drain(..read);
                self.skipped += read;
                found
            } else {
                None
            }
        };
        if found.is_none() && self.skipped + self.bytes.len() > LONGEST {
            return Err("the head of the response is too long".to_owned());
        }
        Ok(found)
    }
}

impl Framing {
    /// Appends the data in `bytes` to `out`. False if bytes behind the body's end are among them.
    ///
    /// # Errors
    /// When the coding is broken; what is wrong, in words.
    pub fn read(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<bool, &'static str> {
        out.reserve(bytes.len());
        match self {
            Framing::Close => {
                out.extend_from_slice(bytes);
                Ok(true)
            }
            Framing::Chunked(chunked) => Ok(chunked.read(bytes, out)? == bytes.len()),
            Framing::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                out.extend_from_slice(bytes.get(..here).unwrap_or_default());
                *left -= here as u64;
                Ok(here == bytes.len())
            }
        }
    }

    /// The same with bytes that are given away: those that are all data are not copied.
    ///
    /// # Errors
    /// As [`Framing::read`].
    pub fn take(&mut self, bytes: Vec<u8>, out: &mut Vec<u8>) -> Result<bool, &'static str> {
        match self {
            Framing::Length(left) if out.is_empty() && bytes.len() as u64 <= *left => {
                *left -= bytes.len() as u64;
                *out = bytes;
                Ok(true)
            }
            _ => self.read(&bytes, out),
        }
    }

    /// Whether the body is over.
    pub fn ended(&self) -> bool {
        match self {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(chunked) => chunked.ended(),
            Framing::Close => false,
        }
    }
}

/// A `POST` of JSON, up to the body.
pub fn request<'h>(
    host: &str,
    path: [&str; 2],
    headers: impl IntoIterator<Item = &'h (HeaderName, &'h HeaderValue)>,
    length: usize,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let [prefix, path] = path;
    for part in ["POST ", prefix, path, " HTTP/1.1\r\nhost: ", host, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"content-length: ");
    rejoinder_core::wire::json::push_number(&mut out, length as u64);
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// The head that `bytes` begin with, once it is complete, and how many bytes were read: interim responses (1xx) and line ends
/// before a head are skipped.
///
/// # Errors
/// When it is no HTTP/1 response; what is wrong, in words.
fn response(bytes: &[u8]) -> Result<(Option<Head>, usize), String> {
    let mut skipped = 0;
    loop {
        let rest = bytes.get(skipped..).unwrap_or_default();
        let blank = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let rest = rest.get(blank..).unwrap_or_default();
        skipped += blank;
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
        let mut parsed = httparse::Response::new(&mut []);
        let read = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut parsed,
            rest,
            &mut headers,
        );
        let length = match read {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok((None, skipped)),
            Err(error) => return Err(format!("the response is not HTTP/1.1: {error}")),
        };
        let code = parsed.code.unwrap_or_default();
        skipped += length;
        // 101 was not asked for; it has no body that could be read
        if (100..200).contains(&code) && code != 101 {
            continue;
        }
        let status = StatusCode::from_u16(code).map_err(|_| format!("the response has status {code}"))?;
        let http_1_1 = parsed.version == Some(1);
        let framing = framing(status, parsed.headers, http_1_1)?;
        let reusable = is_reusable(parsed.headers, http_1_1) && !matches!(framing, Framing::Close);
        let response =
            ResponseHead::new(status, parsed.headers.iter().map(|header| (header.name, header.value)));
        return Ok((Some(Head { response, framing, reusable }), skipped));
    }
}

fn framing(status: StatusCode, headers: &[Header<'_>], http_1_1: bool) -> Result<Framing, String> {
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Framing::Length(0));
    }
    if let Some(last) = tokens(headers, "transfer-encoding").last() {
        if !http_1_1 {
            return Err("the response is HTTP/1.0 and has a Transfer-Encoding".to_owned());
        }
        return Ok(match last.eq_ignore_ascii_case("chunked") {
            true => Framing::Chunked(Chunked::default()),
            false => Framing::Close,
        });
    }
    let mut length = None;
    for token in tokens(headers, "content-length") {
        let digits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
        match token.parse::<u64>().ok().filter(|_| digits) {
            Some(read) if length.is_none_or(|before| before == read) => length = Some(read),
            _ => return Err("the response's Content-Length is no number, or several".to_owned()),
        }
    }
    Ok(length.map_or(Framing::Close, Framing::Length))
}

fn is_reusable(headers: &[Header<'_>], http_1_1: bool) -> bool {
    let has = |word: &str| tokens(headers, "connection").any(|token| token.eq_ignore_ascii_case(word));
    // two lengths: what the server takes for the body's end is not known
    let ambiguous =
        ["transfer-encoding", "content-length"].iter().all(|name| values(headers, name).next().is_some());
    !has("close") && !ambiguous && (http_1_1 || has("keep-alive"))
}

/// The members of a header's lists.
fn tokens<'a>(headers: &'a [Header<'_>], name: &'static str) -> impl Iterator<Item = &'a str> {
    values(headers, name).flat_map(|value| value.split(',').map(str::trim))
}

/// The values of a header, one for each time that it is there.
fn values<'a>(headers: &'a [Header<'_>], name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| std::str::from_utf8(header.value).unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<(Head, usize)>, String> {
        response(text.as_bytes()).map(|(head, length)| head.map(|head| (head, length)))
    }

    /// What arrives in these pieces: the head's status with what follows it.
    fn arrive<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<(u16, Vec<u8>)>, String> {
        let mut reader = HeadReader::default();
        for piece in pieces {
            if let Some(head) = reader.add(piece)? {
                return Ok(Some((head.response.status.as_u16(), reader.bytes)));
            }
            assert!(reader.bytes.len() <= LONGEST + piece.len());
        }
        Ok(None)
    }

    #[test]
    fn a_head_arrives_in_any_pieces() {
        let head = "\r\n\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\nlink: x\n\n\r\nHTTP/1.1 200 OK\r\nx: y\r\n\r\n";
        for size in 1..head.len() {
            assert_eq!(arrive(head.as_bytes().chunks(size)), Ok(Some((200, Vec::new()))), "{size}");
        }
        let more = format!("{head}body\n\n");
        assert_eq!(arrive([more.as_bytes()]), Ok(Some((200, b"body\n\n".to_vec()))));
    }

    #[test]
    fn a_head_that_does_not_end_is_given_up() {
        let endless: [&[u8]; 5] = [
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"\r\n",
            b"\n",
            b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n",
            b"x: y\n",
        ];
        for piece in endless {
            let pieces = 2 * LONGEST / piece.len();
            let start: &[u8] = if piece.starts_with(b"x") { b"HTTP/1.1 200 OK\r\n" } else { b"" };
            let found = arrive([start].into_iter().chain(std::iter::repeat_n(piece, pieces)));
            assert!(found.is_err(), "{}: {found:?}", String::from_utf8_lossy(piece));
        }
    }

    #[test]
    fn bodies_and_connections() {
        for (head, framing, reusable) in [
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "Chunked", true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 3\r\n\r\n",
                "Chunked",
                false,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", "Close", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", "Length(12)", true),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 12, 12\r\nConnection: x, Close\r\n\r\n",
                "Length(12)",
                false,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", "Close", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", "Length(1)", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", "Length(1)", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", "Length(0)", true),
            ("HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", "Length(0)", true),
        ] {
            let (read, length) = read(head).unwrap().unwrap();
            assert_eq!(length, head.len());
            assert!(format!("{:?}", read.framing).starts_with(framing), "{head}: {:?}", read.framing);
            assert_eq!(read.reusable, reusable, "{head}");
            assert!((0..head.len()).all(|end| response(&head.as_bytes()[..end]).unwrap().0.is_none()));
        }
    }

    #[test]
    fn interim_responses_are_passed_over() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 429 No\r\nretry-after: 2\r\n\r\nrest";
        let (head, length) = read(text).unwrap().unwrap();
        assert_eq!((head.response.status.as_u16(), &text[length..]), (429, "rest"));
        assert_eq!(head.response.retry_after.as_deref(), Some("2"));
    }

    #[test]
    fn what_a_head_says_of_limits_is_bounded() {
        let many: String = (0..60).map(|n| format!("X-RateLimit-Limit-{n}: {n}\r\n")).collect();
        let long = "y".repeat(LONGEST_LIMIT);
        let text = format!(
            "HTTP/1.1 429 No\r\nretry-after: 9\r\nretry-after-ms: 1500\r\nx-ratelimit-long: {long}\r\ncontent-encoding: GZIP\r\n{many}\r\n"
        );
        let head = read(&text).unwrap().unwrap().0.response;
        assert_eq!((head.retry_after.as_deref(), &*head.encoding), (Some("1.5"), "gzip"));
        assert_eq!(
            (head.limits.len(), head.limits["x-ratelimit-limit-7"].as_bytes()),
            (MOST_LIMITS, &b"7"[..])
        );
        assert!(head.limits.get("x-ratelimit-long").is_none());
    }

    #[test]
    fn what_is_broken_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(LONGEST));
        assert!(arrive([endless.as_bytes()]).is_err());
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(HEADERS + 1));
        assert!(read(&many).is_err());
    }

    #[test]
    fn a_request_is_one_head() {
        let accept = HeaderValue::from_static("text/event-stream");
        let head =
            request("gpu:8080", ["/x", "/v1/chat/completions"], &[(http::header::ACCEPT, &accept)], 17);
        let want = "POST /x/v1/chat/completions HTTP/1.1\r\nhost: gpu:8080\r\naccept: text/event-stream\r\ncontent-length: 17\r\n\r\n";
        assert_eq!(String::from_utf8(head).unwrap(), want);
    }
}
