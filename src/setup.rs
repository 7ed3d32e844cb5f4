//! Owns `rejoinder setup`: what a client needs to know to use a running rejoinder, printed, or merged into the client's
//! file and taken out again. It must not write anything unless that is asked for, nor lose anything that a file has.

mod clients;
mod codex;
mod droid;
mod file;
mod json;
mod launch;
mod openai;
mod opencode;
mod proxy;
mod setting;
mod text;
mod vscode;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

pub use launch::{Launch, launch};
pub use proxy::{Proxy, reachable};

use file::{Undone, Written};
use setting::Setting;

/// A client that can be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClientName {
    /// OpenAI's Codex CLI
    Codex,
    /// Factory's Droid CLI
    Droid,
    /// opencode
    Opencode,
    /// Visual Studio Code's chat
    Vscode,
    /// the OpenAI libraries
    Openai,
}

/// What the proxy is asked, and what for.
#[derive(Debug, Clone, Default, Args)]
pub struct Choice {
    /// Base URL of the running rejoinder [default: http://LISTEN/v1]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The model to use [default: the first that rejoinder lists]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Variable that holds an API key for rejoinder; needed if auth.mode is "keys"
    #[arg(long, value_name = "VARIABLE")]
    pub key_env: Option<String>,
}

/// The arguments of `rejoinder setup`.
#[derive(Debug, Clone, Args)]
pub struct Setup {
    /// The program to set up
    #[arg(value_enum)]
    client: ClientName,
    #[command(flatten)]
    choice: Choice,
    /// Merge the configuration into the client's own file, and keep a backup
    #[arg(long, conflicts_with = "undo")]
    write: bool,
    /// Restore the file as it was before --write
    #[arg(long)]
    undo: bool,
    /// Leave the client's default model alone; how to choose rejoinder's is printed
    #[arg(long)]
    keep_default: bool,
}

/// What a command says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The configuration, or the difference.
    pub out: String,
    /// What to know about it.
    pub err: String,
}

impl Setup {
    /// Whether the running proxy is asked: not to undo.
    pub fn asks(&self) -> Option<&Choice> {
        (!self.undo).then_some(&self.choice)
    }

    /// Does what is asked; `proxy` is what answered, unless [`Setup::asks`] says that nobody was asked.
    ///
    /// # Errors
    /// Why nothing was written, or nothing undone.
    pub fn run(&self, proxy: Option<&Proxy>, env: &Env) -> Result<Said, String> {
        let Some(proxy) = proxy else { return undo(&clients::files(self.client, env)?) };
        let setting = clients::setting(self.client, proxy, env, self.keep_default)?;
        if self.write { write(&setting) } else { print(&setting, self.client) }
    }
}

/// The environment, which says where the files of clients are.
#[derive(Debug, Clone)]
pub struct Env(Vec<(String, String)>);

impl Env {
    /// That of this process.
    pub fn of_process() -> Env {
        Env(std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect())
    }

    /// The value of a variable that is set and not empty.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, value)| known == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    fn home(&self) -> Result<PathBuf, String> {
        self.value("HOME")
            .map(PathBuf::from)
            .ok_or_else(|| "HOME is not set: where the client's files are is not known".to_owned())
    }

    /// The folder that a variable names, or one in the home folder.
    fn folder(&self, variable: &str, in_home: &str) -> Result<PathBuf, String> {
        match self.value(variable) {
            Some(folder) => Ok(PathBuf::from(folder)),
            None => Ok(self.home()?.join(in_home)),
        }
    }
}

fn print(setting: &Setting, client: ClientName) -> Result<Said, String> {
    let out = (setting.merge)("")?;
    let name = client.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let place = match &setting.file {
        Some(file) => {
            format!("For {}; \"rejoinder setup {name} --write\" merges it into that file.\n", file.display())
        }
        None => String::new(),
    };
    Ok(Said { out, err: format!("{place}{}", setting.notes()) })
}

fn write(setting: &Setting) -> Result<Said, String> {
    let Some(path) = &setting.file else {
        return Err("there is no file to write: it is printed without --write".to_owned());
    };
    match file::merge(path, &setting.merge)? {
        Written::Same => {
            let out = format!("{} has it all: nothing to change.\n", path.display());
            Ok(Said { out, err: setting.notes() })
        }
        Written::Changed { before, after, backup } => {
            let out = text::difference(path, before.as_deref(), &after);
            let kept = match backup {
                Some(backup) => format!("What was there before is kept in {}.\n", backup.display()),
                None => String::new(),
            };
            let err = format!(
                "Wrote {}. {kept}\"--undo\" instead of \"--write\" restores it.\n{}",
                path.display(),
                setting.notes()
            );
            Ok(Said { out, err })
        }
    }
}

fn undo(paths: &[PathBuf]) -> Result<Said, String> {
    let mut out = String::new();
    for path in paths {
        let shown = path.display();
        match file::undo(path)? {
            Undone::Restored => out.push_str(&format!("{shown} is as it was.\n")),
            Undone::Removed => out.push_str(&format!("{shown} is removed: it was not there before.\n")),
            Undone::Nothing => {}
        }
    }
    if out.is_empty() {
        let shown: Vec<String> = paths.iter().map(|path: &PathBuf| Path::display(path).to_string()).collect();
        return Err(format!("nothing to undo: \"rejoinder setup\" has not written {}", shown.join(" or ")));
    }
    Ok(Said { out, err: String::new() })
}
