//! Owns the form in which a turn's items are stored: a JSON array, or for a single plain message only its text, as a
//! string literal. Most turns have one such message each way, which then takes less memory and is not parsed again in
//! every later turn. It must not know where items are stored.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use serde_json::value::RawValue;

use crate::ids::seed_of;
use crate::wire::request::{InputItem, Item, push_items};
use crate::wire::trusted_json::{is_string, raw_value};

/// The input items of a turn. Shared with the running request, because they are the largest text of a turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Input(Arc<str>);

/// The output items of a turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output(Box<str>);

/// The JSON around the text of a user message.
const USER: [&str; 2] =
    [r#"[{"type":"message","role":"user","content":[{"type":"input_text","text":"#, "}]}]"];

/// The JSON around the text of a completed assistant message: before and after the response's seed, and after the text.
const ASSISTANT: [&str; 3] = [
    r#"[{"id":"msg_"#,
    r#"0000","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"#,
    r#","annotations":[],"logprobs":[]}]}]"#,
];

impl Input {
    /// `json`: a request's `input` (a string is one user message), or an array of items; must be valid JSON.
    pub fn new(json: &str) -> Input {
        let [before, after] = USER;
        let text = json.strip_prefix(before).and_then(|json| json.strip_suffix(after));
        Input(text.filter(|text| is_string(text)).unwrap_or(json).into())
    }

    /// The items as a JSON array.
    pub fn array(&self) -> Cow<'_, str> {
        match text(&self.0) {
            Some(text) => Cow::Owned([USER[0], text.get(), USER[1]].concat()),
            None => Cow::Borrowed(&self.0),
        }
    }

    /// Appends the items for a plan. A message stored as text has its literal in place of its JSON.
    pub fn push<'a>(&'a self, out: &mut Vec<InputItem<'a>>) {
        static ROLE: LazyLock<Box<RawValue>> = LazyLock::new(|| literal("user"));
        push(&self.0, &ROLE, out);
    }

    /// Bytes of memory used.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl Output {
    /// `json`: an array of items. `response`: the id of their response.
    pub fn new(json: String, response: &str) -> Output {
        let [before, between, after] = ASSISTANT;
        let text = || {
            let json = json.strip_prefix(before)?.strip_prefix(seed_of(response))?;
            json.strip_prefix(between)?.strip_suffix(after)
        };
        match text().filter(|text| is_string(text)) {
            Some(text) => Output(text.into()),
            None => Output(json.into()),
        }
    }

    /// The items as a JSON array. `response`: as in [`Output::new`].
    pub fn array(&self, response: &str) -> Cow<'_, str> {
        let [before, between, after] = ASSISTANT;
        match text(&self.0) {
            Some(text) => Cow::Owned([before, seed_of(response), between, text.get(), after].concat()),
            None => Cow::Borrowed(&self.0),
        }
    }

    /// Appends the items for a plan, without copying; see [`Input::push`].
    pub fn push<'a>(&'a self, out: &mut Vec<InputItem<'a>>) {
        static ROLE: LazyLock<Box<RawValue>> = LazyLock::new(|| literal("assistant"));
        push(&self.0, &ROLE, out);
    }

    /// Bytes of memory used.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

fn push<'a>(kept: &'a str, role: &'a RawValue, out: &mut Vec<InputItem<'a>>) {
    match text(kept) {
        Some(text) => {
            out.push((text, Some(Item { role: Some(role), content: Some(text), ..Item::default() })));
        }
        None => push_items(out, kept),
    }
}

/// The literal, if only a message's text is stored.
fn text(kept: &str) -> Option<&RawValue> {
    kept.starts_with('"').then(|| raw_value(kept))?
}

fn literal(text: &str) -> Box<RawValue> {
    RawValue::from_string(format!("\"{text}\"")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::GENERIC;
    use crate::ids::Ids;
    use crate::options::PlanOptions;
    use crate::request::plan::plan;
    use crate::response::transcoder::{End, Transcoder};

    const ID: &str = "resp_0192";

    fn read(input: &Input, output: &Output) -> Vec<(String, Option<String>)> {
        let mut items = Vec::new();
        input.push(&mut items);
        output.push(&mut items);
        let text = |raw: Option<&RawValue>| raw.map(|raw| raw.get().to_owned());
        items
            .into_iter()
            .map(|(raw, item)| (raw.get().to_owned(), item.and_then(|item| text(item.role))))
            .collect()
    }

    #[test]
    fn a_plain_message_is_stored_as_text_and_restored() {
        for text in [r#""""#, r#""a \"quoted\" word\\""#, r#""é \ud83d\ude00""#] {
            let user = [USER[0], text, USER[1]].concat();
            for input in [Input::new(text), Input::new(&user)] {
                assert_eq!((input.bytes(), &*input.array()), (text.len(), &*user));
            }
            let message = [ASSISTANT[0], "0192", ASSISTANT[1], text, ASSISTANT[2]].concat();
            let output = Output::new(message.clone(), ID);
            assert_eq!((output.bytes(), &*output.array(ID)), (text.len(), &*message));
            let of = |role: &str| (text.to_owned(), Some(role.to_owned()));
            assert_eq!(read(&Input::new(text), &output), [of("\"user\""), of("\"assistant\"")]);
        }
    }

    /// The transcoder must write exactly this form, or messages would not be stored as text.
    #[test]
    fn a_plain_answer_is_stored_as_text() {
        let plan = plan(br#"{"model":"m","input":"Hi"}"#, &PlanOptions::new(&GENERIC)).unwrap();
        let mut transcoder = Transcoder::new(plan.reply, Ids::new("0192"), 1);
        let mut out = Vec::new();
        for delta in ["Good ", "day\\n"] {
            let chunk = format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{delta}"}}}}]}}"#);
            transcoder.chunk(&chunk, 1, &mut out);
        }
        transcoder.chunk(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#, 1, &mut out);
        transcoder.end(End::Eof, 1, &mut out);
        assert_eq!(Output::new(transcoder.take_output(), ID), Output(r#""Good day\n""#.into()));
    }

    #[test]
    fn anything_else_is_stored_unchanged() {
        let user = |text: &str| [USER[0], text, USER[1]].concat();
        let message =
            |seed: &str, text: &str| [ASSISTANT[0], seed, ASSISTANT[1], text, ASSISTANT[2]].concat();
        for json in [
            "[]".to_owned(),
            // two parts, two items, an additional member, another order
            user(r#""a"},{"type":"input_text","text":"b""#),
            user(r#""a"}]},{"type":"message","role":"user","content":[{"type":"input_text","text":"b""#),
            user(r#""a","detail":"b""#),
            user("null"),
            r#"[{"role":"user","content":"a"}]"#.to_owned(),
            r#"[{"type":"message","role":"user","content":[{"text":"a","type":"input_text"}]}]"#.to_owned(),
            r#" [{"type":"message","role":"user","content":[{"type":"input_text","text":"a"}]}]"#.to_owned(),
        ] {
            let input = Input::new(&json);
            assert_eq!((input.bytes(), &*input.array()), (json.len(), &*json));
        }
        for json in [
            "[]".to_owned(),
            message("0192", r#""a"},{"type":"output_text","text":"b""#),
            message("0192", r#""a","annotations":[{}]"#),
            message("0193", r#""a""#),
            message("0192", r#""a""#).replace("0000", "0001"),
            message("0192", r#""a""#).replace("completed", "incomplete"),
        ] {
            let output = Output::new(json.clone(), ID);
            assert_eq!((output.bytes(), &*output.array(ID)), (json.len(), &*json));
        }
    }
}
