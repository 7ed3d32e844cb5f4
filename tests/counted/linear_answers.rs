//! Long answers in small pieces cost linear time, counted in instructions by valgrind, whatever they consist of.

use crate::valgrind;
use rejoinder_core::dialect::GENERIC;
use rejoinder_core::ids::Ids;
use rejoinder_core::options::{PlanOptions, ThinkTags};
use rejoinder_core::request::plan::plan;
use rejoinder_core::response::transcoder::{End, Transcoder};
use rejoinder_core::responses_profile::ResponsesProfile;
use serde_json::json;

/// How many pieces, and of what.
const SIZE: &str = "REJOINDER_LINEAR_PIECES";
const KIND: &str = "REJOINDER_LINEAR_KIND";

#[test]
#[ignore = "no test: what the others run under valgrind"]
fn workload() {
    many(&std::env::var(KIND).unwrap(), std::env::var(SIZE).unwrap().parse().unwrap());
}

/// An answer of so many pieces.
fn many(kind: &str, pieces: usize) {
    let request = br#"{"model":"m","input":"x","stream":true,"tools":[{"type":"function","name":"f"}]}"#;
    let plan = plan(request, &PlanOptions::new(&GENERIC)).unwrap();
    let mut transcoder = Transcoder::new(plan.reply, Ids::new("seed"), 1);
    let native = kind == "native_items";
    transcoder.set_server(
        native.then(|| ResponsesProfile::of("generic", "http://server")),
        ThinkTags::Off,
        false,
    );
    let mut out = Vec::new();
    let call = |index: usize, arguments: &str| {
        let function = json!({"name": "f", "arguments": arguments});
        json!({"tool_calls": [{"index": index, "id": format!("c{index}"), "function": function}]})
    };
    for n in 0..pieces {
        let delta = match kind {
            "turns" => json!({["reasoning", "content"][n % 2]: "word"}),
            "late_text" if n == 0 => call(0, "{"),
            "late_text" => json!({"content": "word"}),
            "calls" => call(n % 200, " "),
            _ => json!({}),
        };
        let item = n % 200;
        let data = match native {
            true => json!({"type": "response.output_text.delta", "item_id": format!("msg_{item:020}"),
                "output_index": item, "content_index": 0, "delta": "word"}),
            false => json!({"choices": [{"index": 0, "delta": delta}]}),
        };
        out.clear();
        transcoder.chunk(&data.to_string(), 1, &mut out);
        assert!(!transcoder.ended());
    }
    if !native {
        transcoder.chunk(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, 1, &mut out);
    }
    transcoder.end(End::Eof, 1, &mut out);
}

#[test]
#[ignore = "needs valgrind"]
fn many_pieces_cost_linear_time() {
    let sizes = if cfg!(debug_assertions) { [400, 1600] } else { [2_000, 8_000] };
    for kind in ["turns", "late_text", "calls", "native_items"] {
        let count = |pieces: usize| {
            valgrind::instructions(module_path!(), &[(SIZE, &pieces.to_string()), (KIND, kind)])
        };
        let [few, more] = sizes.map(count);
        println!("{kind}: instructions for {sizes:?} pieces: {few}, {more}");
        assert!(more / few < 4.5, "{kind}: 4 times the pieces cost {} times the instructions", more / few);
    }
}
