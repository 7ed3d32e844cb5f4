//! Owns the form of what a client is told. It must not know the clients.

use std::path::PathBuf;

/// Merges the settings into a text of the client's file, which may be empty; the same text if they are in it.
pub type Merge = Box<dyn Fn(&str) -> Result<String, String>>;

/// What one client is told.
pub struct Setting {
    /// Its file, if it has one.
    pub file: Option<PathBuf>,
    /// Puts the settings into the file's text.
    pub merge: Merge,
    /// How to use it then, and what to know; one line each.
    pub notes: Vec<String>,
}

impl Setting {
    /// The notes, a line each.
    pub fn notes(&self) -> String {
        self.notes.iter().map(|note| format!("{note}\n")).collect()
    }
}
