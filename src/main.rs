//! The process: command line to configuration to server.
fn main() {}
