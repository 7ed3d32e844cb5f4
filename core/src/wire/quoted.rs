//! Owns JSON text that is put into a string: it is escaped while it is written, and never kept in escaped form. It must
//! not change the JSON.

use super::json::push_escaped;

/// JSON text, possibly as the only member of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted<'a> {
    before: &'static str,
    json: &'a str,
    after: &'static str,
}

impl<'a> Quoted<'a> {
    /// The JSON text alone.
    pub fn new(json: &'a str) -> Quoted<'a> {
        Quoted { before: "", json, after: "" }
    }

    /// The JSON text as the only member of an object: `before` is `{"name":`.
    pub fn member(before: &'static str, json: &'a str) -> Quoted<'a> {
        Quoted { before, json, after: "}" }
    }

    /// The JSON text, unescaped and without the object around it.
    pub fn json(&self) -> &'a str {
        self.json
    }

    /// Appends the text, escaped.
    pub fn push(&self, out: &mut Vec<u8>) {
        for text in [self.before, self.json, self.after] {
            push_escaped(out, text);
        }
    }

    /// Number of bytes that [`Quoted::push`] appends.
    pub fn length(&self) -> usize {
        // JSON text contains no other control characters
        let escaped = |byte: &&u8| matches!(byte, b'"' | b'\\' | b'\n' | b'\r' | b'\t');
        [self.before, self.json, self.after]
            .iter()
            .map(|text| text.len() + text.as_bytes().iter().filter(escaped).count())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_matches_the_output() {
        let quoted = Quoted::member("{\"input\":", "\"a \\\"b\\\" \\u0001 é\"\n\t");
        let mut out = Vec::new();
        quoted.push(&mut out);
        assert_eq!(quoted.length(), out.len());
        let text: String = serde_json::from_str(&format!("\"{}\"", String::from_utf8(out).unwrap())).unwrap();
        assert_eq!(text, "{\"input\":\"a \\\"b\\\" \\u0001 é\"\n\t}");
    }
}
