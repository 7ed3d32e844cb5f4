//! Owns connections: accepting them, which protocol they speak, and their end. It must not look into a request.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::app::App;
use super::client::ClientStream;
use super::http2;
use super::reply::ResponseBody;
use super::until_stopped::{HEAD_TIMEOUT, UntilStopped};
use crate::descriptors::{self, Use};

/// Time until another connection is accepted, when there was no file descriptor for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How an HTTP/2 connection begins, and no HTTP/1 request.
const PREFACE: &[u8] = b"PRI";

/// Accepts until `stop`; returns the connections that are still open. `reserve`: whether they may have the file descriptors
/// that are kept for what must go on.
pub(super) async fn accept<H, F>(
    listener: TcpListener,
    app: Arc<App>,
    reserve: bool,
    stop: CancellationToken,
    handle: H,
) -> TaskTracker
where
    H: Fn(Arc<App>, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let connections = TaskTracker::new();
    let mut http1 = http1::Builder::new();
    http1.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let send_timeout = app.config.send_timeout;
    let mut full = false;
    loop {
        // others wait in the kernel's queue
        while full && !stop.is_cancelled() {
            full = !descriptors::available(Use::Client);
            if full {
                descriptors::lacking();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return connections,
        };
        let stream: TcpStream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                match descriptors::is_lack(&error) {
                    true => descriptors::lacking(),
                    false => tracing::warn!(%error, "cannot accept a connection"),
                }
                // busy looping would not help
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !reserve {
            full = !descriptors::within(&stream, Use::Client);
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let app = app.clone();
        let service = service_fn(move |request| {
            // 22 KB that the connection would otherwise hold for as long as it lives
            let answer = Box::pin(handle(app.clone(), request));
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });
        let (http1, stop) = (http1.clone(), stop.clone());
        connections.spawn(async move {
            let mut first = [0; PREFACE.len()];
            let first = tokio::select! {
                biased;
                read = tokio::time::timeout(HEAD_TIMEOUT, stream.peek(&mut first)) => match read {
                    Ok(Ok(read)) => first.get(..read).unwrap_or_default(),
                    _ => return,
                },
                () = stop.cancelled() => return,
            };
            let begins_http2 = PREFACE.starts_with(first);
            let stream = TokioIo::new(ClientStream::new(stream, send_timeout));
            let ended = if begins_http2 {
                Box::pin(http2::serve(stream, service, stop, send_timeout)).await
            } else {
                // what looks for HTTP/2 itself doubles the read buffer for as long as the connection lives
                let connection = http1.serve_connection(stream, service);
                UntilStopped::new(connection, stop).await.map_err(|error| error.to_string())
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }
}
