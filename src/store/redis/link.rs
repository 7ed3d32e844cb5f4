//! Owns the connection to Redis and the time that a call may take: who waits, who is refused at once, and what happens
//! when the server comes back. It must not know what is asked.
//!
//! The link is up, or down, or being made. Only while it is made does a call wait for it; while it is down a call fails
//! at once. Writes that fail wait in [`WriteQueue`], and the link is up again only when all of them are written, so that
//! no later write overtakes an earlier one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisError, RedisResult, cmd};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::ask::{Command, Commands, Write, is_away};
use super::record::PREFIX;
use super::write_queue::{QueueLimits, WriteQueue};
use crate::store::{Health, StoreError};

pub(super) struct Connection {
    client: Client,
    /// The URL without its password.
    shown: String,
    timeout: Duration,
    pub asker: Commands,
    shared: Mutex<Shared>,
    changed: watch::Sender<()>,
    wake: Notify,
}

struct Shared {
    state: State,
    waiting: WriteQueue,
    /// How many connections were made so far: tells a new one from the one that was lost.
    number: u64,
    /// Whether the log says that the store is away.
    told: bool,
}

enum State {
    Making,
    Up(MultiplexedConnection),
    Down(String),
}

/// Why a call has no answer.
pub(super) enum Failure {
    /// The connection ended before the answer: whether the command was carried out is unknown.
    Dropped(String),
    /// The store cannot serve now.
    Away(String),
    /// The store will not do this.
    Refused(String),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        match failure {
            Failure::Dropped(text) | Failure::Away(text) | Failure::Refused(text) => StoreError(text),
        }
    }
}

impl Connection {
    pub(super) fn new(
        client: Client,
        shown: String,
        timeout: Duration,
        asker: Commands,
        room: QueueLimits,
    ) -> Connection {
        let shared = Shared { state: State::Making, waiting: WriteQueue::new(room), number: 0, told: false };
        let (changed, _) = watch::channel(());
        Connection { client, shown, timeout, asker, shared: Mutex::new(shared), changed, wake: Notify::new() }
    }

    /// Asks, and asks once more if the connection ended meanwhile. It takes no longer than the time-out.
    pub(super) async fn call<T: FromRedisValue>(&self, ask: &Command<'_>) -> Result<T, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut again = true;
        loop {
            let (number, mut connection) = match timeout_at(deadline, self.connection()).await {
                Ok(found) => found?,
                Err(_) => return Err(Failure::Away(self.silence())),
            };
            match timeout_at(deadline, ask.on(&mut connection)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => match self.judge(number, &error) {
                    Failure::Dropped(_) if again => again = false,
                    failure => return Err(failure),
                },
                Err(_) => {
                    let failure = Failure::Away(self.silence());
                    self.lose(number, &failure);
                    return Err(failure);
                }
            }
        }
    }

    /// Writes, or keeps the write until the store is back; then it is an error all the same. False: there was nothing
    /// to write to.
    pub(super) async fn write(&self, write: Write) -> Result<bool, StoreError> {
        let ask = self.asker.write(&write).ok_or_else(unsealable)?;
        match self.call::<u64>(&ask).await {
            Ok(done) => Ok(done != 0),
            Err(Failure::Refused(text)) => Err(StoreError(text)),
            Err(Failure::Dropped(text) | Failure::Away(text)) => {
                drop(ask);
                Err(match self.keep(write) {
                    true => StoreError(format!("kept in memory until the store is back: {text}")),
                    false => StoreError(format!("given up, there is no room for it: {text}")),
                })
            }
        }
    }

    /// The writes that wait, for a read that checks them first.
    pub(super) fn waiting<T>(&self, read: impl FnOnce(&WriteQueue) -> Option<T>) -> Option<T> {
        read(&self.lock().waiting)
    }

    pub(super) fn health(&self) -> Health {
        let shared = self.lock();
        let up = matches!(shared.state, State::Up(_));
        Health { up, waiting: shared.waiting.len(), lost: shared.waiting.lost }
    }

    /// Makes the connection and makes it again, for ever.
    pub(super) async fn run(&self) {
        let mut last = None;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.attempt(&mut last).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    self.watch().await;
                }
                Err(reason) => {
                    self.fall(reason);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), Failure> {
        // before the first look, so that no change is missed
        let mut changed = self.changed.subscribe();
        loop {
            {
                let shared = self.lock();
                match &shared.state {
                    State::Up(connection) => return Ok((shared.number, connection.clone())),
                    State::Down(reason) => return Err(Failure::Away(reason.clone())),
                    State::Making => {}
                }
            }
            if changed.changed().await.is_err() {
                return Err(Failure::Away("the store was closed".to_owned()));
            }
        }
    }

    fn judge(&self, number: u64, error: &RedisError) -> Failure {
        let text = format!("{}: {error}", self.shown);
        let failure = match () {
            () if error.is_connection_dropped() => Failure::Dropped(text),
            () if is_away(error) => Failure::Away(text),
            () => Failure::Refused(text),
        };
        self.lose(number, &failure);
        failure
    }

    /// Takes leave of that connection, if it is still the one in use.
    fn lose(&self, number: u64, failure: &Failure) {
        let state = match failure {
            // most often the server has closed an idle connection, or begins anew: worth the wait for one attempt
            Failure::Dropped(_) => State::Making,
            Failure::Away(reason) => State::Down(reason.clone()),
            Failure::Refused(_) => return,
        };
        let mut shared = self.lock();
        if shared.number != number || !matches!(shared.state, State::Up(_)) {
            return;
        }
        if let State::Down(reason) = &state {
            self.tell(&mut shared, reason);
        }
        shared.state = state;
        drop(shared);
        self.changed.send_replace(());
        self.wake.notify_one();
    }

    fn fall(&self, reason: String) {
        let mut shared = self.lock();
        self.tell(&mut shared, &reason);
        shared.state = State::Down(reason);
        drop(shared);
        self.changed.send_replace(());
    }

    fn tell(&self, shared: &mut Shared, reason: &str) {
        if !std::mem::replace(&mut shared.told, true) {
            tracing::warn!(store = self.shown, reason, "the store is away");
        }
    }

    fn keep(&self, write: Write) -> bool {
        let mut shared = self.lock();
        let before = shared.waiting.lost;
        let kept = shared.waiting.push(write);
        let lost = shared.waiting.lost;
        // the store came back between the failure and now: let it be written before anything else
        if matches!(shared.state, State::Up(_)) {
            shared.state = State::Making;
            self.wake.notify_one();
        }
        drop(shared);
        self.changed.send_replace(());
        // the first, the second, the fourth, ...: a long outage must not fill the log
        if before.checked_ilog2() != lost.checked_ilog2() {
            tracing::error!(lost, "records were dropped: too many wait for the store");
        }
        kept
    }

    async fn attempt(&self, last: &mut Option<Peer>) -> Result<(), String> {
        let shown = |error: RedisError| format!("{}: {error}", self.shown);
        let opened = timeout(self.timeout, self.open(last)).await;
        let mut connection = opened.map_err(|_| self.silence())?.map_err(shown)?;
        // who writes from here on waits for what waited longer, in place of joining it: else there might be no end
        self.lock().state = State::Making;
        self.changed.send_replace(());
        loop {
            let Some((number, write)) = self.next_waiting(&connection) else { return Ok(()) };
            let Some(ask) = self.asker.write(&write) else {
                self.give_up(number, "it cannot be sealed");
                continue;
            };
            match timeout(self.timeout, ask.on::<u64>(&mut connection)).await {
                Ok(Ok(0)) if matches!(*write, Write::Events(..)) => {
                    self.give_up(number, "a gap in a run's log")
                }
                Ok(Ok(_)) => self.lock().waiting.done(number),
                Ok(Err(error)) if !is_away(&error) => self.give_up(number, &error.to_string()),
                Ok(Err(error)) => return Err(shown(error)),
                Err(_) => return Err(self.silence()),
            }
        }
    }

    /// The next write that waits; if there is none the link is up from here on.
    fn next_waiting(&self, connection: &MultiplexedConnection) -> Option<(u64, Arc<Write>)> {
        let mut shared = self.lock();
        let next = shared.waiting.first();
        if next.is_none() {
            shared.number += 1;
            shared.state = State::Up(connection.clone());
            match std::mem::replace(&mut shared.told, false) {
                true => tracing::info!(store = self.shown, "the store is back"),
                false => tracing::debug!(store = self.shown, "connected to the store"),
            }
            drop(shared);
            self.changed.send_replace(());
        }
        next
    }

    fn give_up(&self, number: u64, reason: &str) {
        tracing::error!(reason, "a record that waited for the store was dropped");
        let mut shared = self.lock();
        shared.waiting.done(number);
        shared.waiting.lost += 1;
    }

    /// A connection that can write. What the one before it has sent and the server has not yet read is never done:
    /// it would come after what is written from now on.
    async fn open(&self, last: &mut Option<Peer>) -> RedisResult<MultiplexedConnection> {
        let no_limits = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&no_limits).await?;
        if let Some(Peer { id, address }) = last {
            let mut kill = cmd("CLIENT");
            kill.arg("KILL").arg("ID").arg(&*id).arg("ADDR").arg(&*address);
            // most often there is nothing left of it
            let _ = kill.query_async::<u64>(&mut connection).await;
        }
        let info = cmd("CLIENT").arg("INFO").query_async::<String>(&mut connection).await;
        let probe = format!("{PREFIX}probe");
        cmd("SET").arg(probe).arg("1").arg("PX").arg(1000).exec_async(&mut connection).await?;
        *last = info.ok().and_then(|info| Peer::read(&info));
        Ok(connection)
    }

    /// Returns when the connection is lost.
    async fn watch(&self) {
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(PING_AFTER) => {}
            }
            let (number, mut connection) = {
                let shared = self.lock();
                let State::Up(connection) = &shared.state else { return };
                (shared.number, connection.clone())
            };
            match timeout(self.timeout, cmd("PING").exec_async(&mut connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => drop(self.judge(number, &error)),
                Err(_) => self.lose(number, &Failure::Away(self.silence())),
            }
        }
    }

    fn silence(&self) -> String {
        format!("{}: no answer within {:?}", self.shown, self.timeout)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection as the server calls it.
#[derive(Debug)]
struct Peer {
    id: String,
    address: String,
}

impl Peer {
    fn read(info: &str) -> Option<Peer> {
        let of = |key| info.split_whitespace().find_map(|word| word.strip_prefix(key)).map(str::to_owned);
        Some(Peer { id: of("id=")?, address: of("addr=")? })
    }
}

fn unsealable() -> StoreError {
    StoreError("the record could not be sealed".to_owned())
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const PING_AFTER: Duration = Duration::from_secs(1);
