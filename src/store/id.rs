//! Owns the form in which a record's id is kept. It must not know what the record is.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A record's id. The ones that we make are a prefix and a UUID: kept as its bytes, they are compared and copied
/// without a look elsewhere in memory. `Display` writes the id as it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Id {
    /// `resp_` and 32 digits.
    Response([u8; 16]),
    /// `conv_` and 32 digits.
    Conversation([u8; 16]),
    /// An id of any other form.
    Other(Box<str>),
}

const RESPONSE: &str = "resp_";
const CONVERSATION: &str = "conv_";

impl Id {
    /// Bytes that it has elsewhere in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Id::Other(id) => id.len(),
            _ => 0,
        }
    }
}

impl From<&str> for Id {
    fn from(id: &str) -> Id {
        let ours = |prefix| uuid(id.strip_prefix(prefix)?);
        match (ours(RESPONSE), ours(CONVERSATION)) {
            (Some(bytes), _) => Id::Response(bytes),
            (_, Some(bytes)) => Id::Conversation(bytes),
            _ => Id::Other(Box::from(id)),
        }
    }
}

/// The empty id, which no record has.
impl Default for Id {
    fn default() -> Id {
        Id::Other(Box::default())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, bytes) = match self {
            Id::Response(bytes) => (RESPONSE, bytes),
            Id::Conversation(bytes) => (CONVERSATION, bytes),
            Id::Other(id) => return f.write_str(id),
        };
        f.write_str(prefix)?;
        f.write_str(Uuid::from_bytes(*bytes).simple().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
        String::deserialize(deserializer).map(|id| Id::from(&*id))
    }
}

/// The UUID, if the digits are as we write it: it can be written in other ways, which are other ids.
fn uuid(digits: &str) -> Option<[u8; 16]> {
    let uuid = Uuid::try_parse(digits).ok()?;
    (uuid.simple().encode_lower(&mut Uuid::encode_buffer()) == digits).then(|| uuid.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_texts_are_one_id_and_each_is_written_as_it_was() {
        let digits = "0192f0c1d2e3f4a5b6c7d8e9f0a1b2c3";
        let ids = [
            format!("resp_{digits}"),
            format!("conv_{digits}"),
            digits.to_owned(),
            format!("resp_{}", digits.to_uppercase()),
            format!("resp_0{digits}"),
            format!("resp_+{}", &digits[1..]),
            format!("resp_{}", &digits[1..]),
            "resp_".to_owned(),
            "resp_0192f0c1-d2e3-f4a5-b6c7-d8e9f0a1b2c3".to_owned(),
            "resp_{0192f0c1-d2e3-f4a5-b6c7-d8e9f0a1b2c3}".to_owned(),
            String::new(),
        ];
        let id = |text: &String| Id::from(text.as_str());
        for (n, text) in ids.iter().enumerate() {
            assert_eq!(ids.iter().position(|other| id(other) == id(text)), Some(n), "{text}");
            assert_eq!(id(text).to_string(), *text);
            let json = serde_json::to_string(&id(text)).unwrap();
            assert_eq!(json, serde_json::to_string(text).unwrap());
            assert_eq!(serde_json::from_str::<Id>(&json).unwrap(), id(text));
        }
        let ours = |text: &String| !matches!(id(text), Id::Other(_));
        assert_eq!(ids.iter().map(ours).collect::<Vec<_>>()[..4], [true, true, false, false]);
        assert!(!ids[2..].iter().any(ours));
        assert_eq!(uuid(digits).map(u128::from_be_bytes), u128::from_str_radix(digits, 16).ok());
    }
}
