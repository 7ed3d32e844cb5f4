//! The pure core under criterion: a request planned, a stream transcoded. Times on a busy machine mean nothing by
//! themselves; compare two builds in one run.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rejoinder_core::dialect::LLAMA_SERVER;
use rejoinder_core::ids::Ids;
use rejoinder_core::options::PlanOptions;
use rejoinder_core::request::plan::plan;
use rejoinder_core::response::transcoder::{End, Transcoder};
use serde_json::json;

/// A transcript of about a megabyte: 400 items, tool rounds with long outputs.
fn transcript() -> Vec<u8> {
    let mut input = vec![json!({"role": "user", "content": "begin"})];
    for n in 0..133 {
        let id = format!("call_{n}");
        input.push(
            json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "why ".repeat(50)}]}),
        );
        let arguments = json!({"cmd": format!("sed -n {n},99p file")}).to_string();
        input.push(
            json!({"type": "function_call", "call_id": id, "name": "exec_command", "arguments": arguments}),
        );
        let output = "a line of \"output\"\n".repeat(380);
        input.push(json!({"type": "function_call_output", "call_id": id, "output": output}));
    }
    json!({"model": "m", "input": input, "stream": true}).to_string().into_bytes()
}

fn request(c: &mut Criterion) {
    let body = transcript();
    let mut group = c.benchmark_group("plan");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("1 MB transcript", |b| {
        b.iter(|| plan(black_box(&body), &PlanOptions::new(&LLAMA_SERVER)).unwrap())
    });
    group.finish();
}

fn stream(c: &mut Criterion) {
    let plan = plan(br#"{"model":"m","input":"x","stream":true}"#, &PlanOptions::new(&LLAMA_SERVER)).unwrap();
    let chunk = r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":" token"}}],"created":1795231653,"id":"chatcmpl-MYiJ2SSsnC4aWuZiblEsIkYtkIAO4IXo","model":"gemma3-270m.gguf","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}"#;
    let stop = r#"{"choices":[{"finish_reason":"stop","index":0,"delta":{}}]}"#;
    let mut group = c.benchmark_group("transcode");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1000 tokens", |b| {
        b.iter(|| {
            let mut transcoder = Transcoder::new(plan.reply.clone(), Ids::new("0"), 0);
            let mut out = Vec::new();
            transcoder.start(&mut out);
            for _ in 0..1000 {
                out.clear();
                transcoder.chunk(black_box(chunk), 0, &mut out);
            }
            transcoder.chunk(stop, 0, &mut out);
            transcoder.end(End::Eof, 0, &mut out);
            out
        });
    });
    group.finish();
}

criterion_group!(benches, request, stream);
criterion_main!(benches);
