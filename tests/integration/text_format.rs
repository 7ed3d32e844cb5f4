//! `text.format` beside tools, on a server that would take the format for all that it writes: the model can call, and
//! no text reaches the client that does not fit.

use crate::support::checker;
use std::sync::{Arc, Mutex};

use crate::support::proxy::{EVENTS, Proxy, text, upstream, whole};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

const FITS: &str = r#"{"ok": true}"#;

fn schema() -> Value {
    json!({
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
        "additionalProperties": false,
    })
}

fn request(more: Value) -> Value {
    let mut request = json!({
        "model": "m", "input": "Is it ok?", "stream": true,
        "tools": [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}],
        "text": {"format": {"type": "json_schema", "name": "answer", "strict": true, "schema": schema()}},
    });
    for (key, value) in more.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

fn call() -> String {
    let call = json!({"choices": [{"index": 0, "delta": {"tool_calls": [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
    ]}}]});
    format!("data: {call}\n\n")
}

/// The end of an answer that cost so many tokens.
fn stop(input: u32, output: u32) -> String {
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
    format!("data: {end}\n\ndata: {}\n\n", json!({"choices": [], "usage": usage}))
}

/// What a client gets of one request, and what the server was asked, where the server answers so.
async fn play(request: Value, answers: &[&[String]]) -> (Value, String, Vec<Value>) {
    play_with(&[], request, answers).await
}

/// The same with these settings.
async fn play_with(
    env: &[(&str, &str)],
    request: Value,
    answers: &[&[String]],
) -> (Value, String, Vec<Value>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let answers: Vec<String> = answers.iter().map(|pieces| pieces.concat()).collect();
    let at = upstream(move |got, mut stream| {
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        let at = {
            let mut seen = seen.lock().unwrap();
            seen.push(body);
            seen.len() - 1
        };
        let answer = answers.get(at).cloned();
        async move {
            match answer {
                Some(answer) => {
                    stream.write_all(EVENTS).await.unwrap();
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    stream.write_all(b"data: [DONE]\n\n").await.unwrap();
                }
                None => {
                    let body = r#"{"error":{"message":"not asked for","code":500}}"#;
                    stream
                        .write_all(&whole("500 Internal Server Error", "application/json", body))
                        .await
                        .unwrap();
                }
            }
        }
    })
    .await;
    let proxy = Proxy::start(at, env, true).await;
    let streams = request["stream"] == true;
    let response = proxy.post(request.to_string()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let answer = response.text().await.unwrap();
    let response = match streams {
        true => {
            assert_eq!(checker::check(&answer), Vec::<String>::new());
            let mut data = answer.lines().filter_map(|line| line.strip_prefix("data: "));
            let last = data.rfind(|data| *data != "[DONE]").unwrap();
            serde_json::from_str::<Value>(last).unwrap()["response"].take()
        }
        false => serde_json::from_str(&answer).unwrap(),
    };
    let asked = asked.lock().unwrap().clone();
    (response, answer, asked)
}

fn kinds(response: &Value) -> Vec<&str> {
    response["output"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect()
}

/// The second request is the first with more at its end: the server has all of it in its cache.
fn assert_asked_for_the_format(asked: &[Value], said: Option<&str>) {
    let [first, second] = asked else { panic!("{} requests", asked.len()) };
    assert!(first.get("response_format").is_none(), "{first}");
    assert_eq!(first["tool_choice"], "auto");
    assert_eq!(second["tools"], first["tools"]);
    assert_eq!(second["tool_choice"], "none");
    assert_eq!(second["response_format"]["json_schema"]["schema"], schema());
    let (before, after) = (first["messages"].as_array().unwrap(), second["messages"].as_array().unwrap());
    assert_eq!(after[..before.len()], before[..]);
    let roles: Vec<&str> = after[before.len()..].iter().map(|m| m["role"].as_str().unwrap()).collect();
    match said {
        Some(said) => {
            assert_eq!(roles, ["assistant", "user"]);
            assert_eq!(after[before.len()]["content"], said);
        }
        None => assert_eq!(roles, ["user"]),
    }
    assert!(after.last().unwrap()["content"].as_str().unwrap().contains("additionalProperties"));
}

#[tokio::test]
async fn the_model_can_call() {
    for choice in [json!("auto"), json!("required"), json!({"type": "function", "name": "look"})] {
        let answer = [call(), stop(3, 2)];
        let (response, _, asked) = play(request(json!({"tool_choice": choice})), &[&answer]).await;
        assert_eq!(kinds(&response), ["function_call"]);
        assert_eq!(response["status"], "completed");
        let [asked] = &asked[..] else { panic!("{} requests", asked.len()) };
        assert!(asked.get("response_format").is_none(), "{asked}");
        // what the client asked for is what it is told
        assert_eq!(response["text"]["format"]["schema"], schema());
    }
}

#[tokio::test]
async fn a_text_that_fits_costs_no_second_request() {
    for written in [FITS, " {\"ok\":\n false}", "```json\n{\"ok\": true}\n```"] {
        let pieces: Vec<String> = written.chars().map(|c| text(&c.to_string())).collect();
        let answer = [&pieces[..], &[stop(9, 5)]].concat();
        for stream in [true, false] {
            let (response, _, asked) = play(request(json!({"stream": stream})), &[&answer]).await;
            assert_eq!(asked.len(), 1);
            assert_eq!(kinds(&response), ["message"]);
            let said = response["output_text"].as_str().unwrap();
            assert!(serde_json::from_str::<Value>(said).unwrap()["ok"].is_boolean(), "{said}");
            assert!(!said.contains('`'));
            assert_eq!(response["usage"]["output_tokens"], 5);
        }
    }
}

#[tokio::test]
async fn a_text_that_does_not_fit_is_asked_for_once_more() {
    for wrong in
        ["It is ok.", "{\"ok\": 1}", "{\"ok\": true, \"more\": 1}", "{}", "[]", "Yes: {\"ok\": true}"]
    {
        let first = [text(wrong), stop(20, 4)];
        let second = [text("{\"ok\":"), text(" true}"), stop(50, 6)];
        for stream in [true, false] {
            let (response, answer, asked) =
                play(request(json!({"stream": stream})), &[&first, &second]).await;
            assert_asked_for_the_format(&asked, Some(wrong));
            assert_eq!(response["status"], "completed");
            assert_eq!(kinds(&response), ["message"]);
            assert_eq!(response["output_text"], FITS);
            assert!(!answer.contains("It is ok."));
            let usage = &response["usage"];
            assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(50), &json!(10)));
        }
    }
}

#[tokio::test]
async fn an_answer_without_text_is_asked_for_its_text() {
    let thought = json!({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]});
    let first = [format!("data: {thought}\n\n"), stop(3, 2)];
    let (response, _, asked) = play(request(json!({})), &[&first, &[text(FITS), stop(3, 2)]]).await;
    assert_asked_for_the_format(&asked, None);
    assert_eq!(kinds(&response), ["reasoning", "message"]);
    assert_eq!(response["output_text"], FITS);
}

/// SDKs parse every message by the format: what was said before a call is no message.
#[tokio::test]
async fn text_before_a_call_is_no_final_text() {
    let answer = [text("Let me "), text("look."), call(), stop(3, 2)];
    let (response, _, asked) = play(request(json!({})), &[&answer]).await;
    assert_eq!(asked.len(), 1);
    assert_eq!(kinds(&response), ["reasoning", "function_call"]);
    assert_eq!(response["output"][0]["summary"][0]["text"], "Let me look.");
    assert_eq!(response["output_text"], "");
}

#[tokio::test]
async fn a_cut_text_is_incomplete_and_costs_no_second_request() {
    let cut = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}"#;
    for (written, want) in [("{\"ok\": tr", vec!["message"]), ("It is", vec!["reasoning"])] {
        let answer = [text(written), format!("{cut}\n\n")];
        let (response, _, asked) = play(request(json!({})), &[&answer]).await;
        assert_eq!((asked.len(), &response["status"]), (1, &json!("incomplete")));
        assert_eq!(kinds(&response), want);
    }
}

#[tokio::test]
async fn a_second_request_that_fails_fails_the_response() {
    let answer = [text("It is ok."), stop(3, 2)];
    let (response, _, asked) = play(request(json!({})), &[&answer]).await;
    assert_eq!(asked.len(), 2);
    assert_eq!(response["status"], "failed");
    assert_eq!(response["output"], json!([]));
}

#[tokio::test]
async fn without_a_tool_that_may_be_called_the_format_goes_along() {
    for more in [json!({"tools": []}), json!({"tool_choice": "none"})] {
        let (response, _, asked) = play(request(more), &[&[text("as the server says"), stop(3, 2)]]).await;
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0]["response_format"]["json_schema"]["schema"], schema());
        assert_eq!(response["output_text"], "as the server says");
    }
}

#[tokio::test]
async fn json_object_is_kept_too() {
    let format = json!({"text": {"format": {"type": "json_object"}}});
    let first = [text("no"), stop(3, 2)];
    let (response, _, asked) = play(request(format), &[&first, &[text("{}"), stop(3, 2)]]).await;
    assert_eq!(asked[1]["response_format"], json!({"type": "json_object"}));
    assert_eq!(response["output_text"], "{}");
}

#[tokio::test]
async fn the_same_slot_is_asked_again() {
    for _ in 0..2 {
        let first = [text("It is ok."), stop(9, 5)];
        let second = [text(FITS), stop(20, 4)];
        // without a name of its conversation
        let (_, _, asked) = play(request(json!({})), &[&first, &second]).await;
        assert!(asked[0]["id_slot"].is_u64(), "{}", asked[0]);
        assert_eq!(asked[0]["id_slot"], asked[1]["id_slot"]);
    }
}

// ---- a server with a Responses API of its own, which is built the same way inside

const NATIVE: [(&str, &str); 1] = [("REJOINDER_UPSTREAM__API", "responses")];

fn event(value: Value) -> String {
    format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap())
}

/// A message as llama-server tells it: announced, written, and done at the end.
fn said(written: &str) -> Vec<String> {
    let mut events = vec![event(json!({"type": "response.output_item.added", "item": {"type": "message",
        "id": "msg_1", "status": "in_progress", "role": "assistant", "content": []}}))];
    events.extend(written.chars().map(|c| {
        event(json!({"type": "response.output_text.delta", "item_id": "msg_1", "delta": c.to_string()}))
    }));
    events.push(event(json!({"type": "response.output_text.done", "item_id": "msg_1", "text": written})));
    events.push(event(
        json!({"type": "response.output_item.done", "item": {"type": "message", "id": "msg_1",
        "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": written, "annotations": []}]}}),
    ));
    events
}

fn called() -> Vec<String> {
    let item = |status: &str, arguments: &str| {
        json!({"type": "function_call", "id": "fc_1", "status": status,
        "call_id": "call_1", "name": "look", "arguments": arguments})
    };
    vec![
        event(json!({"type": "response.output_item.added", "item": item("in_progress", "")})),
        event(json!({"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": "{}"})),
        event(json!({"type": "response.output_item.done", "item": item("completed", "{}")})),
    ]
}

fn completed(input: u32, output: u32) -> String {
    event(json!({"type": "response.completed", "response": {"status": "completed", "usage": {
        "input_tokens": input, "output_tokens": output, "total_tokens": input + output}}}))
}

#[tokio::test]
async fn a_native_server_can_call_too() {
    for stream in [true, false] {
        let answer = [said("Let me see."), called(), vec![completed(3, 2)]].concat();
        let (response, _, asked) = play_with(&NATIVE, request(json!({"stream": stream})), &[&answer]).await;
        // what it says before is no final answer, and no client may parse it
        assert_eq!(kinds(&response), ["reasoning", "function_call"], "{response}");
        assert_eq!(response["output"][0]["summary"][0]["text"], "Let me see.");
        let [asked] = &asked[..] else { panic!("{} requests", asked.len()) };
        assert!(asked.get("response_format").is_none() && asked.get("text").is_none(), "{asked}");
    }
}

#[tokio::test]
async fn a_native_text_that_fits_costs_no_second_request() {
    for written in [FITS, "```json\n{\"ok\": true}\n```"] {
        let answer = [said(written), vec![completed(9, 5)]].concat();
        let (response, text, asked) = play_with(&NATIVE, request(json!({})), &[&answer]).await;
        assert_eq!(response["output"][0]["content"][0]["text"], FITS, "{text}");
        assert_eq!((asked.len(), response["output"].as_array().unwrap().len()), (1, 1), "{text}");
        assert_eq!(response["usage"]["total_tokens"], 14);
    }
}

#[tokio::test]
async fn a_native_text_that_does_not_fit_is_asked_for_again() {
    for stream in [true, false] {
        let first = [said("It is ok, I think."), vec![completed(9, 5)]].concat();
        let second = [said(FITS), vec![completed(20, 4)]].concat();
        let request = request(json!({"stream": stream}));
        let (response, text, asked) = play_with(&NATIVE, request, &[&first, &second]).await;
        assert!(!text.contains("I think"), "{text}");
        assert_eq!(kinds(&response), ["message"], "{response}");
        assert_eq!(response["output"][0]["content"][0]["text"], FITS);
        assert_eq!(response["usage"]["output_tokens"], 9);
        let [first, second] = &asked[..] else { panic!("{} requests", asked.len()) };
        assert!(first.get("response_format").is_none(), "{first}");
        assert_eq!(second["response_format"]["json_schema"]["schema"], schema());
        assert_eq!((&second["tool_choice"], &second["tools"]), (&json!("none"), &first["tools"]));
        let (before, after) = (first["input"].as_array().unwrap(), second["input"].as_array().unwrap());
        assert_eq!(after[..before.len()], before[..]);
        assert_eq!(after[before.len()]["content"][0]["text"], "It is ok, I think.");
        assert_eq!(after.len(), before.len() + 2);
    }
}
