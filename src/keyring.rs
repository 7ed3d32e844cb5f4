//! Owns the proxy's secret keys: who a caller is (a keyed hash of what it authenticates with), and the sealing of what
//! a client carries for us. It must not keep a credential, nor put a key or a credential into a message.
//!
//! A sealed blob is base64url of `1`, 4 bytes that name the key, 16 random bytes, and AES-256-GCM of the text. Its
//! key is HMAC-SHA-256 of purpose, caller and those random bytes under the named key: it serves for that one blob, and
//! a blob opens for the caller and the purpose that it was made for alone.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderMap;
use rejoinder_core::sealing::{Purpose, Seal};

use crate::hex;
use crate::scope::Scope;

const VERSION: u8 = 1;
const ID: usize = 4;
const SALT: usize = 16;

/// The keys, the one that seals first; every one of them opens.
pub struct Keyring {
    keys: Vec<Key>,
    /// Who sends no credential, and whose records are its: found once, since a server of one's own asks for none.
    nobody: ([u8; 32], Scope),
}

struct Key {
    id: [u8; ID],
    mac: hmac::Key,
}

/// Whoever sends a request, known by its credential headers.
#[derive(Clone)]
pub struct Caller {
    keyring: Arc<Keyring>,
    /// SHA-256 over the credential headers.
    identity: [u8; 32],
    /// Found when it is asked for: what is not stored needs none.
    scope: OnceLock<Scope>,
}

impl Keyring {
    /// One key that nobody else has, for as long as the process lives.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate() -> Result<Keyring, String> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| format!("the system has no random numbers: {error}"))?;
        Ok(Keyring::of(vec![Key::new(&bytes)]))
    }

    /// The keys of a file: one a line, 32 bytes each in base64 or hexadecimal; empty lines and `#` lines are skipped.
    ///
    /// # Errors
    /// What is wrong with the file, by line number.
    pub fn read(path: &Path) -> Result<Keyring, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let lines = text.lines().map(str::trim).enumerate();
        let keys: Vec<Key> = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(n, line)| {
                let bytes = decode(line).filter(|bytes| bytes.len() == 32).ok_or_else(|| {
                    let (line, path) = (n + 1, path.display());
                    format!(
                        "line {line} of {path} is not 32 bytes in base64 (make one: openssl rand -base64 32)"
                    )
                })?;
                Ok(Key::new(&bytes))
            })
            .collect::<Result<_, String>>()?;
        match keys.is_empty() {
            true => Err(format!("{} holds no key", path.display())),
            false => Ok(Keyring::of(keys)),
        }
    }

    /// Who sent these headers: its credential, wherever clients put one, with organization and project beside it. No
    /// credential is a caller of its own.
    pub fn caller(self: &Arc<Self>, headers: &HeaderMap) -> Caller {
        let mut values: Values<'_> = Values::default();
        for (name, value) in headers {
            let of_it =
                CREDENTIALS.iter().zip(&mut values).find(|(credential, _)| name.as_str() == **credential);
            if let Some((_, first)) = of_it {
                first.get_or_insert(value.as_bytes());
            }
        }
        let (identity, scope) = match values.iter().all(Option::is_none) {
            true => (self.nobody.0, OnceLock::from(self.nobody.1)),
            false => (identity(&values), OnceLock::new()),
        };
        Caller { keyring: self.clone(), identity, scope }
    }

    fn of(keys: Vec<Key>) -> Keyring {
        let nobody = identity(&Values::default());
        let scope = scope(&keys, &nobody);
        Keyring { keys, nobody: (nobody, scope) }
    }
}

/// SHA-256 over the values of [`CREDENTIALS`].
fn identity(values: &Values<'_>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for value in values.map(Option::unwrap_or_default) {
        // the length keeps one header's end apart from the next one's beginning
        context.update(&(value.len() as u64).to_be_bytes());
        context.update(value);
    }
    let mut identity = [0; 32];
    identity.copy_from_slice(context.finish().as_ref());
    identity
}

/// Whose records are this one's. It hangs on the last key of the file, so that a new first key changes no name.
fn scope(keys: &[Key], identity: &[u8]) -> Scope {
    let mut scope = [0; 16];
    if let Some(key) = keys.last() {
        let mut mac = hmac::Context::with_key(&key.mac);
        mac.update(b"rejoinder scope\0");
        mac.update(identity);
        let tag = mac.sign();
        scope.copy_from_slice(tag.as_ref().get(..16).unwrap_or(&[0; 16]));
    }
    Scope(scope)
}

/// The first value of each of [`CREDENTIALS`].
type Values<'a> = [Option<&'a [u8]>; NAMES];

const NAMES: usize = 5;
/// What tells callers apart.
const CREDENTIALS: [&str; NAMES] =
    ["authorization", "x-api-key", "api-key", "openai-organization", "openai-project"];

impl Key {
    fn new(bytes: &[u8]) -> Key {
        let mac = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let mut id = [0; ID];
        id.copy_from_slice(hmac::sign(&mac, b"rejoinder key id").as_ref().get(..ID).unwrap_or(&[0; ID]));
        Key { id, mac }
    }

    fn blob_key(&self, purpose: &str, identity: &[u8], salt: &[u8]) -> Option<LessSafeKey> {
        let mut mac = hmac::Context::with_key(&self.mac);
        mac.update(b"rejoinder seal 1\0");
        mac.update(purpose.as_bytes());
        mac.update(b"\0");
        mac.update(identity);
        mac.update(salt);
        UnboundKey::new(&AES_256_GCM, mac.sign().as_ref()).ok().map(LessSafeKey::new)
    }

    fn seal(&self, purpose: &str, identity: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).ok()?;
        let key = self.blob_key(purpose, identity, &salt)?;
        let mut sealed = text.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut sealed)
            .ok()?;
        let mut blob = Vec::with_capacity(1 + ID + SALT + sealed.len());
        blob.push(VERSION);
        blob.extend_from_slice(&self.id);
        blob.extend_from_slice(&salt);
        blob.extend_from_slice(&sealed);
        Some(blob)
    }
}

impl Keyring {
    fn open(&self, purpose: &str, identity: &[u8], blob: &[u8]) -> Option<Vec<u8>> {
        let (version, rest) = blob.split_first()?;
        let (id, rest) = rest.split_at_checked(ID)?;
        let (salt, sealed) = rest.split_at_checked(SALT)?;
        let key = self.keys.iter().find(|key| key.id == id).filter(|_| *version == VERSION)?;
        let key = key.blob_key(purpose, identity, salt)?;
        let mut text = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let length = key.open_in_place(nonce, Aad::empty(), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }

    /// Seals a store's record, whose name stands for the caller.
    pub fn seal_record(&self, name: &str, record: &[u8]) -> Option<Vec<u8>> {
        self.keys.first()?.seal("record", name.as_bytes(), record)
    }

    /// Opens what [`Keyring::seal_record`] made under the same name.
    pub fn open_record(&self, name: &str, blob: &[u8]) -> Option<Vec<u8>> {
        self.open("record", name.as_bytes(), blob)
    }
}

impl Caller {
    /// Whose records these are.
    pub fn scope(&self) -> Scope {
        *self.scope.get_or_init(|| scope(&self.keyring.keys, &self.identity))
    }

    /// A number that no other caller has, for as long as the process lives: never to be shown.
    pub fn number(&self) -> u64 {
        self.identity.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }
}

impl Seal for Caller {
    fn seal(&self, purpose: Purpose, text: &str) -> Option<String> {
        let blob = self.keyring.keys.first()?.seal(purpose.name(), &self.identity, text.as_bytes())?;
        Some(URL_SAFE_NO_PAD.encode(blob))
    }

    fn open(&self, purpose: Purpose, blob: &str) -> Option<String> {
        let blob = URL_SAFE_NO_PAD.decode(blob).ok()?;
        String::from_utf8(self.keyring.open(purpose.name(), &self.identity, &blob)?).ok()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(..)")
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Caller(..)")
    }
}

fn decode(line: &str) -> Option<Vec<u8>> {
    if let Some(bytes) = hex::decode(line).filter(|_| line.len() == 64) {
        return Some(bytes);
    }
    STANDARD.decode(line).or_else(|_| URL_SAFE_NO_PAD.decode(line.trim_end_matches('='))).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn ring(lines: &[String]) -> Arc<Keyring> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "# keys\n\n{}", lines.join("\n")).unwrap();
        Arc::new(Keyring::read(file.path()).unwrap())
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair =
            |(name, value): &(&'static str, &'static str)| (name.parse().unwrap(), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_blob_opens_for_its_caller_and_purpose_alone_and_survives_a_new_first_key() {
        let (old, new) = (STANDARD.encode([7; 32]), "0b".repeat(32));
        let first = ring(std::slice::from_ref(&old));
        let alice = first.caller(&headers(&[("authorization", "Bearer a")]));
        let blob = alice.seal(Purpose::Reasoning, "why").unwrap();
        assert_eq!(alice.open(Purpose::Reasoning, &blob).as_deref(), Some("why"));
        assert_eq!(alice.open(Purpose::Compaction, &blob), None);
        assert_ne!(alice.seal(Purpose::Reasoning, "why").unwrap(), blob, "each blob has a key of its own");
        for other in [
            vec![],
            vec![("authorization", "Bearer b")],
            vec![("authorization", "Bearer a"), ("openai-project", "p")],
        ] {
            assert_eq!(first.caller(&headers(&other)).open(Purpose::Reasoning, &blob), None, "{other:?}");
        }
        // one bit of any byte
        let bytes = URL_SAFE_NO_PAD.decode(&blob).unwrap();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert_eq!(alice.open(Purpose::Reasoning, &URL_SAFE_NO_PAD.encode(&bytes)), None, "byte {at}");
        }
        let rotated = ring(&[new.clone(), old]).caller(&headers(&[("authorization", "Bearer a")]));
        assert_eq!(rotated.open(Purpose::Reasoning, &blob).as_deref(), Some("why"));
        assert_eq!(rotated.scope(), alice.scope());
        let gone = ring(&[new]).caller(&headers(&[("authorization", "Bearer a")]));
        assert_eq!(gone.open(Purpose::Reasoning, &blob), None);
    }

    #[test]
    fn callers_differ_by_every_credential_and_no_two_headers_run_together() {
        let ring = Arc::new(Keyring::generate().unwrap());
        let all = [
            vec![],
            vec![("authorization", "Bearer a")],
            vec![("x-api-key", "Bearer a")],
            vec![("api-key", "Bearer a")],
            vec![("authorization", "Bearer a"), ("openai-organization", "o")],
            vec![("authorization", "Bearer a"), ("openai-project", "o")],
            vec![("authorization", "Bearer a"), ("x-api-key", "o")],
        ];
        let scopes: std::collections::HashSet<String> =
            all.iter().map(|pairs| ring.caller(&headers(pairs)).scope().hex()).collect();
        assert_eq!(scopes.len(), all.len());
    }

    #[test]
    fn a_bad_file_is_named_by_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{}\nshort", STANDARD.encode([1; 32])).unwrap();
        let error = Keyring::read(file.path()).unwrap_err();
        assert!(error.starts_with("line 2 of "), "{error}");
        assert!(!error.contains("short"), "{error}");
    }
}
