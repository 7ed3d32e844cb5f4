//! Owns the way from layers to one checked configuration, and reports everything that is wrong with it at once. It
//! must not stop at the first problem, nor put a secret into a message.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use figment::Figment;
use figment::providers::Serialized;
use http::HeaderValue;
use reqwest::Url;
use secrecy::SecretString;

use super::Config;
use super::keys::KEYS;
use super::layers::{self, Flags, Problem, Source};
use crate::keyring::Keyring;

/// A configuration that passed every check.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The effective values; `upstream.url` has no trailing slash and no `/v1`.
    pub config: Config,
    /// The content of `upstream.api_key_file`.
    pub upstream_key: Option<SecretString>,
    /// The keys of `keys_file`, or one of this start's own.
    pub keyring: Arc<Keyring>,
    /// Where each key's value came from: `default`, a file's path, `env NAME` or `flag --name`.
    pub sources: BTreeMap<String, String>,
}

/// Reads the file, this process's environment and the flags, each overriding the one before.
pub fn load(flags: &Flags) -> Result<Resolved, Vec<Problem>> {
    load_from(flags, std::env::vars_os())
}

/// [`load`] with an environment of the caller's.
pub fn load_from(
    flags: &Flags,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Resolved, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    let mut checks = Checks {
        sources: KEYS.iter().map(|key| (key.name, Source::Default)).collect(),
        bad: BTreeSet::new(),
    };
    for found in layers::collect(flags, env) {
        let entry = match found {
            Ok(entry) => entry,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let name = entry.key.name;
        match entry.key.read(&entry.value) {
            Ok(value) => {
                figment = figment.merge((name, value));
                checks.sources.insert(name, entry.source);
            }
            Err(message) => {
                problems.push(entry.source.problem(name, message));
                checks.bad.insert(name);
            }
        }
    }
    let config: Config = match figment.extract() {
        Ok(config) => config,
        Err(error) => {
            problems.push(Source::Default.problem("", error.to_string()));
            return Err(problems);
        }
    };
    problems.extend(checks.addresses(&config));
    problems.extend(checks.silences(&config));
    let upstream_key = match config.upstream.api_key_file.as_deref().map(read_key).transpose() {
        Ok(key) => key,
        Err(message) => {
            problems.push(checks.problem(&["upstream.api_key_file"], message));
            None
        }
    };
    problems.extend(checks.shared_store(&config));
    let keyring = match config.keys_file.as_deref().map_or_else(Keyring::generate, Keyring::read) {
        Ok(keyring) if problems.is_empty() => Arc::new(keyring),
        Ok(_) => return Err(problems),
        Err(message) => {
            problems.push(checks.problem(&["keys_file"], message));
            return Err(problems);
        }
    };
    let sources =
        checks.sources.into_iter().map(|(key, source)| (key.to_owned(), source.to_string())).collect();
    Ok(Resolved { config, upstream_key, keyring, sources })
}

impl Resolved {
    /// The effective values as a TOML document that names the source of each; it shows no secret.
    pub fn to_toml(&self) -> String {
        let mut shown = self.config.clone();
        shown.upstream.url = shown.upstream.url.as_deref().map(redact_url);
        shown.store.url = shown.store.url.as_deref().map(redact_url);
        let document = serde_json::to_value(&shown).unwrap_or_default();
        let mut text = String::new();
        let mut section = "";
        for key in KEYS {
            let (above, name) = key.name.split_once('.').unwrap_or(("", key.name));
            if above != section {
                section = above;
                text.push_str(&format!("\n[{section}]\n"));
            }
            let source = self.sources.get(key.name).map_or("default", String::as_str);
            // JSON escapes what TOML does in a string, but for DEL
            let line = match document.pointer(&format!("/{}", key.name.replace('.', "/"))) {
                None | Some(serde_json::Value::Null) => format!("# {name} is not set"),
                Some(value) => format!("{name} = {}", value.to_string().replace('\u{7f}', "\\u007f")),
            };
            text.push_str(&format!("{line}  # {}\n", source.replace(char::is_control, "?")));
        }
        text
    }
}

/// The URL with `***` for its user name and password.
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{path}"),
        None => url.to_owned(),
    }
}

/// The checks that look at more than one key.
struct Checks {
    sources: BTreeMap<&'static str, Source>,
    /// Keys with a problem of their own, which would only cause a second one.
    bad: BTreeSet<&'static str>,
}

impl Checks {
    /// A problem among keys, blamed on the first that somebody set.
    fn problem(&self, keys: &[&str], message: impl Into<String>) -> Problem {
        let set = keys.iter().filter_map(|key| Some((*key, self.sources.get(key)?)));
        match set.clone().find(|(_, source)| **source != Source::Default).or(set.clone().next()) {
            Some((key, source)) => source.problem(key, message),
            None => Source::Default.problem("", message),
        }
    }

    fn good(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| !self.bad.contains(key))
    }

    fn addresses(&self, config: &Config) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.good(&["listen", "admin"]) && collide(config.listen, config.admin) {
            let message = format!("listen ({}) and admin ({}) must differ", config.listen, config.admin);
            problems.push(self.problem(&["admin", "listen"], message));
        }
        let url = config.upstream.url.as_deref().and_then(|url| Url::parse(url).ok());
        let target = url.as_ref().and_then(target);
        if self.good(&["listen", "upstream.url"]) && target.is_some_and(|to| collide(config.listen, to)) {
            let message = format!("points back at rejoinder's own listen address ({})", config.listen);
            problems.push(self.problem(&["upstream.url"], message));
        }
        problems
    }

    /// Replicas must agree on whose a record is.
    fn shared_store(&self, config: &Config) -> Option<Problem> {
        let missing = config.store.url.is_some() && config.keys_file.is_none();
        let message = "store.url needs keys_file: replicas that share a store must share its keys \
                       (make one: openssl rand -base64 32 > keys)";
        missing.then(|| self.problem(&["store.url"], message))
    }

    fn silences(&self, config: &Config) -> Vec<Problem> {
        let keys = ["heartbeat", "in_progress_after"];
        if !self.good(&keys) || config.heartbeat < config.in_progress_after {
            return Vec::new();
        }
        let (heartbeat, limit) = (config.heartbeat, config.in_progress_after);
        let message = format!("heartbeat ({heartbeat:?}) must be shorter than in_progress_after ({limit:?})");
        vec![self.problem(&keys, message)]
    }
}

/// Whether two sockets cannot be bound, or told apart, on one machine.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || everywhere)
}

/// The address a URL names without the help of DNS, if it is this machine's for certain.
fn target(url: &Url) -> Option<SocketAddr> {
    let host = url.host_str()?.trim_matches(['[', ']']);
    let ip = if host == "localhost" { IpAddr::from([127, 0, 0, 1]) } else { host.parse().ok()? };
    ip.is_loopback().then_some(SocketAddr::new(ip, url.port_or_known_default()?))
}

fn read_key(path: &Path) -> Result<SecretString, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let key = text.trim();
    if key.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    if key.contains(char::is_whitespace) || HeaderValue::from_str(key).is_err() {
        return Err(format!("{} must hold one key and nothing else", path.display()));
    }
    Ok(SecretString::from(key))
}
