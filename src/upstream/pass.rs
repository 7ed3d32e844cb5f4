//! Owns requests that are passed through unchanged: which server gets them, and how long either side may be silent. It must
//! not read a body.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, Method, header};
use rejoinder_core::error::{Error, Kind};

use super::address::Address;
use super::exchange::{self, TransportError, Why};
use super::route::NO_SERVER_FOUND;
use super::server::{Lease, Server};
use super::{Requester, RoutingKey, Upstream, answer};
use crate::descriptors::{self, Use};

/// A response to a request that was passed through, whatever its status. Until it is dropped, the request counts as running
/// on its server.
pub struct Passed {
    /// Status and headers; its body is read by [`Passed::into_stream`].
    pub response: reqwest::Response,
    lease: Lease,
}

impl Upstream {
    /// The server for a request of which nothing but its sender is known, and where it is.
    async fn for_any_request(&self, requester: Requester) -> Result<(Address, Arc<Server>), Error> {
        let route = RoutingKey { requester, ..RoutingKey::default() };
        let _ = self.likely(&route).await;
        let chosen = self.shared.preferred(&self.shared.servers_for(&route.requester), &route);
        let place = chosen.and_then(|server| Some((server.address()?, server)));
        if place.is_none() && route.requester.upstreams.is_some() {
            let message = "This API key may use none of the upstream servers.";
            return Err(Error::new(Kind::Forbidden, message).code_as("upstream_not_allowed"));
        }
        place.ok_or_else(|| Error::new(Kind::Unavailable, NO_SERVER_FOUND))
    }

    /// Passes a request on unchanged and gives the upstream's response, whatever its status. `silence`: how long the client
    /// may pause within its body.
    ///
    /// # Errors
    /// When there is no server, no response in time, or the client stops sending its body.
    pub async fn pass<E>(
        &self,
        method: Method,
        path_and_query: &str,
        mut headers: HeaderMap,
        body: Option<impl Stream<Item = Result<Bytes, E>> + Send + 'static>,
        silence: Duration,
        requester: Requester,
    ) -> Result<Passed, Error>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let (address, server) = self.for_any_request(requester).await?;
        let client = headers.get(header::AUTHORIZATION).cloned();
        headers.remove(header::HOST);
        server.strip_keys(&mut headers);
        server.authorize(&mut headers, client.as_ref());
        if !descriptors::available(Use::Upstream) {
            return Err(answer::unreachable(TransportError::no_descriptor()));
        }
        let lease = server.lease_any();
        let idempotent = method.is_idempotent();
        let upload = Arc::new(Upload::new());
        let request = server.client.general.request(method, address.url(path_and_query)).headers(headers);
        let request = match body {
            Some(body) => request.body(reqwest::Body::wrap_stream(upload.clone().watched(body, silence))),
            None => request,
        };
        let limit = server.config.response_timeout;
        let mut sent = pin!(async {
            // a body that streams cannot be sent again
            if idempotent { exchange::send(request).await } else { request.send().await }
        });
        loop {
            let left = limit.saturating_sub(upload.idle());
            match tokio::time::timeout(left, &mut sent).await {
                Ok(Ok(response)) => return Ok(Passed { response, lease }),
                Ok(Err(_)) if upload.silent.load(Ordering::Relaxed) => {
                    return Err(Error::body_stalled(silence));
                }
                Ok(Err(error)) => {
                    let broken = TransportError::from(error);
                    if broken.why == Why::Refused {
                        server.suspect("connection refused");
                    }
                    return Err(answer::unreachable(broken));
                }
                // otherwise the body has moved meanwhile
                Err(_) if upload.idle() >= limit => return Err(answer::too_late(limit)),
                Err(_) => {}
            }
        }
    }
}

impl Passed {
    /// The server that answers.
    pub fn upstream(&self) -> String {
        self.lease.server.label()
    }

    /// The body, piece by piece. It ends with an error when the server is silent for `idle_timeout`.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, String>> + Send + 'static {
        let Passed { response, lease } = self;
        let limit = lease.server.config.idle_timeout;
        let pieces = Box::pin(response.bytes_stream());
        stream::unfold(Some((pieces, lease)), move |open| async move {
            let (mut pieces, lease) = open?;
            match tokio::time::timeout(limit, pieces.next()).await {
                Ok(piece) => match piece? {
                    Ok(piece) => Some((Ok(piece), Some((pieces, lease)))),
                    Err(error) => Some((Err(exchange::causes(error)), None)),
                },
                Err(_) => Some((Err(answer::silent(limit).message), None)),
            }
        })
    }
}

/// The progress of a request's body.
struct Upload {
    begun: Instant,
    /// When a piece of it was last passed on, in milliseconds since it began.
    moved: AtomicU64,
    /// Whether the client was silent for too long.
    silent: AtomicBool,
}

impl Upload {
    fn new() -> Upload {
        Upload { begun: Instant::now(), moved: AtomicU64::new(0), silent: AtomicBool::new(false) }
    }

    /// Time since the last piece.
    fn idle(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)))
    }

    /// The pieces of the body. They end with an error when the client is silent for `silence`.
    fn watched<E>(
        self: Arc<Upload>,
        body: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
        silence: Duration,
    ) -> impl Stream<Item = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>> + Send + 'static
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        stream::unfold(Some((Box::pin(body), self)), move |open| async move {
            let (mut body, upload) = open?;
            match tokio::time::timeout(silence, body.next()).await {
                Ok(piece) => {
                    let piece = piece?;
                    let moved = u64::try_from(upload.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                    upload.moved.store(moved, Ordering::Relaxed);
                    let open = piece.is_ok().then_some((body, upload));
                    Some((piece.map_err(Into::into), open))
                }
                Err(_) => {
                    upload.silent.store(true, Ordering::Relaxed);
                    Some((Err(io::Error::from(io::ErrorKind::TimedOut).into()), None))
                }
            }
        })
    }
}
