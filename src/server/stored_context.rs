//! Owns what a request gets from the store before it is planned: turns, a conversation, single items. It must not know the
//! wire.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use rejoinder_core::error::{Error, Kind};
use rejoinder_core::item_views::{id_of, input_id, response_of};
use rejoinder_core::request::parse::{Context, RequestSummary};
use rejoinder_core::responses_profile::ResponsesProfile;
use rejoinder_core::wire::request::{InputItem, elements, item, push_items};

use super::app::App;
use super::socket_turns::SocketCreate;
use crate::keyring::Caller;
use crate::store::{Chain, Conversation, Scope, StoreError, StoredItem, Turn};

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
    pub fn last_echo(&self) -> Option<&Arc<str>> {
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
