//! Owns what must hold of the bytes that a server sends, whatever they are: the fuzz targets and the ordinary tests check the
//! same.

use rejoinder::upstream::http1::chunked::Chunked;
use rejoinder::upstream::http1::head::{Framing, HeadReader};

/// What of a response was read.
#[derive(Debug, Default, PartialEq)]
struct Reading {
    /// Status, and whether the connection serves another request.
    head: Option<(u16, bool)>,
    data: Vec<u8>,
    /// Whether the body ended, and how many bytes lie behind it.
    behind: Option<usize>,
    error: Option<String>,
}

/// Parts of responses, good and bad. A script of bytes names them one after another.
const PARTS: [&[u8]; 32] = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"HTTP/1.1 304 Not Modified\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 503\n",
    b"HTTP/2.0 200 OK\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 18446744073709551615\r\n",
    b"content-length: +1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\n",
    b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Retry-After: 1\r\n",
    b"x-ratelimit-limit: 9\r\n",
    b"bad header\r\n",
    b" folded\r\n",
    b"\r\n",
    b"\n",
    b"hello",
    b"5\r\nhello\r\n",
    b"5;name=\"v\"\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\nTrailer: x\r\n\r\n",
    b"fffffffffffffff\r\n",
    b"1\n",
    b"\0",
];

/// The bytes that a script names.
pub fn built(script: &[u8]) -> Vec<u8> {
    script.iter().flat_map(|byte| PARTS[usize::from(*byte) % PARTS.len()]).copied().collect()
}

/// `bytes` cut at these places, each taken as a fraction of 256.
fn pieces<'b>(bytes: &'b [u8], cuts: &[u8]) -> Vec<&'b [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) * bytes.len() / 256).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).filter(|piece| !piece.is_empty()).collect()
}

fn read_response(pieces: &[&[u8]]) -> Reading {
    let (mut reading, mut reader, mut framing) = (Reading::default(), HeadReader::default(), None::<Framing>);
    for piece in pieces {
        let piece = match &framing {
            Some(_) => piece.to_vec(),
            None => match reader.add(piece) {
                Err(error) => {
                    reading.error = Some(error);
                    return reading;
                }
                Ok(None) => continue,
                Ok(Some(head)) => {
                    reading.head = Some((head.response.status.as_u16(), head.reusable));
                    framing = Some(head.framing);
                    std::mem::take(&mut reader.bytes)
                }
            },
        };
        let Some(framing) = &mut framing else { continue };
        if let Some(behind) = &mut reading.behind {
            *behind += piece.len();
            continue;
        }
        let before = reading.data.len();
        match framing.read(&piece, &mut reading.data) {
            Err(error) => {
                reading.error = Some(error.to_owned());
                return reading;
            }
            Ok(whole) => assert!(whole || framing.ended(), "bytes that belong to no body: {piece:?}"),
        }
        assert!(reading.data.len() - before <= piece.len(), "more data than bytes");
        reading.behind = framing.ended().then_some(0);
    }
    reading
}

/// A response is the same however it is cut: the head that is found, the data, its end, what is refused.
///
/// # Panics
/// When it is not.
pub fn check_response(bytes: &[u8], cuts: &[u8]) {
    let (mut at_once, mut cut) = (read_response(&[bytes]), read_response(&pieces(bytes, cuts)));
    // how many bytes were behind the end is not counted alike
    for reading in [&mut at_once, &mut cut] {
        reading.behind = reading.behind.map(|_| 0);
    }
    // a head is parsed where it may have ended: what can never become one may be found late
    let late = cut == Reading::default() && at_once.head.is_none() && at_once.error.is_some();
    assert!(late || at_once == cut, "{bytes:?} by {cuts:?}: {at_once:?} {cut:?}");
    assert!(at_once.head.is_none_or(|(status, _)| status >= 200), "an interim response is none: {bytes:?}");
}

/// What a chunked body says: its data and the bytes that it takes; `None` where it is broken or has not ended.
fn decode(mut bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (whole, mut data) = (bytes.len(), Vec::new());
    let line = |bytes: &mut &[u8]| {
        let end =
            bytes.iter().position(|byte| *byte == b'\r').filter(|end| bytes.get(end + 1) == Some(&b'\n'))?;
        let line = bytes[..end].to_vec();
        *bytes = &bytes[end + 2..];
        Some(line)
    };
    loop {
        let head = line(&mut bytes)?;
        let digits = head.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(head.len());
        let extension = &head[digits..];
        if !(1..=15).contains(&digits) || !matches!(extension.first(), None | Some(b';' | b' ' | b'\t')) {
            return None;
        }
        if extension.contains(&b'\n') {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(&head[..digits]).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        data.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
    while !line(&mut bytes)?.is_empty() {}
    Some((data, whole - bytes.len()))
}

/// A chunked body is read as the plain reader above reads it, however it is cut.
///
/// # Panics
/// When it is not.
pub fn check_chunked(bytes: &[u8], cuts: &[u8]) {
    let read = |pieces: &[&[u8]]| {
        let (mut chunked, mut data, mut used) = (Chunked::default(), Vec::new(), 0);
        let error = pieces.iter().find_map(|piece| {
            if chunked.ended() {
                return None;
            }
            match chunked.read(piece, &mut data) {
                Ok(here) => {
                    assert!(here == piece.len() || chunked.ended(), "it stops before its end");
                    used += here;
                    None
                }
                Err(error) => Some(error),
            }
        });
        assert!(data.len() <= bytes.len(), "more data than bytes");
        // up to where a piece is broken it may have been read or not
        (error, data, used * usize::from(error.is_none()), chunked.ended())
    };
    let at_once = read(&[bytes]);
    assert_eq!(at_once, read(&pieces(bytes, cuts)), "{bytes:?} by {cuts:?}");
    let (error, data, used, ended) = at_once;
    let ended = (ended && error.is_none()).then_some((data, used));
    // 16 KiB beside the data is too much for the one, not for the other
    if bytes.len() < 16 << 10 {
        assert_eq!(ended, decode(bytes), "{bytes:?}");
    }
}

/// Chunks of these lengths come out as what went in.
///
/// # Panics
/// When they do not.
pub fn check_chunks(data: &[u8], lengths: &[u8], cuts: &[u8]) {
    let (mut coded, mut rest) = (Vec::new(), data);
    for length in lengths.iter().map(|length| usize::from(*length).max(1)).chain([data.len()]) {
        let (chunk, behind) = rest.split_at(length.min(rest.len()));
        if !chunk.is_empty() {
            coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            coded.extend_from_slice(chunk);
            coded.extend_from_slice(b"\r\n");
        }
        rest = behind;
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(decode(&coded), Some((data.to_vec(), coded.len())));
    check_chunked(&coded, cuts);
    coded.extend_from_slice(data);
    check_chunked(&coded, cuts);
}
