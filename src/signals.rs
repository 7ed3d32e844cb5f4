//! Owns the signals that the process reacts to, on each platform. It must not know what they bring about.

#[cfg(unix)]
mod platform {
    use std::io;

    use tokio::signal::unix::{Signal, SignalKind, signal};

    /// SIGTERM and SIGINT as one.
    pub struct Stop {
        terminate: Signal,
        interrupt: Signal,
    }

    impl Stop {
        /// Takes both signals over from now on.
        ///
        /// # Errors
        /// The system's, if it refuses.
        pub fn new() -> io::Result<Stop> {
            Ok(Stop {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }

        /// Waits for the next of them.
        pub async fn next(&mut self) {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        }
    }

    /// SIGHUP, which asks for the configuration to be read again.
    pub struct Reload(Signal);

    impl Reload {
        /// Takes SIGHUP over from now on.
        ///
        /// # Errors
        /// The system's, if it refuses.
        pub fn new() -> io::Result<Reload> {
            signal(SignalKind::hangup()).map(Reload)
        }

        /// Waits for the next one.
        pub async fn next(&mut self) {
            self.0.recv().await;
        }
    }
}

#[cfg(windows)]
mod platform {
    use std::io;

    use tokio::signal::windows::{CtrlC, CtrlClose, CtrlShutdown, ctrl_c, ctrl_close, ctrl_shutdown};

    /// Ctrl-C, the end of the console and that of the system as one.
    pub struct Stop {
        interrupt: CtrlC,
        close: CtrlClose,
        shutdown: CtrlShutdown,
    }

    impl Stop {
        /// Takes these events over from now on.
        ///
        /// # Errors
        /// The system's, if it refuses.
        pub fn new() -> io::Result<Stop> {
            Ok(Stop { interrupt: ctrl_c()?, close: ctrl_close()?, shutdown: ctrl_shutdown()? })
        }

        /// Waits for the next of them.
        pub async fn next(&mut self) {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.close.recv() => {}
                _ = self.shutdown.recv() => {}
            }
        }
    }

    /// Windows has no such signal: it never comes.
    pub struct Reload;

    impl Reload {
        /// Always succeeds.
        ///
        /// # Errors
        /// Never.
        pub fn new() -> io::Result<Reload> {
            Ok(Reload)
        }

        /// Waits for ever, since there is no such signal.
        pub async fn next(&mut self) {
            std::future::pending().await
        }
    }
}

pub use platform::{Reload, Stop};
