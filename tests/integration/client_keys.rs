//! The keys of `auth.keys_file`, by the running binary: who is let in, to what, how often, and what the upstream sees.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::client_keys::Keys;
use crate::support::proxy::{EVENTS, Got, PATIENCE, STOP, text, until, upstream, whole};
use crate::support::socket::Socket;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};

const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":90,"completion_tokens":10,"total_tokens":100}}"#;

/// An upstream that answers each chat request at once, and what it got.
async fn answering() -> (std::net::SocketAddr, Arc<Mutex<Vec<Got>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let at = upstream(move |got: Got, mut stream: TcpStream| {
        let kept = kept.clone();
        async move {
            kept.lock().await.push(got);
            stream.write_all(&whole("200 OK", "application/json", ANSWER)).await.unwrap();
        }
    })
    .await;
    (at, seen)
}

fn client() -> reqwest::Client {
    reqwest::Client::new()
}

async fn json_of(answer: reqwest::Response) -> Value {
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

fn request() -> String {
    json!({"model": "m", "input": "hi"}).to_string()
}

async fn error(answer: reqwest::Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let body = json_of(answer).await;
    let keys: Vec<&String> = body["error"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["message", "type", "param", "code"]);
    (status, body["error"].clone())
}

#[tokio::test]
async fn a_key_is_needed_and_goes_no_further() {
    let keys = Keys::new();
    let key = keys.add(&["anna"]);
    let (at, seen) = answering().await;
    let proxy = keys.proxy(at).await;

    let (status, refused) = error(proxy.post(request()).send().await.unwrap()).await;
    assert_eq!((status, &refused["code"]), (401, &json!("invalid_api_key")));
    let wrong = proxy.post(request()).bearer_auth("rj-wrong").send().await.unwrap();
    assert_eq!(wrong.headers()["www-authenticate"], "Bearer");
    let (status, refused) = error(wrong).await;
    assert_eq!((status, refused["message"].as_str().unwrap()), (401, "Incorrect API key provided."));
    // what stands for a key within is no key
    let within = proxy.post(request()).header("authorization", "Rejoinder-Key AAAA").send().await.unwrap();
    assert_eq!(within.status(), 401);
    for path in ["/v1/models", "/v1/responses/resp_1", "/v1/conversations", "/v1/chat/completions"] {
        let answer = reqwest::get([&proxy.base, path].concat()).await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
    }
    assert!(seen.lock().await.is_empty());
    // what watches the server needs none
    assert_eq!(reqwest::get([&proxy.base, "/health"].concat()).await.unwrap().status(), 200);

    for name in ["authorization", "x-api-key", "api-key"] {
        let value = if name == "authorization" { format!("bearer {key}") } else { key.clone() };
        let answer = proxy.post(request()).header(name, value).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{name}");
    }
    let passed = client().post([&proxy.base, "/v1/chat/completions"].concat()).bearer_auth(&key);
    assert_eq!(passed.body("{}").send().await.unwrap().status(), 200);
    let seen = seen.lock().await;
    assert_eq!(seen.len(), 4);
    for got in &*seen {
        let shown = format!("{:?}", got.headers);
        assert!(got.header("authorization").is_none() && !shown.contains(&key[3..]), "{shown}");
        assert!(!shown.to_lowercase().contains("rejoinder-key"), "{shown}");
    }
}

#[tokio::test]
async fn what_one_key_stored_is_not_there_for_another() {
    let keys = Keys::new();
    let (anna, ben) = (keys.add(&["anna"]), keys.add(&["ben"]));
    let (at, _) = answering().await;
    let proxy = keys.proxy(at).await;
    let stored = json_of(proxy.post(request()).bearer_auth(&anna).send().await.unwrap()).await;
    let id = stored["id"].as_str().unwrap();
    let url = format!("{}/v1/responses/{id}", proxy.base);
    for (key, want) in [(&anna, 200), (&ben, 404)] {
        assert_eq!(client().get(&url).bearer_auth(key).send().await.unwrap().status(), want);
        let items = client().get(format!("{url}/input_items")).bearer_auth(key).send().await.unwrap();
        assert_eq!(items.status(), want);
    }
    let goes_on = json!({"model": "m", "input": "hi", "previous_response_id": id}).to_string();
    let (status, refused) = error(proxy.post(goes_on).bearer_auth(&ben).send().await.unwrap()).await;
    assert_eq!((status, &refused["code"]), (400, &json!("previous_response_not_found")));
    assert_eq!(client().delete(&url).bearer_auth(&ben).send().await.unwrap().status(), 404);
    assert_eq!(client().delete(&url).bearer_auth(&anna).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_key_reaches_its_models_alone() {
    let keys = Keys::new();
    let (anna, ben) = (keys.add(&["anna", "--model", "n*"]), keys.add(&["ben", "--model", "m"]));
    let (at, seen) = answering().await;
    let proxy = keys.proxy(at).await;
    let (status, refused) = error(proxy.post(request()).bearer_auth(&anna).send().await.unwrap()).await;
    assert_eq!(
        (status, &refused["code"], &refused["param"]),
        (404, &json!("model_not_found"), &json!("model"))
    );
    assert_eq!(proxy.post(request()).bearer_auth(&ben).send().await.unwrap().status(), 200);
    for (key, want) in [(&anna, json!([])), (&ben, json!(["m"]))] {
        let listed = client().get(format!("{}/v1/models", proxy.base)).bearer_auth(key);
        let listed = json_of(listed.send().await.unwrap()).await;
        let ids: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
        assert_eq!(json!(ids), want);
    }
    // nobody reads what is passed on, so nobody knows its model
    let passed = client().post(format!("{}/v1/chat/completions", proxy.base)).bearer_auth(&ben);
    let (status, refused) = error(passed.body(request()).send().await.unwrap()).await;
    assert_eq!((status, &refused["code"]), (403, &json!("path_not_allowed")));
    assert_eq!(seen.lock().await.len(), 1);
}

#[tokio::test]
async fn requests_and_tokens_a_minute_are_limited_by_key() {
    let keys = Keys::new();
    let by_requests = keys.add(&["anna", "--requests-per-minute", "2"]);
    let by_tokens = keys.add(&["ben", "--tokens-per-minute", "150"]);
    let (at, seen) = answering().await;
    let proxy = keys.proxy(at).await;
    let ask = |key: &str| proxy.post(request()).bearer_auth(key).send();
    for left in ["1", "0"] {
        let answer = ask(&by_requests).await.unwrap();
        let headers = answer.headers();
        let header = |name: &str| headers[name].to_str().unwrap();
        assert_eq!((answer.status().as_u16(), header("x-ratelimit-limit-requests")), (200, "2"));
        assert_eq!(header("x-ratelimit-remaining-requests"), left);
        assert!(header("x-ratelimit-reset-requests").ends_with('s'));
    }
    // 150 tokens: one answer of 100 is let through, a second as well, since what it costs is not known before
    for _ in 0..2 {
        assert_eq!(ask(&by_tokens).await.unwrap().status(), 200);
    }
    for (key, word) in [(&by_requests, "2 requests a minute"), (&by_tokens, "150 tokens a minute")] {
        let answer = ask(key).await.unwrap();
        let after: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&after), "{after}");
        assert!(answer.headers().keys().any(|name| name.as_str().starts_with("x-ratelimit-limit")));
        let (status, refused) = error(answer).await;
        assert_eq!((status, &refused["code"]), (429, &json!("rate_limit_exceeded")));
        assert!(refused["message"].as_str().unwrap().contains(word), "{refused}");
    }
    assert_eq!(seen.lock().await.len(), 4);
    let metrics = reqwest::get([&proxy.admin, "/metrics"].concat()).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("rejoinder_key_tokens_total{key=\"ben\"} 200"), "{metrics}");
    assert!(!metrics.contains(&by_tokens[3..]));
}

#[tokio::test]
async fn requests_at_a_time_are_limited_until_a_stream_has_ended() {
    let keys = Keys::new();
    let key = keys.add(&["anna", "--max-in-flight", "1"]);
    let go = Arc::new(Semaphore::new(0));
    let wait = go.clone();
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let at = upstream(move |_, mut stream: TcpStream| {
        let (wait, count) = (wait.clone(), count.clone());
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(EVENTS).await.unwrap();
            stream.write_all(text("a").as_bytes()).await.unwrap();
            wait.acquire().await.unwrap().forget();
            let _ = stream.write_all(STOP.as_bytes()).await;
        }
    })
    .await;
    let proxy = keys.proxy(at).await;
    let stream = json!({"model": "m", "input": "hi", "stream": true}).to_string();
    let ask = || proxy.post(stream.clone()).bearer_auth(&key).send();
    let first = ask().await.unwrap();
    until(async || begun.load(Ordering::SeqCst) == 1).await;
    let (status, refused) = error(ask().await.unwrap()).await;
    assert_eq!(status, 429);
    assert!(refused["message"].as_str().unwrap().contains("1 request at a time"), "{refused}");
    go.add_permits(1);
    tokio::time::timeout(PATIENCE, first.bytes()).await.unwrap().unwrap();
    until(async || ask().await.unwrap().status() == 200).await;
}

#[tokio::test]
async fn keys_come_and_go_without_a_restart() {
    let keys = Keys::new();
    let anna = keys.add(&["anna"]);
    let expired = keys.add(&["old", "--expires", "2001-01-01"]);
    let (at, _) = answering().await;
    let proxy = keys.proxy(at).await;
    let status =
        async |key: &str| proxy.post(request()).bearer_auth(key).send().await.unwrap().status().as_u16();
    assert_eq!((status(&anna).await, status(&expired).await), (200, 401));
    let ben = keys.add(&["ben"]);
    until(async || status(&ben).await == 200).await;
    assert_eq!(status(&anna).await, 200);
    let text = std::fs::read_to_string(keys.path()).unwrap();
    let others: Vec<&str> = text.split("[[key]]").filter(|block| !block.contains("anna")).collect();
    std::fs::write(keys.path(), others.join("[[key]]")).unwrap();
    until(async || status(&anna).await == 401).await;
    assert_eq!(status(&ben).await, 200);
}

#[test]
fn the_first_key_makes_the_file_that_the_configuration_names_and_says_that_it_is_shown_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("clients.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rejoinder"));
    command.env("REJOINDER_AUTH__MODE", "keys").env("REJOINDER_AUTH__KEYS_FILE", &file);
    let output = command.args(["keys", "add", "anna"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("shown this once") && told.contains("clients.toml"), "{told}");
    assert!(output.stdout.starts_with(b"rj-"));
    assert!(file.exists());
}

#[test]
fn a_configuration_that_lets_everybody_in_is_refused() {
    let check = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rejoinder"));
        command.arg("check-config").envs(variables.iter().copied());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = check(&[("REJOINDER_AUTH__MODE", "none"), ("REJOINDER_LISTEN", "0.0.0.0:8081")]);
    assert!(code == 78 && told.contains("auth.allow_remote"), "{told}");
    let forced = [
        ("REJOINDER_AUTH__MODE", "none"),
        ("REJOINDER_LISTEN", "0.0.0.0:8081"),
        ("REJOINDER_AUTH__ALLOW_REMOTE", "true"),
    ];
    assert_eq!(check(&forced).0, 0);
    assert_eq!(check(&[("REJOINDER_AUTH__MODE", "none")]).0, 0);
    let (code, told) = check(&[("REJOINDER_AUTH__MODE", "keys")]);
    assert!(code == 78 && told.contains("auth.keys_file"), "{told}");
}

#[tokio::test]
async fn a_websocket_needs_a_key_and_each_create_counts() {
    let keys = Keys::new();
    let key = keys.add(&["anna", "--requests-per-minute", "1"]);
    let at = upstream(|_, mut stream: TcpStream| async move {
        let _ = stream.write_all(&[EVENTS, text("a").as_bytes(), STOP.as_bytes()].concat()).await;
    })
    .await;
    let proxy = keys.proxy(at).await;
    let handshake = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let plain = client().get(format!("{}/v1/responses", proxy.base));
    let plain = handshake.iter().fold(plain, |request, (name, value)| request.header(*name, *value));
    assert_eq!(plain.send().await.unwrap().status(), 401);
    let bearer = format!("Bearer {key}");
    let mut socket = Socket::connect(&proxy, &[("authorization", &bearer)]).await;
    let create = json!({"type": "response.create", "model": "m", "input": "hi", "store": false});
    assert_eq!(socket.ask(&create).await.last().unwrap()["type"], "response.completed");
    let refused = socket.ask(&create).await;
    assert_eq!((&refused[0]["type"], &refused[0]["status"]), (&json!("error"), &json!(429)), "{refused:?}");
}

/// A connection lives longer than a look at the keys.
#[tokio::test]
async fn a_key_that_is_taken_away_opens_no_websocket_any_more() {
    let keys = Keys::new();
    let (anna, ben) = (keys.add(&["anna"]), keys.add(&["ben"]));
    let (at, _) = answering().await;
    let proxy = keys.proxy(at).await;
    let bearer = |key: &str| format!("Bearer {key}");
    let mut socket = Socket::connect(&proxy, &[("authorization", &bearer(&anna))]).await;
    let mut other = Socket::connect(&proxy, &[("authorization", &bearer(&ben))]).await;
    let create = json!({"type": "response.create", "model": "m", "input": "hi", "store": false});
    assert_eq!(socket.ask(&create).await.last().unwrap()["type"], "response.completed");
    let text = std::fs::read_to_string(keys.path()).unwrap();
    let others: Vec<&str> = text.split("[[key]]").filter(|block| !block.contains("anna")).collect();
    std::fs::write(keys.path(), others.join("[[key]]")).unwrap();
    let status = async || proxy.post(request()).bearer_auth(&anna).send().await.unwrap().status();
    until(async || status().await == 401).await;
    let refused = socket.ask(&create).await;
    assert_eq!((&refused[0]["type"], &refused[0]["status"]), (&json!("error"), &json!(401)), "{refused:?}");
    assert_eq!(other.ask(&create).await.last().unwrap()["type"], "response.completed");
}
