//! Streams with hostile requests beside them: how long each stream pauses, with them and without. It must not start
//! processes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as Blocking};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::upstream::{Kind, Script};

/// Between two tokens of a stream.
pub const EVERY: Duration = Duration::from_millis(50);
/// In which time the streams begin, so that their tokens come evenly.
const BEGIN: Duration = Duration::from_secs(2);
/// What a stream and an answer may take beside their own time.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a number of streams went.
#[derive(Debug)]
pub struct Pauses {
    /// The longest of each stream, the shortest first.
    pub longest: Vec<Duration>,
    /// Streams that did not come to their end, and why.
    pub failures: Vec<String>,
    /// By how much this program itself was late at most: no pause can be told from it.
    pub own: Duration,
}

impl Pauses {
    /// The longest of all.
    pub fn most(&self) -> Duration {
        self.longest.last().copied().unwrap_or_default()
    }

    /// How it went, in one line.
    pub fn line(&self) -> String {
        let at = |part: usize| self.longest.get(self.longest.len() * part / 100).copied().unwrap_or_default();
        format!(
            "longest pause of a stream: median {:.0} ms, p99 {:.0} ms, most {:.0} ms; {} failed; the generator itself was late by {:.0} ms",
            millis(at(50)),
            millis(at(99)),
            millis(self.most()),
            self.failures.len(),
            millis(self.own),
        )
    }
}

pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Reads so many streams of so many tokens each, on a thread of their own: the upstream, which reads large bodies on this
/// one, must not delay what is measured.
pub async fn streams(address: SocketAddr, count: usize, tokens: usize) -> Pauses {
    let read = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok::<_, std::io::Error>(tokio::task::LocalSet::new().block_on(&runtime, read(address, count, tokens)))
    };
    let failed = |why: String| Pauses { longest: Vec::new(), failures: vec![why], own: Duration::ZERO };
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(pauses)) => pauses,
        Ok(Err(error)) => failed(error.to_string()),
        Err(error) => failed(error.to_string()),
    }
}

async fn read(address: SocketAddr, count: usize, tokens: usize) -> Pauses {
    let watch = tokio::task::spawn_local(lateness());
    let limit = EVERY * u32::try_from(tokens).unwrap_or(u32::MAX) + PATIENCE;
    let tasks = (0..count).map(|n| {
        let begin = BEGIN * n as u32 / count as u32;
        let script = Script {
            kind: Kind::Text,
            stream: n as u32,
            amount: tokens,
            batch: 1,
            joined: false,
            every: EVERY,
        };
        tokio::task::spawn_local(async move {
            tokio::time::sleep(begin).await;
            let read = tokio::time::timeout(limit, stream(address, &script.model())).await;
            read.unwrap_or_else(|_| Err("no end in time".to_owned()))
        })
    });
    let mut pauses = Pauses { longest: Vec::new(), failures: Vec::new(), own: Duration::ZERO };
    for task in tasks.collect::<Vec<_>>() {
        match task.await {
            Ok(Ok(longest)) => pauses.longest.push(longest),
            Ok(Err(failure)) => pauses.failures.push(failure),
            Err(error) => pauses.failures.push(error.to_string()),
        }
    }
    pauses.longest.sort();
    LATE.with(|late| pauses.own = late.replace(Duration::ZERO));
    watch.abort();
    pauses
}

thread_local! {
    static LATE: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

/// Notes by how much a sleep of this thread was too long.
async fn lateness() {
    let pause = Duration::from_millis(5);
    loop {
        let begun = Instant::now();
        tokio::time::sleep(pause).await;
        let late = begun.elapsed().saturating_sub(pause);
        LATE.with(|most| most.set(most.get().max(late)));
    }
}

/// Reads one stream to its end: the longest time between two reads.
async fn stream(address: SocketAddr, model: &str) -> Result<Duration, String> {
    let body = format!("{{\"model\":\"{model}\",\"input\":\"hi\",\"stream\":true,\"store\":false}}");
    let io = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(io)?;
    stream.write_all(&[head(body.len()).as_bytes(), body.as_bytes()].concat()).await.map_err(io)?;
    let (mut tail, mut buffer) = (Vec::new(), vec![0; 4096]);
    let (mut last, mut longest) = (None, Duration::ZERO);
    loop {
        let read = stream.read(&mut buffer).await.map_err(io)?;
        let now = Instant::now();
        let bytes = buffer.get(..read).unwrap_or_default();
        if last.is_none() && !bytes.starts_with(b"HTTP/1.1 200 ") {
            return Err(String::from_utf8_lossy(bytes).lines().next().unwrap_or("closed at once").to_owned());
        }
        longest = longest.max(last.map_or(Duration::ZERO, |last| now.duration_since(last)));
        last = Some(now);
        tail.extend_from_slice(bytes);
        if memchr::memmem::find(&tail, b"data: [DONE]\n\n").is_some() {
            let failed = memchr::memmem::find(&tail, b"event: response.completed").is_none();
            return if failed { Err("it failed".to_owned()) } else { Ok(longest) };
        }
        if read == 0 {
            return Err("cut off".to_owned());
        }
        // the last event repeats the whole text
        if memchr::memmem::find(&tail, b"event: response.completed").is_none() {
            tail.drain(..tail.len().saturating_sub(64));
        }
    }
}

fn head(length: usize) -> String {
    format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// How many times as long reading a body takes in this build as in a release.
pub const SLOWER: usize = if cfg!(debug_assertions) { 5 } else { 1 };

/// Requests that once ended the process, filled its memory, or held up its threads, with their names. The longest of
/// them take about as long in each build.
pub fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    // a server that answers at once
    let model =
        Script { kind: Kind::Whole, stream: 0, amount: 1, batch: 1, joined: true, every: Duration::ZERO }
            .model();
    let request = |members: &str| format!("{{\"model\":\"{model}\",{members}}}").into_bytes();
    let nested = |n: usize| {
        let (open, close) = (r#"[{"type":"namespace","name":"n","tools":"#, "}]");
        request(&format!("\"input\":\"x\",\"tools\":{}[]{}", open.repeat(n), close.repeat(n)))
    };
    let numbers = format!("\"input\":[{}1]", "1,".repeat(1_999_999));
    let call = r#"{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},"#;
    // what is stored stays in memory, as it should
    let calls = format!(
        "\"store\":false,\"input\":[{}{{\"role\":\"user\",\"content\":\"x\"}}]",
        call.repeat(16_000 / SLOWER)
    );
    let allowed = r#"{"type":"function","name":"f"},"#.repeat(30_000 / SLOWER);
    let allowed = format!(
        "\"input\":\"x\",\"tools\":[{{\"type\":\"function\",\"name\":\"f\",\"parameters\":{{}}}}],\"tool_choice\":{{\"type\":\"allowed_tools\",\"mode\":\"auto\",\"tools\":[{}]}}",
        allowed.trim_end_matches(',')
    );
    vec![
        ("depth", nested(3000)),
        ("numbers", request(&numbers)),
        ("calls", request(&calls)),
        ("allowed tools", request(&allowed)),
    ]
}

/// A request of about so many bytes, of messages like a long conversation's.
pub fn large(bytes: usize) -> Vec<u8> {
    let text = "All work and no play makes a long conversation. ".repeat(400);
    let message = format!("{{\"role\":\"user\",\"content\":\"{text}\"}},");
    let model =
        Script { kind: Kind::Whole, stream: 0, amount: 1, batch: 1, joined: true, every: Duration::ZERO }
            .model();
    let mut body = format!("{{\"model\":\"{model}\",\"store\":false,\"input\":[");
    while body.len() < bytes {
        body.push_str(&message);
    }
    body.pop();
    body.push_str("]}");
    body.into_bytes()
}

/// Sends requests from threads of its own, each over and over, until it is stopped.
pub struct Hostile {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(&'static str, BTreeMap<String, usize>)>>,
}

impl Hostile {
    /// Each of `requests` once in `every`, or as soon as it is answered.
    pub fn start(
        address: SocketAddr,
        requests: Vec<(&'static str, Arc<Vec<u8>>)>,
        every: Duration,
    ) -> Hostile {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = requests.into_iter().map(|(name, body)| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut answers = BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let answer = post(address, &body).unwrap_or_else(|error| error.to_string());
                    *answers.entry(answer).or_default() += 1;
                    std::thread::sleep(every.saturating_sub(begun.elapsed()));
                }
                (name, answers)
            })
        });
        Hostile { threads: threads.collect(), stop }
    }

    /// Ends it: how often each request got which answer.
    pub async fn stop(self) -> Vec<(&'static str, BTreeMap<String, usize>)> {
        self.stop.store(true, Ordering::Relaxed);
        let join = || self.threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
        // not on this thread, where the upstream runs that answers the last ones
        tokio::task::spawn_blocking(join).await.unwrap_or_default()
    }
}

/// The status of the answer.
fn post(address: SocketAddr, body: &[u8]) -> std::io::Result<String> {
    let mut stream = Blocking::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(head(body.len()).as_bytes())?;
    // it may be refused before it is read
    let written = stream.write_all(body);
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).map_err(|error| written.err().unwrap_or(error))?;
    Ok(String::from_utf8_lossy(answer.get(9..).unwrap_or_default()).into_owned())
}
