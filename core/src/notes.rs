//! Owns the notes of what a request holds and the model does not get.

use crate::fields::beginning;
use crate::limits::Limits;

/// Things that a request holds and the model does not get, or gets in another shape: never an error, never silent.
#[derive(Debug)]
pub struct Notes {
    told: Vec<(&'static str, String)>,
    further: Vec<(&'static str, u64)>,
    /// Bytes of values that may still be taken apart and written anew.
    rewritten: usize,
}

/// Notes with their text; of a request that has more, which no client's has, the others are counted.
const MOST_NOTES: usize = 1000;

/// Bytes of a note's text.
const NOTE_BYTES: usize = 200;

impl Notes {
    /// None yet, of a request with these limits.
    pub fn new(limits: &Limits) -> Notes {
        Notes { told: Vec::new(), further: Vec::new(), rewritten: limits.rewritten_bytes }
    }

    /// Those that have their text.
    pub fn told(&self) -> &[(&'static str, String)] {
        &self.told
    }

    /// Whether a value of so many bytes may be taken apart and written anew, which takes several times its memory. It
    /// depends on the values before it alone, so that a longer history does not change what was said of an earlier one.
    pub(crate) fn rewrite(&mut self, bytes: usize) -> bool {
        let left = self.rewritten.checked_sub(bytes);
        self.rewritten = left.unwrap_or(self.rewritten);
        left.is_some()
    }

    /// `kind` is a metric label; `what` is for the debug log.
    pub fn add(&mut self, kind: &'static str, what: &str) {
        if self.told.len() >= MOST_NOTES {
            match self.further.iter_mut().find(|(of, _)| *of == kind) {
                Some((_, further)) => {
                    *further += 1;
                    return;
                }
                // the first of its kind is always there
                None => self.further.push((kind, 0)),
            }
        }
        self.told.push((kind, beginning(what, NOTE_BYTES).to_owned()));
    }

    /// How many notes there are of each kind.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let told = self.told.iter().map(|(kind, _)| (*kind, 1));
        told.chain(self.further.iter().copied())
    }

    /// The first note of that kind.
    pub(crate) fn first(&self, kind: &str) -> Option<&str> {
        self.told.iter().find(|(of, _)| *of == kind).map(|(_, what)| what.as_str())
    }
}
