//! Any request body is refused by name, or becomes a chat request that servers can read and a sound response.
#![no_main]

#[path = "../../tests/integration/support/checker.rs"]
mod checker;
#[path = "../../tests/integration/support/replay.rs"]
mod replay;

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use rejoinder_core::dialect::{GENERIC, LLAMA_SERVER, VLLM};
use rejoinder_core::options::{DeveloperMessages, PlanOptions, Wrappers};
use rejoinder_core::request::plan::plan;

fuzz_target!(|input: &[u8]| {
    // JSON begins with a brace or white space, so the last byte has to choose
    let choice = usize::from(input.last().copied().unwrap_or_default());
    let wrappers = Wrappers { web: Some("tvly".to_owned()), file: Some("rg".to_owned()) };
    let options = PlanOptions {
        dialect: [&LLAMA_SERVER, &VLLM, &GENERIC][choice % 3],
        default_model: (choice & 4 != 0).then_some("default"),
        developer_messages: [DeveloperMessages::Leading, DeveloperMessages::All, DeveloperMessages::Keep]
            [choice / 8 % 3],
        alternate_roles: choice & 64 != 0,
        sees: choice & 128 == 0,
        wrappers: Some(&wrappers),
        ..PlanOptions::new(&GENERIC)
    };
    let planned = match plan(input, &options) {
        Ok(planned) => planned,
        Err(error) => {
            let envelope: Value = serde_json::from_slice(&error.envelope()).expect("the envelope is JSON");
            for key in ["message", "type", "param", "code"] {
                assert!(envelope["error"].get(key).is_some(), "{key}: {envelope}");
            }
            assert!((400..500).contains(&error.status()), "{envelope}");
            return;
        }
    };
    let again = plan(input, &options).expect("the same request");
    assert_eq!(planned.body, again.body, "the same history makes the same bytes");

    let chat: Value = serde_json::from_slice(&planned.body).expect("the chat body is JSON");
    let mut violations = chat_violations(&chat);
    if planned.stream {
        let chunk = r#"{"choices":[{"delta":{"content":"Hello"},"finish_reason":"stop"}]}"#;
        violations.extend(checker::check(&replay::transcode(&planned.reply, &[Ok::<_, ()>(chunk)])));
    }
    assert!(violations.is_empty(), "{}\nin\n{chat}", violations.join("\n"));
});

/// What no chat server takes.
fn chat_violations(chat: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    let mut that = |holds: bool, what: String| {
        if !holds {
            violations.push(what);
        }
    };
    that(chat["model"].is_string() && chat["stream"].is_boolean(), "model or stream".into());
    that(
        chat.get("tools").is_none_or(|tools| tools.as_array().is_some_and(|t| !t.is_empty())),
        "tools".into(),
    );
    let messages = chat["messages"].as_array().cloned().unwrap_or_default();
    that(!messages.is_empty(), "no messages".into());
    // calls that wait for their tool message
    let mut open: HashSet<String> = HashSet::new();
    for (at, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        that(
            ["system", "developer", "user", "assistant", "tool"].contains(&role),
            format!("{at}: role {role:?}"),
        );
        if role == "tool" {
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            that(open.remove(id), format!("{at}: the tool message {id:?} has no call"));
        } else {
            that(open.is_empty(), format!("{at}: {open:?} have no tool message"));
            open.clear();
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let id = call["id"].as_str().unwrap_or_default();
            that(role == "assistant", format!("{at}: calls of a {role}"));
            that(open.insert(id.into()), format!("{at}: two calls {id:?}"));
            let sound = call["type"] == "function" && call["function"]["arguments"].is_string();
            that(sound && call["function"]["name"].is_string(), format!("{at}: {call}"));
        }
        let content = message.get("content");
        let said = content
            .is_some_and(|content| content.is_string() || content.as_array().is_some_and(|c| !c.is_empty()));
        that(said || role == "assistant", format!("{at}: content {content:?}"));
    }
    that(open.is_empty(), format!("{open:?} have no tool message"));
    violations
}
