//! Owns the file of the keys: what it may say, and how a new key gets into it. It must not decide who may call.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use figment::Figment;
use figment::providers::{Format, Toml};
use humantime_serde::re::humantime;
use serde::Deserialize;
use wildmatch::WildMatch;

use super::{ClientKey, Hash, PREFIX, hash};
use crate::hex;

/// What the hash of a key begins with, in the file.
const SHA256: &str = "sha256:";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<Entry>,
}

/// One `[[key]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    hash: String,
    models: Option<Vec<String>>,
    upstreams: Option<Vec<String>>,
    #[serde(default)]
    priority: i32,
    max_in_flight: Option<u32>,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u32>,
    expires: Option<String>,
}

/// The keys of a file by their hashes; a key that was `known` goes on with what it has used.
///
/// # Errors
/// What is wrong with the file, by the key's name; where keys are known, also that it is empty, as while it is written anew.
pub(super) fn read(
    path: &Path,
    known: &HashMap<Hash, Arc<ClientKey>>,
) -> Result<HashMap<Hash, Arc<ClientKey>>, String> {
    let shown = path.display();
    let mut keys = HashMap::new();
    let mut names = Vec::new();
    let text = text(path)?;
    if text.trim().is_empty() && !known.is_empty() {
        return Err(format!(
            "{shown} is empty, so the keys stay as they were; a comment in it ends them all"
        ));
    }
    for entry in parse(path, &text)? {
        let name = entry.name.clone();
        let hash = read_hash(&entry.hash).ok_or_else(|| {
            format!("{shown}: the hash of key {name:?} is not sha256: and 64 hexadecimal digits")
        })?;
        let usage = known.get(&hash).map(|key| key.usage.clone()).unwrap_or_default();
        usage.set_limits(entry.max_in_flight, entry.requests_per_minute, entry.tokens_per_minute);
        let expires = entry.expires.as_deref().map(time).transpose();
        let expires = expires.map_err(|error| format!("{shown}: expires of key {name:?}: {error}"))?;
        let patterns =
            |texts: Vec<String>| texts.iter().map(|text| WildMatch::new(text)).collect::<Vec<WildMatch>>();
        let models = entry.models.map(patterns);
        let upstreams = entry.upstreams.map(|texts| patterns(texts).into());
        let number = hash.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
        if names.contains(&name) {
            return Err(format!("{shown}: two keys have the name {name:?}"));
        }
        let key = ClientKey {
            name: name.clone(),
            models,
            upstreams,
            priority: entry.priority,
            number,
            expires,
            usage,
        };
        if keys.insert(hash, Arc::new(key)).is_some() {
            return Err(format!("{shown}: key {name:?} has the hash of another"));
        }
        names.push(name);
    }
    Ok(keys)
}

fn text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, String> {
    let shown = path.display();
    let file: File = Figment::from(Toml::string(text)).extract().map_err(|error| {
        format!("{shown}: {}", error.to_string().trim_end_matches(" in TOML source string"))
    })?;
    Ok(file.key)
}

fn read_hash(text: &str) -> Option<Hash> {
    hex::decode(text.strip_prefix(SHA256)?)?.try_into().ok()
}

/// A day (`2027-01-31`), which ends at its midnight, UTC; or a time (`2027-01-31T12:00:00Z`).
fn time(text: &str) -> Result<SystemTime, String> {
    let day = format!("{text}T00:00:00Z");
    let parsed = humantime::parse_rfc3339(text).or_else(|_| humantime::parse_rfc3339(&day));
    parsed.map_err(|_| {
        format!("expected a time such as \"2027-01-31\" or \"2027-01-31T12:00:00Z\", found {text:?}")
    })
}

/// What a new key may do; on the command line, its name and the options that limit it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct NewKey {
    /// Who gets the key; a name for logs and metrics
    #[arg(value_name = "NAME")]
    pub name: String,
    /// A model that it may use, or a pattern such as "qwen*"; may be repeated [default: every model]
    #[arg(long = "model", value_name = "PATTERN")]
    pub models: Vec<String>,
    /// An upstream that it may use, as host:port or a pattern; may be repeated [default: every upstream]
    #[arg(long = "allow-upstream", value_name = "PATTERN")]
    pub upstreams: Vec<String>,
    /// Its waiting requests are served before those of a key with a lower one [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Most requests at a time [default: any number]
    #[arg(long, value_name = "N")]
    pub max_in_flight: Option<u32>,
    /// Most requests a minute [default: any number]
    #[arg(long, value_name = "N")]
    pub requests_per_minute: Option<u32>,
    /// Most tokens a minute, of prompts and answers together [default: any number]
    #[arg(long, value_name = "N")]
    pub tokens_per_minute: Option<u32>,
    /// When it expires: 2027-01-31, or 2027-01-31T12:00:00Z [default: never]
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
}

/// Makes a key and appends its hash to the file, which is made where there is none (readable by its owner alone). Gives the
/// key, which is nowhere else.
///
/// # Errors
/// Why the file cannot be read or written; a name that it has already.
pub fn add(path: &Path, new: &NewKey) -> Result<String, String> {
    let shown = path.display();
    if new.name.trim().is_empty() || new.name.contains(char::is_control) {
        return Err("a key needs a name, of one line".to_owned());
    }
    if let Some(expires) = &new.expires {
        time(expires)?;
    }
    if path.exists() && names(path)?.contains(&new.name) {
        return Err(format!("{shown} has a key named {:?} already", new.name));
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("the system has no random numbers: {error}"))?;
    let key = [PREFIX, &URL_SAFE_NO_PAD.encode(bytes)].concat();
    let mut file = open(path).map_err(|error| format!("cannot write {shown}: {error}"))?;
    file.write_all(entry(new, &hash(key.as_bytes())).as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| format!("cannot write {shown}: {error}"))?;
    Ok(key)
}

/// The names of the keys of a file, in its order.
///
/// # Errors
/// What is wrong with the file.
pub fn names(path: &Path) -> Result<Vec<String>, String> {
    Ok(parse(path, &text(path)?)?.into_iter().map(|entry| entry.name).collect())
}

fn open(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A key's `[[key]]`, with an empty line before it.
fn entry(new: &NewKey, hash: &Hash) -> String {
    // JSON escapes what TOML does in a string, but for DEL, which is a control character
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text =
        format!("\n[[key]]\nname = {}\nhash = \"{SHA256}{}\"\n", quoted(&new.name), hex::encode(hash));
    for (name, patterns) in [("models", &new.models), ("upstreams", &new.upstreams)] {
        if !patterns.is_empty() {
            let patterns: Vec<String> = patterns.iter().map(|pattern| quoted(pattern)).collect();
            text.push_str(&format!("{name} = [{}]\n", patterns.join(", ")));
        }
    }
    let numbers = [
        ("priority", new.priority.map(i64::from)),
        ("max_in_flight", new.max_in_flight.map(i64::from)),
        ("requests_per_minute", new.requests_per_minute.map(i64::from)),
        ("tokens_per_minute", new.tokens_per_minute.map(i64::from)),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            text.push_str(&format!("{name} = {number}\n"));
        }
    }
    if let Some(expires) = &new.expires {
        text.push_str(&format!("expires = {}\n", quoted(expires)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clients.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_added_is_read_and_the_key_is_not_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clients.toml");
        let new = NewKey {
            name: "anna \"a\"".to_owned(),
            models: vec!["qwen*".to_owned(), "gemma".to_owned()],
            upstreams: vec!["127.0.0.1:*".to_owned()],
            priority: Some(-5),
            requests_per_minute: Some(60),
            expires: Some("2999-12-31".to_owned()),
            ..NewKey::default()
        };
        let key = add(&path, &new).unwrap();
        let other = add(&path, &NewKey { name: "ben".to_owned(), ..NewKey::default() }).unwrap();
        assert!(key.starts_with("rj-") && key.len() == 46 && key != other, "{key}");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&key) && !text.contains(&key[3..]), "{text}");
        let keys = read(&path, &HashMap::new()).unwrap();
        let anna = &keys[&hash(key.as_bytes())];
        assert_eq!(anna.name, "anna \"a\"");
        assert_eq!(anna.priority, -5);
        assert!(anna.upstreams.as_ref().unwrap()[0].matches("127.0.0.1:8080"));
        assert!(anna.may_use("qwen3") && anna.may_use("gemma") && !anna.may_use("llama"));
        assert!(keys[&hash(other.as_bytes())].may_use("llama"));
        assert_eq!(
            add(&path, &new).unwrap_err(),
            format!("{} has a key named \"anna \\\"a\\\"\" already", path.display())
        );
    }

    #[test]
    fn a_wrong_file_is_refused_by_name() {
        let hash = "0".repeat(64);
        for (text, want) in [
            ("[[key]]\nname = \"a\"\nhash = \"x\"".to_owned(), "hash of key \"a\""),
            (
                format!("[[key]]\nname = \"a\"\nhash = \"sha256:{hash}\"\nexpires = \"soon\""),
                "expires of key \"a\"",
            ),
            (format!("[[key]]\nname = \"a\"\nhash = \"sha256:{hash}\"\nmodel = \"m\""), "model"),
            (
                format!("[[key]]\nname = \"a\"\nhash = \"sha256:{hash}\"\n").repeat(2),
                "two keys have the name \"a\"",
            ),
            ("[[key]]\nname = \"a\"".to_owned(), "hash"),
            ("key = 1".to_owned(), "key"),
        ] {
            let (_dir, path) = file(&text);
            let error = read(&path, &HashMap::new()).unwrap_err();
            assert!(error.contains(want) && error.contains("clients.toml"), "{text}: {error}");
        }
    }
}
