//! Owns what a request gets from the store before it is planned, and what it leaves there when it has ended. It must
//! not know the wire.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use rejoinder_core::error::{Error, Kind};
use rejoinder_core::item_views::{id_of, input_id, listed, response_of};
use rejoinder_core::request::parse::{Context, RequestSummary};
use rejoinder_core::response::object::{Snapshot, Status};
use rejoinder_core::response::transcoder::Transcoder;
use rejoinder_core::responses_profile::ResponsesProfile;
use rejoinder_core::wire::json;
use rejoinder_core::wire::request::{InputItem, elements, item, push_items};
use rejoinder_core::{Input, Output};

use super::app::App;
use super::socket_turns::SocketCreate;
use crate::budget::Held;
use crate::heavy;
use crate::keyring::Caller;
use crate::store::{Chain, Conversation, Id, Marks, Scope, StoreError, StoredItem, Turn, TurnState};

/// What the store holds of a request's past.
#[derive(Debug, Default)]
pub struct StoredContext {
    turns: Vec<Arc<Turn>>,
    items: Vec<StoredItem>,
    references: Vec<(String, Arc<str>)>,
    strict: bool,
    /// The turns' items as JSON, where somebody wants to see all of it.
    written: OnceLock<Vec<String>>,
}

impl StoredContext {
    /// Fetches what `asks` names. `socket`: the WebSocket that it came over, which may remember what no store has.
    ///
    /// # Errors
    /// 400 for an id that names nothing of this caller's, 503 for a store that cannot be asked.
    pub async fn load(
        app: &App,
        caller: &Caller,
        asks: &RequestSummary,
        socket: Option<&SocketCreate>,
    ) -> Result<StoredContext, Error> {
        let mut past = StoredContext::default();
        if let Some(id) = &asks.previous_response_id {
            past.strict = true;
            let limit = app.config.store.max_turns;
            let chain = match socket.and_then(|socket| socket.turns.find(id)) {
                Some(turns) if turns.len() > limit => Chain::TooLong,
                Some(turns) => Chain::Whole(turns.to_vec()),
                None => app.store.chain(caller.scope(), id, limit).await?,
            };
            past.turns = match chain {
                Chain::Whole(turns) => turns,
                Chain::Broken => {
                    let message = format!("Previous response with id '{id}' not found.");
                    return Err(
                        Error::new(Kind::PreviousResponseNotFound, message).param("previous_response_id")
                    );
                }
                Chain::TooLong => {
                    let message = format!("This conversation has over {limit} turns; start a new one.");
                    return Err(Error::new(Kind::InvalidValue, message).param("previous_response_id"));
                }
            };
        }
        if let Some(id) = &asks.conversation {
            past.strict = true;
            let items = app.store.items(caller.scope(), id).await?;
            past.items = items.ok_or_else(|| no_conversation(id).param("conversation"))?;
        }
        past.references = past.find(app, caller.scope(), asks).await?;
        Ok(past)
    }

    /// The items that `asks` refers to. Each turn is looked through once, however many of its items are wanted; what is
    /// not found is refused by the plan, which knows the field.
    async fn find(
        &self,
        app: &App,
        scope: Scope,
        asks: &RequestSummary,
    ) -> Result<Vec<(String, Arc<str>)>, Error> {
        let mut found = Found {
            wanted: asks.references.iter().map(|(_, id)| id.as_str()).collect(),
            items: HashMap::new(),
        };
        for item in &self.items {
            found.take(&item.id, || item.json.clone());
        }
        for turn in self.turns.iter().rev() {
            found.take_of(turn);
        }
        let others: BTreeSet<String> = found.wanted.iter().filter_map(|id| response_of(id)).collect();
        for response in others {
            if let Some(turn) = app.store.turn(scope, &response).await? {
                found.take_of(&turn);
            }
        }
        // a short name may stand for a long item, as often as the request likes
        let most = app.config.max_body_bytes;
        let sizes = asks.references.iter().filter_map(|(_, id)| found.items.get(id.as_str()));
        if sizes.map(|item| item.len()).sum::<usize>() > most {
            let message = format!(
                "Invalid 'input': the items that it refers to are together larger than {most} bytes (max_body_bytes)."
            );
            return Err(Error::new(Kind::InvalidValue, message).param("input"));
        }
        Ok(found.items.into_iter().map(|(id, item)| (id.to_owned(), item)).collect())
    }

    /// As the plan for a server needs it. `native`: how that one takes Responses requests, if it does.
    pub fn context(&self, native: Option<&ResponsesProfile>) -> Context<'_> {
        if native.is_some_and(|native| !native.function_tools_only) {
            return self.whole();
        }
        self.context_of(2 * self.turns.len(), |earlier| {
            for turn in &self.turns {
                turn.input.push(earlier);
                turn.output.push(earlier);
            }
        })
    }

    /// With the JSON of every item.
    pub fn whole(&self) -> Context<'_> {
        let written = self.written.get_or_init(|| {
            let both = |turn: &Turn| {
                let output = turn.output.array(&turn.id.to_string()).into_owned();
                [turn.input.array().into_owned(), output]
            };
            self.turns.iter().flat_map(|turn| both(turn)).collect()
        });
        self.context_of(written.len(), |earlier| {
            written.iter().for_each(|json| push_items(earlier, json));
        })
    }

    fn context_of<'a>(&'a self, most: usize, push: impl FnOnce(&mut Vec<InputItem<'a>>)) -> Context<'a> {
        let raw = |json| Some(item(serde_json::from_str(json).ok()?));
        // most turns are a message and its answer
        let mut earlier = Vec::with_capacity(self.items.len() + most);
        earlier.extend(self.items.iter().filter_map(|item| raw(&item.json)));
        push(&mut earlier);
        let references: HashMap<_, _> =
            self.references.iter().filter_map(|(id, json)| Some((id.as_str(), raw(json)?))).collect();
        Context { earlier, references, summary: None, strict: self.strict }
    }

    /// Bytes of all that was fetched.
    pub fn bytes(&self) -> usize {
        let turns: usize = self.turns.iter().map(|turn| turn.bytes()).sum();
        let items: usize = self.items.iter().map(|item| item.json.len()).sum();
        turns + items + self.references.iter().map(|(_, json)| json.len()).sum::<usize>()
    }

    /// What all requests of this conversation share, if the store knows it as one.
    pub fn root(&self) -> Option<String> {
        self.turns.first().map(|turn| turn.id.to_string())
    }

    /// The turns that it continues, the oldest first.
    pub fn turns(&self) -> &[Arc<Turn>] {
        &self.turns
    }

    /// The settings of the turn before, so that equal ones are kept once.
    fn last_echo(&self) -> Option<&Arc<str>> {
        self.turns.last().map(|turn| &turn.echo)
    }
}

/// Items by their ids, as they are found.
struct Found<'a> {
    wanted: HashSet<&'a str>,
    items: HashMap<&'a str, Arc<str>>,
}

impl Found<'_> {
    fn take(&mut self, id: &str, item: impl FnOnce() -> Arc<str>) {
        if let Some(id) = self.wanted.take(id) {
            self.items.insert(id, item());
        }
    }

    fn take_of(&mut self, turn: &Turn) {
        if self.wanted.is_empty() {
            return;
        }
        let response = turn.id.to_string();
        let (input, output) = (turn.input.array(), turn.output.array(&response));
        for item in elements(&output) {
            if let Some(id) = id_of(item) {
                self.take(&id, || Arc::from(item.get()));
            }
        }
        for (n, item) in elements(&input).into_iter().enumerate() {
            self.take(&input_id(&response, n, item), || Arc::from(item.get()));
        }
    }
}

/// What is to be kept of a request.
pub struct ResponseRecorder {
    app: Arc<App>,
    scope: Scope,
    asks: Arc<RequestSummary>,
    input: Input,
    last_echo: Option<Arc<str>>,
    recent: Option<RecentTurns>,
    /// The count of the input, until the store has it.
    _held: Option<Held>,
}

impl ResponseRecorder {
    /// `input`: the request's own items.
    pub fn new(
        app: Arc<App>,
        scope: Scope,
        asks: Arc<RequestSummary>,
        past: &StoredContext,
        input: Input,
        held: Option<Held>,
    ) -> ResponseRecorder {
        let last_echo = past.last_echo().cloned();
        ResponseRecorder { app, scope, asks, input, last_echo, recent: None, _held: held }
    }

    /// Has the WebSocket that the request came over remember the response, or forget the one before where it fails.
    pub fn on_socket(mut self, socket: Option<SocketCreate>, past: &StoredContext) -> ResponseRecorder {
        self.recent = socket.map(|socket| RecentTurns { socket, earlier: past.turns.clone() });
        self
    }

    /// Whether the response goes into the store by its id.
    pub fn stores(&self) -> bool {
        self.asks.store
    }

    /// Whether anything of this request is kept.
    pub fn wanted(asks: &RequestSummary) -> bool {
        asks.store || asks.conversation.is_some()
    }

    /// The turn as it stands.
    pub fn turn(&self, transcoder: &Transcoder) -> Turn {
        self.turn_with(transcoder, format!("[{}]", transcoder.snapshot().output))
    }

    fn turn_with(&self, transcoder: &Transcoder, output: String) -> Turn {
        let snapshot = transcoder.snapshot();
        let echo = json::lossy(transcoder.echo());
        let echo = match &self.last_echo {
            Some(last) if **last == *echo => last.clone(),
            _ => self.app.echoes.share(&echo),
        };
        Turn {
            id: snapshot.id.into(),
            parent: self.asks.previous_response_id.as_deref().map(Id::from),
            created_at: snapshot.created_at,
            state: state_of(&snapshot),
            input: self.input.clone(),
            output: Output::new(output, snapshot.id),
            echo,
            usage: snapshot.usage,
            background: self.asks.background,
            marks: Marks::default(),
        }
    }

    /// Keeps a response whose client left before its end.
    pub fn keep_cancelled(&self, transcoder: &Transcoder) -> BoxFuture<'static, ()> {
        let turn = Turn { state: TurnState::Cancelled, ..self.turn(transcoder) };
        self.put(turn)
    }

    /// Keeps the response, which has ended, and takes its output; what cannot be kept is logged and counted, and stops
    /// nothing.
    pub fn keep(&self, transcoder: &mut Transcoder) -> BoxFuture<'static, ()> {
        let output = transcoder.take_output();
        self.put(self.turn_with(transcoder, output))
    }

    fn put(&self, turn: Turn) -> BoxFuture<'static, ()> {
        let (app, scope, asks) = (self.app.clone(), self.scope, self.asks.clone());
        let turn = Arc::new(turn);
        if let Some(recent) = &self.recent {
            recent.take(&turn);
        }
        Box::pin(async move {
            if let Some(conversation) = asks.conversation.as_deref().filter(|_| turn.state.continuable()) {
                let items = heavy::run(turn.bytes(), || items_of(&turn)).await;
                let kept = app.store.append(scope, conversation, items).await;
                report(&app, &turn.id, kept.map(drop));
            }
            if asks.store {
                report(&app, &turn.id, app.store.put(scope, turn.clone()).await);
            }
        })
    }
}

/// What a WebSocket remembers of a response.
struct RecentTurns {
    socket: SocketCreate,
    /// The turns before it.
    earlier: Vec<Arc<Turn>>,
}

impl RecentTurns {
    fn take(&self, turn: &Arc<Turn>) {
        let SocketCreate { turns, lane, .. } = &self.socket;
        if turn.state.continuable() {
            turns.remember(lane, self.earlier.iter().chain([turn]).cloned().collect());
        } else if let Some(parent) = turn.parent_id() {
            turns.forget(&parent);
        }
    }
}

/// Logs and counts what could not be kept of a response.
pub fn report(app: &App, response: &impl Display, kept: Result<(), StoreError>) {
    if let Err(error) = kept {
        app.metrics.note("not_stored");
        tracing::error!(%response, %error, "a response could not be stored");
    }
}

/// All items of a turn, as a conversation keeps them.
fn items_of(turn: &Turn) -> Vec<StoredItem> {
    let response = turn.id.to_string();
    let (input, output) = (turn.input.array(), turn.output.array(&response));
    let input = elements(&input).into_iter().enumerate().map(|(n, item)| {
        let id = input_id(&response, n, item);
        let json = listed(item, &id, true).to_string();
        StoredItem { id: id.into(), json: json.into() }
    });
    let output = elements(&output)
        .into_iter()
        .filter_map(|item| Some(StoredItem { id: id_of(item)?.into(), json: item.get().into() }));
    input.chain(output).collect()
}

fn state_of(snapshot: &Snapshot<'_>) -> TurnState {
    match snapshot.status {
        Status::Queued => TurnState::Queued,
        Status::InProgress => TurnState::InProgress,
        Status::Completed(at) => TurnState::Completed(at),
        Status::Incomplete(reason) => TurnState::Incomplete(reason.into()),
        Status::Failed { code, message } => TurnState::Failed { code: code.into(), message: message.into() },
        Status::Cancelled => TurnState::Cancelled,
    }
}

/// 503: the request needs what the store holds.
impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        Error::new(Kind::StoreUnavailable, "The store of responses cannot be reached.").detail(error)
    }
}

/// The error for an id that names no conversation of this caller's.
pub fn no_conversation(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Conversation with id '{id}' not found."))
}

/// Whether a conversation is there.
///
/// # Errors
/// 404 that names it, 503 for a store that cannot be asked.
pub async fn conversation(app: &App, scope: Scope, id: &str) -> Result<Conversation, Error> {
    let found = app.store.conversation(scope, id).await?;
    found.ok_or_else(|| no_conversation(id))
}
