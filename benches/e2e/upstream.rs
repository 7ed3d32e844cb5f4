//! A chat server that costs nearly nothing: it answers as llama-server does, with chunks rendered beforehand, as the
//! request's model name says. It must not judge what it gets.
//!
//! It runs on the thread of the load generator, so that the time between a write here and a read there needs no clock
//! but one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;

/// What the answer to one request is. It travels as the model's name, the one field that every target passes on.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    pub kind: Kind,
    /// Names the stream in [`Seen`].
    pub stream: u32,
    /// Tokens, or bytes of arguments.
    pub amount: usize,
    /// Events in one write.
    pub batch: usize,
    /// Whether those of one write are one HTTP chunk, or one each, as when a server writes faster than we read.
    pub joined: bool,
    /// Time between two writes; zero: as fast as they are taken.
    pub every: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A stream of text.
    Text,
    /// A stream of one call's arguments, four bytes a chunk.
    Arguments,
    /// One JSON object.
    Whole,
}

/// What the upstream saw and did.
#[derive(Debug, Default)]
pub struct Seen {
    /// When each event of a stream was handed to the kernel, by stream.
    pub sent: HashMap<u32, Vec<Instant>>,
    /// When the other side of a stream was found gone.
    pub gone: HashMap<u32, Instant>,
    /// Bytes of request bodies.
    pub body_bytes: u64,
}

/// Most bytes of a body that are kept: the script is at its beginning.
const BEGINNING: usize = 64 << 10;

pub type Shared = Rc<RefCell<Seen>>;

impl Script {
    pub fn model(&self) -> String {
        let kind = match self.kind {
            Kind::Text => "text",
            Kind::Arguments => "arguments",
            Kind::Whole => "whole",
        };
        let Script { stream, amount, batch, joined, every, .. } = self;
        format!("bench.{kind}.{stream}.{amount}.{batch}.{}.{}", u8::from(*joined), every.as_micros())
    }

    fn read(body: &[u8]) -> Option<Script> {
        let start = memchr::memmem::find(body, b"\"bench.")? + 7;
        let end = start + memchr::memchr(b'"', &body[start..])?;
        let mut fields = std::str::from_utf8(&body[start..end]).ok()?.split('.');
        let kind = match fields.next()? {
            "text" => Kind::Text,
            "arguments" => Kind::Arguments,
            _ => Kind::Whole,
        };
        let mut number = || fields.next()?.parse::<u64>().ok();
        Some(Script {
            kind,
            stream: number()? as u32,
            amount: number()? as usize,
            batch: number()?.max(1) as usize,
            joined: number()? == 1,
            every: Duration::from_micros(number()?),
        })
    }

    /// The text that a stream of [`Kind::Text`] or an answer of [`Kind::Whole`] makes.
    pub fn text(&self) -> String {
        (0..self.amount).map(|n| unescaped(WORDS[n % WORDS.len()])).collect()
    }

    /// The arguments that a stream of [`Kind::Arguments`] makes.
    pub fn arguments(&self) -> String {
        let line = "0123456789abcdef ";
        let body = line.repeat(self.amount / line.len() + 1);
        format!("{{\"text\":\"{}\"}}", &body[..self.amount])
    }
}

/// Tokens as models have them, escaped.
const WORDS: [&str; 12] = [
    " the",
    " proxy",
    ",",
    " which",
    " never",
    " waits",
    "\\n\\n",
    " \\\"quoted\\\"",
    " é",
    " writes",
    " it",
    ".",
];

fn unescaped(word: &str) -> String {
    word.replace("\\n", "\n").replace("\\\"", "\"")
}

/// Listens on a free port; its tasks live as long as the runtime.
pub async fn start(seen: Shared) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::task::spawn_local(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let seen = seen.clone();
            tokio::task::spawn_local(async move {
                // a connection that ends badly was ended by its client
                let _ = serve(stream, seen).await;
            });
        }
    });
    Ok(address)
}

async fn serve(mut stream: TcpStream, seen: Shared) -> io::Result<()> {
    let rendered = Rendered::new();
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        let Some((path, body, length)) = request(&mut stream, &mut buffer).await? else { return Ok(()) };
        if path != "/v1/chat/completions" {
            stream.write_all(&look(&path)).await?;
            continue;
        }
        seen.borrow_mut().body_bytes += length as u64;
        let script = Script::read(&body).ok_or(io::ErrorKind::InvalidData)?;
        drop(body);
        match script.kind {
            Kind::Whole => stream.write_all(&whole(&script)).await?,
            Kind::Text | Kind::Arguments => {
                let done = answer(&mut stream, &script, &rendered, &seen).await;
                if done.is_err() {
                    seen.borrow_mut().gone.insert(script.stream, Instant::now());
                    return done;
                }
            }
        }
    }
}

/// Path, beginning of the body and its length of the next request; `None` at the end of the connection.
async fn request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(String, Vec<u8>, usize)>> {
    buffer.clear();
    let head = loop {
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
    let path = text.split(' ').nth(1).unwrap_or("/").to_owned();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = buffer.split_off(head);
    let length = length.unwrap_or(0);
    let mut seen = body.len();
    while seen < length {
        if body.len() >= BEGINNING {
            // in small pieces: streams are on this thread too
            buffer.clear();
            if seen % (1 << 20) < BEGINNING {
                tokio::task::yield_now().await;
            }
            seen += match stream.take(BEGINNING.min(length - seen) as u64).read_buf(buffer).await? {
                0 => return Ok(None),
                read => read,
            };
            continue;
        }
        seen += match stream.read_buf(&mut body).await? {
            0 => return Ok(None),
            read => read,
        };
    }
    Ok(Some((path, body, length)))
}

/// Answers of the paths by which a proxy finds out who this is.
fn look(path: &str) -> Vec<u8> {
    let body = match path {
        "/props" => r#"{"default_generation_settings":{"n_ctx":131072},"chat_template":"{{ messages }}"}"#,
        "/health" => r#"{"status":"ok"}"#,
        _ => r#"{"object":"list","data":[{"id":"bench","object":"model"}]}"#,
    };
    json(body)
}

fn json(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn whole(script: &Script) -> Vec<u8> {
    let text: String = (0..script.amount).map(|n| WORDS[n % WORDS.len()]).collect();
    json(&format!(
        r#"{{"choices":[{{"finish_reason":"stop","index":0,"message":{{"role":"assistant","content":"{text}"}}}}],{TAIL_OF_COMPLETION}"#
    ))
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=100\r\nServer: llama.cpp\r\n\
    Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
/// What follows `choices` in a recorded chunk of llama-server's.
const TAIL: &str = r#""created":1795231653,"id":"chatcmpl-MYiJ2SSsnC4aWuZiblEsIkYtkIAO4IXo","model":"gemma3-270m.gguf","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}"#;
const TAIL_OF_COMPLETION: &str = r#""created":1795231653,"model":"gemma3-270m.gguf","system_fingerprint":"b0-unknown","object":"chat.completion","usage":{"completion_tokens":64,"prompt_tokens":12,"total_tokens":76,"prompt_tokens_details":{"cached_tokens":1}},"id":"chatcmpl-MYiJ2SSsnC4aWuZiblEsIkYtkIAO4IXo"}"#;

/// Events in their HTTP chunks, ready to be written.
struct Rendered {
    begin: Vec<u8>,
    words: Vec<Vec<u8>>,
    /// The same without their chunks.
    events: Vec<String>,
}

impl Rendered {
    fn new() -> Rendered {
        Rendered {
            begin: delta(r#"{"role":"assistant","content":null}"#, "null"),
            words: WORDS.iter().map(|word| delta(&format!("{{\"content\":\"{word}\"}}"), "null")).collect(),
            events: WORDS.iter().map(|word| event(&format!("{{\"content\":\"{word}\"}}"), "null")).collect(),
        }
    }
}

fn event(delta: &str, finish: &str) -> String {
    format!("data: {{\"choices\":[{{\"finish_reason\":{finish},\"index\":0,\"delta\":{delta}}}],{TAIL}\n\n")
}

/// One event as one HTTP chunk, which is how llama-server sends it.
fn delta(delta: &str, finish: &str) -> Vec<u8> {
    framed(&event(delta, finish))
}

fn framed(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

async fn answer(
    stream: &mut TcpStream,
    script: &Script,
    rendered: &Rendered,
    seen: &Shared,
) -> io::Result<()> {
    let pieces = match script.kind {
        Kind::Arguments => call(script),
        _ => Vec::new(),
    };
    let events = if pieces.is_empty() { script.amount } else { pieces.len() };
    let event = |n: usize| pieces.get(n).unwrap_or(&rendered.words[n % rendered.words.len()]);
    let stamped = script.every > Duration::ZERO;
    if stamped {
        seen.borrow_mut().sent.insert(script.stream, Vec::with_capacity(events));
    }
    let mut out = Vec::with_capacity(script.batch * 300 + 1024);
    out.extend_from_slice(HEAD);
    out.extend_from_slice(&rendered.begin);
    stream.write_all(&out).await?;
    let mut clock = tokio::time::interval(script.every.max(Duration::from_micros(1)));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = 0;
    while next < events {
        if stamped {
            tick(stream, &mut clock).await?;
        }
        out.clear();
        let batch = next..events.min(next + script.batch);
        if script.joined {
            let words = batch.map(|n| rendered.events[n % rendered.events.len()].as_str());
            out.extend_from_slice(&framed(&words.collect::<String>()));
        } else {
            batch.for_each(|n| out.extend_from_slice(event(n)));
        }
        next += script.batch;
        if stamped && let Some(sent) = seen.borrow_mut().sent.get_mut(&script.stream) {
            sent.push(Instant::now());
        }
        stream.write_all(&out).await?;
        if !stamped {
            // the other streams have their turn, as on a server that decodes them in one batch
            tokio::task::yield_now().await;
        }
    }
    out.clear();
    let reason = if pieces.is_empty() { "\"stop\"" } else { "\"tool_calls\"" };
    out.extend_from_slice(&delta("{}", reason));
    out.extend_from_slice(&framed(&format!(
        "data: {{\"choices\":[],\"usage\":{{\"completion_tokens\":{events},\"prompt_tokens\":12,\"total_tokens\":{},\"prompt_tokens_details\":{{\"cached_tokens\":1}}}},{TAIL}\n\n",
        events + 12
    )));
    out.extend_from_slice(&framed("data: [DONE]\n\n"));
    out.extend_from_slice(b"0\r\n\r\n");
    stream.write_all(&out).await
}

/// Waits for the next write's time; an error when the other side left before it.
async fn tick(stream: &mut TcpStream, clock: &mut tokio::time::Interval) -> io::Result<()> {
    let mut byte = [0];
    tokio::select! {
        biased;
        _ = clock.tick() => Ok(()),
        read = stream.read(&mut byte) => match read {
            Ok(1..) => Err(io::ErrorKind::InvalidData.into()),
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        },
    }
}

/// One call, its arguments four bytes a chunk.
fn call(script: &Script) -> Vec<Vec<u8>> {
    let first = r#"{"tool_calls":[{"index":0,"id":"05tA1zcRa7lJiYzov3rSZ6oH2nBvGSVC","type":"function","function":{"name":"write","arguments":""}}]}"#;
    let mut events = vec![delta(first, "null")];
    for piece in script.arguments().as_bytes().chunks(4) {
        let piece = String::from_utf8_lossy(piece).replace('"', "\\\"");
        let piece = format!(r#"{{"tool_calls":[{{"index":0,"function":{{"arguments":"{piece}"}}}}]}}"#);
        events.push(delta(&piece, "null"));
    }
    events
}
