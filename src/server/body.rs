//! Owns the reading of a request body: its cap, and its encodings. It must not parse it.

use std::pin::Pin;

use async_compression::tokio::bufread::{
    BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder,
};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Error, Kind};

/// Most that is set aside for a body before it comes, in bytes.
const EXPECTED: usize = 16 << 20;

/// The whole body, decoded; at most `cap` bytes of it, before and after.
///
/// # Errors
/// 413 over the cap, 415 for an encoding that is not zstd, gzip, br or deflate, 400 for a body that is not what its
/// encoding says.
pub async fn read(headers: &HeaderMap, body: Incoming, cap: usize) -> Result<Bytes, Error> {
    // a length that is only claimed must not cost memory
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(0).min(cap).min(EXPECTED);
    let mut body = Limited::new(body, cap);
    let mut whole = Vec::with_capacity(expected);
    while let Some(frame) = body.frame().await {
        match frame {
            // what arrived is let go at once, so that a long body is held once
            Ok(frame) => whole.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Err(error) if error.is::<LengthLimitError>() => return Err(too_large(cap)),
            Err(error) => {
                return Err(Error::new(Kind::ClientGone, "The request body ended early.").detail(error));
            }
        }
    }
    let mut bytes = Bytes::from(whole);
    // encodings were applied in the order of the list
    for encoding in encodings(headers)?.into_iter().rev() {
        bytes = decode(encoding, &bytes, cap).await?;
    }
    Ok(bytes)
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

async fn decode(encoding: Encoding, bytes: &[u8], cap: usize) -> Result<Bytes, Error> {
    // "deflate" is zlib by the standard and raw in the wild; zlib begins with 0x78 in practice
    let zlib = bytes.first().is_some_and(|byte| byte & 0x0f == 8);
    let reader: Pin<Box<dyn AsyncRead + Send + '_>> = match encoding {
        Encoding::Zstd => Box::pin(ZstdDecoder::new(bytes)),
        Encoding::Gzip => Box::pin(GzipDecoder::new(bytes)),
        Encoding::Brotli => Box::pin(BrotliDecoder::new(bytes)),
        Encoding::Deflate if zlib => Box::pin(ZlibDecoder::new(bytes)),
        Encoding::Deflate => Box::pin(DeflateDecoder::new(bytes)),
    };
    let mut decoded = Vec::new();
    let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(limit).read_to_end(&mut decoded).await.map_err(|error| {
        Error::new(Kind::InvalidJson, "The request body is not what its Content-Encoding says.").detail(error)
    })?;
    if decoded.len() > cap {
        return Err(too_large(cap));
    }
    Ok(Bytes::from(decoded))
}

fn too_large(cap: usize) -> Error {
    Error::new(Kind::BodyTooLarge, format!("The request body is larger than {cap} bytes (max_body_bytes)."))
}
