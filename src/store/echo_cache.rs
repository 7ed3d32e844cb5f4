//! Owns what late turns repeated of their requests, so that equal texts are kept once. It must not know what they say.

use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;

/// What late turns repeated of their requests. One client's requests are much alike, tools and instructions included, so
/// that conversations which begin alike share this too.
#[derive(Debug, Default)]
pub struct EchoCache {
    late: Mutex<[Option<Arc<str>>; 16]>,
    hasher: RandomState,
}

impl EchoCache {
    /// A longer one is shared within its conversation alone: what is kept here may be of no use to any turn, in bytes.
    const LONGEST: usize = 256 << 10;

    /// `echo`, as a late turn has it where one does.
    pub fn share(&self, echo: &str) -> Arc<str> {
        if echo.len() > EchoCache::LONGEST {
            return echo.into();
        }
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.hasher.hash_one(echo) as usize % late.len();
        match late.get_mut(at) {
            Some(Some(known)) if **known == *echo => known.clone(),
            Some(slot) => slot.insert(echo.into()).clone(),
            None => echo.into(),
        }
    }

    /// Forgets those that no turn has any more.
    pub fn sweep(&self) {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in late.iter_mut() {
            slot.take_if(|echo| Arc::strong_count(echo) == 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_echoes_are_one_and_no_long_one_is_held() {
        let echoes = EchoCache::default();
        let first = echoes.share("\"model\":\"m\"");
        assert!(Arc::ptr_eq(&first, &echoes.share("\"model\":\"m\"")));
        let shared = Arc::downgrade(&first);
        echoes.sweep();
        drop(first);
        assert!(shared.upgrade().is_some(), "a turn had it");
        echoes.sweep();
        assert!(shared.upgrade().is_none());
        for n in 0..100 {
            let other = format!("\"model\":\"m{n}\"");
            assert_eq!(*echoes.share(&other), *other);
        }
        let long = "x".repeat(EchoCache::LONGEST + 1);
        assert_eq!(Arc::strong_count(&echoes.share(&long)), 1);
        assert_eq!(*echoes.share(&long), *long);
    }
}
