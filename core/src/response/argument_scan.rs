//! Owns the question whether a call's arguments, which arrive in pieces, are one whole JSON object by now. It must
//! not judge their syntax: what the model wrote is passed on as it is.

/// Follows the brackets of JSON text that is itself the inside of a JSON string literal; each byte is read once.
#[derive(Debug, Default)]
pub struct Scan {
    read: usize,
    depth: u32,
    in_string: bool,
    escaped: bool,
    complete: bool,
}

impl Scan {
    /// Whether `escaped` (all of it, of which earlier calls saw a prefix) holds an object or array that is closed.
    pub fn complete(&mut self, escaped: &str) -> bool {
        let mut rest = escaped.get(self.read..).unwrap_or_default();
        while let Some(end) = self.feed(rest) {
            rest = rest.get(end..).unwrap_or_default();
        }
        self.complete && self.depth == 0 && !self.in_string
    }

    /// Whether what was read ends within a string.
    pub fn in_string(&self) -> bool {
        self.in_string
    }

    /// Reads on, up to where an object or array is closed that is in no other; how far that is.
    pub fn feed(&mut self, more: &str) -> Option<usize> {
        let all = more.as_bytes();
        let mut bytes = all.iter().copied();
        while let Some(mut byte) = bytes.next() {
            if byte == b'\\' {
                // undo one level: only quotes, backslashes and brackets matter here
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
    fn knows_when_arguments_are_whole() {
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
