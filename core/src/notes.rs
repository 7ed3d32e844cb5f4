//! Owns the notes of what a request holds and the model does not get.

use crate::fields::beginning;

/// Things that a request holds and the model does not get, or gets in another shape: never an error, never silent.
#[derive(Debug, Default)]
pub struct Notes(pub Vec<(&'static str, String)>, Vec<(&'static str, u64)>);

/// Notes with their text; of a request that has more, which no client's has, the others are counted.
const MOST_NOTES: usize = 1000;

/// Bytes of a note's text.
const NOTE_BYTES: usize = 200;

impl Notes {
    /// `kind` is a metric label; `what` is for the debug log.
    pub fn add(&mut self, kind: &'static str, what: &str) {
        if self.0.len() >= MOST_NOTES {
            match self.1.iter_mut().find(|(of, _)| *of == kind) {
                Some((_, further)) => {
                    *further += 1;
                    return;
                }
                // the first of its kind is always there
                None => self.1.push((kind, 0)),
            }
        }
        self.0.push((kind, beginning(what, NOTE_BYTES).to_owned()));
    }

    /// How many notes there are of each kind.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let told = self.0.iter().map(|(kind, _)| (*kind, 1));
        told.chain(self.1.iter().copied())
    }

    /// The first note of that kind.
    pub(crate) fn first(&self, kind: &str) -> Option<&str> {
        self.0.iter().find(|(of, _)| *of == kind).map(|(_, what)| what.as_str())
    }
}
