//! A long freeform input in small pieces costs linear time, counted in instructions by valgrind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and shows what it counted"
)]

use rejoinder::dialect::GENERIC;
use rejoinder::ids::Ids;
use rejoinder::translate::plan::{PlanOptions, plan};
use rejoinder::translate::transcoder::{End, Transcoder};
use serde_json::json;

#[path = "support/valgrind.rs"]
mod valgrind;

const SIZE: &str = "REJOINDER_LINEAR_BYTES";

/// What is counted: one call of a freeform tool, or of a function, in pieces of 4 bytes.
#[test]
#[ignore = "the workload of the test below, run by it under valgrind"]
fn workload() {
    let bytes: usize = std::env::var(SIZE).unwrap().parse().unwrap();
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

fn instructions(bytes: usize) -> Option<f64> {
    valgrind::instructions(&[(SIZE, &bytes.to_string())])
}

#[test]
fn four_times_the_input_costs_four_times_the_instructions() {
    let Some(empty) = instructions(0) else { return };
    // without optimisation valgrind takes minutes for the larger ones
    let sizes = if cfg!(debug_assertions) { [2_500, 10_000, 40_000] } else { [20_000, 80_000, 320_000] };
    let counts: Vec<f64> = sizes.into_iter().map(|bytes| instructions(bytes).unwrap() - empty).collect();
    println!("instructions for {sizes:?} bytes: {counts:?}");
    for pair in counts.windows(2) {
        let ratio = pair[1] / pair[0];
        assert!(
            (3.5..4.5).contains(&ratio),
            "4 times the input costs {ratio} times the instructions: {counts:?}"
        );
    }
}
