//! Owns a request before it is sent: who asks, what the store holds of its past, what its headers ask for, its plan, and
//! every way in which it is planned again. It must not send or answer it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use rejoinder_core::Input;
use rejoinder_core::client::Client;
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::notes::Notes;
use rejoinder_core::options::PlanOptions;
use rejoinder_core::request::parse::{self, Context, ParsedRequest, RequestSummary};
use rejoinder_core::request::plan::Plan;
use rejoinder_core::wire::request;

use super::app::App;
use super::overrides::RequestOverrides;
use super::response_recorder::ResponseRecorder;
use super::socket_turns::SocketCreate;
use super::stored_context::StoredContext;
use super::{body, conversation};
use crate::budget::{Counted, Held, SMALL};
use crate::heavy;
use crate::keyring::Caller;
use crate::telemetry::{CONTENTS, RequestRecord};
use crate::upstream::{Forwarded, Requester, RoutingKey, Target, host_of_label};
use serde_json::value::RawValue;
use wildmatch::WildMatch;

/// A request, with all that is needed to plan it anew.
pub struct PreparedRequest {
    pub headers: Arc<Forwarded>,
    /// What is told of it at its end.
    pub record: Arc<RequestRecord>,
    body: Bytes,
    overrides: RequestOverrides,
    /// The client that sent it.
    pub client: &'static Client,
    pub caller: Arc<Caller>,
    pub asks: Arc<RequestSummary>,
    pub past: StoredContext,
    pub route: Arc<RoutingKey>,
    /// The summary that was made before the upstream was asked.
    pub(super) summary: OnceLock<Arc<Summary>>,
    /// What the upstream answered, where it has to be asked once more for another form of it.
    pub(super) unfit: OnceLock<Arc<str>>,
    /// Whether a stream is made of it, whatever it says.
    streams: bool,
    /// Whether the model is only to read its prompt.
    pub warms_up: bool,
}

/// A create request that was read: over HTTP, or as an event of a WebSocket.
pub struct CreateRequest {
    pub headers: HeaderMap,
    pub id: HeaderValue,
    /// What is told of it at its end.
    pub record: Arc<RequestRecord>,
    pub body: Bytes,
    /// What it has of the WebSocket that it came over.
    pub socket: Option<SocketCreate>,
}

/// A create request that nothing is wrong with, and what is to be sent for it.
pub struct Planned {
    pub request: PreparedRequest,
    /// The server that it will likely go to, for which it is planned.
    pub target: Target,
    /// The plan without its body.
    pub plan: Plan,
    pub body: Counted,
    /// What is kept of its input, with the room that it takes, if its response is to be stored or remembered.
    pub input: Option<(Input, Option<Held>)>,
}

/// A summary that stands for all that came before.
pub struct Summary {
    /// `encrypted_content`
    pub blob: String,
    /// The item that holds it, as the plan takes it.
    pub item: Box<RawValue>,
}

impl PreparedRequest {
    /// Parses a create request, fetches its past, and plans it for the server that it will likely go to.
    ///
    /// # Errors
    /// What is wrong with the request; 404 when no server has the model; 429 where there is no room in time.
    pub async fn plan(app: &App, create: CreateRequest) -> Result<Planned, Error> {
        let CreateRequest { headers, id, record, mut body, socket } = create;
        let text = loop {
            match heavy::run(body.len(), || parse::text(&body)).await? {
                // mended, in the place of what came
                Cow::Owned(text) => {
                    let mut held = app.budget.begin();
                    held.reach(text.len()).await?;
                    body = held.of(text.into_bytes()).into_bytes();
                }
                Cow::Borrowed(text) => break text,
            }
        };
        let (parsed, asks) = heavy::run(body.len(), || {
            let parsed = ParsedRequest::read(text, &app.config.limits)?;
            let asks = parsed.asks()?;
            Ok::<_, Error>((parsed, asks))
        })
        .await?;
        let kept = ResponseRecorder::wanted(&asks) || socket.is_some();
        let request =
            PreparedRequest::new(app, headers, (&id, &record), body.clone(), asks, socket.as_ref()).await?;
        let target = request.target(app).await?;
        let mut room = request.room(app, if kept { body.len() } else { 0 }).await?;
        let planned = heavy::run(request.bytes(), || {
            let context = request.past.context(target.native);
            let plan = parsed.plan(&request.options(app, &target), &context)?;
            let input = kept.then(|| parsed.stored_input(&context, &plan.repeated));
            // it is dropped where it was made: many items take a while
            drop(parsed);
            Ok::<_, Error>((plan, input))
        });
        let (mut plan, input) = planned.await?;
        count(app, &plan.notes);
        let input = input.map(|input| {
            let held = room.as_mut().map(|room| room.split(input.bytes()));
            (input, held)
        });
        let body = counted(std::mem::take(&mut plan.body), room);
        Ok(Planned { request, target, plan, body, input })
    }

    /// Fetches what the request names of the store. `id`: that of the request, and what is told of it. `socket`: the WebSocket
    /// that it came over.
    ///
    /// # Errors
    /// As [`StoredContext::load`].
    pub async fn new(
        app: &App,
        headers: HeaderMap,
        (id, record): (&HeaderValue, &Arc<RequestRecord>),
        body: Bytes,
        asks: RequestSummary,
        socket: Option<&SocketCreate>,
    ) -> Result<PreparedRequest, Error> {
        let caller = app.keyring.caller(&headers);
        let model = asks.model.as_deref().or(app.config.default_model.as_deref()).unwrap_or_default();
        if !model.is_empty() {
            record.set_model(model);
        }
        let key = app.client_keys.still(&headers)?;
        key.as_ref().map_or(Ok(()), |key| key.check_model(model))?;
        let past = StoredContext::load(app, &caller, &asks, socket).await?;
        let route = RoutingKey {
            requester: App::requester(key.as_deref(), &caller),
            ..conversation::route(&headers, model, asks.prompt_cache_key.as_deref(), past.root().as_deref())
        };
        Ok(PreparedRequest {
            body,
            overrides: RequestOverrides::read(&headers, &app.config),
            client: Client::announced(client_headers(&headers)),
            headers: Arc::new(Forwarded::of(&headers, id)),
            record: record.clone(),
            caller: Arc::new(caller),
            asks: Arc::new(asks),
            past,
            route: Arc::new(route),
            summary: OnceLock::new(),
            unfit: OnceLock::new(),
            streams: socket.is_some(),
            warms_up: socket.is_some_and(|socket| !socket.generate),
        })
    }

    /// Plans a create request that nobody sent, for the server with that label, or the one that it would likely go to.
    ///
    /// # Errors
    /// As [`PreparedRequest::plan`], and for what a request names of the store.
    pub async fn preview(app: &App, body: Bytes, upstream: Option<&str>) -> Result<(Plan, Target), Error> {
        let text = parse::text(&body)?.into_owned();
        let asks = heavy::run(text.len(), || ParsedRequest::read(&text, &app.config.limits)?.asks()).await?;
        let stored = [
            ("previous_response_id", asks.previous_response_id.is_some()),
            ("conversation", asks.conversation.is_some()),
            ("input", !asks.references.is_empty()),
        ];
        if let Some((field, _)) = stored.iter().find(|(_, named)| *named) {
            let message =
                format!("A request is planned here by itself: leave out what {field} names of the store.");
            return Err(Error::new(Kind::BadRequest, message).param(*field));
        }
        let (headers, id) = (HeaderMap::new(), HeaderValue::from_static("preview"));
        let model = asks.model.as_deref().or(app.config.default_model.as_deref()).unwrap_or_default();
        let upstreams = upstream.map(|label| [WildMatch::new(host_of_label(label))].into());
        let requester = Requester { upstreams, ..Requester::default() };
        let request = PreparedRequest {
            route: Arc::new(RoutingKey { model: model.to_owned(), requester, ..RoutingKey::default() }),
            body,
            overrides: RequestOverrides::read(&headers, &app.config),
            client: Client::announced(client_headers(&headers)),
            headers: Arc::new(Forwarded::of(&headers, &id)),
            record: RequestRecord::unlogged(),
            caller: Arc::new(app.keyring.caller(&headers)),
            asks: Arc::new(asks),
            past: StoredContext::default(),
            summary: OnceLock::new(),
            unfit: OnceLock::new(),
            streams: false,
            warms_up: false,
        };
        let target = request.target(app).await?;
        let plan = heavy::run(text.len(), || {
            let parsed = ParsedRequest::read(&text, &app.config.limits)?;
            parsed.plan(&request.options(app, &target), &Context::default())
        });
        Ok((plan.await?, target))
    }

    /// Takes a request that asks about a create request of the same body, and the server that it will likely go to.
    ///
    /// # Errors
    /// As a create request's.
    pub async fn read(
        app: &App,
        request: Request<Incoming>,
        id: (&HeaderValue, &Arc<RequestRecord>),
    ) -> Result<(PreparedRequest, Target), Error> {
        let (Parts { headers, .. }, incoming) = request.into_parts();
        let body = body::read(app, &headers, incoming).await?;
        let asks =
            heavy::run(body.len(), || ParsedRequest::read(&parse::text(&body)?, &app.config.limits)?.asks())
                .await?;
        let job = PreparedRequest::new(app, headers, id, body, asks, None).await?;
        let target = job.target(app).await?;
        Ok((job, target))
    }

    /// Names the conversation after its first response, as those that continue it will: they go where its cache is.
    pub fn begins_conversation(&mut self, response: String) {
        if self.route.conversation.is_none() {
            Arc::make_mut(&mut self.route).conversation = Some(response);
        }
    }

    /// Its own items, references as they are.
    ///
    /// # Errors
    /// As [`ParsedRequest::read`].
    pub fn own_input(&self, app: &App) -> Result<Input, Error> {
        let text = parse::text(&self.body)?;
        Ok(ParsedRequest::read(&text, &app.config.limits)?.stored_input(&Context::default(), &[]))
    }

    /// Bytes of it and of its past.
    pub fn bytes(&self) -> usize {
        self.body.len() + self.past.bytes()
    }

    /// Room for what is planned of it, and for `more` bytes; of a small request that was counted with its body.
    ///
    /// # Errors
    /// 429 where there is no room in time.
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

    /// What a plan for that server depends on.
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
            refusal_as_text: self.client.drops_refusals,
            accepts_images: target.accepts_images,
            wrappers: Some(&self.overrides.wrappers),
            efforts: target.efforts.as_deref(),
            budgets: self.overrides.budgets.as_deref().unwrap_or(&target.budgets),
            quirks_off: &self.overrides.quirks_off,
            found_tools: app.config.tools.found_tools,
            native: target.native,
            seal: Some(self.caller.clone()),
            drop_turns: 0,
            compact: None,
            // a run is read as it grows, by its client or another replica's
            stream: (self.asks.background || self.streams).then_some(true),
            warm_up: self.warms_up,
            unfit: self.unfit.get().cloned(),
        }
    }

    /// Plans it again with other options, after the summary if one was made. Returns the body apart from the plan.
    pub async fn plan_with(
        &self,
        app: &App,
        target: &Target,
        change: impl FnOnce(&mut PlanOptions<'_>),
    ) -> Result<(Plan, Counted), Error> {
        let room = self.room(app, 0).await?;
        let plan = || {
            let text = parse::text(&self.body)?;
            let draft = ParsedRequest::read(&text, &app.config.limits)?;
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

/// The values of the headers by which clients are known.
pub fn client_headers(headers: &HeaderMap) -> [Option<&[u8]>; 2] {
    ["originator", "user-agent"].map(|name| headers.get(name).map(HeaderValue::as_bytes))
}

pub fn count(app: &App, notes: &Notes) {
    for (kind, times) in notes.counts() {
        app.metrics.notes(kind, times);
    }
    for (kind, what) in notes.texts() {
        tracing::debug!(target: CONTENTS, kind, what, "left out or changed");
    }
}
