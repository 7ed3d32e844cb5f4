//! Owns reading an escaped string, the inside of a JSON string literal, character by character without decoding it. It
//! must not be given half an escape.

/// The character at byte `at`, and the position after it. A surrogate is returned as U+FFFD.
pub fn next(text: &str, at: usize) -> Option<(char, usize)> {
    let rest = text.get(at..)?;
    let mut chars = rest.chars();
    let first = chars.next()?;
    if first != '\\' {
        return Some((first, at + first.len_utf8()));
    }
    let escape = chars.next()?;
    Some(match escape {
        'n' => ('\n', at + 2),
        'r' => ('\r', at + 2),
        't' => ('\t', at + 2),
        'u' => {
            let code = rest.get(2..6).and_then(|hex| u32::from_str_radix(hex, 16).ok());
            (code.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER), (at + 6).min(text.len()))
        }
        other => (other, at + 1 + other.len_utf8()),
    })
}

/// The text without leading white space.
pub fn trim_start(text: &str) -> &str {
    let mut at = 0;
    while let Some((c, after)) = next(text, at)
        && c.is_ascii_whitespace()
    {
        at = after;
    }
    text.get(at..).unwrap_or_default()
}

/// The text without trailing white space.
pub fn trim_end(text: &str) -> &str {
    let (mut at, mut end) = (0, 0);
    while let Some((c, after)) = next(text, at) {
        at = after;
        if !c.is_ascii_whitespace() {
            end = at;
        }
    }
    text.get(..end).unwrap_or_default()
}

/// The text without leading and trailing white space.
pub fn trim(text: &str) -> &str {
    trim_end(trim_start(text))
}

/// Whether an escaped text consists of white space. A control character written as `\u` is not recognised.
pub fn is_blank(escaped: &str) -> bool {
    let mut bytes = escaped.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' => {}
            b'\\' if matches!(bytes.next(), Some(b'n' | b'r' | b't')) => {}
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_recognised_in_every_escape() {
        assert_eq!(trim(r" \n\t\u000a a\n b\\n \r"), r"a\n b\\n");
        assert_eq!(trim(r" \n"), "");
        assert_eq!(trim(""), "");
        assert_eq!(trim_start(r"\ud83d x"), r"\ud83d x");
        assert_eq!(trim_end(r"é\u12"), r"é\u12");
    }

    #[test]
    fn characters_are_those_of_the_decoded_text() {
        let text = r#"a\"\\\/\u003cé😀"#;
        let (mut at, mut got) = (0, String::new());
        while let Some((c, after)) = next(text, at) {
            got.push(c);
            at = after;
        }
        assert_eq!(got, serde_json::from_str::<String>(&format!("\"{text}\"")).unwrap());
    }
}
