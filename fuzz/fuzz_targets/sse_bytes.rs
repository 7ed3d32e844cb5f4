//! Any bytes, however they are cut, are read as the same events, or end in the same error.
#![no_main]

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::Stream;
use libfuzzer_sys::fuzz_target;
use rejoinder::sse::{Limits, SseError, SseReader};

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: Limits) -> Vec<Result<String, SseError>> {
    let pieces: Vec<_> =
        pieces.into_iter().map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece))).collect();
    let total: usize = pieces.iter().flatten().map(Bytes::len).sum();
    let mut reader = SseReader::new(futures::stream::iter(pieces), limits);
    let mut events = Vec::new();
    while let Poll::Ready(Some(event)) =
        Pin::new(&mut reader).poll_next(&mut Context::from_waker(Waker::noop()))
    {
        events.push(event);
    }
    match events.last() {
        Some(Err(_)) => assert!(reader.bytes_read() <= total as u64),
        _ => assert_eq!(reader.bytes_read(), total as u64),
    }
    events
}

fuzz_target!(|input: &[u8]| {
    // the last bytes say how the others are cut and what is allowed
    let (bytes, control) = input.split_at(input.len().saturating_sub(8));
    let small = Limits {
        line: 4 + usize::from(control.first().copied().unwrap_or(200)),
        event: 4 + 2 * usize::from(control.get(1).copied().unwrap_or(200)),
    };
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for size in control.iter().cycle().take(if control.is_empty() { 0 } else { 4096 }) {
        let (piece, more) = rest.split_at(usize::from(*size).min(rest.len()));
        pieces.push(piece);
        rest = more;
    }
    pieces.push(rest);
    for limits in [Limits::default(), small] {
        let whole = read([bytes], limits);
        assert_eq!(read(pieces.iter().copied(), limits), whole);
        assert_eq!(read(bytes.chunks(1), limits), whole);
        for (at, event) in whole.iter().enumerate() {
            match event {
                Ok(data) => assert!(data.len() <= limits.event),
                Err(error) => {
                    assert_eq!(at + 1, whole.len(), "something behind {error}");
                    let invalid = std::str::from_utf8(bytes).is_err();
                    assert!(*error != SseError::InvalidUtf8 || invalid, "valid text was refused");
                }
            }
        }
    }
});
