//! What people send who mean harm, to the running binary: each is refused in the way that its protocol has for it, and
//! others are served meanwhile and afterwards. Loopback only, and bounded in number.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_compression::Level;
use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::proxy::{EVENTS, Got, PATIENCE, Proxy, STOP, STREAM, text, until, upstream, whole};

/// In which time others are answered, on a machine that is busy with the attack.
const SERVED: Duration = Duration::from_secs(10);

type Requests = Arc<Mutex<Vec<Got>>>;

/// A proxy in front of a server that answers everything and keeps what it was asked.
async fn watched(env: &[(&str, &str)]) -> (Proxy, Requests) {
    let requests = Requests::default();
    let kept = requests.clone();
    let at = upstream(move |got, mut stream| {
        let chat = got.line.ends_with("/chat/completions");
        kept.lock().unwrap().push(got);
        async move {
            let answer = match chat {
                true => [EVENTS, text("hello").as_bytes(), STOP.as_bytes()].concat(),
                false => whole("200 OK", "text/plain", "passed on"),
            };
            let _ = stream.write_all(&answer).await;
        }
    })
    .await;
    (Proxy::start(at, env, true).await, requests)
}

fn address(proxy: &Proxy) -> &str {
    proxy.base.strip_prefix("http://").unwrap()
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(address(proxy)).await.unwrap()
}

/// A request of somebody else's is answered in time.
async fn serves(proxy: &Proxy) {
    let answer = tokio::time::timeout(SERVED, proxy.stream()).await.expect("others are served");
    assert!(answer.contains("event: response.completed"), "{answer}");
}

/// Sends bytes as they are: all that comes back until the connection ends, or nothing more comes.
async fn sent(proxy: &Proxy, bytes: &[u8]) -> String {
    let mut stream = connect(proxy).await;
    // it may be refused before it is read
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 << 10];
    while let Ok(Ok(1..)) = tokio::time::timeout(Duration::from_secs(2), async {
        let read = stream.read(&mut piece).await?;
        answer.extend_from_slice(&piece[..read]);
        Ok::<_, std::io::Error>(read)
    })
    .await
    {}
    String::from_utf8_lossy(&answer).into_owned()
}

/// The statuses of the answers on one connection.
fn statuses(answers: &str) -> Vec<u16> {
    let lines = answers.split("HTTP/1.1 ").skip(1);
    lines.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
}

/// Heads that name the length of their body in a way that two servers may read in two.
const AMBIGUOUS: [&str; 21] = [
    "Content-Length: 4\r\nContent-Length: 5\r\n\r\n",
    "Content-Length: 4, 5\r\n\r\n",
    "Content-Length: +4\r\n\r\n",
    "Content-Length: -4\r\n\r\n",
    "Content-Length: 0x4\r\n\r\n",
    "Content-Length: 4 4\r\n\r\n",
    "Content-Length:\r\n 4\r\n\r\n",
    "Content-Length : 4\r\n\r\n",
    "Content-Length: 18446744073709551620\r\n\r\n",
    "Transfer-Encoding: xchunked\r\n\r\n",
    "Transfer-Encoding: chunked, identity\r\n\r\n",
    "Transfer-Encoding: identity\r\nContent-Length: 4\r\n\r\n",
    "Transfer-Encoding: gzip\r\n\r\n",
    "Transfer-Encoding : chunked\r\n\r\n",
    "Transfer-Encoding: \u{b}chunked\r\n\r\n",
    "Transfer-Encoding:\r\n chunked\r\n\r\n",
    " Transfer-Encoding: chunked\r\n\r\n",
    "X: x\rTransfer-Encoding: chunked\r\n\r\n",
    "X: x\0\r\nContent-Length: 4\r\n\r\n",
    "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    "Content-Length: 4\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
];

/// Bodies whose chunks two servers may read in two.
const CHUNKS: [&str; 11] = [
    "0x4\r\nbody\r\n0\r\n\r\n",
    "+4\r\nbody\r\n0\r\n\r\n",
    "-4\r\nbody\r\n0\r\n\r\n",
    "4 4\r\nbody\r\n0\r\n\r\n",
    "10000000000000004\r\nbody\r\n0\r\n\r\n",
    "\r\n4\r\nbody\r\n0\r\n\r\n",
    "4\r\nbodybody\r\n0\r\n\r\n",
    "4\nbody\n0\n\n",
    "4\r\nbody0\r\n\r\n",
    "4;a=\"\n\"\r\nbody\r\n0\r\n\r\n",
    "4;a\nb\r\nbody\r\n0\r\n\r\n",
];

/// Nothing hidden behind the body goes on as a request, and what goes on has one length: the server behind cannot read it
/// in another way than we did.
async fn is_one_message(proxy: &Proxy, requests: &Requests, number: usize, path: &str, rest: String) {
    let id = format!("case-{number}");
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {id}\r\nContent-Type: application/json\r\n{rest}GET /hidden HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {id}\r\n\r\n"
    );
    let answers = sent(proxy, request.as_bytes()).await;
    let seen = requests.lock().unwrap().clone();
    let seen: Vec<Got> = seen.into_iter().filter(|got| got.header("x-request-id") == Some(&id)).collect();
    for got in &seen {
        let lengths =
            got.headers.iter().filter(|(name, _)| name == "content-length" || name == "transfer-encoding");
        let lengths: Vec<_> = lengths.collect();
        assert!(lengths.len() <= 1, "two lengths go on: {request:?} {got:?}");
        assert!(
            lengths.iter().all(|(name, value)| name == "content-length" || value == "chunked"),
            "{got:?}"
        );
    }
    let lines: Vec<&str> = seen.iter().map(|got| got.line.as_str()).collect();
    assert!(!lines.contains(&"GET /hidden"), "{request:?} hides a request: {lines:?} {answers}");
    match statuses(&answers).as_slice() {
        [] | [400..=599] => {
            assert!(lines.is_empty(), "{request:?} is refused and goes on: {lines:?} {answers}")
        }
        [200] => assert_eq!(lines.len(), 1, "{request:?} {answers}"),
        _ => panic!("{request:?} has these answers: {answers}"),
    }
}

#[tokio::test]
async fn no_request_hides_another() {
    let (proxy, requests) = watched(&[]).await;
    let lengths = AMBIGUOUS.map(|lengths| format!("{lengths}0\r\n\r\n"));
    let chunks = CHUNKS.map(|chunks| format!("Transfer-Encoding: chunked\r\n\r\n{chunks}"));
    let cases: Vec<String> = lengths.into_iter().chain(chunks).collect();
    let paths = ["/v1/embeddings", "/v1/responses", "/v1/chat/completions"];
    let cases = paths.iter().flat_map(|path| cases.iter().map(move |rest| (*path, rest.clone())));
    let cases = cases.enumerate().map(|(n, (path, rest))| is_one_message(&proxy, &requests, n, path, rest));
    futures::future::join_all(cases).await;
    serves(&proxy).await;
}

/// Where chunks come first a length behind them does not count (RFC 9112, section 6.3), and does not go on.
#[tokio::test]
async fn chunks_go_before_a_length() {
    let (proxy, requests) = watched(&[]).await;
    let request = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    let answer = sent(&proxy, request.as_bytes()).await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    let seen = requests.lock().unwrap().clone();
    assert_eq!(seen.iter().map(|got| got.body.as_slice()).collect::<Vec<_>>(), [b"body"]);
    assert!(seen[0].header("content-length").is_none_or(|length| length == "4"));
}

/// Trailers and extensions of chunks do not become headers.
#[tokio::test]
async fn what_lies_around_chunks_does_not_go_on() {
    let (proxy, requests) = watched(&[]).await;
    let head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n";
    let body = "\r\n4;a=b;c=\"d\"\r\nbody\r\n0\r\nContent-Length: 99\r\nAuthorization: Bearer stolen\r\n\r\n";
    let answer = sent(&proxy, format!("{head}Trailer: Content-Length\r\n{body}").as_bytes()).await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    let seen = requests.lock().unwrap().clone();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].body, b"body");
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(seen[0].header("content-length").map_or("4", |length| length), "4");
}

/// The names of the headers that a chat request may have.
const OURS: [&str; 9] = [
    "host",
    "content-type",
    "content-length",
    "accept",
    "user-agent",
    "authorization",
    "x-request-id",
    "traceparent",
    "tracestate",
];

/// Whatever a client writes into fields and headers, no header of its own making goes on or comes back.
#[tokio::test]
async fn no_value_becomes_a_header() {
    let (proxy, requests) = watched(&[]).await;
    let evil = "x\r\nEvil: 1\r\n\r\nGET /hidden HTTP/1.1\r\n";
    let fields = [
        "model",
        "user",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "previous_response_id",
        "conversation",
        "instructions",
        "input",
    ];
    for field in fields {
        let mut body = json!({"model": "m", "input": "hi", "store": false});
        body[field] = json!(evil);
        let answer = proxy.post(body.to_string()).send().await.unwrap();
        assert!(!answer.headers().contains_key("evil"), "{field}: {:?}", answer.headers());
    }
    let metadata = json!({"model": "m", "input": "hi", "metadata": {"x\r\nEvil: 1": evil}});
    proxy.post(metadata.to_string()).send().await.unwrap();
    let body = json!({"model": "m", "input": "hi"}).to_string();
    for name in
        ["x-request-id", "traceparent", "tracestate", "session-id", "originator", "Authorization", "Origin"]
    {
        for value in ["a\rEvil: 1", "a\nEvil: 1", "a\0b", "a\u{7f}b", "%0d%0aEvil: 1"] {
            let length = body.len();
            let request = format!(
                "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n{name}: {value}\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            let answer = sent(&proxy, request.as_bytes()).await;
            let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
            assert!(!head.contains("\nevil") && !head.contains("\revil"), "{name}: {value:?} {head}");
        }
    }
    for path in ["/v1/x%0d%0aEvil:%201", "/v1/x?a=%0d%0aEvil:%201", "/v1/responses/resp_%0d%0aEvil:%201"] {
        let answer = sent(
            &proxy,
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await;
        let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
        assert!(!head.contains("\nevil"), "{path}: {head}");
    }
    let seen = requests.lock().unwrap().clone();
    assert!(seen.len() > fields.len() / 2, "{}", seen.len());
    for got in &seen {
        let chat = got.line == "POST /v1/chat/completions";
        let strange = got
            .headers
            .iter()
            .find(|(name, _)| name.contains("evil") || chat && !OURS.contains(&name.as_str()));
        assert_eq!(strange, None, "{}", got.line);
        assert_ne!(got.line, "GET /hidden");
    }
    serves(&proxy).await;
}

/// Of an upstream's head, that is: a bare CR or NUL in a value is no header, and no way to one.
#[tokio::test]
async fn an_upstreams_value_becomes_no_header() {
    for value in ["7\rEvil: 1", "7\0", "7\n Evil: 1", "7\u{7f}"] {
        let at = upstream(move |_, mut stream| async move {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nx-ratelimit-limit-requests: {value}\r\nretry-after: {value}\r\n\r\n"
            );
            let _ = stream.write_all(&[head.as_bytes(), text("hello").as_bytes(), STOP.as_bytes()].concat()).await;
        })
        .await;
        let proxy = Proxy::start(at, &[], true).await;
        for path in ["/v1/responses", "/v1/embeddings"] {
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{STREAM}",
                STREAM.len()
            );
            let answer = sent(&proxy, request.as_bytes()).await;
            let head = answer.split("\r\n\r\n").next().unwrap();
            let strange = head
                .bytes()
                .zip(head.bytes().skip(1))
                .any(|(a, b)| a == b'\r' && b != b'\n' || a != b'\r' && b == b'\n');
            let lines = head
                .lines()
                .skip(1)
                .any(|line| line.to_lowercase().starts_with("evil") || line.starts_with(' '));
            assert!(
                head.starts_with("HTTP/1.1 ") && !strange && !lines && !head.contains(['\0', '\u{7f}']),
                "{value:?} {head:?}"
            );
        }
    }
}

/// Resident memory, and the most that there was, in bytes.
fn memory(proxy: &Proxy) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.child.id().unwrap())).unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
    };
    (of("VmRSS:"), of("VmHWM:"))
}

fn descriptors(proxy: &Proxy) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.child.id().unwrap())).unwrap().count()
}

/// Half heads, half bodies and HTTP/2 connections without a stream, each kept open for as long as it is let.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_slow_clients_hold_up_nobody() {
    const HALF_HEADS: usize = 2500;
    const HALF_BODIES: usize = 1000;
    const IDLE: usize = 500;
    let (proxy, _) = watched(&[("REJOINDER_BODY_TIMEOUT", "15s"), ("REJOINDER_SEND_TIMEOUT", "5s")]).await;
    serves(&proxy).await;
    let (before, open) = (memory(&proxy).0, descriptors(&proxy));
    let mut held = Vec::new();
    for n in 0..HALF_HEADS + HALF_BODIES + IDLE {
        let mut stream = connect(&proxy).await;
        let begun = match n {
            ..HALF_HEADS => "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nX-A: b",
            HALF_HEADS..3500 => {
                "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"model\":\"m\","
            }
            _ => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0",
        };
        stream.write_all(begun.as_bytes()).await.unwrap();
        held.push(stream);
    }
    until(async || descriptors(&proxy) >= open + held.len()).await;
    let each = memory(&proxy).0.saturating_sub(before) / held.len() as u64;
    println!("{each} bytes held for each of {} slow clients", held.len());
    assert!(each < 40 << 10, "{each} bytes each");
    let begun = Instant::now();
    // they go on, a byte at a time: no head and no connection gets more time by that
    while begun.elapsed() < Duration::from_secs(5) {
        serves(&proxy).await;
        for stream in &mut held[..HALF_HEADS] {
            let _ = stream.write_all(b"b").await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let gone = async { until(async || descriptors(&proxy) <= open + 8).await };
    // heads and idle connections have 30 s
    while descriptors(&proxy) > open + 8 && begun.elapsed() < Duration::from_secs(40) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    gone.await;
    serves(&proxy).await;
    let (mut timeouts, mut silent) = (0, 0);
    for stream in &mut held[HALF_HEADS..HALF_HEADS + HALF_BODIES] {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        match statuses(&answer).as_slice() {
            [408] => timeouts += 1,
            _ => silent += 1,
        }
    }
    assert_eq!((timeouts, silent), (HALF_BODIES, 0));
}

macro_rules! packed {
    ($encoder:ident, $megabytes:expr) => {{
        let mut encoder = $encoder::with_quality(Vec::new(), Level::Fastest);
        let piece = vec![b' '; 1 << 20];
        for _ in 0..$megabytes {
            encoder.write_all(&piece).await.unwrap();
        }
        encoder.shutdown().await.unwrap();
        encoder.into_inner()
    }};
}

/// 48 MB of white space in less than one.
#[tokio::test]
async fn a_small_request_does_not_become_a_large_one() {
    const MEGABYTES: usize = 48;
    let (proxy, requests) = watched(&[("REJOINDER_MAX_BODY_BYTES", "2097152")]).await;
    serves(&proxy).await;
    let seen = requests.lock().unwrap().len();
    let (before, _) = memory(&proxy);
    let gzip = packed!(GzipEncoder, MEGABYTES);
    let mut twice = GzipEncoder::new(Vec::new());
    twice.write_all(&gzip).await.unwrap();
    twice.shutdown().await.unwrap();
    let bombs = [
        ("gzip", gzip, &[413][..]),
        ("zstd", packed!(ZstdEncoder, MEGABYTES), &[413]),
        ("br", packed!(BrotliEncoder, MEGABYTES), &[413]),
        ("deflate", packed!(ZlibEncoder, MEGABYTES), &[413]),
        ("gzip, gzip", twice.into_inner(), &[413, 415]),
    ];
    for (encoding, bomb, statuses) in bombs {
        assert!(bomb.len() < 1 << 20, "{encoding}: {}", bomb.len());
        for path in ["/v1/responses", "/v1/responses/input_tokens", "/v1/conversations"] {
            let begun = Instant::now();
            let request = reqwest::Client::new().post(format!("{}{path}", proxy.base)).body(bomb.clone());
            let answer = request.header("content-encoding", encoding).send().await.unwrap();
            assert!(statuses.contains(&answer.status().as_u16()), "{encoding} {path}: {}", answer.status());
            let error: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert!(error["error"]["code"].is_string(), "{error}");
            assert!(begun.elapsed() < SERVED, "{encoding} {path}: {:?}", begun.elapsed());
        }
    }
    let (_, most) = memory(&proxy);
    assert!(most < before + (24 << 20), "{most} bytes at the most, {before} before");
    assert_eq!(requests.lock().unwrap().len(), seen);
    serves(&proxy).await;
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A header as HPACK has it, without a table.
fn literal(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

fn post(more: &[(&str, &str)]) -> Vec<u8> {
    let ours = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/v1/responses"),
        (":authority", "localhost"),
        ("content-type", "application/json"),
    ];
    ours.iter().chain(more).flat_map(|(name, value)| literal(name, value)).collect()
}

/// A connection of HTTP/2, spoken by hand.
async fn raw_http2(proxy: &Proxy) -> TcpStream {
    let mut stream = connect(proxy).await;
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&preface).await.unwrap();
    stream
}

/// What the other side says last: the code of its GOAWAY, or that it closed without one.
async fn goodbye(mut stream: TcpStream) -> Option<u32> {
    let mut code = None;
    let read = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() {
                return;
            }
            if head[3] == GOAWAY {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the connection is closed");
    code
}

/// Writes the same over and over, in so many pieces at the most: whether the other side put an end to it.
async fn flooded(stream: &mut TcpStream, piece: &[u8], most: usize) -> bool {
    let flood = async {
        for _ in 0..most {
            if stream.write_all(piece).await.is_err() {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(PATIENCE, flood).await.unwrap_or(true)
}

const ENHANCE_YOUR_CALM: u32 = 11;

/// CVE-2023-44487: streams that are opened and reset at once.
#[tokio::test]
async fn streams_reset_as_they_begin_end_their_connection() {
    let (proxy, _) = watched(&[]).await;
    serves(&proxy).await;
    let (before, open) = (memory(&proxy).0, descriptors(&proxy));
    for with_body in [false, true] {
        let mut stream = raw_http2(&proxy).await;
        let cancel = 8u32.to_be_bytes();
        let mut ended = false;
        for n in 0..5000 {
            let id = 2 * n + 1;
            let begun = match with_body {
                false => frame(HEADERS, END_HEADERS | END_STREAM, id, &post(&[])),
                true => [
                    frame(HEADERS, END_HEADERS, id, &post(&[])),
                    frame(DATA, END_STREAM, id, STREAM.as_bytes()),
                ]
                .concat(),
            };
            if stream.write_all(&[begun, frame(RST_STREAM, 0, id, &cancel)].concat()).await.is_err() {
                ended = true;
                break;
            }
            if n % 1000 == 0 {
                serves(&proxy).await;
            }
        }
        // it is closed; of what it said before, a reset may have lost all
        let code = if ended { None } else { goodbye(stream).await };
        assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
    }
    serves(&proxy).await;
    until(async || descriptors(&proxy) <= open + 2).await;
    let in_flight = async || {
        let metrics = reqwest::get(format!("{}/metrics", proxy.admin)).await.unwrap().text().await.unwrap();
        metrics
            .lines()
            .filter(|line| line.starts_with("rejoinder_upstream_in_flight"))
            .all(|line| line.ends_with(" 0"))
    };
    until(in_flight).await;
    let after = memory(&proxy).0;
    assert!(after < before + (24 << 20), "{after} bytes, {before} before");
}

/// CVE-2024-27316: a head without an end.
#[tokio::test]
async fn a_head_without_end_ends_its_connection() {
    let (proxy, _) = watched(&[]).await;
    serves(&proxy).await;
    let (before, _) = memory(&proxy);
    // one header over and over, none at all, and one that fills its frame
    let large = [vec![0, 1, b'a', 0x7f, 0x81, 0x7f], vec![b'x'; 16_000 + 127 + 127]].concat();
    let large = large[..16_384.min(large.len())].to_vec();
    for piece in [literal("x-a", "b").repeat(1000), Vec::new(), large] {
        let mut stream = raw_http2(&proxy).await;
        stream.write_all(&frame(HEADERS, 0, 1, &post(&[]))).await.unwrap();
        let ended = flooded(&mut stream, &frame(CONTINUATION, 0, 1, &piece), 20_000).await;
        if !ended {
            goodbye(stream).await;
        }
        serves(&proxy).await;
    }
    let (_, most) = memory(&proxy);
    assert!(most < before + (16 << 20), "{most} bytes at the most, {before} before");
}

/// Frames that cost their sender nothing and want an answer: what is answered is not kept for one that does not read.
#[tokio::test]
async fn frames_that_want_an_answer_are_bounded() {
    let (proxy, _) = watched(&[("REJOINDER_SEND_TIMEOUT", "2s")]).await;
    serves(&proxy).await;
    let (before, _) = memory(&proxy);
    for piece in
        [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0x10, 0]), frame(DATA, 0, 1, &[])]
    {
        let mut stream = raw_http2(&proxy).await;
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &post(&[]))).await.unwrap();
        flooded(&mut stream, &piece.repeat(100), 20_000).await;
        serves(&proxy).await;
        let (_, most) = memory(&proxy);
        assert!(most < before + (16 << 20), "{most} bytes at the most, {before} before");
    }
}

/// What a request of HTTP/2 may not have, because it would be another request in HTTP/1.1.
#[tokio::test]
async fn http2_requests_hide_none_of_http1() {
    let (proxy, requests) = watched(&[]).await;
    serves(&proxy).await;
    let seen = requests.lock().unwrap().len();
    let strange: [&[(&str, &str)]; 9] = [
        &[("transfer-encoding", "chunked")],
        &[("connection", "close")],
        &[("x-a", "b\r\nEvil: 1")],
        &[("x-a", "b\0")],
        &[("x-a\r\nevil", "1")],
        &[("X-Upper", "1")],
        &[("content-length", "5")],
        &[("content-length", "900")],
        &[(":path", "/hidden")],
    ];
    for more in strange {
        let mut stream = raw_http2(&proxy).await;
        let request =
            [frame(HEADERS, END_HEADERS, 1, &post(more)), frame(DATA, END_STREAM, 1, STREAM.as_bytes())]
                .concat();
        let _ = stream.write_all(&request).await;
        // a stream is reset, or its connection ended, before anything of it goes on
        let mut all = Vec::new();
        let reset = async {
            let mut piece = [0; 4096];
            loop {
                let read = stream.read(&mut piece).await.unwrap_or(0);
                all.extend_from_slice(&piece[..read]);
                let mut rest = all.as_slice();
                while rest.len() >= 9 {
                    let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
                    if rest[3] == RST_STREAM || rest[3] == GOAWAY || rest[3] == HEADERS {
                        return;
                    }
                    rest = rest.get(9 + length..).unwrap_or_default();
                }
                if read == 0 {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reset).await.expect("it is refused");
    }
    serves(&proxy).await;
    let after = requests.lock().unwrap().clone();
    assert_eq!(after.len(), seen + 1, "{:?}", after[seen..].iter().map(|got| &got.line).collect::<Vec<_>>());
}
