//! A file of API keys for a test, and the proxy that asks for them.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use super::proxy::Proxy;

/// A file of keys, in a folder that ends with it.
pub struct Keys {
    dir: TempDir,
}

impl Keys {
    pub fn new() -> Keys {
        Keys { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> String {
        self.dir.path().join("clients.toml").to_str().unwrap().to_owned()
    }

    /// What `rejoinder keys add` prints.
    pub fn add(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rejoinder"));
        command.args(["keys", "add", "--file", &self.path()]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A proxy in front of that upstream which asks for one of the keys.
    pub async fn proxy(&self, at: SocketAddr) -> Proxy {
        self.proxy_with(&["--upstream", &format!("http://{at}")], &[]).await
    }

    /// The same with these arguments and further variables.
    pub async fn proxy_with(&self, args: &[&str], env: &[(&str, &str)]) -> Proxy {
        let path = self.path();
        let keys = [("REJOINDER_AUTH__MODE", "keys"), ("REJOINDER_AUTH__KEYS_FILE", path.as_str())];
        Proxy::with(args, &[&keys, env].concat(), true).await
    }
}
