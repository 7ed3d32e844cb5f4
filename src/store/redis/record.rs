//! Owns the names and the bytes of what lies in Redis: version, header, sealing. It must not talk to a server.
//!
//! A record begins with its version and a byte that says whether its body is sealed. A turn's header goes on with what
//! the scripts must read: whether it is final, and its parent's id. Its body repeats both, and is believed.

use std::sync::Arc;

use bytes::Bytes;
use rejoinder_core::{Input, Output};

use crate::keyring::Keyring;
use crate::store::{Conversation, Id, Marks, Scope, StoredItem, Turn};

/// The kinds of records, by the letter in their names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Turn,
    Conversation,
    Lease,
    Cancel,
    Events,
    /// How much of a log of events is gone, and the bytes of what is there.
    Gone,
}

/// What a record of that kind and scope is called, without its id. The braces keep a scope's records in one slot.
pub(super) fn prefix(scope: Scope, kind: Kind) -> String {
    let letter = match kind {
        Kind::Turn => 't',
        Kind::Conversation => 'c',
        Kind::Lease => 'l',
        Kind::Cancel => 'x',
        Kind::Events => 'e',
        Kind::Gone => 'g',
    };
    format!("{PREFIX}{{{}}}:{letter}:", scope.hex())
}

/// The Redis key of a record.
pub(super) fn name(scope: Scope, kind: Kind, id: &str) -> String {
    prefix(scope, kind) + id
}

/// Writes and reads records.
#[derive(Debug)]
pub(super) struct Codec {
    pub keyring: Arc<Keyring>,
    /// Whether bodies are sealed; then none that is not is believed.
    pub seal: bool,
}

impl Codec {
    /// A turn's record; `None`: it could not be sealed, or names a parent that no record can have.
    pub(super) fn turn(&self, name: &str, turn: &Turn) -> Option<Vec<u8>> {
        let head = Turn {
            id: Id::default(),
            parent: turn.parent.clone(),
            created_at: turn.created_at,
            state: turn.state.clone(),
            input: Input::default(),
            output: Output::default(),
            echo: Arc::from(""),
            usage: turn.usage,
            background: turn.background,
            marks: Marks::default(),
        };
        // the texts follow the head as they are: as JSON strings within JSON they would be escaped twice
        let head = serde_json::to_vec(&head).ok()?;
        let (input, output) = (turn.input.array(), turn.output.array(&turn.id.to_string()));
        let parts = [&head, input.as_bytes(), output.as_bytes(), turn.echo.as_bytes()];
        let mut body = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
        for part in parts {
            body.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
            body.extend_from_slice(part);
        }
        let parent = turn.parent_id().unwrap_or_default();
        let mut header = vec![u8::from(turn.state.continuable()), u8::try_from(parent.len()).ok()?];
        header.extend_from_slice(parent.as_bytes());
        self.write(name, &header, &body)
    }

    /// The turn of a record; `None` if it is of another version, does not open or is not a turn.
    pub(super) fn read_turn(&self, name: &str, id: &str, record: &[u8]) -> Option<Turn> {
        let (_, after) = record.split_at_checked(3)?;
        let (length, _) = after.split_first()?;
        let header = 2 + usize::from(*length);
        let body = self.read(name, header, record)?;
        let mut rest = &*body;
        let [head, input, output, echo] =
            [part(&mut rest)?, part(&mut rest)?, part(&mut rest)?, part(&mut rest)?];
        let mut turn: Turn = serde_json::from_slice(head).ok()?;
        turn.id = id.into();
        turn.input = Input::new(std::str::from_utf8(input).ok()?);
        turn.output = Output::new(std::str::from_utf8(output).ok()?.to_owned(), id);
        turn.echo = std::str::from_utf8(echo).ok()?.into();
        // a header that says something else would lead into another conversation
        let (_, parent) = record.get(..2 + header)?.split_at_checked(4)?;
        let known = turn.parent_id().unwrap_or_default();
        (known.as_bytes() == parent).then_some(turn)
    }

    /// The bytes of a conversation's head; `None` if it could not be sealed.
    pub(super) fn head(&self, name: &str, head: &Conversation) -> Option<Vec<u8>> {
        self.write(&field(name, HEAD), &[], &serde_json::to_vec(head).ok()?)
    }

    /// The conversation's head in these bytes; `None` if they are unreadable or sealed with an unknown key.
    pub(super) fn read_head(&self, name: &str, record: &[u8]) -> Option<Conversation> {
        serde_json::from_slice(&self.read(&field(name, HEAD), 0, record)?).ok()
    }

    /// An item, and the field of the conversation's hash that it goes to.
    pub(super) fn item(&self, name: &str, item: &StoredItem) -> Option<(String, Vec<u8>)> {
        let key = format!("{ITEM}{}", item.id);
        let record = self.write(&field(name, &key), &[], item.json.as_bytes())?;
        Some((key, record))
    }

    /// The item of a field, with its place; `None` for the other fields, and for an item that does not open.
    pub(super) fn read_item(&self, name: &str, key: &[u8], value: &[u8]) -> Option<(u64, StoredItem)> {
        let key = std::str::from_utf8(key).ok()?;
        let id = key.strip_prefix(ITEM)?;
        let colon = value.iter().position(|byte| *byte == b':')?;
        let (place, record) = value.split_at_checked(colon)?;
        let place = std::str::from_utf8(place).ok()?.parse().ok()?;
        let json = self.read(&field(name, key), 0, record.get(1..)?)?;
        Some((place, StoredItem { id: id.into(), json: std::str::from_utf8(&json).ok()?.into() }))
    }

    /// An entry of a run's log: a frame, or its end.
    pub(super) fn entry(&self, name: &str, place: u64, entry: Option<&Bytes>) -> Option<Vec<u8>> {
        let body = match entry {
            Some(frame) => [b"f", &**frame].concat(),
            None => b"$".to_vec(),
        };
        self.write(&field(name, &place.to_string()), &[], &body)
    }

    /// The frame of an entry, or `Some(None)` for the log's end.
    pub(super) fn read_entry(&self, name: &str, place: u64, record: &[u8]) -> Option<Option<Bytes>> {
        let body = self.read(&field(name, &place.to_string()), 0, record)?;
        match body.split_first()? {
            (b'f', frame) => Some(Some(Bytes::copy_from_slice(frame))),
            (b'$', []) => Some(None),
            _ => None,
        }
    }

    fn write(&self, name: &str, header: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let sealed = if self.seal { Some(self.keyring.seal_record(name, body)?) } else { None };
        let body = sealed.as_deref().unwrap_or(body);
        let mut record = Vec::with_capacity(2 + header.len() + body.len());
        record.extend_from_slice(&[VERSION, u8::from(self.seal)]);
        record.extend_from_slice(header);
        record.extend_from_slice(body);
        Some(record)
    }

    /// The body after a header of that many bytes.
    fn read(&self, name: &str, header: usize, record: &[u8]) -> Option<Vec<u8>> {
        let (start, rest) = record.split_at_checked(2)?;
        let body = rest.get(header..)?;
        match start {
            [VERSION, 0] if !self.seal => Some(body.to_vec()),
            [VERSION, 1] => self.keyring.open_record(name, body),
            _ => None,
        }
    }
}

fn field(name: &str, key: &str) -> String {
    format!("{name}\0{key}")
}

fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (part, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = after;
    Some(part)
}

/// What every name of ours begins with.
pub(super) const PREFIX: &str = "rejoinder:";
/// Of a conversation's hash: its head; an item's id follows the other one.
pub(super) const HEAD: &str = "head";
pub(super) const ITEM: &str = "i:";
const VERSION: u8 = 1;
