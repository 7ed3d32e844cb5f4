//! Owns the times of one connection: its age, how long nothing was asked for, when a ping is due. It must not act on them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::config::WebsocketConfig;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Ping,
    /// The connection is as old as it may be.
    Age,
    /// Nothing was asked for in a long time.
    Idle,
}

/// A connection's times.
pub struct Clock {
    ping_interval: Duration,
    idle_timeout: Duration,
    /// When it is too old; `None` once that was said.
    old: Option<Instant>,
    /// When something was last asked for, or answered.
    used: Instant,
    pinged: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Clock {
    pub fn new(config: &WebsocketConfig) -> Clock {
        let now = Instant::now();
        let mut clock = Clock {
            ping_interval: config.ping_interval,
            idle_timeout: config.idle_timeout,
            old: Some(now + config.max_age),
            used: now,
            pinged: now,
            timer: Box::pin(tokio::time::sleep_until(now)),
        };
        clock.set(true);
        clock
    }

    /// Something was asked for, or answered. `idle`: nothing runs now.
    pub fn used(&mut self, idle: bool) {
        self.used = Instant::now();
        self.set(idle);
    }

    /// What is due now. `idle`: nothing runs.
    pub fn poll(&mut self, cx: &mut Context<'_>, idle: bool) -> Poll<Due> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let due = self.due(Instant::now(), idle);
            self.set(idle);
            if let Some(due) = due {
                return Poll::Ready(due);
            }
        }
    }

    /// What is due at that time, which is then not due any more.
    fn due(&mut self, now: Instant, idle: bool) -> Option<Due> {
        if self.old.take_if(|old| *old <= now).is_some() {
            return Some(Due::Age);
        }
        if idle && self.used + self.idle_timeout <= now {
            self.used = now;
            return Some(Due::Idle);
        }
        if self.pinged + self.ping_interval <= now {
            self.pinged = now;
            return Some(Due::Ping);
        }
        None
    }

    /// When something is due next.
    fn next(&self, idle: bool) -> Instant {
        let ping = self.pinged + self.ping_interval;
        let idle = idle.then(|| self.used + self.idle_timeout);
        [self.old, idle].into_iter().flatten().fold(ping, Instant::min)
    }

    fn set(&mut self, idle: bool) {
        let next = self.next(idle);
        self.timer.as_mut().reset(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn times_come_in_their_order() {
        let seconds = Duration::from_secs;
        let config = WebsocketConfig {
            max_age: seconds(100),
            idle_timeout: seconds(45),
            ping_interval: seconds(30),
            ..WebsocketConfig::default()
        };
        let mut clock = Clock::new(&config);
        let begun = clock.used;
        let next = |clock: &mut Clock, idle: bool| {
            let at = clock.next(idle);
            (clock.due(at, idle), (at - begun).as_secs())
        };
        assert_eq!(next(&mut clock, true), (Some(Due::Ping), 30));
        clock.used = begun + seconds(30);
        assert_eq!(next(&mut clock, true), (Some(Due::Ping), 60));
        assert_eq!(next(&mut clock, true), (Some(Due::Idle), 75));
        // something runs: it is not idle
        clock.used = begun + seconds(75);
        assert_eq!(next(&mut clock, false), (Some(Due::Ping), 90));
        assert_eq!(next(&mut clock, false), (Some(Due::Age), 100));
        assert_eq!(next(&mut clock, false), (Some(Due::Ping), 120));
        assert_eq!(clock.due(begun + seconds(121), false), None);
        assert_eq!(next(&mut clock, true), (Some(Due::Idle), 120));
        assert_eq!(next(&mut clock, true), (Some(Due::Ping), 150));
    }
}
