//! Owns runs: responses that go on without the connection that asked for them, and the logs of their events, from
//! which any number of connections can read. It must not know what an event means.

mod log;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream};
use moka::sync::Cache;
use rejoinder_core::error::{Error, Kind};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::log::Log;
use crate::config::StoreConfig;
use crate::store::{Batch, Scope};
use rejoinder_core::response::events;

pub(super) type Key = (Scope, Box<str>);

/// Every run of this process that goes on or can be replayed.
pub struct Runs {
    open: Mutex<HashMap<Key, Arc<Run>>>,
    ended: Cache<Key, Arc<Run>>,
    /// How many are open.
    count: watch::Sender<usize>,
    /// Bytes of the logs of those that are open.
    held: AtomicU64,
    /// Most bytes of one log.
    most: u64,
    /// Most bytes of all logs of open runs, and as many of ended ones.
    most_of_all: u64,
}

/// A response that is generated without the connection that asked for it, and the log of its events.
pub struct Run {
    log: Mutex<Log>,
    /// Events in the log, and whether the last is there.
    progress: watch::Sender<(usize, bool)>,
    /// Connections that read it.
    readers: AtomicUsize,
    readers_changed: tokio::sync::Notify,
    /// Cancelled when its client says so.
    pub cancel: CancellationToken,
}

impl Runs {
    /// No runs yet. The store's settings bound how long and how much of each is kept.
    pub fn new(config: &StoreConfig) -> Runs {
        let weigh = |_: &Key, run: &Arc<Run>| u32::try_from(run.log().bytes).unwrap_or(u32::MAX).max(1024);
        let most_of_all = config.replay_total_bytes as u64;
        let ended = Cache::builder()
            .time_to_live(config.replay_window)
            .max_capacity(most_of_all)
            .weigher(weigh)
            .build();
        Runs {
            open: Mutex::default(),
            ended,
            count: watch::Sender::new(0),
            held: AtomicU64::new(0),
            most: config.replay_max_bytes as u64,
            most_of_all,
        }
    }

    /// Adds a frame to a run's log. What is too much gives way: the oldest of its own, then of the longest log.
    pub fn push(&self, run: &Run, frame: &Bytes) {
        let (came, went) = run.push(frame, self.most);
        self.held.fetch_add(came, Ordering::AcqRel);
        let held = self.held.fetch_sub(went, Ordering::AcqRel) - went;
        if held > self.most_of_all {
            self.make_room(held - self.most_of_all);
        }
    }

    fn make_room(&self, excess: u64) {
        let open = lock(&self.open);
        let longest = open.values().map(|run| (run.log().bytes, run)).max_by_key(|(bytes, _)| *bytes);
        if let Some((bytes, run)) = longest {
            // some more at once, so that it is not looked for at every event
            let went = run.log().shrink(bytes.saturating_sub(excess.max(bytes / 8)));
            self.held.fetch_sub(went, Ordering::AcqRel);
        }
    }

    /// The run of that response id, if it runs in this process or ended a short time ago.
    pub fn find(&self, scope: Scope, id: &str) -> Option<Arc<Run>> {
        let key = (scope, Box::from(id));
        let open = lock(&self.open).get(&key).cloned();
        open.or_else(|| self.ended.get(&key))
    }

    /// Whether the response of that id is being generated in this process.
    pub fn is_open(&self, scope: Scope, id: &str) -> bool {
        lock(&self.open).contains_key(&(scope, Box::from(id)))
    }

    /// Forgets an ended run's log.
    pub fn forget(&self, scope: Scope, id: &str) {
        self.ended.invalidate(&(scope, Box::from(id)));
    }

    /// Registers a new run, with an empty log, under its scope and response id.
    pub fn open(&self, key: &Key) -> Arc<Run> {
        let run = Arc::new(Run {
            log: Mutex::default(),
            progress: watch::Sender::new((0, false)),
            readers: AtomicUsize::new(0),
            readers_changed: tokio::sync::Notify::new(),
            cancel: CancellationToken::new(),
        });
        lock(&self.open).insert(key.clone(), run.clone());
        self.count.send_modify(|count| *count += 1);
        run
    }

    /// Keeps an ended run for replays.
    pub fn close(&self, key: Key, run: Arc<Run>) {
        lock(&self.open).remove(&key);
        self.held.fetch_sub(run.log().bytes, Ordering::AcqRel);
        self.ended.insert(key, run);
        self.count.send_modify(|count| *count -= 1);
    }

    /// Waits until no run is open; may be dropped at any time.
    pub async fn idle(&self) {
        let mut count = self.count.subscribe();
        let _ = count.wait_for(|count| *count == 0).await;
    }
}

impl Run {
    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// Takes a frame into the log; how many bytes came to it, and how many went because it would have more than `most`.
    fn push(&self, frame: &[u8], most: u64) -> (u64, u64) {
        let mut log = self.log();
        let came = log.push(frame);
        let went = log.shrink(most);
        let count = log.count();
        drop(log);
        self.progress.send_modify(|(events, _)| *events = count);
        (came, went)
    }

    /// Events from number `from` on, as many as a reader takes at a time, and whether there will be no more.
    pub fn from(&self, from: usize) -> Batch {
        // in this order: what is said to be the end must not be read before its events
        let ended = self.progress.borrow().1;
        self.log().from(from, ended)
    }

    /// Whether the events from number `from` on are still there.
    ///
    /// # Errors
    /// 400 when some are gone.
    pub fn reaches(&self, from: usize) -> Result<(), Error> {
        let gone = self.log().gone;
        if from < gone { Err(gone_before(gone as u64)) } else { Ok(()) }
    }

    /// Waits until nobody has read it for that long.
    pub async fn abandoned(&self, after: Option<Duration>) {
        let Some(after) = after else { return std::future::pending().await };
        loop {
            let changed = self.readers_changed.notified();
            if self.readers.load(Ordering::Acquire) > 0 {
                changed.await;
                continue;
            }
            if tokio::time::timeout(after, changed).await.is_err() {
                return;
            }
        }
    }

    /// No more events come.
    pub fn end(&self) {
        self.progress.send_modify(|(_, ended)| *ended = true);
    }

    /// Events come, or the last one has: how many there are, and whether that is all.
    pub fn progress(&self) -> watch::Receiver<(usize, bool)> {
        self.progress.subscribe()
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let _ = self.progress.subscribe().wait_for(|(_, ended)| *ended).await;
    }

    /// What is in the log from number `from` on, and then what comes, with a comment every `heartbeat` of silence.
    pub fn read(self: Arc<Self>, from: usize, heartbeat: Duration) -> impl Stream<Item = Bytes> + Send {
        let reader = Reader::new(self);
        let progress = reader.0.progress.subscribe();
        stream::unfold((reader, progress, Some(from)), move |(reader, mut progress, from)| async move {
            let from = from?;
            loop {
                let batch = reader.0.from(from);
                if batch.gone > from as u64 {
                    return Some((events::error(&gone_before(batch.gone), from), (reader, progress, None)));
                }
                let next = from + batch.events.len();
                if !batch.events.is_empty() || batch.ended {
                    let bytes = joined(&batch);
                    return Some((bytes, (reader, progress, (!batch.ended).then_some(next))));
                }
                let more = progress.wait_for(|(events, ended)| *events > from || *ended);
                if tokio::time::timeout(heartbeat, more).await.is_err() {
                    return Some((KEEP_ALIVE, (reader, progress, Some(from))));
                }
            }
        })
    }
}

/// The events before that number are no longer kept.
pub fn gone_before(gone: u64) -> Error {
    let last = gone.saturating_sub(1);
    let message = format!(
        "The events of this response up to number {last} are no longer kept: there are more than the server keeps \
         (store.replay_max_bytes, store.replay_total_bytes). Ask for those after it with 'starting_after={last}', or \
         fetch the response without 'stream'."
    );
    let mut error = Error::new(Kind::InvalidValue, message).param("starting_after");
    error.code = Some("events_no_longer_kept".to_owned());
    error
}

pub const KEEP_ALIVE: Bytes = Bytes::from_static(events::KEEP_ALIVE);

/// Counts as one reader while it lives.
struct Reader(Arc<Run>);

impl Reader {
    fn new(run: Arc<Run>) -> Reader {
        run.readers.fetch_add(1, Ordering::AcqRel);
        run.readers_changed.notify_one();
        Reader(run)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::AcqRel);
        self.0.readers_changed.notify_one();
    }
}

pub fn joined(batch: &Batch) -> Bytes {
    let mut bytes = BytesMut::with_capacity(batch.events.iter().map(Bytes::len).sum::<usize>() + 16);
    batch.events.iter().for_each(|event| bytes.extend_from_slice(event));
    if batch.ended {
        bytes.extend_from_slice(events::DONE);
    }
    bytes.freeze()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // what a panicking holder left is still a list of whole events
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
