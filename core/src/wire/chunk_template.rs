//! Owns a fast path to a chunk's text: chunks of one stream hardly differ in anything else, so the text around it is
//! remembered, and the next chunk is compared with that instead of being parsed. It must not accept what a parser would
//! refuse, and it must not guess: any difference leads to the parser.

/// A chunk without its text.
#[derive(Debug, Default)]
pub struct ChunkTemplate {
    /// The JSON before the text, followed by the JSON after it.
    prefix_and_suffix: String,
    /// Length of the JSON before the text, in bytes.
    prefix_len: usize,
}

impl ChunkTemplate {
    /// Remembers the JSON around `text`, which must be a subslice of `chunk`: the inside of a string literal in valid
    /// JSON.
    pub fn learn(&mut self, chunk: &str, text: &str) {
        self.prefix_and_suffix.clear();
        // only addresses tell where a subslice begins
        let at = (text.as_ptr() as usize).wrapping_sub(chunk.as_ptr() as usize);
        let (Some(before), Some(after)) = (chunk.get(..at), chunk.get(at.saturating_add(text.len())..))
        else {
            return;
        };
        self.prefix_and_suffix.push_str(before);
        self.prefix_and_suffix.push_str(after);
        self.prefix_len = at;
    }

    /// The text of `chunk`, still escaped, if everything around it is as remembered.
    pub fn text<'a>(&self, chunk: &'a str) -> Option<&'a str> {
        if self.prefix_and_suffix.is_empty() {
            return None;
        }
        let (before, after) = self.prefix_and_suffix.split_at_checked(self.prefix_len)?;
        let text = chunk.strip_prefix(before)?.strip_suffix(after)?;
        is_string_literal_body(text).then_some(text)
    }
}

/// Whether `text` is the inside of a string literal. `\u` escapes are left to a parser.
fn is_string_literal_body(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let [byte, following @ ..] = rest {
        rest = match (byte, following) {
            (b'\\', [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', following @ ..]) => following,
            (b'\\' | b'"' | 0..=0x1f, _) => return false,
            _ => following,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: &str = r#"{"choices":[{"delta":{"content":" a"}}],"id":"a"}"#;

    fn template() -> ChunkTemplate {
        let mut template = ChunkTemplate::default();
        let at = CHUNK.find(" a").unwrap();
        template.learn(CHUNK, &CHUNK[at..at + 2]);
        template
    }

    #[test]
    fn finds_another_text_in_the_same_place() {
        for text in [" a", "", "ä 😀", r#" \"x\"\n\\"#, "a\"}}],\"id\":\"a".replace('"', "\\\"").as_str()]
        {
            let chunk = CHUNK.replace(" a", text);
            assert_eq!(template().text(&chunk), Some(text));
        }
    }

    #[test]
    fn rejects_anything_else() {
        for chunk in [
            r#"{"choices":[{"delta":{"content":" a"}}],"id":"b"}"#,
            r#"{"choices":[{"delta":{"content":null}}],"id":"a"}"#,
            r#"{"choices":[{"delta":{"content":"x","refusal":"y"}}],"id":"a"}"#,
            r#"{"choices":[{"delta":{"content":"\u0041"}}],"id":"a"}"#,
            r#"{"choices":[{"delta":{"content":"\x"}}],"id":"a"}"#,
            r#"{"choices":[{"delta":{"content":"\"}}],"id":"a"}"#,
            "{\"choices\":[{\"delta\":{\"content\":\"\n\"}}],\"id\":\"a\"}",
            r#"{"choices":[{"delta":{"content":""#,
            "",
        ] {
            assert_eq!(template().text(chunk), None, "{chunk}");
        }
        assert_eq!(ChunkTemplate::default().text(""), None);
        assert_eq!(ChunkTemplate::default().text(CHUNK), None);
    }
}
