//! Owns the input of custom tools: a chat model writes `{"input": "..."}` piece by piece, and the client gets the text
//! inside as it grows. It also repairs patches that small models write. It must not know events.
//!
//! Time is linear in the text: each character is read once, and at most one line of a patch is held back.

use serde_json::Value;

use crate::quirk::{Quirk, Repaired};
use crate::wire::json::{self, tree};

/// The repairs that a patch gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repairs {
    /// [`Quirk::PatchFences`]
    pub fences: bool,
    /// [`Quirk::PatchHunkHeaders`]
    pub headers: bool,
}

/// Decodes the arguments of one custom tool call.
#[derive(Debug)]
pub struct CustomInput {
    at: At,
    /// Everything received until the text inside is found. If there is none, the text is taken from this at the end.
    unread: String,
    key: String,
    /// White space after a quote that may have ended the text.
    gap: String,
    decoder: Decoder,
    patch: Option<Patch>,
    repaired: Repaired,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    /// Text that is not JSON.
    Raw,
    KeyOrEnd,
    InKey {
        escaped: bool,
    },
    Colon,
    ValueStart,
    OtherValue {
        depth: u32,
        in_string: bool,
        escaped: bool,
    },
    Input,
    /// After a quote that may belong to the text: models forget to escape quotes.
    AfterInput,
    Done,
}

impl CustomInput {
    /// `patch`: the repairs to apply if the input is a patch; `None` if it is not.
    pub fn new(patch: Option<Repairs>) -> Self {
        CustomInput {
            at: At::Start,
            unread: String::new(),
            key: String::new(),
            gap: String::new(),
            decoder: Decoder::default(),
            patch: patch.map(Patch::new),
            repaired: Repaired::default(),
        }
    }

    /// Whether the arguments are complete.
    pub fn complete(&self) -> bool {
        matches!(self.at, At::AfterInput | At::Done)
    }

    /// How many lines of a patch were repaired, for each quirk.
    pub fn repaired(&self) -> Repaired {
        self.repaired
    }

    /// Processes an escaped piece of the arguments. Returns the text it yields, escaped.
    pub fn push(&mut self, piece: &str) -> String {
        let mut text = String::new();
        for c in json::unescape(piece).unwrap_or_default().chars() {
            self.step(c, &mut text);
        }
        self.emit(&text, false)
    }

    /// Returns the remaining text, escaped. Call it once, after the last piece.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.decoder.flush(&mut text);
        if !matches!(self.at, At::Raw | At::Input | At::AfterInput) && !self.unread.is_empty() {
            text = fallback(&self.unread);
        }
        self.at = At::Done;
        self.unread.clear();
        self.emit(&text, true)
    }

    fn emit(&mut self, text: &str, last: bool) -> String {
        let mut escaped = Vec::with_capacity(text.len() + 8);
        match &mut self.patch {
            None => json::push_escaped(&mut escaped, text),
            Some(patch) => {
                let mended = patch.push(text, last);
                self.repaired = patch.repaired;
                json::push_escaped(&mut escaped, &mended);
            }
        }
        String::from_utf8(escaped).unwrap_or_default()
    }

    fn step(&mut self, c: char, text: &mut String) {
        if !matches!(self.at, At::Raw | At::Input | At::AfterInput | At::Done) {
            self.unread.push(c);
        }
        let space = matches!(c, ' ' | '\n' | '\r' | '\t');
        self.at = match self.at {
            At::Start if space => At::Start,
            At::Start if c == '{' => At::KeyOrEnd,
            At::Start if c == '"' => At::Input,
            At::Start => {
                text.push_str(&self.unread);
                At::Raw
            }
            At::Raw => {
                text.push(c);
                At::Raw
            }
            At::KeyOrEnd if c == '"' => {
                self.key.clear();
                At::InKey { escaped: false }
            }
            At::KeyOrEnd if c == '}' => At::Done,
            At::KeyOrEnd => At::KeyOrEnd,
            At::InKey { escaped: false } if c == '"' => At::Colon,
            At::InKey { escaped } => {
                self.key.push(c);
                At::InKey { escaped: !escaped && c == '\\' }
            }
            At::Colon if c == ':' => At::ValueStart,
            At::Colon => At::Colon,
            At::ValueStart if space => At::ValueStart,
            At::ValueStart if c == '"' && self.key == "input" => At::Input,
            At::ValueStart => other_value(0, false, false, c),
            At::OtherValue { depth, in_string, escaped } => other_value(depth, in_string, escaped, c),
            At::Input => {
                if self.decoder.step(c, text) {
                    At::AfterInput
                } else {
                    At::Input
                }
            }
            At::AfterInput if space => {
                self.gap.push(c);
                At::AfterInput
            }
            At::AfterInput if matches!(c, ',' | '}') => At::Done,
            At::AfterInput => {
                // the quote belonged to the text
                text.push('"');
                text.push_str(&std::mem::take(&mut self.gap));
                if self.decoder.step(c, text) { At::AfterInput } else { At::Input }
            }
            At::Done => At::Done,
        };
        if matches!(self.at, At::Raw | At::Input) {
            self.unread.clear();
        }
    }
}

fn other_value(depth: u32, in_string: bool, escaped: bool, c: char) -> At {
    match c {
        _ if in_string && escaped => At::OtherValue { depth, in_string, escaped: false },
        '\\' if in_string => At::OtherValue { depth, in_string, escaped: true },
        '"' => At::OtherValue { depth, in_string: !in_string, escaped: false },
        _ if in_string => At::OtherValue { depth, in_string, escaped },
        ',' if depth == 0 => At::KeyOrEnd,
        '}' if depth == 0 => At::Done,
        '{' | '[' => At::OtherValue { depth: depth + 1, in_string, escaped },
        '}' | ']' => At::OtherValue { depth: depth.saturating_sub(1), in_string, escaped },
        _ => At::OtherValue { depth, in_string, escaped },
    }
}

/// The text of arguments without a string under `input`: the value of another key, or the arguments themselves.
fn fallback(arguments: &str) -> String {
    let Some(Value::Object(object)) = tree(arguments) else { return arguments.to_owned() };
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if let Some(input) = object.get("input") {
        return text(input);
    }
    let named = ["patch", "code", "command", "cmd", "text", "content", "script", "source"];
    let value =
        named.iter().find_map(|key| object.get(*key)).or_else(|| object.values().find(|v| v.is_string()));
    match value {
        Some(value) => text(value),
        None if object.is_empty() => String::new(),
        None => arguments.to_owned(),
    }
}

/// Decodes one JSON string, character by character.
#[derive(Debug, Default)]
struct Decoder {
    escape: Escape,
    high: Option<u16>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Backslash,
    Unicode {
        digits: u8,
        code: u16,
    },
}

impl Decoder {
    /// Processes a character. Returns true for the closing quote.
    fn step(&mut self, c: char, text: &mut String) -> bool {
        match self.escape {
            Escape::None if c == '"' => {
                self.flush(text);
                return true;
            }
            Escape::None if c == '\\' => self.escape = Escape::Backslash,
            Escape::None => {
                self.flush(text);
                text.push(c);
            }
            Escape::Backslash if c == 'u' => self.escape = Escape::Unicode { digits: 0, code: 0 },
            Escape::Backslash => {
                self.escape = Escape::None;
                self.flush(text);
                match c {
                    'n' => text.push('\n'),
                    'r' => text.push('\r'),
                    't' => text.push('\t'),
                    'b' => text.push('\u{8}'),
                    'f' => text.push('\u{c}'),
                    '"' | '\\' | '/' => text.push(c),
                    // not a JSON escape, perhaps part of a regular expression
                    other => text.extend(['\\', other]),
                }
            }
            Escape::Unicode { digits, code } => {
                let Some(digit) = c.to_digit(16) else {
                    self.escape = Escape::None;
                    text.push('\u{fffd}');
                    return self.step(c, text);
                };
                let code = (code << 4) | digit as u16;
                if digits < 3 {
                    self.escape = Escape::Unicode { digits: digits + 1, code };
                } else {
                    self.escape = Escape::None;
                    self.unit(code, text);
                }
            }
        }
        false
    }

    fn unit(&mut self, code: u16, text: &mut String) {
        match (self.high.take(), code) {
            (Some(high), 0xdc00..=0xdfff) => text.extend(char::decode_utf16([high, code]).flatten()),
            (high, _) => {
                if high.is_some() {
                    text.push('\u{fffd}');
                }
                match code {
                    0xd800..=0xdbff => self.high = Some(code),
                    0xdc00..=0xdfff => text.push('\u{fffd}'),
                    _ => text.extend(char::from_u32(u32::from(code))),
                }
            }
        }
    }

    /// Replaces a high surrogate that no low one followed.
    fn flush(&mut self, text: &mut String) {
        if self.high.take().is_some() {
            text.push('\u{fffd}');
        }
    }
}

/// Repairs a patch line by line.
#[derive(Debug)]
struct Patch {
    repairs: Repairs,
    line: String,
    begun: bool,
    ended: bool,
    repaired: Repaired,
}

impl Patch {
    fn new(repairs: Repairs) -> Self {
        Patch { repairs, line: String::new(), begun: false, ended: false, repaired: Repaired::default() }
    }

    /// The complete lines so far, repaired; with `last`, also an unfinished last line.
    fn push(&mut self, text: &str, last: bool) -> String {
        let mut out = String::with_capacity(text.len());
        for piece in text.split_inclusive('\n') {
            self.line.push_str(piece);
            if piece.ends_with('\n') {
                self.take_line(&mut out);
            }
        }
        if last {
            self.take_line(&mut out);
        }
        out
    }

    fn take_line(&mut self, out: &mut String) {
        let line = std::mem::take(&mut self.line);
        let bare = line.trim();
        if bare.is_empty() && (!self.begun || self.ended) {
            return;
        }
        let outside = !self.begun || self.ended;
        if outside && self.repairs.fences && bare.starts_with("```") {
            self.repaired.count(Quirk::PatchFences);
            return;
        }
        self.begun = true;
        self.ended |= bare == "*** End Patch";
        match header(&line).filter(|_| self.repairs.headers) {
            Some(mended) => {
                out.push_str(&mended);
                self.repaired.count(Quirk::PatchHunkHeaders);
            }
            None => out.push_str(&line),
        }
    }
}

/// Removes the line numbers from `@@ -1,2 +3,4 @@ rest`.
fn header(line: &str) -> Option<String> {
    let rest = line.strip_prefix("@@ -")?;
    let (numbers, rest) = rest.split_once(" @@")?;
    let (old, new) = numbers.split_once(" +")?;
    let range = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b',');
    (range(old) && range(new)).then(|| format!("@@{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Repairs = Repairs { fences: true, headers: true };

    /// The decoded input, which must not depend on how the arguments are split.
    fn decode(arguments: &str, patch: Option<Repairs>) -> String {
        let chars: Vec<char> = arguments.chars().collect();
        let mut results = Vec::new();
        for size in [1, 2, 3, 7, chars.len().max(1)] {
            let mut input = CustomInput::new(patch);
            let mut got = String::new();
            for piece in chars.chunks(size) {
                got += &input.push(&json::escape(&piece.iter().collect::<String>()));
            }
            got += &input.finish();
            results.push(serde_json::from_str::<String>(&format!("\"{got}\"")).unwrap());
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
        results.remove(0)
    }

    #[test]
    fn the_input_is_found_in_every_form() {
        for (arguments, want) in [
            (r#"{"input":"a\nb \"q\" \\ \u00e9 \ud83d\ude00 é"}"#, "a\nb \"q\" \\ é 😀 é"),
            (r#" { "note" : {"input":"no"}, "input" : "yes" } "#, "yes"),
            (r#"{"patch":"p"}"#, "p"),
            (r#"{"whatever":"w"}"#, "w"),
            (r#"{"input":{"a":1}}"#, r#"{"a":1}"#),
            (r#"{"input":["x"]}"#, r#"["x"]"#),
            (r#""a string""#, "a string"),
            ("raw text\n{}", "raw text\n{}"),
            ("{not json", "{not json"),
            ("{}", ""),
            ("", ""),
            (r#"{"input":"say "hi" now"}"#, r#"say "hi" now"#),
            (r#"{"input":"lone \ud83d end \d+"}"#, "lone \u{fffd} end \\d+"),
            (r#"{"input":"cut"#, "cut"),
        ] {
            assert_eq!(decode(arguments, None), want, "{arguments}");
        }
    }

    #[test]
    fn patches_are_repaired() {
        let fenced = "```patch\n*** Begin Patch\n*** Update File: a\n@@ -1,2 +1,3 @@ fn f()\n-x\n+```\n*** End Patch\n```\n";
        let want = "*** Begin Patch\n*** Update File: a\n@@ fn f()\n-x\n+```\n*** End Patch\n";
        let arguments = serde_json::json!({ "input": fenced }).to_string();
        assert_eq!(decode(&arguments, Some(ALL)), want);
        assert_eq!(decode(fenced, Some(ALL)), want);
        let mut counted = CustomInput::new(Some(ALL));
        counted.push(&json::escape(fenced));
        counted.finish();
        let counts: Vec<_> = counted.repaired().counts().collect();
        assert_eq!(counts, [(Quirk::PatchFences, 2), (Quirk::PatchHunkHeaders, 1)]);
        let plain = "*** Begin Patch\n*** Update File: a\n@@\n-x\n+@@ -1 +1 @@\n*** End Patch";
        assert_eq!(decode(&serde_json::json!({ "input": plain }).to_string(), Some(ALL)), plain);
        let off = Repairs { fences: false, headers: false };
        assert_eq!(decode(&arguments, Some(off)), fenced);
    }
}
