//! Owns what an upstream gets to see of a client's headers with a chat request. It must not send anything.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Headers of the client's that concern the upstream too, beside its key and the request's id.
pub const FORWARDED: [HeaderName; 2] =
    [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];
/// What a request is called in logs, on both sides.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What an upstream gets to see of a client's headers. These are copies: a header is a part of the buffer that it was
/// read into, and would hold all of that while the answer is waited for.
#[derive(Debug)]
pub struct Forwarded {
    /// The client's own key.
    pub authorization: Option<HeaderValue>,
    /// All others.
    pub others: Vec<(HeaderName, HeaderValue)>,
}

impl Forwarded {
    /// Of the headers of the request that has this id.
    pub fn of(client: &HeaderMap, request_id: &HeaderValue) -> Forwarded {
        let copied = |name: &HeaderName| copied(client.get(name)?);
        let mut others = Vec::with_capacity(1 + FORWARDED.len());
        others.push((REQUEST_ID, request_id.clone()));
        others.extend(FORWARDED.into_iter().filter_map(|name| Some((name.clone(), copied(&name)?))));
        Forwarded { authorization: copied(&header::AUTHORIZATION), others }
    }
}

/// The same text in memory of its own.
pub fn copied(value: &HeaderValue) -> Option<HeaderValue> {
    let mut copy = HeaderValue::from_bytes(value.as_bytes()).ok()?;
    copy.set_sensitive(value.is_sensitive());
    Some(copy)
}
