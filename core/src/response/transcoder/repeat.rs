//! Owns the fast path for a chunk that differs from the previous one only in its text, as nearly every chunk of a
//! stream does. It must not produce anything that parsing would not.

use std::borrow::Cow;

use crate::fields::present;
use crate::response::channel::Channel;
use crate::response::transcoder::Transcoder;
use crate::response::transcoder::call_slot::CallDelta;
use crate::wire::chat::{Chunk, Delta, ToolCall};
use crate::wire::chunk_template::ChunkTemplate;
use crate::wire::json;

/// The template of the last chunk, and what its text was added to.
#[derive(Debug, Default)]
pub(super) struct FastPath {
    template: ChunkTemplate,
    adds: Option<AddsTo>,
}

/// What the text of a chunk with a template is added to.
#[derive(Debug, Clone, Copy)]
enum AddsTo {
    Text(Channel),
    /// The arguments of the call with this index.
    Arguments(Option<u64>),
}

impl FastPath {
    /// Makes the next chunk be parsed.
    pub fn forget(&mut self) {
        self.adds = None;
    }

    /// Remembers a chunk that only adds one text.
    pub fn learn(&mut self, data: &str, chunk: &Chunk<'_>, logprobs: bool) {
        self.adds = None;
        if let Some((adds, text)) = only_text(chunk, logprobs) {
            self.template.learn(data, text);
            self.adds = Some(adds);
        }
    }
}

impl Transcoder {
    /// Processes a chunk that differs from the previous one only in its text. Returns false if it must be parsed.
    pub(super) fn try_repeat(&mut self, data: &str, out: &mut Vec<u8>) -> bool {
        let Some(adds) = self.repeat_path.adds else { return false };
        let Some(text) = self.repeat_path.template.text(data) else { return false };
        match adds {
            AddsTo::Text(channel) => self.take_text(channel, text, out),
            AddsTo::Arguments(index) => {
                let (name, arguments) = (Cow::Borrowed(""), Cow::Borrowed(text));
                self.call_delta(&CallDelta { index, id: "", name, arguments }, out);
            }
        }
        true
    }
}

/// The only text of a chunk, if everything else in it is absent or null.
fn only_text<'a>(chunk: &Chunk<'a>, logprobs: bool) -> Option<(AddsTo, &'a str)> {
    let choice = chunk.choices.as_ref()?;
    if present(chunk.usage).or(present(chunk.timings)).or(present(choice.finish_reason)).is_some()
        || choice.message.is_some()
        || logprobs && present(choice.logprobs).is_some()
    {
        return None;
    }
    let delta = choice.delta.as_ref().filter(|delta| delta.function_call.is_none())?;
    let Delta { content, reasoning_content, reasoning, refusal, .. } = delta;
    if delta.tool_calls.malformed || delta.has_rare_member() {
        return None;
    }
    let texts = [
        (Channel::Reasoning, reasoning_content),
        (Channel::Reasoning, reasoning),
        (Channel::Text, content),
        (Channel::Refusal, refusal),
    ];
    let mut only = None;
    for (channel, raw) in &texts {
        if let Some(raw) = present(**raw)
            && only.replace((*channel, raw)).is_some()
        {
            return None;
        }
    }
    match (only, delta.tool_calls.list.as_slice()) {
        (Some((channel, raw)), []) => Some((AddsTo::Text(channel), json::literal(raw)?)),
        (None, [call]) => only_arguments(call),
        _ => None,
    }
}

fn only_arguments<'a>(call: &ToolCall<'a>) -> Option<(AddsTo, &'a str)> {
    let function = call.function.as_ref()?;
    if present(call.id).or(present(function.name)).or(call.name).or(call.arguments).is_some() {
        return None;
    }
    let index = call.index.and_then(|raw| raw.get().parse().ok());
    Some((AddsTo::Arguments(index), json::literal(function.arguments?)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dialect::GENERIC;
    use crate::ids::Ids;
    use crate::options::PlanOptions;
    use crate::request::plan::plan;
    use crate::response::transcoder::End;

    /// The inside of a choice; `@` stands for the text.
    const SHAPES: [&str; 12] = [
        r#""delta":{"content":"@"}"#,
        r#""delta":{"content":"@"}"#,
        r#""delta":{"content":"@"},"logprobs":null"#,
        r#""delta":{"content":"@"},"logprobs":{"content":[{"token":"a","logprob":-1}]}"#,
        r#""delta":{"reasoning_content":"@"}"#,
        r#""delta":{"reasoning":"@","content":null}"#,
        r#""delta":{"refusal":"@"}"#,
        r#""delta":{"content":"@","reasoning":"why"}"#,
        r#""delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{\"a\":"}}]}"#,
        r#""delta":{"tool_calls":[{"index":0,"function":{"arguments":"@"}}]}"#,
        r#""delta":{"tool_calls":[{"index":0,"function":{"name":"@","arguments":"x"}}]}"#,
        r#""delta":{"content":"@"},"finish_reason":"stop""#,
    ];
    const TEXTS: [&str; 9] = ["a", "", " ", "\\n", "1}", "\\\"", "\\u00e9", "\\ud83d", "\\ude00 é"];

    fn events(chunks: &[(usize, usize)], logprobs: bool, distinct: bool) -> String {
        let request = format!(
            r#"{{"model":"m","input":"x","stream":true,"top_logprobs":{},"tools":[{{"type":"function","name":"f"}}]}}"#,
            u8::from(logprobs)
        );
        let plan = plan(request.as_bytes(), &PlanOptions::new(&GENERIC)).unwrap();
        let mut transcoder = Transcoder::new(plan.reply, Ids::new("seed"), 1);
        let mut out = Vec::new();
        for (n, (shape, text)) in chunks.iter().enumerate() {
            // with a distinct nonce in each chunk, none can take the fast path
            let name = if distinct { n } else { 0 };
            let choice = SHAPES[*shape].replace('@', TEXTS[*text]);
            transcoder.chunk(&format!(r#"{{"choices":[{{{choice}}}],"nonce":{name}}}"#), 1, &mut out);
        }
        transcoder.end(End::Eof, 1, &mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn the_fast_path_writes_what_parsing_would(
            chunks in prop::collection::vec((0..SHAPES.len(), 0..TEXTS.len()), 1..40),
            again in 0..4_usize,
            logprobs: bool,
        ) {
            // runs of one shape, as in real streams
            let chunks: Vec<_> = chunks
                .into_iter()
                .flat_map(|(shape, text)| (0..=again).map(move |n| (shape, (text + n) % TEXTS.len())))
                .collect();
            prop_assert_eq!(events(&chunks, logprobs, false), events(&chunks, logprobs, true));
        }
    }
}
