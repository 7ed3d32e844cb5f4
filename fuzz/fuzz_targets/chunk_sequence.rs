//! Any sequence of upstream payloads becomes a stream that keeps every rule and that async-openai can read.
#![no_main]

#[path = "../../tests/integration/support/checker.rs"]
mod checker;
#[path = "../../tests/integration/support/replay.rs"]
mod replay;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use rejoinder_core::options::ReasoningDisplay;
use rejoinder_core::reply_plan::ReplyPlan;

static PLANS: LazyLock<Vec<ReplyPlan>> = LazyLock::new(|| {
    vec![
        replay::reply(None, ReasoningDisplay::Summary, false),
        replay::reply(Some(r#"{"parallel_tool_calls":false}"#), ReasoningDisplay::Text, true),
        replay::reply(
            Some(r#"{"top_logprobs":2,"include":["message.output_text.logprobs"]}"#),
            ReasoningDisplay::Hidden,
            false,
        ),
        replay::reply(Some(r#"{"tools":[],"instructions":"a"}"#), ReasoningDisplay::Summary, true),
        // every kind of call that the script below makes
        replay::reply(
            Some(
                r#"{"tools":[{"type":"custom","name":"get_time"},{"type":"tool_search","execution":"client"},
                {"type":"namespace","name":"n","description":"d","tools":[{"type":"function","name":"b","description":"d","parameters":{}}]},
                {"type":"local_shell"},{"type":"shell"}]}"#,
            ),
            ReasoningDisplay::Summary,
            false,
        ),
        replay::reply(
            Some(
                r#"{"tool_choice":{"type":"custom","name":"apply_patch"},
                "tools":[{"type":"custom","name":"apply_patch"},{"type":"function","name":"get_time"}]}"#,
            ),
            ReasoningDisplay::Summary,
            false,
        ),
    ]
});

/// Pieces of text that are difficult alone or side by side.
const TEXTS: [&str; 29] = [
    "",
    " ",
    "\\n",
    "a",
    "Hello",
    "\\ud83d",
    "\\ude00",
    "\\uD83D\\uDE00",
    "\\\\ud83d",
    "\\\"",
    "\\\\",
    "\\u0022",
    "{",
    "}",
    "{}",
    "{\\\"a\\\":",
    "[",
    "]",
    "1",
    "{\\\"a\\\":\\\"}",
    "é",
    "😀",
    "\\u0000",
    "null",
    "{\\\"input\\\":\\\"",
    "\\\"}",
    "{\\\"command\\\":[\\\"ls\\\"]}",
    "*** Begin Patch\\n@@ -1 +1 @@\\n",
    "```\\n",
];

/// Reads bytes as a script of a server, two or three a chunk.
fn script(bytes: &[u8]) -> Vec<String> {
    let mut bytes = bytes.iter().copied();
    let mut payloads = Vec::new();
    while let Some(what) = bytes.next() {
        let mut next = || usize::from(bytes.next().unwrap_or(0));
        let (first, second) = (next(), next());
        let text = TEXTS[first % TEXTS.len()];
        let chunk =
            |delta: &str| format!(r#"{{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#);
        payloads.push(match what % 12 {
            0..=3 => {
                let key = ["content", "reasoning", "reasoning_content", "refusal"][usize::from(what % 12)];
                chunk(&format!(r#"{{"{key}":"{text}"}}"#))
            }
            4..=7 => {
                let index = ["", r#""index":0,"#, r#""index":1,"#, r#""index":2,"#][second % 4];
                let id = ["", r#""id":"","#, r#""id":"call_1","#, r#""id":"call_2","#][second / 4 % 4];
                let names = ["", "get_time", "", "b", "tool_search", "local_shell", "apply_patch", "n.b"];
                let name = match names[second / 16 % names.len()] {
                    "" => String::new(),
                    name => format!(r#""name":"{name}","#),
                };
                chunk(&format!(
                    r#"{{"tool_calls":[{{{index}{id}"function":{{{name}"arguments":"{text}"}}}}]}}"#
                ))
            }
            8 => {
                let reason = ["stop", "length", "tool_calls", "content_filter", "abort", ""][first % 6];
                format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}},"finish_reason":"{reason}"}}]}}"#)
            }
            9 => json!({"choices": [], "usage": {"prompt_tokens": first, "completion_tokens": second}}).to_string(),
            10 => format!(
                r#"{{"choices":[{{"delta":{{"content":"{text}"}},"logprobs":{{"content":[{{"token":"{text}","logprob":-{second},"top_logprobs":[]}}]}}}}]}}"#
            ),
            _ => match first % 4 {
                0 => "[DONE]".into(),
                1 => r#"{"error":{"message":"gone","code":500}}"#.into(),
                2 => r#"{"choices":[{"delta":{"function_call":{"name":"f","arguments":"{}"}}}]}"#.into(),
                _ => r#"{"choices":[{"message":{"content":"a","tool_calls":[{"id":"x","function":{"name":"f","arguments":{"a": 1}}}]},"finish_reason":"stop"}]}"#.into(),
            },
        });
    }
    payloads
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, input)) = input.split_first() else { return };
    let plan = &PLANS[usize::from(*mode >> 1) % PLANS.len()];
    let payloads = if mode & 1 == 0 {
        // lines as they are, so that recorded streams can be the corpus
        let text = String::from_utf8_lossy(input);
        text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line).to_owned()).collect()
    } else {
        script(input)
    };
    let payloads: Vec<_> = payloads.into_iter().map(Ok::<_, ()>).collect();
    let out = replay::transcode(plan, &payloads);
    let violations = [checker::check(&out), checker::judge_async_openai(&out)].concat();
    assert!(violations.is_empty(), "{}\nfor\n{payloads:#?}\nin\n{out}", violations.join("\n"));
});
