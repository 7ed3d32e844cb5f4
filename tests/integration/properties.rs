//! Arbitrary upstream answers: whatever arrives, the client's stream keeps every rule; what is well formed arrives
//! whole.

use crate::support::checker::{check, judge_async_openai};
use crate::support::replay::{Told, options, reply, told, transcode};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;
use rejoinder_core::options::ReasoningDisplay;
use rejoinder_core::reply_plan::ReplyPlan;
use rejoinder_core::request::plan::plan;
use serde_json::{Value, json};

fn run(plan: &ReplyPlan, payloads: &[String]) -> (String, Told) {
    let payloads: Vec<_> = payloads.iter().map(Ok::<_, ()>).collect();
    let out = transcode(plan, &payloads);
    let told = told(&out);
    (out, told)
}

fn judge(out: &str, payloads: &[String]) -> TestCaseResult {
    let violations = [check(out), judge_async_openai(out)].concat();
    prop_assert!(violations.is_empty(), "{}\nfor\n{}", violations.join("\n"), payloads.join("\n"));
    Ok(())
}

/// What a plan is made from; the plan itself says little when it is printed.
#[derive(Debug, Clone, Copy)]
struct Asked {
    request: Option<&'static str>,
    reasoning: ReasoningDisplay,
    refusal_as_text: bool,
}

impl Asked {
    fn plan(self) -> ReplyPlan {
        reply(self.request, self.reasoning, self.refusal_as_text)
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let reasoning = select(vec![ReasoningDisplay::Summary, ReasoningDisplay::Text, ReasoningDisplay::Hidden]);
    let request = select(vec![
        None,
        Some(r#"{"parallel_tool_calls":false}"#),
        Some(r#"{"top_logprobs":2,"include":["message.output_text.logprobs"]}"#),
        Some(r#"{"tools":[],"instructions":"a \"b\" \ud83d\ude00","metadata":{"a":"b"},"temperature":0.5}"#),
    ]);
    (request, reasoning, any::<bool>()).prop_map(|(request, reasoning, refusal_as_text)| Asked {
        request,
        reasoning,
        refusal_as_text,
    })
}

// what is well formed

/// Text that JSON and Responses make difficult.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z ]{0,8}",
        1 => "[\n\r\t ]{0,3}",
        1 => select(vec!["\"", "\\", "\\n", "\\u0041", "\\ud83d", "\u{8}", "\u{c}", "\0", "\u{1f}", "\u{7f}", "/"])
            .prop_map(String::from),
        1 => select(vec!["😀", "é", "日本", "\u{2028}", "\u{feff}", "\u{fffd}", "\u{10ffff}", "data: x\n\n"])
            .prop_map(String::from),
        1 => any::<char>().prop_map(String::from),
    ];
    vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

/// Cuts a text anywhere, between the halves of a surrogate pair too, and escapes what chance wants escaped. The
/// pieces are the insides of JSON strings.
fn pieces(text: &str, cuts: &[usize], escapes: u64) -> Vec<String> {
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut cuts: Vec<usize> =
        cuts.iter().map(|cut| cut % (units.len() + 1)).chain([0, units.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).map(|cut| literal(&units[cut[0]..cut[1]], escapes.rotate_left(cut[0] as u32))).collect()
}

fn literal(units: &[u16], mut escapes: u64) -> String {
    let mut out = String::new();
    for unit in char::decode_utf16(units.iter().copied()) {
        escapes = escapes.rotate_left(1);
        let plain =
            unit.clone().ok().filter(|c| escapes & 1 == 0 && !matches!(c, '"' | '\\' | '\0'..='\u{1f}'));
        match (plain, unit) {
            (Some(c), _) => out.push(c),
            (None, Ok('\n')) if escapes & 2 == 0 => out += "\\n",
            (None, Ok('"')) if escapes & 2 == 0 => out += "\\\"",
            (None, Ok(c)) => {
                out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")))
            }
            (None, Err(half)) => out += &format!("\\u{:04X}", half.unpaired_surrogate()),
        }
    }
    out
}

fn chunk(delta: &str, finish: &str) -> String {
    format!(
        r#"{{"object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#
    )
}

/// A run of text on one channel: the delta's key and the text.
fn speech() -> impl Strategy<Value = Vec<(&'static str, String, Vec<usize>, u64)>> {
    let key = select(vec!["content", "content", "reasoning", "reasoning_content", "refusal"]);
    vec((key, text(), vec(any::<usize>(), 0..5), any::<u64>()), 0..6)
}

#[derive(Debug, Clone)]
struct Call {
    id: bool,
    name: String,
    arguments: String,
    cuts: Vec<usize>,
    escapes: u64,
}

fn call() -> impl Strategy<Value = Call> {
    let arguments = vec((text(), text()), 0..3).prop_map(|pairs| {
        Value::Object(pairs.into_iter().map(|(key, value)| (key, json!([value, {"n": 1}]))).collect())
            .to_string()
    });
    let name = select(vec!["get_weather", "get_time", "other", "é"]).prop_map(String::from);
    (any::<bool>(), name, arguments, vec(any::<usize>(), 0..5), any::<u64>())
        .prop_map(|(id, name, arguments, cuts, escapes)| Call { id, name, arguments, cuts, escapes })
}

/// The chunks of these calls, in an order that `order` decides: first each call's head in turn, then pieces of any.
fn call_chunks(calls: &[Call], order: &[usize]) -> Vec<String> {
    let mut queues: Vec<Vec<String>> = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        let id = if call.id { format!(r#""id":"call_{index}","type":"function","#) } else { String::new() };
        let name = serde_json::to_string(&call.name).unwrap();
        let head = format!(r#"{{"index":{index},{id}"function":{{"name":{name}}}}}"#);
        let pieces = pieces(&call.arguments, &call.cuts, call.escapes).into_iter();
        let rest = pieces.map(|piece| format!(r#"{{"index":{index},"function":{{"arguments":"{piece}"}}}}"#));
        queues.push([head].into_iter().chain(rest).rev().collect());
    }
    let mut deltas = Vec::new();
    let mut order = order.iter().chain(std::iter::repeat(&0));
    let mut begun = 0;
    while queues.iter().any(|queue| !queue.is_empty()) {
        let wanted = order.next().unwrap() % calls.len();
        // calls begin in their order
        let next = (0..calls.len())
            .map(|n| (wanted + n) % calls.len())
            .find(|n| *n <= begun && !queues[*n].is_empty());
        let next = next.unwrap_or(begun);
        begun = begun.max(next + 1).min(calls.len() - 1);
        deltas.extend(queues[next].pop());
    }
    deltas.into_iter().map(|call| chunk(&format!(r#"{{"tool_calls":[{call}]}}"#), "null")).collect()
}

// what is not

/// JSON from the words of chat chunks, in places where they do and do not belong.
fn junk() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2_i64..5).prop_map(Value::from),
        select(vec![json!(u64::MAX), json!(i64::MIN), json!(1e300), json!(0.5), json!(4_294_967_296_u64)]),
        select(vec![
            "",
            " ",
            "\n",
            "a",
            "stop",
            "length",
            "tool_calls",
            "abort",
            "error",
            "call_1",
            "get_time",
            "{}",
            "{"
        ])
        .prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        let key = select(vec![
            "choices",
            "delta",
            "message",
            "content",
            "reasoning",
            "reasoning_content",
            "refusal",
            "tool_calls",
            "function_call",
            "function",
            "name",
            "arguments",
            "id",
            "index",
            "finish_reason",
            "usage",
            "prompt_tokens",
            "completion_tokens",
            "prompt_tokens_details",
            "cached_tokens",
            "created_cache_tokens",
            "timings",
            "prompt_n",
            "cache_n",
            "predicted_n",
            "error",
            "code",
            "type",
            "param",
            "object",
            "logprobs",
            "token",
            "logprob",
            "bytes",
            "top_logprobs",
            "text",
            "x",
        ]);
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((key, inner), 0..5).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

/// A payload that a server might send, or that none would.
fn payload() -> impl Strategy<Value = String> {
    let delta =
        |key: &'static str| junk().prop_map(move |value| chunk(&json!({key: value}).to_string(), "null"));
    let logprobs = junk().prop_map(|entry| {
        json!({"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [
            {"token": "a", "logprob": -1, "bytes": entry, "top_logprobs": [{"token": "b", "logprob": entry}]},
        ]}}]})
        .to_string()
    });
    let piece = (0_u8..3, select(vec!["", "call_1", "call_2"]), select(vec!["", "get_time", "b"]), text());
    let calls = piece.prop_map(|(index, id, name, arguments)| {
        let call = json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}});
        chunk(&json!({"tool_calls": [call]}).to_string(), "null")
    });
    let braces = (0_u8..3, select(vec!["{", "}", "{\"a\":", "1}", "[", "\"", "{}", " "])).prop_map(
        |(index, arguments)| {
            let call = json!({"index": index, "function": {"arguments": arguments}});
            chunk(&json!({"tool_calls": [call]}).to_string(), "null")
        },
    );
    let reasons =
        vec!["\"stop\"", "\"length\"", "\"tool_calls\"", "\"content_filter\"", "\"abort\"", "\"\"", "7"];
    let said = (select(vec!["content", "reasoning", "reasoning_content", "refusal"]), text());
    prop_oneof![
        4 => said.prop_map(|(key, text)| chunk(&json!({key: text}).to_string(), "null")),
        4 => calls,
        4 => braces,
        1 => delta("content"),
        1 => delta("tool_calls"),
        1 => delta("function_call"),
        1 => logprobs,
        1 => junk().prop_map(|delta| chunk(&delta.to_string(), "null")),
        1 => junk().prop_map(|value| value.to_string()),
        1 => junk().prop_map(|usage| json!({"choices": [], "usage": usage}).to_string()),
        1 => junk().prop_map(|error| json!({"error": error}).to_string()),
        1 => select(reasons).prop_map(|reason| chunk("{}", reason)),
        1 => select(vec!["[DONE]", "", " ", "{}", "null", "[]", "{\"choices\":[", "\"\\ud800\"", "x"])
            .prop_map(String::from),
    ]
}

#[test]
fn a_lone_surrogate_in_a_request_harms_nobody() {
    for fields in [
        r#""input":"a\ud83d""#,
        r#""input":"a","instructions":"\ud83d""#,
        r#""input":"a","metadata":{"a":"\ud83d"}"#,
        r#""input":"a","user":"\ud83d""#,
        r#""input":"a","prompt_cache_key":"\ud83d""#,
        r#""input":"a","reasoning":{"effort":"\ud83d"}"#,
        r#""input":"a","tools":[{"type":"function","name":"f","description":"\ud83d","parameters":{}}]"#,
        r#""input":"a","text":{"format":{"type":"json_schema","name":"n","schema":{"title":"\ud83d"}}}"#,
    ] {
        let body = format!(r#"{{"model":"m","stream":true,{fields}}}"#);
        let planned = plan(body.as_bytes(), &options()).unwrap();
        let chat = serde_json::from_slice::<Value>(&planned.body);
        assert!(chat.is_ok(), "{body}: {}", String::from_utf8_lossy(&planned.body));
        let chunk = chunk(r#"{"content":"a"}"#, "\"stop\"");
        assert_eq!(check(&transcode(&planned.reply, &[Ok::<_, ()>(chunk)])), [""; 0], "{body}");
    }
}

proptest! {
    // a failure becomes a test of its own, or a fixture
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_arrives_whole(runs in speech(), asked in asked(), finish in select(vec!["stop", "length", "content_filter"])) {
        let mut payloads = Vec::new();
        let mut expected = Told::default();
        for (key, text, cuts, escapes) in &runs {
            for piece in pieces(text, cuts, *escapes) {
                payloads.push(chunk(&format!(r#"{{"{key}":"{piece}"}}"#), "null"));
            }
            match *key {
                "content" => expected.text += text,
                "refusal" if asked.refusal_as_text => expected.text += text,
                "refusal" => expected.refusal += text,
                _ if asked.reasoning == ReasoningDisplay::Hidden => {}
                _ => expected.reasoning += text,
            }
        }
        payloads.push(chunk("{}", &format!("\"{finish}\"")));
        payloads.push("[DONE]".into());
        let (out, got) = run(&asked.plan(), &payloads);
        judge(&out, &payloads)?;
        prop_assert_eq!(&got.outcome, if finish == "stop" { "completed" } else { "incomplete" });
        // white space alone opens no item, so that of the end may be left out
        let blank = [' ', '\n', '\r', '\t'];
        prop_assert_eq!(got.text.trim_end_matches(blank), expected.text.trim_end_matches(blank));
        prop_assert_eq!(got.reasoning.trim_end_matches(blank), expected.reasoning.trim_end_matches(blank));
        prop_assert_eq!(got.refusal.trim_end_matches(blank), expected.refusal.trim_end_matches(blank));
        if runs.iter().all(|run| run.0 == "content") {
            prop_assert_eq!(got.text, expected.text);
        }
    }

    #[test]
    fn calls_arrive_whole(
        calls in vec(call(), 1..4),
        order in vec(any::<usize>(), 0..20),
        said in text(),
        at in any::<usize>(),
    ) {
        let asked = Asked { request: None, reasoning: ReasoningDisplay::Summary, refusal_as_text: false };
        let mut payloads = call_chunks(&calls, &order);
        let say = chunk(&json!({"content": said}).to_string(), "null");
        payloads.insert(at % (payloads.len() + 1), say);
        payloads.push(chunk("{}", "\"tool_calls\""));
        let (out, got) = run(&asked.plan(), &payloads);
        judge(&out, &payloads)?;
        prop_assert_eq!(got.outcome, "completed");
        let expected: Vec<String> = calls.iter().map(|call| format!("{}({})", call.name, call.arguments)).collect();
        prop_assert_eq!(got.calls, expected);
        let blank = [' ', '\n', '\r', '\t'];
        prop_assert_eq!(got.text.trim_end_matches(blank), said.trim_end_matches(blank));
    }

    #[test]
    fn anything_ends_well(payloads in vec(payload(), 0..12), asked in asked()) {
        let (out, _) = run(&asked.plan(), &payloads);
        judge(&out, &payloads)?;
    }
}
