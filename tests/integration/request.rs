//! The request side: what each form of a Responses request becomes in Chat Completions (docs/protocol.md 3 to 5).

use rejoinder_core::dialect::{Dialect, GENERIC, LLAMA_SERVER, LM_STUDIO, OLLAMA, SGLANG, VLLM};
use rejoinder_core::error::Error;
use rejoinder_core::options::{DeveloperMessages, PlanOptions, SealReasoning};
use rejoinder_core::request::plan::{Plan, plan};
use serde_json::{Value, json};

fn options(dialect: &'static Dialect) -> PlanOptions<'static> {
    PlanOptions::new(dialect)
}

fn planned(request: &Value, options: &PlanOptions<'_>) -> Result<Plan, Error> {
    plan(request.to_string().as_bytes(), options)
}

/// The chat body for a request with these fields besides `model`.
fn chat_for(dialect: &'static Dialect, fields: Value) -> Value {
    let mut request = json!({"model": "m", "input": "hi"});
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let plan = planned(&request, &options(dialect)).unwrap();
    serde_json::from_slice(&plan.body).expect("the chat body is JSON")
}

fn messages(input: Value) -> Value {
    chat_for(&VLLM, json!({"input": input}))["messages"].take()
}

fn refusal(fields: Value) -> (String, Option<String>, u16) {
    let mut request = json!({"model": "m", "input": "hi"});
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let error = planned(&request, &options(&GENERIC)).unwrap_err();
    (error.param.clone().unwrap_or_default(), error.code().map(|c| c.into_owned()), error.status())
}

fn call(id: &str, name: &str) -> Value {
    json!({"type": "function_call", "call_id": id, "name": name, "arguments": "{}"})
}

fn output(id: &str, text: &str) -> Value {
    json!({"type": "function_call_output", "call_id": id, "output": text})
}

fn chat_call(id: &str, name: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}})
}

#[test]
fn a_string_is_one_user_message() {
    let chat = chat_for(&LLAMA_SERVER, json!({"instructions": "be brief", "stream": true}));
    assert_eq!(
        chat,
        json!({
            "model": "m",
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
            "return_progress": true,
            "stream": true,
            "stream_options": {"include_usage": true},
        })
    );
    // vLLM refuses stream_options without a stream
    assert_eq!(chat_for(&VLLM, json!({})).get("stream_options"), None);
}

#[test]
fn parts_of_every_kind() {
    let file = "data:text/plain;base64,aGVsbG8K";
    let got = messages(json!([{"role": "user", "content": [
        {"type": "input_text", "text": "look \u{1f600} \"q\""},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "high"},
        {"type": "input_image", "image_url": "http://x/y.png"},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "input_file", "filename": "a.txt", "file_data": file},
        {"type": "input_file", "filename": "b.pdf", "file_data": "data:application/pdf;base64,/9j/AA=="},
        {"type": "input_file", "file_url": "http://x/c.txt"},
        {"type": "hologram", "text": "?"},
    ]}]));
    assert_eq!(
        got,
        json!([{"role": "user", "content": [
            {"type": "text", "text": "look \u{1f600} \"q\""},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "high"}},
            {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
            {"type": "text", "text": "[image file-1: not available to this server]"},
            {"type": "text", "text": "<file name=\"a.txt\">\nhello\n\n</file>"},
            {"type": "text", "text": "[file b.pdf: its content is not text and was left out]"},
            {"type": "text", "text": "[file http://x/c.txt: its content is not text and was left out]"},
            {"type": "text", "text": "?"},
        ]}])
    );
}

#[test]
fn text_parts_are_one_string() {
    let got = messages(json!([
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "c"}, {"type": "refusal", "refusal": "d"}]},
        {"role": "user", "content": "e"},
    ]));
    assert_eq!(
        got,
        json!([
            {"role": "user", "content": "a\nb"},
            {"role": "assistant", "content": "cd"},
            {"role": "user", "content": "e"},
        ])
    );
}

#[test]
fn reasoning_in_every_form_goes_to_the_message_behind_it() {
    for (item, want) in [
        (json!({"summary": [], "content": [{"type": "reasoning_text", "text": "t"}]}), Some("t")),
        (json!({"summary": [], "content": "t"}), Some("t")),
        (json!({"summary": [{"type": "summary_text", "text": "t"}], "content": null}), Some("t")),
        (json!({"summary": [{"type": "summary_text", "text": "s"}], "content": []}), Some("s")),
        (
            json!({"summary": [{"type": "summary_text", "text": "s"}],
                   "content": [{"type": "reasoning_text", "text": "t"}], "encrypted_content": "x"}),
            Some("t"),
        ),
        (json!({"summary": [], "encrypted_content": "opaque"}), None),
        (json!({}), None),
    ] {
        let mut reasoning = json!({"type": "reasoning", "id": "rs_1"});
        reasoning.as_object_mut().unwrap().extend(item.as_object().unwrap().clone());
        let input = json!([
            {"role": "user", "content": "q"},
            reasoning,
            call("c1", "f"),
            output("c1", "o"),
        ]);
        for (dialect, key) in [(&VLLM, "reasoning"), (&LLAMA_SERVER, "reasoning_content")] {
            let chat = chat_for(dialect, json!({"input": input}));
            let message = &chat["messages"][1];
            assert_eq!(message["tool_calls"], json!([chat_call("c1", "f")]));
            assert_eq!(message.get(key).and_then(Value::as_str), want, "{item} for {key}");
        }
    }
}

#[test]
fn reasoning_that_led_to_nothing_is_left_out() {
    let got = messages(json!([
        {"role": "user", "content": "q"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"role": "user", "content": "again"},
    ]));
    assert_eq!(got, json!([{"role": "user", "content": "q"}, {"role": "user", "content": "again"}]));
}

#[test]
fn calls_of_one_turn_share_a_message_and_outputs_follow_it() {
    // Codex puts a message that came after a call between the call and its output
    let got = messages(json!([
        {"role": "user", "content": "q"},
        call("c1", "f"),
        call("c2", "g"),
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "running"}]},
        {"role": "developer", "content": "a notice"},
        output("c2", "two"),
        output("c1", "one"),
        {"role": "user", "content": "next"},
    ]));
    assert_eq!(
        got,
        json!([
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "running", "tool_calls": [chat_call("c1", "f"), chat_call("c2", "g")]},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "user", "content": "a notice"},
            {"role": "user", "content": "next"},
        ])
    );
}

#[test]
fn missing_outputs_orphans_and_double_ids() {
    let got = messages(json!([
        {"role": "user", "content": "q"},
        call("x", "f"),
        call("x", "f"),
        call("", "h"),
        output("x", "first"),
        output("x", "second"),
        output("lost", "orphan"),
        {"type": "function_call_output", "output": "no id"},
    ]));
    assert_eq!(
        got,
        json!([
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": null,
             "tool_calls": [chat_call("x", "f"), chat_call("x_2", "f"), chat_call("call_3", "h")]},
            {"role": "tool", "tool_call_id": "x", "content": "first"},
            {"role": "tool", "tool_call_id": "x_2", "content": "second"},
            {"role": "tool", "tool_call_id": "call_3", "content": "no id"},
            {"role": "user", "content": "[Output of tool call lost]\norphan"},
        ])
    );
    let interrupted = messages(
        json!([{"role": "user", "content": "q"}, call("c", "f"), {"role": "user", "content": "stop"}]),
    );
    assert_eq!(interrupted[2], json!({"role": "tool", "tool_call_id": "c", "content": "aborted"}));
}

#[test]
fn outputs_may_be_arrays_and_images_follow_in_a_user_message() {
    let got = messages(json!([
        {"role": "user", "content": "q"},
        call("c", "view_image"),
        {"type": "function_call_output", "call_id": "c", "output": [
            {"type": "input_text", "text": "Wall time: 1 s"},
            {"type": "input_text", "text": "done"},
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "high"},
        ]},
    ]));
    assert_eq!(got[2]["content"], json!("Wall time: 1 s\ndone\n[see the next user message for the image]"));
    assert_eq!(got[3]["role"], "user");
    assert_eq!(got[3]["content"][1]["image_url"]["url"], "data:image/png;base64,AAAA");
    let object = messages(json!([{"role": "user", "content": "q"}, call("c", "f"),
        {"type": "function_call_output", "call_id": "c", "output": {"ok": true}}]));
    assert_eq!(object[2]["content"], json!("{\"ok\":true}"));
}

#[test]
fn arguments_reach_the_upstream_as_an_object_always() {
    for (arguments, want) in [
        (json!("{\"a\": 1}"), json!({"a": 1})),
        (json!(""), json!({})),
        (json!(null), json!({})),
        (json!({"a": 1}), json!({"a": 1})),
        (json!("{\"a\": "), json!({"invalid_arguments": "{\"a\": "})),
        (json!("[1]"), json!({"invalid_arguments": "[1]"})),
    ] {
        let got = messages(json!([{"role": "user", "content": "q"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}]));
        let text = got[1]["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), want, "{arguments}");
    }
}

#[test]
fn developer_messages_in_three_modes() {
    let request = json!({"model": "m", "instructions": "I", "input": [
        {"role": "developer", "content": "D1"},
        {"role": "system", "content": "S1"},
        {"role": "user", "content": "q"},
        {"role": "developer", "content": "D2"},
    ]});
    for (mode, want) in [
        (DeveloperMessages::Leading, json!([["system", "I\n\nD1\n\nS1"], ["user", "q"], ["user", "D2"]])),
        (DeveloperMessages::All, json!([["system", "I\n\nD1\n\nS1\n\nD2"], ["user", "q"]])),
        (
            DeveloperMessages::Keep,
            json!([
                ["system", "I"],
                ["developer", "D1"],
                ["system", "S1"],
                ["user", "q"],
                ["developer", "D2"]
            ]),
        ),
    ] {
        let options = PlanOptions { developer_messages: mode, ..options(&GENERIC) };
        let chat: Value = serde_json::from_slice(&planned(&request, &options).unwrap().body).unwrap();
        let got: Vec<Value> =
            chat["messages"].as_array().unwrap().iter().map(|m| json!([m["role"], m["content"]])).collect();
        assert_eq!(json!(got), want, "{mode:?}");
    }
}

#[test]
fn alternation_joins_neighbours() {
    let request = json!({"model": "m", "input": [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]},
    ]});
    let options = PlanOptions { alternate_roles: true, ..options(&GENERIC) };
    let chat: Value = serde_json::from_slice(&planned(&request, &options).unwrap().body).unwrap();
    let roles: Vec<&str> =
        chat["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    assert_eq!(chat["messages"][0]["content"], "a\n\nb");
}

#[test]
fn llama_server_is_not_given_an_answer_to_continue() {
    let fields = json!({"input": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
    assert_eq!(
        chat_for(&LLAMA_SERVER, fields.clone())["messages"][2],
        json!({"role": "user", "content": ""})
    );
    assert_eq!(chat_for(&VLLM, fields)["messages"].as_array().unwrap().len(), 2);
}

#[test]
fn unknown_items_are_noted() {
    let request = json!({"model": "m", "input": [
        {"role": "user", "content": "q"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
        {"type": "configuration_update"},
        {"type": "message", "content": "no role"},
        {"type": "message", "role": "user", "content": 5},
        "a string", 7, null, [],
        {"type": "function_call", "call_id": "c"},
    ]});
    let plan = planned(&request, &options(&GENERIC)).unwrap();
    let chat: Value = serde_json::from_slice(&plan.body).unwrap();
    let said: Vec<&str> = chat["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["q", "[web_search_call]\naction: {\"type\":\"search\"}", "no role", "5", "a string"]);
    let noted = |wanted: &str| plan.notes.texts().iter().filter(|(kind, _)| *kind == wanted).count();
    assert_eq!((noted("written_item"), noted("skipped_item")), (2, 4));
}

#[test]
fn tools_and_choices() {
    let tools = json!([
        {"type": "function", "name": "f", "description": "d", "strict": false,
         "parameters": {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}},
        {"type": "function", "name": "g"},
        {"type": "web_search"},
        {"type": "code_interpreter", "container": {"type": "auto"}},
    ]);
    let chat = chat_for(&VLLM, json!({"tools": tools, "tool_choice": "auto", "parallel_tool_calls": false}));
    assert_eq!(
        chat["tools"],
        json!([
            {"type": "function", "function": {"name": "f", "description": "d", "strict": false,
             "parameters": {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}}},
            {"type": "function", "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}},
        ])
    );
    assert_eq!(chat["parallel_tool_calls"], false);
    let names = |chat: &Value| -> Vec<String> {
        chat["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["function"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let forced = json!({"tools": tools, "tool_choice": {"type": "function", "name": "g"}});
    let chat = chat_for(&VLLM, forced.clone());
    assert_eq!(chat["tool_choice"], json!({"type": "function", "function": {"name": "g"}}));
    assert_eq!(names(&chat), ["f", "g"]);
    // llama-server reads an object as auto: only that tool, and required
    let chat = chat_for(&LLAMA_SERVER, forced);
    assert_eq!((chat["tool_choice"].clone(), names(&chat)), (json!("required"), vec!["g".to_owned()]));
    let allowed = json!({"tools": tools, "tool_choice":
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}});
    let chat = chat_for(&GENERIC, allowed);
    assert_eq!((chat["tool_choice"].clone(), names(&chat)), (json!("required"), vec!["f".to_owned()]));
    // nothing to show: neither tools nor choice, vLLM refuses an empty array
    let chat = chat_for(&VLLM, json!({"tools": [{"type": "web_search"}], "tool_choice": "required"}));
    assert_eq!((chat.get("tools"), chat.get("tool_choice")), (None, None));
}

#[test]
fn fields_that_have_another_name_or_none() {
    let schema = json!({"type": "object", "properties": {"b": {}, "a": {}}});
    let chat = chat_for(
        &LLAMA_SERVER,
        json!({
            "max_output_tokens": 1, "temperature": 0.25, "top_p": 0.5, "presence_penalty": 1, "frequency_penalty": null,
            "reasoning": {"effort": "none", "summary": "auto"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": true}, "verbosity": "low"},
            "store": false, "metadata": {"a": "b"}, "prompt_cache_key": "k", "prompt_cache_retention": "24h",
            "safety_identifier": "s", "service_tier": "flex", "truncation": "auto", "user": "u",
            "include": ["reasoning.encrypted_content", "something.new"], "client_metadata": {"x": 1},
            "stream_options": {"include_obfuscation": false}, "whatever": [1], "max_tool_calls": 3,
        }),
    );
    assert_eq!(
        chat,
        json!({
            "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "temperature": 0.25,
            "top_p": 0.5, "presence_penalty": 1, "reasoning_effort": "none",
            "chat_template_kwargs": {"enable_thinking": false},
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": true}},
            "user": "u", "return_progress": true, "stream": true, "stream_options": {"include_usage": true},
        })
    );
    let chat = chat_for(&GENERIC, json!({"text": {"format": {"type": "json_object"}}, "top_logprobs": 3}));
    assert_eq!(chat["response_format"], json!({"type": "json_object"}));
    assert_eq!((chat["logprobs"].clone(), chat["top_logprobs"].clone()), (json!(true), json!(3)));
    let chat = chat_for(&GENERIC, json!({"include": ["message.output_text.logprobs"]}));
    assert_eq!((chat["logprobs"].clone(), chat["top_logprobs"].clone()), (json!(true), json!(0)));
}

#[test]
fn refusals_name_the_field() {
    let bad = |fields, param: &str, code: &str| {
        assert_eq!(refusal(fields), (param.to_owned(), Some(code.to_owned()), 400));
    };
    bad(json!({"input": 3}), "input", "invalid_type");
    bad(json!({"input": null}), "input", "missing_required_parameter");
    bad(json!({"model": null}), "model", "missing_required_parameter");
    bad(json!({"model": 1}), "model", "invalid_type");
    bad(json!({"stream": "yes"}), "stream", "invalid_type");
    bad(json!({"temperature": "hot"}), "temperature", "invalid_type");
    bad(json!({"max_output_tokens": 0}), "max_output_tokens", "integer_below_min_value");
    bad(json!({"max_output_tokens": 1.5}), "max_output_tokens", "invalid_type");
    bad(json!({"top_logprobs": 21}), "top_logprobs", "integer_above_max_value");
    bad(json!({"tools": {}}), "tools", "invalid_type");
    bad(json!({"tools": [{"type": "function"}]}), "tools[0].name", "missing_required_parameter");
    bad(
        json!({"tools": [{"type": "function", "name": "f", "parameters": []}]}),
        "tools[0].parameters",
        "invalid_type",
    );
    bad(json!({"tool_choice": "maybe"}), "tool_choice", "invalid_value");
    bad(json!({"tool_choice": {"type": "function", "name": "x"}}), "tool_choice", "invalid_value");
    bad(
        json!({"text": {"format": {"type": "json_schema", "name": "n"}}}),
        "text.format.schema",
        "missing_required_parameter",
    );
    bad(json!({"text": {"format": {"type": "yaml"}}}), "text.format.type", "invalid_value");
    bad(json!({"reasoning": {"effort": 3}}), "reasoning.effort", "invalid_type");
    bad(json!({"metadata": []}), "metadata", "invalid_type");
    bad(json!({"previous_response_id": 3}), "previous_response_id", "invalid_type");
    bad(json!({"conversation": 3}), "conversation", "invalid_type");
    bad(json!({"conversation": {}}), "conversation.id", "missing_required_parameter");
    let both = json!({"previous_response_id": "resp_1", "conversation": "conv_1"});
    bad(both, "previous_response_id", "mutually_exclusive_parameters");
    bad(json!({"background": true, "store": false}), "background", "invalid_value");
    for reference in [json!({"type": "item_reference", "id": "msg_1"}), json!({"type": null, "id": "msg_1"})]
    {
        let (param, code, status) = refusal(json!({"input": [reference]}));
        assert_eq!((param.as_str(), code, status), ("input[0]", None, 400));
    }
    for body in [&b"{"[..], b"", b"[]", b"\xff", b"null", b"{\"model\":\"m\",\"model\":\"n\"}"] {
        let error = plan(body, &options(&GENERIC)).unwrap_err();
        assert_eq!(error.code().as_deref(), Some("invalid_json"), "{body:?}");
    }
}

#[test]
fn an_item_without_a_type_that_says_something_is_no_reference() {
    for (member, value, said) in [
        ("encrypted_content", json!("A".repeat(600)), Some("[encrypted content: it cannot be read here]")),
        ("summary", json!([]), None),
        ("arguments", json!("{}"), Some("arguments: {}")),
        ("output", json!("x"), Some("output: x")),
    ] {
        let input = json!([{"role": "user", "content": "hi"}, {"id": "rs_1", member: value}]);
        let plan = planned(&json!({"model": "m", "input": input}), &options(&GENERIC)).unwrap();
        let body: Value = serde_json::from_slice(&plan.body).unwrap();
        let text = body["messages"].get(1).map(|message| message["content"].as_str().unwrap());
        assert_eq!(text.is_some(), said.is_some(), "{member}: {body}");
        assert!(text.unwrap_or_default().ends_with(said.unwrap_or_default()), "{member}: {body}");
    }
}

#[test]
fn a_default_model_stands_in() {
    let options = PlanOptions { default_model: Some("local"), ..options(&GENERIC) };
    assert_eq!(planned(&json!({"input": "x"}), &options).unwrap().model, "local");
}

#[test]
fn the_same_history_makes_the_same_bytes_and_a_longer_one_only_adds() {
    let mut input =
        vec![json!({"role": "developer", "content": "base"}), json!({"role": "user", "content": "q"})];
    let mut before: Option<Vec<u8>> = None;
    for turn in 0..6 {
        let id = format!("c{}", turn % 2); // ids repeat: they must be told apart alike each time
        input.push(
            json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": format!("r{turn}")}]}),
        );
        input.push(call(&id, "f"));
        input.push(json!({"role": "developer", "content": "notice"}));
        input.push(output(&id, "done"));
        let request = json!({"model": "m", "input": input, "tools": [{"type": "function", "name": "f"}]});
        let body = planned(&request, &options(&LLAMA_SERVER)).unwrap().body;
        assert_eq!(body, planned(&request, &options(&LLAMA_SERVER)).unwrap().body);
        let end = body.windows(9).position(|w| w == b"],\"tools\"").unwrap();
        let messages = body[..end].to_vec();
        if let Some(before) = before {
            assert!(messages.starts_with(&before), "turn {turn} changed an earlier byte");
        }
        before = Some(messages);
    }
}

#[test]
fn lone_surrogates_are_replaced_before_they_reach_a_parser_that_refuses_them() {
    let body = br#"{"model":"m","input":[{"role":"user","content":"a\ud83d b \ud83d\ude00"}]}"#;
    let plan = plan(body, &options(&GENERIC)).unwrap();
    let chat: Value = serde_json::from_slice(&plan.body).unwrap();
    assert_eq!(chat["messages"][0]["content"], "a\u{fffd} b \u{1f600}");
}

#[test]
fn image_details_are_those_that_chat_has() {
    for (given, want) in [
        (json!("original"), json!("high")),
        (json!("high"), json!("high")),
        (json!("low"), json!("low")),
        (json!("auto"), json!("auto")),
        (json!("ultra"), Value::Null),
        (json!(null), Value::Null),
        (json!(3), Value::Null),
    ] {
        let image = json!({"type": "input_image", "image_url": "http://x/y.png", "detail": given});
        let chat_form = json!({"type": "image_url", "image_url": {"url": "http://x/y.png", "detail": given}});
        let got = messages(json!([
            {"role": "user", "content": [image, chat_form]},
            call("c", "view_image"),
            {"type": "function_call_output", "call_id": "c", "output": [image]},
        ]));
        for at in ["/0/content/0", "/0/content/1", "/3/content/1"] {
            let sent = got.pointer(&format!("{at}/image_url")).unwrap();
            assert_eq!(sent["url"], "http://x/y.png", "{at}");
            assert_eq!(sent["detail"], want, "{given} {at}");
        }
    }
}

#[test]
fn the_effort_is_the_nearest_that_the_server_takes() {
    let effort = |dialect: &'static Dialect, asked: &str| {
        chat_for(dialect, json!({"reasoning": {"effort": asked}}))["reasoning_effort"].take()
    };
    for asked in ["none", "minimal", "low", "medium", "high", "xhigh", "max"] {
        assert_eq!((effort(&VLLM, asked), effort(&GENERIC, asked)), (json!(asked), json!(asked)));
    }
    for dialect in [&VLLM, &LLAMA_SERVER, &GENERIC] {
        assert_eq!(effort(dialect, "ultra"), "max");
    }
    for (asked, want) in
        [("minimal", "low"), ("xhigh", "high"), ("max", "high"), ("ultra", "high"), ("none", "none")]
    {
        assert_eq!(
            (effort(&OLLAMA, asked), effort(&LM_STUDIO, asked)),
            (json!(want), json!(want)),
            "{asked}"
        );
    }
    assert_eq!(effort(&SGLANG, "xhigh"), "high");
    let off = chat_for(&SGLANG, json!({"reasoning": {"effort": "none"}}));
    assert_eq!(off.get("reasoning_effort"), None);
    assert_eq!(off["chat_template_kwargs"], json!({"enable_thinking": false}));
    // as configured, or as llama-server says of its template
    for (taken, asked, want) in [
        (&["high", "max"][..], "low", json!("high")),
        (&["none"], "high", Value::Null),
        (&["low", "medium", "high"], "deep", json!("deep")),
    ] {
        let taken: Vec<String> = taken.iter().map(|level| level.to_string()).collect();
        let options = PlanOptions { efforts: Some(&taken), ..options(&LLAMA_SERVER) };
        let plan =
            planned(&json!({"model": "m", "input": "x", "reasoning": {"effort": asked}}), &options).unwrap();
        let chat: Value = serde_json::from_slice(&plan.body).unwrap();
        assert_eq!(chat["reasoning_effort"], want, "{asked} of {taken:?}");
        // the client reads what it asked for
        assert!(String::from_utf8(plan.reply.echo).unwrap().contains(&format!("\"effort\":\"{asked}\"")));
    }
}

#[test]
fn the_root_of_parameters_is_an_object() {
    let nested = json!({"type": "object", "properties": {"a": {"type": null}}});
    let given = [
        json!({"type": null}),
        json!({}),
        json!({"anyOf": [{"type": "object"}]}),
        json!(null),
        json!({"type": ["object", "null"], "properties": {"a": {}}}),
        json!({"properties": {"a": {}}, "required": ["a"]}),
        nested.clone(),
    ];
    let mut tools: Vec<Value> = given
        .iter()
        .enumerate()
        .map(|(n, parameters)| json!({"type": "function", "name": format!("f{n}"), "parameters": parameters}))
        .collect();
    tools.push(json!({"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "g", "parameters": {}}]}));
    let chat = chat_for(&GENERIC, json!({"tools": tools}));
    let sent: Vec<&Value> =
        chat["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]["parameters"]).collect();
    assert!(sent.iter().all(|parameters| parameters["type"] == "object"), "{sent:?}");
    assert_eq!(sent[2]["anyOf"], json!([{"type": "object"}]));
    assert_eq!(sent[5], &json!({"type": "object", "properties": {"a": {}}, "required": ["a"]}));
    assert_eq!(sent[6], &nested, "what is nested is the client's");
}

#[test]
fn what_would_change_the_answer_is_refused_by_name() {
    for (fields, param, words) in [
        (json!({"prompt": {"id": "pmpt_1"}}), "prompt", "'instructions'"),
        (json!({"messages": [{"role": "user", "content": "x"}]}), "messages", "moved to 'input'"),
        (json!({"response_format": {"type": "json_object"}}), "response_format", "moved to 'text.format'"),
        (json!({"max_tokens": 5}), "max_tokens", "moved to 'max_output_tokens'"),
        (json!({"max_completion_tokens": 5}), "max_completion_tokens", "moved to 'max_output_tokens'"),
        (json!({"reasoning_effort": "low"}), "reasoning_effort", "moved to 'reasoning.effort'"),
        (json!({"functions": [], "function_call": "auto"}), "functions", "moved to 'tools'"),
        (json!({"n": 2}), "n", "one answer"),
    ] {
        let mut request = json!({"model": "m", "input": "hi"});
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let error = planned(&request, &options(&GENERIC)).unwrap_err();
        let envelope: Value = serde_json::from_slice(&error.envelope()).unwrap();
        assert_eq!(envelope["error"]["param"], param);
        assert_eq!(envelope["error"]["code"], "unsupported_parameter", "{param}");
        assert_eq!(envelope["error"]["type"], "invalid_request_error", "{param}");
        let message = envelope["error"]["message"].as_str().unwrap();
        assert!(
            message.starts_with(&format!("Unsupported parameter: '{param}'.")) && message.contains(words),
            "{message}"
        );
        // absent is not given
        request[param] = Value::Null;
        request.as_object_mut().unwrap().remove("function_call");
        assert!(planned(&request, &options(&GENERIC)).is_ok(), "{param}");
    }
    let error = planned(&json!({"model": "m", "prompt": {"id": "pmpt_1"}}), &options(&GENERIC)).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("prompt"), "before an input is missed");
}

#[test]
fn numbers_and_words_out_of_range_are_refused_in_openais_words() {
    for (fields, param, code, message) in [
        (
            json!({"temperature": 2.5}),
            "temperature",
            "decimal_above_max_value",
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 2.5 instead.",
        ),
        (
            json!({"temperature": -0.1}),
            "temperature",
            "decimal_below_min_value",
            "Invalid 'temperature': decimal below minimum value. Expected a value >= 0, but got -0.1 instead.",
        ),
        (
            json!({"top_p": 1.01}),
            "top_p",
            "decimal_above_max_value",
            "Invalid 'top_p': decimal above maximum value. Expected a value <= 1, but got 1.01 instead.",
        ),
        (
            json!({"presence_penalty": -3}),
            "presence_penalty",
            "decimal_below_min_value",
            "Invalid 'presence_penalty': decimal below minimum value. Expected a value >= -2, but got -3 instead.",
        ),
        (
            json!({"frequency_penalty": 1e9}),
            "frequency_penalty",
            "decimal_above_max_value",
            "Invalid 'frequency_penalty': decimal above maximum value. Expected a value <= 2, but got 1000000000.0 instead.",
        ),
        (
            json!({"max_output_tokens": 0}),
            "max_output_tokens",
            "integer_below_min_value",
            "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        ),
        (
            json!({"top_logprobs": 21}),
            "top_logprobs",
            "integer_above_max_value",
            "Invalid 'top_logprobs': integer above maximum value. Expected a value <= 20, but got 21 instead.",
        ),
        (
            json!({"text": {"verbosity": "loud"}}),
            "text.verbosity",
            "invalid_value",
            "Invalid value: 'loud'. Supported values are: 'low', 'medium', and 'high'.",
        ),
        (
            json!({"truncation": "some"}),
            "truncation",
            "invalid_value",
            "Invalid value: 'some'. Supported values are: 'auto' and 'disabled'.",
        ),
        (
            json!({"tool_choice": "required"}),
            "tool_choice",
            "invalid_value",
            "Tool choice 'required' must be specified with 'tools' parameter.",
        ),
        (
            json!({"tools": [], "tool_choice": "required"}),
            "tool_choice",
            "invalid_value",
            "Tool choice 'required' must be specified with 'tools' parameter.",
        ),
        (
            json!({"tools": [], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}}),
            "tool_choice",
            "invalid_value",
            "Tool choice 'required' must be specified with 'tools' parameter.",
        ),
    ] {
        let mut request = json!({"model": "m", "input": "hi"});
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let error = planned(&request, &options(&GENERIC)).unwrap_err();
        let found = error.code().map(|code| code.into_owned());
        assert_eq!((error.param.as_deref(), found.as_deref()), (Some(param), Some(code)), "{fields}");
        assert_eq!((error.message.as_str(), error.status()), (message, 400), "{fields}");
    }
    for well in [
        json!({"temperature": 0, "top_p": 0, "presence_penalty": -2, "frequency_penalty": 2.0}),
        json!({"temperature": 2, "top_p": 1, "text": {"verbosity": "high"}}),
        json!({"max_output_tokens": 1, "include": ["nobody.knows"], "background_options": {"completion_window": "1h"}}),
        json!({"prompt_cache_options": {}, "moderation": {}, "access_programs": [], "n": 1, "service_tier": "ultrafast"}),
    ] {
        chat_for(&GENERIC, well);
    }
}

#[test]
fn a_configuration_update_holds_until_the_next() {
    let update = |members: Value| {
        let mut item = json!({"type": "configuration_update", "id": "cu_1"});
        item.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        item
    };
    let schema = json!({"type": "json_schema", "name": "n", "schema": {"type": "object"}});
    let user = json!({"role": "user", "content": "q"});
    let plan_of = |input: Value| {
        let request = json!({"model": "m", "input": input, "reasoning": {"effort": "low"}});
        let plan = planned(&request, &options(&VLLM)).unwrap();
        let echo: Value =
            serde_json::from_str(&format!("{{{}}}", String::from_utf8(plan.reply.echo).unwrap())).unwrap();
        (serde_json::from_slice::<Value>(&plan.body).unwrap(), echo)
    };
    let (chat, echo) = plan_of(json!([
        update(json!({"reasoning": {"effort": "medium"}, "text": {"format": schema}})),
        user,
        update(json!({"reasoning": {"effort": "high"}})),
        user,
    ]));
    assert_eq!((&chat["reasoning_effort"], &echo["reasoning"]["effort"]), (&json!("high"), &json!("high")));
    assert_eq!(
        (&chat["response_format"]["json_schema"]["name"], &echo["text"]["format"]),
        (&json!("n"), &schema)
    );
    assert_eq!(chat["messages"], json!([user, user]), "it is no message");
    // what cannot be read is history, and changes nothing
    for bad in [
        json!({"reasoning": {"effort": 3}}),
        json!({"text": {"format": {"type": "yaml"}}}),
        json!({"text": 5}),
    ] {
        let (chat, _) = plan_of(json!([update(bad), user]));
        assert_eq!((&chat["reasoning_effort"], chat.get("response_format")), (&json!("low"), None));
    }
}

#[test]
fn the_answer_says_which_reasoning_was_left_out() {
    let reasoning = |id: &str, members: Value| {
        let mut item = json!({"type": "reasoning", "id": id, "summary": []});
        item.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        item
    };
    let summary = json!({"summary": [{"type": "summary_text", "text": "hm"}]});
    let input = json!([
        {"role": "user", "content": "q"},
        reasoning("rs_sealed", json!({"encrypted_content": "gAAAAABo"})),
        call("c", "f"),
        output("c", "ok"),
        reasoning("rs_idle", summary.clone()),
        {"role": "user", "content": "again"},
        reasoning("rs_used", summary),
        {"role": "assistant", "content": "a"},
        reasoning("rs_empty", json!({})),
        {"role": "user", "content": "more"},
    ]);
    let plan = planned(&json!({"model": "m", "input": input}), &options(&VLLM)).unwrap();
    let echo: Value =
        serde_json::from_str(&format!("{{{}}}", String::from_utf8(plan.reply.echo).unwrap())).unwrap();
    assert_eq!(
        echo["input_transformations"],
        json!([
            {"id": "rs_sealed", "action": "removed", "reason": "unreadable", "type": "reasoning"},
            {"id": "rs_idle", "action": "removed", "reason": "without_answer", "type": "reasoning"},
        ])
    );
    let plan = planned(&json!({"model": "m", "input": "q"}), &options(&VLLM)).unwrap();
    assert!(!String::from_utf8(plan.reply.echo).unwrap().contains("input_transformations"));
}

#[test]
fn the_echo_of_a_function_keeps_what_it_was_declared_with() {
    let tool = json!({"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": false,
        "defer_loading": false, "output_schema": {"type": "string"}, "allowed_callers": ["direct"], "async": true});
    let plan = planned(&json!({"model": "m", "input": "q", "tools": [tool]}), &options(&VLLM)).unwrap();
    let echo: Value =
        serde_json::from_str(&format!("{{{}}}", String::from_utf8(plan.reply.echo).unwrap())).unwrap();
    for key in ["defer_loading", "output_schema", "allowed_callers", "async", "strict"] {
        assert_eq!(echo["tools"][0][key], tool[key], "{key}");
    }
    let chat: Value = serde_json::from_slice(&plan.body).unwrap();
    assert_eq!(chat["tools"][0]["function"].as_object().unwrap().len(), 3, "the server is not told: {chat}");
}

#[test]
fn reasoning_is_sealed_whenever_nothing_is_stored() {
    let seals = |fields: Value, seal_reasoning| {
        let mut request = json!({"model": "m", "input": "hi"});
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let options = PlanOptions { seal_reasoning, ..options(&GENERIC) };
        planned(&request, &options).unwrap().reply.seals_reasoning
    };
    let asked = json!({"include": ["reasoning.encrypted_content"]});
    assert!(seals(json!({"store": false}), SealReasoning::Unstored));
    assert!(seals(asked.clone(), SealReasoning::Unstored) && seals(asked, SealReasoning::Asked));
    assert!(!seals(json!({"store": false}), SealReasoning::Asked));
    assert!(
        !seals(json!({}), SealReasoning::Unstored) && !seals(json!({"store": true}), SealReasoning::Unstored)
    );
}
