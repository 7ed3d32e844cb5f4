//! What the hot path costs, in instructions, which valgrind counts the same on a busy machine and on an idle one. A
//! rise over 3 % against `tests/counted/instructions.baseline` fails.
//!
//! Counts hang on the compiler, its options and the processor's vector units. A line of the baseline names the
//! compiler, and a piece of plain code that is counted too tells the rest: where it costs something else than when
//! the baseline was written, the test says so and does not judge. A new baseline is written by
//! `WRITE_BASELINE=1 cargo test --test counted -- --ignored the_hot_path`, and belongs in the commit that explains it.

use crate::valgrind;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::pin::pin;
use std::process::Command;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use rejoinder::sse;
use rejoinder_core::dialect::LLAMA_SERVER;
use rejoinder_core::ids::Ids;
use rejoinder_core::options::PlanOptions;
use rejoinder_core::request::plan::plan;
use rejoinder_core::response::transcoder::{End, Transcoder};
use serde_json::json;

const WORK: &str = "COUNTED_WORK";
const TIMES: &str = "COUNTED_TIMES";
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/counted/instructions.baseline");
/// What is counted: name, and how often it is done.
const WORKS: [(&str, usize); 6] = [
    ("calibration", 200),
    ("text token", 400),
    ("text token, parsed", 400),
    ("argument piece", 400),
    ("event read", 400),
    ("item of a transcript", 60),
];
const TOLERANCE: f64 = 0.03;

#[test]
#[ignore = "no test: what the others run under valgrind"]
fn workload() {
    let times: usize = std::env::var(TIMES).unwrap().parse().unwrap();
    match std::env::var(WORK).unwrap().as_str() {
        "calibration" => {
            for n in 0..times {
                let text = format!("{n} plain code");
                black_box(text.bytes().filter(|b| b.is_ascii_alphabetic()).map(u64::from).sum::<u64>());
            }
        }
        "text token" => transcode(times, |_| chunk(r#"{"content":" token"}"#, 0)),
        "text token, parsed" => transcode(times, |n| chunk(r#"{"content":" token"}"#, n % 2)),
        "argument piece" => transcode(times, |n| match n {
            0 => chunk(r#"{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{"}}]}"#, 0),
            _ => chunk(r#"{"tool_calls":[{"index":0,"function":{"arguments":"\"a\":"}}]}"#, 0),
        }),
        "event read" => {
            let event = format!("data: {}\n\n", chunk(r#"{"content":" token"}"#, 0));
            let pieces = (0..times).map(|_| Ok::<_, String>(Bytes::copy_from_slice(event.as_bytes())));
            let mut reader = pin!(sse::events(futures::stream::iter(pieces)));
            let mut read = 0;
            while let Some(Some(Ok(data))) = reader.next().now_or_never() {
                read += usize::from(data.len() > 100);
            }
            assert_eq!(read, times);
        }
        "item of a transcript" => {
            let output = "a line of \"output\"\n".repeat(20);
            let call =
                json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"a\": 1}"});
            let output = json!({"type": "function_call_output", "call_id": "c", "output": output});
            let items: Vec<_> = std::iter::repeat_n([call, output], times / 2).flatten().collect();
            let mut input = vec![json!({"role": "user", "content": "begin"})];
            input.extend(items);
            let body = json!({"model": "m", "input": input, "stream": true}).to_string();
            let plan = plan(body.as_bytes(), &PlanOptions::new(&LLAMA_SERVER)).unwrap();
            assert!(plan.body.len() > times * 200);
        }
        other => panic!("no work {other}"),
    }
}

/// `second`: the server's clock, which changes the chunk around its text.
fn chunk(delta: &str, second: usize) -> String {
    format!(
        r#"{{"choices":[{{"finish_reason":null,"index":0,"delta":{delta}}}],"created":179523165{second},"id":"chatcmpl-MYiJ2SSsnC4aWuZiblEsIkYtkIAO4IXo","model":"gemma3-270m.gguf","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}}"#
    )
}

fn transcode(times: usize, chunk: impl Fn(usize) -> String) {
    let request = br#"{"model":"m","input":"x","stream":true,"tools":[{"type":"function","name":"f"}]}"#;
    let plan = plan(request, &PlanOptions::new(&LLAMA_SERVER)).unwrap();
    let mut transcoder = Transcoder::new(plan.reply, Ids::new("seed"), 1);
    let mut out = Vec::with_capacity(1 << 16);
    transcoder.start(&mut out);
    let chunks = [chunk(0), chunk(1), chunk(2)];
    for n in 0..times {
        out.clear();
        transcoder.chunk(&chunks[if n == 0 { 0 } else { 1 + n % 2 }], 1, &mut out);
    }
    out.clear();
    transcoder.chunk(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, 1, &mut out);
    transcoder.end(End::Eof, 1, &mut out);
    assert_eq!(transcoder.outcome(), "completed");
}

/// Instructions of one unit of a work: what many cost beyond a few.
fn count(work: &str, times: usize) -> f64 {
    let instructions =
        |times: usize| valgrind::instructions(module_path!(), &[(WORK, work), (TIMES, &times.to_string())]);
    let few = times / 4;
    (instructions(times) - instructions(few)) / (times - few) as f64
}

/// `rustc 1.95.0 x86_64 debug`
fn build() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = text.split(' ').nth(1).unwrap_or("unknown");
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!("rustc {version} {} {profile}", std::env::consts::ARCH)
}

/// The counts of the baseline for this build.
fn kept() -> BTreeMap<String, f64> {
    let (build, text) = (build(), std::fs::read_to_string(BASELINE).unwrap_or_default());
    text.lines()
        .filter_map(|line| line.strip_prefix(&format!("{build} | "))?.split_once(" | "))
        .filter_map(|(work, count)| Some((work.to_owned(), count.parse().ok()?)))
        .collect()
}

#[test]
#[ignore = "no test: whether the baseline is of this compiler and machine"]
fn the_baseline_applies() {
    let kept = kept();
    let [(work, times), ..] = WORKS;
    let calibration = kept.get(work).expect("the baseline has no counts of this compiler");
    let counted = count(work, times);
    let off = (counted / calibration - 1.0).abs();
    assert!(off <= TOLERANCE / 3.0, "{work} costs {counted:.0} here, {calibration:.0} in the baseline");
}

#[test]
#[ignore = "needs valgrind, and a baseline of this compiler and machine"]
fn the_hot_path_costs_no_more_instructions_than_it_did() {
    let counts: BTreeMap<&str, f64> =
        WORKS.into_iter().map(|(work, times)| (work, count(work, times))).collect();
    let build = build();
    let line = |(work, count): (&&str, &f64)| format!("{build} | {work} | {count:.1}\n");
    println!("{}", counts.iter().map(line).collect::<String>());
    if std::env::var_os("WRITE_BASELINE").is_some() {
        let text = std::fs::read_to_string(BASELINE).unwrap_or_default();
        let others = text.lines().filter(|kept| !kept.starts_with(&format!("{build} |")));
        let mut lines: Vec<String> = others.map(|line| format!("{line}\n")).collect();
        lines.extend(counts.iter().map(line));
        std::fs::write(BASELINE, lines.concat()).unwrap();
        return;
    }
    let kept = kept();
    let risen: Vec<String> = counts
        .iter()
        .filter_map(|(work, count)| {
            let kept = kept.get(*work)?;
            (count / kept > 1.0 + TOLERANCE)
                .then(|| format!("{work}: {count:.0} instructions, {kept:.0} before"))
        })
        .collect();
    assert!(risen.is_empty(), "{risen:?}; mend it, or explain it and run with WRITE_BASELINE=1");
}
