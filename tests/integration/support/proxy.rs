//! A running rejoinder (the built binary) and the upstream that a test scripts for it, byte by byte.

use std::future::Future;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

/// No condition takes longer to come true than this.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One request that the upstream got.
#[derive(Debug, Clone)]
pub struct Got {
    /// `POST /v1/chat/completions`
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Serves each connection's requests with `script`; looks at it are answered as by llama-server.
pub async fn upstream<F, A>(script: F) -> SocketAddr
where
    F: Fn(Got, TcpStream) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send,
{
    upstream_listing(LISTED, script).await
}

/// One model, `m`.
pub const LISTED: &str = r#"{"object":"list","data":[{"id":"m","object":"model","owned_by":"test"}]}"#;

/// The same with these models.
pub async fn upstream_listing<F, A>(models: &'static str, script: F) -> SocketAddr
where
    F: Fn(Got, TcpStream) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let script = script.clone();
            tokio::spawn(async move {
                let Some((got, mut stream)) = read(stream).await else { return };
                match got.line.as_str() {
                    "GET /props" => {
                        let props = "{\"default_generation_settings\":{\"n_ctx\":32768},\"chat_template\":\"\",\"total_slots\":2}";
                        let _ = stream.write_all(&whole("200 OK", "application/json", props)).await;
                    }
                    "GET /health" => {
                        let _ = stream.write_all(&whole("200 OK", "application/json", "{}")).await;
                    }
                    "GET /v1/models" => {
                        let _ = stream.write_all(&whole("200 OK", "application/json", models)).await;
                    }
                    _ => script(got, stream).await,
                }
            });
        }
    });
    address
}

/// A server that sends a text and ends its answer when it is told to.
pub async fn waiting() -> (SocketAddr, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let at = upstream(move |_, mut stream| {
        let wait = wait.clone();
        async move {
            stream.write_all(&[EVENTS, text("a").as_bytes()].concat()).await.unwrap();
            wait.notified().await;
            let _ = stream.write_all(STOP.as_bytes()).await;
        }
    })
    .await;
    (at, go)
}

pub async fn read(stream: TcpStream) -> Option<(Got, TcpStream)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    let line = line.rsplit_once(' ')?.0.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let mut got = Got { line, headers, body: Vec::new() };
    if let Some(length) = got.header("content-length").and_then(|l| l.parse().ok()) {
        got.body = vec![0; length];
        reader.read_exact(&mut got.body).await.ok()?;
    } else if got.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).await.ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut piece = vec![0; size + 2];
            reader.read_exact(&mut piece).await.ok()?;
            if size == 0 {
                break;
            }
            got.body.extend_from_slice(&piece[..size]);
        }
    }
    Some((got, reader.into_inner()))
}

/// An answer of one piece, after which the connection is closed.
pub fn whole(status: &str, content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The head of an event stream that ends with its connection.
pub const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

/// A chunk with this text.
pub fn text(text: &str) -> String {
    let delta = serde_json::json!({"content": text});
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}]}}\n\n")
}

/// The end of an answer.
pub const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n\
    data: [DONE]\n\n";

/// A client for all tests: to make one takes the time to read the certificates that the machine trusts. It keeps no
/// connection, which would end with the test that made it.
pub fn client() -> reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> =
        LazyLock::new(|| reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap());
    CLIENT.clone()
}

/// The built binary in front of an upstream.
pub struct Proxy {
    pub base: String,
    pub admin: String,
    pub child: Child,
    /// Its log so far, from the line on that tells where it listens.
    pub lines: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts it on free ports with these variables, and waits until it is ready (or, with `ready` false, listens).
    pub async fn start(upstream: SocketAddr, env: &[(&str, &str)], ready: bool) -> Proxy {
        Proxy::with(&["--upstream", &format!("http://{upstream}")], env, ready).await
    }

    /// The same with these arguments in place of an upstream's, and of the addresses where they name some.
    pub async fn with(args: &[&str], env: &[(&str, &str)], ready: bool) -> Proxy {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rejoinder"));
        command
            .args(args)
            .args(if args.contains(&"--listen") {
                &[][..]
            } else {
                &["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
            })
            .envs(env.iter().copied());
        Proxy::of(command, ready).await
    }

    /// The same, started by this command.
    pub async fn of(mut command: Command, ready: bool) -> Proxy {
        let mut child = command
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first: serde_json::Value = loop {
            let line = lines.next_line().await.unwrap().unwrap();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["listen"].is_string() {
                break line;
            }
        };
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push(line);
            }
        });
        let at = |name: &str| format!("http://{}", first[name].as_str().unwrap());
        let proxy = Proxy { base: at("listen"), admin: at("admin"), child, lines: log };
        if ready {
            let url = format!("{}/readyz", proxy.admin);
            until(async || client().get(&url).send().await.is_ok_and(|r| r.status() == 200)).await;
        }
        proxy
    }

    pub fn post(&self, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        client().post(format!("{}/v1/responses", self.base)).body(body)
    }

    /// The value of a metric, with its labels as written; 0 while it is not there.
    pub async fn metric(&self, name: &str) -> u64 {
        let text =
            client().get(format!("{}/metrics", self.admin)).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// Its log so far, as text.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// The lines so far that tell the end of a request or of a run.
    pub fn ended(&self) -> Vec<serde_json::Value> {
        let lines = self.lines.lock().unwrap();
        let lines = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line["target"] == "rejoinder::access").collect()
    }

    /// Those of the request with that id, once there are so many.
    pub async fn ended_of(&self, id: &str, count: usize) -> Vec<serde_json::Value> {
        let lines = || -> Vec<_> { self.ended().into_iter().filter(|line| line["id"] == id).collect() };
        until(async || lines().len() >= count).await;
        lines()
    }

    /// The whole answer to a streamed request with this input.
    pub async fn stream(&self) -> String {
        self.post(STREAM).send().await.unwrap().text().await.unwrap()
    }
}

/// Sends a signal, `TERM` or `HUP`, to a process.
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
}

/// A small streamed request.
pub const STREAM: &str = "{\"model\":\"m\",\"input\":\"hi\",\"stream\":true}";

/// Waits for a condition.
pub async fn until(condition: impl AsyncFn() -> bool) {
    let check = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, check).await.expect("the condition came true in time");
}
