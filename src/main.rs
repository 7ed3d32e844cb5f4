//! The process: command line to configuration to server.

use std::process::ExitCode;

use rejoinder::{cli, panics, server, telemetry};

fn main() -> ExitCode {
    cli::main_with(std::env::args_os(), |resolved| {
        telemetry::init_logging(&resolved.config.log);
        panics::watch();
        server::run(resolved)
    })
}
