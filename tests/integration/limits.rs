//! How much a request may hold: what is at a limit passes, what is over it is refused by the field, in OpenAI's words.

use rejoinder_core::dialect::GENERIC;
use rejoinder_core::limits::Limits;
use rejoinder_core::options::PlanOptions;
use rejoinder_core::request::parse::{Context, ConversationRequest, ParsedRequest};
use rejoinder_core::request::plan::Plan;
use rejoinder_core::wire::request::push_items;
use serde_json::{Value, json};

const LIMITS: Limits = Limits {
    depth: 12,
    items: 4,
    parts: 5,
    tools: 4,
    name_bytes: 10,
    allowed_tools: 3,
    include: 2,
    metadata: 16,
    call_id_bytes: 20,
    rewritten_bytes: 4 << 20,
};

fn planned(request: &str, limits: &Limits) -> Result<Plan, Value> {
    let envelope = |error: rejoinder_core::error::Error| -> Value {
        assert_eq!(error.status(), 400);
        serde_json::from_slice::<Value>(&error.envelope()).unwrap()["error"].take()
    };
    let draft = ParsedRequest::read(request, limits).map_err(envelope)?;
    draft.asks().map_err(envelope)?;
    draft.plan(&PlanOptions::new(&GENERIC), &Context::default()).map_err(envelope)
}

fn passes(request: &Value) {
    if let Err(error) = planned(&request.to_string(), &LIMITS) {
        panic!("{request}: {error}");
    }
}

fn refused(request: &Value, param: &str, code: &str, message: &str) {
    let error = planned(&request.to_string(), &LIMITS).unwrap_err();
    assert_eq!(
        error,
        json!({"message": message, "type": "invalid_request_error", "param": param, "code": code}),
        "{request}"
    );
}

fn request(member: &str, value: Value) -> Value {
    let mut request = json!({"model": "m", "input": "x"});
    request[member] = value;
    request
}

/// A list in a list, so deep.
fn nested(depth: usize) -> Value {
    serde_json::from_str(&format!("{}{}", "[".repeat(depth), "]".repeat(depth))).unwrap()
}

#[test]
fn items() {
    let items = |n: usize| request("input", vec![json!({"role": "user", "content": "x"}); n].into());
    passes(&items(4));
    refused(
        &items(5),
        "input",
        "array_above_max_length",
        "Invalid 'input': array too long. Expected an array with maximum length 4, but got an array with length 5 \
         instead.",
    );
}

/// An assistant's message in the form of Chat Completions holds calls, each of which is an item here.
#[test]
fn calls_in_chat_messages_are_items() {
    let call = |n: usize| json!({"id": format!("c{n}"), "function": {"name": "f", "arguments": "{}"}});
    let with = |count: usize| {
        let calls: Vec<Value> = (0..count).map(call).collect();
        let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
        request("input", json!([{"role": "user", "content": "x"}, message]))
    };
    passes(&with(2));
    let message = "Invalid 'input[1].tool_calls': array too long. Expected at most 4 items in the whole request \
                   (limits.items).";
    refused(&with(3), "input[1].tool_calls", "array_above_max_length", message);
}

#[test]
fn parts_over_all_items() {
    let part = json!({"type": "input_text", "text": "x"});
    let input = |content: usize, output: usize, summary: usize| {
        request(
            "input",
            json!([
                {"role": "user", "content": vec![part.clone(); content]},
                {"type": "function_call_output", "call_id": "c", "output": vec![part.clone(); output]},
                {"type": "reasoning", "summary": vec![part.clone(); summary]},
            ]),
        )
    };
    passes(&input(2, 2, 1));
    let message = |at: &str| {
        format!(
            "Invalid '{at}': array too long. Expected at most 5 parts in the whole request (limits.parts)."
        )
    };
    for (content, output, summary, at) in
        [(6, 0, 0, "input[0].content"), (1, 5, 0, "input[1].output"), (2, 2, 2, "input[2].summary")]
    {
        refused(&input(content, output, summary), at, "array_above_max_length", &message(at));
    }
    // many values that are no parts
    passes(&request("input", json!([{"role": "user", "content": "x", "unknown": [1, 2, 3, 4, 5, 6, 7, 8]}])));
}

#[test]
fn ids_of_items() {
    for (name, item) in [
        ("call_id", json!({"type": "function_call", "name": "f", "arguments": "{}"})),
        ("call_id", json!({"type": "function_call_output", "output": "x"})),
        ("id", json!({"role": "user", "content": "x"})),
    ] {
        let with = |bytes: usize| {
            let mut item = item.clone();
            item[name] = json!("c".repeat(bytes));
            request("input", json!([{"role": "user", "content": "x"}, item]))
        };
        passes(&with(20));
        let message = format!(
            "Invalid 'input[1].{name}': string too long. Expected a string with maximum length 20, but got a string with \
             length 21 instead."
        );
        refused(&with(21), &format!("input[1].{name}"), "string_above_max_length", &message);
    }
    // what LiteLLM puts into an id beside it
    let id = format!("call_1__thought__{}", "x".repeat(60_000));
    let call = json!({"type": "function_call", "name": "f", "arguments": "{}", "call_id": id});
    let planned = planned(&request("input", json!([call])).to_string(), &Limits::DEFAULT).unwrap();
    assert!(String::from_utf8(planned.body).unwrap().contains(&id));
}

#[test]
fn words() {
    let long = "w".repeat((64 << 10) - 1);
    for (field, request) in [
        ("model", request("model", json!(long))),
        ("prompt_cache_key", request("prompt_cache_key", json!(long))),
        ("previous_response_id", request("previous_response_id", json!(long))),
        ("conversation", request("conversation", json!(long))),
        ("user", request("user", json!(long))),
        ("reasoning.effort", request("reasoning", json!({"effort": long}))),
        ("tool_choice", request("tool_choice", json!(long))),
        (
            "text.format.name",
            request("text", json!({"format": {"type": "json_schema", "name": long, "schema": {}}})),
        ),
    ] {
        let message = format!(
            "Invalid '{field}': string too long. Expected a string with maximum length 65536, but got a string with \
             length 65535 instead."
        );
        refused(&request, field, "string_above_max_length", &message);
    }
}

/// A value beyond what may be rewritten goes on as it came, as text, and says the same.
#[test]
fn values_that_are_long_go_on_as_they_came() {
    let items = json!([
        {"type": "custom_tool_call", "call_id": "a", "name": "f", "input": "a \"b\"\n"},
        {"type": "function_call", "call_id": "b", "name": "f", "arguments": "no \"json\""},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": {"a": "\"x\""}},
        {"type": "shell_call", "call_id": "d", "action": {"commands": ["ls \"x\""]}},
        {"type": "shell_call_output", "call_id": "d", "output": [{"stdout": "\"y\"", "outcome": {"exit_code": 0}}]},
        {"type": "unheard_of", "says": "\"z\""},
        {"role": "user", "content": [
            {"type": "input_file", "filename": "f.txt", "file_data": "Zm9vYmFy"},
            {"type": "image", "data": "QUJD", "mimeType": "image/png"},
        ]},
    ]);
    let request = request("input", items.clone()).to_string();
    let planned =
        planned(&request, &Limits { call_id_bytes: 64, items: 16, parts: 16, rewritten_bytes: 0, ..LIMITS });
    let sent: Value = serde_json::from_slice(&planned.unwrap().body).unwrap();
    let messages = sent["messages"].as_array().unwrap();
    let calls: Vec<&Value> =
        messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten().collect();
    let arguments = |n: usize| -> Value {
        serde_json::from_str(calls[n]["function"]["arguments"].as_str().unwrap()).unwrap()
    };
    assert_eq!(arguments(0), json!({"input": items[0]["input"]}));
    assert_eq!(arguments(1), json!({"invalid_arguments": items[1]["arguments"]}));
    assert_eq!((arguments(2), arguments(3)), (items[2]["arguments"].clone(), items[3]["action"].clone()));
    let output = messages.iter().find(|message| message["tool_call_id"] == "d").unwrap();
    let read = |text: &Value| -> Value { serde_json::from_str(text.as_str().unwrap()).unwrap() };
    assert_eq!(read(&output["content"]), items[4]["output"]);
    let [.., unheard, last] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!(read(&unheard["content"]), items[5]);
    assert_eq!(last["content"][0]["text"], "[file f.txt: it is too long and was left out]");
    assert_eq!(last["content"][1]["image_url"]["url"], "data:image/png;base64,QUJD");
}

#[test]
fn what_is_stored_grows_no_further() {
    let quotes = "\"".repeat(9 << 20);
    let call = json!({"type": "custom_tool_call", "call_id": "a", "name": "f", "input": quotes});
    let with = |store: bool| json!({"model": "m", "input": [call], "store": store}).to_string();
    let options = PlanOptions::new(&GENERIC);
    let plan = |body: &str| ParsedRequest::read(body, &LIMITS).unwrap().plan(&options, &Context::default());
    assert!(plan(&with(false)).unwrap().body.len() > 36 << 20);
    let error = plan(&with(true)).unwrap_err();
    assert_eq!((error.status(), error.param.as_deref()), (413, Some("input")), "{error}");
}

#[test]
fn depth_of_every_member() {
    // in the request, in its member
    passes(&request("client_metadata", nested(11)));
    passes(&request(
        "input",
        json!([{"role": "user", "content": [{"type": "input_text", "text": "x", "y": nested(7)}]}]),
    ));
    for (request, param) in [
        (request("client_metadata", nested(12)), "client_metadata"),
        (
            request("tools", json!([{"type": "function", "name": "f", "parameters": {"x": nested(9)}}])),
            "tools",
        ),
        (
            request(
                "input",
                json!([{"role": "user", "content": [{"type": "input_text", "text": "x", "y": nested(8)}]}]),
            ),
            "input",
        ),
        (request("input", json!({"x": nested(11)})), "input"),
    ] {
        let message = format!(
            "Invalid '{param}': nested too deeply. Expected at most 12 levels of objects and arrays in the whole \
             request (limits.depth)."
        );
        refused(&request, param, "invalid_value", &message);
    }
}

#[test]
fn tools_with_those_in_namespaces() {
    let function = |n: usize| json!({"type": "function", "name": format!("f{n}")});
    let tools = |plain: usize, inside: usize| {
        let mut tools: Vec<Value> = (0..plain).map(function).collect();
        if inside > 0 {
            let inside: Vec<Value> = (0..inside).map(function).collect();
            tools.push(json!({"type": "namespace", "name": "n", "tools": inside}));
        }
        request("tools", tools.into())
    };
    passes(&tools(4, 0));
    passes(&tools(1, 2));
    refused(
        &tools(5, 0),
        "tools",
        "array_above_max_length",
        "Invalid 'tools': array too long. Expected an array with maximum length 4, but got an array with length 5 \
         instead.",
    );
    refused(
        &tools(1, 3),
        "tools[1].tools",
        "array_above_max_length",
        "Invalid 'tools[1].tools': array too long. Expected at most 4 tools in the whole request (limits.tools).",
    );
}

#[test]
fn names_of_tools_and_namespaces() {
    let tool = |kind: &str, name: &str| request("tools", json!([{"type": kind, "name": name, "tools": []}]));
    let inside = |name: &str| {
        request(
            "tools",
            json!([{"type": "namespace", "name": "n", "tools": [{"type": "custom", "name": name}]}]),
        )
    };
    for (request, path) in [
        (tool("function", "elevenbytes"), "tools[0].name"),
        (tool("custom", "elevenbytes"), "tools[0].name"),
        (tool("namespace", "elevenbytes"), "tools[0].name"),
        (inside("elevenbytes"), "tools[0].tools[0].name"),
    ] {
        let message = format!(
            "Invalid '{path}': string too long. Expected a string with maximum length 10, but got a string with length \
             11 instead."
        );
        refused(&request, path, "string_above_max_length", &message);
    }
    passes(&tool("function", "just_ten_b"));
    passes(&inside("just_ten_b"));
}

#[test]
fn allowed_tools_and_include() {
    let choice = |n: usize| {
        let allowed = vec![json!({"type": "function", "name": "f"}); n];
        request("tool_choice", json!({"type": "allowed_tools", "mode": "auto", "tools": allowed}))
    };
    let include = |n: usize| request("include", vec![json!("reasoning.encrypted_content"); n].into());
    for (under, over, path, most) in
        [(choice(3), choice(4), "tool_choice.tools", 3), (include(2), include(3), "include", 2)]
    {
        passes(&under);
        let message = format!(
            "Invalid '{path}': array too long. Expected an array with maximum length {most}, but got an array with \
             length {} instead.",
            most + 1
        );
        refused(&over, path, "array_above_max_length", &message);
    }
}

#[test]
fn metadata_of_requests_and_conversations() {
    let pairs = |n: usize| (0..n).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>();
    let of = |name: &str, value: Value| json!({ name: value });
    let (name, value) = ("ä".repeat(64), "ö".repeat(512));
    passes(&request("metadata", pairs(16).into()));
    passes(&request("metadata", of(&name, json!(value))));
    for (metadata, param, code, message) in [
        (
            Value::from(pairs(17)),
            "metadata".to_owned(),
            "object_above_max_properties",
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got an object \
             with 17 properties instead.",
        ),
        (
            of(&format!("{name}x"), json!("v")),
            "metadata".to_owned(),
            "property_name_above_max_length",
            "Invalid 'metadata': property name too long. Expected a property name with maximum length 64, but got one \
             with length 65 instead.",
        ),
        (
            of("k", json!(format!("{value}x"))),
            "metadata.k".to_owned(),
            "string_above_max_length",
            "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, but got a string with \
             length 513 instead.",
        ),
        (
            of("k", json!(1)),
            "metadata.k".to_owned(),
            "invalid_type",
            "Invalid type for 'metadata.k': expected a string, but got an integer instead.",
        ),
    ] {
        refused(&request("metadata", metadata.clone()), &param, code, message);
        let error =
            ConversationRequest::read(&json!({ "metadata": metadata }).to_string(), &LIMITS).unwrap_err();
        assert_eq!((error.message.as_str(), error.param.as_deref()), (message, Some(param.as_str())));
        assert_eq!(error.code().as_deref(), Some(code));
    }
}

#[test]
fn items_of_a_conversation() {
    let read = |items: Value| {
        ConversationRequest::read(&json!({ "items": items }).to_string(), &LIMITS)
            .map(|read| read.items.len())
    };
    let item = json!({"role": "user", "content": "x"});
    assert_eq!(read(vec![item.clone(); 20].into()).unwrap(), 20);
    let error = read(vec![item; 21].into()).unwrap_err();
    assert_eq!(
        error.message,
        "Invalid 'items': array too long. Expected an array with maximum length 20, but got an array with length 21 \
         instead."
    );
    assert_eq!(read(json!([{"role": "user", "x": nested(9)}])).unwrap(), 1);
    assert_eq!(read(json!([{"role": "user", "x": nested(10)}])).unwrap_err().param.as_deref(), Some("items"));
}

/// What was accepted once is never refused later, however much came together and whatever the limits are now.
#[test]
fn stored_history_is_never_refused() {
    let tools: Vec<Value> =
        (0..9).map(|n| json!({"type": "function", "name": format!("function{n:04}")})).collect();
    let stored = json!([
        {"role": "user", "content": vec![json!({"type": "input_text", "text": "x"}); 9]},
        {"type": "additional_tools", "tools": [{"type": "namespace", "name": "long_namespace", "tools": tools}]},
        {"type": "additional_tools", "tools": tools},
        {"type": "tool_search_output", "call_id": "s", "tools": tools},
        {"type": "unknown", "x": nested(30)},
        {"role": "user", "content": "y"},
    ])
    .to_string();
    let draft = ParsedRequest::read(r#"{"model":"m","input":"z"}"#, &LIMITS).unwrap();
    let mut context = Context { strict: true, ..Context::default() };
    push_items(&mut context.earlier, &stored);
    // an output whose call is not there is another matter
    let context = Context { strict: false, ..context };
    let plan = draft.plan(&PlanOptions::new(&GENERIC), &context).unwrap();
    assert!(plan.notes.texts().iter().any(|(kind, _)| *kind == "skipped_tool"), "{:?}", plan.notes);
    let chat: Value = serde_json::from_slice(&plan.body).unwrap();
    assert!(chat.get("tools").is_none(), "names over the limit are left out: {chat}");
    let short = Limits { name_bytes: 128, ..LIMITS };
    let draft = ParsedRequest::read(r#"{"model":"m","input":"z"}"#, &short).unwrap();
    let plan = draft.plan(&PlanOptions::new(&GENERIC), &context).unwrap();
    let chat: Value = serde_json::from_slice(&plan.body).unwrap();
    assert_eq!(chat["tools"].as_array().unwrap().len(), 4, "so many as a request may have");
}

/// What real clients send is far below: a Codex session with many servers' tools, and a long transcript.
#[test]
fn the_defaults_are_out_of_reach() {
    let items: Vec<Value> = (0..4000)
        .flat_map(|n| {
            [
                json!({"type": "function_call", "call_id": format!("c{n}"), "name": "f", "arguments": "{\"a\":[1,2]}"}),
                json!({"type": "function_call_output", "call_id": format!("c{n}"), "output": [{"type": "input_text", "text": "x"}]}),
                json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}),
            ]
        })
        .collect();
    let schema = json!({"type": "object", "properties": {"a": {"anyOf": [{"type": "array", "items": {"type": "object"}}]}}});
    let tools: Vec<Value> = (0..60)
        .map(|server| {
            let tool = |n| json!({"type": "function", "name": format!("tool{n}"), "parameters": schema});
            json!({"type": "namespace", "name": format!("mcp__{server}"), "tools": (0..30).map(tool).collect::<Vec<_>>()})
        })
        .collect();
    let request = json!({"model": "m", "input": items, "tools": tools});
    planned(&request.to_string(), &Limits::DEFAULT).unwrap();
}
