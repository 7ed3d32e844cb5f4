//! Owns the way from layers to one checked configuration, and reports everything that is wrong with it at once. It
//! must not stop at the first problem, nor put a secret into a message.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::Figment;
use figment::providers::Serialized;
use figment::value::Value;
use http::HeaderValue;
use reqwest::Url;
use secrecy::SecretString;

use super::keys::{KEYS, Key};
use super::layers::{self, Entry, Flags, Problem, Source, place};
use super::{AuthConfig, AuthMode, Config, ProxyProtocol, Tls, UpstreamConfig};
use crate::client_keys::ClientKeys;
use crate::keyring::Keyring;

/// A configuration that passed every check.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The effective values; `upstream.url` has no trailing slash and no `/v1`.
    pub config: Config,
    /// The upstream servers, at least one; only the single server of `[upstream]` may be without a URL.
    pub servers: Vec<ServerConfig>,
    /// The keys of `keys_file`, or one of this start's own.
    pub keyring: Arc<Keyring>,
    /// The keys of `auth.keys_file`, where `auth.mode` asks for them.
    pub client_keys: Arc<ClientKeys>,
    /// The certificate of `tls.certificate`; `None` without one.
    pub tls: Option<Arc<Tls>>,
    /// Where each key's value came from: `default`, a file's path, `env NAME` or `flag --name`.
    pub sources: BTreeMap<String, String>,
    /// The flags that were read, for [`Resolved::again`].
    flags: Flags,
}

/// The configuration of one upstream server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The effective values of its `upstream` keys.
    pub config: UpstreamConfig,
    /// The content of its `api_key_file`.
    pub key: Option<SecretString>,
    /// Whether a llama-server is given as many requests as it has slots where `max_in_flight` is not set. It serves the
    /// others in the order in which they came, so they wait here, where keys take turns.
    pub limit_to_slots: bool,
}

/// Reads the file, this process's environment and the flags, each overriding the one before.
pub fn load(flags: &Flags) -> Result<Resolved, Vec<Problem>> {
    load_from(flags, std::env::vars_os())
}

/// The value of `auth.keys_file`; the file need not be there yet.
///
/// # Errors
/// What is wrong with the configuration.
pub fn client_keys_file(flags: &Flags) -> Result<Option<PathBuf>, Vec<Problem>> {
    let mut merged = Merged::of(flags, std::env::vars_os());
    let extracted = merged.extract();
    extracted.map(|(config, _)| config.auth.keys_file).ok_or(merged.problems)
}

/// [`load`] with an environment of the caller's.
pub fn load_from(
    flags: &Flags,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Resolved, Vec<Problem>> {
    let mut merged = Merged::of(flags, env);
    let extracted = merged.extract();
    let Merged { checks, mut problems, .. } = merged;
    let Some((config, places)) = extracted else { return Err(problems) };
    problems.extend(checks.addresses(&config, &places));
    problems.extend(checks.silences(&config));
    problems.extend(checks.proxies(&config));
    problems.extend(checks.open_to_all(&config));
    let auth = config.auth.mode;
    let client_keys = match checks.client_keys(&config) {
        Ok(keys) => keys,
        Err(problem) => {
            problems.push(problem);
            ClientKeys::off()
        }
    };
    let tls = Tls::read(&config.tls).unwrap_or_else(|(key, message)| {
        problems.push(checks.problem(&[key], message));
        None
    });
    let mut servers = Vec::new();
    for (server, mut config) in places {
        // what stands for a client's key here is none of the upstream's
        config.forward_authorization &= auth == AuthMode::Pass;
        let key = match config.api_key_file.as_deref().map(read_key).transpose() {
            Ok(key) => key,
            Err(message) => {
                problems.push(checks.problem(&[&place(server, "upstream.api_key_file")], message));
                None
            }
        };
        servers.push(ServerConfig { config, key, limit_to_slots: auth == AuthMode::Keys });
    }
    problems.extend(checks.shared_store(&config));
    let keyring = match config.keys_file.as_deref().map_or_else(Keyring::generate, Keyring::read) {
        Ok(keyring) if problems.is_empty() => Arc::new(keyring),
        Ok(_) => return Err(problems),
        Err(message) => {
            problems.push(checks.problem(&["keys_file"], message));
            return Err(problems);
        }
    };
    let sources = checks.sources.into_iter().map(|(key, source)| (key, source.to_string())).collect();
    let (client_keys, tls) = (Arc::new(client_keys), tls.map(Arc::new));
    Ok(Resolved { config, servers, keyring, client_keys, tls, sources, flags: flags.clone() })
}

/// The values of one server, and the place of its table among several.
type PlacedServer = (Option<usize>, UpstreamConfig);

/// The values of all layers, the stronger ones over the weaker, and what is wrong with single ones.
struct Merged {
    figment: Figment,
    /// Values of `[[upstream]]` tables, by where the tables are.
    tables: BTreeMap<usize, Vec<(&'static str, Value)>>,
    checks: Checks,
    problems: Vec<Problem>,
}

impl Merged {
    /// All layers over the defaults.
    fn of(flags: &Flags, env: impl IntoIterator<Item = (OsString, OsString)>) -> Merged {
        let sources = KEYS.iter().map(|key| (key.name.to_owned(), Source::Default)).collect();
        let mut merged = Merged {
            figment: Figment::from(Serialized::defaults(Config::default())),
            tables: BTreeMap::new(),
            checks: Checks { sources, bad: BTreeSet::new() },
            problems: Vec::new(),
        };
        for found in layers::collect(flags, env) {
            match found {
                Ok(entry) => merged.add(entry),
                Err(problem) => merged.problems.push(problem),
            }
        }
        merged
    }

    /// Puts a value over those that were added before.
    fn add(&mut self, entry: Entry) {
        let name = entry.name();
        let key = entry.key.name;
        match (entry.key.read(&entry.value), entry.server) {
            (Err(message), _) => {
                self.problems.push(entry.source.problem(&name, message));
                self.checks.bad.insert(name);
                return;
            }
            (Ok(value), Some(n)) => self.tables.entry(n).or_default().push((key, value)),
            (Ok(value), None) => {
                // a URL from a stronger layer stands for all the file's servers
                if key == "upstream.url" {
                    self.tables.clear();
                }
                let figment = std::mem::replace(&mut self.figment, Figment::new());
                self.figment = figment.merge((key, value.clone()));
                for table in self.tables.values_mut() {
                    table.push((key, value.clone()));
                }
            }
        }
        self.checks.sources.insert(name, entry.source);
    }

    /// The configuration, and that of each server; `None` where it cannot be put together.
    fn extract(&mut self) -> Option<(Config, Vec<PlacedServer>)> {
        let problems = &mut self.problems;
        let mut extract = |figment: &Figment| {
            let config = figment.extract::<Config>();
            config.map_err(|error| problems.push(Source::Default.problem("", error.to_string()))).ok()
        };
        let mut places = Vec::new();
        for (n, values) in std::mem::take(&mut self.tables) {
            let figment = values
                .into_iter()
                .filter(|(key, _)| key.starts_with("upstream."))
                .fold(Figment::from(Serialized::defaults(Config::default())), Figment::merge);
            places.extend(extract(&figment).map(|config| (Some(n), config.upstream)));
        }
        let config = extract(&self.figment)?;
        if places.is_empty() {
            places.push((None, config.upstream.clone()));
        }
        Some((config, places))
    }
}

impl Resolved {
    /// Reads everything again, with the same flags.
    ///
    /// # Errors
    /// Everything that is wrong now.
    pub fn again(&self) -> Result<Resolved, Vec<Problem>> {
        load(&self.flags)
    }

    /// The files that a change of the configuration may be in.
    pub fn files(&self) -> Vec<PathBuf> {
        let keys = self.servers.iter().filter_map(|server| server.config.api_key_file.clone());
        let client_keys = self.config.auth.keys_file.clone();
        let tls = &self.config.tls;
        let tls = [&tls.certificate, &tls.key, &tls.client_ca].into_iter().flatten().cloned();
        layers::files(&self.flags).into_iter().chain(keys).chain(client_keys).chain(tls).collect()
    }

    /// Keys whose values differ from `other`'s, those left out that take effect at once.
    pub fn changed_keys(&self, other: &Resolved) -> Vec<&'static str> {
        let document = |resolved: &Resolved| serde_json::to_value(&resolved.config).unwrap_or_default();
        let (one, two) = (document(self), document(other));
        let pointer = |key: &Key| format!("/{}", key.name.replace('.', "/"));
        let tls = self.tls.is_some() && other.tls.is_some();
        let at_once = |name: &str| {
            name.starts_with("upstream.") || (tls && name.starts_with("tls.") && name != "tls.admin")
        };
        KEYS.iter()
            .filter(|key| !at_once(key.name))
            .filter(|key| one.pointer(&pointer(key)) != two.pointer(&pointer(key)))
            .map(|key| key.name)
            .collect()
    }

    /// The effective values as a TOML document that names the source of each; it shows no secret.
    pub fn to_toml(&self) -> String {
        let mut shown = self.config.clone();
        shown.store.url = shown.store.url.as_deref().map(redact_url);
        shown.traces.endpoint = shown.traces.endpoint.as_deref().map(redact_url);
        let document = serde_json::to_value(&shown).unwrap_or_default();
        let several = self.servers.len() > 1 || self.sources.contains_key("upstream[0].url");
        let mut text = String::new();
        let mut section = "";
        for key in KEYS {
            let (above, name) = key.name.split_once('.').unwrap_or(("", key.name));
            if above != section {
                section = above;
                match section {
                    "upstream" => self.servers_toml(several, &mut text),
                    _ => text.push_str(&format!("\n[{section}]\n")),
                }
            }
            if section != "upstream" {
                let value = document.pointer(&format!("/{}", key.name.replace('.', "/")));
                self.line(name, value, key.name, &mut text);
            }
        }
        text
    }

    fn servers_toml(&self, several: bool, text: &mut String) {
        for (n, server) in self.servers.iter().enumerate() {
            let mut shown = server.config.clone();
            shown.url = shown.url.as_deref().map(redact_url);
            let document = serde_json::to_value(&shown).unwrap_or_default();
            text.push_str(if several { "\n[[upstream]]\n" } else { "\n[upstream]\n" });
            for key in KEYS {
                let Some(name) = key.name.strip_prefix("upstream.") else { continue };
                let own = place(several.then_some(n), key.name);
                let from_all = self.sources.get(key.name).filter(|source| *source != "default");
                let key = if from_all.is_some() { key.name } else { &own };
                self.line(name, document.get(name), key, text);
            }
        }
    }

    fn line(&self, name: &str, value: Option<&serde_json::Value>, key: &str, text: &mut String) {
        let source = self.sources.get(key).map_or("default", String::as_str);
        let line = match value {
            None | Some(serde_json::Value::Null) => format!("# {name} is not set"),
            Some(value) => format!("{name} = {}", toml(value)),
        };
        text.push_str(&format!("{line}  # {}\n", source.replace(char::is_control, "?")));
    }
}

/// A value as TOML writes it on one line. JSON escapes what TOML does in a string, but for DEL.
fn toml(value: &serde_json::Value) -> String {
    use serde_json::Value::{Array, Null, Object};
    match value {
        Array(values) => {
            let values: Vec<String> = values.iter().map(toml).collect();
            format!("[{}]", values.join(", "))
        }
        Object(members) => {
            let members: Vec<String> = members
                .iter()
                .filter(|(_, value)| **value != Null)
                .map(|(key, value)| format!("{} = {}", toml(&key.as_str().into()), toml(value)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
        value => value.to_string().replace('\u{7f}', "\\u007f"),
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

/// The checks across several keys.
struct Checks {
    sources: BTreeMap<String, Source>,
    /// Keys with a problem of their own, which would only cause a second one.
    bad: BTreeSet<String>,
}

impl Checks {
    /// A problem among keys, blamed on the first that somebody set.
    fn problem(&self, keys: &[&str], message: impl Into<String>) -> Problem {
        let set = keys.iter().filter_map(|key| Some((*key, self.sources.get(*key)?)));
        match set.clone().find(|(_, source)| **source != Source::Default).or(set.clone().next()) {
            Some((key, source)) => source.problem(key, message),
            None => Source::Default.problem("", message),
        }
    }

    fn good(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| !self.bad.contains(*key))
    }

    fn addresses(&self, config: &Config, servers: &[PlacedServer]) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.good(&["listen", "admin"]) && collide(config.listen, config.admin) {
            let message = format!("listen ({}) and admin ({}) must differ", config.listen, config.admin);
            problems.push(self.problem(&["admin", "listen"], message));
        }
        let mut urls = BTreeSet::new();
        for (server, upstream) in servers {
            let key = place(*server, "upstream.url");
            let url = upstream.url.as_deref().and_then(|url| Url::parse(url).ok());
            let target = url.as_ref().and_then(target);
            if self.good(&["listen", &key]) && target.is_some_and(|to| collide(config.listen, to)) {
                let message = format!("points back at rejoinder's own listen address ({})", config.listen);
                problems.push(self.problem(&[&key], message));
            }
            if url.is_some_and(|url| !urls.insert(url.to_string())) {
                problems.push(self.problem(&[&key], "names a server that is already listed above"));
            }
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

    /// The keys that `auth.mode` asks for.
    fn client_keys(&self, config: &Config) -> Result<ClientKeys, Problem> {
        match (config.auth.mode, config.auth.keys_file.as_deref()) {
            (AuthMode::Keys, Some(path)) => {
                ClientKeys::read(path).map_err(|message| self.problem(&["auth.keys_file"], message))
            }
            (AuthMode::Keys, None) => {
                let message = "auth.mode = \"keys\" needs auth.keys_file (make one: rejoinder keys add NAME --file FILE)";
                Err(self.problem(&["auth.mode"], message))
            }
            (AuthMode::Pass | AuthMode::None, _) => Ok(ClientKeys::off()),
        }
    }

    /// Who asks nothing of clients is not to be reached from other machines by mistake.
    fn open_to_all(&self, config: &Config) -> Option<Problem> {
        open_to_all(&config.auth, config.listen)
            .map(|message| self.problem(&["auth.mode", "listen"], message))
    }

    /// A PROXY header is taken from trusted proxies alone.
    fn proxies(&self, config: &Config) -> Option<Problem> {
        let nobody = config.proxy_protocol == ProxyProtocol::Required && config.trusted_proxies.is_empty();
        let message = "proxy_protocol = \"required\" needs trusted_proxies: the addresses of the proxies that send the header";
        (nobody && self.good(&["trusted_proxies"])).then(|| self.problem(&["proxy_protocol"], message))
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
/// What is wrong where nothing is asked of clients on that address.
pub fn open_to_all(auth: &AuthConfig, listen: SocketAddr) -> Option<String> {
    let open = auth.mode == AuthMode::None && !auth.allow_remote && !listen.ip().is_loopback();
    open.then(|| {
        format!(
            "auth.mode = \"none\" with listen = \"{listen}\" would let every machine call that reaches this address; use \
             auth.mode = \"keys\", or allow it by auth.allow_remote = true"
        )
    })
}

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
