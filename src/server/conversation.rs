//! Owns the reading of which conversation a request belongs to, so that it can go where its cache is. It must not
//! choose a server.

use http::{HeaderMap, HeaderName};
use rejoinder_core::client::CODEX_HEADERS;
use serde_json::Value;

use crate::upstream::RoutingKey;

/// The route of a request for `model`. A conversation is known by `prompt_cache_key`, else by the `thread-id` or
/// `session-id` header, else by `chain` (the first response of a `previous_response_id` chain). Sub-agents share the key of
/// their parent, and differ by `thread-id`.
pub fn route(
    headers: &HeaderMap,
    model: &str,
    prompt_cache_key: Option<&str>,
    chain: Option<&str>,
) -> RoutingKey {
    let header = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let named = |text: &&str| !text.is_empty() && text.len() <= LONGEST;
    let thread = header(&THREAD).filter(named);
    let conversation =
        prompt_cache_key.filter(named).or(thread).or_else(|| header(&SESSION).filter(named)).or(chain);
    RoutingKey {
        model: model.to_owned(),
        conversation: conversation.map(str::to_owned),
        thread: thread.map(str::to_owned),
        side: header(&METADATA).is_some_and(is_side),
        ..RoutingKey::default()
    }
}

const THREAD: HeaderName = HeaderName::from_static(CODEX_HEADERS.thread);
const SESSION: HeaderName = HeaderName::from_static(CODEX_HEADERS.session);
/// What Codex says of a turn.
pub const METADATA: HeaderName = HeaderName::from_static(CODEX_HEADERS.metadata);
/// A name longer than this is nobody's conversation.
const LONGEST: usize = 512;

/// Whether a request is beside the conversation: for its title, or a summary of it.
fn is_side(metadata: &str) -> bool {
    let Ok(Value::Object(members)) = serde_json::from_str(metadata) else { return false };
    CODEX_HEADERS
        .beside
        .iter()
        .any(|(name, value)| members.get(*name).and_then(Value::as_str) == Some(*value))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(headers: &[(&'static str, &'static str)], key: Option<&str>, chain: Option<&str>) -> RoutingKey {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        route(&headers, "m", key, chain)
    }

    #[test]
    fn the_clearest_name_is_the_conversation() {
        let headers = [("thread-id", "t"), ("session-id", "s")];
        for (key, chain, headers, want) in [
            (Some("k"), Some("c"), &headers[..], Some("k")),
            (Some(""), Some("c"), &headers[..], Some("t")),
            (None, Some("c"), &headers[1..], Some("s")),
            (None, Some("c"), &[], Some("c")),
            (None, None, &[], None),
        ] {
            assert_eq!(read(headers, key, chain).conversation.as_deref(), want);
        }
    }

    #[test]
    fn titles_and_summaries_are_beside_it() {
        for (metadata, side) in [
            (r#"{"request_kind":"turn","thread_source":"user"}"#, false),
            (r#"{"request_kind":"turn","thread_source":"thread_title"}"#, true),
            (r#"{"request_kind":"compaction","thread_source":"user"}"#, true),
            ("{}", false),
            ("not JSON", false),
        ] {
            assert_eq!(read(&[("x-codex-turn-metadata", metadata)], None, None).side, side, "{metadata}");
        }
    }
}
