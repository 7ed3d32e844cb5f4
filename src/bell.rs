//! Owns the way to know which of several futures has called its task: a connection is polled at every token of a stream,
//! and to ask what has nothing to say costs as much as the token. It must not know what is asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// Rings when what was polled with its waker calls.
pub struct Bell {
    /// What the futures are polled with.
    pub waker: Waker,
    rope: Arc<Rope>,
    /// The task that the rope wakes.
    task: Option<Waker>,
}

struct Rope {
    rang: AtomicBool,
    /// It stays there when it was woken: where it is the same at the next poll, as it nearly always is, there is nothing to
    /// do for it.
    task: Mutex<Option<Waker>>,
}

impl Bell {
    /// A bell that rings: the first look is due.
    pub fn new() -> Bell {
        let rope = Arc::new(Rope { rang: AtomicBool::new(true), task: Mutex::default() });
        Bell { waker: Waker::from(rope.clone()), rope, task: None }
    }

    /// Whether it rang since the last time; if not, it will wake this task.
    pub fn rang(&mut self, cx: &Context<'_>) -> bool {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
            *self.rope.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        }
        self.rope.rang.load(Ordering::Acquire) && self.rope.rang.swap(false, Ordering::AcqRel)
    }

    /// Has the next look find that it rang.
    pub fn ring_later(&self) {
        self.rope.rang.store(true, Ordering::Release);
    }
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
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
    fn a_ring_is_told_once_and_wakes_the_task_that_looked_last() {
        let (first, second) = (Arc::new(Task::default()), Arc::new(Task::default()));
        let wakers = [Waker::from(first.clone()), Waker::from(second.clone())];
        let [one, two] = wakers.each_ref().map(Context::from_waker);
        let mut bell = Bell::new();
        assert!(bell.rang(&one), "the first look is due");
        assert!(!bell.rang(&one));
        bell.waker.wake_by_ref();
        bell.waker.wake_by_ref();
        assert!(bell.rang(&one));
        assert!(!bell.rang(&two));
        bell.waker.wake_by_ref();
        assert_eq!((*first.0.lock().unwrap(), *second.0.lock().unwrap()), (2, 1));
        assert!(bell.rang(&two));
        bell.ring_later();
        assert!(bell.rang(&two));
        assert_eq!(*second.0.lock().unwrap(), 1);
    }
}
