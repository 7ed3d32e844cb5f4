//! Owns the command line: what can be typed, what each command prints, and the exit codes. It must not exit the
//! process, start the server itself, or print a secret.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use reqwest::Url;

use crate::client_keys::{self, NewKey};
use crate::config::{self, Config, Flags, Problem, Resolved};
use crate::setup::{self, Choice, Env, Launch, Proxy, Said, Setup};
use crate::{doctor, upstream};

/// Gives a Chat Completions server (llama-server, vLLM, ...) the OpenAI Responses API.
#[derive(Debug, Parser)]
#[command(name = "rejoinder", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags of every command, so that `check-config` and `print-config` judge just what `serve` would run.
#[derive(Debug, Args)]
struct Settings {
    /// Address of the API that clients use [default: 127.0.0.1:8081]
    #[arg(long, global = true, display_order = 101, value_name = "ADDR")]
    listen: Option<String>,
    /// Base URL of the upstream server [default: searches 127.0.0.1:8080 and :8000]
    #[arg(long, global = true, display_order = 102, value_name = "URL")]
    upstream: Option<String>,
    /// Address of /healthz, /readyz and /metrics [default: 127.0.0.1:8082]
    #[arg(long, global = true, display_order = 103, value_name = "ADDR")]
    admin: Option<String>,
    /// Configuration file [default: ./rejoinder.toml, then /etc/rejoinder/rejoinder.toml, if present]
    #[arg(long, global = true, display_order = 104, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Log filter such as debug or info,rejoinder=trace [default: info]
    #[arg(long, global = true, display_order = 105, value_name = "FILTER")]
    log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy (the default)
    Serve,
    /// Configure a client: Codex, Droid, opencode, VS Code, or the OpenAI libraries
    #[command(after_help = SETUP_HELP)]
    Setup(Setup),
    /// Start a client on the running proxy, and write no file
    #[command(after_help = LAUNCH_HELP)]
    Launch(Launch),
    /// Check the model servers: what is wrong, and what to do
    Doctor {
        /// Print JSON, for a program
        #[arg(long)]
        json: bool,
    },
    /// Check the configuration: print ok, or every problem
    CheckConfig,
    /// Print the configuration in effect, and where each value came from
    PrintConfig,
    /// Make and list the API keys of clients
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Ask the running proxy whether it is ready; for containers
    Healthcheck {
        /// URL to ask instead of ADMIN's /readyz
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Print the completions of a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page
    #[command(after_help = "Example: rejoinder man | man -l -")]
    Man,
}

/// The commands by what they are for; each is in one group.
const GROUPS: [(&str, &[&str]); 3] = [
    ("Run", &["serve", "healthcheck"]),
    ("Use it from a client", &["setup", "launch"]),
    ("Look after it", &["doctor", "check-config", "print-config", "keys", "completions", "man", "help"]),
];

/// The command line with its commands in groups, for which clap has no form.
fn command_line() -> clap::Command {
    let mut command = Cli::command();
    // adds `help`
    command.build();
    let about = |name: &str| {
        command.find_subcommand(name).and_then(|found| found.get_about()).map(ToString::to_string)
    };
    let line = |name: &&str| format!("  {name:<13} {}\n", about(name).unwrap_or_default());
    let group = |(title, names): &(&str, &[&str])| {
        format!("{title}:\n{}", names.iter().map(line).collect::<String>())
    };
    let groups: Vec<String> = GROUPS.iter().map(group).collect();
    Cli::command().help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{}\nOptions:\n{{options}}{{after-help}}",
        groups.join("\n")
    ))
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key, print it once, and add its hash to the file
    Add {
        /// File of the keys [default: auth.keys_file]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        new: NewKey,
    },
    /// Print the names of the keys
    List {
        /// File of the keys [default: auth.keys_file]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Runs the command that `args` (the program's name first) asks for. `serve` gets the checked configuration and
/// returns when the server has ended.
pub fn main_with(
    args: impl IntoIterator<Item = OsString>,
    serve: impl FnOnce(Resolved) -> Result<(), String>,
) -> ExitCode {
    let parsed = command_line().try_get_matches_from(args).and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(message) => {
            // help and version come this way, too, and go to stdout
            let _ = message.print();
            return if message.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let flags = Flags::from(cli.settings);
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => with_config(&flags, |resolved| match serve(resolved) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        }),
        Command::CheckConfig => with_config(&flags, |_| say("ok\n")),
        Command::PrintConfig => with_config(&flags, |resolved| say(&resolved.to_toml())),
        Command::Doctor { json } => with_config(&flags, |resolved| match doctor::run(&resolved, json) {
            Ok((text, well)) => {
                let said = say(&text);
                if well { said } else { ExitCode::from(EXIT_RUNTIME) }
            }
            Err(error) => fail(&error),
        }),
        Command::Setup(wanted) => print_setup(set_up(&wanted, &flags)),
        Command::Launch(wanted) => {
            match proxy(wanted.choice(), &flags).and_then(|proxy| setup::launch(&wanted, &proxy)) {
                Ok(code) => ExitCode::from(code),
                Err(error) => fail(&error),
            }
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "rejoinder", &mut text);
            say(&String::from_utf8_lossy(&text))
        }
        Command::Man => print_manual(),
        Command::Keys { command } => match keys(command, &flags) {
            Ok(text) => say(&text),
            Err(error) => fail(&error),
        },
        Command::Healthcheck { url } => match own_or_named(url, &flags).and_then(|asked| ask(&asked)) {
            Ok(()) => say("ready\n"),
            Err(reason) => fail(&reason),
        },
    }
}

impl From<Settings> for Flags {
    fn from(settings: Settings) -> Flags {
        let Settings { listen, upstream, admin, config, log_level } = settings;
        Flags { config, listen, admin, upstream, log_level }
    }
}

fn with_config(flags: &Flags, run: impl FnOnce(Resolved) -> ExitCode) -> ExitCode {
    match config::load(flags) {
        Ok(resolved) => run(resolved),
        Err(problems) => {
            let _ = write!(io::stderr(), "{}", lines(&problems));
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// Writes without `println!`, which panics when the reader is gone (`rejoinder print-config | head -1`).
fn say(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn fail(reason: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "rejoinder: {reason}");
    ExitCode::from(EXIT_RUNTIME)
}

/// Does what is asked of the keys; what to print.
fn keys(command: KeysCommand, flags: &Flags) -> Result<String, String> {
    match command {
        KeysCommand::List { file } => {
            let names = client_keys::names(&keys_file(file, flags)?)?;
            Ok(names.iter().map(|name| format!("{name}\n")).collect())
        }
        KeysCommand::Add { file, new } => {
            let file = keys_file(file, flags)?;
            let key = client_keys::add(&file, &new)?;
            let _ = writeln!(
                io::stderr(),
                "The API key of {} is shown this once; {} has its hash:",
                new.name,
                file.display()
            );
            Ok(format!("{key}\n"))
        }
    }
}

/// The file that is named, or that of the configuration, which need not have a valid one yet.
fn keys_file(named: Option<PathBuf>, flags: &Flags) -> Result<PathBuf, String> {
    if let Some(file) = named {
        return Ok(file);
    }
    let named = config::client_keys_file(flags).map_err(|problems| {
        format!("the configuration is invalid, so name the file with --file:\n{}", lines(&problems))
    })?;
    named.ok_or_else(|| "auth.keys_file is not set: name the file with --file".to_owned())
}

fn print_manual() -> ExitCode {
    let mut text = Vec::new();
    match clap_mangen::Man::new(Cli::command()).render(&mut text) {
        Ok(()) => say(&String::from_utf8_lossy(&text)),
        Err(error) => fail(&format!("cannot print the manual page: {error}")),
    }
}

fn print_setup(done: Result<Said, String>) -> ExitCode {
    match done {
        Ok(Said { out, err }) => {
            let said = say(&out);
            let _ = write!(io::stderr(), "{err}");
            said
        }
        Err(error) => fail(&error),
    }
}

fn set_up(wanted: &Setup, flags: &Flags) -> Result<Said, String> {
    let proxy = wanted.asks().map(|choice| proxy(choice, flags)).transpose()?;
    wanted.run(proxy.as_ref(), &Env::of_process())
}

/// The running proxy of the URL, or of the configuration.
fn proxy(choice: &Choice, flags: &Flags) -> Result<Proxy, String> {
    let resolved = config::load(flags)
        .map_err(|problems| format!("the configuration is invalid:\n{}", lines(&problems)))?;
    let Config { listen, tools, tls, .. } = resolved.config;
    if choice.url.is_none() && tls.certificate.is_some() {
        return Err(
            "tls.certificate is set: give the URL that the certificate is for (--url https://NAME:PORT)"
                .to_owned(),
        );
    }
    Proxy::find(choice, listen, tools.web_search_wrapper.is_some(), &Env::of_process())
}

/// What a health check asks.
struct Asked {
    url: String,
    /// Whether it is this machine's own, by an address that no certificate names.
    own: bool,
}

fn own_or_named(named: Option<String>, flags: &Flags) -> Result<Asked, String> {
    if let Some(url) = named {
        return Ok(Asked { url, own: false });
    }
    let resolved = config::load(flags)
        .map_err(|problems| format!("the configuration is invalid:\n{}", lines(&problems)))?;
    let scheme = if resolved.config.tls.admin { "https" } else { "http" };
    let url = format!("{scheme}://{}/readyz", setup::reachable("admin", resolved.config.admin)?);
    Ok(Asked { url, own: true })
}

/// A GET that any 2xx satisfies, at most `HEALTHCHECK_TIMEOUT` long.
fn ask(Asked { url, own }: &Asked) -> Result<(), String> {
    let shown = config::redact_url(url);
    let parsed = Url::parse(url).map_err(|error| format!("{shown} is not a URL: {error}"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(format!("{shown} is not an http:// or https:// URL"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(HEALTHCHECK_TIMEOUT);
    let client = match (parsed.scheme(), own) {
        ("https", true) => client.tls_danger_accept_invalid_certs(true),
        ("https", false) => client,
        // no roots are read for what is not encrypted
        _ => client.tls_certs_only([]),
    };
    let client = client.build();
    let answer = runtime.block_on(async { client?.get(parsed).send().await });
    match answer.map(|answer| answer.status()) {
        Ok(status) if status.is_success() => Ok(()),
        Ok(status) => Err(format!("{shown} answers {status}")),
        Err(error) => Err(format!("no answer from {shown}: {}", upstream::causes(error))),
    }
}

const EXIT_RUNTIME: u8 = 1;
const EXIT_USAGE: u8 = 64;
const EXIT_CONFIG: u8 = 78;
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(2);
const AFTER_HELP: &str = "\
To begin: start a model server, then rejoinder, then \"rejoinder setup codex --write\" in another terminal.

Every key can be set in the file or as an environment variable (REJOINDER_UPSTREAM__URL), some as a flag.
Flags take precedence over variables, variables over the file.
Exit codes: 0 done, 1 failed, 64 usage, 78 configuration.";
const SETUP_HELP: &str = "\
Without --write, the configuration is only printed. With it, the rest of the file stays as it is, the difference is
shown, and a copy is kept; --undo restores the file byte for byte.

Examples:
  rejoinder setup codex                            print what Codex needs
  rejoinder setup codex --write                    merge it into ~/.codex/config.toml
  rejoinder setup codex --write --keep-default     as a profile, for codex -p rejoinder
  rejoinder setup droid --write --model qwen3      another model than the first
  rejoinder setup codex --undo                     restore the file";
const LAUNCH_HELP: &str = "\
Examples:
  rejoinder launch codex
  rejoinder launch codex -- exec \"What does this project do?\"
  rejoinder launch droid --model qwen3";
const COMPLETIONS_HELP: &str = "\
Examples:
  bash: rejoinder completions bash > ~/.local/share/bash-completion/completions/rejoinder
  zsh:  rejoinder completions zsh > \"${fpath[1]}/_rejoinder\"
  fish: rejoinder completions fish > ~/.config/fish/completions/rejoinder.fish";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_in_one_group_of_the_help() {
        let help = command_line().render_help().to_string();
        let mut command = Cli::command();
        command.build();
        for command in command.get_subcommands() {
            let (name, about) = (command.get_name(), command.get_about().unwrap().to_string());
            let line = format!("  {name:<13} {about}\n");
            assert_eq!(help.matches(&line).count(), 1, "{name}\n{help}");
            assert!(line.len() <= 100, "{line}");
        }
        let names = GROUPS.iter().map(|(_, names)| names.len()).sum::<usize>();
        assert_eq!(names, command.get_subcommands().count());
        for title in GROUPS.map(|(title, _)| title).into_iter().chain(["Options"]) {
            assert!(help.contains(&format!("\n{title}:\n")), "{title}\n{help}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
