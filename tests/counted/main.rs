//! What is counted in instructions, by running this program once more under valgrind. It must not measure time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and shows what it measured"
)]

mod instructions;
mod linear;
mod linear_answers;
mod valgrind;
