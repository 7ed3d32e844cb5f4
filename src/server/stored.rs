//! Owns stored responses over HTTP: fetch, replay, cancel, delete, and the list of their input items. It must not run
//! anything.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::item_views::{id_of, input_id, listed};
use rejoinder_core::wire::request::elements;
use serde_json::{Value, json as value};

use super::app::App;
use super::query::{Page, Query};
use super::reply::{self, ResponseBody};
use super::run_tasks;
use super::stored_run::{find, not_found, render};
use crate::heavy;
use crate::store::{Chain, Scope, Turn};

/// How long a cancel waits for the run to end.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

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
    let events = run_tasks::read_shared(app, scope, id.to_owned(), from, !turn.state.ended()).await;
    match events? {
        Some(events) => Ok(reply::events(events)),
        None => {
            let message = "The events of this response cannot be replayed: it was not created with \
                           'background' and 'stream', or its events are gone. Fetch it without 'stream'.";
            Err(Error::new(Kind::InvalidValue, message).param("stream"))
        }
    }
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
