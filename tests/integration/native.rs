//! Requests to servers that speak Responses themselves: what of the client's body goes out, and in which words. And
//! what of their answers is kept to ourselves: summaries and sealed reasoning.

use crate::support::checker;
use std::sync::Arc;

use rejoinder_core::dialect::{Dialect, GENERIC, LLAMA_SERVER, VLLM};
use rejoinder_core::ids::Ids;
use rejoinder_core::limits::Limits;
use rejoinder_core::options::{Compact, PlanOptions};
use rejoinder_core::request::parse::{Context, ParsedRequest};
use rejoinder_core::request::plan::{Plan, plan};
use rejoinder_core::response::transcoder::Transcoder;
use rejoinder_core::responses_profile;
use rejoinder_core::responses_profile::ResponsesProfile;
use rejoinder_core::sealing::{Purpose, Seal};
use rejoinder_core::wire::request::item;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// "Seals" by naming the purpose.
#[derive(Debug)]
struct Named;

impl Seal for Named {
    fn seal(&self, purpose: Purpose, text: &str) -> Option<String> {
        Some(format!("{}:{text}", purpose.name()))
    }
    fn open(&self, purpose: Purpose, blob: &str) -> Option<String> {
        blob.strip_prefix(&format!("{}:", purpose.name())).map(str::to_owned)
    }
}

fn options(dialect: &'static Dialect, native: &'static ResponsesProfile) -> PlanOptions<'static> {
    PlanOptions { native: Some(native), seal: Some(Arc::new(Named)), ..PlanOptions::new(dialect) }
}

fn body(plan: &Plan) -> Value {
    serde_json::from_slice(&plan.body).expect("the body is JSON")
}

/// The body for a llama-server.
fn for_llama(request: &Value) -> Value {
    body(
        &plan(request.to_string().as_bytes(), &options(&LLAMA_SERVER, &responses_profile::LLAMA_SERVER))
            .unwrap(),
    )
}

fn text(plan: &Plan) -> &str {
    std::str::from_utf8(&plan.body).unwrap()
}

#[test]
fn the_body_goes_on_in_the_clients_own_words() {
    let request = r#"{"input": [ {"type":"mystery","x":1.50},{"role":"user","content":"hi"}], "temperature":0.70,
        "previous_response_id":null,"store":true,"client_metadata":{"a":"b"},"tools":[{"type":"web_search","b":1,"a":2}],
        "unknown":{"z":1,"y":2},"stream":true,"model":"m","background":false,"max_output_tokens":20}"#;
    let sent = plan(request.as_bytes(), &options(&GENERIC, &responses_profile::FULL)).unwrap();
    assert_eq!(
        text(&sent),
        r#"{"model":"m","input":[{"type":"mystery","x":1.50},{"role":"user","content":"hi"}],"temperature":0.70,"tools":[{"type":"web_search","b":1,"a":2}],"unknown":{"z":1,"y":2},"max_output_tokens":20,"store":false,"stream":true}"#
    );
    let sent = plan(request.as_bytes(), &options(&GENERIC, &responses_profile::CODEX_BACKEND)).unwrap();
    assert_eq!(
        text(&sent),
        r#"{"model":"m","input":[{"type":"mystery","x":1.50},{"role":"user","content":"hi"}],"tools":[{"type":"web_search","b":1,"a":2}],"unknown":{"z":1,"y":2},"store":false,"stream":true}"#
    );
}

#[test]
fn a_server_that_has_streams_alone_is_asked_for_one() {
    let request = json!({"model": "m", "input": "hi"});
    let sent =
        plan(request.to_string().as_bytes(), &options(&GENERIC, &responses_profile::CODEX_BACKEND)).unwrap();
    assert_eq!(body(&sent), json!({"model": "m", "input": "hi", "store": false, "stream": true}));
    assert!(!sent.stream, "its client wants none");
}

#[test]
fn earlier_turns_come_first() {
    let earlier: Vec<Box<RawValue>> =
        [r#"{"role":"user","content":"a"}"#, r#"{"id":"ws_1","type":"web_search_call"}"#]
            .map(|item| RawValue::from_string(item.to_owned()).unwrap())
            .into();
    let context = Context { earlier: earlier.iter().map(|raw| item(raw)).collect(), ..Context::default() };
    for (input, last) in [
        (json!("b"), json!({"type": "message", "role": "user", "content": "b"})),
        (json!([{"role": "user", "content": "b"}]), json!({"role": "user", "content": "b"})),
    ] {
        let request = json!({"model": "m", "input": input, "previous_response_id": "resp_1"}).to_string();
        let draft = ParsedRequest::read(&request, &Limits::DEFAULT).unwrap();
        let sent = draft.plan(&options(&GENERIC, &responses_profile::FULL), &context).unwrap();
        let wanted =
            json!([{"role": "user", "content": "a"}, {"id": "ws_1", "type": "web_search_call"}, last]);
        assert_eq!(body(&sent)["input"], wanted);
        assert_eq!(body(&sent).get("previous_response_id"), None);
    }
}

#[test]
fn what_a_chain_holds_is_told_once_here_too() {
    let call = r#"{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}"#;
    let earlier = [r#"{"role":"user","content":"a"}"#, call];
    let earlier = earlier.map(|item| RawValue::from_string(item.to_owned()).unwrap());
    let context = Context {
        earlier: earlier.iter().map(|raw| item(raw)).collect(),
        strict: true,
        ..Context::default()
    };
    let output = json!({"type": "function_call_output", "call_id": "c", "output": "ok"});
    let call: Value = serde_json::from_str(call).unwrap();
    let request =
        json!({"model": "m", "input": [call, output], "previous_response_id": "resp_1"}).to_string();
    let draft = ParsedRequest::read(&request, &Limits::DEFAULT).unwrap();
    let sent = draft.plan(&options(&GENERIC, &responses_profile::FULL), &context).unwrap();
    assert_eq!(body(&sent)["input"], json!([{"role": "user", "content": "a"}, call, output]));
}

#[test]
fn what_we_sealed_is_opened() {
    let summary = r#"compaction:{"text":"it was long","replaces":true}"#;
    let request = json!({"model": "m", "input": [
        {"role": "user", "content": "gone"},
        {"type": "compaction", "id": "cmp_1", "encrypted_content": summary},
        {"type": "compaction", "id": "cmp_2", "encrypted_content": "of another's"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "reasoning:ours"},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "theirs"},
        {"role": "user", "content": "go on"},
    ]});
    let sent = plan(request.to_string().as_bytes(), &options(&GENERIC, &responses_profile::FULL)).unwrap();
    let input = body(&sent)["input"].take();
    assert_eq!(input[0]["role"], "user");
    assert!(input[0]["content"].as_str().unwrap().ends_with("it was long"));
    assert_eq!(input[1]["encrypted_content"], "of another's");
    assert_eq!(input[2], json!({"type": "reasoning", "summary": []}));
    assert_eq!(input[3]["encrypted_content"], "theirs");
    assert_eq!(input.as_array().unwrap().len(), 5);
}

#[test]
fn a_server_of_functions_gets_plain_items_and_functions() {
    let request = json!({
        "model": "m", "instructions": "be brief", "max_output_tokens": 20, "stream": true,
        "text": {"format": {"type": "json_schema", "name": "t", "schema": {"type": "object"}}},
        "tools": [
            {"type": "custom", "name": "apply_patch"},
            {"type": "namespace", "name": "mcp__lab", "tools": [{"type": "function", "name": "echo"}]},
            {"type": "web_search"},
        ],
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": "data:image/png;base64,AA"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"role": "assistant", "content": "I patch."},
            {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin"},
            {"type": "function_call", "call_id": "c2", "namespace": "mcp__lab", "name": "echo", "arguments": "{}"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
            {"type": "mystery"},
            {"role": "user", "content": "and?"},
        ],
    });
    let sent = for_llama(&request);
    assert_eq!(
        sent["input"],
        json!([
            {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "be brief"}]},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "auto"},
            ]},
            {"type": "reasoning", "id": "rs_3", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "id": "msg_4", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "annotations": [], "text": "I patch."}]},
            {"type": "function_call", "call_id": "c1", "name": "apply_patch", "arguments": "{\"input\":\"*** Begin\"}"},
            {"type": "function_call", "call_id": "c2", "name": "mcp__lab__echo", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "done"},
            {"type": "function_call_output", "call_id": "c2", "output": "aborted"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and?"}]},
        ])
    );
    let tools: Vec<_> =
        sent["tools"].as_array().unwrap().iter().map(|tool| (&tool["type"], &tool["name"])).collect();
    assert_eq!(
        tools,
        [(&json!("function"), &json!("apply_patch")), (&json!("function"), &json!("mcp__lab__echo"))]
    );
    assert_eq!(
        (&sent["max_output_tokens"], &sent["store"], &sent["stream"]),
        (&json!(20), &json!(false), &json!(true))
    );
}

#[test]
fn a_format_goes_out_where_the_server_reads_it_and_not_beside_tools_that_may_be_called() {
    let format = json!({"type": "json_schema", "name": "t", "schema": {"type": "object"}});
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
    let sent = |more: Value, options: &PlanOptions<'_>| {
        let text = json!({"format": format, "verbosity": "low"});
        let mut request = json!({"model": "m", "input": "hi", "text": text});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body(&plan(request.to_string().as_bytes(), options).unwrap())
    };
    let llama = options(&LLAMA_SERVER, &responses_profile::LLAMA_SERVER);
    let vllm = options(&VLLM, &responses_profile::VLLM);
    for (more, told) in [
        (json!({}), true),
        (json!({"tools": tools, "tool_choice": "none"}), true),
        (json!({"tools": tools}), false),
        (json!({"tools": tools, "tool_choice": "required"}), false),
        (json!({"tools": tools, "tool_choice": {"type": "function", "name": "f"}}), false),
    ] {
        // one ignores text.format, and reads this
        let body = sent(more.clone(), &llama);
        assert_eq!(body.get("text"), None);
        assert_eq!(body.get("response_format").is_some(), told, "{more}");
        let body = sent(more.clone(), &vllm);
        assert_eq!(body.get("response_format"), None);
        assert_eq!(
            (body["text"].get("format"), &body["text"]["verbosity"]),
            (told.then_some(&format), &json!("low"))
        );
    }
    // one that keeps both apart has all of it
    let whole = sent(json!({"tools": tools}), &options(&GENERIC, &responses_profile::FULL));
    assert_eq!(whole["text"]["format"], format);
}

#[test]
fn a_longer_history_only_grows_at_its_end() {
    let mut input =
        vec![json!({"role": "developer", "content": "d"}), json!({"role": "user", "content": "a"})];
    let mut before = Vec::new();
    for turn in 0..4 {
        let sent = for_llama(&json!({"model": "m", "input": input}));
        let items = sent["input"].as_array().unwrap().clone();
        assert_eq!(items[..before.len()], before[..], "turn {turn}");
        before = items;
        input.push(
            json!({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}),
        );
        input.push(
            json!({"type": "function_call", "call_id": format!("c{turn}"), "name": "f", "arguments": "{}"}),
        );
        input.push(json!({"type": "function_call_output", "call_id": format!("c{turn}"), "output": "o"}));
        input.push(json!({"role": "assistant", "content": "said"}));
        input.push(json!({"role": "user", "content": "more"}));
    }
}

#[test]
fn which_server_is_asked_how() {
    for (dialect, base, kind) in [
        ("llama_server", "http://h:8080", &responses_profile::LLAMA_SERVER),
        ("vllm", "http://h:8000", &responses_profile::VLLM),
        ("generic", "https://api.openai.com", &responses_profile::FULL),
        ("generic", "https://chatgpt.com/backend-api/codex", &responses_profile::CODEX_BACKEND),
    ] {
        assert_eq!(ResponsesProfile::of(dialect, base), kind, "{base}");
    }
}

/// What becomes of these events when a request has these members and options.
fn told(request: Value, options: &PlanOptions<'_>, events: &[Value]) -> (String, Value) {
    let mut wanted = json!({"model": "m", "input": "hi", "stream": true});
    wanted.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    let planned = plan(wanted.to_string().as_bytes(), options).unwrap();
    let mut transcoder = Transcoder::new(planned.reply, Ids::new("0"), 1);
    let mut out = Vec::new();
    transcoder.start(&mut out);
    for event in events {
        transcoder.chunk(&event.to_string(), 2, &mut out);
    }
    let out = String::from_utf8(out).unwrap();
    let violations = checker::check(&out);
    assert!(violations.is_empty(), "{violations:#?}\n{out}");
    let last = out.lines().filter_map(|line| line.strip_prefix("data: {")).next_back().unwrap();
    let last: Value = serde_json::from_str(&format!("{{{last}")).unwrap();
    (out.clone(), last["response"].clone())
}

fn reasoning_and_text() -> [Value; 6] {
    let reasoning = json!({"type": "reasoning", "id": "rs_x", "summary": [], "encrypted_content": "",
        "content": [{"type": "reasoning_text", "text": "hm, so"}]});
    let message = json!({"type": "message", "id": "msg_x", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": "A summary."}]});
    [
        json!({"type": "response.reasoning_text.delta", "item_id": "rs_x", "delta": "hm,"}),
        json!({"type": "response.reasoning_text.delta", "item_id": "rs_x", "delta": " so"}),
        json!({"type": "response.output_text.delta", "item_id": "msg_x", "delta": "A sum"}),
        json!({"type": "response.output_item.done", "item": reasoning}),
        json!({"type": "response.output_item.done", "item": message}),
        json!({"type": "response.completed", "response": {"output": [reasoning, message]}}),
    ]
}

#[test]
fn a_summary_is_sealed_not_shown() {
    for (dialect, native) in
        [(&LLAMA_SERVER, &responses_profile::LLAMA_SERVER), (&GENERIC, &responses_profile::FULL)]
    {
        let options = PlanOptions { compact: Some(Compact::Beside), ..options(dialect, native) };
        let (_, response) = told(json!({}), &options, &reasoning_and_text());
        let items = response["output"].as_array().unwrap();
        assert_eq!(items.len(), 1, "{response}");
        let blob = items[0]["encrypted_content"].as_str().unwrap();
        assert_eq!(blob, r#"compaction:{"text":"A summary.","replaces":false}"#);
    }
}

#[test]
fn reasoning_is_sealed_for_its_client() {
    let request = json!({"include": ["reasoning.encrypted_content"]});
    let (_, response) = told(
        request.clone(),
        &options(&LLAMA_SERVER, &responses_profile::LLAMA_SERVER),
        &reasoning_and_text(),
    );
    assert_eq!(response["output"][0]["encrypted_content"], "reasoning:hm, so");
    assert_eq!(response["output"][0]["summary"][0]["text"], "hm, so");

    let hidden = json!({"include": ["reasoning.encrypted_content"], "reasoning": {"summary": null}});
    // the item ends once with the text behind it, once before: then all of it is told again
    let (late, mut early) = (reasoning_and_text(), reasoning_and_text());
    early.swap(2, 3);
    for events in [late, early] {
        let (out, response) =
            told(hidden.clone(), &options(&LLAMA_SERVER, &responses_profile::LLAMA_SERVER), &events);
        assert_eq!(response["output"][0]["encrypted_content"], "reasoning:hm, so");
        assert!(!out.contains("reasoning_summary_text"));
    }
}
