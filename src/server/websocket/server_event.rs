//! Owns the events that the connection itself sends: errors that are no response's; and the name
//! of a lane in a response's events. It must not decide when.

use bytes::Bytes;
use http::HeaderMap;
use rejoinder_core::error::Error;
use rejoinder_core::wire::json;

use super::Lane;
use crate::server::reply;
use crate::upstream::REQUEST_ID;

/// An `error` event: the status and the headers that an HTTP answer would have, and the error as its body has it. `request`:
/// the id of the request that failed.
pub fn error(error: &Error, lane: &Lane, request: Option<&str>) -> Bytes {
    let mut out = Vec::with_capacity(256 + error.message.len());
    out.extend_from_slice(b"{\"type\":\"error\",");
    push_lane(&mut out, lane);
    out.extend_from_slice(format!("\"status\":{},\"error\":", error.status()).as_bytes());
    error.write_object(&mut out);
    let mut headers = reply::error_headers(error);
    // no library looks for it here
    headers.remove(reply::SHOULD_RETRY);
    if let Some(id) = request.and_then(|id| id.parse().ok()) {
        headers.insert(REQUEST_ID, id);
    }
    if !headers.is_empty() {
        // openai's libraries look for them within the error, Codex beside it
        let headers = members(&headers);
        out.pop();
        out.extend_from_slice(b",\"headers\":");
        out.extend_from_slice(&headers);
        out.extend_from_slice(b"},\"headers\":");
        out.extend_from_slice(&headers);
    }
    out.push(b'}');
    out.into()
}

/// Headers as a JSON object; of those that come more than once, the first.
fn members(headers: &HeaderMap) -> Vec<u8> {
    let mut out = vec![b'{'];
    for name in headers.keys() {
        let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) else { continue };
        if out.len() > 1 {
            out.push(b',');
        }
        json::push_string(&mut out, name.as_str());
        out.push(b':');
        json::push_string(&mut out, value);
    }
    out.push(b'}');
    out
}

/// The beginning of a response's event with the name of its lane, where it has one. `begin`: at least the event's brace.
pub fn in_lane(begin: Bytes, lane: &Lane) -> Bytes {
    if lane.is_none() || begin.is_empty() {
        return begin;
    }
    let mut out = Vec::with_capacity(begin.len() + 280);
    out.push(b'{');
    push_lane(&mut out, lane);
    out.extend_from_slice(begin.get(1..).unwrap_or_default());
    out.into()
}

/// Appends `"stream_id":"..",`, if there is one.
pub fn push_lane(out: &mut Vec<u8>, lane: &Lane) {
    if let Some(lane) = lane {
        out.extend_from_slice(b"\"stream_id\":");
        json::push_string(out, lane);
        out.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use rejoinder_core::error::Kind;
    use serde_json::{Value, json};

    use super::*;

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn an_error_has_what_an_http_answer_would_have() {
        let missing = Error::new(Kind::InvalidType, "No \"x\".").param("x");
        let object = json!({"message": "No \"x\".", "type": "invalid_request_error", "param": "x", "code": "invalid_type"});
        let want = json!({"type": "error", "status": 400, "error": object});
        assert_eq!(parsed(&error(&missing, &None, None)), want);
        let busy = parsed(&error(&Error::new(Kind::RateLimited, ""), &Some("a\"".into()), Some("req_1")));
        assert_eq!((&busy["status"], &busy["stream_id"]), (&json!(429), &json!("a\"")));
        let headers = json!({"retry-after": "5", "x-request-id": "req_1"});
        assert_eq!((&busy["headers"], &busy["error"]["headers"]), (&headers, &headers));
    }

    #[test]
    fn an_event_gets_the_name_of_its_lane() {
        let event = Bytes::from_static(b"{\"type\":\"x\"}");
        assert_eq!(in_lane(event.clone(), &None), event);
        assert_eq!(parsed(&in_lane(event, &Some("a".into()))), json!({"stream_id": "a", "type": "x"}));
        assert_eq!(&*in_lane(Bytes::from_static(b"{"), &Some("a".into())), b"{\"stream_id\":\"a\",");
    }
}
