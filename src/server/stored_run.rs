//! Owns a stored response as it stands: a run whose replica died is failed here, its last events are made up, and the
//! Response object is written. It must not answer.

use std::sync::Arc;

use bytes::Bytes;
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::response::object::{Snapshot, Status};
use rejoinder_core::response::shared::Text;
use rejoinder_core::wire::json;
use serde_json::Value;

use super::app::App;
use crate::heavy;
use crate::store::{Scope, Turn, TurnState};
use rejoinder_core::response::events;

/// The error for an id that names nothing of this caller's.
pub fn not_found(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Response with id '{id}' not found."))
}

/// The response, as it stands; a run whose replica died is failed by now.
pub async fn find(app: &App, scope: Scope, id: &str) -> Result<Arc<Turn>, Error> {
    let turn = app.store.turn(scope, id).await?;
    let turn = turn.ok_or_else(|| not_found(id))?;
    if turn.state.ended() || app.runs.is_open(scope, id) {
        return Ok(turn);
    }
    settle(app, scope, id).await
}

/// Fails a run that nobody holds the lease of.
async fn settle(app: &App, scope: Scope, id: &str) -> Result<Arc<Turn>, Error> {
    let leased = match app.store.runs() {
        Some(runs) => runs.leased(scope, id).await?,
        None => false,
    };
    // a lease is released after the last record was written, so this read comes after that
    let turn = app.store.turn(scope, id).await?;
    let turn = turn.ok_or_else(|| not_found(id))?;
    if leased || turn.state.ended() || app.runs.is_open(scope, id) {
        return Ok(turn);
    }
    let failed = TurnState::Failed {
        code: "server_error".into(),
        message: "The server that ran this response went away before it was complete.".into(),
    };
    let turn = Arc::new(Turn { state: failed, ..Turn::clone(&turn) });
    tracing::warn!(response = id, "a run whose server went away is failed");
    app.store.put(scope, turn.clone()).await?;
    Ok(turn)
}

/// What ends the stream of a run that its replica will not end, from event number `number` on: as the record says that
/// it ended. `None` while the store cannot be asked.
pub async fn last_words(app: &App, scope: Scope, id: &str, number: usize) -> Option<Vec<Bytes>> {
    let turn = settle(app, scope, id).await.ok()?;
    let mut written = Vec::new();
    let kind = match &turn.state {
        TurnState::Completed(_) => "response.completed",
        TurnState::Failed { code, message } => {
            let mut error = Error::new(Kind::UpstreamFailed, &**message);
            error.code = Some(code.to_string());
            written.push(events::error(&error, number));
            "response.failed"
        }
        _ => "response.incomplete",
    };
    let last = || events::last(kind, number + written.len(), &render(&turn));
    let last = heavy::run(turn.bytes(), last).await;
    written.push(last);
    Some(written)
}

/// The JSON of the Response object.
pub fn render(turn: &Turn) -> Vec<u8> {
    let id = turn.id.to_string();
    let output = turn.output.array(&id);
    let text = Text::from(output_text(&output));
    let output = Text::from(output.get(1..output.len() - 1).unwrap_or_default().to_owned());
    let mut body = Vec::with_capacity(output.copied() + text.copied() + turn.echo.len() + 512);
    let parent = turn.parent_id();
    let snapshot = Snapshot {
        id: &id,
        created_at: turn.created_at,
        status: match &turn.state {
            TurnState::Queued => Status::Queued,
            TurnState::InProgress => Status::InProgress,
            TurnState::Completed(at) => Status::Completed(*at),
            TurnState::Incomplete(reason) => Status::Incomplete(reason),
            TurnState::Failed { code, message } => Status::Failed { code, message },
            TurnState::Cancelled => Status::Cancelled,
        },
        output: &output,
        output_text: &text,
        previous_response_id: parent.as_deref(),
        usage: turn.usage,
    };
    snapshot.write(&mut body, turn.echo.as_bytes(), None);
    body
}

/// All `output_text` of a response's items, escaped.
fn output_text(output: &str) -> String {
    let items: Vec<Value> = serde_json::from_str(output).unwrap_or_default();
    let parts = items.iter().filter_map(|item| item.get("content")?.as_array()).flatten();
    let texts = parts.filter(|part| part.get("type").is_some_and(|kind| kind == "output_text"));
    texts.filter_map(|part| Some(json::escape(part.get("text")?.as_str()?).into_owned())).collect()
}
