//! A canary: words of a prompt, of an answer and of a key are in no line of the log at any level, in no metric, and in no error
//! but that of the client who sent them.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::proxy::{EVENTS, Got, Proxy, STOP, text, until, upstream, whole};
use crate::support::redis::Server;
use crate::support::socket::Socket;

/// A word that is nowhere else, by its place.
fn canary(place: &str) -> String {
    format!("CANARY-{place}-x7Qz")
}

/// Answers by what it is asked, with canaries in every answer.
async fn talkative() -> SocketAddr {
    upstream(async |got: Got, mut stream: TcpStream| {
        let body: Value = serde_json::from_slice(&got.body).unwrap_or_default();
        let asked = body["messages"].as_array().and_then(|messages| messages.last()).cloned().unwrap_or_default();
        let asked = asked["content"].as_str().unwrap_or_default().to_owned();
        let error = json!({"error": {"message": format!("{} {asked}", canary("refusal")), "type": canary("type"), "code": canary("code"),
            "param": canary("param")}});
        let said = |rest: &str| [EVENTS, text(&canary("answer")).as_bytes(), rest.as_bytes()].concat();
        let json_type = "application/json";
        let answer = if asked.contains("refuse") {
            whole("400 Bad Request", json_type, &error.to_string())
        } else if asked.contains("fail") {
            whole("500 Internal Server Error", "text/plain", &canary("plain"))
        } else if asked.contains("html") {
            whole("502 Bad Gateway", "text/html", &format!("<html>{}</html>", canary("html")))
        } else if asked.contains("late") {
            said(&format!("data: {error}\n\n"))
        } else if asked.contains("garbage") {
            said(&format!("data: {{\"choices\": \"{}\"}}\n\n", canary("garbage")))
        } else if asked.contains("cut") {
            said("data: {\"choi")
        } else {
            let call = json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c", "function":
                {"name": "f", "arguments": json!({"a": canary("arguments")}).to_string()}}]}}]});
            said(&format!("data: {call}\n\n{STOP}"))
        };
        let _ = stream.write_all(&answer).await;
    })
    .await
}

/// A request with a canary wherever a client can put one.
fn request(what: &str, stream: bool) -> Value {
    json!({
        "model": "m", "stream": stream, "instructions": canary("instructions"), "user": canary("user"),
        "metadata": {"k": canary("metadata")}, "prompt_cache_key": canary("cache-key"), "safety_identifier": canary("safety"),
        "input": [
            {"role": "developer", "content": canary("developer")},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": json!({"a": canary("call")}).to_string()},
            {"type": "function_call_output", "call_id": "c", "output": canary("output")},
            {"type": canary("item-type"), "text": canary("item")},
            {"role": "user", "content": [{"type": "input_text", "text": format!("{what} {}", canary("input"))},
                {"type": canary("part-type"), "text": canary("part")},
                {"type": "input_file", "filename": canary("file-name"), "file_data": canary("file")}]},
        ],
        "tools": [{"type": "function", "name": "f", "description": canary("description"), "parameters": {"type": "object"}},
            {"type": canary("tool-type"), "name": canary("tool-name")}],
        "text": {"verbosity": canary("verbosity")}, canary("field"): canary("value"),
    })
}

const HEADERS: [(&str, &str); 6] = [
    ("authorization", "key"),
    ("x-api-key", "other-key"),
    ("cookie", "cookie"),
    ("openai-organization", "organization"),
    ("session-id", "session"),
    ("x-codex-turn-metadata", "turn"),
];

fn sent(client: &reqwest::Client, proxy: &Proxy, method: &str, path: &str) -> reqwest::RequestBuilder {
    let request = client.request(method.parse().unwrap(), format!("{}{path}", proxy.base));
    HEADERS.iter().fold(request, |request, (name, place)| request.header(*name, canary(place)))
}

/// The canaries of a text.
fn found(text: &str) -> Vec<&str> {
    text.match_indices("CANARY-").map(|(at, _)| text[at..].split("-x7Qz").next().unwrap()).collect()
}

#[tokio::test]
async fn nothing_of_a_prompt_or_a_key_is_in_a_log_or_a_metric() {
    let at = talkative().await;
    // a path that the upstream does not have, a store, and every level but that of contents
    let proxy = Proxy::start(at, &[("REJOINDER_LOG__LEVEL", "trace")], true).await;
    let http1 = reqwest::Client::builder().http1_only().build().unwrap();
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for client in [&http1, &http2] {
        for what in ["hi", "refuse", "fail", "html", "late", "garbage", "cut"] {
            for stream in [true, false] {
                let body = request(what, stream).to_string();
                let answer = sent(client, &proxy, "POST", "/v1/responses").body(body).send().await.unwrap();
                answer.text().await.unwrap();
            }
        }
        // what is wrong with a request, in its own words
        for body in [
            json!({"model": "m", "input": [{"role": canary("role"), "content": "x"}]}).to_string(),
            json!({"model": "m", "input": canary("bad"), "temperature": canary("temperature")}).to_string(),
            json!({"model": "m", "input": "x", "previous_response_id": canary("previous")}).to_string(),
            json!({"model": "m", "input": "x", "metadata": {canary("key"): 7}}).to_string(),
            format!("{{\"input\": {}", canary("no-json")),
        ] {
            let answer = sent(client, &proxy, "POST", "/v1/responses").body(body).send().await.unwrap();
            assert!(answer.status().is_client_error());
        }
        let wrapper = sent(client, &proxy, "POST", "/v1/responses").body(request("hi", true).to_string());
        let wrapper = wrapper.header("x-rejoinder-web-search-wrapper", format!("{} x", canary("wrapper")));
        let budget = wrapper.header("x-rejoinder-reasoning-budget-tokens", canary("budget"));
        budget.send().await.unwrap().text().await.unwrap();
        let query = format!("/v1/passed?q={}", canary("query"));
        sent(client, &proxy, "POST", &query)
            .body(canary("passed"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let background = json!({"model": "m", "input": canary("background"), "background": true}).to_string();
        sent(client, &proxy, "POST", "/v1/responses").body(background).send().await.unwrap();
    }
    let mut socket = Socket::connect(&proxy, &[("authorization", &canary("socket-key"))]).await;
    let mut create = request("hi", true);
    create["type"] = json!("response.create");
    socket.ask(&create).await;
    socket.send(&json!({"type": canary("event-type")})).await;
    socket.answer().await;
    drop(socket);
    // all is over
    until(async || proxy.ended().iter().any(|line| line["status"] == 101)).await;
    until(async || proxy.ended().iter().filter(|line| line["endpoint"] == "run").count() == 2).await;
    let log = proxy.log();
    assert_eq!(
        found(&log),
        [""; 0],
        "{}",
        log.lines().find(|line| line.contains("CANARY-")).unwrap_or_default()
    );
    assert!(
        log.contains("\"TRACE\"") && log.contains("why it failed"),
        "the log is not at its most talkative"
    );
    let metrics = reqwest::get(format!("{}/metrics", proxy.admin)).await.unwrap().text().await.unwrap();
    assert_eq!(found(&metrics), [""; 0], "{metrics}");
}

/// An error tells its own client what is wrong, and nobody else.
#[tokio::test]
async fn an_error_is_its_own_clients() {
    let proxy = Proxy::start(talkative().await, &[], true).await;
    let client = reqwest::Client::new();
    for (name, input) in [("anna", "refuse"), ("ben", "late"), ("anna", "garbage"), ("ben", "fail")] {
        for stream in [true, false] {
            let own = format!("{input} CANARY-{name}-x7Qz");
            let body = json!({"model": "m", "input": own, "stream": stream}).to_string();
            let request =
                client.post(format!("{}/v1/responses", proxy.base)).bearer_auth(canary("key")).body(body);
            let answer = request.send().await.unwrap().text().await.unwrap();
            let other = if name == "anna" { "CANARY-ben" } else { "CANARY-anna" };
            assert!(!answer.contains(other) && !answer.contains("CANARY-key"), "{answer}");
        }
    }
}

/// The canaries in all that a store was sent, for a response and a conversation of a caller with credentials.
async fn found_in_a_store(seal: &str) -> Vec<String> {
    let redis = Server::start(&["--appendfsync", "always"]);
    let keys = redis.dir.path().join("keys");
    std::fs::write(&keys, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n").unwrap();
    let env = [
        ("REJOINDER_STORE__URL", redis.url()),
        ("REJOINDER_STORE__SEAL", seal.to_owned()),
        ("REJOINDER_KEYS_FILE", keys.to_str().unwrap().to_owned()),
    ];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let proxy = Proxy::start(talkative().await, &env, true).await;
    let client = reqwest::Client::new();
    let conversation = json!({"items": [{"role": "user", "content": canary("conversation")}]}).to_string();
    let made = sent(&client, &proxy, "POST", "/v1/conversations").body(conversation).send().await.unwrap();
    assert_eq!(made.status(), 200);
    let mut body = request("hi", false);
    body["store"] = json!(true);
    // what is wrong with a request is refused, and not stored
    body["text"] = json!({});
    body["input"].as_array_mut().unwrap().retain(|item| item["type"] != canary("item-type"));
    body["input"].as_array_mut().unwrap().pop();
    let answer = sent(&client, &proxy, "POST", "/v1/responses").body(body.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    // each command was written to the server's file before it was answered
    let mut written = Vec::new();
    for entry in std::fs::read_dir(redis.dir.path().join("appendonlydir")).unwrap() {
        written.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    let text = String::from_utf8_lossy(&written);
    assert!(text.contains("rejoinder:{"), "nothing was stored");
    found(&text).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_store_has_no_key_and_sealed_no_prompt() {
    let plain = found_in_a_store("false").await;
    // the search finds what is there
    assert!(plain.iter().any(|canary| canary == "CANARY-conversation"), "{plain:?}");
    for (_, place) in HEADERS {
        assert!(!plain.contains(&format!("CANARY-{place}")), "{place}");
    }
    assert_eq!(found_in_a_store("true").await, [""; 0]);
}
