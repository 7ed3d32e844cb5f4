//! The Responses API over WebSocket: the same events as over HTTP, lanes, what a connection remembers. Among them are the
//! seven WebSocket cases of the Open Responses suite.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use crate::support::checker::{check, judge_async_openai};
use crate::support::proxy::{EVENTS, PATIENCE, Proxy, STOP, text, until, upstream, whole};
use crate::support::socket::{Next, Socket, as_sse, is_end};
use crate::support::websocket_bytes::{built, check_message, check_stream};

/// The chat bodies that an upstream got.
type Asked = Arc<Mutex<Vec<Value>>>;

/// A server that answers each request with `said`, and the bodies that it got.
async fn says(said: &'static [&'static str]) -> (SocketAddr, Asked) {
    let asked = Asked::default();
    let got = asked.clone();
    let at = upstream(move |request, mut stream| {
        got.lock().unwrap().push(serde_json::from_slice(&request.body).unwrap_or_default());
        async move {
            let said: String = said.iter().map(|piece| text(piece)).collect();
            let _ = stream.write_all(&[EVENTS, said.as_bytes(), STOP.as_bytes()].concat()).await;
        }
    })
    .await;
    (at, asked)
}

fn create(input: &str) -> Value {
    json!({"type": "response.create", "model": "m", "input": input, "store": false})
}

fn continued(id: &Value, input: Value) -> Value {
    json!({"type": "response.create", "model": "m", "previous_response_id": id, "input": input, "store": false})
}

/// The last response of an answer, which is complete.
fn completed(events: &[Value]) -> Value {
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.completed", "{last}");
    last["response"].clone()
}

fn id(events: &[Value]) -> Value {
    completed(events)["id"].clone()
}

/// Status and code of an error that is no response's.
fn refused(events: &[Value]) -> (u64, &str) {
    let [error] = events else { panic!("{events:?}") };
    assert_eq!(error["type"], "error", "{error}");
    (error["status"].as_u64().unwrap(), error["error"]["code"].as_str().unwrap_or(""))
}

/// The texts of the messages of a chat body.
fn messages(body: &Value) -> Vec<&str> {
    body["messages"].as_array().unwrap().iter().map(|message| message["content"].as_str().unwrap()).collect()
}

/// Ids and times differ between two responses.
fn without_ids(events: &[Value]) -> String {
    let ids = events[0]["response"]["id"].as_str().unwrap().rsplit('_').next().unwrap().to_owned();
    let mut text = json!(events).to_string().replace(&ids, "ID");
    for name in ["created_at", "completed_at"] {
        for event in events {
            if let Some(at) = event["response"][name].as_u64() {
                text = text.replace(&format!("\"{name}\":{at}"), "");
            }
        }
    }
    text
}

#[tokio::test]
async fn one_create_has_the_events_of_a_stream_over_http() {
    let (at, _) = says(&["1, ", "2, ", "3"]).await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let events = socket.ask(&create("Count from 1 to 3.")).await;
    assert_eq!(completed(&events)["output_text"], "1, 2, 3");
    let sse = as_sse(&events);
    assert_eq!(check(&sse), [""; 0]);
    assert_eq!(judge_async_openai(&sse), [""; 0]);
    let body = json!({"model": "m", "input": "Count from 1 to 3.", "store": false, "stream": true});
    let http = proxy.post(body.to_string()).send().await.unwrap().text().await.unwrap();
    let data = http.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let http: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
    assert_eq!(without_ids(&events), without_ids(&http));
    let counted =
        async || proxy.metric("rejoinder_responses_total{outcome=\"completed\",stream=\"true\"}").await;
    until(async || counted().await == 2).await;
    assert_eq!(proxy.metric("rejoinder_open_websockets").await, 1);
    drop(socket);
    until(async || proxy.metric("rejoinder_open_websockets").await == 0).await;
}

/// An event of many frames of the connection, and texts that its events share.
#[tokio::test]
async fn long_events_are_whole() {
    let long = "\u{e4}x".repeat(200_000);
    let chunk = text(&long);
    let at = upstream(move |_, mut stream| {
        let chunk = chunk.clone();
        async move { stream.write_all(&[EVENTS, chunk.as_bytes(), STOP.as_bytes()].concat()).await.unwrap() }
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    socket.send(&json!({"type": "response.create", "model": "m", "input": "x", "stream_id": "a"})).await;
    let events = socket.answer().await;
    assert_eq!(completed(&events)["output_text"], long);
    assert!(events.iter().all(|event| event["stream_id"] == "a"));
    assert_eq!(check(&as_sse(&events)), [""; 0]);
}

#[tokio::test]
async fn creates_of_a_lane_are_answered_in_order() {
    let (at, asked) = says(&["a"]).await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    for n in 0..5 {
        socket.send(&create(&format!("number {n}"))).await;
    }
    let mut ids = Vec::new();
    for _ in 0..5 {
        let events = socket.answer().await;
        assert_eq!(check(&as_sse(&events)), [""; 0], "events of two responses are mixed");
        ids.push(id(&events));
    }
    ids.dedup();
    assert_eq!(ids.len(), 5);
    let asked = asked.lock().unwrap();
    let inputs: Vec<&str> = asked.iter().map(|body| messages(body)[0]).collect();
    assert_eq!(inputs, ["number 0", "number 1", "number 2", "number 3", "number 4"]);
}

#[tokio::test]
async fn a_connection_remembers_what_is_not_stored() {
    let (at, asked) = says(&["answer"]).await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let first = id(&socket.ask(&create("one")).await);
    let second = id(&socket.ask(&continued(&first, json!("two"))).await);
    let events = socket.ask(&continued(&second, json!("three"))).await;
    assert_eq!(completed(&events)["previous_response_id"], second);
    assert_eq!(messages(&asked.lock().unwrap()[2]), ["one", "answer", "two", "answer", "three"]);
    let not_found = (400, "previous_response_not_found");
    let older = socket.ask(&continued(&first, json!("x"))).await;
    assert_eq!(refused(&older), not_found, "it is not the latest any more");
    // nowhere else is it known
    let third = id(&events);
    let mut other = Socket::connect(&proxy, &[]).await;
    let elsewhere = other.ask(&continued(&third, json!("x"))).await;
    assert_eq!(refused(&elsewhere), not_found);
    assert_eq!(elsewhere[0]["error"]["param"], "previous_response_id");
    let body = json!({"model": "m", "input": "x", "previous_response_id": third});
    assert_eq!(proxy.post(body.to_string()).send().await.unwrap().status(), 400);
    // and the connection that asked goes on
    let fresh = id(&other.ask(&create("fresh")).await);
    id(&other.ask(&continued(&fresh, json!("on"))).await);
}

#[tokio::test]
async fn an_unknown_id_is_not_found() {
    let (at, asked) = says(&["answer"]).await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let events = socket.ask(&continued(&json!("resp_00000000000000000000000000000000"), json!("x"))).await;
    assert_eq!(refused(&events), (400, "previous_response_not_found"));
    assert_eq!(asked.lock().unwrap().len(), 0);
    id(&socket.ask(&create("fresh")).await);
}

#[tokio::test]
async fn a_failed_continuation_forgets_what_it_continued() {
    let (at, _) = says(&["answer"]).await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let first = id(&socket.ask(&create("one")).await);
    let orphan = json!([{"type": "function_call_output", "call_id": "call_unknown", "output": "x"}]);
    let events = socket.ask(&continued(&first, orphan)).await;
    assert_eq!(refused(&events).0, 400);
    assert_eq!(events[0]["error"]["param"], "input");
    let again = socket.ask(&continued(&first, json!("two"))).await;
    assert_eq!(refused(&again), (400, "previous_response_not_found"));
    id(&socket.ask(&create("fresh")).await);
}

/// One that fails in the midst of its stream counts as well; a stored response is in the store all the same.
#[tokio::test]
async fn a_failed_response_forgets_what_it_continued() {
    let at = upstream(|got, mut stream| async move {
        let body = String::from_utf8(got.body).unwrap();
        let end = if body.contains("fail") { "" } else { STOP };
        let _ = stream.write_all(&[EVENTS, text("a").as_bytes(), end.as_bytes()].concat()).await;
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let first = id(&socket.ask(&create("one")).await);
    let failed = socket.ask(&continued(&first, json!("fail"))).await;
    assert_eq!(failed.last().unwrap()["type"], "response.failed");
    assert_eq!(check(&as_sse(&failed)), [""; 0]);
    assert_eq!(
        refused(&socket.ask(&continued(&first, json!("x"))).await),
        (400, "previous_response_not_found")
    );
    let stored = json!({"type": "response.create", "model": "m", "input": "one"});
    let stored = id(&socket.ask(&stored).await);
    socket.ask(&continued(&stored, json!("fail"))).await;
    id(&socket.ask(&continued(&stored, json!("two"))).await);
}

#[tokio::test]
async fn stored_responses_are_shared_with_http() {
    let (at, asked) = says(&["answer"]).await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let stored = json!({"type": "response.create", "model": "m", "input": "one"});
    let first = id(&socket.ask(&stored).await);
    let body = json!({"model": "m", "input": "two", "previous_response_id": first});
    let second = proxy.post(body.to_string()).send().await.unwrap().text().await.unwrap();
    let second: Value = serde_json::from_str(&second).unwrap();
    id(&socket.ask(&continued(&second["id"], json!("three"))).await);
    assert_eq!(messages(&asked.lock().unwrap()[2]), ["one", "answer", "two", "answer", "three"]);
    // another caller's is unknown
    let mut other = Socket::connect(&proxy, &[("authorization", "Bearer other")]).await;
    let events = other.ask(&continued(&second["id"], json!("x"))).await;
    assert_eq!(refused(&events), (400, "previous_response_not_found"));
}

#[tokio::test]
async fn a_compacted_conversation_begins_a_new_chain() {
    let (at, asked) = says(&["a summary"]).await;
    let proxy = Proxy::start(at, &[], true).await;
    let input = json!([{"role": "user", "content": "one"}, {"role": "assistant", "content": "answer"}]);
    let url = format!("{}/v1/responses/compact", proxy.base);
    let body = json!({"model": "m", "input": input}).to_string();
    let compacted = reqwest::Client::new().post(url).body(body).send().await.unwrap();
    let compacted: Value = serde_json::from_str(&compacted.text().await.unwrap()).unwrap();
    let mut output = compacted["output"].clone();
    output.as_array_mut().unwrap().push(json!({"role": "user", "content": "go on"}));
    let mut socket = Socket::connect(&proxy, &[]).await;
    let events =
        socket.ask(&json!({"type": "response.create", "model": "m", "input": output, "store": false})).await;
    let second = id(&events);
    id(&socket.ask(&continued(&second, json!("more"))).await);
    let asked = asked.lock().unwrap();
    let last = messages(asked.last().unwrap()).join("\n");
    assert!(last.contains("a summary") && last.contains("go on") && last.ends_with("more"), "{last}");
}

/// Lanes run side by side: the first waits for the second. Within a lane one waits for the other.
#[tokio::test]
async fn lanes_run_side_by_side_and_share_what_is_remembered() {
    let go = Arc::new(Semaphore::new(0));
    let wait = go.clone();
    let at = upstream(move |got, mut stream| {
        let wait = wait.clone();
        async move {
            stream.write_all(&[EVENTS, text("a").as_bytes()].concat()).await.unwrap();
            if String::from_utf8(got.body).unwrap().contains("slow") {
                wait.acquire().await.unwrap().forget();
            }
            stream.write_all(STOP.as_bytes()).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let in_lane = |lane: &str, mut event: Value| {
        event["stream_id"] = json!(lane);
        event
    };
    let root = id(&socket.ask(&create("root")).await);
    socket.send(&in_lane("a", continued(&root, json!("slow")))).await;
    socket.send(&in_lane("a", create("queued"))).await;
    socket.send(&in_lane("b", continued(&root, json!("quick")))).await;
    let mut events = Vec::new();
    while !events.iter().any(|event: &Value| is_end(event)) {
        events.push(socket.event().await);
    }
    let ended = events.last().unwrap();
    assert_eq!(ended["stream_id"], "b", "the lane that does not wait ends first");
    go.add_permits(1);
    while events.iter().filter(|event| is_end(event)).count() < 3 {
        events.push(socket.event().await);
    }
    for (lane, responses) in [("a", 2), ("b", 1)] {
        let own: Vec<Value> = events.iter().filter(|event| event["stream_id"] == lane).cloned().collect();
        let answers: Vec<&[Value]> = own.split_inclusive(is_end).collect();
        assert_eq!(answers.len(), responses, "{lane}");
        for answer in answers {
            completed(answer);
            assert_eq!(check(&as_sse(answer)), [""; 0], "{lane}");
        }
    }
    let unnamed = socket.ask(&create("unnamed")).await;
    assert!(unnamed.iter().all(|event| event.get("stream_id").is_none()));
    let bad = socket.ask(&in_lane("c", continued(&json!("resp_x"), json!("x")))).await;
    assert_eq!((&bad[0]["stream_id"], refused(&bad).1), (&json!("c"), "previous_response_not_found"));
}

/// A warm-up has the server read the prompt, and can be continued; what becomes of it there is no error.
#[tokio::test]
async fn a_warm_up_has_the_prompt_read_and_no_output() {
    let (at, asked) = says(&["token"]).await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let input = json!([{"role": "user", "content": "context"}]);
    let tools = json!([{"type": "function", "name": "f", "parameters": {}}]);
    let warm = json!({"type": "response.create", "model": "m", "instructions": "be brief", "input": input,
        "tools": tools, "store": false, "generate": false, "max_output_tokens": 500});
    let events = socket.ask(&warm).await;
    assert_eq!(check(&as_sse(&events)), [""; 0]);
    let response = completed(&events);
    assert_eq!((&response["output"], &response["max_output_tokens"]), (&json!([]), &json!(500)));
    assert_eq!(response["usage"]["input_tokens"], 3);
    let mut next = continued(&response["id"], json!("question"));
    (next["instructions"], next["tools"]) = (json!("be brief"), tools);
    id(&socket.ask(&next).await);
    let asked = asked.lock().unwrap();
    assert_eq!((&asked[0]["max_tokens"], &asked[1]["max_tokens"]), (&json!(1), &Value::Null));
    assert_eq!(asked[0]["tools"], asked[1]["tools"]);
    assert!(
        asked[0]["id_slot"].is_u64() && asked[0]["id_slot"] == asked[1]["id_slot"],
        "another slot's cache"
    );
    assert_eq!(messages(&asked[0]), ["be brief", "context"]);
    assert_eq!(messages(&asked[1]), ["be brief", "context", "question"]);
}

#[tokio::test]
async fn a_warm_up_that_the_server_refuses_can_be_continued() {
    let at = upstream(|got, mut stream| async move {
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        let answer = match body["max_tokens"] == 1 {
            true => whole(
                "500 Internal Server Error",
                "application/json",
                "{\"error\":{\"message\":\"no user\"}}",
            ),
            false => [EVENTS, text("a").as_bytes(), STOP.as_bytes()].concat(),
        };
        stream.write_all(&answer).await.unwrap();
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let warm = json!({"type": "response.create", "model": "m", "instructions": "x", "store": false, "generate": false});
    let events = socket.ask(&warm).await;
    assert_eq!(check(&as_sse(&events)), [""; 0]);
    let kept = id(&events);
    assert_eq!(completed(&socket.ask(&continued(&kept, json!("q"))).await)["output_text"], "a");
    // what is wrong with the request itself is one
    let mut bad = warm;
    bad["temperature"] = json!("hot");
    assert_eq!(refused(&socket.ask(&bad).await).0, 400);
}

/// What belongs to streams over HTTP is no matter here.
#[tokio::test]
async fn stream_is_implied_and_background_refused() {
    let (at, _) = says(&["a"]).await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    for (name, value) in [
        ("stream", json!(false)),
        ("stream", json!(true)),
        ("stream_options", json!({"include_obfuscation": true})),
    ] {
        let mut event = create("x");
        event[name] = value;
        id(&socket.ask(&event).await);
    }
    let mut event = create("x");
    event["background"] = json!(true);
    let events = socket.ask(&event).await;
    assert_eq!(refused(&events), (400, "unsupported_parameter"));
    assert_eq!(events[0]["error"]["param"], "background");
}

/// Codex says with each event what it is for: a summary does not take the slot that has the conversation's prompt.
#[tokio::test]
async fn what_is_beside_a_conversation_takes_another_slot() {
    let (at, asked) = says(&["a"]).await;
    let proxy = Proxy::start(at, &[], true).await;
    let handshake = ("x-codex-turn-metadata", "{\"request_kind\":\"prewarm\"}");
    let mut socket = Socket::connect(&proxy, &[handshake]).await;
    for kind in ["turn", "compaction", "turn"] {
        let mut event = create("x");
        event["prompt_cache_key"] = json!("k");
        let metadata = json!({"request_kind": kind}).to_string();
        event["client_metadata"] = json!({"x-codex-turn-metadata": metadata});
        id(&socket.ask(&event).await);
    }
    let asked = asked.lock().unwrap();
    let slots: Vec<&Value> = asked.iter().map(|body| &body["id_slot"]).collect();
    assert!(slots[0] == slots[2] && slots[0] != slots[1], "{slots:?}");
}

/// What of an event is the connection's business goes no further, also not to a server that gets requests as they came.
#[tokio::test]
async fn a_server_of_responses_gets_a_request_as_over_http() {
    let asked = Asked::default();
    let got = asked.clone();
    let at = upstream(move |request, mut stream| {
        got.lock().unwrap().push(serde_json::from_slice(&request.body).unwrap_or_default());
        async move {
            let refusal = whole("400 Bad Request", "application/json", "{\"error\":{\"message\":\"no\"}}");
            let _ = stream.write_all(&refusal).await;
        }
    })
    .await;
    let env = [("REJOINDER_UPSTREAM__API", "responses"), ("REJOINDER_UPSTREAM__DIALECT", "generic")];
    let proxy = Proxy::start(at, &env, true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let mut event = create("x");
    (event["stream_id"], event["generate"]) = (json!("a"), json!(true));
    assert_eq!(refused(&socket.ask(&event).await).0, 400);
    let body = json!({"model": "m", "input": "x", "store": false, "stream": true});
    assert_eq!(proxy.post(body.to_string()).send().await.unwrap().status(), 400);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[0], asked[1]);
}

/// The place on the server is free at once, and so are the creates that waited.
#[tokio::test]
async fn a_client_that_goes_cancels_what_runs() {
    let (gone, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let at = upstream(move |_, mut stream| {
        let gone = gone.clone();
        async move {
            stream.write_all(&[EVENTS, text("a").as_bytes()].concat()).await.unwrap();
            while stream.write_all(text("b").as_bytes()).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            gone.send(()).unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    socket.send(&create("one")).await;
    socket.send(&create("two")).await;
    let mut lane = create("three");
    lane["stream_id"] = json!("a");
    socket.send(&lane).await;
    let mut begun = [false; 2];
    while begun != [true; 2] {
        let event = socket.event().await;
        begun[usize::from(event["stream_id"] == "a")] |= event["type"] == "response.output_text.delta";
    }
    drop(socket);
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, seen.recv()).await.expect("the upstream is let go").unwrap();
    }
    let cancelled =
        async || proxy.metric("rejoinder_responses_total{outcome=\"cancelled\",stream=\"true\"}").await;
    until(async || cancelled().await == 2).await;
    assert_eq!(proxy.metric("rejoinder_open_streams").await, 0);
    until(async || proxy.metric("rejoinder_buffered_bytes").await == 0).await;
}

/// A connection that is closed in form gets its answer.
#[tokio::test]
async fn a_close_is_answered() {
    let (at, _) = says(&["a"]).await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    socket.stream.close(None).await.unwrap();
    assert_eq!(socket.next().await, Next::Closed(None));
    until(async || proxy.metric("rejoinder_open_websockets").await == 0).await;
}

proptest::proptest! {
    #[test]
    fn whatever_a_client_sends_is_an_event_or_has_an_error(text in ".*", script: Vec<u8>) {
        check_message(&text);
        check_message(&built(&script));
        check_message(&built(&[&[0], &*script].concat()));
    }

    #[test]
    fn the_messages_of_a_stream_are_the_same_however_it_is_cut(script: Vec<u8>, cuts: Vec<u8>) {
        check_stream(&script, &cuts);
    }
}
