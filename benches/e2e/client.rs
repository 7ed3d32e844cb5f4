//! The load generator: one connection, requests on it one after another, answers read as they come. It must not know
//! what is measured.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use memchr::memmem::Finder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::targets::Speaks;
use crate::upstream::{Kind, Script, Shared};

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// One answer, read to its end.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// From the request's last byte to the first delta.
    pub first: Option<Duration>,
    pub deltas: usize,
    /// From the upstream's write to our read, a token each.
    pub latencies: Vec<Duration>,
    /// The whole body, if it was to be kept.
    pub body: Vec<u8>,
    /// The end of the body otherwise.
    tail: Vec<u8>,
}

impl Answer {
    /// What is wrong with the count or the end of a stream.
    pub fn wrong(&self, speaks: Speaks, script: &Script) -> Option<String> {
        let end: &[u8] = match (speaks, script.kind) {
            (_, Kind::Whole) => b"}",
            _ => b"data: [DONE]\n\n",
        };
        let kept = if self.body.is_empty() { &self.tail } else { &self.body };
        let counted = script.kind != Kind::Text || self.deltas == script.amount;
        if self.status == 200 && counted && kept.trim_ascii_end().ends_with(end.trim_ascii_end()) {
            return None;
        }
        let tail = String::from_utf8_lossy(kept);
        let tail: String = tail.chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
        Some(format!("status {}, {} of {} deltas, ends {tail:?}", self.status, self.deltas, script.amount))
    }
}

/// One connection to a target.
pub struct Client {
    stream: TcpStream,
    speaks: Speaks,
    buffer: Vec<u8>,
    /// Parsed up to here.
    at: usize,
    seen: Shared,
}

impl Client {
    pub async fn connect(address: SocketAddr, speaks: Speaks, seen: Shared) -> io::Result<Client> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, speaks, buffer: Vec::with_capacity(16 << 10), at: 0, seen })
    }

    /// Sends a request and reads its answer to the end.
    pub async fn ask(&mut self, body: &[u8], script: &Script, keep: bool) -> Result<Answer, String> {
        let work = async {
            self.send(body).await?;
            self.read(script, keep, usize::MAX).await
        };
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("no end of the answer in time".to_owned()),
        }
    }

    /// Sends a request, reads this many deltas, and hangs up. Returns when it did.
    pub async fn leave_after(
        mut self,
        body: &[u8],
        script: &Script,
        deltas: usize,
    ) -> Result<Instant, String> {
        let work = async {
            self.send(body).await?;
            self.read(script, false, deltas).await
        };
        tokio::time::timeout(PATIENCE, work)
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        drop(self);
        Ok(Instant::now())
    }

    async fn send(&mut self, body: &[u8]) -> io::Result<()> {
        let path = match self.speaks {
            Speaks::Chat => "/v1/chat/completions",
            Speaks::Responses => "/v1/responses",
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut request = head.into_bytes();
        if body.len() > 64 << 10 {
            self.stream.write_all(&request).await?;
            return self.stream.write_all(body).await;
        }
        request.extend_from_slice(body);
        self.stream.write_all(&request).await
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn read(&mut self, script: &Script, keep: bool, most: usize) -> io::Result<Answer> {
        let begun = Instant::now();
        let (status, length) = self.head().await?;
        let mut answer = Answer { status, ..Answer::default() };
        let needle = match (self.speaks, script.kind) {
            (Speaks::Chat, Kind::Arguments) => Finder::new("\"arguments\":\""),
            (Speaks::Chat, _) => Finder::new("\"delta\":{\"content\":\""),
            (Speaks::Responses, Kind::Arguments) => {
                Finder::new("event: response.function_call_arguments.delta\n")
            }
            (Speaks::Responses, _) => Finder::new("event: response.output_text.delta\n"),
        };
        let mut left = Left::of(length);
        loop {
            let now = Instant::now();
            let before = answer.deltas;
            while let Some(piece) = left.take(&self.buffer, &mut self.at) {
                let payload = &self.buffer[piece];
                // needles cut in two by a read are found in the joined tail
                answer.tail.extend_from_slice(payload);
                answer.deltas += needle.find_iter(&answer.tail).count();
                let from = match needle.find_iter(&answer.tail).last() {
                    Some(last) => last + needle.needle().len(),
                    None => answer.tail.len().saturating_sub(needle.needle().len() - 1),
                };
                if keep {
                    answer.body.extend_from_slice(payload);
                }
                answer.tail.drain(..from);
            }
            if answer.deltas > before {
                answer.first.get_or_insert(now - begun);
                if script.every > Duration::ZERO
                    && let Some(sent) = self.seen.borrow().sent.get(&script.stream)
                {
                    answer.latencies.extend(
                        (before..answer.deltas)
                            .filter_map(|n| Some(now.saturating_duration_since(*sent.get(n)?))),
                    );
                }
            }
            if left.over() || answer.deltas >= most {
                return Ok(answer);
            }
            self.fill().await?;
        }
    }

    /// Status, and the body's length unless it comes in chunks.
    async fn head(&mut self) -> io::Result<(u16, Option<usize>)> {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer[self.at..], b"\r\n\r\n") {
                break self.at + end + 4;
            }
            self.fill().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[self.at..end]).to_ascii_lowercase();
        self.at = end;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let length = head.lines().find_map(|line| {
            line.strip_prefix("content-length:").and_then(|length| length.trim().parse().ok())
        });
        Ok((status, length))
    }
}

/// What of a body is still to come.
enum Left {
    Length(usize),
    /// Chunked: the next chunk's size line, then so many bytes with their line end.
    Size,
    Chunk {
        left: usize,
        text: usize,
    },
    /// The last chunk was read; its empty line has to come.
    Last(usize),
    Over,
}

impl Left {
    fn of(length: Option<usize>) -> Left {
        length.map_or(Left::Size, Left::Length)
    }

    fn over(&self) -> bool {
        matches!(self, Left::Over | Left::Length(0))
    }

    /// The next piece of text in `buffer`; moves `at` over it and over what frames it.
    fn take(&mut self, buffer: &[u8], at: &mut usize) -> Option<std::ops::Range<usize>> {
        loop {
            let rest = buffer.len() - *at;
            match self {
                Left::Over | Left::Length(0) => return None,
                Left::Length(left) => {
                    let n = rest.min(*left);
                    *left -= n;
                    *at += n;
                    return (n > 0).then(|| *at - n..*at);
                }
                Left::Size => {
                    let end = memchr::memchr(b'\n', &buffer[*at..])?;
                    let line = std::str::from_utf8(&buffer[*at..*at + end]).unwrap_or("");
                    let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
                    *at += end + 1;
                    *self =
                        if size == 0 { Left::Last(2) } else { Left::Chunk { left: size + 2, text: size } };
                }
                Left::Chunk { left: 0, .. } => *self = Left::Size,
                Left::Chunk { left, text } => {
                    let n = rest.min(*left);
                    let shown = n.min(*text);
                    *left -= n;
                    *text -= shown;
                    *at += n;
                    if shown > 0 {
                        return Some(*at - n..*at - n + shown);
                    }
                    if n == 0 {
                        return None;
                    }
                }
                Left::Last(left) => {
                    let n = rest.min(*left);
                    *left -= n;
                    *at += n;
                    if *left == 0 {
                        *self = Left::Over;
                    }
                    return None;
                }
            }
        }
    }
}
