//! The core does no IO, reads no clock, rolls no dice and logs nothing: its `use` lines and paths show it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::{Path, PathBuf};

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn the_core_is_pure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![root.join("dialect.rs"), root.join("error.rs"), root.join("ids.rs")];
    sources(&root.join("translate"), &mut files);
    sources(&root.join("wire"), &mut files);
    assert!(files.len() > 10, "the core's files were not found");
    let impure = [
        "tokio",
        "reqwest",
        "hyper",
        "tracing",
        "uuid::",
        "rand::",
        "SystemTime",
        "Instant",
        "std::fs",
        "std::net",
        "std::env",
        "std::io",
        "crate::server",
        "crate::driver",
        "crate::upstream",
        "crate::config",
    ];
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for word in impure {
                assert!(!code.contains(word), "{}:{}: {word} in the core: {line}", file.display(), n + 1);
            }
        }
    }
}
