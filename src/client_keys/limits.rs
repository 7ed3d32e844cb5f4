//! Owns what a key has used of its limits: requests at a time, requests and tokens a minute. It must not know who has the
//! key.
//!
//! A limit a minute is a bucket that holds a minute's worth and fills evenly. Tokens are known when an answer has ended, so
//! they are taken then, and a bucket that is below zero lets no request begin until it has filled.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{HeaderName, HeaderValue};
use rejoinder_core::error::{Error, Kind, RateLimits};

use super::ClientKey;

/// What a key has used, and may use.
#[derive(Debug)]
pub(super) struct Usage {
    in_flight: AtomicU32,
    /// 0: any number.
    max_in_flight: AtomicU32,
    requests: Mutex<Bucket>,
    tokens: Mutex<Bucket>,
}

impl Default for Usage {
    fn default() -> Usage {
        Usage {
            in_flight: AtomicU32::new(0),
            max_in_flight: AtomicU32::new(0),
            requests: Mutex::new(Bucket::new()),
            tokens: Mutex::new(Bucket::new()),
        }
    }
}

impl Usage {
    /// Sets the limits; `None` is no limit.
    pub(super) fn limit(&self, in_flight: Option<u32>, requests: Option<u32>, tokens: Option<u32>) {
        self.max_in_flight.store(in_flight.unwrap_or(0), Ordering::Relaxed);
        with(&self.requests, |bucket| bucket.limit(requests));
        with(&self.tokens, |bucket| bucket.limit(tokens));
    }

    /// Whether tokens are limited.
    pub(super) fn counts_tokens(&self) -> bool {
        with(&self.tokens, |bucket| bucket.per_minute.is_some())
    }

    /// `x-ratelimit-limit-requests` and its kin, as OpenAI has them, for the limits that there are.
    pub(super) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let now = Instant::now();
        let of = |bucket: &Mutex<Bucket>, names: [&'static str; 3]| {
            with(bucket, |bucket| bucket.state(now)).into_iter().flat_map(move |state| {
                let values = [state.limit.to_string(), state.remaining.to_string(), reset(state.full_after)];
                names.into_iter().zip(values)
            })
        };
        of(&self.requests, REQUESTS)
            .chain(of(&self.tokens, TOKENS))
            .filter_map(|(name, value)| Some((HeaderName::from_static(name), value.parse().ok()?)))
            .collect()
    }
}

const REQUESTS: [&str; 3] =
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
const TOKENS: [&str; 3] =
    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];

/// `1.5s`, or `6m0s`: how OpenAI writes when a limit is fresh again.
fn reset(after: Duration) -> String {
    let tenths = after.as_millis().div_ceil(100);
    match (tenths / 600, tenths / 10 % 60, tenths % 10) {
        (0, seconds, 0) => format!("{seconds}s"),
        (0, seconds, tenth) => format!("{seconds}.{tenth}s"),
        (minutes, seconds, _) => format!("{minutes}m{seconds}s"),
    }
}

/// A request that a key has begun; it counts as one at a time until the last clone is dropped.
#[derive(Clone)]
pub struct Admission(Arc<Begun>);

struct Begun(Arc<ClientKey>);

impl Admission {
    /// The key that began it.
    pub fn key(&self) -> &ClientKey {
        &self.0.0
    }

    /// Takes the tokens of an answer that has ended.
    pub fn spend(&self, tokens: u64) {
        with(&self.0.0.usage.tokens, |bucket| bucket.spend(tokens as f64, Instant::now()));
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Admission").field(&self.key().name).finish()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.usage.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Begins a request of a key.
pub(super) fn begin(key: &Arc<ClientKey>) -> Result<Admission, Error> {
    let (usage, now) = (&key.usage, Instant::now());
    let most = usage.max_in_flight.load(Ordering::Relaxed);
    let others = usage.in_flight.fetch_add(1, Ordering::Relaxed);
    let admission = Admission(Arc::new(Begun(key.clone())));
    if most > 0 && others >= most {
        let requests = if most == 1 { "request" } else { "requests" };
        let message = format!("Rate limit reached for this API key: {most} {requests} at a time.");
        return Err(limited(key, message, Duration::from_secs(1)));
    }
    if let Some((limit, wait)) = with(&usage.tokens, |bucket| bucket.wait(0.0, now)) {
        let message = format!("Rate limit reached for this API key: {limit} tokens a minute.");
        return Err(limited(key, message, wait));
    }
    if let Some((limit, wait)) = with(&usage.requests, |bucket| bucket.wait(1.0, now)) {
        let message = format!("Rate limit reached for this API key: {limit} requests a minute.");
        return Err(limited(key, message, wait));
    }
    with(&usage.requests, |bucket| bucket.spend(1.0, now));
    Ok(admission)
}

fn limited(key: &ClientKey, message: String, wait: Duration) -> Error {
    tracing::info!(key = key.name, "a key reached its limit");
    let mut error = Error::new(Kind::OverCapacity, message);
    error.retry_after = Some(Duration::from_secs_f64(wait.as_secs_f64().ceil()));
    let headers = key.rate_headers().into_iter();
    let headers = headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    error.limits = Some(Box::new(RateLimits(headers.collect())));
    error
}

fn with<T>(bucket: &Mutex<Bucket>, f: impl FnOnce(&mut Bucket) -> T) -> T {
    f(&mut bucket.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A limit a minute.
#[derive(Debug)]
struct Bucket {
    per_minute: Option<u32>,
    /// What is left; below zero, what was taken too much.
    level: f64,
    /// When that was so.
    at: Instant,
}

struct State {
    limit: u32,
    remaining: u64,
    full_after: Duration,
}

impl Bucket {
    fn new() -> Bucket {
        Bucket { per_minute: None, level: 0.0, at: Instant::now() }
    }

    /// Sets the limit; a new one begins full.
    fn limit(&mut self, per_minute: Option<u32>) {
        if self.per_minute != per_minute {
            self.level = per_minute.unwrap_or(0).into();
        }
        self.per_minute = per_minute;
    }

    fn fill(&mut self, limit: u32, now: Instant) {
        let filled = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(limit) / 60.0;
        self.level = (self.level + filled).min(limit.into());
        self.at = now;
    }

    /// How long it takes until more than nothing, and at least `wanted`, is there; `None`: it is there.
    fn wait(&mut self, wanted: f64, now: Instant) -> Option<(u32, Duration)> {
        let limit = self.per_minute?;
        self.fill(limit, now);
        let missing = wanted - self.level;
        let there = if wanted > 0.0 { missing <= 0.0 } else { missing < 0.0 };
        (!there).then(|| {
            // of a limit of nothing none comes back; an hour stands for never
            let seconds = missing.max(1.0) * 60.0 / f64::from(limit);
            (limit, Duration::from_secs_f64(if seconds.is_finite() { seconds.min(3600.0) } else { 3600.0 }))
        })
    }

    fn spend(&mut self, amount: f64, now: Instant) {
        if let Some(limit) = self.per_minute {
            self.fill(limit, now);
            self.level -= amount;
        }
    }

    fn state(&mut self, now: Instant) -> Option<State> {
        let limit = self.per_minute?;
        self.fill(limit, now);
        let missing = (f64::from(limit) - self.level) * 60.0 / f64::from(limit.max(1));
        Some(State {
            limit,
            remaining: self.level.max(0.0) as u64,
            full_after: Duration::from_secs_f64(missing.max(0.0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(per_minute: u32) -> (Bucket, Instant) {
        let mut bucket = Bucket::new();
        bucket.limit(Some(per_minute));
        let now = bucket.at;
        (bucket, now)
    }

    #[test]
    fn a_minutes_worth_is_there_at_once_and_comes_back_evenly() {
        let (mut bucket, now) = bucket(60);
        for _ in 0..60 {
            assert!(bucket.wait(1.0, now).is_none());
            bucket.spend(1.0, now);
        }
        assert_eq!(bucket.wait(1.0, now), Some((60, Duration::from_secs(1))));
        let later = now + Duration::from_secs(5);
        let left = bucket.state(later).unwrap();
        assert_eq!((left.limit, left.remaining, left.full_after), (60, 5, Duration::from_secs(55)));
        // no more than a minute's worth gathers
        assert_eq!(bucket.state(now + Duration::from_secs(3600)).unwrap().remaining, 60);
    }

    #[test]
    fn tokens_are_taken_afterwards_and_waited_for() {
        let (mut bucket, now) = bucket(600);
        assert!(bucket.wait(0.0, now).is_none());
        bucket.spend(1200.0, now);
        assert_eq!(bucket.wait(0.0, now), Some((600, Duration::from_secs(60))));
        assert!(bucket.wait(0.0, now + Duration::from_secs(61)).is_none());
    }

    #[test]
    fn resets_read_as_openais() {
        for (ms, want) in [(0, "0s"), (20, "0.1s"), (1500, "1.5s"), (59_900, "59.9s"), (360_000, "6m0s")] {
            assert_eq!(reset(Duration::from_millis(ms)), want);
        }
    }
}
