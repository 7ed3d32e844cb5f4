//! Owns the drain: what becomes of open streams when the process is told to end.

use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::app::App;
use crate::signals::Stop;

/// What is left for streams to say that they were cut off, once the drain's time is over.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Lets what runs end in its own time, then in ours.
pub(super) async fn drain(app: &App, api: tokio::task::JoinHandle<TaskTracker>, signals: &mut Stop) {
    tracing::info!(open_streams = app.metrics.open_streams.get(), "draining; a second signal ends at once");
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
        () = tokio::time::sleep(app.config.drain_timeout) => {}
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
