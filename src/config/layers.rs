//! Owns where values come from: file, environment and flags become one list of entries, the last of a key winning.
//! It must not judge a value, only whether its key exists.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};

use super::keys::{KEYS, Key, is_section};

/// What the command line sets; every value is checked together with the other layers'.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`: the file to read in place of the usual ones; it must exist.
    pub config: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--upstream`
    pub upstream: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
}

/// One thing wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, variable or flag at fault.
    pub source: String,
    /// The dotted key, empty when the fault is not in one key.
    pub key: String,
    /// What is wrong, for a person.
    pub message: String,
}

/// Where the value of a key came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    File(PathBuf),
    Variable(String),
    Flag(&'static str),
}

/// One value of one layer, not yet checked.
pub(super) struct Entry {
    pub key: &'static Key,
    /// Which of several `[[upstream]]` it belongs to, counted from 0.
    pub server: Option<usize>,
    pub value: Value,
    pub source: Source,
}

// by hand: thiserror takes a field named `source` for the cause
impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { source, key, message } = self;
        match key.as_str() {
            "" => write!(f, "{source}: {message}"),
            key => write!(f, "{source}: {key}: {message}"),
        }
    }
}

impl Entry {
    /// The key as a person would find it: `upstream[1].url` in the second `[[upstream]]`.
    pub(super) fn name(&self) -> String {
        place(self.server, self.key.name)
    }
}

/// The name of a key within the server's own table, if it has one.
pub(super) fn place(server: Option<usize>, name: &str) -> String {
    match (server, name.strip_prefix("upstream")) {
        (Some(n), Some(rest)) => format!("upstream[{n}]{rest}"),
        _ => name.to_owned(),
    }
}

impl Source {
    /// A problem of the key that came from here.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let source = match self {
            Source::Variable(name) => name.clone(),
            Source::Flag(name) => (*name).to_owned(),
            Source::Default | Source::File(_) => self.to_string(),
        };
        Problem { source, key: key.to_owned(), message: message.into() }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Variable(name) => write!(f, "env {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Every entry of every layer, weakest first, and in its place what could not become one.
pub(super) fn collect(
    flags: &Flags,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<Result<Entry, Problem>> {
    let mut found = from_file(flags);
    found.extend(from_environment(env));
    found.extend(from_flags(flags).into_iter().map(Ok));
    found
}

/// The files that are looked at, in this order, until one is there.
pub(super) fn files(flags: &Flags) -> Vec<PathBuf> {
    match &flags.config {
        Some(path) => vec![path.clone()],
        None => USUAL_FILES.iter().map(PathBuf::from).collect(),
    }
}

fn from_file(flags: &Flags) -> Vec<Result<Entry, Problem>> {
    for path in files(flags) {
        let source = Source::File(path.clone());
        match std::fs::read_to_string(path) {
            Ok(text) => return parse(&text, &source),
            Err(error) if flags.config.is_none() && error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return vec![Err(source.problem("", format!("cannot read the configuration file: {error}")))];
            }
        }
    }
    Vec::new()
}

fn parse(text: &str, source: &Source) -> Vec<Result<Entry, Problem>> {
    match Toml::from_str::<Dict>(text) {
        Ok(document) => {
            let mut found = Vec::new();
            flatten("", document, None, source, &mut found);
            found
        }
        Err(error) => {
            // the error's own text quotes the line, which may hold a password
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = 1 + before.matches('\n').count();
            vec![Err(source.problem("", format!("line {line}: {}", error.message().replace('\n', ", "))))]
        }
    }
}

fn flatten(
    above: &str,
    table: Dict,
    server: Option<usize>,
    source: &Source,
    found: &mut Vec<Result<Entry, Problem>>,
) {
    for (name, value) in table {
        let name = if above.is_empty() { name } else { format!("{above}.{name}") };
        let value = match value {
            Value::Dict(_, table) if is_section(&name) => {
                flatten(&name, table, None, source, found);
                continue;
            }
            Value::Array(_, tables) if name == "upstream" => {
                for (n, table) in tables.into_iter().enumerate() {
                    match table {
                        Value::Dict(_, table) => {
                            if !table.contains_key("url") {
                                let name = place(Some(n), "upstream.url");
                                found.push(Err(source.problem(&name, "must be set, as there are several")));
                            }
                            flatten(&name, table, Some(n), source, found);
                        }
                        _ => {
                            let name = place(Some(n), &name);
                            found.push(Err(source.problem(&name, "expected a table, as in [[upstream]]")));
                        }
                    }
                }
                continue;
            }
            value => value,
        };
        let key = if name == "upstream" { "upstream.url" } else { &name };
        found.push(match Key::named(key) {
            Some(key) => Ok(Entry { key, server, value, source: source.clone() }),
            None if is_section(&name) => {
                Err(source.problem(&name, format!("expected a table, as in [{name}]")))
            }
            None => {
                let keys = KEYS.iter().map(|key| key.name.to_owned());
                let message = format!("unknown key{}", did_you_mean(&name, keys));
                Err(source.problem(&place(server, &name), message))
            }
        });
    }
}

fn from_environment(env: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<Result<Entry, Problem>> {
    // the environment has no order of its own; problems are listed in a steady one
    let variables: BTreeMap<OsString, OsString> = env.into_iter().collect();
    let alias = variables.get(OsStr::new(URL_ALIAS)).filter(|value| !value.is_empty()).cloned();
    let mut found = Vec::new();
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with("REJOINDER_") || value.is_empty() {
            continue;
        }
        let source = Source::Variable(name.clone());
        let url = if name == URL_ALIAS { Key::named("upstream.url") } else { None };
        let key = url.or_else(|| KEYS.iter().find(|key| key.variable() == name));
        let twice = url.is_none() && key.is_some_and(|key| key.name == "upstream.url");
        let other = twice && alias.as_ref().is_some_and(|alias| *alias != value);
        found.push(match (key, value.into_string()) {
            (_, Err(_)) => Err(source.problem("", "its value is not valid UTF-8")),
            (Some(key), Ok(_)) if other => {
                Err(source.problem(key.name, format!("{URL_ALIAS} sets the same key to another value")))
            }
            (Some(key), Ok(value)) => Ok(Entry { key, server: None, value: value.into(), source }),
            (None, Ok(value)) if is_service_link(&name, &value) => continue,
            (None, Ok(_)) => {
                let known = KEYS.iter().map(Key::variable);
                Err(source.problem("", format!("unknown variable{}", did_you_mean(&name, known))))
            }
        });
    }
    found
}

fn from_flags(flags: &Flags) -> Vec<Entry> {
    let values = [
        ("listen", "--listen", &flags.listen),
        ("admin", "--admin", &flags.admin),
        ("upstream.url", "--upstream", &flags.upstream),
        ("log.level", "--log-level", &flags.log_level),
    ];
    values
        .into_iter()
        .filter_map(|(key, flag, value)| {
            let value = Value::from(value.as_deref()?);
            Some(Entry { key: Key::named(key)?, server: None, value, source: Source::Flag(flag) })
        })
        .collect()
}

/// Kubernetes sets variables such as `REJOINDER_PORT=tcp://10.0.0.1:8081` in every pod beside a service of our name.
fn is_service_link(name: &str, value: &str) -> bool {
    let link = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let part = ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| name.contains(protocol));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT") && (link || part))
}

fn did_you_mean(name: &str, known: impl Iterator<Item = String>) -> String {
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let score = |candidate: &str| {
        let closeness =
            strsim::normalized_damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase());
        // `url` for `upstream.url`, `api_key` for `api_key_file`
        match last(candidate) == last(name) {
            true => 2.0,
            false if candidate.starts_with(name) => closeness + 1.0,
            false => closeness,
        }
    };
    // the first of equals: the upstream is meant more often than the store
    let scored = known.map(|candidate| (score(&candidate), candidate));
    let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
    match best {
        Some((score, candidate)) if score > 0.75 => format!(", did you mean {candidate}?"),
        _ => String::new(),
    }
}

/// Looked for, in this order, when no `--config` names one; none needs to exist.
const USUAL_FILES: [&str; 2] = ["rejoinder.toml", "/etc/rejoinder/rejoinder.toml"];
const URL_ALIAS: &str = "REJOINDER_UPSTREAM";
