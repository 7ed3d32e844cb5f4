//! Owns the limits of one answer: the bytes of text held, the number of calls and items. An answer beyond them fails
//! the response, whatever the upstream still sends. It must not shorten anything.

use crate::error::{Error, Kind};
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::text_format::UncheckedText;

/// Most bytes held of one answer, counting all copies of its texts.
const HELD: usize = 256 << 20;
/// Most calls of a chat answer, and most items of a native one: each piece is matched by searching them all.
pub(super) const MOST_ITEMS: usize = 1024;

/// Bytes received of an answer, and the most that may be held.
#[derive(Debug)]
pub(super) struct AnswerLimit {
    arrived: usize,
    most_held: usize,
}

impl AnswerLimit {
    pub(super) fn new() -> AnswerLimit {
        AnswerLimit { arrived: 0, most_held: HELD }
    }
}

impl Transcoder {
    /// Counts received bytes. Returns false, with the response failed, if too much is held. Held bytes are summed only
    /// once that many have been received.
    pub(super) fn fits(&mut self, data: &str, out: &mut Vec<u8>) -> bool {
        self.bounds.arrived += data.len();
        let most = self.bounds.most_held;
        if self.bounds.arrived <= most || self.bytes_held() <= most {
            return true;
        }
        let message = format!("The upstream server's answer is longer than {most} bytes.");
        self.fail(Error::new(Kind::BadGateway, message), out);
        false
    }

    /// Fails the response: the answer exceeds the number of calls or items.
    pub(super) fn too_many(&mut self, what: &str, out: &mut Vec<u8>) {
        if !self.ended() {
            let message = format!("The upstream server's answer has more than {MOST_ITEMS} {what}.");
            self.fail(Error::new(Kind::BadGateway, message), out);
        }
    }

    fn bytes_held(&self) -> usize {
        let kept = self.summary.len() + self.raw_reasoning.len() + self.texts.late.held();
        let calls: usize =
            self.calls.iter().map(|slot| slot.waiting.len() + slot.name.len() + slot.id.len()).sum();
        let open = self.open.as_ref().map_or(0, crate::response::open_item::OpenItem::held);
        let held = self.held.as_deref().map_or(0, UncheckedText::length);
        self.items.held() + kept + calls + open + held + self.native.held()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::dialect::GENERIC;
    use crate::ids::Ids;
    use crate::options::{PlanOptions, ThinkTags};
    use crate::request::plan::plan;
    use crate::response::transcoder::End;
    use crate::responses_profile::ResponsesProfile;

    const LIMIT: usize = 1 << 20;

    /// Returns the chunk with this number.
    type Chunks<'a> = Box<dyn Fn(usize) -> Value + 'a>;

    fn transcoder(native: bool) -> Transcoder {
        let request = br#"{"model":"m","input":"x","stream":true,"top_logprobs":1,
            "include":["message.output_text.logprobs"],"tools":[{"type":"function","name":"f"}]}"#;
        let plan = plan(request, &PlanOptions::new(&GENERIC)).unwrap();
        let mut transcoder = Transcoder::new(plan.reply, Ids::new("seed"), 1);
        transcoder.bounds.most_held = LIMIT;
        transcoder.set_server(
            native.then(|| ResponsesProfile::of("generic", "http://server")),
            ThinkTags::Off,
            false,
        );
        transcoder
    }

    /// Feeds chunks until the response fails. Returns the number of bytes fed, and the error message.
    fn endless(
        mut transcoder: Transcoder,
        first: &[Value],
        chunk: impl Fn(usize) -> Value,
    ) -> (usize, String) {
        let mut out = Vec::new();
        for value in first {
            transcoder.chunk(&value.to_string(), 1, &mut out);
        }
        let (mut fed, mut n) = (0, 0);
        while !transcoder.ended() {
            let data = chunk(n).to_string();
            fed += data.len();
            n += 1;
            assert!(fed < 64 * LIMIT, "the response never ends");
            out.clear();
            transcoder.chunk(&data, 1, &mut out);
        }
        let failed = transcoder.failure().unwrap().message.clone();
        transcoder.end(End::Eof, 1, &mut out);
        (fed, failed)
    }

    #[test]
    fn held_bytes_are_bounded() {
        let delta = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]});
        let call = |index: usize, arguments: &str| {
            let function = json!({"name": "f", "arguments": arguments});
            delta(json!({"tool_calls": [{"index": index, "id": format!("c{index}"), "function": function}]}))
        };
        let text = "x".repeat(1000);
        let open = [call(0, "{\"a\":\"")];
        let logprobs =
            json!({"content": [{"token": text, "logprob": -1.0, "bytes": [120], "top_logprobs": []}]});
        let chunks: [(&[Value], Chunks<'_>); 6] = [
            (&[], Box::new(|_| delta(json!({"content": text})))),
            (&[], Box::new(|_| delta(json!({"reasoning_content": text})))),
            (&[], Box::new(|n| delta(json!({["reasoning", "content"][n % 2]: text})))),
            (&open, Box::new(|_| delta(json!({"content": text})))),
            (&open, Box::new(|n| call(n % 2, &text))),
            (
                &open,
                Box::new(
                    |_| json!({"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": logprobs}]}),
                ),
            ),
        ];
        for (n, (first, chunk)) in chunks.into_iter().enumerate() {
            let (fed, failed) = endless(transcoder(false), first, chunk);
            assert!(failed.contains("longer than 1048576 bytes"), "{n}: {failed}");
            assert!(fed <= 3 * LIMIT, "{n}: {fed} bytes");
        }
        let waiting = |n: usize| {
            json!({"type": "response.output_text.delta", "item_id": format!("msg_{}", n % 2), "output_index": n % 2,
                "content_index": 0, "delta": text})
        };
        let (fed, failed) = endless(transcoder(true), &[], waiting);
        assert!(failed.contains("longer than 1048576 bytes") && fed <= 3 * LIMIT, "{failed} {fed}");
    }

    #[test]
    fn calls_and_items_are_bounded_in_number() {
        let function = json!({"name": "f", "arguments": "{}"});
        let calls = |n: usize| {
            let index = 4_000_000_000_u64 + n as u64;
            json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": index, "function": function}]}}]})
        };
        assert!(endless(transcoder(false), &[], calls).1.contains("more than 1024 calls"));
        let crowd = vec![json!({}); 100_000];
        let whole = |_| json!({"choices": [{"index": 0, "delta": {"tool_calls": crowd}}]});
        assert!(endless(transcoder(false), &[], whole).1.contains("not a chat completion chunk"));
        let items = |n: usize| {
            let item = json!({"type": "message", "id": format!("msg_{n:020}"), "content": []});
            json!({"type": "response.output_item.added", "output_index": n, "item": item})
        };
        assert!(endless(transcoder(true), &[], items).1.contains("more than 1024 items"));
        let output = vec![json!({"type": "web_search_call", "status": "completed"}); 2000];
        let whole =
            |_| json!({"type": "response.completed", "response": {"status": "completed", "output": output}});
        assert!(endless(transcoder(true), &[], whole).1.contains("more than 1024 items"));
    }
}
