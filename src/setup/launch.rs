//! Owns `rejoinder launch`: a client started with what it needs to know, by its arguments and variables alone. It must
//! not write a file of the user's.

use std::ffi::OsString;
use std::io;
use std::process::Command;

use clap::{Args, ValueEnum};

use super::codex::CodexKeys;
use super::{Choice, Proxy, droid, file, opencode};

/// The arguments of `rejoinder launch`.
#[derive(Debug, Clone, Args)]
pub struct Launch {
    /// The program to start
    #[arg(value_enum)]
    program: Program,
    #[command(flatten)]
    choice: Choice,
    /// Arguments for the program, after --
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// A client that can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Program {
    /// OpenAI's Codex CLI
    Codex,
    /// Factory's Droid CLI
    Droid,
    /// opencode
    Opencode,
}

impl Launch {
    /// What the proxy is asked.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }
}

/// Starts the program in this process's place where the system can do that. Returns when it has ended, if it cannot,
/// with its exit code.
///
/// # Errors
/// Why it could not be started, and how to install it.
pub fn launch(launch: &Launch, proxy: &Proxy) -> Result<u8, String> {
    match launch.program {
        Program::Codex => {
            let mut command = Command::new("codex");
            for setting in CodexKeys::new(proxy).overrides() {
                command.args(["-c", &setting]);
            }
            replace(command.args(&launch.args), "npm install -g @openai/codex")
        }
        Program::Opencode => {
            let settings = serde_json::Value::from(opencode::settings(proxy, false));
            let mut command = Command::new("opencode");
            command.env("OPENCODE_CONFIG_CONTENT", settings.to_string());
            replace(command.args(&launch.args), "npm install -g opencode-ai")
        }
        Program::Droid => with_droid(launch, proxy),
    }
}

/// Droid reads settings from a file alone. It is in the folder for temporary files, and the same for the same settings.
fn with_droid(launch: &Launch, proxy: &Proxy) -> Result<u8, String> {
    let settings = droid::settings(proxy).to_string();
    let file = std::env::temp_dir().join(format!("rejoinder-droid-{}.json", file::hash(&settings)));
    file::replace(&file, settings.as_bytes())
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let mut args = launch.args.clone();
    let mut command = Command::new("droid");
    // `exec` has options of its own
    if args.first().is_some_and(|first| first == "exec") {
        command.arg(args.remove(0));
        command.args(["-m", &droid::id(proxy.model())]);
    }
    replace(command.arg("--settings").arg(file).args(&args), "npm install -g droid")
}

/// Starts the program in the place of this process: its exit code and its signals are its own.
fn replace(command: &mut Command, install: &str) -> Result<u8, String> {
    #[cfg(unix)]
    let error = std::os::unix::process::CommandExt::exec(command);
    #[cfg(not(unix))]
    let error = match command.status() {
        Ok(status) => return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => error,
    };
    Err(failed(command, &error, install))
}

fn failed(command: &Command, error: &io::Error, install: &str) -> String {
    let name = command.get_program().to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound => format!("{name} is not installed, or not on the PATH: {install}"),
        _ => format!("cannot start {name}: {error}"),
    }
}
