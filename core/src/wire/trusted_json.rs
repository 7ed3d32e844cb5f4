//! Owns the parsing of JSON that has been parsed before: it is known to be well formed, so values are separated without
//! validating them. It must not be the first to read input from outside.
//!
//! Malformed text (a damaged record) is detected only if its structure is broken, and then serde_json decides. It never
//! causes a panic or an endless loop.

use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::value::RawValue;

use crate::wire::string_scan::end_of_string;

/// Counts of nested values in a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Nesting {
    /// How deeply objects and arrays are nested.
    pub depth: usize,
    /// At least the number of all their members and elements.
    pub values: usize,
}

/// Counts the nested values of `text`. An object or array is itself one level deep.
pub fn nesting(text: &str) -> Nesting {
    let mut cursor = Cursor::new(text);
    cursor.value();
    cursor.nesting
}

/// The first `most` elements of an array, unparsed, and the number of all; `None` for any other value.
pub fn first_elements(text: &str, most: usize) -> Option<(Vec<&RawValue>, usize)> {
    if !is_array(text) {
        return None;
    }
    let (mut elements, mut count) = (Vec::new(), 0);
    let walked = walk(text, |cursor| {
        count += 1;
        match count <= most {
            true => elements.push(cursor.raw()?),
            false => drop(cursor.value()?),
        }
        Some(())
    });
    match walked {
        Some(_) => Some((elements, count)),
        None => {
            let mut elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            let count = elements.len();
            elements.truncate(most);
            Some((elements, count))
        }
    }
}

/// Calls `each` with every member of an object, the name being a string literal. `None` for any other value, or if the
/// text turns out to be malformed, possibly after some calls.
pub fn members<'a>(text: &'a str, mut each: impl FnMut(&'a RawValue, &'a RawValue)) -> Option<()> {
    let mut cursor = Cursor::new(text);
    cursor.eat(b'{')?;
    let mut first = true;
    while cursor.more(b'}', first)? {
        first = false;
        let key = cursor.raw().filter(|key| key.get().starts_with('"'))?;
        cursor.eat(b':')?;
        each(key, cursor.raw()?);
    }
    cursor.peek().is_none().then_some(())
}

/// The elements of an array, unparsed; `None` for any other value.
pub fn elements(text: &str) -> Option<Vec<&RawValue>> {
    if !is_array(text) {
        return None;
    }
    list(text, Cursor::raw).or_else(|| serde_json::from_str(text).ok())
}

/// Whether the text is a single string literal.
pub fn is_string(text: &str) -> bool {
    text.starts_with('"') && end_of_string(text.as_bytes(), 1) == Some(text.len())
}

/// Deserializes an object; `None` if it is not a `T` for serde_json either, or for any other value. Serde would also
/// accept an array, by position.
pub fn fields<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    if !text.starts_with('{') {
        return None;
    }
    let mut cursor = Cursor::new(text);
    match T::deserialize(&mut cursor) {
        Ok(read) if cursor.peek().is_none() => Some(read),
        _ => serde_json::from_str(text).ok(),
    }
}

/// Separates the elements of an array and deserializes each in the same pass, as [`elements`] and [`fields`] would.
/// Appends what `each` returns to `out`. Returns counts of the values nested in the elements, not counting objects
/// that were deserialized. `None`, with nothing appended, for any other value.
pub fn objects<'a, T: Deserialize<'a>, E>(
    text: &'a str,
    out: &mut Vec<E>,
    mut each: impl FnMut(&'a RawValue, Option<T>) -> Option<E>,
) -> Option<Nesting> {
    if !is_array(text) {
        return None;
    }
    let before = out.len();
    let counts = walk(text, |cursor| {
        let (raw, read) = cursor.object()?;
        out.extend(each(raw, read));
        Some(())
    });
    counts.or_else(|| {
        out.truncate(before);
        let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
        out.extend(elements.into_iter().filter_map(|element| each(element, fields(element.get()))));
        Some(nesting(text))
    })
}

/// Whether the text may be an array. Checked first, because serde_json's error would copy a long text that is not one.
fn is_array(text: &str) -> bool {
    text.trim_ascii_start().starts_with('[')
}

fn list<'a, E>(text: &'a str, element: impl Fn(&mut Cursor<'a>) -> Option<E>) -> Option<Vec<E>> {
    let mut elements = Vec::new();
    walk(text, |cursor| {
        elements.push(element(cursor)?);
        Some(())
    })?;
    Some(elements)
}

fn walk<'a>(text: &'a str, mut element: impl FnMut(&mut Cursor<'a>) -> Option<()>) -> Option<Nesting> {
    let mut cursor = Cursor::new(text);
    cursor.eat(b'[')?;
    let mut first = true;
    while cursor.more(b']', first)? {
        element(&mut cursor)?;
        first = false;
    }
    cursor.peek().is_none().then_some(cursor.nesting)
}

/// The position in a text that is being read.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    nesting: Nesting,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, at: 0, nesting: Nesting::default() }
    }

    /// The next byte that is not white space, without consuming it.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Whether a member or element follows. If not, the closing bracket is consumed.
    fn more(&mut self, close: u8, first: bool) -> Option<bool> {
        if self.peek()? == close {
            self.at += 1;
            return Some(false);
        }
        if !first {
            self.eat(b',')?;
        }
        Some(true)
    }

    /// Consumes the next value, of any type.
    fn value(&mut self) -> Option<&'a str> {
        let first = self.peek()?;
        let from = self.at;
        self.at += 1;
        match first {
            b'"' => self.at = end_of_string(self.text.as_bytes(), self.at)?,
            b'{' | b'[' => self.end_nested()?,
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                let following = self.text.as_bytes().get(self.at..)?;
                let inside = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
                self.at += following.iter().take_while(|byte| inside(byte)).count();
            }
            _ => return None,
        }
        self.text.get(from..self.at)
    }

    /// Consumes the remainder of an object or array, after its opening bracket.
    fn end_nested(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes();
        let mut depth = 1_usize;
        let (mut deepest, mut values) = (1, 1);
        let mut at = self.at;
        while depth > 0 {
            let byte = *bytes.get(at)?;
            at += 1;
            match byte {
                b'"' => at = end_of_string(bytes, at)?,
                b'{' | b'[' => {
                    depth += 1;
                    deepest = deepest.max(depth);
                    values += 1;
                }
                b'}' | b']' => depth -= 1,
                b',' => values += 1,
                _ => {}
            }
        }
        self.at = at;
        self.nesting =
            Nesting { depth: self.nesting.depth.max(deepest), values: self.nesting.values + values };
        Some(())
    }

    fn raw(&mut self) -> Option<&'a RawValue> {
        <&RawValue>::deserialize(self).ok()
    }

    fn object<T: Deserialize<'a>>(&mut self) -> Option<(&'a RawValue, Option<T>)> {
        let object = self.peek()? == b'{';
        let from = self.at;
        if object && let Ok(read) = T::deserialize(&mut *self) {
            let text = self.text.get(from..self.at)?;
            return Some((raw_value(text)?, Some(read)));
        }
        self.at = from;
        let raw = self.raw()?;
        Some((raw, fields(raw.get())))
    }
}

/// The name by which `RawValue` asks serde_json for its text, as the only member of a map. If that changed, every read
/// here would fail and fall back to serde_json; a test detects it.
const RAW: &str = "$serde_json::private::RawValue";

/// The text of a value, offered to `RawValue`.
struct Text<'a>(Option<&'a str>);

/// A `RawValue` of text that is known to be one value; not validated.
pub fn raw_value(text: &str) -> Option<&RawValue> {
    <&RawValue>::deserialize(Text(Some(text))).ok()
}

/// Any failure of this reader, including types that the structs of this crate do not use. serde_json decides then.
#[derive(Debug)]
struct Unsupported;

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unsupported")
    }
}

impl std::error::Error for Unsupported {}

impl de::Error for Unsupported {
    fn custom<T: fmt::Display>(_: T) -> Unsupported {
        Unsupported
    }
}

impl<'de> Deserializer<'de> for &mut Cursor<'de> {
    type Error = Unsupported;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Unsupported> {
        Err(Unsupported)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        match self.peek() {
            Some(b'n') => (self.value() == Some("null")).then(|| visitor.visit_none()).ok_or(Unsupported)?,
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unsupported> {
        // only `RawValue` has such a name; it checks the rest itself
        match name.starts_with('$') {
            true => visitor.visit_map(Text(Some(self.value().ok_or(Unsupported)?))),
            false => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        self.eat(b'"').ok_or(Unsupported)?;
        let from = self.at;
        self.at = end_of_string(self.text.as_bytes(), from).ok_or(Unsupported)?;
        let inside = self.text.get(from..self.at - 1).ok_or(Unsupported)?;
        if inside.bytes().all(|byte| byte != b'\\') {
            return visitor.visit_borrowed_str(inside);
        }
        let literal = self.text.get(from - 1..self.at).ok_or(Unsupported)?;
        visitor.visit_string(serde_json::from_str(literal).map_err(|_| Unsupported)?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        self.deserialize_str(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        visitor.visit_u64(self.value().and_then(|digits| digits.parse().ok()).ok_or(Unsupported)?)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        self.value().ok_or(Unsupported)?;
        visitor.visit_unit()
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        self.eat(b'{').ok_or(Unsupported)?;
        visitor.visit_map(Members { cursor: self, first: true })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unsupported> {
        self.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct
        enum
    }
}

struct Members<'r, 'a> {
    cursor: &'r mut Cursor<'a>,
    first: bool,
}

impl<'de> MapAccess<'de> for Members<'_, 'de> {
    type Error = Unsupported;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unsupported> {
        let first = std::mem::replace(&mut self.first, false);
        if !self.cursor.more(b'}', first).ok_or(Unsupported)? {
            return Ok(None);
        }
        if self.cursor.peek() != Some(b'"') {
            return Err(Unsupported);
        }
        let key = seed.deserialize(&mut *self.cursor)?;
        self.cursor.eat(b':').ok_or(Unsupported)?;
        Ok(Some(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Unsupported> {
        seed.deserialize(&mut *self.cursor)
    }
}

impl<'de> Deserializer<'de> for Text<'de> {
    type Error = Unsupported;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsupported> {
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Text<'de> {
    type Error = Unsupported;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unsupported> {
        match self.0 {
            Some(_) => seed.deserialize(StrDeserializer::new(RAW)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Unsupported> {
        seed.deserialize(BorrowedStrDeserializer::new(self.0.take().ok_or(Unsupported)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::wire::request::{CreateResponse, Item};

    /// White space, where JSON allows it.
    fn space() -> impl Strategy<Value = String> {
        "[ \n\r\t]{0,2}"
    }

    /// A string literal: escapes of every kind, quotes and brackets inside.
    fn literal() -> impl Strategy<Value = String> {
        let piece = select(vec![
            r#"\""#,
            r"\\",
            r"\\\\",
            r"\/",
            r"\n",
            r"\t",
            r"\u0041",
            r"\ud83d\ude00",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            " ",
            "null",
            "é",
            "😀",
            "text",
        ]);
        vec(piece, 0..6).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
    }

    fn scalar() -> impl Strategy<Value = String> {
        let plain = ["null", "true", "false", "0", "-1", "2.5e-3", "1E+9", "12345678901234567890"];
        prop_oneof![select(plain.to_vec()).prop_map(str::to_owned), literal()]
    }

    /// A name that the wire's structs know, or any other.
    fn key() -> impl Strategy<Value = String> {
        let known = ["\"type\"", "\"content\"", "\"id\"", "\"t\\u0079pe\"", "\"input\"", "\"tools\""];
        prop_oneof![select(known.to_vec()).prop_map(str::to_owned), literal()]
    }

    fn joined(open: &str, parts: Vec<String>, close: &str) -> String {
        format!("{open}{}{close}", parts.join(","))
    }

    fn array(of: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        let element = (space(), of, space()).prop_map(|(a, value, b)| format!("{a}{value}{b}"));
        (space(), vec(element, 0..5)).prop_map(|(empty, elements)| match elements.is_empty() {
            true => format!("[{empty}]"),
            false => joined("[", elements, "]"),
        })
    }

    fn object(of: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        let member = (space(), key(), space(), space(), of, space());
        let member = member.prop_map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"));
        (space(), vec(member, 0..5)).prop_map(|(empty, members)| match members.is_empty() {
            true => format!("{{{empty}}}"),
            false => joined("{", members, "}"),
        })
    }

    fn json() -> impl Strategy<Value = String> {
        scalar().prop_recursive(4, 32, 5, |inner| prop_oneof![array(inner.clone()), object(inner)])
    }

    fn texts(elements: &[&RawValue]) -> Vec<String> {
        elements.iter().map(|element| element.get().to_owned()).collect()
    }

    fn items(text: &str) -> Option<Vec<(&RawValue, Option<Item<'_>>)>> {
        let mut items = Vec::new();
        objects(text, &mut items, |raw, item| Some((raw, item))).map(|_| items)
    }

    /// The struct as both parsers read it, printed.
    fn both<'a, T: Deserialize<'a> + fmt::Debug>(text: &'a str) -> [Option<String>; 2] {
        let printed = |read: Option<T>| read.map(|read| format!("{read:?}"));
        let mut cursor = Cursor::new(text);
        let read = T::deserialize(&mut cursor).ok().filter(|_| cursor.peek().is_none());
        [printed(read), printed(serde_json::from_str(text).ok())]
    }

    proptest! {
        #[test]
        fn elements_match_serde_json(text in array(json()), after in space()) {
            let text = text + &after;
            let want: Vec<&RawValue> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(texts(&list(&text, Cursor::raw).unwrap()), texts(&want));
            let read = items(&text).unwrap();
            let (raw, items): (Vec<&RawValue>, Vec<_>) = read.into_iter().unzip();
            prop_assert_eq!(texts(&raw), texts(&want));
            for (item, text) in items.iter().zip(&want) {
                let want = serde_json::from_str::<Item<'_>>(text.get()).ok();
                let want = want.filter(|_| text.get().starts_with('{'));
                prop_assert_eq!(format!("{item:?}"), format!("{want:?}"));
            }
        }

        #[test]
        fn members_match_serde_json(text in object(json()), after in space()) {
            let text = text + &after;
            // a duplicate name is an error for both
            let [read, want] = both::<Item<'_>>(&text);
            prop_assert_eq!(read, want);
            let [read, want] = both::<CreateResponse<'_>>(&text);
            prop_assert_eq!(read, want);
        }

        #[test]
        fn truncated_text_is_an_error(text in prop_oneof![array(json()), object(json())]) {
            for (cut, _) in text.char_indices() {
                let head = &text[..cut];
                prop_assert!(elements(head).is_none() && list(head, Cursor::raw).is_none(), "{head}");
                prop_assert!(fields::<Item<'_>>(head).is_none(), "{head}");
                prop_assert!(items(head).is_none(), "{head}");
            }
        }

        #[test]
        fn any_input_terminates(pieces in vec(select(vec![
            "{", "}", "[", "]", "\"", "\\", ",", ":", " ", "\"a\"", "null", "nul", "1", "-", "é", "\"type\":", "\0",
        ]), 0..24)) {
            let text = pieces.concat();
            // if it is well formed by chance, it must be read correctly
            match serde_json::from_str::<Vec<&RawValue>>(&text) {
                Ok(want) => prop_assert_eq!(texts(&elements(&text).unwrap()), texts(&want)),
                Err(_) => drop((elements(&text), items(&text))),
            }
            let [read, want] = both::<Item<'_>>(&text);
            prop_assert!(want.is_none() || read == want || !text.starts_with('{'), "{}", text);
        }
    }

    #[test]
    fn a_raw_value_is_not_parsed_again() {
        for text in ["{\"a\": [1, 2]}", "\"x\"", "null", "-1.5e3"] {
            assert_eq!(raw_value(text).unwrap().get(), text);
            assert_eq!(Cursor::new(text).raw().unwrap().get(), text);
        }
        // not JSON, which shows that it was not parsed
        assert_eq!(raw_value("{]").unwrap().get(), "{]");
    }

    #[test]
    fn other_types_are_left_to_serde_json() {
        #[derive(Debug, Deserialize)]
        struct Typed {
            n: u64,
            list: Vec<String>,
        }
        let read: Typed = fields(r#"{"n": 7, "list": ["a", "b\n"]}"#).unwrap();
        assert_eq!((read.n, read.list), (7, vec!["a".to_owned(), "b\n".to_owned()]));
        assert!(fields::<Typed>("[7, []]").is_none(), "an array is no object");
        for n in [
            "0",
            "7",
            "18446744073709551615",
            "18446744073709551616",
            "-0",
            "-1",
            "1.0",
            "1e2",
            "null",
            "\"7\"",
        ] {
            let text =
                format!("{{\"prompt_tokens\": {n}, \"prompt_tokens_details\": {{\"cached_tokens\":{n}}}}}");
            let read = fields::<crate::wire::chat::Usage>(&text).map(|usage| format!("{usage:?}"));
            let want = serde_json::from_str::<crate::wire::chat::Usage>(&text).ok();
            assert_eq!(read, want.map(|usage| format!("{usage:?}")), "{text}");
        }
        assert!(
            fields::<Item<'_>>(r#"{"type":1,"type":2}"#).is_none(),
            "which of them was meant, nobody knows"
        );
    }
}
