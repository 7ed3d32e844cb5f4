//! Owns what the service manager (systemd, or what speaks its protocol) is told of the process: that it serves, reads its
//! configuration again, ends, and still lives. Without one, nothing is told. It must not know what brings these about.

#[cfg(unix)]
mod platform {
    use std::time::Duration;

    use sd_notify::NotifyState;

    /// The process serves. `status` is one line for a person.
    pub fn ready(status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The configuration is read again; [`ready`] says when that is over.
    pub fn reloading() {
        let mut states = vec![NotifyState::Reloading];
        // asked for by systemd 253 and newer, ignored by older ones
        states.extend(NotifyState::monotonic_usec_now());
        tell(&states);
    }

    /// The process ends, within `longest`.
    pub fn stopping(status: &str, longest: Duration) {
        let longest = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::Stopping, NotifyState::Status(status), NotifyState::ExtendTimeoutUsec(longest)]);
    }

    /// Says that the process lives as often as it is asked for, for ever; ends at once where it is not asked for.
    pub async fn watchdog() {
        let Some(longest) = sd_notify::watchdog_enabled() else { return };
        loop {
            tell(&[NotifyState::Watchdog]);
            tokio::time::sleep(longest / 2).await;
        }
    }

    fn tell(states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!(%error, "cannot tell the service manager (NOTIFY_SOCKET)");
        }
    }
}

#[cfg(not(unix))]
mod platform {
    use std::time::Duration;

    /// There is nobody to tell.
    pub fn ready(_status: &str) {}

    /// There is nobody to tell.
    pub fn reloading() {}

    /// There is nobody to tell.
    pub fn stopping(_status: &str, _longest: Duration) {}

    /// Ends at once.
    pub async fn watchdog() {}
}

pub use platform::{ready, reloading, stopping, watchdog};
