//! Owns the heads of plain HTTP/1.1: a request's as bytes, a response's as status, headers, and the form of the body
//! behind it (RFC 9112, section 6.3), by which that body is read. It must not touch a socket.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::chunked::Chunked;

/// Most headers of a response.
const HEADERS: usize = 100;
/// The longest head of a response, in bytes.
const LONGEST: usize = 256 << 10;

/// What is told of a response before its body.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// Whether the connection serves another request behind the body's end.
    pub keeps: bool,
}

/// How a body's end is told.
#[derive(Debug)]
pub enum Framing {
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunked),
    /// The connection ends with it.
    Close,
}

impl Framing {
    /// Appends the data in `bytes` to `out`; whether all of them belonged to the body.
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
pub fn request(host: &str, path: &str, headers: &HeaderMap, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    for part in ["POST ", path, " HTTP/1.1\r\nhost: ", host, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"content-length: ");
    crate::wire::json::push_number(&mut out, length as u64);
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// The head that `bytes` begin with and its length, once it is there in full. Interim responses (1xx) are passed over.
///
/// # Errors
/// When it is no HTTP/1 response; what is wrong, in words.
pub fn response(bytes: &[u8]) -> Result<Option<(Head, usize)>, String> {
    let mut passed = 0;
    loop {
        let rest = bytes.get(passed..).unwrap_or_default();
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        let length = match parsed.parse(rest) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() > LONGEST => {
                return Err("the head of the response is too long".to_owned());
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(format!("the response is not HTTP/1.1: {error}")),
        };
        let code = parsed.code.unwrap_or_default();
        passed += length;
        // 101 was not asked for; it has no body that could be read
        if (100..200).contains(&code) && code != 101 {
            continue;
        }
        let status = StatusCode::from_u16(code).map_err(|_| format!("the response has status {code}"))?;
        let mut map = HeaderMap::with_capacity(parsed.headers.len());
        for read in parsed.headers.iter() {
            let name = HeaderName::from_bytes(read.name.as_bytes());
            let value = HeaderValue::from_bytes(read.value);
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(format!("the response has a broken header: {}", read.name));
            };
            map.append(name, value);
        }
        let framing = framing(status, &map)?;
        let keeps = keeps(&map, parsed.version == Some(1)) && !matches!(framing, Framing::Close);
        return Ok(Some((Head { status, headers: map, framing, keeps }, passed)));
    }
}

fn framing(status: StatusCode, headers: &HeaderMap) -> Result<Framing, String> {
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Framing::Length(0));
    }
    if let Some(last) = tokens(headers, &header::TRANSFER_ENCODING).last() {
        return Ok(match last.eq_ignore_ascii_case("chunked") {
            true => Framing::Chunked(Chunked::default()),
            false => Framing::Close,
        });
    }
    let mut length = None;
    for token in tokens(headers, &header::CONTENT_LENGTH) {
        let digits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
        match token.parse::<u64>().ok().filter(|_| digits) {
            Some(read) if length.is_none_or(|before| before == read) => length = Some(read),
            _ => return Err("the response's Content-Length is no number, or several".to_owned()),
        }
    }
    Ok(length.map_or(Framing::Close, Framing::Length))
}

fn keeps(headers: &HeaderMap, http_1_1: bool) -> bool {
    let has = |word: &str| tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case(word));
    !has("close") && (http_1_1 || has("keep-alive"))
}

/// The members of a header's lists.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|value| value.to_str().unwrap_or("?").split(',').map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<(Head, usize)>, String> {
        response(text.as_bytes())
    }

    #[test]
    fn bodies_and_connections() {
        for (head, framing, keeps) in [
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "Chunked", true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 3\r\n\r\n",
                "Chunked",
                true,
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
            assert_eq!(read.keeps, keeps, "{head}");
            assert!((0..head.len()).all(|end| response(&head.as_bytes()[..end]).unwrap().is_none()));
        }
    }

    #[test]
    fn interim_responses_are_passed_over() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 429 No\r\nretry-after: 2\r\n\r\nrest";
        let (head, length) = read(text).unwrap().unwrap();
        assert_eq!((head.status.as_u16(), &text[length..]), (429, "rest"));
        assert_eq!(head.headers["retry-after"], "2");
    }

    #[test]
    fn what_is_broken_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(LONGEST));
        assert!(read(&endless).is_err());
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(HEADERS + 1));
        assert!(read(&many).is_err());
    }

    #[test]
    fn a_request_is_one_head() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        let head = request("gpu:8080", "/v1/chat/completions", &headers, 17);
        let want = "POST /v1/chat/completions HTTP/1.1\r\nhost: gpu:8080\r\naccept: text/event-stream\r\ncontent-length: 17\r\n\r\n";
        assert_eq!(String::from_utf8(head).unwrap(), want);
    }
}
