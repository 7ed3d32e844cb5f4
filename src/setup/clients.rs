//! Owns which clients there are, and what each is told. It must not read or write their files.

use std::path::PathBuf;

use super::setting::Setting;
use super::{ClientName, Env, Proxy, codex, droid, openai, opencode, vscode};

/// What this client is told of this proxy.
pub fn setting(client: ClientName, proxy: &Proxy, env: &Env, keep_default: bool) -> Result<Setting, String> {
    match client {
        ClientName::Codex => codex::setting(proxy, env, keep_default),
        ClientName::Droid => droid::setting(proxy, env),
        ClientName::Opencode => opencode::setting(proxy, env, keep_default),
        ClientName::Vscode => vscode::setting(proxy, env),
        ClientName::Openai => Ok(openai::setting(proxy)),
    }
}

/// Every file of this client that may have been written.
pub fn files(client: ClientName, env: &Env) -> Result<Vec<PathBuf>, String> {
    match client {
        ClientName::Codex => codex::files(env).map(Vec::from),
        ClientName::Droid => Ok(vec![droid::file(env)?]),
        ClientName::Opencode => opencode::files(env).map(Vec::from),
        ClientName::Vscode => Ok(vec![vscode::file(env)?]),
        ClientName::Openai => {
            Err("there is no file to restore: nothing is ever written for openai".to_owned())
        }
    }
}
