//! Owns the reading of a request body: its cap, and its encodings. It must not parse it.

use std::pin::Pin;

use async_compression::tokio::bufread::{
    BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder,
};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Error, Kind};

/// The whole body, decoded; at most `cap` bytes of it, before and after.
///
/// # Errors
/// 413 over the cap, 415 for an encoding that is not zstd, gzip, br or deflate, 400 for a body that is not what its
/// encoding says.
pub async fn read(headers: &HeaderMap, body: Incoming, cap: usize) -> Result<Bytes, Error> {
    let bytes = match Limited::new(body, cap).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large(cap)),
        Err(error) => {
            return Err(Error::new(Kind::ClientGone, "The request body ended early.").detail(error));
        }
    };
    let mut bytes = bytes;
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
