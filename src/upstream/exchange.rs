//! Owns the two clients for a server: the own HTTP/1.1 client, whose chat requests are sent and read in the task that wants
//! them, and reqwest for all other requests and for servers that speak HTTP/2 alone. It must not know what a response means.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use http_body::Body as _;
use tokio_rustls::rustls::ClientConfig;

use super::body::Body as RequestBody;
use super::encoded::{self, Arriving, Decoded, Encoding};
use super::http1::{self, Pool, ResponseHead};
use crate::descriptors;

pub use super::http1::{TransportError, Why};

/// Both llama-server and vLLM (uvicorn) close an idle connection after 5 s; a request sent just then would be lost.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// The connections to one server.
pub struct Client {
    /// For all requests but chat requests.
    pub general: reqwest::Client,
    connect_timeout: Duration,
    tls: Option<Arc<ClientConfig>>,
    /// Connections of the own client to the server at this base URL; the search may find it at another one later.
    own: Mutex<Option<Own>>,
}

struct Own {
    base: Arc<str>,
    /// `None` where the server speaks HTTP/2 alone.
    pool: Option<Arc<Pool>>,
}

/// A response whose body is still to be read. Dropped, it cancels the request.
pub struct Response {
    /// Status, and what its headers say of it.
    pub head: ResponseHead,
    body: Body,
    /// Whether its first bytes were checked for an encoding.
    checked: bool,
}

enum Body {
    Own(http1::Body),
    General(reqwest::Body),
    Decoded(Decoded),
    Gone,
}

impl Client {
    /// A client without connections. `tls`: whether the server may be an https one; the certificates that the machine trusts
    /// take time to read, and memory.
    ///
    /// # Errors
    /// When the certificates that the machine trusts cannot be read.
    pub fn new(connect_timeout: Duration, tls: bool) -> Result<Client, String> {
        let failed = |cause: &dyn std::fmt::Display| format!("cannot set up the HTTP client: {cause}");
        let tls = match tls {
            true => Some(http1::tls().map_err(|error| failed(&error))?),
            false => None,
        };
        let builder = match tls.clone() {
            // read once for both clients
            Some(mut tls) => {
                tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                reqwest::Client::builder().tls_backend_preconfigured(tls)
            }
            None => reqwest::Client::builder().tls_certs_only([]),
        };
        // its default is 30 s; see http1::keepalive
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let builder = builder.tcp_user_timeout(None);
        let general = builder
            .connect_timeout(connect_timeout)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(http1::MOST_KEPT)
            .tcp_nodelay(true)
            // HTTP_PROXY does not apply to a server that the configuration names
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Client { general, connect_timeout, tls: tls.map(Arc::new), own: Mutex::default() })
    }

    /// Sends a `POST` of JSON and waits for the head of the response. Dropped, it cancels the request.
    ///
    /// # Errors
    /// When the server cannot be reached, or sends no response.
    pub async fn post(
        &self,
        base: &Arc<str>,
        path: &str,
        headers: &[(HeaderName, &HeaderValue)],
        body: RequestBody,
    ) -> Result<Response, TransportError> {
        if let Some(pool) = self.pool(base) {
            match pool.connection().await {
                Ok(connection) => {
                    let http1::Response { head, body } =
                        http1::post(&pool, connection, path, headers, body).await?;
                    return Ok(Response { head, body: Body::Own(body), checked: false });
                }
                Err(error) if error.why == Why::NoHttp1 => {
                    tracing::debug!(cause = error.cause, "the server speaks no HTTP/1.1");
                    *self.own() = Some(Own { base: base.clone(), pool: None });
                }
                Err(error) => return Err(error),
            }
        }
        let headers = headers.iter().map(|(name, value)| (name.clone(), (*value).clone()));
        let headers: HeaderMap = headers.collect();
        let request = self.general.post(format!("{base}{path}")).headers(headers).body(body.into_bytes());
        // a large future, and rare
        Ok(Box::pin(send(request)).await?.into())
    }

    fn pool(&self, base: &Arc<str>) -> Option<Arc<Pool>> {
        let mut own = self.own();
        if let Some(known) = own.as_ref().filter(|known| known.base == *base) {
            return known.pool.clone();
        }
        let pool = Pool::new(base, self.connect_timeout, POOL_IDLE, self.tls.as_ref());
        *own = Some(Own { base: base.clone(), pool: pool.clone() });
        pool
    }

    fn own(&self) -> MutexGuard<'_, Option<Own>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Response {
    /// Appends what has arrived of the body to `out`, decoded, and gives the number of bytes; `None` at the end.
    pub fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<usize, TransportError>>> {
        let before = out.len();
        let read = self.body.poll_more(cx, out);
        if !self.checked
            && let Poll::Ready(Some(Ok(_))) = read
        {
            self.checked = true;
            let start = out.get(before..).unwrap_or_default();
            if let Some(encoding) = Encoding::of(&self.head.encoding, start) {
                let mut body = std::mem::replace(&mut self.body, Body::Gone);
                let more = move |cx: &mut Context<'_>, out: &mut Vec<u8>| {
                    body.poll_more(cx, out).map(|read| read.unwrap_or(Ok(0)).map_err(io::Error::other))
                };
                self.body = Body::Decoded(encoding.decode(Arriving::new(out.split_off(before), more)));
                return self.body.poll_more(cx, out);
            }
        }
        read
    }

    /// The same as a future.
    pub async fn more(&mut self, out: &mut Vec<u8>) -> Option<Result<usize, TransportError>> {
        poll_fn(|cx| self.poll_more(cx, out)).await
    }
}

impl Body {
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<usize, TransportError>>> {
        let body = match self {
            Body::Own(body) => return body.poll_more(cx, out),
            Body::Decoded(body) => {
                return encoded::poll_more(body, cx, out).map(|read| match read {
                    Ok(0) => None,
                    Ok(read) => Some(Ok(read)),
                    Err(error) => Some(Err(TransportError { why: Why::Cut, cause: error.to_string() })),
                });
            }
            Body::General(body) => body,
            Body::Gone => return Poll::Ready(None),
        };
        loop {
            match std::task::ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                // trailers are ignored
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        out.extend_from_slice(&data);
                        return Poll::Ready(Some(Ok(data.len())));
                    }
                }
            }
        }
    }
}

impl From<reqwest::Response> for Response {
    fn from(response: reqwest::Response) -> Response {
        let (parts, body) = http::Response::from(response).into_parts();
        let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        Response { head: ResponseHead::new(parts.status, headers), body: Body::General(body), checked: false }
    }
}

impl From<reqwest::Error> for TransportError {
    fn from(error: reqwest::Error) -> TransportError {
        let lacks = |cause: &(dyn std::error::Error + 'static)| {
            cause.downcast_ref().is_some_and(descriptors::is_lack)
        };
        if sources(&error).any(lacks) {
            return TransportError::no_descriptor();
        }
        let why = if error.is_connect() { Why::Refused } else { Why::Cut };
        TransportError { why, cause: causes(error) }
    }
}

/// Sends a request, and sends it again where its kept connection turns out to be closed. The copy for that is freed after
/// [`http1::STALE`], since the response may take minutes.
pub async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<reqwest::Response> {
    let again = request.try_clone();
    let mut sent = Box::pin(request.send());
    let Ok(early) = tokio::time::timeout(http1::STALE, &mut sent).await else {
        drop(again);
        return sent.await;
    };
    match (early, again) {
        (Err(error), Some(again)) if is_cut(&error) => {
            tracing::debug!(cause = causes(error), "a kept connection may have been stale");
            again.send().await
        }
        (sent, _) => sent,
    }
}

/// Whether a connection ended before the first byte of a response.
fn is_cut(error: &reqwest::Error) -> bool {
    let ends = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];
    !error.is_connect()
        && sources(error).any(|cause| {
            let http = cause.downcast_ref::<hyper::Error>();
            http.is_some_and(|http| http.is_incomplete_message() || http.is_canceled())
                || cause.downcast_ref::<io::Error>().is_some_and(|error| ends.contains(&error.kind()))
        })
}

fn sources(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
}

/// The error with all its causes, without the URL.
pub fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut causes = error.to_string();
    for cause in sources(&error) {
        causes.push_str(": ");
        causes.push_str(&cause.to_string());
    }
    causes
}
