//! Owns that one event is one line of the text log: what a client or an upstream sent cannot begin a line of its own, nor
//! steer the terminal that shows it. It must not decide what is logged.

use std::fmt::{self, Write};

use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

/// The usual format of fields, with every character escaped that is more than text.
#[derive(Debug, Default)]
pub struct OneLine(DefaultFields);

impl<'writer> FormatFields<'writer> for OneLine {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        self.0.format_fields(Writer::new(&mut Escaped(&mut writer)), fields)
    }
}

/// Writes text on, and escapes for what is more.
struct Escaped<'a, W>(&'a mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, character)) = rest.char_indices().find(|(_, character)| is_control(*character)) {
            let (plain, from) = rest.split_at(at);
            self.0.write_str(plain)?;
            write!(self.0, "{}", character.escape_default())?;
            rest = from.get(character.len_utf8()..).unwrap_or_default();
        }
        self.0.write_str(rest)
    }
}

/// The same for text that is not logged but printed.
pub fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    // writing to a String cannot fail
    let _ = Escaped(&mut line).write_str(text);
    line
}

/// Control characters, ends of lines and paragraphs, and what changes the direction of writing.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_more_than_text_is_escaped() {
        for (text, want) in [
            ("plain: \"text\" caf\u{e9} \u{1f600} \\n", "plain: \"text\" caf\u{e9} \u{1f600} \\n"),
            ("a\nb\r\nc", "a\\nb\\r\\nc"),
            ("\u{1b}[31mred\u{1b}[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("\u{9b}31m\u{85}\u{7f}\0\t", "\\u{9b}31m\\u{85}\\u{7f}\\u{0}\\t"),
            ("a\u{2028}b\u{2029}c\u{202e}d\u{2066}e", "a\\u{2028}b\\u{2029}c\\u{202e}d\\u{2066}e"),
            ("", ""),
        ] {
            assert_eq!(escaped(text), want);
        }
    }

    #[test]
    fn an_event_is_one_line_in_every_field_of_it_and_of_its_span() {
        let forged = "a\n\u{1b}[2K2026-01-01T00:00:00Z ERROR forged";
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = Arc::new(file.reopen().unwrap());
        let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
        let lines = lines.with_writer(log).with_ansi(false).fmt_fields(OneLine::default()).finish();
        tracing::subscriber::with_default(lines, || {
            let span = tracing::info_span!("span", shown = %forged, late = tracing::field::Empty);
            let _entered = span.enter();
            span.record("late", forged);
            let error = std::io::Error::other(forged);
            tracing::info!(shown = %forged, debugged = ?Raw(forged), said = forged, "{forged}");
            tracing::trace!(message = forged, %error, source = &error as &dyn std::error::Error);
        });
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert_eq!(text.matches("forged").count(), 2 * 2 + 4 + 3, "{text}");
    }

    /// Text whose Debug form is itself.
    struct Raw(&'static str);

    impl fmt::Debug for Raw {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }
}
