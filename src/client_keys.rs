//! Owns who may call: the named keys of `auth.keys_file`, of which the file has hashes alone, and what each may do. It must
//! not know a request's content, nor put a key into a message.
//!
//! A key is 32 random bytes, so one SHA-256 of it is as good as a slow hash: nobody can try them all. A key is found by
//! that hash, so how long it takes tells nothing of the keys that there are.

mod file;
mod limits;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use rejoinder_core::error::{Error, Kind};
use wildmatch::WildMatch;

pub use file::{NewKey, add, names};
pub use limits::KeyRequest;

use limits::Usage;

/// SHA-256 of a key.
type Hash = [u8; 32];

/// What every key begins with, so that people and secret scanners know one.
const PREFIX: &str = "rj-";
/// The scheme of the `authorization` that stands for a key that was found. No client can send one that is taken for it: what
/// clients send is replaced.
const FOUND: &str = "Rejoinder-Key ";
/// Where clients put a key beside `authorization`.
const OTHER_CREDENTIALS: [&str; 2] = ["x-api-key", "api-key"];

/// One key: who has it, and what it may do.
#[derive(Debug)]
pub struct ClientKey {
    /// Its name, for logs and metrics.
    pub name: String,
    /// Patterns of the models that it may name; `None`: every model.
    models: Option<Vec<WildMatch>>,
    /// Patterns of the upstream servers that it may use, by host and port; `None`: every server.
    pub upstreams: Option<Arc<[WildMatch]>>,
    /// Its waiting requests are served before those of a key with a lower one.
    pub priority: i32,
    /// A number that no other key has.
    pub number: u64,
    expires: Option<SystemTime>,
    usage: Arc<Usage>,
}

impl ClientKey {
    fn has_expired(&self) -> bool {
        self.expires.is_some_and(|expires| SystemTime::now() >= expires)
    }

    /// Whether it may name that model.
    pub fn may_use(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|pattern| pattern.matches(model)))
    }

    /// Refuses a model that it may not name, in the words for one that does not exist.
    ///
    /// # Errors
    /// 404 that names `model`.
    pub fn check_model(&self, model: &str) -> Result<(), Error> {
        if self.may_use(model) {
            return Ok(());
        }
        let message = format!("The model '{model}' does not exist or you do not have access to it.");
        Err(Error::new(Kind::NotFound, message).param("model").code_as("model_not_found"))
    }

    /// Refuses what is passed on unread, where its model or its tokens would have to be known.
    ///
    /// # Errors
    /// 403 that says why.
    pub fn check_unread(&self) -> Result<(), Error> {
        let limited = match (&self.models, self.usage.counts_tokens()) {
            (None, false) => return Ok(()),
            (Some(_), _) => "models",
            (None, true) => "tokens",
        };
        let message = format!(
            "This API key is limited to some {limited}, so it cannot be used for paths that are passed on unread; use /v1/responses."
        );
        Err(Error::new(Kind::Forbidden, message).code_as("path_not_allowed"))
    }

    /// Begins a request.
    ///
    /// # Errors
    /// 429 that names the limit, with the seconds after which to try again.
    pub fn begin(self: &Arc<Self>) -> Result<KeyRequest, Error> {
        limits::begin(self)
    }

    /// What it has left, as `x-ratelimit-*` headers.
    pub fn rate_headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        self.usage.headers()
    }
}

/// The keys that may call; with none of them anybody may.
#[derive(Debug, Default)]
pub struct ClientKeys {
    /// The file of the keys; `None`: no key is asked for.
    path: Option<PathBuf>,
    keys: RwLock<Arc<HashMap<Hash, Arc<ClientKey>>>>,
}

impl ClientKeys {
    /// Asks for no key.
    pub fn off() -> ClientKeys {
        ClientKeys::default()
    }

    /// The keys of a file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(path: &Path) -> Result<ClientKeys, String> {
        let keys = file::read(path, &HashMap::new())?;
        Ok(ClientKeys { path: Some(path.to_owned()), keys: RwLock::new(Arc::new(keys)) })
    }

    /// Reads the file again. What a key has used of its limits stays as it is; requests that run go on.
    ///
    /// # Errors
    /// What is wrong with the file, or that nothing at all is in it, as while it is written anew: then the keys stay as
    /// they were.
    pub fn reload(&self) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let keys = Arc::new(file::read(path, &self.keys())?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// Whether a key is asked for.
    pub fn are_on(&self) -> bool {
        self.path.is_some()
    }

    /// Lets a request in that has a key, and puts what stands for that key in the place of its credentials. Gives the key;
    /// `None` if no key is asked for.
    ///
    /// # Errors
    /// 401 without a key, or with one that is not known or has expired.
    pub fn admit(&self, headers: &mut HeaderMap) -> Result<Option<Arc<ClientKey>>, Error> {
        if !self.are_on() {
            return Ok(None);
        }
        let Some(hash) = credential(headers).map(|key| hash(key.as_bytes())) else {
            let message = "No API key was provided. Send one that this server's operator gave you: \
                           Authorization: Bearer YOUR_KEY.";
            return Err(Error::new(Kind::Unauthorized, message));
        };
        let Some(key) = self.keys().get(&hash).cloned() else {
            return Err(Error::new(Kind::Unauthorized, "Incorrect API key provided."));
        };
        if key.has_expired() {
            return Err(Error::new(Kind::Unauthorized, "This API key has expired."));
        }
        for name in OTHER_CREDENTIALS {
            headers.remove(name);
        }
        let found = [FOUND, &URL_SAFE_NO_PAD.encode(hash)].concat();
        let mut found = HeaderValue::try_from(found)
            .map_err(|error| Error::new(Kind::Internal, "The key was lost.").detail(error))?;
        found.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, found);
        Ok(Some(key))
    }

    /// The key of a request that was let in.
    pub fn of(&self, headers: &HeaderMap) -> Option<Arc<ClientKey>> {
        if !self.are_on() {
            return None;
        }
        let found = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix(FOUND)?;
        let hash: Hash = URL_SAFE_NO_PAD.decode(found).ok()?.try_into().ok()?;
        self.keys().get(&hash).cloned()
    }

    /// The same where the key may have gone or expired since: the file is read again at any time, and a connection stays.
    ///
    /// # Errors
    /// 401 without a key that is still good.
    pub fn still(&self, headers: &HeaderMap) -> Result<Option<Arc<ClientKey>>, Error> {
        let key = self.of(headers);
        let good = key.as_ref().is_some_and(|key| !key.has_expired());
        if self.are_on() && !good {
            let message =
                "The API key of this connection is no longer good; open another connection with a new one.";
            return Err(Error::new(Kind::Unauthorized, message));
        }
        Ok(key)
    }

    fn keys(&self) -> Arc<HashMap<Hash, Arc<ClientKey>>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The key that a request comes with, wherever its client puts one.
fn credential(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let others = OTHER_CREDENTIALS.iter().filter_map(|name| headers.get(*name)?.to_str().ok());
    bearer.into_iter().chain(others).find(|key| !key.is_empty())
}

fn hash(key: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_became_wrong_changes_nothing_and_a_right_one_keeps_what_was_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clients.toml");
        let new = NewKey { name: "anna".to_owned(), max_in_flight: Some(1), ..NewKey::default() };
        let key = add(&path, &new).unwrap();
        let keys = ClientKeys::read(&path).unwrap();
        let admitted = || {
            let mut headers = HeaderMap::new();
            headers.insert("x-api-key", key.parse().unwrap());
            let key = keys.admit(&mut headers)?.unwrap();
            assert!(headers.get("x-api-key").is_none());
            assert!(Arc::ptr_eq(&key, &keys.of(&headers).unwrap()));
            Ok::<_, Error>(key)
        };
        let running = admitted().unwrap().begin().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        // broken, or not written yet
        for wrong in ["[[key]]", "", "\n"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(keys.reload().is_err(), "{wrong:?}");
            assert_eq!(admitted().unwrap().name, "anna");
        }
        std::fs::write(&path, text.replace("anna", "anne")).unwrap();
        keys.reload().unwrap();
        assert_eq!(admitted().unwrap().name, "anne");
        assert!(admitted().unwrap().begin().is_err(), "the request that runs still counts");
        drop(running);
        assert!(admitted().unwrap().begin().is_ok());
        std::fs::write(&path, "# nobody may call\n").unwrap();
        keys.reload().unwrap();
        assert!(admitted().is_err());
    }
}
