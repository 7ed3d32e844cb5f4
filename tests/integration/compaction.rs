//! What is sealed, summarised or left out: JSON in, chat JSON and events out, with a seal that a reader can see through.

use std::sync::Arc;

use rejoinder_core::dialect::GENERIC;
use rejoinder_core::ids::Ids;
use rejoinder_core::limits::Limits;
use rejoinder_core::options::{Compact, PlanOptions};
use rejoinder_core::request::parse::{Context, ParsedRequest};
use rejoinder_core::request::plan::{Plan, plan};
use rejoinder_core::response::transcoder::{End, Transcoder};
use rejoinder_core::sealing::{Purpose, Seal};
use rejoinder_core::wire::request;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// `purpose:text`, reversed.
#[derive(Debug)]
struct Mirror;

impl Seal for Mirror {
    fn seal(&self, purpose: Purpose, text: &str) -> Option<String> {
        Some(format!("{}:{text}", purpose.name()).chars().rev().collect())
    }

    fn open(&self, purpose: Purpose, blob: &str) -> Option<String> {
        let text: String = blob.chars().rev().collect();
        text.strip_prefix(&format!("{}:", purpose.name())).map(str::to_owned)
    }
}

fn options() -> PlanOptions<'static> {
    PlanOptions { seal: Some(Arc::new(Mirror)), ..PlanOptions::new(&GENERIC) }
}

fn planned(request: &Value, options: &PlanOptions<'_>) -> Plan {
    plan(request.to_string().as_bytes(), options).unwrap()
}

fn messages(plan: &Plan) -> Vec<String> {
    let chat: Value = serde_json::from_slice(&plan.body).unwrap();
    let shown = |message: &Value| match (&message["content"], &message["tool_calls"]) {
        (_, Value::Array(calls)) => format!("calls {}", calls[0]["id"].as_str().unwrap()),
        (content, _) => format!("{} {}", message["role"].as_str().unwrap(), content.as_str().unwrap()),
    };
    chat["messages"].as_array().unwrap().iter().map(shown).collect()
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

fn call(id: &str) -> [Value; 2] {
    [
        json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"}),
        json!({"type": "function_call_output", "call_id": id, "output": format!("out {id}")}),
    ]
}

/// Three turns, the second with two tool exchanges.
fn history() -> Vec<Value> {
    let mut items =
        vec![json!({"role": "developer", "content": "rules"}), user("q1"), assistant("a1"), user("q2")];
    items.extend(call("c1"));
    items.extend(call("c2"));
    items.extend([assistant("a2"), user("q3")]);
    items
}

#[test]
fn the_oldest_turns_go_whole_and_the_last_stays() {
    let request = json!({"model": "m", "input": history()});
    let left_out = |drop_turns| {
        let plan = planned(&request, &PlanOptions { drop_turns, ..options() });
        (messages(&plan), plan.droppable_turns)
    };
    assert_eq!(left_out(0).1, 2);
    let second = [
        "system rules",
        "user q2",
        "calls c1",
        "tool out c1",
        "calls c2",
        "tool out c2",
        "assistant a2",
        "user q3",
    ];
    assert_eq!(left_out(1), (second.map(str::to_owned).to_vec(), 1));
    assert_eq!(left_out(2), (vec!["system rules".to_owned(), "user q3".to_owned()], 0));
    assert_eq!(left_out(9), left_out(2));
}

#[test]
fn within_one_long_turn_whole_tool_exchanges_go() {
    let mut input = vec![user("q")];
    for id in ["c1", "c2", "c3"] {
        input.extend(call(id));
    }
    // neighbouring calls are one answer of the model's; what the user says between parts them
    input.insert(3, user("go on"));
    let request = json!({"model": "m", "input": input});
    let plan = planned(&request, &PlanOptions { drop_turns: 1, ..options() });
    assert_eq!(messages(&plan)[0], "user go on");
    for drop_turns in 0..6 {
        let plan = planned(&request, &PlanOptions { drop_turns, ..options() });
        let chat: Value = serde_json::from_slice(&plan.body).unwrap();
        let ids = |of: &dyn Fn(&Value) -> Vec<String>| -> Vec<String> {
            chat["messages"].as_array().unwrap().iter().flat_map(of).collect()
        };
        let calls = ids(&|message| {
            let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
            calls.iter().map(|call| call["id"].as_str().unwrap().to_owned()).collect()
        });
        let outputs =
            ids(&|message| message["tool_call_id"].as_str().map(str::to_owned).into_iter().collect());
        assert_eq!(calls, outputs, "a call and its output go together");
        assert!(!calls.is_empty(), "the last exchange stays");
    }
}

fn events(plan: &Plan, chunks: &[Value]) -> Vec<Value> {
    let mut transcoder = Transcoder::new(plan.reply.clone(), Ids::new("0"), 1);
    let mut out = Vec::new();
    transcoder.start(&mut out);
    for chunk in chunks {
        transcoder.chunk(&chunk.to_string(), 2, &mut out);
    }
    transcoder.end(End::Eof, 2, &mut out);
    let text = String::from_utf8(out).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta}]})
}

fn stop() -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
}

#[test]
fn a_trigger_makes_one_item_that_stands_in_the_next_request() {
    let mut input = history();
    input.push(json!({"type": "compaction_trigger"}));
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
    let request = json!({"model": "m", "input": input, "tools": tools, "stream": true, "store": false});
    let plan = planned(&request, &options());
    let chat: Value = serde_json::from_slice(&plan.body).unwrap();
    assert_eq!(chat["tool_choice"], "none");
    assert_eq!(chat["tools"].as_array().unwrap().len(), 1, "the prompt begins as it did");
    let plain = planned(&json!({"model": "m", "input": history()}), &options());
    // the last user message and the prompt are one, or two: what is before them is the same
    let (with, without) = (messages(&plan), messages(&plain));
    assert_eq!(with[..without.len() - 1], without[..without.len() - 1]);

    let chunks = [
        delta(json!({"reasoning_content": "hm"})),
        delta(json!({"content": "They said "})),
        delta(json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]})),
        delta(json!({"content": "\"so\"."})),
        stop(),
    ];
    let events = events(&plan, &chunks);
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let item = ["response.output_item.added", "response.output_item.done"];
    assert_eq!(
        kinds,
        [&["response.created", "response.in_progress"], &item[..], &["response.completed"]].concat()
    );
    let made = &events[3]["item"];
    assert_eq!((made["type"].as_str(), made["id"].as_str()), (Some("compaction"), Some("cmp_00000")));
    assert_eq!(events[4]["response"]["output"], json!([made]));

    let next = planned(&json!({"model": "m", "input": [user("kept"), made, user("next")]}), &options());
    let shown = messages(&next).join("\n");
    assert!(shown.contains("They said \"so\"."), "{shown}");
    assert!(shown.contains("user kept"), "the client decides what it keeps: {shown}");
    // of one that does not open the model hears no more than that
    let mut foreign = made.clone();
    foreign["encrypted_content"] = json!("nonsense");
    let next = planned(&json!({"model": "m", "input": [user("kept"), foreign, user("next")]}), &options());
    let note =
        "user [An earlier part of the conversation was summarised, and the summary cannot be read here.]";
    assert_eq!(messages(&next), ["user kept", note, "user next"]);
}

#[test]
fn an_empty_summary_is_a_failure() {
    let request = json!({"model": "m", "input": [user("q"), {"type": "compaction_trigger"}], "stream": true});
    let events = events(&planned(&request, &options()), &[delta(json!({"content": " \n"})), stop()]);
    assert_eq!(events.last().unwrap()["type"], "response.failed");
}

#[test]
fn a_summary_for_the_server_replaces_what_came_before() {
    let text = json!({"model": "m", "input": history(), "max_output_tokens": 16}).to_string();
    let draft = ParsedRequest::read(&text, &Limits::DEFAULT).unwrap();
    let wanted = PlanOptions { compact: Some(Compact::Replacing), ..options() };
    let asked: Value =
        serde_json::from_slice(&draft.plan(&wanted, &Context::default()).unwrap().body).unwrap();
    assert!(asked.get("max_tokens").is_none(), "the answer's limit is not the summary's");

    let blob = Mirror.seal(Purpose::Compaction, &json!({"text": "SUM", "replaces": true}).to_string());
    let item = json!({"type": "compaction", "encrypted_content": blob}).to_string();
    let item: &RawValue = serde_json::from_str(&item).unwrap();
    let context = Context { summary: Some(request::item(item)), ..Context::default() };
    let shown = messages(&draft.plan(&options(), &context).unwrap());
    assert_eq!((shown.len(), shown[0].as_str(), shown[2].as_str()), (3, "system rules", "user q3"));
    assert!(shown[1].ends_with("SUM"), "{shown:?}");

    // in later turns the item stands where the response put it: before its own answer
    let mut later = history();
    later.extend([
        json!({"type": "compaction", "id": "cmp_1", "encrypted_content": blob}),
        assistant("a3"),
        user("q4"),
    ]);
    let shown = messages(&planned(&json!({"model": "m", "input": later}), &options()));
    assert_eq!(shown.len(), 4, "{shown:?}");
    assert_eq!((shown[2].as_str(), shown[3].as_str()), ("assistant a3", "user q4"));
}

#[test]
fn reasoning_is_sealed_beside_its_text_or_in_its_place() {
    let chunks = [delta(json!({"reasoning_content": "be\"cause"})), delta(json!({"content": "so"})), stop()];
    let include = json!(["reasoning.encrypted_content"]);
    let ask = |reasoning: Value, include: Value| {
        let request =
            json!({"model": "m", "input": "q", "stream": true, "reasoning": reasoning, "include": include});
        events(&planned(&request, &options()), &chunks)
    };
    let done = |events: &[Value]| {
        let mut done = events.iter().filter(|event| event["type"] == "response.output_item.done");
        done.next().unwrap()["item"].clone()
    };
    let shown = done(&ask(json!({"summary": "auto"}), include.clone()));
    assert_eq!(shown["summary"][0]["text"], "be\"cause");
    let blob = shown["encrypted_content"].as_str().unwrap();
    assert_eq!(Mirror.open(Purpose::Reasoning, blob).as_deref(), Some("be\"cause"));

    let sealed = ask(json!({"summary": null}), include);
    assert_eq!(done(&sealed)["summary"], json!([]));
    assert_eq!(done(&sealed)["encrypted_content"], blob);
    assert!(sealed.iter().all(|event| !event["type"].as_str().unwrap().contains("reasoning")));
    assert!(done(&ask(json!({}), json!([]))).get("encrypted_content").is_none());

    // a client that kept the sealed form alone gives the reasoning back
    let input = json!([user("q"), {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": blob},
        assistant("so"), user("next")]);
    let plan = planned(&json!({"model": "m", "input": input}), &options());
    let chat: Value = serde_json::from_slice(&plan.body).unwrap();
    assert_eq!(chat["messages"][1]["reasoning_content"], "be\"cause");
}

#[test]
fn a_cancelled_response_keeps_what_was_finished() {
    let plan = planned(&json!({"model": "m", "input": "q", "stream": true, "background": true}), &options());
    let mut transcoder = Transcoder::new(plan.reply, Ids::new("0"), 1);
    let mut out = Vec::new();
    transcoder.start(&mut out);
    transcoder.chunk(&delta(json!({"content": "half"})).to_string(), 2, &mut out);
    transcoder.cancel(&mut out);
    transcoder.end(End::Eof, 3, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("event: response.queued\n"), "{text}");
    assert!(text.contains("event: response.incomplete\n") && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(transcoder.outcome(), "cancelled");
    let item: Value = serde_json::from_str(&transcoder.snapshot().output.to_string()).unwrap();
    assert_eq!(
        (item["status"].as_str(), item["content"][0]["text"].as_str()),
        (Some("incomplete"), Some("half"))
    );
}
