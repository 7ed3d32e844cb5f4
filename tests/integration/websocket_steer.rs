//! Input for a response that runs (`response.steer`) over WebSocket.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use crate::support::checker::check;
use crate::support::proxy::{EVENTS, Proxy, STOP, text, upstream};
use crate::support::socket::{Socket, as_sse};

/// A server that waits in the midst of each answer for a permit; it calls `f` where the last message says "call", and has
/// no end where it says "break". The bodies that it got.
async fn waiting() -> (SocketAddr, Arc<Semaphore>, Arc<Mutex<Vec<Value>>>) {
    let (go, asked) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (wait, got) = (go.clone(), asked.clone());
    let at = upstream(move |request, mut stream| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        got.lock().unwrap().push(body.clone());
        let wait = wait.clone();
        async move {
            let last = body["messages"].as_array().unwrap().last().unwrap()["content"].to_string();
            stream.write_all(&[EVENTS, text("a").as_bytes()].concat()).await.unwrap();
            wait.acquire().await.unwrap().forget();
            if last.contains("call") {
                let call = json!({"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
                let delta = json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
                stream.write_all(format!("data: {delta}\n\n").as_bytes()).await.unwrap();
            }
            if !last.contains("break") {
                stream.write_all(STOP.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (at, go, asked)
}

fn create(input: &str) -> Value {
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
    json!({"type": "response.create", "model": "m", "input": input, "store": false, "tools": tools, "temperature": 0.5})
}

/// Begins a response, and gives it an input while it runs; its id.
async fn steered(socket: &mut Socket, create: &Value, input: Value) -> (Value, Vec<Value>) {
    socket.send(create).await;
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &Value| event["type"] != "response.output_text.delta") {
        events.push(socket.event().await);
    }
    let id = events[0]["response"]["id"].clone();
    socket.send(&json!({"type": "response.steer", "previous_response_id": id, "input": input})).await;
    (id, events)
}

fn contents(body: &Value) -> Vec<&Value> {
    body["messages"].as_array().unwrap().iter().map(|message| &message["content"]).collect()
}

#[tokio::test]
async fn input_for_a_response_continues_it() {
    let (at, go, asked) = waiting().await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let mut begin = create("one");
    begin["stream_id"] = json!("lane");
    let (id, mut events) = steered(&mut socket, &begin, json!("be brief")).await;
    let accepted = socket.event().await;
    assert_eq!(
        (&accepted["type"], &accepted["stream_id"]),
        (&json!("response.steer.accepted"), &json!("lane"))
    );
    assert_eq!(accepted["steer"]["previous_response_id"], id);
    let more = json!([{"type": "message", "role": "user", "content": "and kind"}]);
    socket.send(&json!({"type": "response.steer", "previous_response_id": id, "input": more})).await;
    assert_eq!(socket.event().await["type"], "response.steer.accepted");
    go.add_permits(2);
    events.extend(socket.answer().await);
    assert_eq!(events.last().unwrap()["type"], "response.completed");
    assert_eq!(check(&as_sse(&events)), [""; 0]);
    // nobody asked for the next one
    let next = socket.answer().await;
    assert_eq!(next.last().unwrap()["type"], "response.completed");
    assert_eq!(next.last().unwrap()["response"]["previous_response_id"], id);
    assert!(next.iter().all(|event| event["stream_id"] == "lane"));
    assert_eq!(check(&as_sse(&next)), [""; 0]);
    let asked = asked.lock().unwrap();
    assert_eq!(contents(&asked[1]), ["one", "a", "be brief", "and kind"]);
    assert_eq!(
        (&asked[1]["temperature"], &asked[1]["tools"]),
        (&asked[0]["temperature"], &asked[0]["tools"])
    );
}

#[tokio::test]
async fn input_waits_for_the_outputs_that_a_response_asks_for() {
    let (at, go, asked) = waiting().await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    let (id, _) = steered(&mut socket, &create("call"), json!("be brief")).await;
    let steer = socket.event().await["steer"]["id"].clone();
    go.add_permits(2);
    let call = socket.answer().await.last().unwrap()["response"]["output"][1].clone();
    let pending = socket.event().await;
    assert_eq!((&pending["type"], &pending["steer"]["id"]), (&json!("response.steer.pending"), &steer));
    assert_eq!(pending["reason"], "waiting_for_required_input");
    let stub = json!({"type": "function_call_output", "call_id": call["call_id"], "name": "f"});
    assert_eq!(pending["required_input"], json!([stub]));
    let mut output = stub;
    output["output"] = json!("done");
    let mut next = create("");
    (next["input"], next["previous_response_id"]) = (json!([output]), id);
    assert_eq!(socket.ask(&next).await.last().unwrap()["type"], "response.completed");
    let body = &asked.lock().unwrap()[1];
    assert!(
        contents(body).contains(&&json!("be brief")) && contents(body).contains(&&json!("done")),
        "{body}"
    );
}

#[tokio::test]
async fn input_that_nothing_can_be_made_of_is_given_back() {
    let (at, go, _) = waiting().await;
    let proxy = Proxy::start(at, &[], true).await;
    let mut socket = Socket::connect(&proxy, &[]).await;
    // the response fails
    let (id, _) = steered(&mut socket, &create("break"), json!("be brief")).await;
    let steer = socket.event().await["steer"]["id"].clone();
    go.add_permits(1);
    assert_eq!(socket.answer().await.last().unwrap()["type"], "response.failed");
    let failed = socket.event().await;
    assert_eq!((&failed["type"], &failed["steer"]["id"]), (&json!("response.steer.failed"), &steer));
    assert_eq!(failed["steer"]["input"], "be brief");
    assert_eq!(failed["error"]["code"], "response_not_active");
    // it does not run any more, or never did
    socket.send(&json!({"type": "response.steer", "previous_response_id": id, "input": "x"})).await;
    assert_eq!(socket.event().await["error"]["code"], "response_not_found");
    go.add_permits(1);
    let done = socket.ask(&create("two")).await.last().unwrap()["response"]["id"].clone();
    socket.send(&json!({"type": "response.steer", "previous_response_id": done, "input": "x"})).await;
    // its client may learn of the end before the connection does, which then takes the input and gives it back
    let mut told = socket.event().await;
    while told["error"]["code"].is_null() {
        told = socket.event().await;
    }
    let code = told["error"]["code"].as_str().unwrap();
    assert!(["response_already_completed", "response_not_active"].contains(&code), "{told}");
}
