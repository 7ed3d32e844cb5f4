//! The text log of the running binary, at its most talkative: one event is one line, whatever a client or an upstream
//! sends.

use std::process::Stdio;

use crate::support::proxy::{EVENTS, Got, read, text, until, whole};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// Text that would end its line and begin one of its own, on a terminal with a colour.
fn forged(place: &str) -> String {
    format!(
        "{place}\r\n\u{1b}[2K\u{9b}1m2026-01-01T00:00:00.000000Z ERROR rejoinder: FORGED-{place}\n\u{85}\u{2028}\u{202e}"
    )
}

/// A server whose every word is forged.
async fn upstream() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Some((got, mut stream)) = read(stream).await else { return };
                let _ = stream.write_all(&answer(&got)).await;
            });
        }
    });
    address
}

fn answer(got: &Got) -> Vec<u8> {
    let json_type = "application/json";
    let error = |place: &str| json!({"error": {"message": forged(place), "type": forged(place), "code": forged(place)}});
    match got.line.as_str() {
        "GET /props" => {
            let props = json!({"chat_template": "", "total_slots": 1, "build_info": forged("build"),
                "model_alias": forged("alias"), "default_generation_settings": {"n_ctx": 4096}});
            whole("200 OK", json_type, &props.to_string())
        }
        "GET /v1/models" => {
            whole("200 OK", json_type, &json!({"data": [{"id": forged("listed")}, {"id": "m"}]}).to_string())
        }
        "GET /health" => whole("200 OK", json_type, "{}"),
        _ => {
            let body: Value = serde_json::from_slice(&got.body).unwrap_or_default();
            let asked = body["messages"][0]["content"].as_str().unwrap_or("").to_owned();
            match asked.as_str() {
                "refuse" => whole("400 Bad Request", json_type, &error("refusal").to_string()),
                "plain" => whole("500 Internal Server Error", "text/plain", &forged("plain")),
                "html" => whole("200 OK", "text/html", &forged("html")),
                "late" => {
                    let end = format!("data: {}\n\n", error("late"));
                    [EVENTS, text("a").as_bytes(), end.as_bytes()].concat()
                }
                _ => whole("418 Teapot", json_type, "{}"),
            }
        }
    }
}

async fn send(to: &str, head: &str, body: &str) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head =
        format!("{head}\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
}

#[tokio::test]
async fn one_event_is_one_line_whatever_is_said() {
    let at = upstream().await;
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_rejoinder"))
        .args(["--upstream", &format!("http://{at}"), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .envs([
            ("REJOINDER_LOG__FORMAT", "text"),
            ("REJOINDER_LOG__LEVEL", "trace,rejoinder::contents=trace"),
        ])
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stderr(Stdio::from(log.reopen().unwrap()))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = || std::fs::read_to_string(log.path()).unwrap();
    until(async || lines().contains("upstream is ready")).await;
    let listen = lines().split("listen=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();

    let post = "POST /v1/responses HTTP/1.1";
    for input in ["refuse", "plain", "html", "late"] {
        for stream in [true, false] {
            send(&listen, post, &json!({"model": "m", "input": input, "stream": stream}).to_string()).await;
        }
    }
    let tool = json!({"type": forged("tool"), "name": forged("name")});
    let item = json!({"type": forged("item"), "id": forged("id"), "call_id": forged("call")});
    for body in [
        json!({"model": forged("model"), "input": "x"}),
        json!({"model": "m", "input": [item, {"role": "user", "content": "refuse"}], "tools": [tool]}),
        json!({"model": "m", "input": "x", "previous_response_id": forged("previous")}),
        json!({"model": "m", "input": [{"role": forged("role"), "content": "x"}]}),
        json!({"model": "m", "input": [{"type": "item_reference", "id": forged("reference")}]}),
        json!({"model": "m", "input": "refuse", "include": [forged("include")], "metadata": {forged("key"): forged("value")}}),
    ] {
        send(&listen, post, &body.to_string()).await;
    }
    send(&listen, post, &forged("body")).await;
    // a head cannot hold an end of line, but other bytes
    for head in [
        "GET /v1/\u{9b}path/\u{202e}FORGED-path HTTP/1.1",
        "GET /any?FORGED-query=\u{85} HTTP/1.1",
        "POST /v1/responses HTTP/1.1\r\nX-Rejoinder-Web-Search-Wrapper: \u{9b}FORGED-wrapper x",
        "POST /v1/responses HTTP/1.1\r\nX-Request-Id: \u{9b}FORGED-id",
        "GET /v1/responses HTTP/1.1\r\nOrigin: \u{9b}FORGED-origin",
        "GET /v1/responses HTTP/1.1\r\nHost: \u{9b}FORGED-host",
        "\u{1b}[2KFORGED-method / HTTP/1.1",
    ] {
        send(&listen, head, "{}").await;
    }
    let heard = ["refusal", "late", "plain", "model", "tool", "item", "path"];
    until(async || heard.iter().all(|place| lines().contains(&format!("FORGED-{place}")))).await;
    child.kill().await.unwrap();

    let text = lines();
    let control = |line: &&str| line.contains(|c: char| c.is_control() || "\u{2028}\u{202e}".contains(c));
    assert_eq!(text.lines().find(control), None);
    for line in text.lines() {
        let time = line.split(' ').next().unwrap();
        let ours = time.ends_with('Z') && time.len() == 27 && !time.starts_with("2026-01-01T00");
        assert!(ours, "no line of ours: {line:?}");
    }
}
