//! Owns the reload of a changed configuration: when it is read again, and which keys take effect without a restart. It
//! must not touch a request.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::{Resolved, TlsConfig};
use crate::service_manager;
use crate::signals::Reload;
use crate::upstream::Upstream;

/// Time between two checks of the files: a change is noticed within seconds, without the dependencies of a file watcher.
const LOOK: Duration = Duration::from_secs(2);

/// Reads the configuration again on SIGHUP and whenever one of its files changes, for ever. The upstream servers change
/// at once; any other key is named in the log as one that waits for a restart. What is wrong is logged, and everything
/// stays as it is.
pub async fn watch(upstream: Upstream, mut current: Resolved) {
    let mut hangup = match Reload::new() {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::warn!(%error, "cannot handle SIGHUP, the configuration is not read again");
            return;
        }
    };
    let mut seen = stamps(&current);
    loop {
        let asked = tokio::select! {
            () = hangup.next() => true,
            () = tokio::time::sleep(LOOK) => false,
        };
        let now = stamps(&current);
        if !asked && now == seen {
            continue;
        }
        service_manager::reloading();
        match current.again() {
            Ok(next) => {
                let waiting = current.changed_keys(&next);
                if !waiting.is_empty() {
                    tracing::warn!(
                        keys = waiting.join(", "),
                        "changed keys that take effect after a restart"
                    );
                }
                if let (Some(tls), Some(new)) = (&current.tls, &next.tls) {
                    tls.adopt(new);
                }
                if let Err(error) = current.client_keys.reload() {
                    tracing::error!(error, "the API keys stay as they were");
                }
                match upstream.reload(&next.servers) {
                    Ok(()) => tracing::info!(upstreams = next.servers.len(), "configuration read again"),
                    Err(error) => tracing::error!(error, "the configuration stays as it was"),
                }
                // what waits for a restart is compared with what is in force
                let mut next = next;
                if current.tls.is_some() == next.tls.is_some() {
                    let admin = current.config.tls.admin;
                    current.config.tls = TlsConfig { admin, ..next.config.tls };
                }
                next.config = current.config;
                next.tls = current.tls;
                next.client_keys = current.client_keys;
                current = next;
            }
            Err(problems) => {
                for problem in problems {
                    tracing::error!(%problem, "the changed configuration is invalid and stays as it was");
                }
            }
        }
        service_manager::ready("the configuration was read again");
        // what changed since it was looked at is seen at the next look
        seen = now;
    }
}

/// What tells that a file changed: when it was written, and how long it is.
fn stamps(resolved: &Resolved) -> Vec<(PathBuf, Option<(SystemTime, u64)>)> {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    resolved.files().into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}
