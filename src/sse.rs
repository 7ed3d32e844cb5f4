//! Reading Server-Sent Events: bytes in, the `data` payload of each event out.
//!
//! `eventsource-stream` does the parsing. It panics on a byte order mark, caps nothing, takes quadratic time on a
//! long line in small pieces and on many events in one read, keeps everything back behind an invalid byte, clones the
//! last `id` with every event, and drops an event that EOF cuts off before its blank line. So it never sees the
//! network: [`Guard`] stands in front of it and passes on whole, valid, bounded lines in small batches. What nearly
//! every event is, one `data: ` line and an empty one in one read, needs no parser: it goes around.
//!
//! This file must not know what a payload means, and needs no runtime.

use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use eventsource_stream::{EventStream, EventStreamError};
use futures::Stream;
use futures::stream::FusedStream;

/// What one line and one event may hold at most, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest line, without its end.
    pub line: usize,
    /// All lines of one event, ends included. Comments do not count.
    pub event: usize,
}

/// Why a stream of events ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A byte that cannot be UTF-8, or a character that EOF cut in two.
    #[error("the event stream is not valid UTF-8")]
    InvalidUtf8,
    /// A line beyond [`Limits::line`].
    #[error("a line of the event stream is longer than {0} bytes")]
    LineTooLong(usize),
    /// An event beyond [`Limits::event`].
    #[error("an event of the stream is longer than {0} bytes")]
    EventTooLong(usize),
    /// The source of the bytes failed.
    #[error("{0}")]
    Transport(String),
}

/// A stream of the `data` payloads in a stream of bytes. It ends after its first error.
pub struct SseReader<S> {
    /// `None` once ended: nothing is polled after that, and the connection behind it is dropped.
    events: Option<EventStream<Source<S>>>,
    bytes_read: u64,
}

/// The `data` of one event.
#[derive(Debug, Clone)]
pub struct Payload(Held);

#[derive(Debug, Clone)]
enum Held {
    /// Valid UTF-8, as it arrived.
    Arrived(Bytes),
    Parsed(String),
}

/// What the parser polls: the guard and the bytes behind it.
struct Source<S> {
    bytes: S,
    eof: bool,
    guard: Guard,
}

/// What travels beside the text, as an error of the parser's source: the parser hands those on untouched, in order,
/// and keeps its state. That spares a shared counter.
#[derive(Debug)]
enum Aside {
    /// So many bytes arrived.
    Read(usize),
    /// An event that needs no parser, between two that may.
    Plain(Bytes),
    Failed(SseError),
}

/// Cuts bytes into lines and lets pass what the parser may see.
#[derive(Debug, Default)]
struct Guard {
    limits: Limits,
    /// Arrived and not yet looked at.
    unread: Bytes,
    /// `ready` bytes in whole lines for the parser, then the line that is still growing.
    batch: Vec<u8>,
    ready: usize,
    lines: usize,
    /// Up to here `batch` is known to be UTF-8; only the first bytes of one character can lie behind it.
    valid: usize,
    /// How much of a byte order mark was seen at the very start; all of its length once that is settled.
    bom: usize,
    /// The last line ended in CR; an LF right behind it belongs to that end.
    after_cr: bool,
    /// The lines of the current event in bytes, and whether one of them is a `data` line.
    event: usize,
    has_data: bool,
    /// Found behind whole lines, told after them.
    failure: Option<SseError>,
}

/// Parses `bytes` with the default [`Limits`].
pub fn events<S, E>(bytes: S) -> SseReader<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    SseReader::new(bytes, Limits::default())
}

impl Default for Limits {
    fn default() -> Self {
        Self { line: 16 << 20, event: 16 << 20 }
    }
}

impl<S> SseReader<S> {
    /// Parses `bytes`; `limits` bounds what is held of them.
    pub fn new(bytes: S, limits: Limits) -> Self {
        let guard = Guard { limits, ..Guard::default() };
        Self { events: Some(EventStream::new(Source { bytes, eof: false, guard })), bytes_read: 0 }
    }

    /// How many bytes have arrived. It grows with comments too: they show that the other side lives.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }
}

impl<S, E> SseReader<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    /// The next event, as [`Stream::poll_next`] has it, without a copy of what arrived in one piece.
    pub fn poll_payload(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Payload, SseError>>> {
        loop {
            let Some(events) = self.events.as_mut() else { return Poll::Ready(None) };
            let error = match Pin::new(events).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(event))) => {
                    return Poll::Ready(Some(Ok(Payload(Held::Parsed(event.data)))));
                }
                Poll::Ready(None) => {
                    self.events = None;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(EventStreamError::Transport(Aside::Plain(data))))) => {
                    return Poll::Ready(Some(Ok(Payload(Held::Arrived(data)))));
                }
                Poll::Ready(Some(Err(EventStreamError::Transport(Aside::Read(read))))) => {
                    self.bytes_read += read as u64;
                    continue;
                }
                Poll::Ready(Some(Err(EventStreamError::Transport(Aside::Failed(error))))) => error,
                // the guard lets no such text pass
                Poll::Ready(Some(Err(EventStreamError::Utf8(_) | EventStreamError::Parser(_)))) => {
                    SseError::InvalidUtf8
                }
            };
            self.events = None;
            return Poll::Ready(Some(Err(error)));
        }
    }
}

impl Payload {
    /// The text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // looked at before it was put in
            Held::Arrived(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Held::Parsed(text) => text,
        }
    }
}

impl<S, E> Stream for SseReader<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    type Item = Result<String, SseError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_payload(cx).map(|next| {
            next.map(|payload| {
                payload.map(|payload| match payload.0 {
                    Held::Parsed(text) => text,
                    Held::Arrived(_) => payload.as_str().to_owned(),
                })
            })
        })
    }
}

impl<S, E> FusedStream for SseReader<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    fn is_terminated(&self) -> bool {
        self.events.is_none()
    }
}

impl<S, E> Stream for Source<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    type Item = Result<Vec<u8>, Aside>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(data) = self.guard.plain() {
                return Poll::Ready(Some(Err(Aside::Plain(data))));
            }
            if self.eof || !self.guard.waits() {
                match self.guard.batch() {
                    Ok(Some(batch)) => return Poll::Ready(Some(Ok(batch))),
                    Ok(None) if !self.guard.unread.is_empty() => continue,
                    Ok(None) if self.eof => return Poll::Ready(None),
                    Ok(None) => {}
                    Err(error) => return Poll::Ready(Some(Err(Aside::Failed(error)))),
                }
            }
            return match ready!(Pin::new(&mut self.bytes).poll_next(cx)) {
                Some(Ok(bytes)) => {
                    let read = bytes.len();
                    self.guard.arrived(bytes);
                    Poll::Ready(Some(Err(Aside::Read(read))))
                }
                Some(Err(error)) => {
                    Poll::Ready(Some(Err(Aside::Failed(SseError::Transport(error.to_string())))))
                }
                None => {
                    self.eof = true;
                    Poll::Ready(match self.guard.finish() {
                        Ok(Some(batch)) => Some(Ok(batch)),
                        Ok(None) => None,
                        Err(error) => Some(Err(Aside::Failed(error))),
                    })
                }
            };
        }
    }
}

impl Guard {
    /// Takes what arrived, behind what waits.
    fn arrived(&mut self, bytes: Bytes) {
        self.unread = match self.unread.is_empty() {
            true => bytes,
            false => [&*self.unread, &*bytes].concat().into(),
        };
    }

    /// Whether nothing is pending before the next event.
    fn is_fresh(&self) -> bool {
        let settled = self.bom == BOM.len() && !self.after_cr && self.failure.is_none();
        settled && self.batch.len() == self.ready && self.event == 0 && !self.has_data
    }

    /// Whether what is unread is the beginning of an event that needs no parser once its rest is there.
    fn waits(&self) -> bool {
        let start = self.unread.get(..DATA.len()).unwrap_or(&self.unread);
        let most = WAITS.min(self.limits.line).min(self.limits.event);
        if start.is_empty() || !DATA.starts_with(start) || self.unread.len() > most {
            return false;
        }
        // what is wrong is told at once
        let valid =
            std::str::from_utf8(&self.unread).map_or_else(|error| error.error_len().is_none(), |_| true);
        let end = memchr::memchr2(b'\n', b'\r', &self.unread);
        let whole = end.is_some_and(|end| self.unread.get(end..) != Some(b"\n"));
        valid && !whole && self.batch.is_empty() && self.is_fresh()
    }

    /// The data of the next event, if nothing is pending before it and it arrived as `data: ...\n\n`.
    fn plain(&mut self) -> Option<Bytes> {
        if !self.batch.is_empty() || !self.is_fresh() {
            return None;
        }
        let line = self.unread.strip_prefix(DATA)?;
        let end = memchr::memchr2(b'\n', b'\r', line)?;
        let whole = line.get(end..)?.starts_with(b"\n\n");
        let room = self.limits.line.min(self.limits.event.saturating_sub(1));
        if !whole || DATA.len() + end > room || std::str::from_utf8(line.get(..end)?).is_err() {
            return None;
        }
        self.unread.advance(DATA.len());
        let data = self.unread.split_to(end);
        self.unread.advance(2);
        Some(data)
    }

    /// The next lines for the parser, up to an event that may need none; `None` if there are none.
    fn batch(&mut self) -> Result<Option<Vec<u8>>, SseError> {
        let mut begun = false;
        while self.failure.is_none() && !self.unread.is_empty() && !self.is_full() {
            if std::mem::replace(&mut begun, true) && self.unread.starts_with(DATA) && self.is_fresh() {
                break;
            }
            let before = self.ready;
            self.failure = self.step().err();
            // a long line goes alone: to take one line out, the parser moves everything behind it
            if before > 0 && self.ready > BATCH_BYTES {
                return Ok(Some(self.take(before)));
            }
        }
        if self.ready > 0 {
            return Ok(Some(self.take(self.ready)));
        }
        self.failure.take().map_or(Ok(None), Err)
    }

    /// Ends the last line and the last event as their missing line ends would have.
    fn finish(&mut self) -> Result<Option<Vec<u8>>, SseError> {
        while !self.unread.is_empty() {
            self.step()?;
        }
        self.settle_bom();
        if self.batch.len() > self.ready {
            self.check_utf8()?;
            self.end_line()?;
        }
        if self.has_data {
            self.end_line()?;
        }
        self.batch()
    }

    fn is_full(&self) -> bool {
        self.ready >= BATCH_BYTES || self.lines >= BATCH_LINES
    }

    /// Reads on, to the end of a line at most.
    fn step(&mut self) -> Result<(), SseError> {
        if let Some(expected) = BOM.get(self.bom) {
            if self.unread.first() == Some(expected) {
                self.unread.advance(1);
                self.bom += 1;
                return Ok(());
            }
            self.settle_bom();
        }
        if std::mem::take(&mut self.after_cr) && self.unread.first() == Some(&b'\n') {
            self.unread.advance(1);
            return Ok(());
        }
        match memchr::memchr2(b'\n', b'\r', &self.unread) {
            Some(at) => {
                let piece = self.unread.split_to(at);
                self.grow(piece)?;
                self.after_cr = self.unread.get_u8() == b'\r';
                self.end_line()
            }
            None => {
                let piece = std::mem::take(&mut self.unread);
                self.grow(piece)
            }
        }
    }

    /// What looked like a byte order mark was text.
    fn settle_bom(&mut self) {
        let seen = std::mem::replace(&mut self.bom, BOM.len());
        if seen < BOM.len() {
            self.batch.extend(BOM.iter().take(seen));
        }
    }

    /// Adds a piece to the growing line, up to the limits.
    fn grow(&mut self, mut piece: Bytes) -> Result<(), SseError> {
        let held = self.batch.len() - self.ready;
        let line_room = self.limits.line.saturating_sub(held);
        let event_room = match self.batch.get(self.ready).or(piece.first()) {
            Some(b':') => usize::MAX,
            _ => self.limits.event.saturating_sub(self.event + held),
        };
        let too_long = piece.len() > line_room.min(event_room);
        piece.truncate(line_room.min(event_room));
        // two line ends follow, mostly
        self.batch.reserve(piece.len() + 2);
        self.batch.extend_from_slice(&piece);
        self.check_utf8()?;
        match too_long {
            false => Ok(()),
            true if event_room < line_room => Err(SseError::EventTooLong(self.limits.event)),
            true => Err(SseError::LineTooLong(self.limits.line)),
        }
    }

    fn check_utf8(&mut self) -> Result<(), SseError> {
        match std::str::from_utf8(self.batch.get(self.valid..).unwrap_or_default()) {
            Ok(_) => self.valid = self.batch.len(),
            Err(error) if error.error_len().is_some() => return Err(SseError::InvalidUtf8),
            Err(error) => self.valid += error.valid_up_to(),
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), SseError> {
        if self.valid < self.batch.len() {
            return Err(SseError::InvalidUtf8);
        }
        let line = self.batch.get(self.ready..).unwrap_or_default();
        // only these matter here; of the others the parser would keep copies
        let wanted = match line {
            [] => {
                self.event = 0;
                std::mem::take(&mut self.has_data)
            }
            [b':', ..] => false,
            field => {
                self.event += field.len() + 1;
                let data = field == b"data" || field.starts_with(b"data:");
                self.has_data |= data;
                data
            }
        };
        if wanted {
            self.batch.push(b'\n');
            self.ready = self.batch.len();
            self.lines += 1;
        } else {
            self.batch.truncate(self.ready);
        }
        self.valid = self.ready;
        Ok(())
    }

    /// Takes the first `ready` bytes out.
    fn take(&mut self, ready: usize) -> Vec<u8> {
        let rest = self.batch.split_off(ready);
        self.ready -= ready;
        self.valid -= ready;
        self.lines = usize::from(self.ready > 0);
        std::mem::replace(&mut self.batch, rest)
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";
const DATA: &[u8] = b"data: ";
/// The most that the parser gets at once, one longer line apart: what a line costs it grows with what lies behind.
const BATCH_BYTES: usize = 8 << 10;
const BATCH_LINES: usize = 64;
/// The longest beginning of an event that waits for its rest: each read copies it once more.
const WAITS: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    type Outcome = Result<Vec<String>, (Vec<String>, SseError)>;

    /// Gives its pieces one by one, the task suspended between any two, and never another byte if `open`.
    struct Pieces {
        pieces: VecDeque<Result<Bytes, &'static str>>,
        asleep: bool,
        open: bool,
    }

    impl Stream for Pieces {
        type Item = Result<Bytes, &'static str>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.asleep = !self.asleep;
            match self.pieces.front() {
                None if self.open => Poll::Pending,
                None => Poll::Ready(None),
                Some(_) if self.asleep => Poll::Pending,
                Some(_) => Poll::Ready(self.pieces.pop_front()),
            }
        }
    }

    fn pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Pieces {
        let pieces = pieces.into_iter().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Pieces { pieces, asleep: true, open: false }
    }

    fn poll<S>(reader: &mut SseReader<S>) -> Poll<Option<Result<String, SseError>>>
    where
        SseReader<S>: Stream<Item = Result<String, SseError>> + Unpin,
    {
        Pin::new(reader).poll_next(&mut Context::from_waker(std::task::Waker::noop()))
    }

    fn run(source: Pieces, limits: Limits) -> Outcome {
        let total: usize = source.pieces.iter().flatten().map(Bytes::len).sum();
        let mut reader = SseReader::new(source, limits);
        let mut seen = Vec::new();
        loop {
            match poll(&mut reader) {
                Poll::Pending => {}
                Poll::Ready(Some(Ok(data))) => seen.push(data),
                Poll::Ready(Some(Err(error))) => {
                    assert!(reader.is_terminated());
                    assert_eq!(poll(&mut reader), Poll::Ready(None));
                    return Err((seen, error));
                }
                Poll::Ready(None) => {
                    assert_eq!(reader.bytes_read(), total as u64);
                    return Ok(seen);
                }
            }
        }
    }

    fn read(bytes: &[u8]) -> Outcome {
        run(pieces([bytes]), Limits::default())
    }

    /// The same in the plainest way, for valid text.
    fn model(text: &str) -> Vec<String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
        let mut events = Vec::new();
        let mut data: Option<String> = None;
        for line in text.split('\n').chain([""]) {
            let value = match line.split_once(':') {
                Some(("data", value)) => value.strip_prefix(' ').unwrap_or(value),
                None if line == "data" => "",
                None if line.is_empty() => {
                    events.extend(data.take());
                    continue;
                }
                _ => continue,
            };
            match data.as_mut() {
                Some(data) => *data += &format!("\n{value}"),
                None => data = Some(value.into()),
            }
        }
        events.extend(data);
        events
    }

    #[test]
    fn payloads_come_out_whole() {
        let cases: &[(&str, &[&str])] = &[
            ("data: a\n\ndata:b\n\n", &["a", "b"]),
            ("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"]),
            ("data: a\r\rdata: b\r\r", &["a", "b"]),
            ("\u{feff}data: a\n\n", &["a"]),
            ("\u{feff}\u{feff}data: not at the start\n\ndata: b\n\n", &["b"]),
            ("data: two\ndata: lines\n\n", &["two\nlines"]),
            ("event: x\nid: 7\nretry: 1\ndata: a\n\n", &["a"]),
            (":\n\n: ping\n\n:\n\n", &[]),
            ("event: nothing\n\nid: 1\n\n\n\n", &[]),
            ("data: a\n: between\ndata: b\n\n", &["a\nb"]),
            ("data\n\ndata:\n\n", &["", ""]),
            ("data:  two spaces\n\n", &[" two spaces"]),
            ("database: no\n data: no\nDATA: no\n\n", &[]),
            ("data: no blank line", &["no blank line"]),
            ("data: one line end\n", &["one line end"]),
            ("data: {\"a\": \"b: c\"}\n\n", &["{\"a\": \"b: c\"}"]),
            ("data: \u{2028}\u{85}\0 stays\n\n", &["\u{2028}\u{85}\0 stays"]),
            ("data: 🦀\n\n", &["🦀"]),
            ("", &[]),
            ("\u{feff}", &[]),
        ];
        for (text, events) in cases {
            assert_eq!(read(text.as_bytes()).unwrap(), *events, "{text:?}");
            assert_eq!(model(text), *events, "the model, {text:?}");
        }
    }

    #[test]
    fn an_event_leaves_with_its_blank_line() {
        for text in ["data: a\n\n", "data: a\r\n\r\n", "data: a\r\r", "data: a\n\n: more", "data: a\r\n\r"] {
            let source = Pieces { open: true, asleep: false, pieces: [Ok(Bytes::from(text))].into() };
            let mut reader = events(source);
            assert_eq!(poll(&mut reader), Poll::Pending, "asleep");
            assert_eq!(poll(&mut reader), Poll::Ready(Some(Ok("a".into()))), "{text:?}");
            assert_eq!(poll(&mut reader), Poll::Pending);
            assert_eq!(reader.bytes_read(), text.len() as u64);
        }
    }

    #[test]
    fn comments_count_as_life_and_nothing_else() {
        let limits = Limits { line: 16, event: 16 };
        let text = ": 12345678\n".repeat(9) + "data: a\n" + &": 12345678\n".repeat(9) + "\n";
        assert_eq!(run(pieces([text.as_bytes()]), limits).unwrap(), ["a"]);
    }

    #[test]
    fn invalid_bytes_end_the_stream_at_once() {
        for bad in [&b"\xff"[..], b"\xc3\n", b"\xc3(", b"\xed\xa0\x80", b"\xf0\x9f\n\n", b"\xc3\r"] {
            let text = [b"data: a\n\ndata: ", bad].concat();
            let mut source = pieces([&text[..]]);
            source.open = true;
            assert_eq!(run(source, Limits::default()), Err((vec!["a".into()], SseError::InvalidUtf8)));
        }
        assert_eq!(read(b"data: \xf0\x9f"), Err((vec![], SseError::InvalidUtf8)), "cut by EOF");
        assert_eq!(read(b"\xef\xbb"), Err((vec![], SseError::InvalidUtf8)), "half a byte order mark");
    }

    #[test]
    fn transport_errors_keep_their_words() {
        let mut source = pieces([&b"data: a\n\ndata: b"[..]]);
        source.pieces.push_back(Err("connection reset"));
        let expected = SseError::Transport("connection reset".into());
        assert_eq!(run(source, Limits::default()), Err((vec!["a".into()], expected)));
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let limits = Limits { line: 10, event: 25 };
        let run = |text: &str| {
            let mut source = pieces(text.as_bytes().chunks(1));
            source.open = true;
            source.pieces.push_back(Err("the end"));
            run(source, limits).unwrap_err().1
        };
        let end = SseError::Transport("the end".into());
        assert_eq!(run("data: 6789\n\ndata: 6789\r\n"), end);
        assert_eq!(run("data: 67890"), SseError::LineTooLong(10));
        assert_eq!(run(": 234567890"), SseError::LineTooLong(10));
        assert_eq!(run("data: 6789\ndata: 6789\n"), end);
        assert_eq!(run("data: 6789\ndata: 6789\nid:"), end);
        assert_eq!(run("data: 6789\ndata: 6789\nid:9"), SseError::EventTooLong(25));
        assert_eq!(run(&"a\n".repeat(14)), SseError::EventTooLong(25), "an event that never comes");
    }

    #[test]
    fn no_more_than_the_limit_is_held() {
        let mut guard = Guard { limits: Limits { line: 100, event: 1000 }, ..Guard::default() };
        guard.unread = Bytes::from(vec![b'x'; 1 << 20]);
        assert_eq!(guard.batch(), Err(SseError::LineTooLong(100)));
        assert!(guard.batch.capacity() < 1000, "{}", guard.batch.capacity());
    }

    /// What the guard hands on for these pieces, and how many bytes the parser moves for it: for each line, what is
    /// left of the batch.
    fn work(pieces: &[Bytes]) -> (Vec<Vec<u8>>, usize) {
        let mut guard = Guard::default();
        let mut batches = Vec::new();
        for piece in pieces {
            guard.unread = piece.clone();
            while let Some(batch) = guard.batch().unwrap() {
                batches.push(batch);
            }
        }
        let moved = |batch: &Vec<u8>| batch.split_inclusive(|byte| *byte == b'\n').count() * batch.len();
        let total = batches.iter().map(moved).sum();
        (batches, total)
    }

    #[test]
    fn a_long_line_in_small_pieces_reaches_the_parser_once() {
        let text = format!("data: {}\n\n", "x".repeat(4 << 20));
        let parts: Vec<Bytes> = text.as_bytes().chunks(64).map(Bytes::copy_from_slice).collect();
        let (batches, moved) = work(&parts);
        assert_eq!(batches.concat(), text.as_bytes());
        assert!(moved <= 2 * text.len(), "{moved}");
        assert_eq!(run(pieces(text.as_bytes().chunks(64)), Limits::default()).unwrap(), model(&text));
    }

    #[test]
    fn many_events_in_one_piece_reach_the_parser_in_small_batches() {
        let many = |line: &str, size: usize| Bytes::from(line.repeat(size / line.len()));
        for line in ["data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n", "data\n\n", "data: x\n"] {
            let (once, twice) = (work(&[many(line, 1_500_000)]), work(&[many(line, 3_000_000)]));
            assert_eq!(once.0.concat(), many(line, 1_500_000));
            assert!(once.0.iter().all(|batch| batch.len() < BATCH_BYTES + line.len()));
            assert!(twice.1 < once.1 * 5 / 2, "{line:?}: {} for twice {}", twice.1, once.1);
            assert!(once.1 < 1_500_000 * 2 * BATCH_LINES, "{line:?}: {}", once.1);
        }
        let line = "data: {\"choices\":[]}\n\n";
        assert_eq!(read(&many(line, 1_500_000)).unwrap().len(), 1_500_000 / line.len());
    }

    #[test]
    fn a_long_line_behind_short_ones_goes_alone() {
        // without the space it is for the parser
        let short = "data:s\n\n".repeat(20);
        let long = format!("data:{}\n", "x".repeat(1 << 20));
        let (batches, _) = work(&[Bytes::from(format!("{short}{long}\n{short}"))]);
        let lengths: Vec<usize> = batches.iter().map(Vec::len).collect();
        assert_eq!(lengths, [short.len(), long.len(), 1 + short.len()]);
    }

    #[test]
    fn a_cut_anywhere_changes_nothing() {
        let text =
            "\u{feff}: hi\r\ndata: {\"a\":\"é🦀\"}\r\n\r\nevent: x\rdata: b\r\rdata: c\n\ndata: [DONE]\n";
        let whole = read(text.as_bytes());
        assert_eq!(whole.as_deref().unwrap(), model(text));
        for at in 0..=text.len() {
            let (left, right) = text.as_bytes().split_at(at);
            assert_eq!(run(pieces([left, right]), Limits::default()), whole, "cut at {at}");
        }
        assert_eq!(run(pieces(text.as_bytes().chunks(1)), Limits::default()), whole);
    }

    /// Bytes that look like a stream of events, sound or not.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            4 => Just(b"data: ".to_vec()),
            4 => Just(b"\n".to_vec()),
            2 => Just(b"\n\n".to_vec()),
            2 => Just(b"\r\n".to_vec()),
            1 => Just(b"\r".to_vec()),
            2 => Just(b":".to_vec()),
            1 => Just(b"id: 1".to_vec()),
            1 => Just(b"data".to_vec()),
            1 => Just("\u{feff}".as_bytes().to_vec()),
            3 => "[a-z:é🦀 ]{0,12}".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same(
            bytes in stream(),
            sizes in proptest::collection::vec(0_usize..9, 1..20),
            line in 8_usize..60,
            event in 8_usize..90,
        ) {
            let mut chunks = Vec::new();
            let mut rest = &bytes[..];
            for size in sizes.iter().cycle().take(if sizes.iter().any(|size| *size > 0) { 10_000 } else { 0 }) {
                let (chunk, more) = rest.split_at((*size).min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            chunks.push(rest);
            for limits in [Limits::default(), Limits { line, event }] {
                let whole = run(pieces([&bytes[..]]), limits);
                prop_assert_eq!(&run(pieces(chunks.iter().copied()), limits), &whole);
                prop_assert_eq!(&run(pieces(bytes.chunks(1)), limits), &whole);
            }
        }

        #[test]
        fn valid_text_is_read_as_the_model_reads_it(text in stream()) {
            match String::from_utf8(text) {
                Ok(text) => prop_assert_eq!(read(text.as_bytes()).unwrap(), model(&text)),
                Err(error) => prop_assert_eq!(read(error.as_bytes()).unwrap_err().1, SseError::InvalidUtf8),
            }
        }
    }
}
