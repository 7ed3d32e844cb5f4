//! Owns runs: responses that go on without the connection that asked for them, and the logs of their events, from
//! which any number of connections can read. It must not know what an event means.

mod log;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream};
use http_body::Body;
use moka::sync::Cache;
use rejoinder_core::error::{Error, Kind};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::log::Log;
use super::{App, state, stored};
use crate::config::StoreConfig;
use crate::driver::EventBody;
use crate::store::{Batch, Scope, SharedRuns, Turn};

/// Between two looks at a run of another replica's.
const REMOTE_POLL: Duration = Duration::from_millis(100);

type Key = (Scope, Box<str>);

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

/// One run.
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
    /// None. How long and how much of them is kept, the store's settings say.
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
    fn push(&self, run: &Run, frame: &Bytes) {
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

    /// A run of this process.
    pub fn find(&self, scope: Scope, id: &str) -> Option<Arc<Run>> {
        let key = (scope, Box::from(id));
        let open = lock(&self.open).get(&key).cloned();
        open.or_else(|| self.ended.get(&key))
    }

    /// Whether a run goes on here.
    pub fn is_open(&self, scope: Scope, id: &str) -> bool {
        lock(&self.open).contains_key(&(scope, Box::from(id)))
    }

    /// Forgets an ended run's log.
    pub fn forget(&self, scope: Scope, id: &str) {
        self.ended.invalidate(&(scope, Box::from(id)));
    }

    /// Waits until none is open.
    pub async fn idle(&self) {
        let mut count = self.count.subscribe();
        let _ = count.wait_for(|count| *count == 0).await;
    }

    /// Sets a body going on its own. `turn`: its record until it has ended, unless the store has it. `abandon`: how
    /// long it may go on when nobody reads it; for ever if `None`.
    pub fn start(
        &self,
        app: &Arc<App>,
        scope: Scope,
        id: &str,
        body: EventBody,
        turn: Option<Turn>,
        abandon: Option<Duration>,
    ) -> Arc<Run> {
        let run = Arc::new(Run {
            log: Mutex::default(),
            progress: watch::Sender::new((0, false)),
            readers: AtomicUsize::new(0),
            readers_changed: tokio::sync::Notify::new(),
            cancel: CancellationToken::new(),
        });
        let key: Key = (scope, Box::from(id));
        lock(&self.open).insert(key.clone(), run.clone());
        self.count.send_modify(|count| *count += 1);
        let (app, started) = (app.clone(), run.clone());
        tokio::spawn(async move {
            if let Some(turn) = turn {
                // before the body moves, so that it cannot come after its last record
                if let Some(runs) = app.store.runs() {
                    // and the lease before that: a run without one is taken for dead
                    let _ = runs.renew(scope, &key.1, app.config.store.lease).await;
                }
                state::report(&app, &key.1, app.store.put(scope, Arc::new(turn)).await);
            }
            let shared = app.store.runs().is_some().then(|| Share::start(&app, &key, started.clone()));
            drive(&app.runs, &started, body, abandon).await;
            if let Some(share) = shared {
                share.finish().await;
            }
            lock(&app.runs.open).remove(&key);
            app.runs.held.fetch_sub(started.log().bytes, Ordering::AcqRel);
            app.runs.ended.insert(key.clone(), started);
            app.runs.count.send_modify(|count| *count -= 1);
        });
        run
    }
}

/// Moves the body's events into the log until it ends.
async fn drive(runs: &Runs, run: &Run, mut body: EventBody, abandon: Option<Duration>) {
    let mut cancelled = false;
    // one for the whole run: each event would begin the wait anew otherwise
    let abandoned = run.abandoned(abandon);
    tokio::pin!(abandoned);
    loop {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let frame = tokio::select! {
            frame = next => frame,
            () = run.cancel.cancelled(), if !cancelled => {
                cancelled = true;
                body.cancel();
                continue;
            }
            () = &mut abandoned, if !cancelled => {
                cancelled = true;
                body.cancel();
                continue;
            }
        };
        let Some(frame) = frame else { break };
        let Ok(frame) = frame;
        if let Ok(bytes) = frame.into_data() {
            runs.push(run, &bytes);
        }
    }
    run.progress.send_modify(|(_, ended)| *ended = true);
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
    fn from(&self, from: usize) -> Batch {
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
    async fn abandoned(&self, after: Option<Duration>) {
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
                    return Some((
                        stored::error_event(&gone_before(batch.gone), from),
                        (reader, progress, None),
                    ));
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
fn gone_before(gone: u64) -> Error {
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

const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

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

fn joined(batch: &Batch) -> Bytes {
    let mut bytes = BytesMut::with_capacity(batch.events.iter().map(Bytes::len).sum::<usize>() + 16);
    batch.events.iter().for_each(|event| bytes.extend_from_slice(event));
    if batch.ended {
        bytes.extend_from_slice(b"data: [DONE]\n\n");
    }
    bytes.freeze()
}

/// A run of another replica's, from number `from` on; `None` if nobody knows its events. Ends when that replica is gone.
/// `goes_on`: the run has not ended, though it may not have said anything yet.
///
/// # Errors
/// When the store cannot be asked, or no longer has the first of them.
pub async fn read_shared(
    app: Arc<App>,
    scope: Scope,
    id: String,
    from: usize,
    goes_on: bool,
) -> Result<Option<impl Stream<Item = Bytes> + Send>, Error> {
    let Some(runs) = app.store.runs() else { return Ok(None) };
    let first = runs.events(scope, &id, from as u64).await?;
    let Some(first) = first.or(goes_on.then(Batch::default)) else { return Ok(None) };
    if first.gone > from as u64 {
        return Err(gone_before(first.gone));
    }
    let heartbeat = app.config.heartbeat;
    let state = (app, Some((first, from)));
    Ok(Some(stream::unfold(state, move |(app, state)| {
        let id = id.clone();
        async move {
            let (mut batch, from) = state?;
            let mut silent = Duration::ZERO;
            let mut orphaned = false;
            while batch.events.is_empty() && !batch.ended {
                let runs = app.store.runs()?;
                if orphaned {
                    // its replica died: what it sent is all there will ever be
                    if let Some(rest) = unsent(&app, runs, scope, &id, from).await {
                        batch = rest;
                        break;
                    }
                }
                tokio::time::sleep(REMOTE_POLL).await;
                silent += REMOTE_POLL;
                if silent >= heartbeat {
                    return Some((KEEP_ALIVE, (app, Some((batch, from)))));
                }
                // asked for before the events, so that a run which ends in between is read to its end
                let leased = runs.leased(scope, &id).await.unwrap_or(true);
                batch = runs.events(scope, &id, from as u64).await.ok().flatten().unwrap_or_default();
                orphaned = !leased;
                if batch.gone > from as u64 {
                    break;
                }
            }
            if batch.gone > from as u64 {
                return Some((stored::error_event(&gone_before(batch.gone), from), (app, None)));
            }
            let next = from + batch.events.len();
            let more = (!batch.ended).then(|| (Batch::default(), next));
            Some((joined(&batch), (app, more)))
        }
    })))
}

/// What a run's replica did not send any more, as far as it comes at number `from` or later.
async fn unsent(app: &App, runs: &dyn SharedRuns, scope: Scope, id: &str, from: usize) -> Option<Batch> {
    let sent = runs.events(scope, id, from as u64).await.ok()?.unwrap_or_default();
    if sent.gone > from as u64 {
        return Some(sent);
    }
    let number = runs.count(scope, id).await.ok()?;
    let last = stored::last_words(app, scope, id, number as usize).await?;
    let events = sent.events.into_iter().chain(last.into_iter().skip(from.saturating_sub(number as usize)));
    Some(Batch { events: events.collect(), ended: true, gone: sent.gone })
}

/// Tells other replicas of a run of ours.
struct Share {
    task: tokio::task::JoinHandle<()>,
}

impl Share {
    fn start(app: &Arc<App>, key: &Key, run: Arc<Run>) -> Share {
        let (app, (scope, id)) = (app.clone(), key.clone());
        let task = tokio::spawn(async move {
            let Some(runs) = app.store.runs() else { return };
            tokio::join!(lease(&app, runs, scope, &id, &run), publish(&app, runs, scope, &id, &run));
            if let Err(error) = runs.release(scope, &id).await {
                tracing::warn!(%error, "a run's lease could not be given back");
            }
        });
        Share { task }
    }

    async fn finish(self) {
        let _ = self.task.await;
    }
}

/// Renews the lease until the run has ended, and hears of cancels.
async fn lease(app: &App, runs: &dyn SharedRuns, scope: Scope, id: &str, run: &Run) {
    // a cancel from another replica arrives with a renewal
    let pause = (app.config.store.lease / 4).min(Duration::from_millis(500));
    loop {
        match runs.renew(scope, id, app.config.store.lease).await {
            Ok(true) => run.cancel.cancel(),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "a run's lease could not be renewed"),
        }
        if tokio::time::timeout(pause, run.ended()).await.is_ok() {
            return;
        }
    }
}

/// Copies the log into the store, as far as the store can be reached.
async fn publish(app: &App, runs: &dyn SharedRuns, scope: Scope, id: &str, run: &Run) {
    let mut progress = run.progress.subscribe();
    let mut from = 0;
    loop {
        let _ = progress.wait_for(|(events, ended)| *events > from || *ended).await;
        let batch = run.from(from);
        let (next, ended) = (from.max(batch.gone as usize) + batch.events.len(), batch.ended);
        let keep = app.config.store.replay_window;
        match runs.append(scope, id, batch, keep).await {
            Ok(()) if ended => return,
            Ok(()) => from = next,
            Err(error) => {
                tracing::debug!(%error, "a run's events could not be shared");
                if ended {
                    app.metrics.note("not_shared");
                    tracing::warn!(%error, "the end of a run could not be shared with other replicas");
                    return;
                }
                tokio::time::sleep(REMOTE_POLL).await;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // what a panicking holder left is still a list of whole events
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
