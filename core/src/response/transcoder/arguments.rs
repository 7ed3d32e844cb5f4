//! Owns the arguments of one call between the upstream's pieces and what is sent: what waits, what came twice, what is
//! wrapped in a string, a list or a block of code. It must not know which item the call becomes.
//!
//! Arguments stream. Only a beginning that may be no arguments at all (`{}`, `null`, a JSON text within a string) waits
//! for what follows.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::quirk::{Quirk, Repaired};
use crate::response::argument_scan::Scan;
use crate::response::transcoder::call_slot::{Form, Slot};
use crate::tools::table::Table;
use crate::wire::escaped::{next, trim, trim_end, trim_start};
use crate::wire::json;

/// Longest beginning that is held, in bytes; no empty object is longer.
const LONGEST_NOTHING: usize = 256;
/// Opens and closes a block of code in Markdown.
const FENCE: &str = "```";
/// Longest piece of which only the beginning is looked at, in bytes: a token.
const TOKEN: usize = 16;

impl Slot {
    /// Takes what can be sent. `sent`: what was sent of a call that is not freeform. `last`: nothing more comes.
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
        let text = self.reveal(sent, table, last, repaired);
        let Some(custom) = &mut self.custom else { return text };
        let mut text = custom.push(&text);
        if last {
            text.push_str(&custom.finish());
        }
        text
    }

    /// Whether the arguments are whole; `sent` as above.
    pub(super) fn complete(&mut self, sent: &str) -> bool {
        match self.form {
            Form::Undecided => nothing(&self.waiting) == Some(true),
            Form::Encoded { .. } => self.string_closes(),
            Form::Wrapped => self.scan.complete(&self.waiting),
            Form::Again => true,
            Form::Plain => match &self.custom {
                Some(custom) => custom.complete(),
                None => self.scan.complete(sent),
            },
        }
    }

    /// What a piece adds, where it repeats all that came before; `sent` as above.
    pub(super) fn more<'p>(&self, sent: &str, piece: &'p str) -> Option<&'p str> {
        let more = piece.strip_prefix(sent)?.strip_prefix(self.waiting.as_str())?;
        if self.cumulative {
            return Some(more);
        }
        let before = piece.strip_suffix(more)?;
        let mut scan = Scan::default();
        // what is sent of a freeform call is not what came
        if before.is_empty() || self.custom.is_some() || scan.complete(before) {
            return None;
        }
        // an object within the arguments may begin as they do
        let goes_on = match scan.in_string() {
            true => piece
                .split_once("\\\"")
                .and_then(|(_, behind)| next(behind, 0))
                .is_none_or(|(c, _)| c.is_ascii_whitespace() || ":,}]".contains(c)),
            false => trim_end(before).ends_with([':', '[', ',']),
        };
        (!goes_on).then_some(more)
    }

    /// The last whole arguments, where others than those that were sent came behind them.
    pub(super) fn others(&self, sent: &str) -> Option<String> {
        let second = json::unescape(self.second.as_str())?;
        let last =
            serde_json::Deserializer::from_str(&second).into_iter::<Value>().map_while(Result::ok).last()?;
        let sent: Value = serde_json::from_str(&json::unescape(sent)?).ok()?;
        (last != sent).then(|| json::escape(&last.to_string()).into_owned())
    }

    fn reveal(&mut self, sent: &str, table: &Table, last: bool, repaired: &mut Repaired) -> String {
        loop {
            match self.form {
                Form::Undecided => {
                    if !self.decide(table, last, repaired) {
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
                    self.form = match bare(&self.waiting) {
                        Some((inner, quirk)) => {
                            self.waiting = inner;
                            repaired.count(quirk);
                            Form::Undecided
                        }
                        None => Form::Plain,
                    };
                }
                Form::Plain => return self.plain(sent, table, repaired),
                Form::Again => {
                    self.second.push_str(&self.waiting);
                    self.waiting.clear();
                    return String::new();
                }
            }
        }
    }

    /// Looks at the beginning; false: it has to wait.
    fn decide(&mut self, table: &Table, last: bool, repaired: &mut Repaired) -> bool {
        let text = trim_start(&self.waiting);
        if let Some(whole) = nothing(text) {
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
        self.form = match encodes(text) {
            Some(true) if table.quirk(Quirk::EncodedArguments) => {
                Form::Encoded { read: 0, escaped: false, closed: false }
            }
            None if !last => return false,
            _ => Form::Plain,
        };
        true
    }

    /// Arguments that come as they should, up to where they are whole and begin once more.
    fn plain(&mut self, sent: &str, table: &Table, repaired: &mut Repaired) -> String {
        let mut waiting = std::mem::take(&mut self.waiting);
        // a freeform call's own decoder stops at the end of its object
        if self.custom.is_some() || !may_begin_again(&waiting) || !table.quirk(Quirk::RepeatedArguments) {
            return waiting;
        }
        let end = if self.scan.complete(sent) { Some(0) } else { self.scan.feed(&waiting) };
        if let Some((_, rest)) = end.and_then(|end| waiting.split_at_checked(end))
            && trim_start(rest).starts_with(['{', '<'])
        {
            self.second = rest.to_owned();
            self.form = Form::Again;
            repaired.count(Quirk::RepeatedArguments);
            waiting.truncate(end.unwrap_or(0));
        }
        waiting
    }

    /// Reads on in a string within the arguments; whether it is closed.
    fn string_closes(&mut self) -> bool {
        let Form::Encoded { mut read, mut escaped, mut closed } = self.form else { return false };
        let opens = self.waiting.len() - trim_start(&self.waiting).len();
        while let Some((c, behind)) = next(&self.waiting, read) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' if read > opens => closed = true,
                _ => {}
            }
            read = behind;
        }
        self.form = Form::Encoded { read, escaped, closed };
        closed
    }
}

/// Whether whole arguments may end in this piece and others begin.
pub(super) fn may_begin_again(piece: &str) -> bool {
    match piece.as_bytes() {
        [b'\\', b'"', ..] | [b'a'..=b'z', ..] if piece.len() <= TOKEN => false,
        bytes if piece.len() > TOKEN => memchr::memchr(b'{', bytes).is_some(),
        [b' ' | b'\\' | b'{', ..] => trim_start(piece).starts_with('{'),
        // a mark of harmony's
        [b'<', ..] => piece.starts_with("<|"),
        _ => false,
    }
}

/// Whether it says nothing (`{}`, `[]`, `null`), or is the beginning of that; `None`: it says something.
fn nothing(text: &str) -> Option<bool> {
    if text.len() > LONGEST_NOTHING {
        return None;
    }
    let text = trim(text);
    let inside = |open, close| text.strip_prefix(open).and_then(|rest: &str| rest.strip_suffix(close));
    if let Some(inside) = inside('{', '}').or_else(|| inside('[', ']')) {
        return trim(inside).is_empty().then_some(true);
    }
    "null".starts_with(text).then_some(text == "null")
}

/// What stands around the arguments that begin so; `None`: that cannot be told yet.
fn wrapper(text: &str) -> Option<Option<Quirk>> {
    if let Some(inside) = text.strip_prefix('[') {
        let Some((first, _)) = next(trim_start(inside), 0) else {
            return (text.len() > LONGEST_NOTHING).then_some(None);
        };
        return Some((first == '{').then_some(Quirk::ListedArguments));
    }
    match text.starts_with(FENCE) {
        true => Some(Some(Quirk::FencedArguments)),
        false => (!FENCE.starts_with(text)).then_some(None),
    }
}

/// The arguments without what stands around them, escaped, and what that was.
fn bare(waiting: &str) -> Option<(String, Quirk)> {
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

/// Whether it is a JSON text within a JSON string; `None`: that cannot be told yet.
fn encodes(text: &str) -> Option<bool> {
    let Some(inside) = text.strip_prefix("\\\"") else { return Some(false) };
    let inside = trim_start(inside);
    next(inside, 0).map(|(c, _)| matches!(c, '{' | '"') || "null".starts_with(c))
}

/// The arguments within a string, escaped; `None` where it holds no object.
fn unwrapped(waiting: &str) -> Option<String> {
    let inner: String = serde_json::from_str(&json::unescape(waiting)?).ok()?;
    match inner.trim() {
        "" | "null" => Some(String::new()),
        inner => serde_json::from_str::<serde_json::Map<String, Value>>(inner)
            .is_ok()
            .then(|| json::escape(inner).into_owned()),
    }
}
