//! Owns a request in the making: who asks, what the store holds of its past, what its headers wish for, and every way
//! in which it is planned anew before the upstream takes it. It must not answer.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use rejoinder_core::Input;
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::notes::Notes;
use rejoinder_core::options::{PlanOptions, Wrappers, is_wrapper};
use rejoinder_core::request::parse::{self, Asks, Context, Draft};
use rejoinder_core::request::plan::Plan;
use rejoinder_core::wire::request;

use super::compact::Made;
use super::state::Past;
use super::{App, body, compact, conversation, tokens};
use crate::budget::{Counted, Held, SMALL};
use crate::config::{Config, read_budgets};
use crate::driver::Answer;
use crate::heavy;
use crate::keyring::Caller;
use crate::upstream::{Body, ChatRequest, Forwarded, Rendered, Route, Sent, Target};

/// A request, with all that is needed to plan it anew.
pub struct Job {
    pub headers: Arc<Forwarded>,
    body: Bytes,
    wishes: Wishes,
    /// Whether Codex asks.
    pub codex: bool,
    pub caller: Arc<Caller>,
    pub asks: Arc<Asks>,
    pub past: Past,
    pub route: Arc<Route>,
    /// The summary that was made before the upstream was asked.
    summary: OnceLock<Arc<Made>>,
    /// What the upstream answered, where it has to be asked once more for another form of it.
    unfit: OnceLock<Arc<str>>,
}

impl Job {
    /// Fetches what the request names of the store.
    ///
    /// # Errors
    /// As [`Past::load`].
    pub async fn new(
        app: &App,
        headers: HeaderMap,
        request_id: &HeaderValue,
        body: Bytes,
        asks: Asks,
    ) -> Result<Job, Error> {
        let caller = app.keyring.caller(&headers);
        let past = Past::load(app, &caller, &asks).await?;
        let model = asks.model.as_deref().or(app.config.default_model.as_deref()).unwrap_or_default();
        let route =
            conversation::route(&headers, model, asks.prompt_cache_key.as_deref(), past.root().as_deref());
        Ok(Job {
            body,
            wishes: Wishes::read(&headers, &app.config),
            codex: is_codex(&headers),
            headers: Arc::new(Forwarded::of(&headers, request_id)),
            caller: Arc::new(caller),
            asks: Arc::new(asks),
            past,
            route: Arc::new(route),
            summary: OnceLock::new(),
            unfit: OnceLock::new(),
        })
    }

    /// Takes a request that asks about a create request of the same body, and the server that it will likely go to.
    ///
    /// # Errors
    /// As a create request's.
    pub async fn read(
        app: &App,
        request: Request<Incoming>,
        request_id: &HeaderValue,
    ) -> Result<(Job, Target), Error> {
        let (Parts { headers, .. }, incoming) = request.into_parts();
        let body = body::read(app, &headers, incoming).await?;
        let asks =
            heavy::run(body.len(), || Draft::read(&parse::text(&body)?, &app.config.limits)?.asks()).await?;
        let job = Job::new(app, headers, request_id, body, asks).await?;
        let target = job.target(app).await?;
        Ok((job, target))
    }

    /// Its own items, references as they are.
    ///
    /// # Errors
    /// As [`Draft::read`].
    pub fn own_input(&self, app: &App) -> Result<Input, Error> {
        let text = parse::text(&self.body)?;
        Ok(Draft::read(&text, &app.config.limits)?.stored_input(&Context::default(), &[]))
    }

    /// Bytes of it and of its past.
    pub fn bytes(&self) -> usize {
        self.body.len() + self.past.bytes()
    }

    /// Room for what is planned of it, and for `more` bytes; of a small request that was counted with its body.
    ///
    /// # Errors
    /// 429 where there is none.
    pub async fn room(&self, app: &App, more: usize) -> Result<Option<Held>, Error> {
        let bytes = self.bytes();
        if bytes <= SMALL {
            return Ok(None);
        }
        let mut held = app.budget.begin();
        held.reach(bytes + more).await?;
        Ok(Some(held))
    }

    /// How the server that it will likely go to reads it.
    ///
    /// # Errors
    /// 404 when no server has the model.
    pub async fn target(&self, app: &App) -> Result<Target, Error> {
        match self.route.model.as_str() {
            // the plan refuses it, in better words
            "" => Ok(Target::unknown()),
            _ => app.upstream.likely(&self.route).await,
        }
    }

    /// What goes upstream: `body` where the server reads like `likely`, and what `again` plans for any other.
    pub fn chat(
        &self,
        likely: &Target,
        body: Counted,
        stream: bool,
        again: impl Fn(Target) -> BoxFuture<'static, Result<Counted, Error>> + Send + Sync + 'static,
    ) -> ChatRequest {
        let own = likely.clone();
        // given away, not copied: a long conversation's is the largest thing in memory, and a second try is rare
        let first = Mutex::new(Some(body));
        let render = move |target: &Target| {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            match first.take_if(|_| target.reads_like(&own)) {
                Some(body) => Rendered::Now(Body::Own(body)),
                None => Rendered::Later(again(target.clone())),
            }
        };
        let (route, headers) = (self.route.clone(), self.headers.clone());
        ChatRequest { route, path: None, headers, stream, body: Arc::new(render) }
    }

    pub fn options<'a>(&'a self, app: &'a App, target: &'a Target) -> PlanOptions<'a> {
        PlanOptions {
            dialect: target.dialect,
            default_model: app.config.default_model.as_deref(),
            upstream_model: target.model.as_deref(),
            extra_body: target.extra_body.as_ref(),
            developer_messages: app.config.developer_messages,
            alternate_roles: target.alternate_roles,
            reasoning: app.config.reasoning,
            seal_reasoning: app.config.seal_reasoning,
            refusal_as_text: self.codex,
            sees: target.sees,
            wrappers: Some(&self.wishes.wrappers),
            efforts: target.efforts.as_deref(),
            budgets: self.wishes.budgets.as_deref().unwrap_or(&target.budgets),
            quirks_off: &self.wishes.quirks_off,
            found_tools: app.config.tools.found_tools,
            native: target.native,
            seal: Some(self.caller.clone()),
            drop_turns: 0,
            compact: None,
            // a run is read as it grows, by its client or another replica's
            stream: self.asks.background.then_some(true),
            unfit: self.unfit.get().cloned(),
        }
    }

    /// Plans it once more, with other options, behind the summary if one was made; the body apart from the plan.
    pub async fn plan_with(
        &self,
        app: &App,
        target: &Target,
        change: impl FnOnce(&mut PlanOptions<'_>),
    ) -> Result<(Plan, Counted), Error> {
        let room = self.room(app, 0).await?;
        let plan = || {
            let text = parse::text(&self.body)?;
            let draft = Draft::read(&text, &app.config.limits)?;
            let mut options = self.options(app, target);
            change(&mut options);
            let summary = self.summary.get().map(|made| &*made.item);
            let past = self.past.context(target.native);
            draft.plan(&options, &Context { summary: summary.map(request::item), ..past })
        };
        let mut plan = heavy::run(self.bytes(), plan).await?;
        let body = counted(std::mem::take(&mut plan.body), room);
        Ok((plan, body))
    }
}

/// What the upstream answered, and the summary that was made before it was asked.
pub struct Answered {
    pub response: Sent,
    pub compaction: Option<String>,
}

impl Answered {
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
    job: Arc<Job>,
    target: Target,
    mut body: Counted,
    mut droppable: usize,
    stream: bool,
) -> Result<Answered, Error> {
    if let Some(threshold) = job.asks.compact_threshold
        // an answer that is asked for in another form is the same answer
        && job.unfit.get().is_none()
        // no token is shorter than a byte
        && body.len() as u64 >= threshold
        // a server that speaks Responses well makes its own
        && target.native.is_none_or(|native| native.functions)
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
        let request = job.chat(&target, body, stream, move |target| {
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
                return Ok(Answered { response, compaction: made.map(|made| made.blob.clone()) });
            }
        };
        dropped += droppable.div_ceil(4);
        tracing::debug!(dropped, why = refused.message, "left out the oldest turns");
        app.metrics.note("truncated");
        let change = |options: &mut PlanOptions<'_>| options.drop_turns = dropped;
        let plan;
        (plan, body) = job.plan_with(&app, &target, change).await?;
        droppable = plan.droppable_turns;
    }
}

/// A chat body with the room that was kept for it.
pub fn counted(body: Vec<u8>, room: Option<Held>) -> Counted {
    match room {
        Some(mut held) => {
            held.shrink(body.len());
            held.of(body)
        }
        None => body.into(),
    }
}

/// Asks once more for an answer whose text, `unfit`, does not fit its format: for that format alone.
pub async fn send_again(
    app: Arc<App>,
    job: Arc<Job>,
    target: Target,
    unfit: String,
    stream: bool,
) -> Result<Answered, Error> {
    app.metrics.note("format_asked_again");
    tracing::debug!(bytes = unfit.len(), "the text does not fit text.format, which is asked for alone");
    let _ = job.unfit.set(unfit.into());
    let (plan, body) = job.plan_with(&app, &target, |_| {}).await?;
    send(app, job, target, body, plan.droppable_turns, stream).await
}

/// What headers and configuration ask for, the request's own header first.
pub struct Wishes {
    wrappers: Wrappers,
    budgets: Option<Vec<(String, u64)>>,
    quirks_off: Vec<String>,
}

/// How the names of these headers begin.
const OURS: [&str; 2] = ["x-rejoinder-", "x-llama-responses-"];
/// The names of one header, the one that goes first at the beginning.
type Names = [HeaderName; 2];

const WEB_SEARCH: Names = [
    HeaderName::from_static("x-rejoinder-web-search-wrapper"),
    HeaderName::from_static("x-llama-responses-web-search-wrapper"),
];
const FILE_SEARCH: Names = [
    HeaderName::from_static("x-rejoinder-file-search-wrapper"),
    HeaderName::from_static("x-llama-responses-file-search-wrapper"),
];
const BUDGETS: Names = [
    HeaderName::from_static("x-rejoinder-reasoning-budget-tokens"),
    HeaderName::from_static("x-llama-responses-reasoning-budget-tokens"),
];

impl Wishes {
    fn read(headers: &HeaderMap, config: &Config) -> Wishes {
        // they are hardly ever there
        let ours = |name: &HeaderName| OURS.iter().any(|ours| name.as_str().starts_with(ours));
        let any = headers.keys().any(ours);
        let header = |names: &Names| {
            let value = names.iter().filter(|_| any).find_map(|name| headers.get(name));
            value.and_then(|value| value.to_str().ok())
        };
        let wrapper = |names: &Names, key: &Option<String>| match header(names) {
            Some(command) if is_wrapper(command) => Some(command.to_owned()),
            Some(_) => {
                let [header, _] = names;
                tracing::warn!(%header, "a wrapper that is no bare command name or path is ignored");
                None
            }
            None => key.clone(),
        };
        let budgets = match header(&BUDGETS).map(read_budgets) {
            Some(Ok(budgets)) => Some(budgets),
            Some(Err(problem)) => {
                tracing::warn!(problem, "a reasoning budget header that cannot be read is ignored");
                None
            }
            None => None,
        };
        Wishes {
            wrappers: Wrappers {
                web: wrapper(&WEB_SEARCH, &config.tools.web_search_wrapper),
                file: wrapper(&FILE_SEARCH, &config.tools.file_search_wrapper),
            },
            budgets,
            quirks_off: config
                .tools
                .disabled_quirks
                .iter()
                .flat_map(|names| names.split(','))
                .map(|name| name.trim().to_owned())
                .collect(),
        }
    }
}

/// Codex drops a message whole when one part of it is a refusal.
fn is_codex(headers: &HeaderMap) -> bool {
    let begins =
        |value: &HeaderValue| value.as_bytes().get(..5).is_some_and(|b| b.eq_ignore_ascii_case(b"codex"));
    headers.get("originator").is_some_and(begins) || headers.get(header::USER_AGENT).is_some_and(begins)
}

pub fn count(app: &App, notes: &Notes) {
    for (kind, times) in notes.counts() {
        app.metrics.notes(kind, times);
    }
    for (kind, what) in notes.told() {
        tracing::debug!(kind, what, "left out or changed");
    }
}
