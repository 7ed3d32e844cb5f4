//! Owns the notes about parts of a request that the model does not get. It must not log them.

use crate::fields::beginning;
use crate::limits::Limits;

/// Parts of a request that the model does not get, or gets in another form. They never cause an error, and are always
/// logged.
#[derive(Debug)]
pub struct Notes {
    texts: Vec<(&'static str, String)>,
    without_text: Vec<(&'static str, u64)>,
    /// Bytes of values that may still be parsed and rewritten.
    rewritten: usize,
}

/// Most notes with their text. Further ones are only counted; real requests have fewer.
const MOST_NOTES: usize = 1000;

/// Longest text of a note, in bytes.
const NOTE_BYTES: usize = 200;

impl Notes {
    /// No notes, for a request with these limits.
    pub fn new(limits: &Limits) -> Notes {
        Notes { texts: Vec::new(), without_text: Vec::new(), rewritten: limits.rewritten_bytes }
    }

    /// The notes that were kept with their text: kind, and text.
    pub fn texts(&self) -> &[(&'static str, String)] {
        &self.texts
    }

    /// Whether a value of this many bytes may be parsed and rewritten, which takes several times its memory. Only
    /// earlier values count, so a longer history does not change how earlier values are sent.
    pub(crate) fn may_rewrite(&mut self, bytes: usize) -> bool {
        let left = self.rewritten.checked_sub(bytes);
        self.rewritten = left.unwrap_or(self.rewritten);
        left.is_some()
    }

    /// Adds a note. `kind` is a metric label; `what` goes to the debug log.
    pub fn add(&mut self, kind: &'static str, what: &str) {
        if self.texts.len() >= MOST_NOTES {
            match self.without_text.iter_mut().find(|(of, _)| *of == kind) {
                Some((_, without_text)) => {
                    *without_text += 1;
                    return;
                }
                // the first of its kind always keeps its text
                None => self.without_text.push((kind, 0)),
            }
        }
        self.texts.push((kind, beginning(what, NOTE_BYTES).to_owned()));
    }

    /// The number of notes, by kind; a kind may appear several times.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let texts = self.texts.iter().map(|(kind, _)| (*kind, 1));
        texts.chain(self.without_text.iter().copied())
    }

    /// The text of the first note of that kind.
    pub(crate) fn first(&self, kind: &str) -> Option<&str> {
        self.texts.iter().find(|(of, _)| *of == kind).map(|(_, what)| what.as_str())
    }
}
