//! What becomes of the items that a client replays: nothing that has text in it is lost for the form it comes in, and
//! what a chain holds already is not told twice.

use rejoinder_core::dialect::VLLM;
use rejoinder_core::error::Error;
use rejoinder_core::limits::Limits;
use rejoinder_core::options::PlanOptions;
use rejoinder_core::request::parse::{Context, ParsedRequest};
use rejoinder_core::request::plan::Plan;
use rejoinder_core::wire::request::push_items;
use serde_json::{Value, json};

/// The plan for a request with this input, behind these items of a chain.
fn planned(earlier: &Value, input: &Value) -> Result<Plan, Error> {
    let (earlier, text) = (earlier.to_string(), json!({"model": "m", "input": input}).to_string());
    let mut context = Context::default();
    push_items(&mut context.earlier, &earlier);
    context.strict = !context.earlier.is_empty();
    ParsedRequest::read(&text, &Limits::DEFAULT)?.plan(&PlanOptions::new(&VLLM), &context)
}

fn chained(earlier: &Value, input: &Value) -> Value {
    let plan = planned(earlier, input).unwrap();
    serde_json::from_slice::<Value>(&plan.body).unwrap()["messages"].take()
}

fn messages(input: Value) -> Value {
    chained(&json!([]), &input)
}

/// What the model reads of one item, between two messages that stay.
fn of_item(item: Value) -> Option<Value> {
    let mut got = messages(json!([user("q"), item, user("next")]));
    let got = got.as_array_mut().unwrap();
    assert_eq!((&got[0], got.last().unwrap()), (&user("q"), &user("next")), "{got:?}");
    assert!(got.len() <= 3, "{got:?}");
    (got.len() == 3).then(|| got[1].take())
}

/// The same of a part of a message of the user's.
fn of_part(part: Value) -> Value {
    messages(json!([{"role": "user", "content": [part]}]))[0]["content"].take()
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": text}]})
}

fn call(id: &str, arguments: &str) -> Value {
    json!({"type": "function_call", "id": format!("fc_{id}"), "call_id": id, "name": "f", "arguments": arguments})
}

fn output(id: &str, text: &str) -> Value {
    json!({"type": "function_call_output", "call_id": id, "output": text})
}

fn called(id: &str, arguments: &str) -> Value {
    let function = json!({"name": "f", "arguments": arguments});
    json!({"role": "assistant", "content": null, "tool_calls": [{"id": id, "type": "function", "function": function}]})
}

fn told(id: &str, text: &str) -> Value {
    json!({"role": "tool", "tool_call_id": id, "content": text})
}

#[test]
fn roles_are_read_in_any_letters() {
    for (given, role) in [
        ("System", "system"),
        ("DEVELOPER", "system"),
        (" user ", "user"),
        ("User", "user"),
        ("Assistant", "assistant"),
    ] {
        let got = messages(json!([{"role": given, "content": "words"}, user("q")]));
        assert_eq!(got, json!([{"role": role, "content": "words"}, user("q")]), "{given}");
    }
}

#[test]
fn a_role_that_there_is_not_is_refused_as_openai_refuses_it() {
    for role in ["martian", "critic", "model", ""] {
        let error = planned(&json!([]), &json!([user("q"), {"role": role, "content": "words"}])).unwrap_err();
        assert_eq!(
            error.message,
            format!(
                "Invalid value: '{role}'. Supported values are: 'assistant', 'system', 'developer', and 'user'."
            )
        );
        let code = error.code().map(|code| code.into_owned());
        assert_eq!((error.param.as_deref(), code.as_deref()), (Some("input[1]"), Some("invalid_value")));
        assert_eq!(error.status(), 400);
        // what is stored already is no fault of this request
        let got = chained(&json!([{"role": role, "content": "words"}]), &json!([user("q")]));
        assert_eq!(got, json!([user("words"), user("q")]));
    }
}

#[test]
fn messages_in_the_form_of_chat_completions_are_understood() {
    let function = json!({"name": "f", "arguments": "{\"a\":1}"});
    for (content, calls) in [
        (json!(null), json!([{"id": "c", "type": "function", "function": function}])),
        (json!(""), json!([{"id": "c", "type": "function", "function": function}])),
        (json!("Let me see."), json!([{"id": "c", "type": "function", "function": function}])),
        (json!(null), json!({"id": "c", "function": function})),
    ] {
        let got = messages(json!([
            user("q"),
            {"role": "assistant", "content": content, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c", "content": "found"},
        ]));
        let mut want = called("c", "{\"a\":1}");
        if content == "Let me see." {
            want["content"] = content.clone();
        }
        assert_eq!(got, json!([user("q"), want, told("c", "found")]), "{content} {calls}");
    }
    assert_eq!(of_item(json!({"role": "tool", "content": "found"})), Some(user("[tool]\nfound")));
    assert_eq!(
        of_item(json!({"role": "function", "name": "f", "content": "4"})),
        Some(user("[function f]\n4"))
    );
    assert_eq!(
        of_item(json!({"role": "tool", "tool_call_id": "lost", "content": "found"})),
        Some(user("[Output of tool call lost]\nfound"))
    );
}

#[test]
fn reasoning_in_an_assistants_message_is_reasoning() {
    let says = |more: Value| {
        let mut message = json!({"role": "assistant", "content": "It is four."});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        messages(json!([user("2+2?"), message, user("next")]))[1].take()
    };
    let answer = json!({"type": "text", "text": "It is four."});
    let thinking =
        json!({"type": "thinking", "thinking": [{"type": "text", "text": "I add."}], "closed": true});
    for more in [
        // Mistral; Anthropic kin; a part of OpenAI's own item
        json!({"content": [thinking, answer]}),
        json!({"content": [{"type": "thinking", "thinking": "I add.", "signature": "s"}, answer]}),
        json!({"content": [{"type": "reasoning", "text": "I add."}, answer]}),
        json!({"content": [{"type": "reasoning_text", "text": "I add."}, answer], "role": "Assistant"}),
        // in the form of Chat Completions
        json!({"reasoning_content": "I add."}),
        json!({"reasoning": "I add."}),
        json!({"reasoning": {"content": "I add."}}),
        json!({"thinking": "I add."}),
        json!({"reasoning_details": [{"type": "reasoning.text", "text": "I add.", "index": 0}]}),
        json!({"reasoning_content": "I add.", "reasoning": "I add."}),
        json!({"content": [thinking, answer], "reasoning_content": "I add."}),
    ] {
        let want = json!({"role": "assistant", "content": "It is four.", "reasoning": "I add."});
        assert_eq!(says(more.clone()), want, "{more}");
    }
    for more in [
        json!({"reasoning_content": ""}),
        json!({"reasoning": null}),
        json!({"content": [{"type": "redacted_thinking", "data": "AAAA"}, answer]}),
        json!({"content": "It is four.", "metadata": {"reasoning": "low"}}),
    ] {
        assert_eq!(says(more.clone()), json!({"role": "assistant", "content": "It is four."}), "{more}");
    }
    // the user's own words stay the user's
    let theirs = json!([{"type": "text", "text": "the key is \"thinking\": what does it mean?"}]);
    let got = messages(json!([{"role": "user", "content": theirs}]));
    assert!(got[0]["content"].as_str().unwrap().contains("what does it mean"), "{got}");
}

#[test]
fn items_of_other_types_are_written_out() {
    let png = "iVBORw0KGgo".repeat(100);
    for (item, want) in [
        (
            json!({"type": "mcp_call", "id": "mcp_1", "server_label": "wiki", "name": "ask", "status": "completed",
                   "arguments": "{\"q\":\"x\"}", "output": "It is 7.", "error": null, "approval_request_id": null}),
            "[mcp_call wiki.ask]\narguments: {\"q\":\"x\"}\noutput: It is 7.",
        ),
        (
            json!({"type": "code_interpreter_call", "id": "ci_1", "container_id": "c", "code": "print(4)",
                   "outputs": [{"type": "logs", "logs": "4\n"}], "status": "completed"}),
            "[code_interpreter_call]\ncode: print(4)\noutputs: [{\"type\":\"logs\",\"logs\":\"4\\n\"}]",
        ),
        (
            json!({"type": "web_search_call", "id": "ws_1", "status": "completed",
                   "action": {"type": "search", "query": "rust"}}),
            "[web_search_call]\naction: {\"type\":\"search\",\"query\":\"rust\"}",
        ),
        (
            json!({"type": "file_search_call", "id": "fs_1", "queries": ["a"], "results": [{"text": "found"}]}),
            "[file_search_call]\nqueries: [\"a\"]\nresults: [{\"text\":\"found\"}]",
        ),
        (
            json!({"type": "image_generation_call", "id": "ig_1", "result": png, "revised_prompt": "a cat"}),
            "[image_generation_call]\nresult: [1100 bytes of binary data left out]\nrevised_prompt: a cat",
        ),
        (
            json!({"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "wiki",
                   "tools": [{"name": "ask", "input_schema": {}}, {"name": "tell"}]}),
            "[mcp_list_tools wiki]\ntools: ask, tell",
        ),
        (
            json!({"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": true}),
            "[mcp_approval_response]\napproval_request_id: mcpr_1\napprove: true",
        ),
        (json!({"type": "hologram", "words": "here"}), "[hologram]\nwords: here"),
        (
            json!({"type": "function_call", "call_id": "c", "arguments": "{\"no\":\"name\"}"}),
            "[function_call]\narguments: {\"no\":\"name\"}",
        ),
        (
            json!({"type": "compaction", "encrypted_content": "gAAAAABo"}),
            "[An earlier part of the conversation was summarised, and the summary cannot be read here.]",
        ),
        (json!({"type": "message", "content": "no role"}), "no role"),
        (json!({"role": "user", "content": {"type": "input_text", "text": "one part"}}), "one part"),
        (json!({"role": "user", "content": 5}), "5"),
        (json!("a string"), "a string"),
    ] {
        assert_eq!(of_item(item.clone()), Some(user(want)), "{item}");
    }
    for nothing in [
        json!({"type": "configuration_update"}),
        json!({"type": "web_search_call", "id": "ws_1", "status": "completed"}),
        json!({"type": "hologram", "words": ""}),
        json!(7),
        json!(null),
        json!([]),
        json!({}),
    ] {
        assert_eq!(of_item(nothing.clone()), None, "{nothing}");
    }
    let screen = of_item(json!({"type": "computer_call_output", "call_id": "c", "output":
        {"type": "computer_screenshot", "image_url": "data:image/png;base64,AAAA"}}));
    let screen = screen.unwrap()["content"].take();
    assert_eq!(screen[1], json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}));
}

#[test]
fn parts_of_other_types_are_written_out() {
    let sealed = "gAAAAABoQmFzZTY0".repeat(4);
    let other_sealed = "QmFzZTY0".repeat(60);
    for (part, want) in [
        (json!({"type": "hologram", "text": "words"}), "words"),
        (json!({"type": "text", "text": "words"}), "words"),
        (json!({"type": "encrypted_content", "encrypted_content": "List the notes."}), "List the notes."),
        (
            json!({"type": "encrypted_content", "encrypted_content": sealed}),
            "[encrypted content: it cannot be read here]",
        ),
        (
            json!({"type": "encrypted_content", "encrypted_content": other_sealed}),
            "[encrypted content: it cannot be read here]",
        ),
        (json!({"type": "audio_url", "audio_url": {"url": "https://x/a.mp3"}}), "[audio: https://x/a.mp3]"),
        (
            json!({"type": "audio_url", "audio_url": {"url": "data:audio/mp3;base64,AAAA"}}),
            "[audio: not available to this server]",
        ),
        (json!({"type": "video_url", "video_url": "https://x/v.mp4"}), "[video: https://x/v.mp4]"),
        (json!({"type": "input_image"}), "[input_image: not available to this server]"),
        (
            json!({"type": "resource", "resource": {"uri": "a://b", "text": "words"}}),
            "{\"type\":\"resource\",\"resource\":{\"uri\":\"a://b\",\"text\":\"words\"}}",
        ),
        (json!({"anything": [1, "two"]}), "{\"anything\":[1,\"two\"]}"),
        (json!(["nested"]), "[\"nested\"]"),
        (json!("bare"), "bare"),
    ] {
        assert_eq!(of_part(part.clone()), json!(want), "{part}");
    }
    for image in [
        json!({"type": "image", "data": "AAAA", "mimeType": "image/png"}),
        json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}),
    ] {
        assert_eq!(of_part(image)[0]["image_url"]["url"], "data:image/png;base64,AAAA");
    }
}

#[test]
fn a_tools_output_is_never_emptied_for_its_form() {
    for (given, want) in [
        (
            json!([{"title": "A", "rank": 1}, {"title": "B", "rank": 2}]),
            "{\"title\":\"A\",\"rank\":1}\n{\"title\":\"B\",\"rank\":2}",
        ),
        (
            json!([{"type": "note", "text": "words", "page": 3}]),
            "{\"type\":\"note\",\"text\":\"words\",\"page\":3}",
        ),
        (json!([1, 2.5, true]), "1\n2.5\ntrue"),
        (json!([["a", "b"]]), "[\"a\",\"b\"]"),
        (json!({"ok": true}), "{\"ok\":true}"),
        (json!(42), "42"),
        (json!([{"type": "encrypted_content", "encrypted_content": "plain"}]), "plain"),
    ] {
        let item = json!({"type": "function_call_output", "call_id": "c", "output": given});
        let got = messages(json!([user("q"), call("c", "{}"), item]));
        assert_eq!(got[2], told("c", want), "{given}");
    }
}

#[test]
fn what_a_message_has_no_place_for_leaves_a_note() {
    let image = json!({"type": "input_image", "image_url": "data:image/png;base64,AAAA"});
    for role in ["system", "assistant"] {
        let got = messages(
            json!([{"role": role, "content": [{"type": "input_text", "text": "see"}, image]}, user("q")]),
        );
        let text = got[0]["content"].as_str().unwrap();
        assert!(text.starts_with("see") && text.ends_with("[image: it cannot be shown here]"), "{text}");
    }
}

#[test]
fn what_agents_tell_each_other_is_the_users_text() {
    let header = "Message Type: NEW_TASK\nSender: /root\nPayload:\n";
    let message = |content: Value| json!({"type": "agent_message", "id": "amsg_1", "author": "/root", "recipient": "/root/look", "content": content});
    for (content, want) in [
        (
            json!([{"type": "input_text", "text": header}, {"type": "encrypted_content", "encrypted_content": "Look."}]),
            format!("{header}\nLook."),
        ),
        (json!([{"type": "input_text", "text": "FINAL_ANSWER: 4"}]), "FINAL_ANSWER: 4".to_owned()),
        (json!("FINAL_ANSWER: 4"), "FINAL_ANSWER: 4".to_owned()),
        (
            json!([{"type": "input_text", "text": header}, {"type": "encrypted_content", "encrypted_content": "gAAAAABo"}]),
            format!("{header}\n[encrypted content: it cannot be read here]"),
        ),
    ] {
        assert_eq!(of_item(message(content.clone())), Some(user(&want)), "{content}");
    }
    // between a call and its output, as everything else
    let got = messages(json!([user("q"), call("c", "{}"), message(json!("done")), output("c", "ok")]));
    assert_eq!(got, json!([user("q"), called("c", "{}"), told("c", "ok"), user("done")]));
}

#[test]
fn what_a_chain_holds_is_not_told_twice() {
    let held = json!([user("q"), call("c", "{\"a\": 1}")]);
    let answered = json!([user("q"), call("c", "{\"a\": 1}"), output("c", "ok"), assistant("It is.")]);
    let want = json!([user("q"), called("c", "{\"a\": 1}"), told("c", "ok")]);
    for own in [
        json!([output("c", "ok")]),
        json!([call("c", "{\"a\": 1}"), output("c", "ok")]),
        // written anew by a client that reads arguments
        json!([call("c", "{\"a\":1}"), output("c", "ok")]),
        // the whole conversation
        json!([user("q"), call("c", "{\"a\": 1}"), output("c", "ok")]),
        json!([user("q"), {"type": "reasoning", "summary": []}, call("c", "{\"a\":1}"), output("c", "ok")]),
    ] {
        assert_eq!(chained(&held, &own), want, "{own}");
    }
    let more = json!([user("q"), called("c", "{\"a\": 1}"), told("c", "ok"), {"role": "assistant", "content": "It is."}, user("more")]);
    for own in [
        json!([user("more")]),
        json!([output("c", "ok"), user("more")]),
        json!([call("c", "{\"a\":1}"), output("c", "ok"), user("more")]),
        json!([assistant("It is."), user("more")]),
        json!([user("q"), call("c", "{\"a\":1}"), output("c", "ok"), user("more")]),
        json!([user("q"), call("c", "{\"a\":1}"), output("c", "ok"), assistant("It is."), user("more")]),
    ] {
        assert_eq!(chained(&answered, &own), more, "{own}");
        // and the places that the store leaves out are those that were held
        let plan = planned(&answered, &own).unwrap();
        assert_eq!(plan.repeated.len(), own.as_array().unwrap().len() - 1, "{own}");
    }
    // the same words again are the user's to say, and the same call under another id is another call
    let again = chained(&answered, &json!([user("q")]));
    assert_eq!(again[4], user("q"));
    let other = chained(&answered, &json!([call("d", "{\"a\": 1}"), output("d", "no")]));
    assert_eq!((&other[3]["tool_calls"][0]["id"], &other[4]), (&json!("d"), &told("d", "no")));
    // an output that answers nothing is still refused
    assert_eq!(planned(&answered, &json!([output("x", "ok")])).unwrap_err().status(), 400);
}

#[test]
fn ids_that_a_server_gives_twice_are_two_calls() {
    let held = json!([user("q"), call("c0", "{}"), output("c0", "one"), call("c0", "{}")]);
    let got = chained(&held, &json!([output("c0", "two")]));
    let contents: Vec<&Value> =
        got.as_array().unwrap().iter().filter(|m| m["role"] == "tool").map(|m| &m["content"]).collect();
    assert_eq!(contents, [&json!("one"), &json!("two")]);
}

#[test]
fn an_output_stays_last_of_what_is_new() {
    let held = json!([user("q"), assistant("Let me look."), call("c", "{}"), call("d", "{}")]);
    let mut asked = called("c", "{}");
    asked["content"] = json!("Let me look.");
    let second = called("d", "{}")["tool_calls"][0].take();
    asked["tool_calls"].as_array_mut().unwrap().push(second);
    let want = json!([user("q"), user("hurry"), asked, told("c", "1"), told("d", "2")]);
    for own in [
        json!([user("hurry"), output("c", "1"), output("d", "2")]),
        json!([output("c", "1"), user("hurry"), output("d", "2")]),
    ] {
        assert_eq!(chained(&held, &own), want, "{own}");
        // and stays there in the turns to come
        let mut longer = held.as_array().unwrap().clone();
        longer.extend(own.as_array().unwrap().clone());
        longer.push(assistant("Three."));
        let got = chained(&json!(longer), &json!([user("thanks")]));
        assert_eq!(got.as_array().unwrap()[..5], *want.as_array().unwrap(), "{own}");
    }
    // what the user says once the output is there is the last word
    let got = chained(&held, &json!([output("c", "1"), output("d", "2"), user("now?")]));
    assert_eq!(got.as_array().unwrap().last(), Some(&user("now?")));
}
