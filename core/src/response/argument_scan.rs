//! Owns the question whether a call's arguments, which arrive in pieces, form one complete JSON object. It must not
//! validate them: what the model wrote is passed on as it is.

/// Tracks the brackets of JSON text that is itself escaped as a JSON string. Each byte is read once.
#[derive(Debug, Default)]
pub struct Scan {
    read: usize,
    depth: u32,
    in_string: bool,
    escaped: bool,
    complete: bool,
}

impl Scan {
    /// Whether `escaped`, the whole text so far, ends outside strings with all objects and arrays closed, at least one
    /// of them. Earlier calls must have passed a prefix of it.
    pub fn complete(&mut self, escaped: &str) -> bool {
        let mut rest = escaped.get(self.read..).unwrap_or_default();
        while let Some(end) = self.feed(rest) {
            rest = rest.get(end..).unwrap_or_default();
        }
        self.complete && self.depth == 0 && !self.in_string
    }

    /// Whether the text read so far ends inside a string.
    pub fn in_string(&self) -> bool {
        self.in_string
    }

    /// Reads more text, up to the end of the next outermost object or array. Returns the length up to there.
    pub fn feed(&mut self, more: &str) -> Option<usize> {
        let all = more.as_bytes();
        let mut bytes = all.iter().copied();
        while let Some(mut byte) = bytes.next() {
            if byte == b'\\' {
                // undo one level of escapes: only quotes, backslashes and brackets matter here
                byte = match bytes.next() {
                    Some(byte @ (b'"' | b'\\')) => byte,
                    Some(b'u') => {
                        let hex: Vec<u8> = bytes.by_ref().take(4).collect();
                        let code =
                            std::str::from_utf8(&hex).ok().and_then(|h| u8::from_str_radix(h, 16).ok());
                        code.unwrap_or(b'.')
                    }
                    _ => b' ',
                };
            }
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.complete |= self.depth == 0;
                    if self.depth == 0 {
                        let end = all.len() - bytes.len();
                        self.read += end;
                        return Some(end);
                    }
                }
                _ => {}
            }
        }
        self.read += all.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_arguments_are_recognised() {
        let text = r#"{"a":"}\"","b":[{"c":"\\"}]}"#;
        let escaped = crate::wire::json::escape(text);
        for cut in (0..escaped.len()).filter(|&c| !escaped[..c].ends_with('\\')) {
            let mut scan = Scan::default();
            assert!(!scan.complete(&escaped[..cut]), "{}", &escaped[..cut]);
        }
        let mut scan = Scan::default();
        assert!(scan.complete(&escaped));
        assert!(!Scan::default().complete(""));
        assert!(!Scan::default().complete("42"));
    }
}
