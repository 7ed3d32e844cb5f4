//! Owns what the page for operators is told: the requests that run, the last that ended, and sums of the last hour. It must
//! not see a prompt, a key or a header's value.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Requests that are remembered after their end.
const ENDED: usize = 200;
/// Length of a period of the sums.
const PERIOD: Duration = Duration::from_secs(15);
/// Periods that are kept: an hour.
const PERIODS: usize = 240;
/// Times to the first token that a period keeps; those of a busier one are every second, third, ... of all.
const SAMPLES: usize = 64;

/// One request as the page shows it. Times are in milliseconds, `began` since 1970.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)] // what the access line calls by these names (docs/log.md)
pub struct RequestView {
    /// The same as long as the process lives, higher for later requests.
    pub number: u64,
    pub id: String,
    pub began: u64,
    pub method: String,
    pub path: String,
    pub endpoint: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it ended; `None` while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<u64>,
    pub duration_ms: u64,
    /// Chunks of output so far, most of which are one token.
    pub chunks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u32>,
}

/// The sums of the requests that ended in one period.
#[derive(Debug, Clone, Default, Serialize)]
#[allow(missing_docs)] // the rest is counted as in RequestView
pub struct Period {
    /// When it began, in seconds since 1970.
    pub at: u64,
    pub requests: u64,
    /// Those that failed or were refused.
    pub errors: u64,
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    /// Half of the streams had their first token within this time, in ms.
    pub first_token_p50: Option<u64>,
    /// The same of 95 %.
    pub first_token_p95: Option<u64>,
    #[serde(skip)]
    first_tokens: Vec<u64>,
    #[serde(skip)]
    streams: usize,
}

/// A request that may still run.
pub(super) trait Running: std::fmt::Debug + Send + Sync {
    /// The request as it is now, unless it is over.
    fn view(&self) -> Option<RequestView>;
}

/// What runs and what has ended. Requests enter it when they come and leave it when they are dropped.
#[derive(Debug)]
pub struct Activity {
    started: u64,
    count: AtomicU64,
    open: Mutex<BTreeMap<u64, Weak<dyn Running>>>,
    past: Mutex<Past>,
}

#[derive(Debug, Default)]
struct Past {
    /// Requests that ever ended.
    count: u64,
    ended: VecDeque<RequestView>,
    periods: VecDeque<Period>,
}

impl Default for Activity {
    fn default() -> Self {
        Activity { started: now(), count: AtomicU64::new(0), open: Mutex::default(), past: Mutex::default() }
    }
}

impl Activity {
    /// When it began, in seconds since 1970.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// The number of the next request.
    pub(super) fn number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A request has come.
    pub(super) fn begin(&self, number: u64, record: Weak<dyn Running>) {
        locked(&self.open).insert(number, record);
    }

    /// A request is dropped.
    pub(super) fn forget(&self, number: u64) {
        locked(&self.open).remove(&number);
    }

    /// A request has ended.
    pub(super) fn end(&self, view: RequestView) {
        let mut past = locked(&self.past);
        past.add(&view, now());
        past.count += 1;
        if past.ended.len() == ENDED {
            past.ended.pop_front();
        }
        past.ended.push_back(view);
    }

    /// The requests that run, the oldest first.
    pub fn running(&self) -> Vec<RequestView> {
        // a record that is dropped while the lock is held would wait for it
        let records: Vec<_> = locked(&self.open).values().filter_map(Weak::upgrade).collect();
        records.iter().filter_map(|record| record.view()).collect()
    }

    /// The last requests that ended, the newest last, without the `seen` that had ended first; and how many ever ended.
    pub fn ended(&self, seen: u64) -> (Vec<RequestView>, u64) {
        let past = locked(&self.past);
        let new = usize::try_from(past.count.saturating_sub(seen)).unwrap_or(usize::MAX);
        let known = past.ended.len().saturating_sub(new);
        (past.ended.iter().skip(known).cloned().collect(), past.count)
    }

    /// The sums of the last hour from that time on, in seconds since 1970; the newest period last.
    pub fn periods(&self, from: u64) -> Vec<Period> {
        let mut past = locked(&self.past);
        past.reach(now());
        past.periods.iter().filter(|period| period.at >= from).map(Period::with_percentiles).collect()
    }
}

impl Past {
    /// Begins the period of that time, in seconds since 1970, if it has not begun.
    fn reach(&mut self, now: u64) -> Option<&mut Period> {
        let at = now - now % PERIOD.as_secs();
        let oldest = at.saturating_sub(PERIOD.as_secs() * (PERIODS as u64 - 1));
        self.periods.retain(|period| period.at >= oldest);
        if self.periods.back().is_none_or(|last| last.at < at) {
            self.periods.push_back(Period { at, ..Period::default() });
        }
        self.periods.back_mut()
    }

    fn add(&mut self, view: &RequestView, now: u64) {
        let Some(period) = self.reach(now) else { return };
        period.requests += 1;
        period.errors += u64::from(view.code.is_some());
        period.input_tokens += u64::from(view.input_tokens.unwrap_or_default());
        period.cached_tokens += u64::from(view.cached_tokens.unwrap_or_default());
        period.output_tokens += u64::from(view.output_tokens.unwrap_or_default());
        if let Some(time) = view.first_token_ms {
            let place = period.streams % SAMPLES;
            period.streams += 1;
            match period.first_tokens.get_mut(place) {
                Some(sample) => *sample = time,
                None => period.first_tokens.push(time),
            }
        }
    }
}

impl Period {
    fn with_percentiles(&self) -> Period {
        let mut times = self.first_tokens.clone();
        times.sort_unstable();
        let at = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Period { first_token_p50: at(50), first_token_p95: at(95), first_tokens: Vec::new(), ..*self }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // what a panicking holder left is still what is known
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(first_token_ms: Option<u64>, code: Option<&'static str>) -> RequestView {
        RequestView {
            number: 1,
            id: String::new(),
            began: 0,
            method: String::new(),
            path: String::new(),
            endpoint: "responses",
            client: None,
            key: None,
            model: None,
            response: None,
            upstream: None,
            status: None,
            ended: None,
            code,
            first_token_ms,
            queued_ms: None,
            duration_ms: 0,
            chunks: 0,
            input_tokens: Some(10),
            cached_tokens: Some(4),
            output_tokens: Some(2),
            reasoning_tokens: None,
        }
    }

    #[test]
    fn periods_add_up_and_last_an_hour() {
        let mut past = Past::default();
        for time in 1..=100 {
            past.add(&view(Some(time), None), 1000);
        }
        past.add(&view(None, Some("server_error")), 1004);
        past.add(&view(None, None), 1005);
        assert_eq!(past.periods.iter().map(|period| period.at).collect::<Vec<_>>(), [990, 1005]);
        let first = past.periods[0].with_percentiles();
        assert_eq!((first.requests, first.errors), (101, 1));
        assert_eq!((first.input_tokens, first.cached_tokens, first.output_tokens), (1010, 404, 202));
        // the last 64 of the hundred are kept: 37 to 100
        assert_eq!((first.first_token_p50, first.first_token_p95), (Some(68), Some(97)));
        past.reach(990 + 3600);
        assert_eq!(past.periods.iter().map(|period| period.at).collect::<Vec<_>>(), [1005, 4590]);
    }

    #[test]
    fn the_last_that_ended_are_kept() {
        let activity = Activity::default();
        for number in 0..ENDED as u64 + 5 {
            activity.end(RequestView { number, ..view(None, None) });
        }
        let (ended, count) = activity.ended(0);
        assert_eq!((ended.len(), ended[0].number, count), (ENDED, 5, ENDED as u64 + 5));
        assert_eq!(
            activity.ended(count - 2).0.iter().map(|view| view.number).collect::<Vec<_>>(),
            [203, 204]
        );
        assert!(activity.ended(count).0.is_empty());
    }
}
