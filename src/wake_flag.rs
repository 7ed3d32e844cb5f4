//! Tells which of several futures woke their task, so that only that one is polled: a stream's task is polled at every
//! token, and polling a timer or a cancellation that has nothing to report costs as much as the token. It must not know
//! what is polled.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// Set when a future that was polled with [`WakeFlag::waker`] wakes its task.
pub struct WakeFlag {
    /// What the futures are polled with.
    pub waker: Waker,
    shared: Arc<Flag>,
    /// The task that is woken then.
    task: Option<Waker>,
}

struct Flag {
    is_set: AtomicBool,
    /// Kept after it was woken: at the next poll it is nearly always the same task, and nothing has to be done.
    task: Mutex<Option<Waker>>,
}

impl WakeFlag {
    /// A flag that is set: the first poll is due.
    pub fn new() -> WakeFlag {
        let shared = Arc::new(Flag { is_set: AtomicBool::new(true), task: Mutex::default() });
        WakeFlag { waker: Waker::from(shared.clone()), shared, task: None }
    }

    /// Whether the flag was set since the last call; clears it. From now on `cx`'s task is woken when it is set.
    pub fn take(&mut self, cx: &Context<'_>) -> bool {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
            *self.shared.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        }
        self.shared.is_set.load(Ordering::Acquire) && self.shared.is_set.swap(false, Ordering::AcqRel)
    }

    /// Sets it without waking the task.
    pub fn set(&self) {
        self.shared.is_set.store(true, Ordering::Release);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_set.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = &*task {
            task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Task(Mutex<u32>);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap() += 1;
        }
    }

    #[test]
    fn it_is_taken_once_and_wakes_the_task_that_asked_last() {
        let (first, second) = (Arc::new(Task::default()), Arc::new(Task::default()));
        let wakers = [Waker::from(first.clone()), Waker::from(second.clone())];
        let [one, two] = wakers.each_ref().map(Context::from_waker);
        let mut wake_flag = WakeFlag::new();
        assert!(wake_flag.take(&one), "the first poll is due");
        assert!(!wake_flag.take(&one));
        wake_flag.waker.wake_by_ref();
        wake_flag.waker.wake_by_ref();
        assert!(wake_flag.take(&one));
        assert!(!wake_flag.take(&two));
        wake_flag.waker.wake_by_ref();
        assert_eq!((*first.0.lock().unwrap(), *second.0.lock().unwrap()), (2, 1));
        assert!(wake_flag.take(&two));
        wake_flag.set();
        assert!(wake_flag.take(&two));
        assert_eq!(*second.0.lock().unwrap(), 1);
    }
}
