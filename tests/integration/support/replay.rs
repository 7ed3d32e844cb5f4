//! Runs an upstream's bytes through reader and transcoder as the driver does, without a network, and reads back what
//! the client was told.
#![allow(clippy::indexing_slicing, reason = "an absent member of a JSON value reads as null")]
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::Stream;
use rejoinder::sse::{self, SseError};
use rejoinder_core::dialect::GENERIC;
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::ids::Ids;
use rejoinder_core::options::{PlanOptions, ReasoningDisplay};
use rejoinder_core::reply_plan::ReplyPlan;
use rejoinder_core::request::plan::plan;
use rejoinder_core::response::transcoder::{End, Transcoder};
use serde_json::Value;

/// When the response was created, and when it ends one second later.
const THEN: u64 = 1_700_000_000;

/// The payloads of one upstream answer, and the error that ended it.
pub type Payloads = Vec<Result<String, SseError>>;

/// What the client was told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub outcome: String,
    pub text: String,
    pub reasoning: String,
    pub refusal: String,
    /// `name(arguments)`
    pub calls: Vec<String>,
    /// Input and output tokens.
    pub usage: Option<[u64; 2]>,
    /// Of the log probabilities.
    pub tokens: Vec<String>,
    /// `type from-to url title`
    pub annotations: Vec<String>,
}

/// How to answer a request: a small one, with the members of `more` over it.
pub fn reply(more: Option<&str>, reasoning: ReasoningDisplay, refusal_as_text: bool) -> ReplyPlan {
    let mut request = serde_json::json!({
        "model": "m",
        "input": "hi",
        "stream": true,
        "tools": [
            {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}},
            {"type": "function", "name": "get_time", "parameters": {"type": "object", "properties": {}}},
        ],
    });
    if let Some(Value::Object(more)) = more.and_then(|more| serde_json::from_str(more).ok()) {
        for (name, value) in more {
            request[name] = value;
        }
    }
    let options = PlanOptions { reasoning, refusal_as_text, ..options() };
    match plan(request.to_string().as_bytes(), &options) {
        Ok(plan) => plan.reply,
        Err(error) => unreachable!("a sound request was refused: {error}"),
    }
}

/// The options that a server would have by default.
pub fn options() -> PlanOptions<'static> {
    PlanOptions::new(&GENERIC)
}

/// Reads the events of a stream that arrives in these pieces.
pub fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Payloads {
    let pieces: Vec<_> =
        pieces.into_iter().map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece))).collect();
    let mut reader = sse::events(futures::stream::iter(pieces));
    let mut payloads = Vec::new();
    while let Poll::Ready(Some(payload)) =
        Pin::new(&mut reader).poll_next(&mut Context::from_waker(Waker::noop()))
    {
        payloads.push(payload);
    }
    payloads
}

/// What the client receives for these payloads; `Err` is the end of a broken stream.
pub fn transcode<T: AsRef<str>, E>(plan: &ReplyPlan, payloads: &[Result<T, E>]) -> String {
    let mut out = Vec::new();
    let mut transcoder = Transcoder::new(plan.clone(), Ids::new("0"), THEN);
    transcoder.start(&mut out);
    for payload in payloads {
        match payload {
            Ok(payload) => transcoder.chunk(payload.as_ref(), THEN + 1, &mut out),
            Err(_) => {
                let error = Error::new(Kind::BadGateway, "The upstream's stream is broken.");
                transcoder.end(End::Failed(error), THEN + 1, &mut out);
            }
        }
        if transcoder.ended() {
            break;
        }
    }
    transcoder.end(End::Eof, THEN + 1, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// The events of a stream for the client.
pub fn events(sse_text: &str) -> impl Iterator<Item = Value> {
    let payloads = sse_text.lines().filter_map(|line| line.strip_prefix("data: "));
    payloads.filter_map(|data| serde_json::from_str(data).ok())
}

/// Puts together what the deltas and the end said.
pub fn told(sse_text: &str) -> Told {
    let mut told = Told::default();
    let mut calls: Vec<(Value, String)> = Vec::new();
    for event in events(sse_text) {
        let delta = event["delta"].as_str().unwrap_or_default();
        for entry in event["logprobs"].as_array().into_iter().flatten().filter(|_| !delta.is_empty()) {
            told.tokens.push(entry["token"].as_str().unwrap_or_default().into());
        }
        match event["type"].as_str().unwrap_or_default() {
            "response.output_text.delta" => told.text += delta,
            "response.refusal.delta" => told.refusal += delta,
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                told.reasoning += delta
            }
            "response.output_text.annotation.added" => {
                let note = &event["annotation"];
                let text = |name: &str| note[name].as_str().unwrap_or_default();
                let (from, to) = (&note["start_index"], &note["end_index"]);
                told.annotations.push(format!(
                    "{} {from}-{to} {} {}",
                    text("type"),
                    text("url"),
                    text("title")
                ));
            }
            "response.output_item.added" if event["item"]["type"] == "function_call" => {
                let name = event["item"]["name"].as_str().unwrap_or_default();
                calls.push((event["item"]["id"].clone(), format!("{name}(")));
            }
            "response.function_call_arguments.delta" => {
                let call = calls.iter_mut().find(|(id, _)| *id == event["item_id"]);
                call.into_iter().for_each(|(_, call)| *call += delta);
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                let response = &event["response"];
                told.outcome = response["status"].as_str().unwrap_or_default().into();
                let count = |name: &str| response["usage"][name].as_u64();
                told.usage =
                    count("input_tokens").zip(count("output_tokens")).map(|(input, output)| [input, output]);
            }
            _ => {}
        }
    }
    told.calls = calls.into_iter().map(|(_, call)| call + ")").collect();
    told
}
