//! Owns a server that breaks where it is told to: the input of a chat request names the fault and the phase.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_compression::tokio::write::GzipEncoder;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::proxy::{Got, LISTED, STOP, read, text, whole};

/// Longer than any client waits here.
const HELD: Duration = Duration::from_secs(60);
const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
const JSON: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n";
const LAST_CHUNK: &str = "0\r\n\r\n";
const PAGE: &str = "<html>\n<head><title>Gateway</title></head>\n<body>no such luck</body>\n</html>\n";
/// Bytes of the text of a long answer.
pub const LONG: usize = 1 << 20;
/// Longer than a line may be.
const HUGE: usize = 17 << 20;

/// What it saw of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sight {
    /// It came, and what is to be sent of the answer was sent.
    pub held: bool,
    /// Its connection was closed by the other side.
    pub gone: bool,
}

/// The server.
#[derive(Clone)]
pub struct Faulty {
    pub address: SocketAddr,
    /// What happens to each new connection, if anything.
    at_connect: Arc<Mutex<Option<String>>>,
    sights: Arc<Mutex<BTreeMap<String, Sight>>>,
    /// Whether an answer is one object.
    is_whole: Arc<AtomicBool>,
}

impl Faulty {
    /// One that answers in events, or with one object.
    pub async fn start(is_whole: bool) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Faulty {
            address: listener.local_addr().unwrap(),
            at_connect: Arc::default(),
            sights: Arc::default(),
            is_whole: Arc::new(AtomicBool::new(is_whole)),
        };
        let own = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = own.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        server
    }

    /// From now on this happens to each connection as it is made; an empty fault is none.
    pub fn at_connect(&self, fault: &str) {
        *self.at_connect.lock().unwrap() = Some(fault.to_owned()).filter(|fault| !fault.is_empty());
    }

    /// What it saw of the request with this input.
    pub fn sight(&self, input: &str) -> Sight {
        self.sights.lock().unwrap().get(input).copied().unwrap_or_default()
    }

    fn saw(&self, input: &str, what: impl FnOnce(&mut Sight)) {
        what(self.sights.lock().unwrap().entry(input.to_owned()).or_default());
    }

    async fn serve(&self, mut stream: TcpStream) {
        let fault = self.at_connect.lock().unwrap().clone();
        if let Some(fault) = fault {
            return Answer { fault: &fault, phase: "request read", is_whole: false, stream }.connect().await;
        }
        let Some((got, back)) = read(stream).await else { return };
        stream = back;
        let answer = match got.line.as_str() {
            "GET /props" if !self.is_whole.load(Ordering::SeqCst) => {
                whole("200 OK", "application/json", "{\"default_generation_settings\":{},\"total_slots\":2}")
            }
            "GET /health" => whole("200 OK", "application/json", "{}"),
            "GET /v1/models" => whole("200 OK", "application/json", LISTED),
            "POST /v1/chat/completions" => return self.chat(got, stream).await,
            _ => whole("404 Not Found", "application/json", "{}"),
        };
        let _ = stream.write_all(&answer).await;
    }

    async fn chat(&self, got: Got, mut stream: TcpStream) {
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        let input = body["messages"][0]["content"].as_str().unwrap().to_owned();
        let Some((fault, rest)) = input.split_once('|') else {
            let answer = [EVENTS, "\r\n", &text("hello"), STOP].concat();
            let _ = stream.write_all(answer.as_bytes()).await;
            return;
        };
        let phase = rest.split('|').next().unwrap();
        match fault {
            "no end" => return self.endless(&input, stream).await,
            "long" => {
                let piece = text(&"x".repeat(1 << 10)).repeat(LONG >> 10);
                let _ = stream.write_all([EVENTS, "\r\n", &piece, STOP].concat().as_bytes()).await;
                return;
            }
            _ => {}
        }
        let is_whole = self.is_whole.load(Ordering::SeqCst);
        let mut answer = Answer { fault, phase, is_whole, stream };
        match answer.send().await {
            Ok(true) => {
                self.saw(&input, |sight| sight.held = true);
                answer.hold().await;
                self.saw(&input, |sight| sight.gone = true);
            }
            Ok(false) if answer.fault == "reset" => {
                SockRef::from(&answer.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            _ => {}
        }
    }

    /// Text for as long as anybody takes it.
    async fn endless(&self, input: &str, mut stream: TcpStream) {
        let piece = text(&"x".repeat(1 << 10));
        let _ = stream.write_all(format!("{EVENTS}\r\n").as_bytes()).await;
        while stream.write_all(piece.as_bytes()).await.is_ok() {
            self.saw(input, |sight| sight.held = true);
        }
        self.saw(input, |sight| sight.gone = true);
    }
}

/// One answer on its way.
struct Answer<'a> {
    fault: &'a str,
    phase: &'a str,
    is_whole: bool,
    stream: TcpStream,
}

impl Answer<'_> {
    async fn connect(mut self) {
        match self.fault {
            "reset" => SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap(),
            "half-close" => {
                let _ = self.stream.shutdown().await;
                self.hold().await;
            }
            "garbage" => {
                let _ = self.stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await;
                self.hold().await;
            }
            other => panic!("no such fault of a connection: {other}"),
        }
    }

    /// What of the answer is sent before the fault, and what is left.
    fn parts(&self) -> (String, String) {
        let part = |before: &str, after: &str| (before.to_owned(), after.to_owned());
        if self.is_whole {
            let message = json!({"role": "assistant", "content": "hello"});
            let body = json!({"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
            let body = body.to_string();
            let (half, rest) = body.split_at(body.find("hello").unwrap() + 2);
            return match self.phase {
                "request read" | "head sent" => part("", &body),
                "mid text" => part(half, rest),
                "all sent" => part(&body, ""),
                other => panic!("no such phase of an object: {other}"),
            };
        }
        let (finish, end) = STOP.split_at(STOP.find("data: {\"choices\":[],").unwrap());
        let call = |function: Value| {
            let calls = json!([{"index": 0, "id": "call_1", "type": "function", "function": function}]);
            format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]}))
        };
        match self.phase {
            "request read" | "request sent" | "head sent" => part("", &(text("hello") + STOP)),
            "mid text" => part(&text("hel"), &(text("lo") + STOP)),
            "mid arguments" => {
                let begun = call(json!({"name": "get", "arguments": "{\"a\":"}));
                let rest = call(json!({"arguments": "1}"})) + &STOP.replace("\"stop\"", "\"tool_calls\"");
                (begun, rest)
            }
            "finish_reason sent" => (text("hello") + finish, end.to_owned()),
            "[DONE] sent" => (text("hello") + STOP, String::new()),
            other => panic!("no such phase: {other}"),
        }
    }

    fn head(&self) -> &'static str {
        if self.is_whole { JSON } else { EVENTS }
    }

    /// Sends what comes before the fault, and the fault itself. Whether the connection is held open behind it.
    async fn send(&mut self) -> std::io::Result<bool> {
        if self.phase == "request read" || self.phase == "request sent" {
            return self.send_instead_of_an_answer().await;
        }
        let (before, after) = self.parts();
        let begun = format!("{}{CHUNKED}{}", self.head(), chunk(before.as_bytes()));
        match self.fault {
            "two lengths" => unreachable!("of a head"),
            "length too short" | "length too long" => {
                let long = self.fault == "length too long";
                let length = before.len() + if long { after.len() + 10 } else { 0 };
                let rest = if long { "" } else { &after };
                let answer = format!("{}Content-Length: {length}\r\n\r\n{before}{rest}", self.head());
                self.stream.write_all(answer.as_bytes()).await?;
                if long {
                    self.stream.shutdown().await?;
                }
                // a connection that is good for another request is not held
                return Ok(long || !after.is_empty());
            }
            "gzip, cut" | "gzip, damaged" => {
                let mut encoder = GzipEncoder::new(Vec::new());
                encoder.write_all(before.as_bytes()).await?;
                encoder.flush().await?;
                let damage: &[u8] = if self.fault == "gzip, damaged" { &[0xff; 64] } else { b"" };
                let body = [encoder.get_ref(), damage].concat();
                let head = format!(
                    "{}Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
                    self.head(),
                    body.len()
                );
                self.stream.write_all(&[head.as_bytes(), &body].concat()).await?;
                return Ok(false);
            }
            _ => {}
        }
        // an object that is whole has a length, so that nothing more is waited for
        let begun = match self.phase {
            "all sent" if ["reset", "half-close", "stall", "garbage"].contains(&self.fault) => {
                format!("{JSON}Connection: close\r\nContent-Length: {}\r\n\r\n{before}", before.len())
            }
            _ => begun,
        };
        self.stream.write_all(begun.as_bytes()).await?;
        let (sent, held): (String, bool) = match self.fault {
            "reset" => return Ok(false),
            "half-close" => {
                self.stream.shutdown().await?;
                return Ok(true);
            }
            "stall" | "stall after commit_after" => return Ok(true),
            "half a line, then stall" => (chunk(b"data: {\"choi"), true),
            "garbage" if self.phase == "all sent" => ("\0\u{1}garbage".to_owned(), true),
            "garbage" => {
                let garbage = b"\x00\x01\x02 garbage \x7f\n\x1b[0m\n\n";
                (chunk(garbage) + LAST_CHUNK, false)
            }
            "no JSON" => (chunk(b"data: {this is no json\n\n") + LAST_CHUNK, false),
            "invalid chunk" => ("zz\r\nhello\r\n".to_owned(), true),
            "no last chunk" => {
                self.stream.shutdown().await?;
                return Ok(true);
            }
            "huge line" => (format!("{HUGE:x}\r\ndata: {}", "x".repeat(HUGE - 6)), true),
            "page of HTML" => (chunk(PAGE.as_bytes()) + LAST_CHUNK, false),
            status => (chunk(format!("data: {}\n\n", error(status)).as_bytes()) + LAST_CHUNK, false),
        };
        self.stream.write_all(sent.as_bytes()).await?;
        Ok(held)
    }

    async fn send_instead_of_an_answer(&mut self) -> std::io::Result<bool> {
        let (_, answer) = self.parts();
        let good = format!("{}{CHUNKED}{}{LAST_CHUNK}", self.head(), chunk(answer.as_bytes()));
        let (sent, held): (Vec<u8>, bool) = match self.fault {
            "reset" => return Ok(false),
            "half-close" => {
                self.stream.shutdown().await?;
                return Ok(true);
            }
            "stall" | "stall after commit_after" => return Ok(true),
            "half a line, then stall" => (b"HTTP/1.1 200 OK\r\nConte".to_vec(), true),
            "garbage" => (b"\x00\x01\xffnonsense\r\n\r\n".to_vec(), true),
            "two lengths" => {
                let answer = format!("{EVENTS}Content-Length: 5\r\nContent-Length: 6\r\n\r\n{answer}");
                (answer.into_bytes(), true)
            }
            "huge line" => (format!("HTTP/1.1 200 OK\r\nX-A: {}", "x".repeat(300 << 10)).into_bytes(), true),
            "1xx, then the answer" => {
                let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(3);
                (format!("HTTP/1.1 100 Continue\r\n\r\n{hints}{good}").into_bytes(), false)
            }
            "1xx without end" => loop {
                let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(1000);
                self.stream.write_all(hints.as_bytes()).await?;
            },
            "101" => {
                let upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
                (upgrade.as_bytes().to_vec(), true)
            }
            "302" => (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n".to_vec(), false),
            "page of HTML" => (whole("200 OK", "text/html", PAGE), false),
            "page of HTML with 502" => (whole("502 Bad Gateway", "text/html", PAGE), false),
            "gzip" | "gzip without a label" => {
                let mut encoder = GzipEncoder::new(Vec::new());
                encoder.write_all(answer.as_bytes()).await?;
                encoder.shutdown().await?;
                let body = encoder.into_inner();
                let label = if self.fault == "gzip" { "Content-Encoding: gzip\r\n" } else { "" };
                let head = format!("{}{label}Content-Length: {}\r\n\r\n", self.head(), body.len());
                ([head.as_bytes(), &body].concat(), false)
            }
            status => (whole(&format!("{status} Status"), "application/json", &error(status)), false),
        };
        self.stream.write_all(&sent).await?;
        Ok(held)
    }

    /// Until the other side is gone.
    async fn hold(&mut self) {
        let gone = async {
            let mut rest = [0; 1024];
            while self.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        };
        let _ = tokio::time::timeout(HELD, gone).await;
    }
}

fn chunk(bytes: &[u8]) -> String {
    match bytes.len() {
        0 => String::new(),
        length => format!("{length:x}\r\n{}\r\n", std::str::from_utf8(bytes).unwrap()),
    }
}

fn error(status: &str) -> String {
    let status: u16 = status.parse().unwrap_or_else(|_| panic!("no such fault: {status}"));
    json!({"error": {"code": status, "message": "no such luck", "type": "some_error"}}).to_string()
}
