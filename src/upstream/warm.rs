//! Owns the slots' states on disk, for a llama-server with `--slot-save-path`: saved when a conversation rests, when its
//! slot goes to another, and when we shut down; loaded before its next turn where the slot no longer holds it. It must
//! not choose slots.
//!
//! A state is only ever loaded for the conversation, model and beginning of a prompt that it was saved from: the index
//! says which that is, and the file itself is looked at where it can be, since others may write to the same folder.

mod folder;
mod index;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use serde::Deserialize;
use serde_json::json as value;
use tokio::sync::{Mutex, MutexGuard};

use self::folder::Folder;
use self::index::{Asked, FolderLimits, Index, Prompt, Snapshot, hash};
use super::answer::collect;
use super::exchange::causes;
use super::probe::ANSWER;
use crate::config::UpstreamConfig;
use crate::telemetry::Routing;

/// Fewest tokens that are worth a file: fewer are read again in a moment.
const FEWEST: u64 = 256;
/// A restore has gained something where the next answer had at least this part of it in its cache: one in so many.
const GAIN: u64 = 8;
/// Longest wait for the server to save or load.
const LIMIT: Duration = Duration::from_secs(60);

/// What a request about slots needs to reach the server.
#[derive(Clone)]
pub struct SlotClient {
    pub client: reqwest::Client,
    /// The server's base URL.
    pub base: Arc<str>,
    /// Headers that carry the server's API key.
    pub headers: HeaderMap,
}

/// The states of one server's slots.
pub struct SlotCache {
    /// The server's folder, where it is ours to see too.
    folder: Option<Folder>,
    /// What the names of its files begin with.
    names: String,
    /// How long a conversation rests until it is saved.
    rest: Duration,
    bounds: FolderLimits,
    /// Whether the server's model reads a restored prompt anew: nothing of it is saved then.
    useless: AtomicBool,
    metrics: Routing,
    /// Held while the server saves or loads, so that no slot changes hands meanwhile.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    index: Option<Index>,
    held: HashMap<u32, Held>,
    turns: u64,
    /// Whether the log says already that the server does not save.
    told: bool,
}

/// What we know of a slot.
struct Held {
    conversation: String,
    prompt: Prompt,
    /// Counts up with every request to the slot.
    turn: u64,
    /// Tokens in it when that request was over; a slot that has another number by now was used by somebody else.
    tokens: Option<u64>,
    /// Whether there is no snapshot of it as it is now.
    unsaved: bool,
    /// Tokens that were restored for the request, where its answer will show whether that was of use.
    restored: Option<u64>,
    line: SlotClient,
}

/// `GET /slots`, one element.
#[derive(Deserialize)]
struct ServerStatus {
    id: u32,
    #[serde(default)]
    n_prompt_tokens: Option<u64>,
}

/// The answer to a save or a restore.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Moved {
    n_saved: u64,
    n_written: u64,
    n_restored: u64,
    n_read: u64,
}

/// The parts of `/props` that a state depends on.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Props {
    model_path: Option<String>,
    model_alias: Option<String>,
    build_info: Option<String>,
    chat_template: Option<String>,
    default_generation_settings: Option<Generation>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Generation {
    n_ctx: Option<u64>,
}

impl SlotCache {
    /// Nothing is read or sent yet.
    pub fn new(config: &UpstreamConfig, metrics: &Routing) -> SlotCache {
        let names = index::names(config.url.as_deref().unwrap_or_default());
        let folder = |path| Folder { path, names: names.clone() };
        SlotCache {
            folder: config.slot_save_dir.clone().map(folder),
            names,
            rest: config.slot_save_after,
            bounds: FolderLimits {
                files: config.slot_save_max_files,
                bytes: config.slot_save_max_bytes as u64,
            },
            useless: AtomicBool::new(false),
            metrics: metrics.clone(),
            inner: Mutex::default(),
        }
    }

    /// Whether it is known that saving gains nothing with the server's model.
    pub fn is_useless(&self) -> bool {
        self.useless.load(Ordering::Relaxed)
    }

    /// Looks up what is known of that, and changes nothing.
    pub async fn look(&self, line: &SlotClient) {
        if let Some(folder) = &self.folder
            && let Some(server) = line.identity().await
        {
            self.useless.store(folder.read().await.is_useless(&server), Ordering::Relaxed);
        }
    }

    /// Makes the slot ready for a request with this body: what it holds of another conversation is saved first, what
    /// it lost of this one is loaded. `conversation`: `None` for a request whose slot is nobody's afterwards. Returns the
    /// turn, for [`SlotCache::after`].
    pub async fn before(
        &self,
        line: &SlotClient,
        slot: u32,
        conversation: Option<&str>,
        body: &[u8],
    ) -> Option<u64> {
        let mut inner = self.inner().await;
        let holds = inner.held.get(&slot).is_some_and(|held| Some(&*held.conversation) == conversation);
        if !holds {
            self.save(&mut inner, slot).await;
            inner.held.remove(&slot);
        }
        let conversation = conversation?;
        let asked = Asked::read(body)?;
        let mut restored = None;
        if inner.index().knows(conversation) {
            restored = self.load(&mut inner, line, slot, conversation, &asked, holds).await;
        }
        inner.turns += 1;
        let turn = inner.turns;
        let held = Held {
            conversation: conversation.to_owned(),
            prompt: asked.prompt(),
            turn,
            tokens: None,
            unsaved: true,
            restored: restored.filter(|_| asked.wants_cache()),
            line: line.clone(),
        };
        inner.held.insert(slot, held);
        Some(turn)
    }

    /// The request of that turn is over, `cached` tokens of its prompt were there. Its conversation is saved once it has
    /// rested.
    pub async fn after(&self, slot: u32, turn: u64, cached: Option<u64>) {
        let same = |held: &&mut Held| held.turn == turn;
        let mut inner = self.inner().await;
        if let Some(held) = inner.held.get_mut(&slot).filter(same) {
            held.tokens = held.line.tokens(slot).await;
            let (restored, line) = (held.restored.take(), held.line.clone());
            if let (Some(restored), Some(cached)) = (restored, cached) {
                self.judge(&mut inner, &line, restored, cached).await;
            }
        }
        drop(inner);
        tokio::time::sleep(self.rest).await;
        let mut inner = self.inner().await;
        if inner.held.get(&slot).is_some_and(|held| held.turn == turn) {
            self.save(&mut inner, slot).await;
        }
    }

    /// The server restores states of hybrid, recurrent and sliding-window models, and then reads the prompt anew: the
    /// answer alone shows it.
    async fn judge(&self, inner: &mut Inner, line: &SlotClient, restored: u64, cached: u64) {
        if cached.saturating_mul(GAIN) >= restored {
            return self.metrics.slot_restored("used");
        }
        self.metrics.slot_restored("unused");
        tracing::warn!(
            restored,
            cached,
            "a restored slot was of no use, the server read its prompt anew; slots of this model are no longer saved \
             (upstream.slot_save)"
        );
        let Some(server) = line.identity().await else { return };
        self.useless.store(true, Ordering::Relaxed);
        for file in inner.index().give_up(&server) {
            self.drop_file(inner, &file).await;
        }
        self.write(inner).await;
    }

    /// Whether that server's slots are not to be saved.
    fn given_up(&self, inner: &mut Inner, server: &str) -> bool {
        let useless = inner.index().is_useless(server);
        self.useless.store(useless, Ordering::Relaxed);
        useless
    }

    /// Forgets which slot holds what: a request has gone to whichever the server chose.
    pub async fn forget(&self) {
        self.inner().await.held.clear();
    }

    /// Saves what is not saved, before we go.
    pub async fn save_all(&self) {
        let mut inner = self.inner().await;
        let slots: Vec<u32> = inner.held.keys().copied().collect();
        for slot in slots {
            self.save(&mut inner, slot).await;
        }
    }

    /// The state, with the index read the first time.
    async fn inner(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().await;
        if inner.index.is_none() {
            let index = match &self.folder {
                Some(folder) => folder.open().await,
                None => Index::default(),
            };
            inner.index = Some(index);
        }
        inner
    }

    async fn save(&self, inner: &mut Inner, slot: u32) {
        let Some(held) = inner.held.get_mut(&slot).filter(|held| held.unsaved) else {
            return;
        };
        held.unsaved = false;
        let before = held.tokens;
        let (line, prompt, conversation) =
            (held.line.clone(), held.prompt.clone(), held.conversation.clone());
        let begun = Instant::now();
        let Some(server) = line.identity().await else { return };
        if self.given_up(inner, &server) {
            return;
        }
        let tokens = line.tokens(slot).await;
        // after a restart the slot is empty, and an old snapshot better than a new one
        if tokens.is_none_or(|tokens| tokens < FEWEST) || before.is_some() && before != tokens {
            return;
        }
        let bounds = self.bounds;
        let file = inner.index().file_for(&self.names, &conversation, bounds);
        let moved = line.act(slot, "save", &file).await;
        if moved.is_none() && !std::mem::replace(&mut inner.told, true) {
            tracing::warn!("the server did not save a slot; it needs --slot-save-path");
        }
        let Some(moved) = moved.filter(|moved| moved.n_saved >= FEWEST) else {
            self.drop_file(inner, &file).await;
            return self.write(inner).await;
        };
        let content = match &self.folder {
            Some(folder) => folder.content(&file).await,
            None => None,
        };
        let snapshot = Snapshot {
            file: file.clone(),
            conversation: String::new(),
            server,
            prompt,
            tokens: moved.n_saved,
            bytes: moved.n_written,
            content,
            used: 0,
        };
        for gone in inner.index().add(&conversation, snapshot, bounds) {
            self.drop_file(inner, &gone).await;
        }
        self.write(inner).await;
        let (tokens, bytes, ms) = (moved.n_saved, moved.n_written, begun.elapsed().as_millis() as u64);
        tracing::info!(slot, file, tokens, bytes, ms, "slot saved");
    }

    /// Loads the conversation's snapshot into the slot, where the slot has lost it and everything fits; how
    /// many tokens that were.
    async fn load(
        &self,
        inner: &mut Inner,
        line: &SlotClient,
        slot: u32,
        conversation: &str,
        asked: &Asked<'_>,
        holds: bool,
    ) -> Option<u64> {
        let begun = Instant::now();
        let server = line.identity().await?;
        let Some(snapshot) = inner.index().find(conversation, &server, asked).cloned() else {
            tracing::debug!(slot, "the snapshot is of another prompt or server");
            return None;
        };
        // a slot of a server that was started anew holds nothing; we would not have heard of that otherwise
        if holds && line.tokens(slot).await.is_none_or(|tokens| tokens >= snapshot.tokens) {
            return None;
        }
        let file = snapshot.file.clone();
        if let Some(folder) = &self.folder
            && (snapshot.content.is_none() || folder.content(&file).await != snapshot.content)
        {
            tracing::warn!(slot, file, "slot file is not the one that was saved; removed");
            self.drop_file(inner, &file).await;
            self.write(inner).await;
            return None;
        }
        let Some(moved) = line.act(slot, "restore", &file).await else {
            tracing::warn!(slot, file, "slot file was refused by the server; removed");
            self.drop_file(inner, &file).await;
            self.write(inner).await;
            return None;
        };
        if (moved.n_restored, moved.n_read) != (snapshot.tokens, snapshot.bytes) {
            // without the folder it is checked here first
            tracing::warn!(slot, file, "slot file is not the one that was saved; erased from the slot");
            let _ = line.act(slot, "erase", &file).await;
            self.drop_file(inner, &file).await;
            self.write(inner).await;
            return None;
        }
        self.write(inner).await;
        let (tokens, ms) = (moved.n_restored, begun.elapsed().as_millis() as u64);
        tracing::info!(slot, file, tokens, ms, "slot restored");
        Some(tokens)
    }

    async fn drop_file(&self, inner: &mut Inner, file: &str) {
        inner.index().forget(file);
        if let Some(folder) = &self.folder {
            folder.remove(file).await;
        }
    }

    async fn write(&self, inner: &mut Inner) {
        if let Some(folder) = &self.folder {
            folder.write(inner.index().to_json()).await;
        }
    }
}

impl Inner {
    fn index(&mut self) -> &mut Index {
        self.index.get_or_insert_default()
    }
}

impl SlotClient {
    /// Hash of what a state depends on.
    async fn identity(&self) -> Option<String> {
        let props: Props = self.get("/props").await?;
        let n_ctx = props.default_generation_settings.unwrap_or_default().n_ctx;
        let parts =
            value!([props.model_path, props.model_alias, props.build_info, props.chat_template, n_ctx]);
        props.model_path.as_ref()?;
        Some(hash(parts.to_string().as_bytes()))
    }

    /// Tokens that a slot holds; `None` where the server does not say.
    async fn tokens(&self, slot: u32) -> Option<u64> {
        let seen: Vec<ServerStatus> = self.get("/slots").await?;
        // a slot that had no request since the server's start has no such number
        seen.into_iter().find(|seen| seen.id == slot).map(|seen| seen.n_prompt_tokens.unwrap_or(0))
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Option<T> {
        self.ask(self.client.get(format!("{}{path}", self.base)), path).await
    }

    /// `None` where the server refuses.
    async fn act(&self, slot: u32, action: &str, file: &str) -> Option<Moved> {
        let path = format!("/slots/{slot}?action={action}");
        let body = value!({ "filename": file }).to_string();
        self.ask(self.client.post(format!("{}{path}", self.base)).body(body), &path).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
        path: &str,
    ) -> Option<T> {
        let answer = async {
            let response =
                request.headers(self.headers.clone()).timeout(LIMIT).send().await.map_err(causes)?;
            let mut response = response.error_for_status().map_err(causes)?.into();
            collect(&mut response, ANSWER).await.map_err(|error| error.to_string())
        };
        match answer.await.and_then(|body| serde_json::from_slice(&body).map_err(|error| error.to_string())) {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::debug!(path, error, "the server did not report its slots");
                None
            }
        }
    }
}
