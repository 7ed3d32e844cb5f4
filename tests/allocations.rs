//! A content token costs no heap allocation in the core, counted by the allocator itself. One test alone in its
//! process: nobody else allocates meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::alloc::System;

use rejoinder_core::dialect::LLAMA_SERVER;
use rejoinder_core::ids::Ids;
use rejoinder_core::options::PlanOptions;
use rejoinder_core::request::plan::plan;
use rejoinder_core::response::transcoder::Transcoder;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A chunk as llama-server sends it; `second`: its clock, which changes the chunk around the text.
fn chunk(delta: &str, second: usize) -> String {
    format!(
        r#"{{"choices":[{{"finish_reason":null,"index":0,"delta":{delta}}}],"created":{},"id":"chatcmpl-MYiJ2SSsnC4aWuZiblEsIkYtkIAO4IXo","model":"gemma3-270m.gguf","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}}"#,
        1_795_231_653 + second
    )
}

/// Allocations and growths while `chunks` pass, in the middle of a stream whose buffers have room left.
fn counted(request: &str, first: &str, chunks: &[String]) -> (usize, usize) {
    let plan = plan(request.as_bytes(), &PlanOptions::new(&LLAMA_SERVER)).unwrap();
    let mut transcoder = Transcoder::new(plan.reply, Ids::new("seed"), 1);
    let mut out = Vec::with_capacity(4096);
    transcoder.start(&mut out);
    transcoder.chunk(first, 1, &mut out);
    // texts so far grow by doubling, a growth for ever more tokens: stop behind one
    let mut grown = 0;
    for n in 0.. {
        let region = Region::new(ALLOCATOR);
        out.clear();
        transcoder.chunk(chunks.get(n % chunks.len()).unwrap(), 1, &mut out);
        let change = region.change();
        grown += usize::from(change.reallocations > 0);
        if n > 4000 && change.reallocations > 0 {
            break;
        }
    }
    assert!(grown < 64, "{grown} growths for 8,000 tokens");
    let (mut allocations, mut events) = (0, 0);
    for n in 0..1000 {
        out.clear();
        let region = Region::new(ALLOCATOR);
        transcoder.chunk(chunks.get(n % chunks.len()).unwrap(), 1, &mut out);
        let change = region.change();
        allocations += change.allocations + change.reallocations;
        events += usize::from(out.starts_with(b"event: response.") && out.ends_with(b"}\n\n"));
    }
    (allocations, events)
}

#[test]
fn a_token_allocates_nothing() {
    let words = [" the", "\\n\\n", " \\\"x\\\"", " é", " \\u00e9"];
    let text: Vec<String> =
        (0..600).map(|n| chunk(&format!(r#"{{"content":"{}"}}"#, words[n % words.len()]), n / 50)).collect();
    let reasoning: Vec<String> = (0..600)
        .map(|n| chunk(&format!(r#"{{"reasoning_content":"{}"}}"#, words[n % words.len()]), n / 50))
        .collect();
    let arguments: Vec<String> = (0..600)
        .map(|n| {
            let text = ["\\\"a\\\":", "1234", ",", " "][n % 4];
            chunk(&format!(r#"{{"tool_calls":[{{"index":0,"function":{{"arguments":"{text}"}}}}]}}"#), n / 50)
        })
        .collect();
    let role = chunk(r#"{"role":"assistant","content":null}"#, 0);
    let call = chunk(
        r#"{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":"{"}}]}"#,
        0,
    );
    let plain = r#"{"model":"m","input":"x","stream":true}"#;
    let tools = r#"{"model":"m","input":"x","stream":true,"tools":[{"type":"function","name":"f"}]}"#;
    assert_eq!(counted(plain, &role, &text), (0, 1000), "text");
    assert_eq!(counted(plain, &role, &reasoning), (0, 1000), "reasoning");
    // a chunk whose surroundings changed is parsed, and the list of its calls is an allocation: once a second here
    let (allocations, events) = counted(tools, &call, &arguments);
    assert!(allocations <= 1000 / 50 + 2, "{allocations} allocations for 1,000 pieces of arguments");
    assert_eq!(events, 1000, "arguments");
}
