//! Owns the undoing of an answer's `Content-Encoding`, as it arrives: nobody asked for one, and some servers send it all the
//! same, or without saying so. It must not know what an answer means.
//!
//! What is taken of the server follows what is taken of us, so that no small body becomes a large one at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_compression::tokio::bufread::{
    BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder,
};
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

/// Most bytes that one read gives.
const READ: usize = 32 << 10;

/// A body whose encoding is undone.
pub type Decoded = Pin<Box<dyn AsyncRead + Send>>;

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Gzip,
    Zstd,
    Brotli,
    Zlib,
    Deflate,
}

impl Encoding {
    /// By the first bytes of a body, and by what its head says of it where they do not tell. `None`: plain.
    pub fn of(named: &str, start: &[u8]) -> Option<Encoding> {
        match (start, named) {
            // neither is the beginning of any text
            ([0x1f, 0x8b, ..], _) => Some(Encoding::Gzip),
            ([0x28, 0xb5, 0x2f, 0xfd, ..], _) => Some(Encoding::Zstd),
            // said of a plain body
            ([b'{' | b'[' | b':' | b'd', ..], "br" | "deflate") if std::str::from_utf8(start).is_ok() => None,
            (_, "br") => Some(Encoding::Brotli),
            // zlib by the standard, raw in the wild
            ([first, ..], "deflate") if first & 0x0f == 8 => Some(Encoding::Zlib),
            (_, "deflate") => Some(Encoding::Deflate),
            _ => None,
        }
    }

    /// The plain body.
    pub fn decode(self, body: impl AsyncBufRead + Send + 'static) -> Decoded {
        match self {
            Encoding::Gzip => Box::pin(GzipDecoder::new(body)),
            Encoding::Zstd => Box::pin(ZstdDecoder::new(body)),
            Encoding::Brotli => Box::pin(BrotliDecoder::new(body)),
            Encoding::Zlib => Box::pin(ZlibDecoder::new(body)),
            Encoding::Deflate => Box::pin(DeflateDecoder::new(body)),
        }
    }
}

/// Appends what one read gives: how many bytes, 0 at the end.
pub fn poll_more(decoded: &mut Decoded, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<usize>> {
    let before = out.len();
    out.resize(before + READ, 0);
    let mut room = ReadBuf::new(out.get_mut(before..).unwrap_or_default());
    let read = decoded.as_mut().poll_read(cx, &mut room);
    let filled = room.filled().len();
    out.truncate(before + filled);
    ready!(read)?;
    Poll::Ready(Ok(filled))
}

/// A body as it arrives, after the bytes that were read before.
pub struct Arriving<F> {
    buffer: Vec<u8>,
    read: usize,
    more: F,
}

impl<F> Arriving<F> {
    /// `start`: the bytes that were read before. `more` appends what has arrived, and returns how many bytes, 0 at the end.
    pub fn new(start: Vec<u8>, more: F) -> Arriving<F> {
        Arriving { buffer: start, read: 0, more }
    }
}

impl<F> AsyncBufRead for Arriving<F>
where
    F: FnMut(&mut Context<'_>, &mut Vec<u8>) -> Poll<io::Result<usize>> + Unpin,
{
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.read >= this.buffer.len() {
            this.buffer.clear();
            this.read = 0;
            ready!((this.more)(cx, &mut this.buffer))?;
        }
        Poll::Ready(Ok(this.buffer.get(this.read..).unwrap_or_default()))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        self.get_mut().read += amount;
    }
}

impl<F> AsyncRead for Arriving<F>
where
    F: FnMut(&mut Context<'_>, &mut Vec<u8>) -> Poll<io::Result<usize>> + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let there = ready!(self.as_mut().poll_fill_buf(cx))?;
        let amount = there.len().min(out.remaining());
        out.put_slice(there.get(..amount).unwrap_or_default());
        self.consume(amount);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_what_its_bytes_are() {
        for (named, start, want) in [
            ("", &[0x1f, 0x8b, 8][..], Some(Encoding::Gzip)),
            ("identity", &[0x1f, 0x8b, 8], Some(Encoding::Gzip)),
            ("", &[0x28, 0xb5, 0x2f, 0xfd], Some(Encoding::Zstd)),
            ("gzip", b"data: {}", None),
            ("zstd", b"{\"choices\"", None),
            ("br", b"data: {}", None),
            ("br", &[0x0b, 0x02], Some(Encoding::Brotli)),
            ("deflate", &[0x78, 0x9c], Some(Encoding::Zlib)),
            ("deflate", &[0x4b, 0x49], Some(Encoding::Deflate)),
            ("", b"data: {}", None),
        ] {
            assert_eq!(Encoding::of(named, start), want, "{named}: {start:?}");
        }
    }
}
