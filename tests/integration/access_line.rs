//! The line that tells of a request at its end: one for each, whatever it is and however it ends, with the same fields in
//! JSON and in text.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::proxy::{EVENTS, Got, PATIENCE, Proxy, text, until, upstream, whole};
use crate::support::socket::Socket;

const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":30,\"completion_tokens\":20,\"total_tokens\":50,\
    \"prompt_tokens_details\":{\"cached_tokens\":10},\"completion_tokens_details\":{\"reasoning_tokens\":5}}}\n\ndata: [DONE]\n\n";

/// The end of an answer with this reason, and its tokens.
fn finish(reason: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"{reason}\"}}]}}\n\n{USAGE}"
    )
}

/// Does what the last message of the chat request says.
async fn obeys() -> SocketAddr {
    upstream(async |got: Got, mut stream: TcpStream| {
        let body: Value = serde_json::from_slice(&got.body).unwrap_or_default();
        let messages = body["messages"].as_array().cloned().unwrap_or_default();
        let asked = messages.last().and_then(|last| last["content"].as_str()).unwrap_or(&got.line).to_owned();
        let hello = text("Hello");
        let said = |rest: &str| [EVENTS, hello.as_bytes(), rest.as_bytes()].concat();
        let error = r#"{"error":{"message":"no","type":"x"}}"#;
        let answer = match asked.as_str() {
            "length" => said(&finish("length")),
            "refuse" => whole("400 Bad Request", "application/json", error),
            "fail" => whole("500 Internal Server Error", "application/json", error),
            "break" => said("data: {\"error\":{\"message\":\"no\",\"code\":500}}\n\n"),
            "GET /v1/whole" => whole("200 OK", "text/plain", "12345"),
            "GET /v1/cut" => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123".to_vec(),
            "endless" | "GET /v1/endless" => {
                let _ = stream.write_all(EVENTS).await;
                while stream.write_all(hello.as_bytes()).await.is_ok() {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                return;
            }
            _ => said(&finish("stop")),
        };
        let _ = stream.write_all(&answer).await;
    })
    .await
}

fn body(input: &str, stream: bool) -> Value {
    json!({"model": "m", "input": input, "stream": stream})
}

/// Sends it with that id, and takes all of the answer.
async fn ask(proxy: &Proxy, id: &str, body: Value) -> (u16, String) {
    let request = proxy.post(body.to_string()).header("x-request-id", id);
    let answer = request.header("user-agent", "codex_exec/1.0").send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// The line has these members, and is the only one of its request.
#[track_caller]
fn assert_line(lines: &[Value], want: Value) {
    let [line] = lines else { panic!("{lines:?}") };
    for (name, value) in want.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} of {line}");
    }
}

/// What a number is of a line.
fn number(line: &Value, name: &str) -> u64 {
    line[name].as_u64().unwrap_or_else(|| panic!("no {name} in {line}"))
}

#[tokio::test]
async fn a_stream_is_told_of_once_with_all_that_is_known() {
    let at = obeys().await;
    let proxy = Proxy::start(at, &[], true).await;
    let (_, events) = ask(&proxy, "s", body("hi", true)).await;
    let lines = proxy.ended_of("s", 1).await;
    let response = events.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap();
    let want = json!({"level": "INFO", "message": "request ended", "response": response, "client": "codex", "model": "m",
        "upstream": format!("http://{at}"), "endpoint": "responses", "method": "POST", "path": "/v1/responses",
        "status": 200, "ended": "completed", "code": null, "input_tokens": 30, "cached_tokens": 10, "output_tokens": 20,
        "reasoning_tokens": 5, "sent_bytes": events.len(), "key": null});
    assert_line(&lines, want);
    let [first, queued, all] =
        ["first_token_ms", "queued_ms", "duration_ms"].map(|name| number(&lines[0], name));
    assert!(queued <= first && first <= all, "{}", lines[0]);
    assert_eq!(proxy.log().matches("\"s\"").count(), 1, "{}", proxy.log());
}

#[tokio::test]
async fn each_end_has_its_words() {
    // a busy machine's refusal comes as a status, too
    let env = [("REJOINDER_DEFAULT_MODEL", "m"), ("REJOINDER_COMMIT_AFTER", "20s")];
    let proxy = Proxy::start(obeys().await, &env, true).await;
    let whole = |input: &str| body(input, false);
    for (id, request, want) in [
        (
            "json",
            whole("hi"),
            json!({"ended": "completed", "status": 200, "output_tokens": 20, "first_token_ms": null}),
        ),
        ("length", body("length", true), json!({"ended": "incomplete:max_output_tokens", "status": 200})),
        ("json-length", whole("length"), json!({"ended": "incomplete:max_output_tokens", "status": 200})),
        ("refuse", body("refuse", true), json!({"ended": "refused", "status": 400, "level": "INFO"})),
        (
            "fail",
            whole("fail"),
            json!({"ended": "failed", "status": 500, "code": "upstream_error", "level": "WARN"}),
        ),
        (
            "break",
            body("break", true),
            json!({"ended": "failed", "status": 200, "code": "upstream_error", "level": "WARN"}),
        ),
        (
            "bad",
            json!({"input": 7}),
            json!({"ended": "refused", "status": 400, "code": "invalid_type", "level": "INFO"}),
        ),
        (
            "gone",
            json!({"model": "m", "input": "x", "previous_response_id": "resp_x"}),
            json!({"ended": "refused", "status": 400, "code": "previous_response_not_found"}),
        ),
    ] {
        let (_, answer) = ask(&proxy, id, request).await;
        let lines = proxy.ended_of(id, 1).await;
        assert_line(&lines, want);
        assert_eq!(number(&lines[0], "sent_bytes"), answer.len() as u64);
    }
    for (path, want) in [
        (
            "/v1/whole",
            json!({"ended": "completed", "status": 200, "sent_bytes": 5, "endpoint": "passthrough", "method": "GET"}),
        ),
        ("/v1/cut", json!({"ended": "cut", "status": 200, "sent_bytes": 3, "level": "WARN"})),
        ("/slots", json!({"ended": "refused", "status": 403, "endpoint": "passthrough"})),
        ("/v1/responses/resp_1", json!({"ended": "refused", "status": 404, "endpoint": "stored"})),
        ("/v1/models", json!({"ended": "completed", "status": 200, "endpoint": "models"})),
    ] {
        let request = reqwest::Client::new()
            .get(format!("{}{path}", proxy.base))
            .header("x-request-id", path.replace('/', ":"));
        let _ = request.send().await.unwrap().bytes().await;
        assert_line(&proxy.ended_of(&path.replace('/', ":"), 1).await, want);
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_told_of_as_such() {
    let at = obeys().await;
    let proxy = Proxy::start(at, &[], true).await;
    for (id, path, body) in [
        ("stream", "/v1/responses", Some(body("endless", true))),
        ("whole", "/v1/responses", Some(body("endless", false))),
        ("passed", "/v1/endless", None),
    ] {
        let client = reqwest::Client::new();
        let url = format!("{}{path}", proxy.base);
        let request = match body {
            Some(body) => client.post(url).body(body.to_string()),
            None => client.get(url),
        };
        let mut open = Box::pin(request.header("x-request-id", id).send());
        if id == "whole" {
            let metric = format!("rejoinder_upstream_in_flight{{upstream=\"http://{at}\"}}");
            let sent = until(async || proxy.metric(&metric).await == 1);
            tokio::select! { _ = &mut open => panic!("answered"), () = sent => {} }
            drop(open);
        } else {
            let mut answer = open.await.unwrap();
            answer.chunk().await.unwrap().unwrap();
            drop(answer);
        }
        let lines = proxy.ended_of(id, 1).await;
        assert_line(&lines, json!({"ended": "client_left", "level": "INFO"}));
    }
}

#[tokio::test]
async fn a_run_whose_request_is_over_has_a_line_of_its_own() {
    let env = [("REJOINDER_STORE__RESUME_WINDOW", "50ms")];
    let proxy = Proxy::start(obeys().await, &env, true).await;
    ask(&proxy, "bg", json!({"model": "m", "input": "hi", "background": true})).await;
    let lines = proxy.ended_of("bg", 2).await;
    let of = |endpoint: &str| -> Vec<Value> {
        lines.iter().filter(|line| line["endpoint"] == endpoint).cloned().collect()
    };
    assert_line(&of("responses"), json!({"ended": "background", "status": 200, "output_tokens": null}));
    let run = json!({"message": "run ended", "ended": "completed", "output_tokens": 20, "model": "m", "client": "codex",
        "status": null});
    assert_line(&of("run"), run);
    assert_eq!(of("run")[0]["response"], of("responses")[0]["response"]);
    // a stream that goes on for its client's return, which does not come
    let request = json!({"model": "m", "input": "endless", "stream": true, "store": true});
    let mut answer = proxy.post(request.to_string()).header("x-request-id", "left").send().await.unwrap();
    answer.chunk().await.unwrap().unwrap();
    drop(answer);
    let lines = proxy.ended_of("left", 2).await;
    let ends: Vec<_> = lines.iter().map(|line| (&line["endpoint"], &line["ended"])).collect();
    assert_eq!(ends, [(&json!("responses"), &json!("client_left")), (&json!("run"), &json!("cancelled"))]);
    // one that is read to its end is told of once
    ask(&proxy, "kept", json!({"model": "m", "input": "hi", "stream": true, "store": true})).await;
    assert_line(
        &proxy.ended_of("kept", 1).await,
        json!({"endpoint": "responses", "ended": "completed", "output_tokens": 20}),
    );
}

#[tokio::test]
async fn a_websocket_and_each_of_its_creates_have_a_line() {
    let proxy = Proxy::start(obeys().await, &[("REJOINDER_WEBSOCKET__MAX_PENDING", "1")], true).await;
    let mut socket = Socket::connect(&proxy, &[("x-request-id", "ws")]).await;
    let create =
        |input: &str| json!({"type": "response.create", "model": "m", "input": input, "store": false});
    socket.ask(&create("hi")).await;
    let method = "response.create";
    // from then on the next may begin
    assert_line(
        &proxy.ended_of("ws-1", 1).await,
        json!({"method": method, "ended": "completed", "status": 200, "output_tokens": 20, "path": "/v1/responses"}),
    );
    socket.send(&create("endless")).await;
    socket.send(&create("hi")).await;
    assert_line(
        &proxy.ended_of("ws-3", 1).await,
        json!({"method": method, "ended": "refused", "status": 429}),
    );
    assert!(proxy.ended().iter().all(|line| line["id"] != "ws"), "the connection is still open");
    drop(socket);
    assert_line(&proxy.ended_of("ws-2", 1).await, json!({"method": method, "ended": "client_left"}));
    assert_line(&proxy.ended_of("ws", 1).await, json!({"method": "GET", "status": 101}));
}

/// The fields have the same names in text.
#[tokio::test]
async fn text_has_the_fields_of_json() {
    let at = obeys().await;
    let json = Proxy::start(at, &[], true).await;
    ask(&json, "a", body("hi", true)).await;
    let line = json.ended_of("a", 1).await.remove(0);
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_rejoinder"))
        .args(["--upstream", &format!("http://{at}"), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .env("REJOINDER_LOG__FORMAT", "text")
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stderr(file.reopen().unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let log = || std::fs::read_to_string(file.path()).unwrap();
    until(async || log().contains("upstream is ready")).await;
    let listen = log().split("listen=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let request =
        reqwest::Client::new().post(format!("http://{listen}/v1/responses")).header("x-request-id", "a");
    request
        .header("user-agent", "codex_exec/1.0")
        .body(body("hi", true).to_string())
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    until(async || log().contains("request ended")).await;
    child.kill().await.unwrap();
    let text = log();
    let told = text.lines().find(|line| line.contains("request ended")).unwrap();
    let names = line
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| !["timestamp", "level", "message", "target"].contains(&name.as_str()));
    for name in names {
        assert!(told.contains(&format!(" {name}=")), "no {name} in {told}");
    }
}

/// A stream that the drain cuts off.
#[tokio::test]
async fn a_drained_stream_says_so() {
    let mut proxy = Proxy::start(obeys().await, &[("REJOINDER_DRAIN_TIMEOUT", "10ms")], true).await;
    let request = proxy.post(body("endless", true).to_string()).header("x-request-id", "d");
    let mut answer = request.send().await.unwrap();
    answer.chunk().await.unwrap().unwrap();
    let pid = proxy.child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let rest = answer.text().await.unwrap();
    assert!(rest.contains("response.failed"), "{rest}");
    assert_line(&proxy.ended_of("d", 1).await, json!({"ended": "drained", "status": 200, "level": "INFO"}));
    tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap();
}
