//! Owns the place for work that takes long because it is about many bytes: beside the threads that carry streams, a few
//! pieces at a time, so that no stream waits for it. What is about few bytes is done where it comes up. It must not know
//! what the work is.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, Semaphore};

/// Bytes from which on work is done elsewhere. What is less takes some ten milliseconds at most, and to hand it over costs a
/// fifth more CPU: other threads have other caches, and what they free is mapped anew.
pub const LARGE: usize = 10 << 20;

/// Half of the cores: the others are the streams'.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))));

/// Told of work that is over.
static OVER: Notify = Notify::const_new();
/// Bytes from which on the work may leave memory behind that can be given back.
const NOTABLE: usize = 256 << 10;
/// Bytes of many small pieces that may leave as much behind.
const MANY: usize = 16 << 20;
/// Time without such work after which its memory is given back: work that follows soon would have to map it again.
const QUIET: Duration = Duration::from_secs(10);

/// Gives memory back to the system once work has been over for a while, for ever. The C library keeps what many small
/// pieces took: a body of two million numbers would cost its memory until the next start.
pub async fn give_memory_back() {
    loop {
        OVER.notified().await;
        while tokio::time::timeout(QUIET, OVER.notified()).await.is_ok() {}
        let _ = tokio::task::spawn_blocking(heap::trim).await;
    }
}

/// Does what is about so many bytes, in its turn if they are many.
pub async fn run<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes < LARGE {
        return aside(bytes, work);
    }
    let _turn = TURNS.acquire().await;
    aside(bytes, work)
}

/// The same without a turn, for what cannot wait for one.
pub fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    // a runtime of one thread, as tests have it, has nobody to hand over to
    let many = |runtime: Handle| runtime.runtime_flavor() == RuntimeFlavor::MultiThread;
    let done = match bytes >= LARGE && Handle::try_current().is_ok_and(many) {
        true => tokio::task::block_in_place(work),
        false => work(),
    };
    if bytes >= NOTABLE {
        OVER.notify_one();
    }
    done
}

/// Notes that so many bytes were freed in small pieces, or soon will be.
pub fn freed(bytes: usize) {
    static SO_FAR: AtomicUsize = AtomicUsize::new(0);
    let before = SO_FAR.fetch_add(bytes, Ordering::Relaxed);
    if before.saturating_add(bytes) >= MANY {
        SO_FAR.store(0, Ordering::Relaxed);
        OVER.notify_one();
    }
}

/// Frees what holds so many bytes: to unmap them takes long as well.
pub fn let_go<T: Send + 'static>(bytes: usize, what: T) {
    if bytes >= LARGE
        && let Ok(runtime) = Handle::try_current()
    {
        runtime.spawn_blocking(move || {
            drop(what);
            OVER.notify_one();
        });
    }
}
