//! Owns the count of the bytes that all requests together hold in memory: bodies as they arrive, as they are decoded, and
//! what is made of them. Over the limit a request waits in line for a moment and is then refused. It must not know what
//! the bytes are.
//!
//! Small requests have a share of their own, so that large ones cannot take all of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use rejoinder_core::error::{Error, Kind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::heavy;

/// Up to so many bytes a request is small.
pub const SMALL: usize = 64 << 10;
/// Of how many parts of the whole one is kept for small requests.
const PARTS: usize = 8;
/// How often a small request is in memory at most, all copies taken together.
const COPIES: usize = 3;
/// Bytes that one permit stands for.
const UNIT: usize = 1 << 10;

/// The bytes that all requests together may hold, and how many of them are in use.
#[derive(Debug)]
pub struct Budget {
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
    /// All permits of `large` and of `small`, free or taken.
    capacity: [u32; 2],
    timeout: Duration,
    /// Counts requests that found no room in time.
    refused: Counter,
}

/// What one holder has taken of a [`Budget`]; dropped, it gives that back.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    permit: Option<OwnedSemaphorePermit>,
    is_large: bool,
}

impl Budget {
    /// A budget of so many bytes; a request waits for room no longer than `timeout`.
    pub fn new(bytes: usize, timeout: Duration, refused: Counter) -> Arc<Budget> {
        let all = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(PARTS as u32);
        let small = all / PARTS as u32;
        let capacity = [all - small, small];
        let [large, small] = capacity.map(|permits| Arc::new(Semaphore::new(permits as usize)));
        Arc::new(Budget { large, small, capacity, timeout, refused })
    }

    /// Begins to count for one holder, from nothing.
    pub fn begin(self: &Arc<Budget>) -> Held {
        Held { budget: self.clone(), permit: None, is_large: false }
    }

    async fn large(&self, units: u32) -> Result<OwnedSemaphorePermit, Error> {
        match self.large.clone().try_acquire_many_owned(units) {
            Ok(permit) => Ok(permit),
            Err(_) => Box::pin(self.wait(&self.large, units)).await,
        }
    }

    async fn small(&self, units: u32) -> Result<OwnedSemaphorePermit, Error> {
        let own = self.small.clone().try_acquire_many_owned(units);
        // when their share is taken, small ones take of the rest
        match own.or_else(|_| self.large.clone().try_acquire_many_owned(units)) {
            Ok(permit) => Ok(permit),
            Err(_) => Box::pin(self.wait(&self.small, units)).await,
        }
    }

    async fn wait(&self, line: &Arc<Semaphore>, units: u32) -> Result<OwnedSemaphorePermit, Error> {
        let permit = tokio::time::timeout(self.timeout, line.clone().acquire_many_owned(units)).await;
        permit.ok().and_then(Result::ok).ok_or_else(|| {
            self.refused.inc();
            let message =
                "Other requests use all the memory for requests (max_buffered_bytes). Try again later.";
            Error::new(Kind::OverCapacity, message)
        })
    }

    /// Bytes that are taken now.
    pub fn taken(&self) -> usize {
        let free = self.large.available_permits() + self.small.available_permits();
        let all: usize = self.capacity.iter().map(|permits| *permits as usize).sum();
        all.saturating_sub(free) * UNIT
    }
}

impl Held {
    /// Counts `bytes` in all, waiting for room where there is none. Of a small request the copies that are made later are
    /// counted with it.
    ///
    /// # Errors
    /// 429 when there is no room in time.
    pub async fn reach(&mut self, bytes: usize) -> Result<(), Error> {
        let is_large = bytes > SMALL;
        let [most, _] = self.budget.capacity;
        // what is larger than the whole budget takes all of it, and is alone then
        let wanted = units(bytes).min(most);
        let has = self.permit.as_ref().map_or(0, |permit| permit.num_permits() as u32);
        if is_large && self.is_large {
            if wanted > has {
                let more = self.budget.large(wanted - has).await?;
                if let Some(permit) = &mut self.permit {
                    permit.merge(more);
                }
            }
        } else if wanted > has || is_large {
            // small pieces are few, and one that turns out to be large leaves the small ones' share
            self.permit = Some(if is_large {
                self.budget.large(wanted).await?
            } else {
                self.budget.small(wanted).await?
            });
            self.is_large = is_large;
        }
        Ok(())
    }

    /// Counts no more than `bytes` from now on.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            let surplus = permit.num_permits().saturating_sub(units(bytes) as usize);
            drop(permit.split(surplus));
        }
    }

    /// Takes `bytes` of the count over into a holder of its own.
    pub fn split(&mut self, bytes: usize) -> Held {
        let permit = self.permit.as_mut().and_then(|permit| {
            let part = permit.num_permits().min(bytes.div_ceil(UNIT));
            permit.split(part)
        });
        Held { budget: self.budget.clone(), permit, is_large: self.is_large }
    }

    /// The bytes that it counts.
    pub fn of(self, bytes: Vec<u8>) -> Counted {
        Counted { bytes, held: Some(self) }
    }

    /// The same of bytes that are shared already: counted as long as any part of what is returned lives.
    pub fn of_shared(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(CountedBytes { bytes, _held: self })
    }
}

fn units(bytes: usize) -> u32 {
    let weight = if bytes > SMALL { bytes } else { COPIES * bytes };
    u32::try_from(weight.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// Shared bytes with their count.
struct CountedBytes {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        heavy::let_go(self.bytes.len(), std::mem::take(&mut self.bytes));
    }
}

/// Bytes with their count. Many are freed where no stream waits for it.
pub struct Counted {
    bytes: Vec<u8>,
    /// `None` for few, which are counted with what they were made of.
    held: Option<Held>,
}

impl Counted {
    /// The bytes, to be appended to; what is appended is not counted.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Other bytes in their place, under the same count.
    pub fn replaced(mut self, bytes: Vec<u8>) -> Counted {
        Counted { bytes, held: self.held.take() }
    }

    /// To be shared; counted as long as any part of them lives.
    pub fn into_bytes(mut self) -> Bytes {
        match &self.held {
            Some(_) => Bytes::from_owner(self),
            None => std::mem::take(&mut self.bytes).into(),
        }
    }
}

impl From<Vec<u8>> for Counted {
    fn from(bytes: Vec<u8>) -> Counted {
        Counted { bytes, held: None }
    }
}

impl std::ops::Deref for Counted {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        heavy::let_go(self.bytes.len(), std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const WAIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn what_is_over_the_budget_is_refused_and_all_of_it_comes_back() {
        let budget = Budget::new(8 << 20, WAIT, Counter::default());
        let mut first = budget.begin();
        first.reach(4 << 20).await.unwrap();
        let mut second = budget.begin();
        second.reach(2 << 20).await.unwrap();
        let error = second.reach(4 << 20).await.unwrap_err();
        assert_eq!((error.status(), error.retry_after().is_some()), (429, true));
        assert_eq!((budget.taken(), budget.refused.get()), (6 << 20, 1));
        drop(first);
        second.reach(4 << 20).await.unwrap();
        let bytes = second.of(vec![0; 4 << 20]).into_bytes();
        let part = bytes.slice(1..3);
        drop(bytes);
        assert_eq!(budget.taken(), 4 << 20, "counted as long as a part of it lives");
        drop(part);
        assert_eq!(budget.taken(), 0);
    }

    #[tokio::test]
    async fn large_requests_leave_room_for_small_ones() {
        let budget = Budget::new(8 << 20, WAIT, Counter::default());
        let mut large = budget.begin();
        // larger than all there is: it is let in alone
        large.reach(100 << 20).await.unwrap();
        assert!(budget.begin().reach(SMALL + 1).await.is_err());
        let mut waiting = budget.begin();
        let mut waits = std::pin::pin!(waiting.reach(1 << 20));
        assert!(waits.as_mut().now_or_never().is_none());
        let mut small = Vec::new();
        for _ in 0..5 {
            let mut held = budget.begin();
            held.reach(SMALL).await.unwrap();
            small.push(held);
        }
        assert!(waits.await.is_err());
        drop(small);
        drop(large);
        assert_eq!(budget.taken(), 0);
    }

    #[tokio::test]
    async fn small_ones_have_the_whole_budget_where_no_large_one_is() {
        let budget = Budget::new(8 << 20, WAIT, Counter::default());
        let mut small = Vec::new();
        loop {
            let mut held = budget.begin();
            if held.reach(SMALL).await.is_err() {
                break;
            }
            small.push(held);
        }
        assert!(small.len() >= (7 << 20) / (COPIES * SMALL), "{}", small.len());
    }

    #[tokio::test]
    async fn a_count_goes_with_what_it_is_for() {
        let budget = Budget::new(8 << 20, WAIT, Counter::default());
        let mut held = budget.begin();
        held.reach(3 << 20).await.unwrap();
        let part = held.split(1 << 20);
        drop(held);
        assert_eq!(budget.taken(), 1 << 20);
        let mut part = part;
        part.shrink(1 << 19);
        assert_eq!(budget.taken(), 1 << 19);
        part.reach(1 << 20).await.unwrap();
        assert_eq!(budget.taken(), 1 << 20);
    }

    #[tokio::test]
    async fn what_turns_out_to_be_large_leaves_the_share_of_small_ones() {
        let budget = Budget::new(8 << 20, WAIT, Counter::default());
        let mut held = budget.begin();
        held.reach(SMALL).await.unwrap();
        held.reach(SMALL + 1).await.unwrap();
        assert_eq!(budget.small.available_permits(), budget.capacity[1] as usize);
    }
}
