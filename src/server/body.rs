//! Owns the reading of a request body: its cap, and its encodings. It must not parse it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_compression::tokio::bufread::{
    BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder,
};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use rejoinder_core::error::{Error, Kind};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::app::App;
use crate::budget::{Budget, Held, SMALL};
use crate::heavy;
use rejoinder_core::large_buffer;

/// Most that is set aside for a body before it comes, in bytes.
const EXPECTED: usize = 16 << 20;
/// What is read of a body, or decoded, until others get their turn.
const STEP: usize = 1 << 20;
/// How long the rest of a refused body is still taken: a client that writes on and finds its connection reset would not
/// read why.
const LINGER: Duration = Duration::from_secs(5);

/// Whether a body has both a length and chunks. The HTTP library goes by the chunks; what handed the request on to us may have
/// gone by the length, and taken what lies behind it for another request (RFC 9112, section 6.1). Of chunks in front of
/// a length the library does not tell.
pub fn has_two_lengths(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING)
}

/// The whole body, decoded; at most `max_body_bytes` of it, before and after. It is counted in the budget as it grows, and
/// for as long as it lives.
///
/// # Errors
/// 408 for a body that does not go on, 413 over the cap, 429 without room in the budget, 415 for an encoding that is not
/// zstd, gzip, br or deflate, 400 for a body that is not what its encoding says.
pub async fn read(app: &App, headers: &HeaderMap, mut body: Incoming) -> Result<Bytes, Error> {
    let (budget, cap, pause) = (&app.budget, app.config.max_body_bytes, app.config.body_timeout);
    let claimed = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let encodings = encodings(headers);
    let read = match encodings {
        Err(error) => Err(error),
        Ok(_) if claimed > cap => Err(too_large(cap)),
        Ok(encodings) => collect(budget, &mut body, claimed, cap, pause).await.map(|read| (encodings, read)),
    };
    match read {
        // encodings were applied in the order of the list
        Ok((encodings, (mut bytes, mut held))) => {
            for encoding in encodings.into_iter().rev() {
                (bytes, held) = decode(budget, encoding, bytes, held, cap).await?;
            }
            Ok(held.of(bytes).into_bytes())
        }
        Err(error) => {
            // who asks first whether to send it (Expect: 100-continue) has not begun
            if !body.is_end_stream() && !headers.contains_key(header::EXPECT) {
                tokio::spawn(tokio::time::timeout(LINGER, ignore(body, usize::MAX)));
            }
            Err(error)
        }
    }
}

/// Reads a body that means nothing, up to `most` bytes of it.
pub async fn ignore(mut body: Incoming, most: usize) {
    let mut seen = 0;
    while seen < most
        && let Some(Ok(frame)) = body.frame().await
    {
        seen += frame.data_ref().map_or(0, Bytes::len);
    }
}

async fn collect(
    budget: &Arc<Budget>,
    body: &mut Incoming,
    claimed: usize,
    cap: usize,
    pause: Duration,
) -> Result<(Vec<u8>, Held), Error> {
    let mut held = budget.begin();
    // a length that is only claimed must not cost memory
    let mut whole = Vec::with_capacity(large_buffer::capacity(claimed.min(EXPECTED)));
    let mut turn = STEP;
    loop {
        let frame = tokio::time::timeout(pause, body.frame()).await;
        let Some(frame) = frame.map_err(|_| Error::body_stalled(pause))? else { break };
        let frame = frame
            .map_err(|error| Error::new(Kind::ClientGone, "The request body ended early.").detail(error))?;
        let Some(data) = frame.data_ref() else { continue };
        let length = whole.len() + data.len();
        if length > cap {
            return Err(too_large(cap));
        }
        // a little ahead, and no further than the body
        held.reach(claimed.clamp(length, length + length.min(STEP))).await?;
        // what arrived is let go at once, so that a long body is held once
        large_buffer::reserve(&mut whole, data.len());
        whole.extend_from_slice(data);
        if length >= turn {
            turn = length + STEP;
            tokio::task::yield_now().await;
        }
    }
    held.reach(whole.len()).await?;
    Ok((whole, held))
}

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Zstd,
    Gzip,
    Brotli,
    Deflate,
}

fn encodings(headers: &HeaderMap) -> Result<Vec<Encoding>, Error> {
    let mut found = Vec::new();
    for value in headers.get_all(header::CONTENT_ENCODING) {
        for name in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            found.push(match name.to_ascii_lowercase().as_str() {
                "" | "identity" => continue,
                "zstd" => Encoding::Zstd,
                "gzip" | "x-gzip" => Encoding::Gzip,
                "br" => Encoding::Brotli,
                "deflate" => Encoding::Deflate,
                _ => {
                    let message = "Unsupported Content-Encoding; use zstd, gzip, br, deflate or none.";
                    return Err(Error::new(Kind::UnsupportedEncoding, message));
                }
            });
        }
    }
    Ok(found)
}

/// What `bytes` says when its encoding is undone; `held`: the count of `bytes`.
async fn decode(
    budget: &Arc<Budget>,
    encoding: Encoding,
    bytes: Vec<u8>,
    held: Held,
    cap: usize,
) -> Result<(Vec<u8>, Held), Error> {
    // "deflate" is zlib by the standard and raw in the wild; zlib begins with 0x78 in practice
    let zlib = bytes.first().is_some_and(|byte| byte & 0x0f == 8);
    let mut reader: Pin<Box<dyn AsyncRead + Send + '_>> = match encoding {
        Encoding::Zstd => Box::pin(ZstdDecoder::new(&*bytes)),
        Encoding::Gzip => Box::pin(GzipDecoder::new(&*bytes)),
        Encoding::Brotli => Box::pin(BrotliDecoder::new(&*bytes)),
        Encoding::Deflate if zlib => Box::pin(ZlibDecoder::new(&*bytes)),
        Encoding::Deflate => Box::pin(DeflateDecoder::new(&*bytes)),
    };
    let mut decoded = Vec::new();
    let mut grown = budget.begin();
    loop {
        let before = decoded.len();
        // no more than is counted; small bodies are done at the first step
        let step = before.clamp(SMALL, STEP);
        grown.reach(before + step).await?;
        large_buffer::reserve(&mut decoded, step);
        let mut part = (&mut reader).take(step as u64);
        // it reads from memory, so it is never pending
        let read =
            heavy::run(before.max(bytes.len()), || part.read_to_end(&mut decoded).now_or_never()).await;
        read.transpose().map_err(|error| {
            let message = "The request body does not match its Content-Encoding.";
            Error::new(Kind::InvalidJson, message).detail(error)
        })?;
        if decoded.len() > cap {
            return Err(too_large(cap));
        }
        if decoded.len() < before + step {
            break;
        }
    }
    drop(reader);
    grown.shrink(decoded.len());
    drop(held.of(bytes));
    Ok((decoded, grown))
}

fn too_large(cap: usize) -> Error {
    Error::new(Kind::BodyTooLarge, format!("The request body is larger than {cap} bytes (max_body_bytes)."))
}
