//! Owns what a response leaves in the store when it has ended: its turn, and its items in a conversation. It must not know
//! the wire.

use std::fmt::Display;
use std::sync::Arc;

use futures::future::BoxFuture;
use rejoinder_core::item_views::{id_of, input_id, listed};
use rejoinder_core::request::parse::RequestSummary;
use rejoinder_core::response::object::{Snapshot, Status};
use rejoinder_core::response::transcoder::Transcoder;
use rejoinder_core::wire::json;
use rejoinder_core::wire::request::elements;
use rejoinder_core::{Input, Output};

use super::app::App;
use super::socket_turns::SocketCreate;
use super::stored_context::StoredContext;
use crate::budget::Held;
use crate::heavy;
use crate::store::{Id, Marks, Scope, StoreError, StoredItem, Turn, TurnState};

/// Stores a response when it ends, with what its request added to the conversation.
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
        self.recent = socket.map(|socket| RecentTurns { socket, earlier: past.turns().to_vec() });
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
