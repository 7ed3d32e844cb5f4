//! Owns the arguments of one call on their way from the upstream's pieces to the deltas: which pieces wait, which
//! repeat earlier ones, and arguments wrapped in a string, a list or a code block. It must not know which item the
//! call becomes.
//!
//! Arguments are streamed. Only a beginning that may turn out not to be arguments (`{}`, `null`, a JSON text inside a
//! string) waits for more.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::quirk::{Quirk, Repaired};
use crate::response::argument_scan::Scan;
use crate::response::transcoder::call_slot::{CallSlot, Form};
use crate::tools::table::Table;
use crate::wire::escaped::{next, trim, trim_end, trim_start};
use crate::wire::json;

/// Longest beginning that is held back, in bytes; no empty object is longer.
const LONGEST_EMPTY: usize = 256;
/// Opens and closes a code block in Markdown.
const FENCE: &str = "```";
/// A piece of up to this many bytes is a single token, of which only the beginning is inspected.
const TOKEN: usize = 16;

impl CallSlot {
    /// Takes the arguments that can be sent now, escaped. `sent`: those already sent, unused for a custom tool call.
    /// `last`: no more pieces follow.
    pub(super) fn release(
        &mut self,
        sent: &str,
        table: &Table,
        last: bool,
        repaired: &mut Repaired,
    ) -> String {
        if last {
            self.waiting.push_str(self.surrogates.flush());
        }
        let text = self.release_json(sent, table, last, repaired);
        let Some(custom) = &mut self.custom else { return text };
        let mut text = custom.push(&text);
        if last {
            text.push_str(&custom.finish());
        }
        text
    }

    /// Whether the arguments are complete; `sent` as in `release`.
    pub(super) fn complete(&mut self, sent: &str) -> bool {
        match self.form {
            Form::Undecided => is_empty_value(&self.waiting) == Some(true),
            Form::Encoded { .. } => self.string_closes(),
            Form::Wrapped => self.scan.complete(&self.waiting),
            Form::Repeated => true,
            Form::Plain => match &self.custom {
                Some(custom) => custom.complete(),
                None => self.scan.complete(sent),
            },
        }
    }

    /// The new part of a piece that repeats everything before it; `None` if it does not repeat. `sent` as in `release`.
    pub(super) fn new_part<'p>(&self, sent: &str, piece: &'p str) -> Option<&'p str> {
        let more = piece.strip_prefix(sent)?.strip_prefix(self.waiting.as_str())?;
        if self.cumulative {
            return Some(more);
        }
        let before = piece.strip_suffix(more)?;
        let mut scan = Scan::default();
        // the text sent for a custom tool call differs from the arguments received
        if before.is_empty() || self.custom.is_some() || scan.complete(before) {
            return None;
        }
        // an object nested in the arguments may begin the same way
        let goes_on = match scan.in_string() {
            true => piece
                .split_once("\\\"")
                .and_then(|(_, after)| next(after, 0))
                .is_none_or(|(c, _)| c.is_ascii_whitespace() || ":,}]".contains(c)),
            false => trim_end(before).ends_with([':', '[', ',']),
        };
        (!goes_on).then_some(more)
    }

    /// The last complete arguments that followed the ones sent, escaped, if they differ.
    pub(super) fn later_arguments(&self, sent: &str) -> Option<String> {
        let second = json::unescape(self.later.as_str())?;
        let last =
            serde_json::Deserializer::from_str(&second).into_iter::<Value>().map_while(Result::ok).last()?;
        let sent: Value = serde_json::from_str(&json::unescape(sent)?).ok()?;
        (last != sent).then(|| json::escape(&last.to_string()).into_owned())
    }

    fn release_json(&mut self, sent: &str, table: &Table, last: bool, repaired: &mut Repaired) -> String {
        loop {
            match self.form {
                Form::Undecided => {
                    if !self.choose_form(table, last, repaired) {
                        return String::new();
                    }
                }
                Form::Encoded { .. } => {
                    if !self.string_closes() && !last {
                        return String::new();
                    }
                    if let Some(inner) = unwrapped(&self.waiting) {
                        self.waiting = inner;
                        repaired.count(Quirk::EncodedArguments);
                    }
                    self.form = Form::Plain;
                }
                Form::Wrapped => {
                    if !last {
                        return String::new();
                    }
                    self.scan = Scan::default();
                    self.form = match without_wrapper(&self.waiting) {
                        Some((inner, quirk)) => {
                            self.waiting = inner;
                            repaired.count(quirk);
                            Form::Undecided
                        }
                        None => Form::Plain,
                    };
                }
                Form::Plain => return self.release_plain(sent, table, repaired),
                Form::Repeated => {
                    self.later.push_str(&self.waiting);
                    self.waiting.clear();
                    return String::new();
                }
            }
        }
    }

    /// Inspects the beginning and chooses the form. Returns false if more text is needed.
    fn choose_form(&mut self, table: &Table, last: bool, repaired: &mut Repaired) -> bool {
        let text = trim_start(&self.waiting);
        if let Some(whole) = is_empty_value(text) {
            if last {
                if whole && !text.starts_with('{') && table.quirk(Quirk::NullArguments) {
                    repaired.count(Quirk::NullArguments);
                    self.waiting.clear();
                }
                self.form = Form::Plain;
            }
            return last;
        }
        let mut scan = Scan::default();
        if let Some(end) = text.starts_with(['{', '[']).then(|| scan.feed(text)).flatten()
            && table.quirk(Quirk::RepeatedArguments)
            && let Some(rest) = text.get(end..).map(trim_start)
            && rest.starts_with('{')
        {
            self.waiting = rest.to_owned();
            repaired.count(Quirk::RepeatedArguments);
            return true;
        }
        match wrapper(text) {
            Some(Some(quirk)) if table.quirk(quirk) => {
                self.form = Form::Wrapped;
                return true;
            }
            None if !last => return false,
            _ => {}
        }
        self.form = match is_encoded(text) {
            Some(true) if table.quirk(Quirk::EncodedArguments) => {
                Form::Encoded { read: 0, escaped: false, closed: false }
            }
            None if !last => return false,
            _ => Form::Plain,
        };
        true
    }

    /// Releases well-formed arguments up to the point where they are complete and begin again.
    fn release_plain(&mut self, sent: &str, table: &Table, repaired: &mut Repaired) -> String {
        let mut waiting = std::mem::take(&mut self.waiting);
        // the decoder of a custom tool call stops at the end of its object
        if self.custom.is_some() || !may_begin_again(&waiting) || !table.quirk(Quirk::RepeatedArguments) {
            return waiting;
        }
        let end = if self.scan.complete(sent) { Some(0) } else { self.scan.feed(&waiting) };
        if let Some((_, rest)) = end.and_then(|end| waiting.split_at_checked(end))
            && trim_start(rest).starts_with(['{', '<'])
        {
            self.later = rest.to_owned();
            self.form = Form::Repeated;
            repaired.count(Quirk::RepeatedArguments);
            waiting.truncate(end.unwrap_or(0));
        }
        waiting
    }

    /// Scans the string inside the arguments further. Returns whether it is closed.
    fn string_closes(&mut self) -> bool {
        let Form::Encoded { mut read, mut escaped, mut closed } = self.form else { return false };
        let opens = self.waiting.len() - trim_start(&self.waiting).len();
        while let Some((c, after)) = next(&self.waiting, read) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' if read > opens => closed = true,
                _ => {}
            }
            read = after;
        }
        self.form = Form::Encoded { read, escaped, closed };
        closed
    }
}

/// Whether complete arguments may end and new ones begin within this piece.
pub(super) fn may_begin_again(piece: &str) -> bool {
    match piece.as_bytes() {
        [b'\\', b'"', ..] | [b'a'..=b'z', ..] if piece.len() <= TOKEN => false,
        bytes if piece.len() > TOKEN => memchr::memchr(b'{', bytes).is_some(),
        [b' ' | b'\\' | b'{', ..] => trim_start(piece).starts_with('{'),
        // harmony's markup
        [b'<', ..] => piece.starts_with("<|"),
        _ => false,
    }
}

/// `Some(true)`: empty (`{}`, `[]`, `null`). `Some(false)`: the beginning of such a text. `None`: something else.
fn is_empty_value(text: &str) -> Option<bool> {
    if text.len() > LONGEST_EMPTY {
        return None;
    }
    let text = trim(text);
    let inside = |open, close| text.strip_prefix(open).and_then(|rest: &str| rest.strip_suffix(close));
    if let Some(inside) = inside('{', '}').or_else(|| inside('[', ']')) {
        return trim(inside).is_empty().then_some(true);
    }
    "null".starts_with(text).then_some(text == "null")
}

/// The wrapper around arguments that begin like this, if any; `None` if more text is needed to tell.
fn wrapper(text: &str) -> Option<Option<Quirk>> {
    if let Some(inside) = text.strip_prefix('[') {
        let Some((first, _)) = next(trim_start(inside), 0) else {
            return (text.len() > LONGEST_EMPTY).then_some(None);
        };
        return Some((first == '{').then_some(Quirk::ListedArguments));
    }
    match text.starts_with(FENCE) {
        true => Some(Some(Quirk::FencedArguments)),
        false => (!FENCE.starts_with(text)).then_some(None),
    }
}

/// The arguments without their wrapper, escaped, and the repair that removed it.
fn without_wrapper(waiting: &str) -> Option<(String, Quirk)> {
    let text = json::unescape(waiting)?;
    if let Some(code) = text.trim_start().strip_prefix(FENCE) {
        let code = code.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        let inner = serde_json::Deserializer::from_str(code).into_iter::<&RawValue>().next()?.ok()?;
        let holds = inner.get().starts_with(['{', '[']);
        return holds.then(|| (json::escape(inner.get()).into_owned(), Quirk::FencedArguments));
    }
    let [inner]: [&RawValue; 1] = serde_json::from_str(&text).ok()?;
    inner.get().starts_with('{').then(|| (json::escape(inner.get()).into_owned(), Quirk::ListedArguments))
}

/// Whether the text is JSON inside a JSON string; `None` if more text is needed to tell.
fn is_encoded(text: &str) -> Option<bool> {
    let Some(inside) = text.strip_prefix("\\\"") else { return Some(false) };
    let inside = trim_start(inside);
    next(inside, 0).map(|(c, _)| matches!(c, '{' | '"') || "null".starts_with(c))
}

/// The arguments inside a string, escaped; `None` if it holds no object.
fn unwrapped(waiting: &str) -> Option<String> {
    let inner: String = serde_json::from_str(&json::unescape(waiting)?).ok()?;
    match inner.trim() {
        "" | "null" => Some(String::new()),
        inner => serde_json::from_str::<serde_json::Map<String, Value>>(inner)
            .is_ok()
            .then(|| json::escape(inner).into_owned()),
    }
}
