//! Owns the limits of an API key and what is used of them: concurrent requests, requests per minute, LLM tokens per minute.
//! It must not know who has the key.
//!
//! A limit per minute is a token bucket: it holds a minute's worth and refills evenly. LLM tokens are known only when an
//! answer has ended. They are taken then, so the bucket may be overspent, and no request begins before it has refilled.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{HeaderName, HeaderValue};
use rejoinder_core::error::{Error, Kind, RateLimits};

use super::ClientKey;

/// The limits of a key, and what is used of them.
#[derive(Debug)]
pub(super) struct Usage {
    in_flight: AtomicU32,
    /// 0: no limit.
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
    pub(super) fn set_limits(&self, in_flight: Option<u32>, requests: Option<u32>, tokens: Option<u32>) {
        self.max_in_flight.store(in_flight.unwrap_or(0), Ordering::Relaxed);
        locked(&self.requests, |bucket| bucket.set_limit(requests));
        locked(&self.tokens, |bucket| bucket.set_limit(tokens));
    }

    /// Whether tokens are limited.
    pub(super) fn counts_tokens(&self) -> bool {
        locked(&self.tokens, |bucket| bucket.per_minute.is_some())
    }

    /// `x-ratelimit-limit-requests` and the other headers of OpenAI's for the limits that are set.
    pub(super) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let now = Instant::now();
        let mut headers = Vec::new();
        for (bucket, [limit, remaining, reset]) in [(&self.requests, REQUESTS), (&self.tokens, TOKENS)] {
            let Some(state) = locked(bucket, |bucket| bucket.state(now)) else { continue };
            headers.push((HeaderName::from_static(limit), HeaderValue::from(state.limit)));
            headers.push((HeaderName::from_static(remaining), HeaderValue::from(state.remaining)));
            if let Ok(value) = format_reset(state.full_after).parse() {
                headers.push((HeaderName::from_static(reset), value));
            }
        }
        headers
    }
}

const REQUESTS: [&str; 3] =
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
const TOKENS: [&str; 3] =
    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];

/// `1.5s`, or `6m0s`: OpenAI's form of the time until a bucket is full.
fn format_reset(after: Duration) -> String {
    let tenths = after.as_millis().div_ceil(100);
    match (tenths / 600, tenths / 10 % 60, tenths % 10) {
        (0, seconds, 0) => format!("{seconds}s"),
        (0, seconds, tenth) => format!("{seconds}.{tenth}s"),
        (minutes, seconds, _) => format!("{minutes}m{seconds}s"),
    }
}

/// A running request of a key. It counts towards the concurrency limit until the last clone is dropped.
#[derive(Clone)]
pub struct KeyRequest(Arc<InFlightGuard>);

struct InFlightGuard(Arc<ClientKey>);

impl KeyRequest {
    /// The key that began it.
    pub fn key(&self) -> &ClientKey {
        &self.0.0
    }

    /// Takes the LLM tokens of an answer that has ended.
    pub fn spend(&self, tokens: u64) {
        locked(&self.0.0.usage.tokens, |bucket| bucket.spend(tokens as f64, Instant::now()));
    }
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyRequest").field(&self.key().name).finish()
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.usage.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Begins a request of a key. One that is refused has not counted once this returns: its guard is dropped.
pub(super) fn begin(key: &Arc<ClientKey>) -> Result<KeyRequest, Error> {
    let (usage, now) = (&key.usage, Instant::now());
    let most = usage.max_in_flight.load(Ordering::Relaxed);
    let others = usage.in_flight.fetch_add(1, Ordering::Relaxed);
    let request = KeyRequest(Arc::new(InFlightGuard(key.clone())));
    if most > 0 && others >= most {
        let requests = if most == 1 { "request" } else { "requests" };
        let message = format!("Rate limit reached for this API key: {most} {requests} at a time.");
        return Err(rate_limit_error(key, message, Duration::from_secs(1)));
    }
    if let Err((limit, wait)) = locked(&usage.tokens, |bucket| bucket.check_not_overspent(now)) {
        let message = format!("Rate limit reached for this API key: {limit} tokens a minute.");
        return Err(rate_limit_error(key, message, wait));
    }
    if let Err((limit, wait)) = locked(&usage.requests, |bucket| bucket.take_one(now)) {
        let message = format!("Rate limit reached for this API key: {limit} requests a minute.");
        return Err(rate_limit_error(key, message, wait));
    }
    Ok(request)
}

fn rate_limit_error(key: &ClientKey, message: String, wait: Duration) -> Error {
    tracing::info!(key = key.name, "a key reached its limit");
    let mut error = Error::new(Kind::OverCapacity, message);
    error.retry_after = Some(Duration::from_secs_f64(wait.as_secs_f64().ceil()));
    let headers = key.rate_headers().into_iter();
    let headers = headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    error.limits = Some(Box::new(RateLimits(headers.collect())));
    error
}

fn locked<T>(bucket: &Mutex<Bucket>, f: impl FnOnce(&mut Bucket) -> T) -> T {
    f(&mut bucket.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A token bucket for a limit per minute.
#[derive(Debug)]
struct Bucket {
    /// `None`: no limit.
    per_minute: Option<u32>,
    /// What is left; negative when overspent.
    level: f64,
    /// Time of the last refill.
    refilled_at: Instant,
}

/// What a client is told of a bucket.
struct State {
    limit: u32,
    remaining: u64,
    full_after: Duration,
}

impl Bucket {
    fn new() -> Bucket {
        Bucket { per_minute: None, level: 0.0, refilled_at: Instant::now() }
    }

    /// Sets the limit; a changed limit begins with a full bucket.
    fn set_limit(&mut self, per_minute: Option<u32>) {
        if self.per_minute != per_minute {
            self.level = per_minute.unwrap_or(0).into();
        }
        self.per_minute = per_minute;
    }

    fn refill(&mut self, limit: u32, now: Instant) {
        let refilled =
            now.saturating_duration_since(self.refilled_at).as_secs_f64() * f64::from(limit) / 60.0;
        self.level = (self.level + refilled).min(limit.into());
        self.refilled_at = now;
    }

    /// Takes one, if there is one.
    ///
    /// # Errors
    /// The limit, and the time until there is one.
    fn take_one(&mut self, now: Instant) -> Result<(), (u32, Duration)> {
        let Some(limit) = self.per_minute else { return Ok(()) };
        self.refill(limit, now);
        if self.level < 1.0 {
            return Err((limit, time_to_refill(1.0 - self.level, limit)));
        }
        self.level -= 1.0;
        Ok(())
    }

    /// Whether anything is left.
    ///
    /// # Errors
    /// The limit, and the time until there is something.
    fn check_not_overspent(&mut self, now: Instant) -> Result<(), (u32, Duration)> {
        let Some(limit) = self.per_minute else { return Ok(()) };
        self.refill(limit, now);
        match self.level > 0.0 {
            true => Ok(()),
            false => Err((limit, time_to_refill(1.0 - self.level, limit))),
        }
    }

    /// Takes an amount, whether or not it is there.
    fn spend(&mut self, amount: f64, now: Instant) {
        if let Some(limit) = self.per_minute {
            self.refill(limit, now);
            self.level -= amount;
        }
    }

    fn state(&mut self, now: Instant) -> Option<State> {
        let limit = self.per_minute?;
        self.refill(limit, now);
        Some(State {
            limit,
            remaining: self.level.max(0.0) as u64,
            full_after: time_to_refill(f64::from(limit) - self.level, limit),
        })
    }
}

/// How long a bucket takes to refill by an amount; one hour at most, also for a limit of zero, which never refills.
fn time_to_refill(amount: f64, per_minute: u32) -> Duration {
    let seconds = amount.max(0.0) * 60.0 / f64::from(per_minute);
    Duration::from_secs_f64(if seconds.is_finite() { seconds.min(3600.0) } else { 3600.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(per_minute: u32) -> (Bucket, Instant) {
        let mut bucket = Bucket::new();
        bucket.set_limit(Some(per_minute));
        let now = bucket.refilled_at;
        (bucket, now)
    }

    #[test]
    fn a_minutes_worth_is_there_at_once_and_refills_evenly() {
        let (mut bucket, now) = bucket(60);
        for _ in 0..60 {
            assert_eq!(bucket.take_one(now), Ok(()));
        }
        assert_eq!(bucket.take_one(now), Err((60, Duration::from_secs(1))));
        let later = now + Duration::from_secs(5);
        let left = bucket.state(later).unwrap();
        assert_eq!((left.limit, left.remaining, left.full_after), (60, 5, Duration::from_secs(55)));
        // no more than a minute's worth gathers
        assert_eq!(bucket.state(now + Duration::from_secs(3600)).unwrap().remaining, 60);
    }

    #[test]
    fn tokens_are_taken_afterwards_and_waited_for() {
        let (mut bucket, now) = bucket(600);
        assert_eq!(bucket.check_not_overspent(now), Ok(()));
        bucket.spend(1199.0, now);
        assert_eq!(bucket.check_not_overspent(now), Err((600, Duration::from_secs(60))));
        assert_eq!(bucket.check_not_overspent(now + Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn a_limit_of_zero_lets_nothing_through() {
        let (mut bucket, now) = bucket(0);
        assert_eq!(bucket.take_one(now), Err((0, Duration::from_secs(3600))));
        assert!(bucket.check_not_overspent(now).is_err());
    }

    #[test]
    fn resets_read_as_openais() {
        for (ms, want) in [(0, "0s"), (20, "0.1s"), (1500, "1.5s"), (59_900, "59.9s"), (360_000, "6m0s")] {
            assert_eq!(format_reset(Duration::from_millis(ms)), want);
        }
    }
}
