//! A proxy of hyper and tokio for S4 that translates nothing, for `BASE=bare`: what it costs is the floor of a proxy
//! built on them. It takes the model's name from a request, sends a chat request that is ready, and answers with the
//! text that came and as many bytes as a response has. It must not do anything that can be left out.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A rendered response of S4, in bytes.
const RESPONSE: usize = 1940;

/// Serves until it is ended.
pub fn run(listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(listen, upstream))
}

async fn serve(listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let pool: &'static Mutex<Vec<TcpStream>> = Box::leak(Box::default());
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service_fn(move |request| async move {
            Ok::<_, Infallible>(answer(request, upstream, pool).await.expect("a chat answer"))
        });
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    upstream: SocketAddr,
    pool: &Mutex<Vec<TcpStream>>,
) -> Option<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await.ok()?.to_bytes();
    let idle = pool.lock().expect("a lock").pop();
    let mut server = match idle {
        Some(server) => server,
        None => {
            let server = TcpStream::connect(upstream).await.ok()?;
            server.set_nodelay(true).ok()?;
            server
        }
    };
    server.write_all(&chat(&body)?).await.ok()?;
    let mut came = BytesMut::with_capacity(4096);
    let body = loop {
        server.read_buf(&mut came).await.ok()?;
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut headers);
        if let httparse::Status::Complete(end) = head.parse(&came).ok()? {
            let length =
                head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
            break end..end + std::str::from_utf8(length?.value).ok()?.parse::<usize>().ok()?;
        }
    };
    while came.len() < body.end {
        server.read_buf(&mut came).await.ok()?;
    }
    pool.lock().expect("a lock").push(server);
    let text = between(&came[body], b"\"content\":\"", b"\"}")?;
    let mut out = Vec::with_capacity(RESPONSE);
    out.extend_from_slice(b"{\"output_text\":\"");
    out.extend_from_slice(text);
    out.extend_from_slice(b"\",\"rest\":\"");
    out.resize(RESPONSE - 2, b'-');
    out.extend_from_slice(b"\"}");
    let response = Response::builder().header("content-type", "application/json");
    response.header("x-request-id", "req_0123456789").body(Full::new(Bytes::from(out))).ok()
}

/// The chat request for the model that a request names.
fn chat(request: &[u8]) -> Option<Vec<u8>> {
    let model = between(request, b"\"model\":\"", b"\"")?;
    let messages = r#"{"messages":[{"role":"user","content":"Say what a proxy does."}],"model":""#;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: upstream\r\ncontent-type: application/json\r\ncontent-length: ";
    let length = messages.len() + model.len() + 2;
    Some(
        [head.as_bytes(), length.to_string().as_bytes(), b"\r\n\r\n", messages.as_bytes(), model, b"\"}"]
            .concat(),
    )
}

fn between<'a>(text: &'a [u8], before: &[u8], after: &[u8]) -> Option<&'a [u8]> {
    let rest = &text[memmem::find(text, before)? + before.len()..];
    rest.get(..memmem::find(rest, after)?)
}
