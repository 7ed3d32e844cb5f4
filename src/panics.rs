//! Owns what becomes of a panic, which is a defect of this program: it ends one request, or one round of a background task,
//! and no more; it is counted, and logged once. What a panic says may repeat a part of a prompt: only its place in the source
//! is logged, and text that is part of the source.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::fmt::{self, Display};
use std::future::Future;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use rejoinder_core::error::{Error, Kind};

/// Time until a background task that panicked begins again.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 1000 });

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether a caller of [`catch`] will log a panic of this thread.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<Panicked>> = const { RefCell::new(None) };
}

/// A panic that was caught, without what must not be logged of it.
#[derive(Debug, Default)]
pub struct Panicked {
    place: String,
    backtrace: Option<Backtrace>,
}

impl Panicked {
    fn of(info: &PanicHookInfo<'_>) -> Panicked {
        let mut place = info.location().map(ToString::to_string).unwrap_or_default();
        // a text that was put together when it panicked is no such reference
        if let Some(text) = info.payload().downcast_ref::<&'static str>() {
            place.push_str(": ");
            place.push_str(text);
        }
        let backtrace = Backtrace::capture();
        let captured = backtrace.status() == BacktraceStatus::Captured;
        Panicked { place, backtrace: captured.then_some(backtrace) }
    }

    /// What its client is told.
    pub fn error(&self) -> Error {
        let message = "Rejoinder failed while it processed the request, by a defect of its own.";
        Error::new(Kind::Internal, message).detail(self.to_string())
    }

    /// Writes the one line about it. `what` it ended: "a request".
    pub fn log(&self, what: &str) {
        let backtrace = self.backtrace.as_ref().map(tracing::field::display);
        tracing::error!(place = self.place, backtrace, "a panic ended {what}; please report it as a defect");
    }
}

impl Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked at {}", self.place)
    }
}

/// From now on each panic of the process is counted, and logged as this module says.
pub fn watch() {
    panic::set_hook(Box::new(|info| {
        if !note(info) {
            Panicked::of(info).log("a task");
        }
    }));
}

/// Counts a panic; whether somebody catches and logs it.
fn note(info: &PanicHookInfo<'_>) -> bool {
    COUNT.fetch_add(1, Ordering::Relaxed);
    let caught = CATCHING.get();
    if caught {
        LAST.set(Some(Panicked::of(info)));
    }
    caught
}

/// Panics of the process so far.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Does `work`. What it has changed halfway when it panics is the caller's to mend.
///
/// # Errors
/// The panic, which the caller logs.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let outer = CATCHING.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(outer);
    done.map_err(|_| LAST.take().unwrap_or_default())
}

pin_project! {
    /// A future that ends with an error in place of a panic.
    pub struct Caught<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Caught<F> {
    /// Polled no more once it has panicked.
    pub fn new(future: F) -> Caught<F> {
        Caught { future }
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        match catch(|| future.poll(cx)) {
            Ok(poll) => poll.map(Ok),
            Err(panicked) => Poll::Ready(Err(panicked)),
        }
    }
}

/// What a future comes to, or the error that its client gets for a panic in it. `what` it is: "a request".
///
/// # Errors
/// Those of the future, and [`Panicked::error`].
pub async fn answered<T>(what: &str, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    Caught::new(answer).await.unwrap_or_else(|panicked| {
        panicked.log(what);
        Err(panicked.error())
    })
}

/// A background task that begins again, from its beginning, when it panics: without it the process would serve on as
/// half of itself. `what` it is: "the watch over a server".
pub async fn restarted<F: Future<Output = ()>>(what: &str, mut task: impl FnMut() -> F) {
    while let Err(panicked) = Caught::new(task()).await {
        panicked.log(&format!("{what}, which begins again"));
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Once;

    use super::*;

    /// As [`watch`], but what nobody catches fails a test as usual.
    pub fn watch_in_tests() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if !note(info) {
                    usual(info);
                }
            }));
        });
    }

    #[test]
    fn a_panic_is_caught_with_its_place_and_without_what_it_says() {
        watch_in_tests();
        let before = count();
        let prompt = String::from("a secret é");
        let panicked = catch(|| prompt[..prompt.len() - 1].len()).unwrap_err().to_string();
        assert!(panicked.starts_with("panicked at src/panics.rs:"), "{panicked}");
        assert!(!panicked.contains("secret"), "{panicked}");
        let panicked = catch(|| panic!("it is part of the source")).unwrap_err().to_string();
        assert!(panicked.ends_with(": it is part of the source"), "{panicked}");
        // other tests panic, too
        assert!(count() >= before + 2);
    }

    #[test]
    fn a_catch_within_a_catch_leaves_the_outer_one_in_force() {
        watch_in_tests();
        let outer = catch(|| {
            assert!(catch(|| panic!("inner")).is_err());
            assert!(catch(|| ()).is_ok());
            panic!("outer")
        });
        assert!(outer.unwrap_err().to_string().ends_with(": outer"));
        assert!(!CATCHING.get());
    }

    #[tokio::test]
    async fn a_background_task_that_panics_begins_again() {
        watch_in_tests();
        let mut rounds = 0;
        let task = restarted("a task", || {
            rounds += 1;
            let round = rounds;
            async move {
                tokio::task::yield_now().await;
                assert!(round >= 3, "not yet");
            }
        });
        task.await;
        assert_eq!(rounds, 3);
    }
}
