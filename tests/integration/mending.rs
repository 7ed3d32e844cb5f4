//! Native streams that lose events, get them twice or out of order, lose members, or mix two answers: whatever comes,
//! the client's stream is well, and ends.

use crate::support::checker;
use crate::support::replay;
use std::path::Path;

use rejoinder_core::options::ReasoningDisplay;
use rejoinder_core::reply_plan::ReplyPlan;
use rejoinder_core::responses_profile;
use serde_json::Value;

/// The payloads of every native fixture.
fn streams() -> Vec<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/native");
    let mut folders: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let streams: Vec<Vec<String>> = folders
        .into_iter()
        .map(|folder| std::fs::read(folder.join("upstream.sse")).unwrap())
        .map(|bytes| replay::read([&bytes[..]]).into_iter().filter_map(Result::ok).collect())
        // long ones take long, and have nothing that short ones lack
        .filter(|payloads: &Vec<String>| payloads.len() < 40)
        .collect();
    assert!(streams.len() > 30);
    streams
}

/// As random as it needs to be, and the same each time.
struct Dice(u32);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % sides.max(1)
    }
}

fn spoil(payloads: &mut Vec<String>, other: &[String], dice: &mut Dice) {
    let at = dice.roll(payloads.len());
    match dice.roll(6) {
        0 => drop(payloads.remove(at)),
        1 => payloads.insert(dice.roll(payloads.len()), payloads[at].clone()),
        2 => {
            let to = dice.roll(payloads.len());
            payloads.swap(at, to);
        }
        3 => payloads.insert(at, other[dice.roll(other.len())].clone()),
        _ => {
            let Ok(Value::Object(mut event)) = serde_json::from_str(&payloads[at]) else { return };
            let kind = event.get("item").and_then(|item| item["type"].as_str());
            if kind.is_some_and(|kind| kind.starts_with("web_search") || kind.starts_with("mcp")) {
                // passed on as it is, whole or not
                return;
            }
            let names: Vec<String> = event.keys().cloned().collect();
            let Some(name) = names.get(dice.roll(names.len())) else { return };
            match dice.roll(3) {
                0 => drop(event.remove(name)),
                1 => {
                    event[name] =
                        [Value::Null, 7.into(), "x".into(), Value::Array(vec![])][dice.roll(4)].clone()
                }
                _ => {
                    if let Some(item) = event.get_mut("item").and_then(Value::as_object_mut) {
                        let names: Vec<String> = item.keys().cloned().collect();
                        names.get(dice.roll(names.len())).map(|name| item.remove(name));
                    }
                }
            }
            payloads[at] = Value::Object(event).to_string();
        }
    }
}

#[test]
fn whatever_comes_the_stream_is_well() {
    let streams = streams();
    let mut dice = Dice(7);
    for native in [&responses_profile::FULL, &responses_profile::LLAMA_SERVER] {
        for limit in [None, Some(r#"{"max_output_tokens": 7}"#)] {
            let plan = replay::reply(limit, ReasoningDisplay::Summary, false);
            let plan = ReplyPlan { native: Some(native), ..plan };
            for round in 0..30 {
                for at in 0..streams.len() {
                    let mut payloads = streams[at].clone();
                    for _ in 0..=dice.roll(4) {
                        if !payloads.is_empty() {
                            spoil(&mut payloads, &streams[(at + round + 1) % streams.len()], &mut dice);
                        }
                    }
                    let sent: Vec<Result<&str, ()>> =
                        payloads.iter().map(|payload| Ok(payload.as_str())).collect();
                    let out = replay::transcode(&plan, &sent);
                    let violations = checker::check(&out);
                    let what = format!("stream {at}, round {round}, {limit:?}\n{payloads:#?}\n{out}");
                    assert!(violations.is_empty(), "{}\n{what}", violations.join("\n"));
                }
            }
        }
    }
}
