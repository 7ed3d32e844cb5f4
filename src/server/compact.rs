//! Owns summaries that are made for their own sake: `POST /v1/responses/compact`, and the one that goes before an answer
//! when `context_management` says so. It must not word them; the prompt is `rejoinder_core::compaction`'s.

use std::sync::Arc;

use futures::future::BoxFuture;
use http::header::HeaderValue;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use rejoinder_core::Input;
use rejoinder_core::error::Error;
use rejoinder_core::ids::Ids;
use rejoinder_core::item_views::{input_id, is_from_user, listed};
use rejoinder_core::options::{Compact, PlanOptions};
use rejoinder_core::request::plan::Plan;
use rejoinder_core::response::transcoder::Transcoder;
use rejoinder_core::wire::request::{elements, push_items};
use serde_json::value::RawValue;
use serde_json::{Value, json as value};

use super::app::App;
use super::chat_request::chat_request;
use super::ids::seed;
use super::prepared_request::{PreparedRequest, Summary, count};
use super::reply::{self, ResponseBody};
use crate::driver::{Answer, unix_now};
use crate::heavy;
use crate::telemetry::{RequestRecord, ResponseEnd};
use crate::upstream::{Target, too_late};

/// `POST /v1/responses/compact`: the user's messages as they were, and one `compaction` item for the rest.
///
/// # Errors
/// As a create request's; 500 when the model writes no summary.
pub async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    id: (&HeaderValue, &Arc<RequestRecord>),
) -> Result<Response<ResponseBody>, Error> {
    let (job, target) = PreparedRequest::read(&app, request, id).await?;
    let own = heavy::run(job.bytes(), || job.own_input(&app)).await?;
    let job = Arc::new(job);
    let transcoder = summarise(&app, &job, &target, Compact::Beside).await?;
    job.record.set_response(transcoder.id());
    let (outcome, usage) = (transcoder.outcome(), transcoder.usage());
    job.record.response_ended(&ResponseEnd { outcome, usage, ..ResponseEnd::default() });
    let body = heavy::run(job.bytes(), || compacted(&job, &own, &transcoder)).await;
    Ok(reply::json(StatusCode::OK, body))
}

/// The answer: what the user said, and the summary.
fn compacted(job: &PreparedRequest, own: &Input, transcoder: &Transcoder) -> String {
    let id = transcoder.id();
    let mut items = job.past.whole().earlier;
    let own = own.array();
    push_items(&mut items, &own);
    let kept = items.into_iter().enumerate().filter(|(_, (_, item))| item.as_ref().is_some_and(is_from_user));
    let mut output: Vec<Value> =
        kept.map(|(n, (item, _))| listed(item, &input_id(id, n, item), true)).collect();
    let snapshot = transcoder.snapshot();
    output.extend(serde_json::from_str::<Value>(&snapshot.output.to_string()));
    let usage = snapshot.usage.map(|usage| {
        let mut json = Vec::new();
        usage.write(&mut json);
        serde_json::from_slice::<Value>(&json).unwrap_or_default()
    });
    let body = value!({
        "id": id,
        "object": "response.compaction",
        "created_at": snapshot.created_at,
        "output": output,
        "usage": usage,
    });
    body.to_string()
}

/// Has the conversation summarised before it is answered.
///
/// # Errors
/// As [`answer`].
pub(super) async fn before(
    app: &Arc<App>,
    job: &Arc<PreparedRequest>,
    target: &Target,
) -> Result<Option<Summary>, Error> {
    let transcoder = summarise(app, job, target, Compact::Replacing).await?;
    let made = elements(&format!("[{}]", transcoder.snapshot().output)).first().and_then(|item| {
        let parsed: Value = serde_json::from_str(item.get()).ok()?;
        let blob = parsed.get("encrypted_content")?.as_str()?.to_owned();
        Some(Summary { blob, item: RawValue::from_string(item.get().to_owned()).ok()? })
    });
    app.metrics.note("compacted");
    Ok(made)
}

async fn summarise(
    app: &Arc<App>,
    job: &Arc<PreparedRequest>,
    target: &Target,
    how: Compact,
) -> Result<Transcoder, Error> {
    let (of, planner) = (app.clone(), job.clone());
    let change = move |options: &mut PlanOptions<'_>| {
        options.compact = Some(how);
        options.stream = Some(false);
    };
    let (plan, body) = job.plan_with(app, target, change).await?;
    let Plan { chat_stream, reply, notes, .. } = plan;
    let again = move |target: Target| -> BoxFuture<'static, _> {
        let (of, planner) = (of.clone(), planner.clone());
        Box::pin(async move { Ok(planner.plan_with(&of, &target, change).await?.1) })
    };
    count(app, &notes);
    let limit = app.upstream.response_timeout();
    let sent = app.upstream.send(chat_request(job, target, body, chat_stream, again)).await?;
    let answer = Answer::of(sent, None, limit).await?;
    let mut transcoder = Transcoder::new(reply, Ids::new(seed()), unix_now());
    let read = answer.read(&mut transcoder, app.upstream.idle_timeout(), None);
    tokio::time::timeout(limit, read).await.map_err(|_| too_late(limit))??;
    match transcoder.failure() {
        Some(error) => Err(error.clone()),
        None => Ok(transcoder),
    }
}
