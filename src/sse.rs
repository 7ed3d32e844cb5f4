//! Reading Server-Sent Events: bytes in, the `data` payload of each event out.
//!
//! `eventsource-stream` does the parsing. It panics on a byte order mark, caps nothing, takes quadratic time on a
//! long line in small pieces and on many events in one read, keeps everything back behind an invalid byte, clones the
//! last `id` with every event, and drops an event that EOF cuts off before its blank line. So it never sees the
//! network: [`Guard`] stands in front of it and passes on whole, valid, bounded lines in small batches. What nearly
//! every event is, one `data: ` line and an empty one in one read, needs no parser: it goes around.
//!
//! This file must not know what a payload means, and needs no runtime.

mod guard;

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt::Display;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use eventsource_stream::EventStream;
use futures::Stream;
use futures::channel::mpsc;
use futures::stream::FusedStream;

use guard::Guard;

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

/// Where the bytes come from. A stream of [`Bytes`] is one.
pub trait Source {
    /// Why reading failed, as the log shows it.
    type Error: Display;

    /// Appends what is there to `out`: `Some(Ok(n))` with the number of bytes, `None` at the end.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<usize, Self::Error>>>;
}

impl<S, E> Source for S
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    type Error = E;

    fn poll_more(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Option<Result<usize, E>>> {
        let next = ready!(Pin::new(self).poll_next(cx));
        Poll::Ready(next.map(|piece| {
            piece.map(|piece| {
                out.extend_from_slice(&piece);
                piece.len()
            })
        }))
    }
}

/// A stream of the `data` payloads in a stream of bytes. It ends after its first error.
pub struct SseReader<S> {
    /// `None` once ended: nothing is polled after that, and the connection behind it is dropped.
    source: Option<S>,
    eof: bool,
    bytes_read: u64,
    guard: Guard,
    /// Made for the first event that needs it.
    parser: Option<Box<Parser>>,
}

/// `eventsource-stream`, fed by hand.
struct Parser {
    events: EventStream<mpsc::UnboundedReceiver<Result<Vec<u8>, Infallible>>>,
    lines: mpsc::UnboundedSender<Result<Vec<u8>, Infallible>>,
    /// Whether there may be an event in what it was fed.
    busy: bool,
}

/// What the reader finds next.
enum Next {
    /// The data of an event that needed no parser, in what arrived.
    Plain(Range<usize>),
    Parsed(String),
    Failed(SseError),
    End,
}

/// Parses what comes from `source` with the default [`Limits`].
pub fn events<S: Source>(source: S) -> SseReader<S> {
    SseReader::new(source, Limits::default())
}

impl Default for Limits {
    fn default() -> Self {
        Self { line: 16 << 20, event: 16 << 20 }
    }
}

impl<S> SseReader<S> {
    /// Parses what comes from `source`; `limits` bounds what is held of it.
    pub fn new(source: S, limits: Limits) -> Self {
        Self { source: Some(source), eof: false, bytes_read: 0, guard: Guard::new(limits), parser: None }
    }

    /// Takes bytes that were read already, before the source is asked.
    pub fn put(&mut self, bytes: &[u8]) {
        self.guard.room().extend_from_slice(bytes);
        self.bytes_read += bytes.len() as u64;
    }

    /// How many bytes have arrived. It grows with comments too: they show that the other side lives.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }
}

impl<S: Source> SseReader<S> {
    /// The next event, as [`Stream::poll_next`] has it, without a copy of what arrived in one piece.
    pub fn poll_payload(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Cow<'_, str>, SseError>>> {
        let next = ready!(self.poll(cx));
        // field by field, for the text stays borrowed
        let SseReader { source, guard, .. } = self;
        let error = match next {
            Next::Parsed(text) => return Poll::Ready(Some(Ok(Cow::Owned(text)))),
            Next::Plain(range) => match std::str::from_utf8(guard.arrived(range)) {
                Ok(text) => return Poll::Ready(Some(Ok(Cow::Borrowed(text)))),
                Err(_) => Some(Err(SseError::InvalidUtf8)),
            },
            Next::Failed(error) => Some(Err(error)),
            Next::End => None,
        };
        *source = None;
        Poll::Ready(error)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            let Some(source) = &mut self.source else { return Poll::Ready(Next::End) };
            if let Some(parser) = self.parser.as_mut().filter(|parser| parser.busy) {
                match parser.next() {
                    Some(next) => return Poll::Ready(next),
                    None => parser.busy = false,
                }
            }
            if let Some(data) = self.guard.plain() {
                return Poll::Ready(Next::Plain(data));
            }
            if self.eof || !self.guard.waits() {
                match self.guard.batch() {
                    Ok(Some(lines)) => {
                        self.parser.get_or_insert_with(Parser::new).feed(lines);
                        continue;
                    }
                    Ok(None) if !self.guard.is_empty() => continue,
                    Ok(None) if self.eof => return Poll::Ready(Next::End),
                    Ok(None) => {}
                    Err(error) => return Poll::Ready(Next::Failed(error)),
                }
            }
            let Poll::Ready(more) = source.poll_more(cx, self.guard.room()) else {
                self.guard.rest();
                return Poll::Pending;
            };
            match more {
                Some(Ok(read)) => self.bytes_read += read as u64,
                Some(Err(error)) => return Poll::Ready(Next::Failed(SseError::Transport(error.to_string()))),
                None => {
                    self.eof = true;
                    if let Err(error) = self.guard.finish() {
                        return Poll::Ready(Next::Failed(error));
                    }
                }
            }
        }
    }
}

impl Parser {
    fn new() -> Box<Parser> {
        let (lines, receiver) = mpsc::unbounded();
        Box::new(Parser { events: EventStream::new(receiver), lines, busy: false })
    }

    fn feed(&mut self, lines: Vec<u8>) {
        // the other end is ours too
        let _ = self.lines.unbounded_send(Ok(lines));
        self.busy = true;
    }

    /// The next event in what it was fed; `None` if there is none.
    fn next(&mut self) -> Option<Next> {
        // who feeds it polls it too: there is nobody to wake
        match Pin::new(&mut self.events).poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending | Poll::Ready(None) => None,
            Poll::Ready(Some(Ok(event))) => Some(Next::Parsed(event.data)),
            // the guard lets no such text pass
            Poll::Ready(Some(Err(_))) => Some(Next::Failed(SseError::InvalidUtf8)),
        }
    }
}

impl<S: Source + Unpin> Stream for SseReader<S> {
    type Item = Result<String, SseError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_payload(cx).map(|next| next.map(|payload| payload.map(Cow::into_owned)))
    }
}

impl<S: Source + Unpin> FusedStream for SseReader<S> {
    fn is_terminated(&self) -> bool {
        self.source.is_none()
    }
}

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
        Pin::new(reader).poll_next(&mut Context::from_waker(Waker::noop()))
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
    fn long_lines_and_many_events_are_read_whole() {
        let long = format!("data: {}\n\n", "x".repeat(4 << 20));
        assert_eq!(run(pieces(long.as_bytes().chunks(64)), Limits::default()).unwrap(), model(&long));
        let event = "data: {\"choices\":[]}\n\n";
        let many = event.repeat(75_000);
        assert_eq!(read(many.as_bytes()).unwrap().len(), 75_000);
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
