//! Owns the tasks of runs: the one that moves a body into its log, those that share a run with other replicas, and the
//! reading of a run of another replica's. It must not know what an event means.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use http_body::Body;
use rejoinder_core::error::Error;

use super::app::App;
use super::runs::{KEEP_ALIVE, Key, Run, Runs, gone_before, joined};
use super::{response_recorder, stored_run};
use crate::driver::EventBody;
use crate::panics::Caught;
use crate::store::{Batch, Scope, SharedRuns, Turn};
use rejoinder_core::response::events;

/// Time between two reads of another replica's run.
const REMOTE_POLL: Duration = Duration::from_millis(100);

/// Sets a body going on its own. `turn`: its record until it has ended, unless the store has it. `abandon`: how
/// long it may go on when nobody reads it; for ever if `None`.
pub fn start(
    app: &Arc<App>,
    scope: Scope,
    id: &str,
    body: EventBody,
    turn: Option<Turn>,
    abandon: Option<Duration>,
) -> Arc<Run> {
    let key: Key = (scope, Box::from(id));
    let run = app.runs.open(&key);
    let open = OpenRun { app: app.clone(), key, run: run.clone() };
    tokio::spawn(async move {
        let OpenRun { app, key, run: started } = &open;
        if let Some(turn) = turn {
            // before the body moves, so that it cannot come after its last record
            let kept = async {
                if let Some(runs) = app.store.runs() {
                    // and the lease before that: a run without one is taken for dead
                    let _ = runs.renew(scope, &key.1, app.config.store.lease).await;
                }
                response_recorder::report(app, &key.1, app.store.put(scope, Arc::new(turn)).await);
            };
            if let Err(panicked) = Caught::new(kept).await {
                panicked.log("the record of a response");
            }
        }
        let shared = app.store.runs().is_some().then(|| Share::start(app, key, started.clone()));
        drive(&app.runs, started, body, abandon).await;
        if let Some(share) = shared {
            share.finish().await;
        }
    });
    run
}

/// A run whose task has not ended. It is closed however that ends: readers wait for its end, and so does the drain.
struct OpenRun {
    app: Arc<App>,
    key: Key,
    run: Arc<Run>,
}

impl Drop for OpenRun {
    fn drop(&mut self) {
        self.run.end();
        self.app.runs.close(self.key.clone(), self.run.clone());
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
    run.end();
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
                return Some((events::error(&gone_before(batch.gone), from), (app, None)));
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
    let last = stored_run::last_words(app, scope, id, number as usize).await?;
    let events = sent.events.into_iter().chain(last.into_iter().skip(from.saturating_sub(number as usize)));
    Some(Batch { events: events.collect(), ended: true, gone: sent.gone })
}

/// The task that shows a run of this process to other replicas: its lease, and its events.
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
                tracing::warn!(%error, "a run's lease could not be released");
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
    let mut progress = run.progress();
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
