//! Owns JSON text that is passed on without being decoded: string literals that stay escaped, values copied unchanged.
//! It must not know any schema.
//!
//! An *escaped* string is the inside of a JSON string literal, without its quotes.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::wire::string_scan::{end_of_string, first_special};
use crate::wire::trusted_json;

/// The bytes as text, with invalid ones replaced. Faster than `String::from_utf8_lossy` for valid text.
pub fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Appends `text` as a JSON string literal.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
}

/// Appends `text` as a JSON string literal, or `null`.
pub fn push_option(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => push_string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends an escaped string as a literal.
pub fn push_literal(out: &mut Vec<u8>, escaped: &str) {
    out.push(b'"');
    out.extend_from_slice(escaped.as_bytes());
    out.push(b'"');
}

/// Appends an unsigned integer.
#[inline(always)]
pub fn push_number(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Appends the escaped form of `text`.
pub fn push_escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(at) = first_special(rest)
        && let Some((plain, [byte, after @ ..])) = rest.split_at_checked(at)
    {
        out.extend_from_slice(plain);
        rest = after;
        let short = match byte {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            0..=0x1f => b'u',
            _ => *byte,
        };
        out.extend_from_slice(&[b'\\', short]);
        if short == b'u' {
            out.extend_from_slice(b"00");
            for nibble in [byte >> 4, byte & 15] {
                out.push(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
            }
        }
    }
    out.extend_from_slice(rest);
}

/// The escaped form of `text`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if first_special(text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len() + 8);
    push_escaped(&mut out, text);
    Cow::Owned(String::from_utf8(out).unwrap_or_default())
}

/// The escaped string inside a string literal; `None` if the value is not a string.
pub fn literal(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"')
}

/// The escaped string inside a string literal, with lone surrogates replaced, because strict parsers refuse them.
/// `None` if the value is not a string.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let mut joiner = SurrogateJoiner::default();
    let inner = joiner.join(literal(raw)?);
    Some(match joiner.flush() {
        "" => inner,
        rest => Cow::Owned(inner.into_owned() + rest),
    })
}

/// The decoded string; `None` if the value is not a string.
pub fn decode(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = literal(raw)?;
    let escaped = match inner.len() {
        // short names: a search would take longer to set up
        0..=24 => inner.bytes().any(|byte| byte == b'\\'),
        _ => memchr::memchr(b'\\', inner.as_bytes()).is_some(),
    };
    if !escaped {
        return Some(Cow::Borrowed(inner));
    }
    if inner.len() > LONG {
        return decode_long(inner).map(Cow::Owned);
    }
    // a parser can only fail because of a lone surrogate
    serde_json::from_str(raw.get()).ok().or_else(|| unescape(inner)).map(Cow::Owned)
}

/// A string of more bytes is decoded in pieces: a parser would collect it in a growing buffer, and then copy it.
const LONG: usize = 256 << 10;

fn decode_long(mut inner: &str) -> Option<String> {
    let mut decoded = String::with_capacity(inner.len());
    while !inner.is_empty() {
        let (piece, rest) = inner.split_at_checked(cut(inner, LONG / 4)).unwrap_or((inner, ""));
        decoded.push_str(&unescape(piece)?);
        inner = rest;
    }
    Some(decoded)
}

/// The first position from `at` on that is not inside a character or an escape.
fn cut(escaped: &str, at: usize) -> usize {
    let bytes = escaped.as_bytes();
    let mut from = 0;
    while let Some(found) = bytes.get(from..at).and_then(|bytes| memchr::memchr(b'\\', bytes)) {
        from += found;
        let low = |at: usize| escaped.get(at..).and_then(surrogate_at).is_some();
        from += match escaped.get(from..).and_then(surrogate_at) {
            Some(_) if low(from + 6) => 12,
            _ if bytes.get(from + 1) == Some(&b'u') => 6,
            _ => 2,
        };
    }
    (from.max(at)..bytes.len()).find(|at| escaped.is_char_boundary(*at)).unwrap_or(bytes.len())
}

/// Decodes an escaped string; lone surrogates become U+FFFD. `None` if it is not a valid escaped string.
pub fn unescape(escaped: &str) -> Option<String> {
    let mut joiner = SurrogateJoiner::default();
    let mut whole = joiner.join(escaped).into_owned();
    whole.push_str(joiner.flush());
    serde_json::from_str(&format!("\"{whole}\"")).ok()
}

/// Joins escaped strings that arrive in pieces: `\ud83d` at the end of one piece and `\ude00` at the start of the next
/// form one character. A surrogate that stays alone becomes U+FFFD.
#[derive(Debug, Default, Clone)]
pub struct SurrogateJoiner {
    high: Option<[u8; 4]>,
}

impl SurrogateJoiner {
    /// Returns a piece with its surrogates joined, holding back a trailing high one. A piece without lone surrogates is
    /// borrowed unchanged.
    pub fn join<'a>(&mut self, piece: &'a str) -> Cow<'a, str> {
        if self.high.is_none() && !has_lone_surrogate(piece) {
            return Cow::Borrowed(piece);
        }
        if piece.is_empty() {
            return Cow::Borrowed(piece);
        }
        let mut out = String::with_capacity(piece.len() + 12);
        let mut rest = piece;
        while !rest.is_empty() {
            if let Some(hex) = surrogate_at(rest) {
                let low = matches!(hex[1], b'c'..=b'f' | b'C'..=b'F');
                rest = rest.get(6..).unwrap_or_default();
                match (self.high.take(), low) {
                    (Some(high), true) => {
                        push_unit(&mut out, &high);
                        push_unit(&mut out, &hex);
                    }
                    (Some(_), false) => {
                        out.push('\u{fffd}');
                        self.high = Some(hex);
                    }
                    (None, true) => out.push('\u{fffd}'),
                    (None, false) => self.high = Some(hex),
                }
                continue;
            }
            if self.high.take().is_some() {
                out.push('\u{fffd}');
            }
            // an escape is copied whole, so that the `\ud83d` in `\\ud83d` is not taken for one
            let step = if rest.starts_with('\\') { 2 } else { rest.find('\\').unwrap_or(rest.len()) };
            let step = if rest.is_char_boundary(step) { step.min(rest.len()) } else { rest.len() };
            out.push_str(rest.get(..step).unwrap_or_default());
            rest = rest.get(step..).unwrap_or_default();
        }
        Cow::Owned(out)
    }

    /// What is still held back when no more pieces follow: U+FFFD for a high surrogate, else nothing.
    pub fn flush(&mut self) -> &'static str {
        if self.high.take().is_some() { "\u{fffd}" } else { "" }
    }
}

/// JSON without white space between tokens, because a value may span lines and an SSE line must not.
pub fn minify(raw: &str) -> Cow<'_, str> {
    let bytes = raw.as_bytes();
    if !bytes.iter().any(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t')) {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let (mut copied, mut at) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = end_of_string(bytes, at).unwrap_or(bytes.len()),
            b' ' | b'\n' | b'\r' | b'\t' => {
                out.push_str(raw.get(copied..at - 1).unwrap_or_default());
                copied = at;
            }
            _ => {}
        }
    }
    out.push_str(raw.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// The members of an object in order, with keys decoded and values unchanged; `None` for any other value.
pub fn members(raw: &str) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    struct All<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);
    impl<'de: 'a, 'a> Deserialize<'de> for All<'a> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(Members)
        }
    }
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = All<'de>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                members.push((decode(key).unwrap_or_default(), value));
            }
            Ok(All(members))
        }
    }
    trusted_json::fields::<All<'_>>(raw.trim_start()).map(|all| all.0)
}

/// Most members and elements of a value that is parsed into a tree, which takes many times the memory of the text.
const MOST_VALUES: usize = 20_000;

/// Whether a value is small enough to be parsed into a tree.
pub fn is_tree(text: &str) -> bool {
    // each takes at least two bytes
    text.len() / 2 <= MOST_VALUES || trusted_json::nesting(text).values <= MOST_VALUES
}

/// The value parsed into a tree; `None` if it is too wide, too deep or invalid.
pub fn tree(text: &str) -> Option<Value> {
    is_tree(text).then(|| serde_json::from_str(text).ok())?
}

/// The name of a value's type in an error message.
pub fn type_name(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ if raw.get().contains(['.', 'e', 'E']) => "a decimal number",
        _ => "an integer",
    }
}

// built once: for a text of ordinary length, building it takes as long as the search
static BY_NUMBER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\\u"));

/// Whether a surrogate without its other half is possible. Pairs, which clients write for each emoji, do not count.
fn has_lone_surrogate(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut after = 0;
    let lone = |at: usize| {
        if at < after || !matches!(bytes.get(at + 1..at + 3), Some([b'u', b'd' | b'D'])) {
            return false;
        }
        let unit = |at: usize| text.get(at..).and_then(surrogate_at);
        let Some(high) = unit(at) else { return false };
        let is_low = |hex: [u8; 4]| matches!(hex[1], b'c'..=b'f' | b'C'..=b'F');
        // an escaped backslash before it means that it is not an escape
        let before = bytes.iter().take(at).rev().take_while(|byte| **byte == b'\\').count();
        let paired = before % 2 == 0 && !is_low(high) && unit(at + 6).is_some_and(is_low);
        after = if paired { at + 12 } else { after };
        !paired
    };
    match bytes.len() {
        // a token: setting up a search would take longer than the loop
        0..=64 => memchr::memchr_iter(b'\\', bytes).any(lone),
        // transcripts have many escapes, but few `\u` escapes
        _ => memchr::memchr(b'\\', bytes).is_some() && BY_NUMBER.find_iter(bytes).any(lone),
    }
}

/// The four hex digits of a surrogate escape at the start of `text`.
fn surrogate_at(text: &str) -> Option<[u8; 4]> {
    let hex: [u8; 4] = text.strip_prefix("\\u")?.as_bytes().get(..4)?.try_into().ok()?;
    let surrogate =
        matches!(hex[0], b'd' | b'D') && matches!(hex[1], b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F');
    (surrogate && hex.iter().all(u8::is_ascii_hexdigit)).then_some(hex)
}

fn push_unit(out: &mut String, hex: &[u8; 4]) {
    out.push_str("\\u");
    out.extend(hex.iter().map(|&b| char::from(b)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_serde_does() {
        let text: String = (0..0x80_u8).map(char::from).chain("äß😀\u{2028}".chars()).collect();
        let mut out = Vec::new();
        push_string(&mut out, &text);
        assert_eq!(String::from_utf8(out.clone()).unwrap(), serde_json::to_string(&text).unwrap());
        assert_eq!(format!("\"{}\"", escape(&text)), serde_json::to_string(&text).unwrap());
    }

    #[test]
    fn numbers() {
        for n in [0, 7, 10, 99, 12345, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, n);
            assert_eq!(String::from_utf8(out).unwrap(), n.to_string());
        }
    }

    #[test]
    fn long_strings_are_decoded_like_short_ones() {
        for piece in [
            r"a",
            r#"\""#,
            r"\\",
            r"\n",
            r"\u0001",
            r"\u00e9",
            "é",
            "😀",
            r"\ud83d\ude00",
            r"ab\\\ud83d\ude00",
        ] {
            for before in ["", "x", "xyz"] {
                let text = format!("\"{before}{}\"", piece.repeat(LONG / piece.len() + 9));
                let raw: &RawValue = serde_json::from_str(&text).unwrap();
                let whole: String = serde_json::from_str(&text).unwrap();
                assert!(decode(raw).unwrap() == whole, "{before}{piece}");
            }
        }
    }

    #[test]
    fn paired_surrogates_cause_no_copy() {
        let far = " ".repeat(100);
        for (text, copied) in [
            (r"a\ud83d\ude00b\uD83D\uDE00", false),
            (r"\\\ud83d\ude00", false),
            (r"a\ud83d\ude00\ude00", true),
            (r"a\ud83d", true),
            (r"\ude00\ud83d", true),
            // an escaped backslash, and a lone low surrogate
            (r"\\ud83d\ude00", true),
        ] {
            for text in [text.to_owned(), format!("{far}{text}")] {
                assert_eq!(matches!(SurrogateJoiner::default().join(&text), Cow::Owned(_)), copied, "{text}");
            }
        }
    }

    #[test]
    fn surrogates_are_joined_and_lone_ones_replaced() {
        let whole = r"a\ud83d\ude00b\ude00c\ud83dd\\ud83d\ud83d";
        for cut in (0..=whole.len()).filter(|&c| {
            // pieces end between escapes, as chunks of a server do
            let head = &whole[..c];
            serde_json::from_str::<String>(&format!("\"{}\"", head.replace(r"\u", r"u"))).is_ok()
                && !head.ends_with(r"\u")
                && !(head.len() > 2 && (1..4).any(|k| head[..head.len().saturating_sub(k)].ends_with(r"\u")))
        }) {
            let mut joiner = SurrogateJoiner::default();
            let mut got = joiner.join(&whole[..cut]).into_owned();
            got += &joiner.join(&whole[cut..]);
            got += joiner.flush();
            let text: String = serde_json::from_str(&format!("\"{got}\"")).unwrap();
            assert_eq!(text, "a😀b\u{fffd}c\u{fffd}d\\ud83d\u{fffd}", "cut at {cut}");
        }
    }

    #[test]
    fn members_keep_their_order_and_text() {
        let found = members(r#"{"b": 1.0, "a\u0062": [1, 2], "b": "x"}"#).unwrap();
        let found: Vec<_> = found.iter().map(|(key, value)| (&**key, value.get())).collect();
        assert_eq!(found, [("b", "1.0"), ("ab", "[1, 2]"), ("b", "\"x\"")]);
        assert!(members("[1]").is_none());
        assert!(members("{\"a\":").is_none());
    }

    #[test]
    fn minify_keeps_strings_unchanged() {
        assert_eq!(
            minify("{ \"a b\" : \"c \\\" \\\\\" ,\n \"d\": [1, 2] }"),
            "{\"a b\":\"c \\\" \\\\\",\"d\":[1,2]}"
        );
    }
}
