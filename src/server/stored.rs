//! Owns stored responses over HTTP: fetch, replay, cancel, delete, and the list of their input items. It must not run
//! anything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::item_views::{id_of, input_id, listed};
use rejoinder_core::response::object::{Snapshot, Status};
use rejoinder_core::response::shared::Text;
use rejoinder_core::wire::json;
use rejoinder_core::wire::request::elements;
use serde_json::{Map, Value, json as value};

use super::query::{Page, Query};
use super::reply::{self, ResponseBody};
use super::{App, runs};
use crate::heavy;
use crate::store::{Chain, Scope, Turn, TurnState};

/// How long a cancel waits for the run to end.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

/// The error for an id that names nothing of this caller's.
fn not_found(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Response with id '{id}' not found."))
}

/// The response, as it stands; a run whose replica died is failed by now.
async fn find(app: &App, scope: Scope, id: &str) -> Result<Arc<Turn>, Error> {
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
    // a lease is given back after the last record was written, so this look comes after that one
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

/// `GET /v1/responses/{id}`, with `stream=true` as events.
pub async fn get(
    app: Arc<App>,
    scope: Scope,
    id: &str,
    query: &Query,
) -> Result<Response<ResponseBody>, Error> {
    let stream = query.boolean("stream")?.unwrap_or(false);
    let after = query.integer("starting_after", 0, u64::from(u32::MAX))?;
    let turn = find(&app, scope, id).await?;
    if !stream {
        let body = heavy::run(turn.bytes(), || render(&turn)).await;
        return Ok(reply::json(StatusCode::OK, body));
    }
    let from = after.map_or(0, |after| after + 1) as usize;
    if let Some(run) = app.runs.find(scope, id) {
        run.reaches(from)?;
        return Ok(reply::events(run.read(from, app.config.heartbeat)));
    }
    let events = runs::read_shared(app, scope, id.to_owned(), from, !turn.state.ended()).await;
    match events? {
        Some(events) => Ok(reply::events(events)),
        None => {
            let message = "The events of this response cannot be replayed: it was not created with \
                           'background' and 'stream', or its events are gone. Fetch it without 'stream'.";
            Err(Error::new(Kind::InvalidValue, message).param("stream"))
        }
    }
}

/// What ends the stream of a run that its replica will not end, from event number `number` on: as the record says that
/// it ended. `None` while the store cannot be asked.
pub async fn last_words(app: &App, scope: Scope, id: &str, number: usize) -> Option<Vec<Bytes>> {
    let turn = settle(app, scope, id).await.ok()?;
    let mut events = Vec::new();
    let kind = match &turn.state {
        TurnState::Completed(_) => "response.completed",
        TurnState::Failed { code, message } => {
            let mut error = Error::new(Kind::UpstreamFailed, &**message);
            error.code = Some(code.to_string());
            events.push(error_event(&error, number));
            "response.failed"
        }
        _ => "response.incomplete",
    };
    let last = || {
        let response = serde_json::from_slice(&render(&turn)).unwrap_or_default();
        event(kind, number + events.len(), |body| {
            body.insert("response".to_owned(), response);
        })
    };
    let last = heavy::run(turn.bytes(), last).await;
    events.push(last);
    Some(events)
}

/// An error in place of the event of that number.
pub fn error_event(error: &Error, number: usize) -> Bytes {
    let mut object = Vec::new();
    error.write_object(&mut object);
    event("error", number, |body| {
        body.insert("code".to_owned(), value!(error.failed_code()));
        body.insert("message".to_owned(), value!(error.message));
        body.insert("param".to_owned(), value!(error.param));
        body.insert("error".to_owned(), serde_json::from_slice(&object).unwrap_or_default());
    })
}

fn event(kind: &str, number: usize, fill: impl FnOnce(&mut Map<String, Value>)) -> Bytes {
    let mut body = Map::new();
    body.insert("type".to_owned(), value!(kind));
    body.insert("sequence_number".to_owned(), value!(number));
    fill(&mut body);
    Bytes::from(format!("event: {kind}\ndata: {}\n\n", Value::Object(body)))
}

/// `POST /v1/responses/{id}/cancel`.
pub async fn cancel(app: &App, scope: Scope, id: &str) -> Result<Response<ResponseBody>, Error> {
    let turn = find(app, scope, id).await?;
    if !turn.background {
        let message =
            "Cannot cancel a synchronous response; only a response created with 'background' can be.";
        return Err(Error::new(Kind::InvalidValue, message));
    }
    if turn.state.ended() {
        let body = heavy::run(turn.bytes(), || render(&turn)).await;
        return Ok(reply::json(StatusCode::OK, body));
    }
    stop(app, scope, id).await?;
    Ok(reply::json(StatusCode::OK, render(&*find(app, scope, id).await?)))
}

/// Ends a run wherever it runs, and waits until its last record is written.
async fn stop(app: &App, scope: Scope, id: &str) -> Result<(), Error> {
    if let Some(run) = app.runs.find(scope, id) {
        run.cancel.cancel();
        let _ = tokio::time::timeout(CANCEL_PATIENCE, run.ended()).await;
    } else if let Some(runs) = app.store.runs() {
        runs.cancel(scope, id).await?;
        let deadline = tokio::time::Instant::now() + CANCEL_PATIENCE;
        while !find(app, scope, id).await?.state.ended() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// `DELETE /v1/responses/{id}`. A run that goes on is cancelled first.
pub async fn delete(app: &App, scope: Scope, id: &str) -> Result<Response<ResponseBody>, Error> {
    if !find(app, scope, id).await?.state.ended() {
        stop(app, scope, id).await?;
    }
    app.runs.forget(scope, id);
    match app.store.delete(scope, id).await {
        Ok(true) => {
            let body = value!({"id": id, "object": "response.deleted", "deleted": true});
            Ok(reply::json(StatusCode::OK, body.to_string()))
        }
        Ok(false) => Err(not_found(id)),
        Err(error) => Err(error.into()),
    }
}

/// `GET /v1/responses/{id}/input_items`: what the response was generated from, earlier turns included.
pub async fn input_items(
    app: &App,
    scope: Scope,
    id: &str,
    query: &Query,
) -> Result<Response<ResponseBody>, Error> {
    let page = Page::read(query)?;
    let turn = find(app, scope, id).await?;
    let mut turns = match turn.parent_id() {
        None => Vec::new(),
        Some(parent) => match app.store.chain(scope, &parent, app.config.store.max_turns).await {
            Ok(Chain::Whole(turns)) => turns,
            // what is gone cannot be listed
            Ok(Chain::Broken | Chain::TooLong) => Vec::new(),
            Err(error) => return Err(error.into()),
        },
    };
    turns.push(turn);
    let bytes = turns.iter().map(|turn| turn.bytes()).sum();
    let listed =
        heavy::run(bytes, || page.list(generated_from(&turns, page.images)).map(|list| list.to_string()));
    Ok(reply::json(StatusCode::OK, listed.await?))
}

/// All items of the turns but the last one's output.
fn generated_from(turns: &[Arc<Turn>], images: bool) -> Vec<(String, Value)> {
    let mut items: Vec<(String, Value)> = Vec::new();
    for (n, turn) in turns.iter().enumerate() {
        let response = turn.id.to_string();
        for (n, item) in elements(&turn.input.array()).into_iter().enumerate() {
            let id = input_id(&response, n, item);
            items.push((id.clone(), listed(item, &id, images)));
        }
        if n + 1 < turns.len() {
            let output = turn.output.array(&response);
            items.extend(elements(&output).into_iter().filter_map(|item| {
                let id = id_of(item)?;
                Some((id.clone(), listed(item, &id, images)))
            }));
        }
    }
    items
}

/// The Response object.
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
