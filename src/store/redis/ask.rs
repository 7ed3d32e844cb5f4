//! Owns what is said to Redis: the scripts, the writes that can wait, and what an error means. It must not decide when
//! something is sent.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Script, ScriptInvocation,
    ServerErrorKind, cmd, pipe,
};

use super::record::{Codec, HEAD, Kind, name, prefix};
use crate::store::{Batch, Conversation, Scope, StoredItem, Turn};

/// One exchange with the server, which can be sent again.
pub(super) enum Command<'a> {
    Script(ScriptInvocation<'a>),
    Single(Cmd),
    Pipeline(Pipeline),
}

impl Command<'_> {
    pub(super) async fn on<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<T> {
        match self {
            Command::Script(script) => script.invoke_async(connection).await,
            Command::Single(command) => command.query_async(connection).await,
            Command::Pipeline(pipeline) => pipeline.query_async(connection).await,
        }
    }
}

/// A write that is worth waiting for. Each can be done twice with the same result.
#[derive(Debug)]
pub(super) enum Write {
    Turn(Scope, Arc<Turn>),
    Head(Scope, Conversation),
    Items(Scope, Box<str>, Vec<StoredItem>),
    /// Entries of a run's log, at a place in it.
    Events(Scope, Box<str>, u64, Batch, Duration),
}

impl Write {
    /// About how many bytes of memory it takes.
    pub(super) fn bytes(&self) -> usize {
        let own = match self {
            Write::Turn(_, turn) => turn.bytes(),
            Write::Head(_, head) => head.id.len() + head.metadata.len(),
            Write::Items(_, _, items) => items.iter().map(|item| item.id.len() + item.json.len() + 64).sum(),
            Write::Events(_, _, _, batch, _) => batch.events.iter().map(|event| event.len() + 64).sum(),
        };
        own + size_of::<Write>()
    }

    /// Whether this one makes the other superfluous.
    pub(super) fn replaces(&self, other: &Write) -> bool {
        match (self, other) {
            (Write::Turn(scope, turn), Write::Turn(of, old)) => scope == of && turn.id == old.id,
            (Write::Head(scope, head), Write::Head(of, old)) => scope == of && head.id == old.id,
            // an attempt that failed is repeated from its place on
            (Write::Events(scope, run, ..), Write::Events(of, old, ..)) => scope == of && run == old,
            _ => false,
        }
    }
}

/// Makes the asks; knows the records' form and idle time.
#[derive(Debug)]
pub(super) struct Commands {
    pub codec: Codec,
    ttl: u64,
    chain: Script,
    put: Script,
    head: Script,
    append: Script,
    events: Script,
    read: Script,
    /// Most bytes of one run's log.
    log_bytes: usize,
}

impl Commands {
    pub(super) fn new(codec: Codec, ttl: Duration, log_bytes: usize) -> Commands {
        Commands {
            codec,
            ttl: millis(ttl),
            chain: Script::new(include_str!("chain.lua")),
            put: Script::new(include_str!("put.lua")),
            head: Script::new(include_str!("head.lua")),
            append: Script::new(include_str!("append.lua")),
            events: Script::new(include_str!("events.lua")),
            read: Script::new(include_str!("read.lua")),
            log_bytes,
        }
    }

    /// The write as an ask, which is answered with 0 if there was nothing to write to; `None`: it cannot be sealed.
    pub(super) fn write(&self, write: &Write) -> Option<Command<'_>> {
        Some(match write {
            Write::Turn(scope, turn) => {
                let key = name(*scope, Kind::Turn, &turn.id.to_string());
                let mut put = self.put.key(&key);
                put.arg(self.ttl).arg(self.codec.turn(&key, turn)?);
                Command::Script(put)
            }
            Write::Head(scope, head) => {
                let key = name(*scope, Kind::Conversation, &head.id);
                let mut head_of = self.head.key(&key);
                head_of.arg(self.ttl).arg(self.codec.head(&key, head)?);
                Command::Script(head_of)
            }
            Write::Items(scope, conversation, items) => {
                let key = name(*scope, Kind::Conversation, conversation);
                let mut append = self.append.key(&key);
                append.arg(self.ttl);
                for item in items {
                    let (field, record) = self.codec.item(&key, item)?;
                    append.arg(field).arg(record);
                }
                Command::Script(append)
            }
            Write::Events(scope, run, place, batch, keep) => {
                let key = name(*scope, Kind::Events, run);
                let mut events = self.events.key(&key);
                events.key(name(*scope, Kind::Gone, run));
                events.arg(millis(*keep)).arg(*place).arg(self.log_bytes).arg(batch.gone);
                let entries = batch.events.iter().map(Some).chain(batch.ended.then_some(None));
                for (place, entry) in (*place..).zip(entries) {
                    events.arg(self.codec.entry(&key, place, entry)?);
                }
                Command::Script(events)
            }
        })
    }

    pub(super) fn turn(&self, key: &str) -> Command<'_> {
        let mut get = cmd("GETEX");
        get.arg(key).arg("PX").arg(self.ttl);
        Command::Single(get)
    }

    pub(super) fn chain(&self, scope: Scope, id: &str, limit: usize) -> Command<'_> {
        let mut chain = self.chain.key(name(scope, Kind::Turn, id));
        chain.arg(self.ttl).arg(limit).arg(prefix(scope, Kind::Turn));
        Command::Script(chain)
    }

    /// Answered with how many entries of a run's log are gone, how many there were ever, the last one, and those from
    /// number `from` on.
    pub(super) fn events(&self, scope: Scope, run: &str, from: u64) -> Command<'_> {
        let mut read = self.read.key(name(scope, Kind::Events, run));
        read.key(name(scope, Kind::Gone, run)).arg(from);
        Command::Script(read)
    }

    /// Answered with a list of one: the head, if there is one.
    pub(super) fn head(&self, key: &str) -> Command<'_> {
        let mut both = pipe();
        both.atomic().cmd("HGET").arg(key).arg(HEAD);
        both.cmd("PEXPIRE").arg(key).arg(self.ttl).ignore();
        Command::Pipeline(both)
    }

    /// Answered with a list of one: fields and values.
    pub(super) fn items(&self, key: &str) -> Command<'_> {
        let mut both = pipe();
        both.atomic().cmd("HGETALL").arg(key);
        both.cmd("PEXPIRE").arg(key).arg(self.ttl).ignore();
        Command::Pipeline(both)
    }

    /// Answered with a list of one: how many were removed.
    pub(super) fn delete_item(&self, key: &str, field: &str) -> Command<'_> {
        let mut both = pipe();
        both.atomic().cmd("HDEL").arg(key).arg(field);
        both.cmd("PEXPIRE").arg(key).arg(self.ttl).ignore();
        Command::Pipeline(both)
    }

    /// Answered with 1 where there was something to delete.
    pub(super) fn delete(&self, key: &str) -> Command<'_> {
        let mut delete = cmd("DEL");
        delete.arg(key);
        Command::Single(delete)
    }

    pub(super) fn ttl(&self) -> u64 {
        self.ttl
    }
}

/// Whether the error says that the store cannot serve now, rather than that it will not serve this.
pub(super) fn is_away(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed | ErrorKind::Client => true,
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
        ),
        ErrorKind::Extension => {
            matches!(error.code(), Some("BUSY" | "MISCONF" | "NOAUTH" | "NOREPLICAS" | "OOM"))
        }
        _ => false,
    }
}

/// As Redis wants it: at least 1.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
