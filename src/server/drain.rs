//! Owns the drain: what becomes of new requests and of open streams when the process is told to end.

use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::app::App;
use crate::service_manager;
use crate::signals::Stop;

/// What is left for streams to say that they were cut off, once the drain's time is over.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Longest wait for servers to save their slots, at the very end.
pub(super) const SAVING: Duration = Duration::from_secs(20);

/// Says that it is not ready, serves for `drain_delay` as before, then takes nothing new: lets what runs end in its own
/// time, then in ours.
pub(super) async fn drain(app: &App, api: tokio::task::JoinHandle<TaskTracker>, signals: &mut Stop) {
    let (delay, timeout) = (app.config.drain_delay, app.config.drain_timeout);
    let open = app.metrics.open_streams.get();
    tracing::info!(open_streams = open, "draining; a second signal ends at once");
    service_manager::stopping(
        &format!("draining, {open} open streams"),
        delay + timeout + LAST_WORDS + SAVING + Duration::from_secs(5),
    );
    app.leaving.cancel();
    if !delay.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = signals.next() => return,
        }
    }
    app.draining.cancel();
    let Ok(connections) = api.await else { return };
    connections.close();
    app.sockets.close();
    let idle = async {
        tokio::join!(connections.wait(), app.sockets.wait(), app.runs.idle());
    };
    tokio::pin!(idle);
    tokio::select! {
        () = &mut idle => return,
        () = signals.next() => return,
        () = tokio::time::sleep(timeout) => {}
    }
    tracing::warn!(
        open_streams = app.metrics.open_streams.get(),
        "drain_timeout is over, ending open streams"
    );
    app.cut.cancel();
    tokio::select! {
        () = &mut idle => {}
        () = signals.next() => {}
        () = tokio::time::sleep(LAST_WORDS) => {}
    }
}
