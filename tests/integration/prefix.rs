//! Owns the promise to a server's prefix cache: what a longer history adds, it adds at the end. Twenty requests of one
//! conversation are rendered, and each must begin as the one before it ended, byte by byte.

use rejoinder_core::dialect::{Dialect, GENERIC, LLAMA_SERVER, OLLAMA, VLLM};
use rejoinder_core::options::{FoundTools, PlanOptions};
use rejoinder_core::request::plan::plan;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Conversation {
    tools: Value,
    turns: Vec<Vec<Value>>,
}

/// The parts of a chat body as text.
#[derive(Deserialize)]
struct Chat {
    messages: Box<RawValue>,
    tools: Box<RawValue>,
}

fn rendered(dialect: &Dialect, found_tools: FoundTools, alternate_roles: bool) -> Vec<Chat> {
    let text = include_str!("../../fixtures/conversation/twenty-turns.json");
    let conversation: Conversation = serde_json::from_str(text).unwrap();
    let options = PlanOptions { found_tools, alternate_roles, ..PlanOptions::new(dialect) };
    let mut input: Vec<Value> = Vec::new();
    let turn = |turn: Vec<Value>| {
        input.extend(turn);
        let body = json!({"model": "m", "stream": true, "input": input, "tools": conversation.tools});
        let planned = plan(body.to_string().as_bytes(), &options).unwrap();
        serde_json::from_slice(&planned.body).unwrap()
    };
    conversation.turns.into_iter().map(turn).collect()
}

/// Whether a JSON array goes on where the other one ends.
fn continues(longer: &RawValue, shorter: &RawValue) -> bool {
    longer.get().starts_with(shorter.get().strip_suffix(']').unwrap())
}

#[test]
fn each_turn_begins_as_the_one_before_it() {
    for dialect in [&LLAMA_SERVER, &VLLM, &OLLAMA, &GENERIC] {
        for found in [FoundTools::Declared, FoundTools::Described] {
            let turns = rendered(dialect, found, false);
            assert_eq!(turns.len(), 20);
            for (n, pair) in turns.windows(2).enumerate() {
                let name = format!("{} {found:?}, turn {}", dialect.name, n + 2);
                assert!(continues(&pair[1].messages, &pair[0].messages), "messages: {name}");
                assert!(pair[1].messages.get().len() > pair[0].messages.get().len(), "{name}");
                assert!(continues(&pair[1].tools, &pair[0].tools), "tools: {name}");
            }
        }
    }
}

/// Chat templates render tools before messages: there, one more tool makes another prompt from its beginning on.
#[test]
fn a_tool_that_is_described_where_it_was_found_changes_no_tools() {
    let described = rendered(&LLAMA_SERVER, FoundTools::Described, false);
    for turn in &described {
        assert_eq!(turn.tools.get(), described[0].tools.get());
    }
    let messages: Value = serde_json::from_str(described[11].messages.get()).unwrap();
    let messages = messages.as_array().unwrap();
    let shown =
        messages.iter().find(|m| m["tool_call_id"] == "call_10").unwrap()["content"].as_str().unwrap();
    assert!(
        shown.starts_with("mcp__tracker__find_issue: Finds issues") && shown.contains("\"words\""),
        "{shown}"
    );
    let call = messages.iter().find(|m| m["tool_calls"][0]["id"] == "call_11").unwrap();
    let function = &call["tool_calls"][0]["function"];
    assert_eq!(function["name"], "call_found_tool");
    let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(
        arguments,
        json!({"name": "mcp__tracker__find_issue", "arguments": {"words": "slow build", "open": true}})
    );

    let declared = rendered(&LLAMA_SERVER, FoundTools::Declared, false);
    assert_ne!(declared[10].tools.get(), declared[9].tools.get());
}

/// A template that wants roles to alternate joins neighbours, and a joined message grows: its beginning stays.
#[test]
fn joined_messages_grow_at_their_end() {
    let turns = rendered(&GENERIC, FoundTools::Described, true);
    for pair in turns.windows(2) {
        let (shorter, longer) = (pair[0].messages.get(), pair[1].messages.get());
        let same = shorter.bytes().zip(longer.bytes()).take_while(|(a, b)| a == b).count();
        // what may differ is the end of the last message: its closing quote, brace and bracket
        assert!(same + 4 >= shorter.len(), "{}", &shorter[same..]);
    }
}
