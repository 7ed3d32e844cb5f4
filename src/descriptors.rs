//! Owns the count of this process's file descriptors: the limit is raised at the start, a reserve is kept for what must go
//! on when they run out (health checks, the store), and a lack is told once. It must not open anything that stays open.

#[cfg(unix)]
use std::fs::File;
use std::io;
#[cfg(unix)]
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// "Too many open files", in this process and on the machine: EMFILE and ENFILE, the same on every Unix.
#[cfg(unix)]
const LACKS: [i32; 2] = [24, 23];
/// No more sockets, no room for one: WSAEMFILE and WSAENOBUFS.
#[cfg(windows)]
const LACKS: [i32; 2] = [10_024, 10_055];
/// Most descriptors that are kept for what must go on.
#[cfg(unix)]
const MOST_RESERVED: u64 = 64;
/// How long a lack makes us not ready, and how long one without another is over.
const RECENT: Duration = Duration::from_secs(5);

/// How many there may be.
static LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);
/// When one was last lacking.
static LACK: Mutex<Option<Instant>> = Mutex::new(None);

/// What a descriptor is wanted for. The kernel gives the lowest free number: how high it is tells how many are in use.
#[derive(Clone, Copy)]
pub enum Use {
    /// A client's connection: an eighth of all is left to the connections that its requests will want.
    Client,
    /// A connection to an upstream.
    Upstream,
}

/// Raises the soft limit to the hard one, and notes it.
#[cfg(unix)]
pub fn raise() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => {
            LIMIT.store(limit, Ordering::Relaxed);
            tracing::debug!(limit, "file descriptors");
        }
        Err(error) => tracing::warn!(%error, "cannot raise the limit of file descriptors"),
    }
}

/// Whether that one leaves those reserved alone.
#[cfg(unix)]
pub fn within(descriptor: &impl AsRawFd, wanted: Use) -> bool {
    let limit = LIMIT.load(Ordering::Relaxed);
    let reserved = MOST_RESERVED.min(limit / 8);
    let left = match wanted {
        Use::Client => limit / 8,
        Use::Upstream => 0,
    };
    u64::try_from(descriptor.as_raw_fd()).is_ok_and(|descriptor| descriptor < limit - reserved - left)
}

/// Whether there is one to be had now.
#[cfg(unix)]
pub fn available(wanted: Use) -> bool {
    match File::open("/dev/null") {
        Ok(file) => within(&file, wanted),
        Err(error) => !is_lack(&error),
    }
}

/// Does nothing: the number of sockets has no limit of its own on Windows.
#[cfg(windows)]
pub fn raise() {}

/// Always: no number of sockets is reserved on Windows, where their handles are no count of them.
#[cfg(windows)]
pub fn within<S>(_: &S, _: Use) -> bool {
    true
}

/// Always: a lack shows when a socket is opened.
#[cfg(windows)]
pub fn available(_: Use) -> bool {
    true
}

/// Whether that error is the lack of one.
pub fn is_lack(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| LACKS.contains(&code))
}

/// Notes that there was none to be had; the first time, in the log too.
pub fn lacking() {
    let mut lack = LACK.lock().unwrap_or_else(PoisonError::into_inner);
    if lack.is_none_or(|last| last.elapsed() > RECENT) {
        let limit = LIMIT.load(Ordering::Relaxed);
        tracing::error!(limit, "out of file descriptors: raise the limit (ulimit -n, LimitNOFILE)");
    }
    *lack = Some(Instant::now());
}

/// Whether that was just now.
pub fn lacked() -> bool {
    let lack = LACK.lock().unwrap_or_else(PoisonError::into_inner);
    lack.is_some_and(|last| last.elapsed() <= RECENT)
}
