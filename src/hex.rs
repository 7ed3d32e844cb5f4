//! Owns hexadecimal digits: bytes to text and back. It must not know what the bytes are.

/// Two lower-case digits for each byte.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes; `None` for an odd number of digits, or for anything that is no digit.
pub fn decode(digits: &str) -> Option<Vec<u8>> {
    // a sign is a number to the parser, too
    let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    (0..digits.len()).step_by(2).map(|n| u8::from_str_radix(digits.get(n..n + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn bytes_come_back_and_nothing_else_is_taken() {
        assert_eq!(encode(&[0, 0x0f, 0xff]), "000fff");
        assert_eq!(decode("000Fff"), Some(vec![0, 0x0f, 0xff]));
        assert_eq!(["0", "+f", "g0", "é0"].map(decode), [None, None, None, None]);
    }
}
