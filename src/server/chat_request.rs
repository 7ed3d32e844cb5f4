//! Owns the chat request that is made of a prepared request: the body that was planned, or another for a server that reads
//! requests differently. It must not choose the server.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use rejoinder_core::error::Error;

use super::prepared_request::PreparedRequest;
use crate::budget::Counted;
use crate::upstream::{Body, ChatRequest, Rendered, Target};

/// What goes upstream: `body` where the server reads like `likely`, and what `again` plans for any other.
pub fn chat_request(
    request: &PreparedRequest,
    likely: &Target,
    body: Counted,
    stream: bool,
    again: impl Fn(Target) -> BoxFuture<'static, Result<Counted, Error>> + Send + Sync + 'static,
) -> ChatRequest {
    let own = likely.clone();
    // given away, not copied: a long conversation's is the largest thing in memory, and a second try is rare
    let first = Mutex::new(Some(body));
    let render = move |target: &Target| {
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        match first.take_if(|_| target.reads_like(&own)) {
            Some(body) => Rendered::Now(Body::Own(body)),
            None => Rendered::Later(again(target.clone())),
        }
    };
    let (route, headers, record) = (request.route.clone(), request.headers.clone(), request.record.clone());
    ChatRequest { route, path: None, headers, record, stream, body: Arc::new(render) }
}
