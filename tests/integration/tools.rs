//! Every kind of tool, both ways: what the model is shown, what its call comes back as, what later turns show it.

use crate::support::checker;
use proptest::prelude::*;
use rejoinder_core::dialect::{GENERIC, LLAMA_SERVER, VLLM};
use rejoinder_core::ids::Ids;
use rejoinder_core::limits::Limits;
use rejoinder_core::options::{FoundTools, PlanOptions, Wrappers};
use rejoinder_core::reply_plan::ReplyPlan;
use rejoinder_core::request::parse::{Context, ParsedRequest};
use rejoinder_core::request::plan::{Plan, plan};
use rejoinder_core::response::transcoder::{End, Transcoder};
use rejoinder_core::tools::table::{Called, Table, ToolKind};
use rejoinder_core::wire::request::push_items;
use serde_json::{Value, json};

fn wrappers() -> Wrappers {
    Wrappers { web: Some("tvly".into()), file: Some("rg".into()) }
}

fn planned(request: &Value) -> Plan {
    plan(request.to_string().as_bytes(), &PlanOptions::new(&GENERIC)).unwrap()
}

fn chat(plan: &Plan) -> Value {
    serde_json::from_slice(&plan.body).unwrap()
}

fn names(chat: &Value) -> Vec<&str> {
    chat["tools"].as_array().unwrap().iter().map(|tool| tool["function"]["name"].as_str().unwrap()).collect()
}

/// The output items for an answer of these chunks' deltas; the stream passes the checker and async-openai.
fn answer(plan: &Plan, deltas: &[Value], finish: &str) -> Vec<Value> {
    let reply = ReplyPlan { stream: true, ..plan.reply.clone() };
    let mut transcoder = Transcoder::new(reply, Ids::new("seed"), 1);
    let mut out = Vec::new();
    transcoder.start(&mut out);
    for delta in deltas {
        let chunk = json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
        transcoder.chunk(&chunk.to_string(), 2, &mut out);
    }
    let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]});
    transcoder.chunk(&last.to_string(), 2, &mut out);
    transcoder.end(End::Eof, 2, &mut out);
    let sse = String::from_utf8(out).unwrap();
    assert_eq!(checker::check(&sse), Vec::<String>::new(), "{sse}");
    assert_eq!(checker::judge_async_openai(&sse), Vec::<String>::new(), "{sse}");
    let last = sse.lines().filter_map(|l| l.strip_prefix("data: {")).next_back().unwrap();
    let response: Value = serde_json::from_str(&format!("{{{last}")).unwrap();
    response["response"]["output"].as_array().unwrap().clone()
}

/// A call of one function, its arguments in pieces of `size` characters.
fn called(plan: &Plan, name: &str, arguments: &str, size: usize) -> Value {
    let mut deltas = vec![json!({"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": name}}]})];
    let chars: Vec<char> = arguments.chars().collect();
    for piece in chars.chunks(size) {
        let piece: String = piece.iter().collect();
        deltas.push(json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}));
    }
    let mut output = answer(plan, &deltas, "tool_calls");
    assert_eq!(output.len(), 1, "{output:?}");
    let mut item = output.remove(0);
    item.as_object_mut().unwrap().remove("id");
    item
}

fn codex_like() -> Value {
    json!([
        {"type": "function", "name": "exec_command", "parameters": {"type": "object", "properties":
            {"cmd": {"type": "string"}}, "required": ["cmd"]}},
        {"type": "custom", "name": "apply_patch", "description": "Edits files.",
         "format": {"type": "grammar", "syntax": "lark", "definition": "start: \"x\"\n"}},
        {"type": "namespace", "name": "mcp__lab", "description": "lab", "tools": [
            {"type": "function", "name": "echo", "parameters": {"type": "object", "properties": {}}},
            {"type": "custom", "name": "note", "format": {"type": "text"}}]},
        {"type": "namespace", "name": "functions", "description": "own", "tools": [{"type": "custom", "name": "exec", "format": {"type": "text"}}]},
        {"type": "tool_search", "execution": "client", "description": "find", "parameters": {"type": "object"}},
        {"type": "local_shell"}, {"type": "shell"}, {"type": "web_search"}, {"type": "image_generation"},
    ])
}

#[test]
fn every_kind_is_shown_as_a_function() {
    let plan = planned(&json!({"model": "m", "input": "x", "tools": codex_like()}));
    let chat = chat(&plan);
    assert_eq!(
        names(&chat),
        [
            "exec_command",
            "apply_patch",
            "mcp__lab__echo",
            "mcp__lab__note",
            "exec",
            "tool_search",
            "local_shell",
            "shell"
        ]
    );
    let patch = &chat["tools"][1]["function"];
    assert_eq!(patch["parameters"]["required"], json!(["input"]));
    let description = patch["description"].as_str().unwrap();
    assert!(
        description.starts_with("Edits files.") && description.ends_with("lark grammar:\nstart: \"x\"\n")
    );
    let hidden: Vec<&str> = plan
        .notes
        .texts()
        .iter()
        .filter(|(kind, _)| *kind == "hidden_tool")
        .map(|(_, what)| what.as_str())
        .collect();
    assert_eq!(hidden, ["web_search", "image_generation"]);
}

#[test]
fn every_call_comes_back_as_it_was_declared() {
    let plan = planned(&json!({"model": "m", "input": "x", "tools": codex_like()}));
    let function = |name: &str, namespace: Option<&str>| {
        let mut item = json!({"type": "function_call", "status": "completed", "arguments": "{}",
            "call_id": "call_1", "name": name});
        if let Some(namespace) = namespace {
            item["namespace"] = json!(namespace);
        }
        item
    };
    for size in [1, 4, 1000] {
        assert_eq!(called(&plan, "exec_command", "{}", size), function("exec_command", None));
        for name in ["mcp__lab__echo", "mcp__lab.echo", "lab.echo", "echo", "functions.mcp__lab__echo"] {
            assert_eq!(called(&plan, name, "{}", size), function("echo", Some("mcp__lab")), "{name}");
        }
        // nobody declared it: as the model wrote it
        assert_eq!(called(&plan, "made.up", "{}", size), function("made.up", None));
        assert_eq!(called(&plan, "exec_command", "", size), function("exec_command", None));
        let text = "*** Begin Patch\n*** Add File: a\n+\"é😀\"\n*** End Patch\n";
        let arguments = json!({ "input": text }).to_string();
        assert_eq!(
            called(&plan, "apply_patch", &arguments, size),
            json!({"type": "custom_tool_call", "status": "completed", "call_id": "call_1", "name": "apply_patch",
                "input": text})
        );
        assert_eq!(
            called(&plan, "functions.exec", &arguments, size),
            json!({"type": "custom_tool_call", "status": "completed", "call_id": "call_1", "name": "exec",
                "namespace": "functions", "input": text})
        );
        assert_eq!(
            called(&plan, "tool_search", "{\"query\":\"q\",\"limit\":3}", size),
            json!({"type": "tool_search_call", "status": "completed", "call_id": "call_1", "execution": "client",
                "arguments": {"query": "q", "limit": 3}})
        );
        assert_eq!(
            called(&plan, "local_shell", "{\"command\":[\"ls\",\"-a\"],\"timeout_ms\":5}", size),
            json!({"type": "local_shell_call", "status": "completed", "call_id": "call_1",
                "action": {"type": "exec", "command": ["ls", "-a"], "env": {}, "timeout_ms": 5}})
        );
        assert_eq!(
            called(&plan, "shell", "{\"commands\":[\"ls\"]}", size),
            json!({"type": "shell_call", "status": "completed", "call_id": "call_1",
                "action": {"commands": ["ls"], "timeout_ms": null, "max_output_length": null}})
        );
    }
    let builtin = planned(&json!({"model": "m", "input": "x", "tools": [{"type": "apply_patch"}]}));
    assert_eq!(
        called(&builtin, "apply_patch", "{\"type\":\"update_file\",\"path\":\"a\",\"diff\":\"@@\\n+x\"}", 3),
        json!({"type": "apply_patch_call", "status": "completed", "call_id": "call_1",
            "operation": {"type": "update_file", "path": "a", "diff": "@@\n+x"}})
    );
}

/// Codex says apply_patch, Droid says ApplyPatch, and takes the first half of a fenced one.
#[test]
fn a_patch_is_mended_under_either_name() {
    for (name, mended) in [("apply_patch", true), ("ApplyPatch", true), ("exec", false)] {
        let plan = planned(&json!({"model": "m", "input": "x", "tools": [{"type": "custom", "name": name}]}));
        let fenced =
            "```diff\n*** Begin Patch\n*** Update File: a\n@@ -1,2 +1,2 @@\n-x\n+y\n*** End Patch\n```\n";
        let bare = "*** Begin Patch\n*** Update File: a\n@@\n-x\n+y\n*** End Patch\n";
        let item = called(&plan, name, &json!({ "input": fenced }).to_string(), 5);
        assert_eq!(item["input"], if mended { bare } else { fenced }, "{name}");
    }
}

#[test]
fn the_input_of_a_freeform_call_streams_while_it_grows() {
    let plan = planned(
        &json!({"model": "m", "input": "x", "stream": true, "tools": [{"type": "custom", "name": "t"}]}),
    );
    let mut transcoder = Transcoder::new(plan.reply.clone(), Ids::new("seed"), 1);
    let mut send = |arguments: &str| {
        let mut out = Vec::new();
        let call = json!([{"index": 0, "id": "c", "function": {"name": "t", "arguments": arguments}}]);
        let chunk = json!({"choices": [{"index": 0, "delta": {"tool_calls": call}}]});
        transcoder.chunk(&chunk.to_string(), 1, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert!(send("{\"inp").contains("response.output_item.added"));
    assert!(send("ut\":\"ab").contains("\"delta\":\"ab\""));
    assert_eq!(send("\\"), "");
    assert!(send("ncd").contains("\"delta\":\"\\ncd\""));
    assert_eq!(send("\\ud83d"), "");
    assert!(send("\\ude00").contains("\"delta\":\"😀\""));
}

#[test]
fn what_is_cut_is_not_done() {
    let plan = planned(&json!({"model": "m", "input": "x", "tools": codex_like()}));
    for (name, arguments, kind) in [
        ("apply_patch", "{\"input\":\"*** Begin", "custom_tool_call"),
        ("tool_search", "{\"query\":\"a", "function_call"),
        ("exec_command", "{\"cmd\":\"l", "function_call"),
    ] {
        let delta = json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": name, "arguments": arguments}}]});
        let output = answer(&plan, &[delta], "length");
        assert_eq!((output[0]["type"].as_str().unwrap(), &output[0]["status"]), (kind, &json!("incomplete")));
    }
}

#[test]
fn what_was_not_allowed_does_not_reach_the_client() {
    let tools = codex_like();
    for (choice, name, reaches) in [
        (json!("none"), "exec_command", false),
        (json!({"type": "custom", "name": "apply_patch"}), "exec_command", false),
        (json!({"type": "custom", "name": "apply_patch"}), "apply_patch", true),
        (
            json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "exec_command"}]}),
            "echo",
            false,
        ),
        (
            json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "exec_command"}]}),
            "exec_command",
            true,
        ),
        (json!({"type": "shell"}), "shell", true),
    ] {
        let plan = planned(&json!({"model": "m", "input": "x", "tools": tools, "tool_choice": choice}));
        let call =
            json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": name, "arguments": "{}"}}]});
        let output = answer(&plan, &[call, json!({"content": "text"})], "stop");
        let calls = output.iter().filter(|item| item["type"] != "message").count();
        assert_eq!(calls, usize::from(reaches), "{choice} {name} {output:?}");
        assert!(output.iter().any(|item| item["type"] == "message"));
    }
    let one = planned(&json!({"model": "m", "input": "x", "tools": tools, "parallel_tool_calls": false}));
    let calls: Vec<Value> = (0..3)
        .map(|n| {
            json!({"tool_calls": [{"index": n, "id": format!("c{n}"),
            "function": {"name": "exec_command", "arguments": "{}"}}]})
        })
        .collect();
    assert_eq!(answer(&one, &calls, "tool_calls").len(), 1);
}

#[test]
fn later_turns_show_the_model_its_own_calls() {
    let plan = planned(&json!({"model": "m", "tools": codex_like(), "input": [
        {"role": "user", "content": "q"},
        {"type": "custom_tool_call", "call_id": "a", "name": "apply_patch", "input": "*** \"x\""},
        {"type": "function_call", "call_id": "b", "namespace": "mcp__lab", "name": "echo", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c", "name": "exec", "input": "1"},
        {"type": "tool_search_call", "call_id": "d", "execution": "client", "arguments": {"query": "z"}},
        {"type": "local_shell_call", "call_id": "e", "action": {"type": "exec", "command": ["ls"], "env": {}}},
        {"type": "shell_call", "call_id": "f", "action": {"commands": ["ls"], "timeout_ms": null}},
        {"type": "custom_tool_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "ok"}]},
        {"type": "function_call_output", "call_id": "b", "output": "echoed"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "one"},
        {"type": "tool_search_output", "call_id": "d", "execution": "client", "tools": [
            {"type": "namespace", "name": "agents", "tools": [
                {"type": "function", "name": "spawn", "description": "Starts one.\nMore.", "defer_loading": true}]}]},
        {"type": "local_shell_call_output", "call_id": "e", "output": "files"},
        {"type": "shell_call_output", "call_id": "f", "output": [
            {"stdout": "out\n", "stderr": "err", "outcome": {"type": "exit", "exit_code": 1}}]},
    ]}));
    let chat = chat(&plan);
    let calls: Vec<(&str, Value)> = chat["messages"][1]["tool_calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|call| {
            let function = &call["function"];
            let arguments = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
            (function["name"].as_str().unwrap(), arguments)
        })
        .collect();
    assert_eq!(
        calls,
        [
            ("apply_patch", json!({"input": "*** \"x\""})),
            ("mcp__lab__echo", json!({})),
            ("exec", json!({"input": "1"})),
            ("tool_search", json!({"query": "z"})),
            ("local_shell", json!({"command": ["ls"]})),
            ("shell", json!({"commands": ["ls"]})),
        ]
    );
    let outputs: Vec<&str> = (2..8).map(|n| chat["messages"][n]["content"].as_str().unwrap()).collect();
    let listed = "agents__spawn: Starts one.";
    assert_eq!(outputs, ["ok", "echoed", "one", listed, "files", "out\n\n[stderr]\nerr\n[exit code 1]\n"]);
    // what was found can be called, and stands at the end
    assert_eq!(names(&chat).last(), Some(&"agents__spawn"));
    let item = called(&plan, "agents__spawn", "{}", 9);
    assert_eq!((item["namespace"].as_str(), item["name"].as_str()), (Some("agents"), Some("spawn")));
}

#[test]
fn tools_found_later_only_add_to_the_end() {
    let tools = codex_like();
    let before = planned(&json!({"model": "m", "input": [{"role": "user", "content": "q"}], "tools": tools}));
    let after = planned(&json!({"model": "m", "tools": tools, "input": [
        {"role": "user", "content": "q"},
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "late"},
            {"type": "function", "name": "exec_command"}]},
    ]}));
    let (before, after) = (chat(&before), chat(&after));
    let (before, after) = (before["tools"].as_array().unwrap(), after["tools"].as_array().unwrap());
    assert_eq!(before[..], after[..before.len()]);
    assert_eq!(after.len(), before.len() + 1, "a tool that is there already is not shown twice");
}

/// With `found_tools = "described"` a found tool is called through a function that was there from the beginning.
#[test]
fn a_described_tool_is_called_by_its_name() {
    let options = PlanOptions { found_tools: FoundTools::Described, ..PlanOptions::new(&GENERIC) };
    let found = json!([{"type": "namespace", "name": "mcp__lab", "tools": [
        {"type": "function", "name": "echo", "description": "says it", "parameters": {"type": "object"}},
        {"type": "custom", "name": "note", "description": "writes it"}]}]);
    let request = json!({"model": "m", "input": [
        {"role": "user", "content": "hi"},
        {"type": "tool_search_call", "call_id": "s", "execution": "client", "arguments": {"query": "e"}},
        {"type": "tool_search_output", "call_id": "s", "execution": "client", "tools": found},
    ], "tools": [{"type": "tool_search", "execution": "client"}]});
    let plan = plan(request.to_string().as_bytes(), &options).unwrap();
    assert_eq!(names(&chat(&plan)), ["tool_search", "call_found_tool"]);
    let function = |name: &str, namespace: Option<&str>, arguments: &str| {
        let mut item = json!({"type": "function_call", "status": "completed", "call_id": "call_1", "name": name,
            "arguments": arguments});
        if let Some(namespace) = namespace {
            item["namespace"] = namespace.into();
        }
        item
    };
    let echo = function("echo", Some("mcp__lab"), "{\"b\":1,\"a\":2}");
    for (call, want) in [
        (r#"{"name":"mcp__lab__echo","arguments":{"b":1,"a":2}}"#, echo.clone()),
        (r#"{"name":"echo","arguments":"{\"b\":1,\"a\":2}"}"#, echo),
        (r#"{"name":"mcp__lab__echo"}"#, function("echo", Some("mcp__lab"), "{}")),
        (r#"{"name":"gone","arguments":{}}"#, function("gone", None, "{}")),
        (
            r#"{"name":"mcp__lab__note","arguments":{"input":"n"}}"#,
            json!({"type": "custom_tool_call", "status": "completed", "call_id": "call_1", "name": "note",
                "input": "n", "namespace": "mcp__lab"}),
        ),
        ("not JSON", function("call_found_tool", None, "not JSON")),
    ] {
        for size in [3, 1000] {
            assert_eq!(called(&plan, "call_found_tool", call, size), want, "{call}");
        }
    }
}

fn searching(tools: Value, input: Value) -> Plan {
    let wrappers = wrappers();
    let options = PlanOptions { wrappers: Some(&wrappers), ..PlanOptions::new(&GENERIC) };
    plan(json!({"model": "m", "input": input, "tools": tools}).to_string().as_bytes(), &options).unwrap()
}

#[test]
fn searches_run_through_the_clients_own_shell() {
    let droid = json!([{"type": "function", "name": "Execute", "parameters": {"type": "object", "properties": {
        "summary": {"type": "string"}, "command": {"type": "string"},
        "riskLevel": {"type": "string", "enum": ["low", "medium", "high"]}},
        "required": ["summary", "command", "riskLevel"]}}]);
    let codex = json!([{"type": "function", "name": "exec_command", "parameters": {"type": "object", "properties":
        {"cmd": {"type": "string"}}, "required": ["cmd"]}}, {"type": "web_search"}]);
    let old = json!([{"type": "function", "name": "shell", "parameters": {"type": "object", "properties":
        {"command": {"type": "array", "items": {"type": "string"}}}}}]);
    let line = "tvly search 'it'\\''s' --json";
    for (tools, name, want) in [
        (droid, "Execute", json!({"command": line, "summary": "Run a search command", "riskLevel": "low"})),
        (codex.clone(), "exec_command", json!({"cmd": line})),
        (old, "shell", json!({"command": ["bash", "-lc", line]})),
    ] {
        let plan = searching(tools.clone(), json!("q"));
        let shown = chat(&plan);
        assert!(names(&shown).ends_with(&["web_search", "open_page", "file_search"]));
        let item = called(&plan, "web_search", "{\"query\":\"it's\"}", 3);
        assert_eq!((item["type"].as_str(), item["name"].as_str()), (Some("function_call"), Some(name)));
        let arguments = item["arguments"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(arguments).unwrap(), want);
        // and in the next turn the model sees its own call
        let next = searching(
            tools,
            json!([{"role": "user", "content": "q"},
            {"type": "function_call", "call_id": "c", "name": name, "arguments": arguments},
            {"type": "function_call_output", "call_id": "c", "output": "[]"}]),
        );
        let function = chat(&next)["messages"][1]["tool_calls"][0]["function"].clone();
        assert_eq!(function, json!({"name": "web_search", "arguments": "{\"query\":\"it's\"}"}));
    }
    let local = searching(json!([{"type": "local_shell"}]), json!("q"));
    let item = called(&local, "file_search", "{\"query\":\"fn main\"}", 5);
    assert_eq!(item["type"], "local_shell_call");
    let command = item["action"]["command"].as_array().unwrap();
    assert_eq!(command[..2], [json!("bash"), json!("-lc")]);
    assert!(command[2].as_str().unwrap().ends_with("-- 'fn main' '.'"));
    // no wrapper, no search; no shell, no search
    let none = planned(&json!({"model": "m", "input": "q", "tools": codex}));
    assert_eq!(names(&chat(&none)), ["exec_command"]);
    let shut = searching(json!([{"type": "function", "name": "f"}]), json!("q"));
    assert_eq!(names(&chat(&shut)), ["f"]);
    // arguments that say nothing: the client's own error reaches the model
    assert_eq!(called(&searching(codex, json!("q")), "web_search", "{}", 9)["name"], "web_search");
}

#[test]
fn effort_becomes_the_servers_own_budget() {
    let budgets = vec![("low".to_owned(), 4096)];
    let request = json!({"model": "m", "input": "x", "reasoning": {"effort": "low"}}).to_string();
    for (dialect, key) in [(&LLAMA_SERVER, "reasoning_budget_tokens"), (&VLLM, "thinking_token_budget")] {
        let options = PlanOptions { budgets: &budgets, ..PlanOptions::new(dialect) };
        let chat = chat(&plan(request.as_bytes(), &options).unwrap());
        assert_eq!((&chat[key], &chat["reasoning_effort"]), (&json!(4096), &json!("low")));
    }
}

#[test]
fn a_model_that_cannot_see_gets_a_few_words() {
    let image = json!({"type": "input_image", "image_url": "data:image/png;base64,QUJD"});
    let request = json!({"model": "m", "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "look"}, image]},
        {"type": "function_call", "call_id": "c", "name": "view_image", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [image]},
    ]});
    let options = PlanOptions { accepts_images: false, ..PlanOptions::new(&LLAMA_SERVER) };
    let plan = plan(request.to_string().as_bytes(), &options).unwrap();
    assert!(!String::from_utf8_lossy(&plan.body).contains("base64"));
    let chat = chat(&plan);
    assert_eq!(chat["messages"][0]["content"], "look\n[image: this model cannot see images]");
    assert_eq!(chat["messages"][2]["content"], "[image: this model cannot see images]");
}

proptest! {
    #[test]
    fn every_name_leads_back(tools in proptest::collection::vec((proptest::option::of(".{0,40}"), ".{1,80}"), 0..40)) {
        let mut table = Table::default();
        let mut added = Vec::new();
        for (namespace, name) in &tools {
            let namespace = namespace.as_deref().filter(|namespace| !namespace.is_empty());
            if let Some(at) = table.add(namespace, name, ToolKind::Function) {
                added.push((at, namespace, name));
            }
        }
        let mut seen = std::collections::HashSet::new();
        for (at, namespace, name) in added {
            let tool = table.tools[at].clone();
            prop_assert!(seen.insert(tool.chat.clone()), "{} twice", tool.chat);
            prop_assert!(tool.chat.len() <= 64 && !tool.chat.is_empty());
            prop_assert!(tool.chat.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
            prop_assert_eq!(&*table.chat_name(namespace, name), tool.chat.as_str());
            match table.called(&tool.chat) {
                Called::Tool(found) => prop_assert_eq!((found.namespace.as_deref(), &found.name), (namespace, name)),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}

/// `{"type":"namespace","tools":[{"type":"namespace","tools":[...]}]}`, so often.
fn nested_namespaces(depth: usize) -> String {
    let open = r#"{"type":"namespace","name":"n","tools":["#;
    format!("{}{}", open.repeat(depth), "]}".repeat(depth))
}

#[test]
fn a_namespace_within_a_namespace_is_refused_by_its_place() {
    for depth in [2, 40] {
        let body = format!(r#"{{"model":"m","input":"x","tools":[{}]}}"#, nested_namespaces(depth));
        let error = plan(body.as_bytes(), &PlanOptions::new(&GENERIC)).unwrap_err();
        let envelope: Value = serde_json::from_slice(&error.envelope()).unwrap();
        assert_eq!(
            envelope["error"],
            json!({
                "message": "Invalid value: 'namespace'. Supported values are: 'function' and 'custom'.",
                "type": "invalid_request_error",
                "param": "tools[0].tools[0].type",
                "code": "invalid_value",
            })
        );
    }
}

#[test]
fn a_namespace_within_a_namespace_is_left_out_of_history() {
    for item in ["additional_tools", "tool_search_output"] {
        for depth in [1, 19_999] {
            let inside = nested_namespaces(depth);
            let tools = format!(
                r#"[{{"type":"namespace","name":"outer","tools":[{inside},{{"type":"function","name":"f"}}]}}]"#
            );
            // as it may have been stored before there was a limit to depth
            let stored = format!(r#"[{{"type":"{item}","call_id":"c","tools":{tools}}}]"#);
            let mut context = Context::default();
            push_items(&mut context.earlier, &stored);
            let draft = ParsedRequest::read(r#"{"model":"m","input":"x"}"#, &Limits::DEFAULT).unwrap();
            let plan = draft.plan(&PlanOptions::new(&GENERIC), &context).unwrap();
            let chat: Value = serde_json::from_slice(&plan.body).unwrap();
            let shown: Vec<_> = chat["tools"].as_array().unwrap().iter().collect();
            assert_eq!(shown.len(), 1, "{item}, {depth} within: {shown:?}");
            assert_eq!(shown[0]["function"]["name"], "outer__f");
            assert!(plan.notes.texts().iter().any(|(kind, _)| *kind == "skipped_tool"), "{:?}", plan.notes);
        }
    }
}

/// Codex hands a payload on in plain text where the call says that none of its arguments is encrypted.
#[test]
fn a_call_with_parameters_declared_encrypted_says_that_none_is() {
    let encrypted =
        json!({"type": "object", "properties": {"message": {"type": "string", "encrypted": true}}});
    let plain = json!({"type": "object", "properties": {"encrypted": {"type": "string"}}});
    let off = json!({"type": "object", "properties": {"message": {"type": "string", "encrypted": false}}});
    for (parameters, namespace, want) in [
        (&encrypted, Some("collaboration"), json!([])),
        (&encrypted, None, json!([])),
        (&plain, None, Value::Null),
        (&off, Some("collaboration"), Value::Null),
    ] {
        let function = json!({"type": "function", "name": "send_message", "parameters": parameters});
        let tool = match namespace {
            Some(name) => json!({"type": "namespace", "name": name, "description": "d", "tools": [function]}),
            None => function,
        };
        let name =
            namespace.map_or("send_message".to_owned(), |namespace| format!("{namespace}__send_message"));
        let plan = plan(
            json!({"model": "m", "input": "x", "stream": true, "tools": [tool]}).to_string().as_bytes(),
            &PlanOptions::new(&GENERIC),
        )
        .unwrap();
        let delta =
            json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": name, "arguments": "{}"}}]});
        for item in answer(&plan, &[delta], "tool_calls") {
            assert_eq!(item["name"], "send_message");
            assert_eq!(item["encrypted_function_args"], want, "{parameters} {item}");
        }
    }
}
