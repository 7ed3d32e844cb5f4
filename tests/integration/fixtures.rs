//! Replays every recorded and scripted upstream answer: whole, cut at every byte, in pieces of every size, and
//! truncated behind every event. The invariant checker and async-openai judge each result; the snapshots are for the
//! reader's eye.

use std::path::{Path, PathBuf};

use crate::support::checker::{check, judge_async_openai};
use crate::support::replay::{Payloads, Told, events, read, reply, told, transcode};
use figment::Figment;
use figment::providers::{Format, Toml};
use rejoinder_core::options::{ReasoningDisplay, ThinkTags};
use rejoinder_core::reply_plan::ReplyPlan;
use rejoinder_core::responses_profile::{self, ResponsesProfile};
use serde::Deserialize;
use serde_json::Value;

/// One folder of `fixtures/stream` (chat chunks) or `fixtures/native` (a server's own Responses events).
struct Fixture {
    name: String,
    folder: PathBuf,
    plan: ReplyPlan,
    upstream: Vec<u8>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the first four are for the reader, but must be there")]
struct Meta {
    server: String,
    version: String,
    flags: String,
    about: String,
    /// Members over those of the small request that is answered otherwise.
    request: Option<String>,
    #[serde(default = "summary")]
    reasoning: ReasoningDisplay,
    #[serde(default)]
    refusal_as_text: bool,
    #[serde(default)]
    think_tags: ThinkTags,
    /// Repairs of calls that are switched off.
    #[serde(default)]
    quirks_off: Vec<String>,
    /// Kind of the server, where it speaks Responses itself.
    #[serde(default)]
    native: Option<String>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Expect {
    outcome: String,
    text: String,
    reasoning: String,
    refusal: String,
    calls: Vec<String>,
    usage: Option<[u64; 2]>,
    /// Of the log probabilities.
    tokens: Vec<String>,
    /// `type from-to url title`
    annotations: Vec<String>,
}

fn kind(name: &str) -> &'static ResponsesProfile {
    match name {
        "codex" => &responses_profile::CODEX_BACKEND,
        "whole" => &responses_profile::FULL,
        dialect => ResponsesProfile::of(dialect, ""),
    }
}

fn summary() -> ReasoningDisplay {
    ReasoningDisplay::Summary
}

fn fixtures() -> Vec<Fixture> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let folders = ["stream", "native"].map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let mut fixtures: Vec<Fixture> =
        folders.into_iter().flatten().map(|entry| load(entry.unwrap().path())).collect();
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(fixtures.len() > 50);
    fixtures
}

fn load(folder: PathBuf) -> Fixture {
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    let meta: Meta = Figment::from(Toml::file_exact(folder.join("meta.toml")))
        .extract()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut plan = reply(meta.request.as_deref(), meta.reasoning, meta.refusal_as_text);
    plan.tools.quirks_off = meta.quirks_off;
    Fixture {
        plan: ReplyPlan { native: meta.native.as_deref().map(kind), think_tags: meta.think_tags, ..plan },
        upstream: std::fs::read(folder.join("upstream.sse")).unwrap(),
        expect: meta.expect,
        name,
        folder,
    }
}

/// Runs over all fixtures and tells of every one that fails.
fn each(test: impl Fn(&Fixture) + std::panic::RefUnwindSafe) {
    let wanted = std::env::var("FIXTURE").unwrap_or_default();
    let failed: Vec<String> = fixtures()
        .into_iter()
        .filter(|fixture| fixture.name.contains(&wanted))
        .filter(|fixture| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(fixture))).is_err())
        .map(|fixture| fixture.name)
        .collect();
    assert!(failed.is_empty(), "{} fixtures: {}", failed.len(), failed.join(" "));
}

fn judge(what: &str, out: &str) {
    let violations = [check(out), judge_async_openai(out)].concat();
    assert!(violations.is_empty(), "{what}:\n{}\nof\n{out}", violations.join("\n"));
}

#[test]
fn whole_answers_say_what_they_should() {
    each(|fixture| {
        let out = transcode(&fixture.plan, &read([&fixture.upstream[..]]));
        judge(&fixture.name, &out);
        let Expect { outcome, text, reasoning, refusal, calls, usage, tokens, annotations } = &fixture.expect;
        let expected = Told {
            outcome: outcome.clone(),
            text: text.clone(),
            reasoning: reasoning.clone(),
            refusal: refusal.clone(),
            calls: calls.clone(),
            usage: *usage,
            tokens: tokens.clone(),
            annotations: annotations.clone(),
        };
        assert_eq!(told(&out), expected, "{}", fixture.name);
    });
}

#[test]
fn events_are_as_reviewed() {
    each(|fixture| {
        let out = transcode(&fixture.plan, &read([&fixture.upstream[..]]));
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(&fixture.folder);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!("events", events(&out).map(readable).collect::<String>()));
    });
}

/// One event a line; of the response only what is not an echo of the request.
fn readable(mut event: Value) -> String {
    if let Some(response) = event.get_mut("response").and_then(Value::as_object_mut) {
        let told =
            ["id", "status", "completed_at", "error", "incomplete_details", "output", "output_text", "usage"];
        response.retain(|name, value| told.contains(&name.as_str()) && !value.is_null());
    }
    let fields = event.as_object_mut().unwrap();
    let kind = fields.shift_remove("type").unwrap();
    let number = fields.shift_remove("sequence_number").unwrap();
    format!("{number} {} {event}\n", kind.as_str().unwrap())
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    each(|fixture| {
        let whole = read([&fixture.upstream[..]]);
        // one big fixture would take as long as all others together
        let step = 1 + fixture.upstream.len() / 10_000;
        for at in (0..=fixture.upstream.len()).step_by(step) {
            let (left, right) = fixture.upstream.split_at(at);
            same(fixture, &format!("cut at {at}"), &whole, read([left, right]));
        }
    });
}

#[test]
fn pieces_of_any_size_change_nothing() {
    each(|fixture| {
        let whole = read([&fixture.upstream[..]]);
        for size in (1..64).chain([100, 1000, 8192]) {
            same(fixture, &format!("pieces of {size}"), &whole, read(fixture.upstream.chunks(size)));
        }
        // as random as it needs to be, and the same each time
        let mut state = 1_u32;
        for round in 0..50 {
            let mut rest = &fixture.upstream[..];
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (piece, more) = rest.split_at((state >> 23) as usize % 300 % (rest.len() + 1));
                pieces.push(piece);
                rest = more;
            }
            same(fixture, &format!("random pieces, round {round}"), &whole, read(pieces));
        }
    });
}

/// The transcoder sees payloads alone: where they are the same, so is the answer.
fn same(fixture: &Fixture, what: &str, whole: &Payloads, pieces: Payloads) {
    assert!(*whole == pieces, "{}, {what}: {pieces:?}", fixture.name);
}

#[test]
fn an_answer_truncated_behind_any_event_still_ends_well() {
    each(|fixture| {
        let payloads = read([&fixture.upstream[..]]);
        let whole = told(&transcode(&fixture.plan, &payloads_of(&payloads)));
        for end in 0..payloads.len() {
            for broken in [false, true] {
                let mut truncated = payloads_of(&payloads[..end]);
                if broken {
                    truncated.push(Err(()));
                }
                let out = transcode(&fixture.plan, &truncated);
                let what = format!("{} behind event {end}, broken: {broken}", fixture.name);
                judge(&what, &out);
                let got = told(&out);
                assert!(whole.text.starts_with(&got.text), "{what}: {:?}", got.text);
                assert!(whole.reasoning.starts_with(&got.reasoning), "{what}: {:?}", got.reasoning);
                let finished = truncated.iter().any(|payload| payload.is_ok_and(has_finish));
                assert!(finished || got.outcome == "failed", "{what}: {}", got.outcome);
            }
        }
    });
}

fn payloads_of(payloads: &[Result<String, rejoinder::sse::SseError>]) -> Vec<Result<&str, ()>> {
    payloads.iter().map(|payload| payload.as_deref().map_err(|_| ())).collect()
}

/// Whether it says that the answer is at its end.
fn has_finish(payload: &str) -> bool {
    if payload == "[DONE]" {
        return true;
    }
    let mut chunk: Value = serde_json::from_str(payload).unwrap_or_default();
    if let Some(first) = chunk.as_array_mut().and_then(|list| list.pop()) {
        chunk = first;
    }
    let native = ["completed", "incomplete"].iter().any(|status| {
        chunk["type"] == format!("response.{status}")
            || chunk["object"] == "response" && chunk["status"] == *status
    });
    let whole = chunk["choices"][0]["message"].is_object();
    native || whole || chunk["choices"][0]["finish_reason"].as_str().is_some_and(|reason| !reason.is_empty())
}
