//! Linear time, counted in instructions by valgrind: a long freeform input in small pieces, and every list of a request.

use crate::valgrind;
use rejoinder_core::dialect::GENERIC;
use rejoinder_core::ids::Ids;
use rejoinder_core::limits::Limits;
use rejoinder_core::options::{FoundTools, PlanOptions};
use rejoinder_core::request::parse::{Context, ParsedRequest};
use rejoinder_core::request::plan::plan;
use rejoinder_core::response::transcoder::{End, Transcoder};
use rejoinder_core::wire::request::{item, push_items};
use serde_json::json;
use serde_json::value::RawValue;

const SIZE: &str = "REJOINDER_LINEAR_SIZE";
const LIST: &str = "REJOINDER_LINEAR_LIST";

#[test]
#[ignore = "no test: what the others run under valgrind"]
fn workload() {
    let size: usize = std::env::var(SIZE).unwrap().parse().unwrap();
    match std::env::var(LIST) {
        Ok(list) => planned(&list, size),
        Err(_) => freeform(size),
    }
}

/// One call of a freeform tool, or of a function, in pieces of 4 bytes.
fn freeform(bytes: usize) {
    let request =
        br#"{"model":"m","input":"x","stream":true,"tools":[{"type":"custom","name":"apply_patch"}]}"#;
    let plan = plan(request, &PlanOptions::new(&GENERIC)).unwrap();
    let mut transcoder = Transcoder::new(plan.reply, Ids::new("seed"), 1);
    let mut out = Vec::new();
    let line = "+let \"x\" = 'é';\n";
    let text = format!("*** Begin Patch\n{}*** End Patch\n", line.repeat(bytes / line.len()));
    let arguments: Vec<char> = json!({ "input": text }).to_string().chars().collect();
    let mut sent = 0;
    let mut call = |arguments: &str| {
        let call =
            json!([{"index": 0, "id": "c", "function": {"name": "apply_patch", "arguments": arguments}}]);
        out.clear();
        transcoder.chunk(&json!({"choices": [{"delta": {"tool_calls": call}}]}).to_string(), 1, &mut out);
        sent += out.len();
    };
    for piece in arguments.chunks(4) {
        call(&piece.iter().collect::<String>());
    }
    assert!(sent > bytes);
    transcoder.chunk(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, 1, &mut out);
    transcoder.end(End::Eof, 1, &mut out);
    assert_eq!(transcoder.outcome(), "completed");
}

fn instructions(bytes: usize) -> f64 {
    valgrind::instructions(module_path!(), &[(SIZE, &bytes.to_string())])
}

/// A request with so many elements.
type Body = fn(usize) -> String;

/// The lists of a request whose elements are looked up among others, by name: what `n` of them look like.
const LISTS: [(&str, Body); 12] = [
    ("calls of one id", |n| items(n, |_| r#"{"type":"function_call","call_id":"c","name":"f"}"#.to_owned())),
    ("calls whose ids end alike", |n| {
        items(n, |at| {
            let id = if at % 2 == 0 { "c".to_owned() } else { format!("c_{}", at / 2 + 2) };
            format!(r#"{{"type":"function_call","call_id":"{id}","name":"f"}}"#)
        })
    }),
    ("outputs of one id", |n| {
        items(n, |_| r#"{"type":"function_call_output","call_id":"c","output":"x"}"#.to_owned())
    }),
    ("calls of as many tools", |n| {
        let calls = list(n, |at| format!(r#"{{"type":"function_call","call_id":"c{at}","name":"f{at}"}}"#));
        format!(r#"{{"model":"m","input":{calls},"tools":{}}}"#, functions(n))
    }),
    ("calls of found tools", |n| {
        let calls = list(n, |at| format!(r#"{{"type":"function_call","call_id":"c{at}","name":"g{at}"}}"#));
        let found = list(n, |at| format!(r#"{{"type":"function","name":"g{at}"}}"#));
        let found = format!(r#"{{"type":"tool_search_output","call_id":"s","tools":{found}}}"#);
        let calls = calls.trim_start_matches('[');
        format!(r#"{{"model":"m","input":[{found},{calls},"tools":[{{"type":"tool_search"}}]}}"#)
    }),
    ("search outputs", |n| {
        items(n, |_| r#"{"type":"tool_search_output","call_id":"s","tools":[]}"#.to_owned())
    }),
    ("allowed tools", |n| {
        let allowed = list(n, |at| format!(r#"{{"type":"function","name":"f{}"}}"#, n - at - 1));
        let choice = format!(r#"{{"type":"allowed_tools","mode":"auto","tools":{allowed}}}"#);
        format!(r#"{{"model":"m","input":"x","tools":{},"tool_choice":{choice}}}"#, functions(n))
    }),
    ("tools of one name", |n| {
        let tools = list(n, |_| r#"{"type":"function","name":"f"}"#.to_owned());
        format!(r#"{{"model":"m","input":"x","tools":{tools}}}"#)
    }),
    ("namespaces", |n| {
        let tool = |at| {
            format!(r#"{{"type":"namespace","name":"n{at}","tools":[{{"type":"function","name":"f"}}]}}"#)
        };
        format!(r#"{{"model":"m","input":"x","tools":{}}}"#, list(n, tool))
    }),
    ("references", |n| items(n, |at| format!(r#"{{"type":"item_reference","id":"msg_{at}"}}"#))),
    ("parts", |n| {
        let parts = list(n, |_| r#"{"type":"input_text","text":"x"}"#.to_owned());
        format!(r#"{{"model":"m","input":[{{"role":"user","content":{parts}}}]}}"#)
    }),
    (TOLD_AGAIN, |n| {
        let arguments = format!(r#"{{\"a\":[{}0]}}"#, "10,".repeat(n));
        items(1, |_| {
            format!(r#"{{"type":"function_call","call_id":"c","name":"f","arguments":"{arguments}"}}"#)
        })
    }),
];

/// A call as long as what is held has calls of its id.
const TOLD_AGAIN: &str = "a long call and held ones of its id";

fn held_calls(n: usize) -> String {
    list(n, |at| {
        format!(r#"{{"type":"function_call","call_id":"c","name":"f","arguments":"{{\"a\":{at}}}"}}"#)
    })
}

fn list(n: usize, element: impl Fn(usize) -> String) -> String {
    format!("[{}]", (0..n).map(element).collect::<Vec<_>>().join(","))
}

fn items(n: usize, item: impl Fn(usize) -> String) -> String {
    format!(r#"{{"model":"m","input":{}}}"#, list(n, item))
}

fn functions(n: usize) -> String {
    list(n, |at| format!(r#"{{"type":"function","name":"f{at}"}}"#))
}

/// A request with `n` elements of that list, read and planned.
fn planned(named: &str, n: usize) {
    let (_, body) = LISTS.iter().find(|(name, _)| *name == named).unwrap();
    let (body, held) = (body(n), if named == TOLD_AGAIN { held_calls(n) } else { "[]".to_owned() });
    let draft = ParsedRequest::read(&body, &Limits::DEFAULT).unwrap();
    let asks = draft.asks().unwrap();
    let stored: Vec<String> = asks
        .references
        .iter()
        .map(|(_, id)| format!(r#"{{"id":"{id}","role":"user","content":"x"}}"#))
        .collect();
    let stored: Vec<&RawValue> = stored.iter().map(|json| serde_json::from_str(json).unwrap()).collect();
    let references = asks.references.iter().zip(&stored).map(|((_, id), raw)| (id.as_str(), item(raw)));
    let mut context = Context { references: references.collect(), ..Context::default() };
    push_items(&mut context.earlier, &held);
    let options = PlanOptions { found_tools: FoundTools::Described, ..PlanOptions::new(&GENERIC) };
    let plan = draft.plan(&options, &context);
    assert!(plan.is_ok(), "{named}: {plan:?}");
    assert!(draft.stored_input(&context, &[]).bytes() > 0);
}

#[test]
#[ignore = "needs valgrind"]
fn twice_the_elements_of_a_list_cost_twice_the_instructions() {
    let counted = |list: &str, n: usize| {
        valgrind::instructions(module_path!(), &[(LIST, list), (SIZE, &n.to_string())])
    };
    let sizes = if cfg!(debug_assertions) { [1, 101, 201, 401] } else { [1, 1_001, 2_001, 4_001] };
    for (list, _) in LISTS {
        let counts = sizes.map(|n| counted(list, n));
        let [once, twice, four] = [1, 2, 3].map(|at| counts[at] - counts[0]);
        println!("{list}: {once} instructions for {} elements more, then {twice}, {four}", sizes[1] - 1);
        for ratio in [twice / once, four / twice] {
            assert!(ratio < 2.25, "twice the {list} cost {ratio} times the instructions: {counts:?}");
        }
    }
}

#[test]
#[ignore = "needs valgrind"]
fn four_times_the_input_costs_four_times_the_instructions() {
    let empty = instructions(0);
    // without optimisation valgrind takes minutes for the larger ones
    let sizes = if cfg!(debug_assertions) { [2_500, 10_000, 40_000] } else { [20_000, 80_000, 320_000] };
    let counts: Vec<f64> = sizes.into_iter().map(|bytes| instructions(bytes) - empty).collect();
    println!("instructions for {sizes:?} bytes: {counts:?}");
    for pair in counts.windows(2) {
        let ratio = pair[1] / pair[0];
        assert!(
            (3.5..4.5).contains(&ratio),
            "4 times the input costs {ratio} times the instructions: {counts:?}"
        );
    }
}
