//! Owns the tests of several servers behind one rejoinder: where requests go, what happens while a server is away,
//! and what a changed configuration does. Real processes and sockets; the servers are scripted.

use crate::support::proxy;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::proxy::{EVENTS, Got, LISTED, Proxy, STOP, STREAM, text, until, upstream_listing, whole};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A server that does one thing with every chat request, and keeps what it got.
struct Scripted {
    at: SocketAddr,
    chats: Arc<Mutex<Vec<Got>>>,
}

#[derive(Clone)]
enum Does {
    /// Says this and is done.
    Answers(&'static str),
    /// Sends these bytes and closes the connection.
    Sends(Vec<u8>),
    /// Sends these bytes and nothing more until the client leaves.
    Hangs(Vec<u8>),
    /// Answers when it is let go.
    Holds(watch::Receiver<bool>),
}

impl Scripted {
    async fn new(does: Does) -> Scripted {
        Scripted::listing(does, LISTED).await
    }

    async fn listing(does: Does, models: &'static str) -> Scripted {
        let chats: Arc<Mutex<Vec<Got>>> = Arc::default();
        let seen = chats.clone();
        let at = upstream_listing(models, move |got, stream| {
            seen.lock().unwrap().push(got);
            act(does.clone(), stream)
        })
        .await;
        Scripted { at, chats }
    }

    fn count(&self) -> usize {
        self.chats.lock().unwrap().len()
    }

    fn body(&self, n: usize) -> Value {
        serde_json::from_slice(&self.chats.lock().unwrap()[n].body).unwrap()
    }
}

async fn act(does: Does, mut stream: TcpStream) {
    let say = |words: &str| [EVENTS, text(words).as_bytes(), STOP.as_bytes()].concat();
    match does {
        Does::Answers(words) => drop(stream.write_all(&say(words)).await),
        Does::Sends(bytes) => drop(stream.write_all(&bytes).await),
        Does::Hangs(bytes) => {
            let _ = stream.write_all(&bytes).await;
            gone(&stream).await;
        }
        Does::Holds(mut let_go) => {
            let _ = let_go.wait_for(|let_go| *let_go).await;
            let _ = stream.write_all(&say("held")).await;
        }
    }
}

/// Until the other side closes.
async fn gone(stream: &TcpStream) {
    let mut byte = [0];
    while !matches!(stream.peek(&mut byte).await, Ok(0) | Err(_)) {}
}

/// `[[upstream]]` tables in a file of their own folder.
struct Conf {
    folder: TempDir,
}

impl Conf {
    fn of(tables: &[(SocketAddr, &str)]) -> Conf {
        let conf = Conf { folder: TempDir::new().unwrap() };
        conf.write(tables);
        conf
    }

    fn write(&self, tables: &[(SocketAddr, &str)]) {
        let tables = tables.iter().map(|(at, more)| format!("[[upstream]]\nurl = 'http://{at}'\n{more}\n"));
        self.text(&tables.collect::<String>());
    }

    fn text(&self, text: &str) {
        // as editors do it: a whole new file in its place
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    fn path(&self) -> String {
        self.folder.path().join("rejoinder.toml").to_str().unwrap().to_owned()
    }

    async fn proxy(&self, env: &[(&str, &str)]) -> Proxy {
        Proxy::with(&["--config", &self.path()], env, true).await
    }
}

/// Waits until that many servers are ready.
async fn all_up(proxy: &Proxy, servers: &[&Scripted]) {
    for server in servers {
        let name = format!("rejoinder_upstream_up{{upstream=\"http://{}\"}}", server.at);
        until(async || proxy.metric(&name).await == 1).await;
    }
}

fn request(model: &str, key: &str) -> String {
    json!({"model": model, "input": "hi", "stream": true, "prompt_cache_key": key}).to_string()
}

async fn answer(proxy: &Proxy, body: String) -> String {
    proxy.post(body).send().await.unwrap().text().await.unwrap()
}

fn completed(answer: &str) -> bool {
    answer.contains("event: response.completed")
}

#[tokio::test]
async fn a_format_is_kept_by_whichever_server_answers() {
    let broken =
        whole("500 Internal Server Error", "application/json", r#"{"error":{"message":"disk full"}}"#);
    let keeps = Scripted::new(Does::Sends(broken)).await;
    let other = Scripted::new(Does::Answers("no JSON")).await;
    let conf = Conf::of(&[(keeps.at, "dialect = 'openai'\nweight = 9"), (other.at, "")]);
    let proxy = conf.proxy(&[]).await;
    all_up(&proxy, &[&keeps, &other]).await;
    let request = json!({"model": "m", "input": "hi", "text": {"format": {"type": "json_object"}},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]});
    until(async || {
        answer(&proxy, request.to_string()).await;
        keeps.count() > 0
    })
    .await;
    // the one was told of the format beside the tools; the other was not, and is asked once more
    assert!(keeps.body(0).get("response_format").is_some(), "{}", keeps.body(0));
    let last = other.count() - 1;
    assert!(other.body(last - 1).get("response_format").is_none(), "{}", other.body(last - 1));
    assert_eq!(other.body(last)["response_format"]["type"], "json_object");
    assert_eq!(other.body(last)["tool_choice"], "none");
}

#[tokio::test]
async fn what_is_asked_once_more_is_asked_of_the_same_server() {
    let (a, b) =
        (Scripted::new(Does::Answers("no JSON")).await, Scripted::new(Does::Answers("no JSON")).await);
    let conf = Conf::of(&[(a.at, ""), (b.at, "")]);
    let proxy = conf.proxy(&[]).await;
    all_up(&proxy, &[&a, &b]).await;
    let request = json!({"model": "m", "input": "hi", "stream": true, "text": {"format": {"type": "json_object"}},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]});
    for n in 1..=4 {
        answer(&proxy, request.to_string()).await;
        assert_eq!(a.count() + b.count(), 2 * n);
        assert_eq!((a.count() % 2, b.count() % 2), (0, 0), "each has its own prompts in its cache");
    }
}

#[tokio::test]
async fn a_model_leads_to_its_server_under_the_servers_own_name() {
    let (a, b) = (Scripted::new(Does::Answers("a")).await, Scripted::new(Does::Answers("b")).await);
    let conf = Conf::of(&[(a.at, "models = ['one']"), (b.at, "models = ['two', 'gpt-5=m']")]);
    let proxy = conf.proxy(&[]).await;
    all_up(&proxy, &[&a, &b]).await;
    for (model, server, own) in [("one", &a, "one"), ("two", &b, "two"), ("gpt-5", &b, "m")] {
        let before = server.count();
        let answer = answer(&proxy, request(model, "k")).await;
        assert!(completed(&answer) && answer.contains(&format!("\"model\":\"{model}\"")), "{answer}");
        assert_eq!(server.count(), before + 1, "{model}");
        assert_eq!(server.body(before)["model"], own);
    }
    let refused = proxy.post(request("three", "k")).send().await.unwrap();
    assert_eq!(refused.status(), 404);
    assert!(refused.text().await.unwrap().contains("model_not_found"));
}

#[tokio::test]
async fn a_listed_model_needs_no_configuration() {
    let one = r#"{"data":[{"id":"one"}]}"#;
    let two = r#"{"data":[{"id":"two","aliases":["second"]}]}"#;
    let a = Scripted::listing(Does::Answers("a"), one).await;
    let b = Scripted::listing(Does::Answers("b"), two).await;
    let proxy = Conf::of(&[(a.at, ""), (b.at, "")]).proxy(&[]).await;
    all_up(&proxy, &[&a, &b]).await;
    for (model, want) in [("one", (1, 0)), ("two", (1, 1)), ("second", (1, 2))] {
        assert!(completed(&answer(&proxy, request(model, "k")).await));
        assert_eq!((a.count(), b.count()), want, "{model}");
    }
}

#[tokio::test]
async fn a_conversation_stays_where_its_cache_is() {
    let servers = [
        Scripted::new(Does::Answers("a")).await,
        Scripted::new(Does::Answers("b")).await,
        Scripted::new(Does::Answers("c")).await,
    ];
    let conf = Conf::of(&[(servers[0].at, ""), (servers[1].at, ""), (servers[2].at, "")]);
    let proxy = conf.proxy(&[]).await;
    all_up(&proxy, &[&servers[0], &servers[1], &servers[2]]).await;
    for turn in 0..4 {
        for key in ["x", "y", "z"] {
            assert!(completed(&answer(&proxy, request("m", key)).await), "{turn}");
        }
    }
    for server in &servers {
        let keys: Vec<usize> = vec![server.count()];
        assert_eq!(keys, [4], "three conversations, three servers, four turns each");
    }
    assert_eq!(proxy.metric("rejoinder_affinity_total{kind=\"hit\"}").await, 9);
    assert_eq!(proxy.metric("rejoinder_affinity_total{kind=\"new\"}").await, 3);
}

#[tokio::test]
async fn a_slot_is_free_once_the_response_has_ended() {
    // what is left of the body is to come
    let ended = [EVENTS, text("a").as_bytes(), STOP.as_bytes()].concat();
    let server = Scripted::new(Does::Hangs(ended)).await;
    let proxy = Conf::of(&[(server.at, "")]).proxy(&[]).await;
    all_up(&proxy, &[&server]).await;
    for stream in [true, false, true] {
        let body = json!({"model": "m", "input": "hi", "stream": stream, "prompt_cache_key": "k"});
        let answer = answer(&proxy, body.to_string()).await;
        assert!(answer.contains("\"status\":\"completed\""), "{answer}");
    }
    let slots: Vec<Value> = (0..3).map(|n| server.body(n)["id_slot"].clone()).collect();
    assert_eq!(slots, [0, 0, 0], "one conversation, one slot");
}

#[tokio::test]
async fn what_has_not_begun_is_taken_elsewhere() {
    let progress = "data: {\"choices\":[{\"delta\":{\"content\":null}}],\"prompt_progress\":{\"total\":9,\"processed\":1}}\n\n";
    let error = |status: &str| whole(status, "application/json", r#"{"error":{"message":"CUDA error"}}"#);
    for (name, does) in [
        ("closed at once", Does::Sends(Vec::new())),
        ("500", Does::Sends(error("500 Internal Server Error"))),
        ("502 without JSON", Does::Sends(whole("502 Bad Gateway", "text/html", "<html>"))),
        ("503", Does::Sends(error("503 Service Unavailable"))),
        ("429", Does::Sends(error("429 Too Many Requests"))),
        ("closed behind the status", Does::Sends(EVENTS.to_vec())),
        ("closed in the prompt", Does::Sends([EVENTS, progress.as_bytes()].concat())),
        ("hangs before the status", Does::Hangs(Vec::new())),
        ("hangs behind the status", Does::Hangs(EVENTS.to_vec())),
        ("hangs in the prompt", Does::Hangs([EVENTS, progress.as_bytes()].concat())),
    ] {
        let (bad, good) = (Scripted::new(does).await, Scripted::new(Does::Answers("good")).await);
        // twice the weight: the first request goes to the bad one
        let conf = Conf::of(&[(bad.at, "weight = 100"), (good.at, "")]);
        let proxy = conf.proxy(&[("REJOINDER_UPSTREAM__STALL_TIMEOUT", "1s")]).await;
        all_up(&proxy, &[&bad, &good]).await;
        let answer = proxy.stream().await;
        assert!(completed(&answer) && answer.contains("good"), "{name}: {answer}");
        assert_eq!((bad.count(), good.count()), (1, 1), "{name}");
    }
}

#[tokio::test]
async fn what_has_begun_is_never_asked_for_twice() {
    let half = [EVENTS, text("half").as_bytes()].concat();
    let (bad, good) = (Scripted::new(Does::Sends(half)).await, Scripted::new(Does::Answers("good")).await);
    let proxy = Conf::of(&[(bad.at, "weight = 100"), (good.at, "")]).proxy(&[]).await;
    all_up(&proxy, &[&bad, &good]).await;
    let answer = proxy.stream().await;
    assert!(answer.contains("half") && answer.contains("event: response.failed"), "{answer}");
    assert_eq!((bad.count(), good.count()), (1, 0));
}

#[tokio::test]
async fn a_request_that_breaks_servers_does_not_break_them_all() {
    let servers = [
        Scripted::new(Does::Sends(Vec::new())).await,
        Scripted::new(Does::Sends(Vec::new())).await,
        Scripted::new(Does::Answers("never")).await,
    ];
    let conf =
        Conf::of(&[(servers[0].at, "weight = 100"), (servers[1].at, "weight = 50"), (servers[2].at, "")]);
    let proxy = conf.proxy(&[]).await;
    all_up(&proxy, &[&servers[0], &servers[1], &servers[2]]).await;
    let response = proxy.post(STREAM).send().await.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!([servers[0].count(), servers[1].count(), servers[2].count()], [1, 1, 0]);
}

#[tokio::test]
async fn the_line_has_an_order_and_an_end() {
    let (let_go, held) = watch::channel(false);
    let server = Scripted::new(Does::Holds(held)).await;
    let proxy = Conf::of(&[(server.at, "max_in_flight = 1\nmax_waiting = 2")]).proxy(&[]).await;
    let mut running = Vec::new();
    for n in 0..3 {
        running.push(tokio::spawn(proxy.post(request("m", &n.to_string())).send()));
        until(async || proxy.metric("rejoinder_waiting").await == n && server.count() == 1).await;
    }
    let full = proxy.post(request("m", "late")).send().await.unwrap();
    assert_eq!(full.status(), 429);
    assert_eq!(full.headers()["retry-after"], "5");
    // one that leaves makes room
    running.pop().unwrap().abort();
    until(async || proxy.metric("rejoinder_waiting").await == 1).await;
    running.push(tokio::spawn(proxy.post(request("m", "late")).send()));
    until(async || proxy.metric("rejoinder_waiting").await == 2).await;
    let_go.send_replace(true);
    for request in running {
        let answer = request.await.unwrap().unwrap().text().await.unwrap();
        assert!(completed(&answer), "{answer}");
    }
    assert_eq!(server.count(), 3);
    assert_eq!(proxy.metric("rejoinder_waiting").await, 0);
}

#[tokio::test]
async fn a_server_that_comes_late_is_waited_for() {
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = place.local_addr().unwrap();
    drop(place);
    let env = [("REJOINDER_COMMIT_AFTER", "50ms"), ("REJOINDER_HEARTBEAT", "100ms")];
    let proxy = Proxy::start(at, &env, false).await;
    let mut response = proxy.post(STREAM).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut seen = String::new();
    while !seen.contains(": keep-alive") {
        seen += std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap();
    }
    assert!(seen.contains("response.created") && seen.contains("response.in_progress"), "{seen}");

    // it comes, and loads its model
    let listener = TcpListener::bind(at).await.unwrap();
    let (ready, loading) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (is_ready, count) = (ready.clone(), loading.clone());
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (is_ready, count) = (is_ready.clone(), count.clone());
            tokio::spawn(async move {
                let Some((got, mut stream)) = proxy::read(stream).await else { return };
                let answer = match got.line.as_str() {
                    _ if !is_ready.load(Ordering::Relaxed) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        let loading =
                            r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
                        whole("503 Service Unavailable", "application/json", loading)
                    }
                    "GET /props" => whole("200 OK", "application/json", r#"{"chat_template":""}"#),
                    "POST /v1/chat/completions" => {
                        [EVENTS, text("late").as_bytes(), STOP.as_bytes()].concat()
                    }
                    _ => whole("200 OK", "application/json", LISTED),
                };
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    until(async || loading.load(Ordering::Relaxed) > 2).await;
    ready.store(true, Ordering::Relaxed);
    let rest = response.text().await.unwrap();
    assert!(completed(&rest) && rest.contains("late"), "{rest}");
    server.abort();
}

#[tokio::test]
async fn a_server_that_never_comes_is_not_waited_for_for_ever() {
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = place.local_addr().unwrap();
    drop(place);
    let proxy = Proxy::start(at, &[("REJOINDER_UPSTREAM__READY_TIMEOUT", "600ms")], false).await;
    let response = proxy.post(STREAM).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn servers_come_and_go_without_a_dropped_stream() {
    let (let_go, held) = watch::channel(false);
    let (old, new) = (Scripted::new(Does::Holds(held)).await, Scripted::new(Does::Answers("new")).await);
    let conf = Conf::of(&[(old.at, "")]);
    let proxy = conf.proxy(&[("REJOINDER_COMMIT_AFTER", "50ms")]).await;
    let mut open = proxy.post(STREAM).send().await.unwrap();
    assert!(open.chunk().await.unwrap().is_some());
    until(async || old.count() == 1).await;

    conf.text("[[upstream]]\nurl = 'ftp://x'");
    hang_up(&proxy);
    let answer_of = |key: &'static str| answer(&proxy, request("m", key));
    // a wrong file changes nothing: the old server gets the next request too
    tokio::spawn(proxy.post(request("m", "other")).send());
    until(async || old.count() == 2).await;

    conf.write(&[(new.at, "")]);
    hang_up(&proxy);
    let up = format!("rejoinder_upstream_up{{upstream=\"http://{}\"}}", new.at);
    until(async || proxy.metric(&up).await == 1).await;
    assert!(answer_of("k").await.contains("new"));
    let_go.send_replace(true);
    let rest = open.text().await.unwrap();
    assert!(completed(&rest) && rest.contains("held"), "{rest}");

    // and without a signal: the file is watched
    conf.write(&[(old.at, ""), (new.at, "")]);
    let up = format!("rejoinder_upstream_up{{upstream=\"http://{}\"}}", old.at);
    until(async || proxy.metric(&up).await == 1).await;
}

fn hang_up(proxy: &Proxy) {
    let id = proxy.child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
}

#[tokio::test]
async fn models_are_one_list_in_both_formats() {
    let a =
        Scripted::listing(Does::Answers("a"), r#"{"data":[{"id":"one","meta":{"n_ctx":7}},{"id":"both"}]}"#)
            .await;
    let b =
        Scripted::listing(Does::Answers("b"), r#"{"data":[{"id":"m","max_model_len":4096},{"id":"both"}]}"#)
            .await;
    let proxy = Conf::of(&[(a.at, ""), (b.at, "models = ['gpt-5=m', 'both']")]).proxy(&[]).await;
    all_up(&proxy, &[&a, &b]).await;
    let get = async |path: &str| reqwest::get(format!("{}{path}", proxy.base)).await.unwrap();
    let list: Value = serde_json::from_str(&get("/v1/models").await.text().await.unwrap()).unwrap();
    let ids = |list: &Value, key: &str| -> Vec<String> {
        list.as_array().unwrap().iter().map(|model| model[key].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list["object"], "list");
    assert_eq!(ids(&list["data"], "id"), ["one", "both", "gpt-5"]);
    assert_eq!(ids(&list["models"], "slug"), ["one", "both", "gpt-5"]);
    assert_eq!(list["data"][0]["meta"]["n_ctx"], 7, "what a server tells is passed on");
    assert_eq!(list["models"][2]["context_window"], 4096);
    let one: Value = serde_json::from_str(&get("/v1/models/gpt-5").await.text().await.unwrap()).unwrap();
    assert_eq!(one["id"], "gpt-5");
    assert_eq!(get("/v1/models/m").await.status(), 404);
}

#[tokio::test]
async fn extra_members_reach_the_server() {
    let server = Scripted::new(Does::Answers("a")).await;
    let conf = Conf::of(&[(server.at, "extra_body = { top_k = 40, min_p = 0.1, temperature = 0.5 }")]);
    let proxy = conf.proxy(&[]).await;
    let body = json!({"model": "m", "input": "hi", "stream": true, "temperature": 0, "top_k": 5,
        "cache_prompt": true, "client_metadata": {"a": "b"}});
    assert!(completed(&answer(&proxy, body.to_string()).await));
    let body = server.body(0);
    assert_eq!((&body["top_k"], &body["min_p"], &body["temperature"]), (&json!(5), &json!(0.1), &json!(0)));
    assert_eq!(body["cache_prompt"], true);
    assert!(body.get("client_metadata").is_none(), "not this server's: {body}");
}

#[tokio::test]
async fn the_doctor_says_what_is_wrong() {
    let server = Scripted::new(Does::Answers("a")).await;
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = place.local_addr().unwrap();
    drop(place);
    let conf = Conf::of(&[(server.at, ""), (nobody, "")]);
    let doctor = tokio::process::Command::new(env!("CARGO_BIN_EXE_rejoinder"))
        .args(["doctor", "--config", &conf.path()])
        .output();
    let output = tokio::time::timeout(Duration::from_secs(20), doctor).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in [
        &format!("upstream http://{}", server.at),
        "server: llama_server",
        "models: m",
        "all is well",
        "refused",
        "start the server",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

/// A server that knows only these paths, each with its answer.
async fn knows(paths: &'static [(&'static str, &'static str)]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Some((got, mut stream)) = proxy::read(stream).await else { return };
                let path = got.line.strip_prefix("GET ").unwrap_or_default();
                let known = paths.iter().find(|(known, _)| *known == path);
                let answer = match known {
                    Some((_, body)) => whole("200 OK", "application/json", body),
                    None => whole("404 Not Found", "application/json", r#"{"detail":"Not Found"}"#),
                };
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    at
}

#[tokio::test]
async fn each_kind_of_server_is_known_by_its_own_paths() {
    const MODELS: (&str, &str) = ("/v1/models", r#"{"data":[{"id":"q","max_model_len":4096}]}"#);
    let servers = [
        (knows(&[("/version", r#"{"version":"0.32.0"}"#), MODELS]).await, "vllm 0.32.0"),
        (knows(&[("/api/version", r#"{"version":"0.9.1"}"#), MODELS]).await, "ollama 0.9.1"),
        (
            knows(&[
                ("/get_server_info", r#"{"model_path":"q","version":"0.5","context_length":4096}"#),
                MODELS,
            ])
            .await,
            "sglang 0.5",
        ),
        (
            knows(&[
                ("/api/v0/models", r#"{"data":[{"id":"q","type":"llm","loaded_context_length":4096}]}"#),
                MODELS,
            ])
            .await,
            "lm_studio",
        ),
        (knows(&[MODELS]).await, "generic"),
    ];
    for (at, name) in servers {
        let doctor = tokio::process::Command::new(env!("CARGO_BIN_EXE_rejoinder"))
            .args(["doctor", "--upstream", &format!("http://{at}")])
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .output();
        let output = tokio::time::timeout(Duration::from_secs(20), doctor).await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("server: {name}\n")), "{name}: {text}");
        assert!(text.contains("models: q\n") && text.contains("context: 4096 tokens"), "{name}: {text}");
    }
}

#[tokio::test]
async fn another_server_in_the_same_place_is_seen_as_what_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (vllm, now) = watch::channel(false);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tell, vllm) = (tell.clone(), *now.borrow());
            tokio::spawn(async move {
                let Some((got, mut stream)) = proxy::read(stream).await else { return };
                let answer = match (vllm, got.line.as_str()) {
                    (false, "GET /props") => whole("200 OK", "application/json", r#"{"chat_template":""}"#),
                    (false, "GET /health") => whole("200 OK", "application/json", "{}"),
                    (true, "GET /version") => whole("200 OK", "application/json", r#"{"version":"0.33.0"}"#),
                    (_, "GET /v1/models") => whole("200 OK", "application/json", LISTED),
                    (_, "POST /v1/chat/completions") => {
                        let _ = tell.send(got);
                        [EVENTS, text("yes").as_bytes(), STOP.as_bytes()].concat()
                    }
                    _ => whole("404 Not Found", "text/plain", ""),
                };
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    let proxy = Proxy::start(at, &[("REJOINDER_UPSTREAM__PROBE_INTERVAL", "100ms")], true).await;
    let mut asks_for_progress = async || {
        assert!(completed(&proxy.stream().await));
        let chat: Value = serde_json::from_slice(&told.recv().await.unwrap().body).unwrap();
        chat.get("return_progress").is_some()
    };
    assert!(asks_for_progress().await, "llama-server's own key");
    vllm.send_replace(true);
    let changed = async { while asks_for_progress().await {} };
    tokio::time::timeout(proxy::PATIENCE, changed).await.unwrap();
}

/// A server that has its API at `api` alone, as OpenVINO's (`/v3`), Ark's, GLM's and Gemini's have it; every other path
/// is 404. What it was asked is kept.
async fn server_below(api: &'static str) -> (SocketAddr, Arc<Mutex<Vec<Got>>>) {
    let asked: Arc<Mutex<Vec<Got>>> = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let seen = asked.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Some((got, mut stream)) = proxy::read(stream).await else { continue };
            seen.lock().unwrap().push(got.clone());
            let answer = match got.line.split_once(&format!(" {api}")) {
                Some(("GET", "/models")) => whole("200 OK", "application/json", LISTED),
                Some(("POST", "/chat/completions")) => {
                    [EVENTS, text("Fine.").as_bytes(), STOP.as_bytes()].concat()
                }
                Some(("POST", "/embeddings")) => whole("200 OK", "application/json", "{\"data\":[]}"),
                _ => whole("404 Not Found", "application/json", "{\"detail\":\"Not Found\"}"),
            };
            let _ = stream.write_all(&answer).await;
        }
    });
    (at, asked)
}

#[tokio::test]
async fn a_base_url_is_what_the_sdks_put_their_paths_behind() {
    for (api, base) in [
        ("/v3", "/v3"),
        ("/api/v3", "/api/v3/"),
        ("/api/coding/paas/v4", "/api/coding/paas/v4"),
        ("/v1beta/openai", "/v1beta/openai/"),
        ("/v1/openai", "/v1/openai"),
        ("/v2", "/v2/chat/completions"),
        ("/llm/v1", "/llm"),
        ("/v1", "/v1/chat/completions"),
        ("/inference", "/inference/chat/completions"),
        // nothing says so but the server
        ("", ""),
    ] {
        let (at, asked) = server_below(api).await;
        let url = format!("http://{at}{base}");
        let proxy = Proxy::with(&["--upstream", &url], &[], true).await;
        assert!(proxy.stream().await.contains("Fine."), "{base}: {:?}", asked.lock().unwrap());
        let models = reqwest::get(format!("{}/v1/models", proxy.base)).await.unwrap().text().await.unwrap();
        assert!(models.contains("\"id\":\"m\""), "{base}: {models}");
        let embeddings = reqwest::Client::new().post(format!("{}/v1/embeddings", proxy.base)).body("{}");
        assert_eq!(embeddings.send().await.unwrap().status(), 200, "{base}: {:?}", asked.lock().unwrap());
    }
}

#[tokio::test]
async fn names_that_the_server_does_not_have_are_given_its_own_where_that_is_meant() {
    let (at, asked) = server_below("/v1").await;
    let url = format!("http://{at}");
    for (models, client, own) in [
        (None, "gpt-5.5", "m"),
        (None, "o4-mini", "m"),
        (None, "codex-auto-review", "m"),
        (None, "openai/gpt-6.1-sol", "m"),
        // another open model is not what was asked for, and the server says so
        (None, "gpt-oss-20b", "gpt-oss-20b"),
        (None, "qwen3", "qwen3"),
        (None, "m", "m"),
        (Some("*=m"), "anything", "m"),
        (Some("gpt-5=big,*=m"), "gpt-5", "big"),
        (Some("gpt-5=big,*=m"), "gpt-5.5", "m"),
        (Some("gpt-5=big,*"), "other", "other"),
    ] {
        let env: Vec<(&str, &str)> =
            models.map(|models| ("REJOINDER_UPSTREAM__MODELS", models)).into_iter().collect();
        let proxy = Proxy::with(&["--upstream", &url], &env, true).await;
        let body = json!({"model": client, "input": "hi", "stream": true}).to_string();
        let events = proxy.post(body).send().await.unwrap().text().await.unwrap();
        assert!(
            events.contains("Fine.") && events.contains(&format!("\"model\":\"{client}\"")),
            "{client}: {events}"
        );
        let chat =
            asked.lock().unwrap().iter().rev().find(|got| got.line.starts_with("POST")).cloned().unwrap();
        let chat: Value = serde_json::from_slice(&chat.body).unwrap();
        assert_eq!(chat["model"], own, "{models:?} {client}");
    }
}
