//! Owns what of a stream of events the parser may see: whole, valid, bounded lines in small batches; and where in what
//! arrived an event lies that needs no parser. It must not know what a payload means.

use std::ops::Range;

use rejoinder_core::large_buffer;

use super::{Limits, SseError};
use crate::buffer_pool;

const BOM: &[u8] = b"\xef\xbb\xbf";
const DATA: &[u8] = b"data: ";
/// The most that the parser gets at once, one longer line apart: what a line costs it grows with what lies behind.
const BATCH_BYTES: usize = 8 << 10;
const BATCH_LINES: usize = 64;
/// The longest beginning of an event that waits for its rest: each read copies it once more.
const WAITS: usize = 4 << 10;

/// Cuts bytes into lines and lets pass what the parser may see.
#[derive(Debug, Default)]
pub struct Guard {
    limits: Limits,
    /// Arrived and not yet looked at.
    unread: Unread,
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

/// Bytes in a buffer that is lent.
#[derive(Debug, Default)]
struct Unread {
    buffer: Vec<u8>,
    /// So many of them were read.
    read: usize,
}

impl Guard {
    pub fn new(limits: Limits) -> Guard {
        Guard { limits, ..Guard::default() }
    }

    /// Where what arrives is to be put, behind what waits.
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.unread.room()
    }

    /// Gives the buffer back while nothing in it is wanted.
    pub fn rest(&mut self) {
        self.unread.rest();
    }

    /// Whether nothing is there that could become an event without more bytes.
    pub fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    /// Bytes of what arrived, as [`Guard::plain`] has found them.
    pub fn arrived(&self, range: Range<usize>) -> &[u8] {
        self.unread.buffer.get(range).unwrap_or_default()
    }

    /// Whether nothing is pending before the next event.
    fn is_fresh(&self) -> bool {
        let settled = self.bom == BOM.len() && !self.after_cr && self.failure.is_none();
        settled && self.batch.is_empty() && self.event == 0 && !self.has_data
    }

    /// Whether what is unread is the beginning of an event that needs no parser once its rest is there.
    pub fn waits(&self) -> bool {
        let unread = self.unread.bytes();
        let start = unread.get(..DATA.len()).unwrap_or(unread);
        let most = WAITS.min(self.limits.line).min(self.limits.event);
        if start.is_empty() || !DATA.starts_with(start) || unread.len() > most {
            return false;
        }
        // what is wrong is told at once
        let valid = std::str::from_utf8(unread).map_or_else(|error| error.error_len().is_none(), |_| true);
        let end = memchr::memchr2(b'\n', b'\r', unread);
        let whole = end.is_some_and(|end| unread.get(end..) != Some(b"\n"));
        valid && !whole && self.is_fresh()
    }

    /// Where in [`Guard::arrived`] the data of the next event lies, if nothing is pending before it and it arrived as
    /// `data: ...\n\n`. It may still be no UTF-8.
    pub fn plain(&mut self) -> Option<Range<usize>> {
        if self.bom == 0 && self.unread.bytes().first().is_some_and(|first| Some(first) != BOM.first()) {
            self.settle_bom();
        }
        if !self.is_fresh() {
            return None;
        }
        let line = self.unread.bytes().strip_prefix(DATA)?;
        let end = memchr::memchr2(b'\n', b'\r', line)?;
        let whole = line.get(end..)?.starts_with(b"\n\n");
        let room = self.limits.line.min(self.limits.event.saturating_sub(1));
        if !whole || DATA.len() + end > room {
            return None;
        }
        let begin = self.unread.read + DATA.len();
        self.unread.advance(DATA.len() + end + 2);
        Some(begin..begin + end)
    }

    /// The next lines for the parser, up to an event that may need none; `None` if there are none.
    pub fn batch(&mut self) -> Result<Option<Vec<u8>>, SseError> {
        let mut begun = false;
        while self.failure.is_none() && !self.unread.is_empty() && !self.is_full() {
            if std::mem::replace(&mut begun, true) && self.unread.bytes().starts_with(DATA) && self.is_fresh()
            {
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

    /// Ends the last line and the last event as their missing line ends would have; [`Guard::batch`] has them then.
    pub fn finish(&mut self) -> Result<(), SseError> {
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
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.ready >= BATCH_BYTES || self.lines >= BATCH_LINES
    }

    /// Reads on, to the end of a line at most.
    fn step(&mut self) -> Result<(), SseError> {
        if let Some(expected) = BOM.get(self.bom) {
            if self.unread.bytes().first() == Some(expected) {
                self.unread.advance(1);
                self.bom += 1;
                return Ok(());
            }
            self.settle_bom();
        }
        if std::mem::take(&mut self.after_cr) && self.unread.bytes().first() == Some(&b'\n') {
            self.unread.advance(1);
            return Ok(());
        }
        match memchr::memchr2(b'\n', b'\r', self.unread.bytes()) {
            Some(at) => {
                self.grow(at)?;
                self.after_cr = self.unread.bytes().first() == Some(&b'\r');
                self.unread.advance(1);
                self.end_line()
            }
            None => self.grow(self.unread.bytes().len()),
        }
    }

    /// What looked like a byte order mark was text.
    fn settle_bom(&mut self) {
        let seen = std::mem::replace(&mut self.bom, BOM.len());
        if seen < BOM.len() {
            self.batch.extend(BOM.iter().take(seen));
        }
    }

    /// Moves so many bytes to the growing line, up to the limits.
    fn grow(&mut self, length: usize) -> Result<(), SseError> {
        let piece = self.unread.bytes().get(..length).unwrap_or_default();
        let held = self.batch.len() - self.ready;
        let line_room = self.limits.line.saturating_sub(held);
        let event_room = match self.batch.get(self.ready).or(piece.first()) {
            Some(b':') => usize::MAX,
            _ => self.limits.event.saturating_sub(self.event + held),
        };
        let room = line_room.min(event_room);
        let taken = piece.get(..room).unwrap_or(piece);
        large_buffer::reserve(&mut self.batch, taken.len() + 2);
        // two line ends follow, mostly
        self.batch.reserve(taken.len() + 2);
        self.batch.extend_from_slice(taken);
        self.unread.advance(length);
        self.check_utf8()?;
        match length > room {
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

impl Unread {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.read..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.read >= self.buffer.len()
    }

    fn advance(&mut self, bytes: usize) {
        self.read += bytes;
    }

    fn room(&mut self) -> &mut Vec<u8> {
        if self.is_empty() && self.buffer.capacity() > buffer_pool::LARGEST {
            self.buffer = Vec::new();
        }
        if self.buffer.capacity() == 0 {
            self.buffer = buffer_pool::take();
        }
        self.buffer.drain(..self.read.min(self.buffer.len()));
        self.read = 0;
        &mut self.buffer
    }

    fn rest(&mut self) {
        if self.is_empty() {
            buffer_pool::put(std::mem::take(&mut self.buffer));
            self.read = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_is_held() {
        let mut guard = Guard::new(Limits { line: 100, event: 1000 });
        guard.room().resize(1 << 20, b'x');
        assert_eq!(guard.batch(), Err(SseError::LineTooLong(100)));
        assert!(guard.batch.capacity() < 1000, "{}", guard.batch.capacity());
    }

    /// What the guard hands on for these pieces, and how many bytes the parser moves for it: for each line, what is
    /// left of the batch.
    fn work(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, usize) {
        let mut guard = Guard::default();
        let mut batches = Vec::new();
        for piece in pieces {
            guard.room().extend_from_slice(piece);
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
        let parts: Vec<&[u8]> = text.as_bytes().chunks(64).collect();
        let (batches, moved) = work(&parts);
        assert_eq!(batches.concat(), text.as_bytes());
        assert!(moved <= 2 * text.len(), "{moved}");
    }

    #[test]
    fn many_events_in_one_piece_reach_the_parser_in_small_batches() {
        let many = |line: &str, size: usize| line.repeat(size / line.len());
        for line in ["data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n", "data\n\n", "data: x\n"] {
            let (once, twice) =
                (work(&[many(line, 1_500_000).as_bytes()]), work(&[many(line, 3_000_000).as_bytes()]));
            assert_eq!(once.0.concat(), many(line, 1_500_000).as_bytes());
            assert!(once.0.iter().all(|batch| batch.len() < BATCH_BYTES + line.len()));
            assert!(twice.1 < once.1 * 5 / 2, "{line:?}: {} for twice {}", twice.1, once.1);
            assert!(once.1 < 1_500_000 * 2 * BATCH_LINES, "{line:?}: {}", once.1);
        }
    }

    #[test]
    fn a_long_line_behind_short_ones_goes_alone() {
        // without the space it is for the parser
        let short = "data:s\n\n".repeat(20);
        let long = format!("data:{}\n", "x".repeat(1 << 20));
        let (batches, _) = work(&[format!("{short}{long}\n{short}").as_bytes()]);
        let lengths: Vec<usize> = batches.iter().map(Vec::len).collect();
        assert_eq!(lengths, [short.len(), long.len(), 1 + short.len()]);
    }
}
