//! Owns the chunked transfer coding (RFC 9112, section 7.1), read as it arrives: bytes in, the data of their chunks
//! out. It must not touch a socket.

/// Most bytes behind one chunk's size, and of all trailers; nobody needs either.
const ASIDE: usize = 16 << 10;
/// Most digits of a chunk's size.
const DIGITS: u8 = 15;

/// Where in the coding the next byte stands.
#[derive(Debug, Default)]
pub struct Chunked {
    at: At,
    /// Bytes without meaning since the last chunk's data.
    aside: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the first digit of a size.
    #[default]
    Begin,
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind the size: white space or an extension.
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the beginning of a line of trailers.
    Line,
    Trailer,
    TrailerLf,
    LastLf,
    End,
}

impl Chunked {
    /// Reads `input` up to the end of the body at most, appends its data to `out`, and returns how many bytes were
    /// read.
    ///
    /// # Errors
    /// When the coding is broken; what is wrong, in words.
    pub fn read(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, &'static str> {
        let mut rest = input;
        while let Some((&byte, behind)) = rest.split_first() {
            let next = match self.at {
                At::End => break,
                At::Data { left } => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let (data, behind) = rest.split_at(here);
                    out.extend_from_slice(data);
                    rest = behind;
                    self.at = match left - here as u64 {
                        0 => At::DataCr,
                        left => At::Data { left },
                    };
                    continue;
                }
                At::Begin => match digit(byte) {
                    Some(digit) => At::Size { size: digit, digits: 1 },
                    None => return Err("a chunk without a size"),
                },
                At::Size { size, digits } => match (digit(byte), byte) {
                    (Some(_), _) if digits == DIGITS => return Err("a chunk that is too large"),
                    (Some(digit), _) => At::Size { size: size << 4 | digit, digits: digits + 1 },
                    (None, b'\r') => At::SizeLf { size },
                    (None, b' ' | b'\t' | b';') => self.aside(At::Extension { size })?,
                    _ => return Err("a chunk's size that is no number"),
                },
                At::Extension { size } => match byte {
                    b'\r' => At::SizeLf { size },
                    b'\n' => return Err("a chunk's extension that is not ended by CRLF"),
                    _ => self.aside(At::Extension { size })?,
                },
                At::SizeLf { size } => match (byte, size) {
                    (b'\n', 0) => At::Line,
                    (b'\n', left) => At::Data { left },
                    _ => return Err("a chunk's size that is not ended by CRLF"),
                },
                At::DataCr if byte == b'\r' => At::DataLf,
                At::DataLf if byte == b'\n' => {
                    self.aside = 0;
                    At::Begin
                }
                At::DataCr | At::DataLf => return Err("a chunk that is not ended by CRLF"),
                At::Line if byte == b'\r' => At::LastLf,
                At::Trailer if byte == b'\r' => At::TrailerLf,
                At::Line | At::Trailer => self.aside(At::Trailer)?,
                At::TrailerLf if byte == b'\n' => At::Line,
                At::LastLf if byte == b'\n' => At::End,
                At::TrailerLf | At::LastLf => return Err("a trailer that is not ended by CRLF"),
            };
            self.at = next;
            rest = behind;
        }
        Ok(input.len() - rest.len())
    }

    /// Whether the body is over.
    pub fn ended(&self) -> bool {
        self.at == At::End
    }

    /// Counts a byte that means nothing to us.
    fn aside(&mut self, next: At) -> Result<At, &'static str> {
        self.aside += 1;
        if self.aside > ASIDE { Err("too much beside the chunks' data") } else { Ok(next) }
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads pieces one after another; data, bytes read, and whether the body ended.
    fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), &'static str> {
        let (mut chunked, mut out, mut used) = (Chunked::default(), Vec::new(), 0);
        for piece in pieces {
            let here = chunked.read(piece, &mut out)?;
            used += here;
            if here < piece.len() {
                assert!(chunked.ended());
                break;
            }
        }
        Ok((out, used, chunked.ended()))
    }

    #[test]
    fn sizes_extensions_and_trailers() {
        for (coded, data) in [
            (&b"0\r\n\r\n"[..], &b""[..]),
            (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
            (b"0003;name=\"v\"\r\nabc\r\nA \r\n0123456789\r\n00\r\n\r\n", b"abc0123456789"),
            (b"1\r\n\r\r\n1\r\n\n\r\n0\r\nx-took: 1\r\ny:\r\n\r\n", b"\r\n"),
        ] {
            assert_eq!(read(&[coded]), Ok((data.to_vec(), coded.len(), true)));
            let more = [coded, b"HTTP/1.1 200 OK"].concat();
            assert_eq!(read(&[&more]), Ok((data.to_vec(), coded.len(), true)), "reads beyond the end");
            let cut = &coded[..coded.len() - 1];
            assert_eq!(read(&[cut]).map(|(_, used, ended)| (used, ended)), Ok((cut.len(), false)));
        }
    }

    #[test]
    fn what_is_broken_is_refused() {
        let long = [b"1;".as_slice(), &vec![b'x'; ASIDE], b"\r\n"].concat();
        let many = [b"0\r\n".as_slice(), &b"x: y\r\n".repeat(ASIDE / 4 + 1)].concat();
        for coded in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"3\nabc",
            b"3\r\nabcd",
            b"3\r\nabc\n",
            b"1;x\n",
            b"0\r\n\r\r",
            b"0\r\nx: y\rz",
            b"1234567890123456\r\n",
            &long,
            &many,
        ] {
            assert!(read(&[coded]).is_err(), "{}", String::from_utf8_lossy(coded));
        }
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut coded = Vec::new();
            for chunk in &chunks {
                coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                coded.extend_from_slice(chunk);
                coded.extend_from_slice(b"\r\n");
            }
            coded.extend_from_slice(b"0\r\n\r\n");
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(coded.len())).collect();
            cuts.extend([0, coded.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &coded[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces), Ok((chunks.concat(), coded.len(), true)));
        }
    }
}
