//! Owns the line by which a test says that it did not run. It must not decide that.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Mutex;

/// Says why, once a program, past the capture that hides what passing tests print.
pub fn skip(why: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap().insert(why.to_owned()) {
        let _ = writeln!(std::io::stderr(), "SKIP: {why}");
    }
}
