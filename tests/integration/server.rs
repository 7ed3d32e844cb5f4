//! The running binary between a client and a scripted upstream: silence, hang-ups, refusals, the drain, encodings,
//! and what passes through.

use crate::support::proxy;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::proxy::{EVENTS, Proxy, STOP, STREAM, text, until, upstream, waiting, whole};
use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

/// Types of the events in an SSE text, comments as `:`.
fn kinds(sse: &str) -> Vec<&str> {
    sse.lines()
        .filter_map(|line| line.strip_prefix("event: ").or(line.starts_with(':').then_some(":")))
        .collect()
}

fn last_response(sse: &str) -> Value {
    let data = sse.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    serde_json::from_str::<Value>(data.collect::<Vec<_>>().last().unwrap()).unwrap()["response"].take()
}

#[tokio::test]
async fn an_event_arrives_while_the_upstream_is_still_writing() {
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let at = upstream(move |_, mut stream| {
        let wait = wait.clone();
        async move {
            stream.write_all(EVENTS).await.unwrap();
            // a character cut in two: its event waits for the rest, the one before does not
            let chunk = text("\u{1f600}");
            stream.write_all(text("first").as_bytes()).await.unwrap();
            let (head, tail) = chunk.as_bytes().split_at(chunk.find('\u{1f600}').unwrap() + 2);
            stream.write_all(head).await.unwrap();
            wait.notified().await;
            stream.write_all(tail).await.unwrap();
            stream.write_all(STOP.as_bytes()).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut body = proxy.post(STREAM).send().await.unwrap().bytes_stream();
    let mut seen = String::new();
    while !seen.contains("first") {
        seen.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
    }
    go.notify_one();
    while let Some(piece) = body.next().await {
        let piece = piece.unwrap();
        let piece = std::str::from_utf8(&piece).unwrap();
        assert!(piece.ends_with("\n\n"), "a write that does not end with an event: {piece:?}");
        seen.push_str(piece);
    }
    assert_eq!(last_response(&seen)["output_text"], "first\u{1f600}");
    assert!(seen.ends_with("data: [DONE]\n\n"));
}

/// Where no `usage` comes, llama-server's `timings` on every chunk tell it: the last ones count.
#[tokio::test]
async fn the_last_timings_count() {
    let at = upstream(|_, mut stream| async move {
        stream.write_all(EVENTS).await.unwrap();
        for n in 1..=3 {
            let chunk = json!({
                "choices": [{"index": 0, "delta": {"content": "a"}}], "timings": {"prompt_n": 7, "predicted_n": n},
            });
            stream.write_all(format!("data: {chunk}\n\n").as_bytes()).await.unwrap();
        }
        let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
        stream.write_all(format!("data: {end}\n\ndata: [DONE]\n\n").as_bytes()).await.unwrap();
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let sse = proxy.stream().await;
    let usage = &last_response(&sse)["usage"];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(7), &json!(3)));
}

#[tokio::test]
async fn silence_is_bridged_and_the_stream_begins_without_the_upstream() {
    let at = upstream(|_, mut stream| async move {
        // longer than commit_after: the client gets its 200 before this
        tokio::time::sleep(Duration::from_millis(700)).await;
        stream
            .write_all(&whole("400 Bad Request", "application/json", "{\"error\":{\"message\":\"no\"}}"))
            .await
            .unwrap();
    })
    .await;
    let env = [
        ("REJOINDER_COMMIT_AFTER", "50ms"),
        ("REJOINDER_HEARTBEAT", "60ms"),
        ("REJOINDER_IN_PROGRESS_AFTER", "250ms"),
    ];
    let proxy = Proxy::start(at, &env, true).await;
    let response = proxy.post(STREAM).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let sse = response.text().await.unwrap();
    let kinds = kinds(&sse);
    assert_eq!(kinds[..2], ["response.created", "response.in_progress"]);
    assert_eq!(kinds[kinds.len() - 2..], ["error", "response.failed"]);
    let between = &kinds[2..kinds.len() - 2];
    assert!(between.iter().filter(|kind| **kind == ":").count() >= 3, "{kinds:?}");
    let again = between.iter().filter(|kind| **kind == "response.in_progress").count();
    assert!((1..=3).contains(&again), "{kinds:?}");
    assert_eq!(last_response(&sse)["error"], json!({"code": "invalid_prompt", "message": "no"}));
}

#[tokio::test]
async fn a_refusal_before_the_first_event_is_a_status() {
    let at = upstream(|got, mut stream| async move {
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        let answer = match body["model"].as_str().unwrap() {
            "busy" => {
                whole("429 Too Many Requests", "application/json", "{\"error\":{\"message\":\"wait\"}}")
            }
            "html" => whole("200 OK", "text/html", "<html>hello</html>"),
            "moved" => whole("302 Found", "text/html", ""),
            _ => whole(
                "500 Internal Server Error",
                "application/json",
                "{\"error\":{\"code\":500,\"message\":\"CUDA\"}}",
            ),
        };
        stream.write_all(&answer).await.unwrap();
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    for (model, status) in [("busy", 429), ("html", 502), ("moved", 502), ("broken", 500)] {
        for stream in [true, false] {
            let request = json!({"model": model, "input": "x", "stream": stream}).to_string();
            let response = proxy.post(request).send().await.unwrap();
            assert_eq!(response.status(), status, "{model}");
            assert_eq!(response.headers().contains_key("retry-after"), status == 429);
            let error: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            let keys: Vec<&String> = error["error"].as_object().unwrap().keys().collect();
            assert_eq!(keys, ["message", "type", "param", "code"]);
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_back() {
    let gone = Arc::new(AtomicUsize::new(0));
    let count = gone.clone();
    let at = upstream(move |got, mut stream| {
        let count = count.clone();
        async move {
            let streamed = got.header("accept") == Some("text/event-stream");
            if streamed {
                stream.write_all(EVENTS).await.unwrap();
                stream.write_all(text("a").as_bytes()).await.unwrap();
            }
            // reading ends when the proxy closes its side
            let mut rest = [0; 16];
            while !matches!(stream.read(&mut rest).await, Ok(0) | Err(_)) {}
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut body = proxy.post(STREAM).send().await.unwrap().bytes_stream();
    body.next().await.unwrap().unwrap();
    drop(body);
    until(async || gone.load(Ordering::SeqCst) == 1).await;
    // and the same before any answer came
    let request = proxy.post("{\"model\":\"m\",\"input\":\"hi\"}").timeout(Duration::from_millis(200)).send();
    assert!(request.await.unwrap_err().is_timeout());
    until(async || gone.load(Ordering::SeqCst) == 2).await;
}

#[tokio::test]
async fn a_stalled_upstream_fails_the_response() {
    let at = upstream(|_, mut stream| async move {
        stream.write_all(EVENTS).await.unwrap();
        stream.write_all(text("a").as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Proxy::start(at, &[("REJOINDER_UPSTREAM__IDLE_TIMEOUT", "300ms")], true).await;
    let sse = proxy.stream().await;
    assert_eq!(last_response(&sse)["status"], "failed");
    assert!(last_response(&sse)["error"]["message"].as_str().unwrap().contains("0.3 s"));
}

#[tokio::test]
async fn bodies_in_every_encoding_and_none_too_large() {
    let at = upstream(|got, mut stream| async move {
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        let echo = json!({"choices": [{"index": 0, "message": {"content": body["messages"][0]["content"]},
            "finish_reason": "stop"}]});
        stream.write_all(&whole("200 OK", "application/json", &echo.to_string())).await.unwrap();
    })
    .await;
    let proxy = Proxy::start(at, &[("REJOINDER_MAX_BODY_BYTES", "65536")], true).await;
    let request = json!({"model": "m", "input": "x".repeat(40_000)}).to_string();
    macro_rules! packed {
        ($encoder:ident, $text:expr) => {{
            let mut encoder = $encoder::new(Vec::new());
            encoder.write_all($text.as_bytes()).await.unwrap();
            encoder.shutdown().await.unwrap();
            encoder.into_inner()
        }};
    }
    for (name, body) in [
        ("identity", request.clone().into_bytes()),
        ("gzip", packed!(GzipEncoder, request)),
        ("zstd", packed!(ZstdEncoder, request)),
        ("br", packed!(BrotliEncoder, request)),
        ("deflate", packed!(ZlibEncoder, request)),
    ] {
        let response = proxy.post(body).header("content-encoding", name).send().await.unwrap();
        assert_eq!(response.status(), 200, "{name}");
        let response: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(response["output_text"].as_str().unwrap().len(), 40_000, "{name}");
        assert_eq!(response["usage"], Value::Null, "never reported, never zero");
    }
    let bomb = packed!(ZstdEncoder, json!({"model": "m", "input": "x".repeat(1 << 20)}).to_string());
    assert!(bomb.len() < 65_536);
    for (name, body, status) in [
        ("zstd", bomb, 413),
        ("identity", vec![b' '; 70_000], 413),
        ("compress", vec![1], 415),
        ("gzip", vec![1, 2], 400),
    ] {
        let response = proxy.post(body).header("content-encoding", name).send().await.unwrap();
        assert_eq!(response.status(), status, "{name}");
    }
}

#[tokio::test]
async fn everything_else_passes_through_unchanged() {
    let at = upstream(|got, mut stream| async move {
        let seen = format!(
            "{} | {} | {} | {}",
            got.line,
            got.header("authorization").unwrap_or("-"),
            got.header("x-custom").unwrap_or("-"),
            String::from_utf8_lossy(&got.body)
        );
        let answer = String::from_utf8(whole("418 I'm a teapot", "text/x-own", &seen)).unwrap();
        let answer = answer.replacen("\r\n\r\n", "\r\nX-Upstream: yes\r\n\r\n", 1);
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let client = reqwest::Client::new();
    let sent = client
        .post(format!("{}/v1/embeddings?a=b%20c", proxy.base))
        .header("authorization", "Bearer k")
        .header("x-custom", "1")
        .header("content-encoding", "gzip")
        .body("not really gzip");
    let response = sent.send().await.unwrap();
    assert_eq!(response.status(), 418);
    assert_eq!(response.headers()["x-upstream"], "yes");
    assert_eq!(response.headers()["content-type"], "text/x-own");
    assert_eq!(
        response.text().await.unwrap(),
        "POST /v1/embeddings?a=b%20c | Bearer k | 1 | not really gzip"
    );
    let other = reqwest::get(format!("{}/codex/v1/other", proxy.base)).await.unwrap().text().await.unwrap();
    assert_eq!(other, "GET /v1/other | - | - | ");
    let upgrade = client.get(format!("{}/v1/responses", proxy.base)).header("upgrade", "h2c");
    let upgrade = upgrade.header("connection", "upgrade").send().await.unwrap();
    assert_eq!(upgrade.status(), 426);
    let stored = reqwest::get(format!("{}/v1/responses/resp_1", proxy.base)).await.unwrap();
    assert_eq!(stored.status(), 404);
}

#[tokio::test]
async fn it_starts_without_an_upstream_and_finds_it_later() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    let proxy = Proxy::start(at, &[("REJOINDER_UPSTREAM__READY_TIMEOUT", "300ms")], false).await;
    let readyz = format!("{}/readyz", proxy.admin);
    until(async || reqwest::get(&readyz).await.is_ok_and(|r| r.status() == 503)).await;
    let response = proxy.post(STREAM).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let listener = tokio::net::TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let props = "{\"chat_template\":\"\"}";
            let _ = stream.write_all(&whole("200 OK", "application/json", props)).await;
        }
    });
    until(async || reqwest::get(&readyz).await.is_ok_and(|r| r.status() == 200)).await;
    let health = reqwest::get(format!("{}/health", proxy.base)).await.unwrap();
    assert_eq!(health.text().await.unwrap(), "{\"status\":\"ok\"}");
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_takes_no_new_connection() {
    let (at, go) = waiting().await;
    let mut proxy = Proxy::start(at, &[], true).await;
    let mut body = proxy.post(STREAM).send().await.unwrap().bytes_stream();
    let mut sse = String::from_utf8(body.next().await.unwrap().unwrap().to_vec()).unwrap();
    proxy::signal(&proxy.child, "TERM");
    let readyz = format!("{}/readyz", proxy.admin);
    until(async || reqwest::get(&readyz).await.unwrap().text().await.unwrap().contains("draining")).await;
    assert!(proxy.post(STREAM).send().await.unwrap_err().is_connect());
    go.notify_one();
    while let Some(piece) = body.next().await {
        sse.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    assert_eq!(last_response(&sse)["status"], "completed");
    assert!(tokio::time::timeout(proxy::PATIENCE, proxy.child.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn a_drain_that_takes_too_long_ends_streams_with_a_word() {
    let at = upstream(|_, mut stream| async move {
        stream.write_all(EVENTS).await.unwrap();
        stream.write_all(text("a").as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut proxy = Proxy::start(at, &[("REJOINDER_DRAIN_TIMEOUT", "200ms")], true).await;
    let mut body = proxy.post(STREAM).send().await.unwrap().bytes_stream();
    let mut sse = String::from_utf8(body.next().await.unwrap().unwrap().to_vec()).unwrap();
    proxy::signal(&proxy.child, "TERM");
    while let Some(piece) = body.next().await {
        sse.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    assert_eq!(kinds(&sse).last(), Some(&"response.failed"));
    assert!(tokio::time::timeout(proxy::PATIENCE, proxy.child.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn keys_go_where_they_are_meant_to() {
    let at = upstream(|got, mut stream| async move {
        let key = got.header("authorization").unwrap_or("-").to_owned();
        let echo = json!({"choices": [{"index": 0, "message": {"content": key}, "finish_reason": "stop"}]});
        stream.write_all(&whole("200 OK", "application/json", &echo.to_string())).await.unwrap();
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret\n").unwrap();
    let key_file = file.path().to_str().unwrap();
    for (env, want) in [
        (vec![], "Bearer client"),
        (vec![("REJOINDER_UPSTREAM__FORWARD_AUTHORIZATION", "false")], "-"),
        (vec![("REJOINDER_UPSTREAM__API_KEY_FILE", key_file)], "Bearer secret"),
    ] {
        let proxy = Proxy::start(at, &env, true).await;
        let request = proxy.post("{\"model\":\"m\",\"input\":\"hi\"}").bearer_auth("client");
        let response: Value =
            serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
        assert_eq!(response["output_text"], want);
    }
}

#[tokio::test]
async fn a_background_log_is_bounded_and_says_what_is_gone() {
    let address = upstream(|_, mut stream| async move {
        let words: String = (0..200).map(|n| text(&format!("word {n} "))).collect();
        let _ = stream.write_all(&[EVENTS, words.as_bytes(), STOP.as_bytes()].concat()).await;
    })
    .await;
    let proxy = Proxy::start(address, &[("REJOINDER_STORE__REPLAY_MAX_BYTES", "16384")], true).await;
    let begun = proxy.post(r#"{"model":"m","input":"hi","background":true}"#).send().await.unwrap();
    let begun: Value = serde_json::from_str(&begun.text().await.unwrap()).unwrap();
    let url = format!("{}/v1/responses/{}", proxy.base, begun["id"].as_str().unwrap());
    let get = async |query: &str| {
        let answer = reqwest::get(format!("{url}{query}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    until(async || get("").await.1.contains("\"status\":\"completed\"")).await;
    let (status, body) = get("?stream=true").await;
    let error = &serde_json::from_str::<Value>(&body).unwrap()["error"];
    assert_eq!((status, &error["code"]), (400, &json!("events_no_longer_kept")), "{body}");
    assert_eq!(error["param"], "starting_after");
    let message = error["message"].as_str().unwrap();
    let last = message.split("up to number ").nth(1).unwrap().split(' ').next().unwrap();
    let last: u64 = last.parse().unwrap();
    assert_eq!(get(&format!("?stream=true&starting_after={}", last - 1)).await.0, 400);
    let (status, rest) = get(&format!("?stream=true&starting_after={last}")).await;
    assert_eq!(status, 200);
    let events = rest.lines().filter_map(|line| line.strip_prefix("data: {"));
    let numbers: Vec<u64> = events
        .map(|data| serde_json::from_str::<Value>(&format!("{{{data}")).unwrap())
        .map(|event| event["sequence_number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (last + 1..last + 1 + numbers.len() as u64).collect::<Vec<_>>());
    assert!(rest.contains("event: response.completed") && rest.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn the_logs_of_all_runs_are_bounded_together() {
    let (release, _) = tokio::sync::watch::channel(false);
    let released = release.clone();
    let address = upstream(move |_, mut stream| {
        let mut released = released.subscribe();
        async move {
            let words: String = (0..200).map(|n| text(&format!("word {n} "))).collect();
            let _ = stream.write_all(&[EVENTS, words.as_bytes()].concat()).await;
            let _ = released.wait_for(|released| *released).await;
            let _ = stream.write_all(STOP.as_bytes()).await;
        }
    })
    .await;
    // a run's 200 words make more than half of it
    let proxy = Proxy::start(address, &[("REJOINDER_STORE__REPLAY_TOTAL_BYTES", "65536")], true).await;
    let mut runs = Vec::new();
    for _ in 0..4 {
        let begun = proxy.post(r#"{"model":"m","input":"hi","background":true}"#).send().await.unwrap();
        let begun: Value = serde_json::from_str(&begun.text().await.unwrap()).unwrap();
        runs.push(format!("{}/v1/responses/{}", proxy.base, begun["id"].as_str().unwrap()));
    }
    let gone = async |run: &String| {
        // a stream that goes on is not waited for
        let answer = reqwest::get(format!("{run}?stream=true")).await.unwrap();
        match answer.status().as_u16() {
            200 => false,
            _ => {
                let told = answer.text().await.unwrap();
                assert!(told.contains("events_no_longer_kept"), "{told}");
                true
            }
        }
    };
    let count = async || {
        let mut count = 0;
        for run in &runs {
            count += usize::from(gone(run).await);
        }
        count
    };
    // four do not fit: the beginnings of the longest are gone, and the newest events of each are there
    until(async || count().await >= 3).await;
    release.send_replace(true);
    for run in &runs {
        let status = async || reqwest::get(run).await.unwrap().text().await.unwrap();
        until(async || status().await.contains("\"status\":\"completed\"")).await;
        assert!(status().await.contains("word 199 "), "the response itself is whole");
    }
}

/// One upstream that calls a tool first and answers then, and what it was asked.
async fn calling_upstream() -> (std::net::SocketAddr, Arc<std::sync::Mutex<Vec<Value>>>) {
    let chats: Arc<std::sync::Mutex<Vec<Value>>> = Arc::default();
    let seen = chats.clone();
    let at = upstream(move |got, mut stream| {
        let asked = {
            let mut chats = seen.lock().unwrap();
            chats.push(serde_json::from_slice(&got.body).unwrap());
            chats.len()
        };
        async move {
            let call = json!({"choices": [{"index": 0, "delta": {"tool_calls": [
                {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}}]});
            let said = if asked == 1 { format!("data: {call}\n\n") } else { text("Done.") };
            let _ = stream.write_all(&[EVENTS, said.as_bytes(), STOP.as_bytes()].concat()).await;
        }
    })
    .await;
    (at, chats)
}

#[tokio::test]
async fn a_chain_or_conversation_told_again_what_it_holds_goes_on() {
    for conversation in [false, true] {
        let (at, chats) = calling_upstream().await;
        let proxy = Proxy::start(at, &[], true).await;
        let client = reqwest::Client::new();
        let post = async |path: &str, body: Value| -> Value {
            let sent =
                client.post(format!("{}{path}", proxy.base)).body(body.to_string()).send().await.unwrap();
            serde_json::from_str(&sent.text().await.unwrap()).unwrap()
        };
        let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
        let place = match conversation {
            true => json!({"conversation": post("/v1/conversations", json!({})).await["id"]}),
            false => json!({}),
        };
        let ask = |input: Value, before: Option<&Value>| {
            let mut body = json!({"model": "m", "input": input, "tools": tools});
            body.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
            if let Some(before) = before.filter(|_| !conversation) {
                body["previous_response_id"] = before["id"].clone();
            }
            body
        };
        let user = json!({"role": "user", "content": "q"});
        let first = post("/v1/responses", ask(json!([user]), None)).await;
        let call = first["output"][0].clone();
        assert_eq!(call["type"], "function_call", "{first}");
        let output = json!({"type": "function_call_output", "call_id": "c", "output": "ok"});
        let second = post("/v1/responses", ask(json!([user, call, output]), Some(&first))).await;
        assert_eq!(second["output_text"], "Done.", "{second}");
        // and once more, with what the client read of it
        let mut again = vec![user.clone(), call, output];
        again.extend(second["output"].as_array().unwrap().clone());
        again.push(json!({"role": "user", "content": "thanks"}));
        let third = post("/v1/responses", ask(json!(again), Some(&second))).await;
        assert_eq!(third["output_text"], "Done.", "{third}");
        let chats = chats.lock().unwrap();
        let roles = |chat: &Value| -> Vec<String> {
            let messages = chat["messages"].as_array().unwrap();
            messages.iter().map(|message| message["role"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(roles(&chats[1]), ["user", "assistant", "tool"], "{conversation}");
        assert_eq!(roles(&chats[2]), ["user", "assistant", "tool", "assistant", "user"], "{conversation}");
        for chat in chats.iter() {
            assert!(!chat.to_string().contains("aborted"), "{chat}");
        }
    }
}

#[tokio::test]
async fn an_item_id_that_a_conversation_has_is_refused_and_ids_in_paths_are_decoded() {
    let (at, _) = calling_upstream().await;
    let proxy = Proxy::start(at, &[], true).await;
    let client = reqwest::Client::new();
    let send = async |method: &str, path: &str, body: Value| -> (u16, Value) {
        let method = method.parse().unwrap();
        let request = client.request(method, format!("{}{path}", proxy.base)).body(body.to_string());
        let sent = request.send().await.unwrap();
        (sent.status().as_u16(), serde_json::from_str(&sent.text().await.unwrap()).unwrap())
    };
    let item = |id: &str, text: &str| json!({"id": id, "type": "message", "role": "user", "content": text});
    let (_, conversation) =
        send("POST", "/v1/conversations", json!({"items": [item("msg_a", "first")]})).await;
    let id = conversation["id"].as_str().unwrap();
    let items = format!("/v1/conversations/{id}/items");
    for (method, path, body, param) in [
        ("POST", items.as_str(), json!({"items": [item("msg_a", "second")]}), "items"),
        ("POST", items.as_str(), json!({"items": [item("msg_b", "one"), item("msg_b", "two")]}), "items"),
        (
            "POST",
            "/v1/conversations",
            json!({"items": [item("msg_c", "one"), item("msg_c", "two")]}),
            "items",
        ),
        (
            "POST",
            "/v1/responses",
            json!({"model": "m", "conversation": id, "input": [item("msg_a", "third")]}),
            "input",
        ),
    ] {
        let (status, refused) = send(method, path, body).await;
        let error = &refused["error"];
        assert_eq!(
            (status, &error["param"], &error["code"]),
            (400, &json!(param), &Value::Null),
            "{refused}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("Duplicate item found with id msg_"), "{message}");
    }
    let (_, kept) = send("GET", &items, json!({})).await;
    assert_eq!(kept["data"].as_array().unwrap().len(), 1, "{kept}");
    assert_eq!(kept["data"][0]["content"][0]["text"], "first", "never overwritten");
    // characters that an address cannot hold as they are
    let (status, _) = send("POST", &items, json!({"items": [item("a/b c\u{e9}", "odd")]})).await;
    assert_eq!(status, 200);
    let (status, found) = send("GET", &format!("{items}/a%2Fb%20c%C3%A9"), json!({})).await;
    assert_eq!((status, &found["content"][0]["text"]), (200, &json!("odd")), "{found}");
    let encoded = id.replace('_', "%5F");
    assert_eq!(send("GET", &format!("/v1/conversations/{encoded}"), json!({})).await.0, 200);
    let (_, response) = send("POST", "/v1/responses", json!({"model": "m", "input": "hi"})).await;
    let encoded = response["id"].as_str().unwrap().replace('_', "%5f");
    assert_eq!(send("GET", &format!("/v1/responses/{encoded}"), json!({})).await.0, 200);
    assert_eq!(send("GET", &format!("/v1/responses/{encoded}/input_items"), json!({})).await.0, 200);
    assert_eq!(send("DELETE", &format!("{items}/a%2Fb%20c%C3%A9"), json!({})).await.0, 200);
}
