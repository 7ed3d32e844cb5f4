//! Owns where a server's paths are. It must not ask for any.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::{redact_url, split_url};

/// Below what OpenAI has its API.
const USUAL: &str = "/v1";

/// Where a server is: its root, and the path of its API below that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Without a trailing slash.
    pub root: Arc<str>,
    /// `/v1`, `/v3`, `/v1beta/openai`; empty where the API is at the root.
    api: Arc<str>,
}

impl Address {
    /// `url`: a base URL as the configuration keeps it.
    pub fn of(url: &str) -> Address {
        let (root, api) = split_url(url);
        Address { root: root.into(), api: api.into() }
    }

    /// The same server with its API at the root.
    pub fn without_version(&self) -> Address {
        Address { root: self.root.clone(), api: "".into() }
    }

    /// Whether the API's path is the usual one, which nobody need have named.
    pub fn is_usual(&self) -> bool {
        &*self.api == USUAL
    }

    /// The path, below the root, of what OpenAI has at `path`; what is not below `/v1` stays as it is.
    pub fn path<'p>(&self, path: &'p str) -> Cow<'p, str> {
        match path.strip_prefix(USUAL).filter(|rest| rest.starts_with('/')) {
            Some(rest) if !self.is_usual() => Cow::Owned([&*self.api, rest].concat()),
            _ => Cow::Borrowed(path),
        }
    }

    /// The whole URL of the same.
    pub fn url(&self, path: &str) -> String {
        [&*self.root, &*self.path(path)].concat()
    }

    /// For people: without user and password, and without what is usual.
    pub fn label(&self) -> String {
        let api = if self.is_usual() { "" } else { &*self.api };
        redact_url(&[&*self.root, api].concat())
    }
}

/// A label without its scheme: host and port, and what follows.
pub fn host_of_label(label: &str) -> &str {
    label.split_once("://").map_or(label, |(_, place)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_api_are_below_its_version_and_others_below_the_root() {
        let at = |url: &str, path: &str| Address::of(url).url(path);
        assert_eq!(at("http://a", "/v1/chat/completions"), "http://a/v1/chat/completions");
        assert_eq!(at("http://a/v3", "/v1/chat/completions"), "http://a/v3/chat/completions");
        assert_eq!(at("http://a/v1beta/openai", "/v1/models?x=1"), "http://a/v1beta/openai/models?x=1");
        assert_eq!(at("http://a/inference/chat/completions", "/v1/models"), "http://a/inference/models");
        assert_eq!(at("http://a/v3", "/props"), "http://a/props");
        assert_eq!(at("http://a/v3", "/v1x"), "http://a/v1x");
        assert_eq!(Address::of("http://u:p@a/api/v3").label(), "http://***@a/api/v3");
        assert_eq!(Address::of("http://a").without_version().url("/v1/models"), "http://a/models");
    }
}
