//! Owns the search for the end of a string literal, which covers most bytes of a request, and for characters that must
//! be escaped in one. It must not validate the string.

/// The position after the closing quote of the string whose inside begins at `from`; `None` if it is not closed.
pub(super) fn end_of_string(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    // names and most values are short: a vector search would take longer to set up
    let mut at = 0;
    for _ in 0..2 {
        let Some(word) = rest.get(at..)?.first_chunk::<8>() else { break };
        let quotes = marks(u64::from_le_bytes(*word), b'"');
        if quotes != 0 {
            at += (quotes.trailing_zeros() / 8) as usize;
            if at == 0 || rest.get(at - 1) != Some(&b'\\') {
                return Some(from + at + 1);
            }
            break;
        }
        at += word.len();
    }
    end(rest).map(|end| from + end)
}

/// Like [`end_of_string`], from the beginning of `rest`.
fn end(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let quote = at + memchr::memchr(b'"', rest.get(at..)?)?;
        // a quote ends the string unless an odd number of backslashes precedes it
        let escapes = rest.get(at..quote)?.iter().rev().take_while(|byte| **byte == b'\\').count();
        at = quote + 1;
        if escapes % 2 == 0 {
            return Some(at);
        }
        // an escaped quote is rarely alone (code, JSON in JSON): search whole blocks at once
        let mut open = 0;
        while let Some(block) = rest.get(at..)?.first_chunk::<64>() {
            let quotes = bits(block, b'"');
            let ends = quotes & !escaped(bits(block, b'\\'), &mut open);
            if ends != 0 {
                return Some(at + ends.trailing_zeros() as usize + 1);
            }
            at += block.len();
            if quotes == 0 {
                break;
            }
        }
        // skip the byte that a backslash at the end of the block escapes
        at += open as usize;
    }
}

/// The position of the first byte that must be escaped in a string literal: a quote, a backslash, a control character.
pub(super) fn first_special(bytes: &[u8]) -> Option<usize> {
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..0x20);
    let (words, _) = bytes.as_chunks::<8>();
    let clean = |word: &&[u8; 8]| {
        let word = u64::from_le_bytes(**word);
        marks(word, b'"') | marks(word, b'\\') | (word.wrapping_sub(ONES * 0x20) & !word & (ONES << 7)) == 0
    };
    let from = words.iter().take_while(clean).count() * 8;
    Some(from + bytes.get(from..)?.iter().position(special)?)
}

const ONES: u64 = u64::MAX / 255;

/// A mask with 0x80 at the first byte equal to `wanted`, and 0 at all bytes before it.
fn marks(word: u64, wanted: u8) -> u64 {
    let differs = word ^ (ONES * u64::from(wanted));
    differs.wrapping_sub(ONES) & !differs & (ONES << 7)
}

/// A mask with a bit for each byte equal to `wanted`. Written so that the compiler uses vector instructions.
fn bits(block: &[u8; 64], wanted: u8) -> u64 {
    // moves the lowest bits of eight bytes next to each other, into the highest byte
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let there = block.map(|byte| u8::from(byte == wanted));
    let (words, _) = there.as_chunks::<8>();
    words.iter().rev().fold(0, |bits, word| bits << 8 | u64::from_le_bytes(*word).wrapping_mul(GATHER) >> 56)
}

/// A mask of the escaped bytes of a block, given the mask of its backslashes. `open`: whether the first byte is
/// escaped; updated for the next block. The subtraction carries along a run of backslashes, as in simdjson.
fn escaped(backslashes: u64, open: &mut u64) -> u64 {
    const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;
    if backslashes == 0 {
        return std::mem::take(open);
    }
    let begins = backslashes & !*open;
    let ends = ((begins << 1) | ODD).wrapping_sub(begins) ^ ODD;
    let escaped = ends ^ (backslashes | *open);
    *open = (ends & backslashes) >> 63;
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// Like `end_of_string`, one byte at a time.
    fn plainly(bytes: &[u8], from: usize) -> Option<usize> {
        let mut escaped = false;
        for (at, byte) in bytes.iter().enumerate().skip(from) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return Some(at + 1),
                _ => {}
            }
        }
        None
    }

    proptest! {
        #[test]
        fn the_first_special_byte_is_found(bytes in vec(prop_oneof![8 => 0x20..=0xff_u8, 1 => any::<u8>()], 0..60)) {
            let plainly = bytes.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\');
            prop_assert_eq!(first_special(&bytes), plainly);
        }

        #[test]
        fn the_end_matches_a_simple_scan(
            pieces in vec(select(vec![r#"\""#, r"\\", r"\n", "a", "text", "é", " and so on, for a good while longer, "]), 0..120),
            end in select(vec!["\"", "\" \"", "", "\\", r#"\\\""#]),
            from in 0..3_usize,
        ) {
            let text = format!("{}{end}", pieces.concat());
            prop_assert_eq!(end_of_string(text.as_bytes(), from), plainly(text.as_bytes(), from), "{}", text);
        }

        #[test]
        fn any_bytes_match_a_simple_scan(bytes in vec(select(vec![b'"', b'\\', b'\\', b'x', 0xff]), 0..300)) {
            prop_assert_eq!(end_of_string(&bytes, 0), plainly(&bytes, 0));
        }
    }

    #[test]
    fn long_runs_of_escapes_over_blocks() {
        for length in 0..200 {
            for lead in ["", "x", r#"\""#] {
                let text = format!("{lead}{}\"tail\"", "\\".repeat(length));
                assert_eq!(end_of_string(text.as_bytes(), 0), plainly(text.as_bytes(), 0), "{text}");
            }
        }
        assert_eq!(end_of_string(b"abc", 9), None);
    }
}
