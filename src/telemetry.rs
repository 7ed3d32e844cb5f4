//! Owns what the process says about itself. It must not see a prompt, a key or a header's value.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Sends the process's log lines to stderr. A subscriber that is already there stays.
pub fn init_logging(log: &LogConfig) {
    let terminal = io::stderr().is_terminal();
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter);
    let text = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Json => false,
        LogFormat::Text => true,
    };
    // an error says that a subscriber was there first, as in tests
    let _ = match (text, terminal) {
        (true, true) => lines.try_init(),
        (true, false) => lines.with_ansi(false).try_init(),
        (false, _) => lines.json().flatten_event(true).with_span_list(false).try_init(),
    };
}
