//! Owns JSON text that goes into a string as it came: it is escaped where it is written, and never held in that form.

use super::json::push_escaped;

/// JSON text, with more around it that needs no look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted<'a> {
    before: &'static str,
    json: &'a str,
    behind: &'static str,
}

impl<'a> Quoted<'a> {
    /// Of that text alone.
    pub fn of(json: &'a str) -> Quoted<'a> {
        Quoted { before: "", json, behind: "" }
    }

    /// As the only member of an object: `before` is `{"name":`.
    pub fn member(before: &'static str, json: &'a str) -> Quoted<'a> {
        Quoted { before, json, behind: "}" }
    }

    /// The JSON text inside, unescaped and without what stands around it.
    pub fn json(&self) -> &'a str {
        self.json
    }

    /// Appends the inside of the JSON string that holds it.
    pub fn push(&self, out: &mut Vec<u8>) {
        for text in [self.before, self.json, self.behind] {
            push_escaped(out, text);
        }
    }

    /// Bytes of what [`Quoted::push`] appends.
    pub fn length(&self) -> usize {
        // JSON text has no other control characters
        let escaped = |byte: &&u8| matches!(byte, b'"' | b'\\' | b'\n' | b'\r' | b'\t');
        [self.before, self.json, self.behind]
            .iter()
            .map(|text| text.len() + text.as_bytes().iter().filter(escaped).count())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_long_as_it_says() {
        let quoted = Quoted::member("{\"input\":", "\"a \\\"b\\\" \\u0001 é\"\n\t");
        let mut out = Vec::new();
        quoted.push(&mut out);
        assert_eq!(quoted.length(), out.len());
        let text: String = serde_json::from_str(&format!("\"{}\"", String::from_utf8(out).unwrap())).unwrap();
        assert_eq!(text, "{\"input\":\"a \\\"b\\\" \\u0001 é\"\n\t}");
    }
}
