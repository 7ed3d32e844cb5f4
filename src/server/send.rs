//! Owns the sending of a planned request: the summary that goes before it, and the turns that are left out until the
//! server takes it.

use std::sync::Arc;
use std::time::Duration;

use rejoinder_core::error::{Error, Kind};
use rejoinder_core::options::PlanOptions;

use super::app::App;
use super::chat_request::chat_request;
use super::prepared_request::PreparedRequest;
use super::{compact, tokens};
use crate::budget::Counted;
use crate::driver::Answer;
use crate::upstream::{Target, UpstreamResponse};

/// What the upstream answered, and the summary that was made before it was asked.
pub struct UpstreamReply {
    pub response: UpstreamResponse,
    pub compaction: Option<String>,
}

impl UpstreamReply {
    /// Reads on until it is known in which form it comes.
    ///
    /// # Errors
    /// As [`Answer::of`].
    pub async fn answer(self, limit: Duration) -> Result<Answer, Error> {
        Answer::of(self.response, self.compaction, limit).await
    }
}

/// Sends the chat request. From the threshold of `context_management` on, the conversation is summarised first; with
/// `truncation: "auto"` the oldest turns are left out until the server takes it.
pub async fn send(
    app: Arc<App>,
    job: Arc<PreparedRequest>,
    target: Target,
    mut body: Counted,
    mut droppable: usize,
    stream: bool,
) -> Result<UpstreamReply, Error> {
    if let Some(threshold) = job.asks.compact_threshold
        // an answer that is asked for in another form is the same answer
        && job.unfit.get().is_none()
        // nothing is answered, so nothing has to be made short for it
        && !job.warms_up
        // no token is shorter than a byte
        && body.len() as u64 >= threshold
        // a server that speaks Responses well makes its own
        && target.native.is_none_or(|native| native.function_tools_only)
        && Box::pin(tokens::of(&app, &job, &target)).await? >= threshold
    {
        if let Some(made) = Box::pin(compact::before(&app, &job, &target)).await? {
            let _ = job.summary.set(Arc::new(made));
        }
        let (plan, planned) = job.plan_with(&app, &target, |_| {}).await?;
        (body, droppable) = (planned, plan.droppable_turns);
    }
    let mut dropped = 0;
    loop {
        let (planner, of) = (job.clone(), app.clone());
        let request = chat_request(&job, &target, body, stream, move |target| {
            let (planner, of) = (planner.clone(), of.clone());
            Box::pin(async move {
                let change = |options: &mut PlanOptions<'_>| options.drop_turns = dropped;
                Ok(planner.plan_with(&of, &target, change).await?.1)
            })
        });
        let refused = match app.upstream.send(request).await {
            Err(error) if error.kind == Kind::ContextLength && job.asks.truncates && droppable > 0 => error,
            Err(error) => return Err(error),
            Ok(response) => {
                let made = job.summary.get().filter(|_| job.unfit.get().is_none());
                return Ok(UpstreamReply { response, compaction: made.map(|made| made.blob.clone()) });
            }
        };
        dropped += droppable.div_ceil(4);
        tracing::debug!(dropped, code = refused.label(), "left out the oldest turns");
        app.metrics.note("truncated");
        let change = |options: &mut PlanOptions<'_>| options.drop_turns = dropped;
        let plan;
        (plan, body) = job.plan_with(&app, &target, change).await?;
        droppable = plan.droppable_turns;
    }
}

/// Asks once more for an answer whose text, `unfit`, does not fit its format: for that format alone.
pub async fn send_again(
    app: Arc<App>,
    job: Arc<PreparedRequest>,
    target: Target,
    unfit: String,
    stream: bool,
) -> Result<UpstreamReply, Error> {
    app.metrics.note("format_asked_again");
    tracing::debug!(bytes = unfit.len(), "the text does not fit text.format, which is asked for alone");
    let _ = job.unfit.set(unfit.into());
    let (plan, body) = job.plan_with(&app, &target, |_| {}).await?;
    send(app, job, target, body, plan.droppable_turns, stream).await
}
