//! A proxy of hyper and tokio for S4, what it costs is the floor of a proxy built on them. For `BASE=bare` it translates
//! nothing: it takes the model's name from a request, sends a chat request that is ready, and answers with the text that
//! came and as many bytes as a response has. For `BASE=core` it has rejoinder's core between the two: plan, transcoder and
//! store. It must not do anything that can be left out.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use memchr::memmem;
use rejoinder::store::memory::{MemoryLimits, MemoryStore};
use rejoinder::store::{EchoCache, Marks, Scope, Store, Turn, TurnState};
use rejoinder_core::Output;
use rejoinder_core::dialect::LLAMA_SERVER;
use rejoinder_core::ids::Ids;
use rejoinder_core::limits::Limits;
use rejoinder_core::options::PlanOptions;
use rejoinder_core::request::parse::{self, Context, ParsedRequest};
use rejoinder_core::request::plan::Plan;
use rejoinder_core::response::transcoder::{End, Transcoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A rendered response of S4, in bytes.
const RESPONSE: usize = 1940;

struct Proxy {
    upstream: SocketAddr,
    idle: Mutex<Vec<TcpStream>>,
    core: Option<Core>,
}

/// What the core keeps between requests.
struct Core {
    store: MemoryStore,
    echoes: EchoCache,
}

/// Serves until it is ended.
pub fn run(listen: SocketAddr, upstream: SocketAddr, core: bool) -> io::Result<()> {
    let bounds = MemoryLimits { ttl: Duration::from_secs(3600), entries: 1_000_000, bytes: 1 << 30 };
    let core =
        core.then(|| Core { store: MemoryStore::new(bounds, Arc::new(|| 0)), echoes: EchoCache::default() });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(listen, Box::leak(Box::new(Proxy { upstream, idle: Mutex::default(), core }))))
}

async fn serve(listen: SocketAddr, proxy: &'static Proxy) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service_fn(move |request| async move {
            Ok::<_, Infallible>(answer(request, proxy).await.expect("a chat answer"))
        });
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
}

async fn answer(request: Request<Incoming>, proxy: &Proxy) -> Option<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await.ok()?.to_bytes();
    let out = match &proxy.core {
        None => {
            let model = between(&body, b"\"model\":\"", b"\"")?;
            let before: &[u8] =
                br#"{"messages":[{"role":"user","content":"Say what a proxy does."}],"model":""#;
            let came = proxy.ask(&[before, model, b"\"}"].concat()).await?;
            respond(between(&came, b"\"content\":\"", b"\"}")?)
        }
        Some(core) => core.answer(&body, proxy).await?,
    };
    let response = Response::builder().header("content-type", "application/json");
    response.header("x-request-id", "req_0123456789").body(Full::new(Bytes::from(out))).ok()
}

/// As many bytes as a response has.
fn respond(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(RESPONSE);
    out.extend_from_slice(b"{\"output_text\":\"");
    out.extend_from_slice(text);
    out.extend_from_slice(b"\",\"rest\":\"");
    out.resize(RESPONSE - 2, b'-');
    out.extend_from_slice(b"\"}");
    out
}

impl Proxy {
    /// The body of the upstream's answer to a chat request.
    async fn ask(&self, chat: &[u8]) -> Option<Bytes> {
        let idle = self.idle.lock().expect("a lock").pop();
        let mut server = match idle {
            Some(server) => server,
            None => {
                let server = TcpStream::connect(self.upstream).await.ok()?;
                server.set_nodelay(true).ok()?;
                server
            }
        };
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: upstream\r\ncontent-type: application/json\r\ncontent-length: ";
        let request = [head.as_bytes(), chat.len().to_string().as_bytes(), b"\r\n\r\n", chat].concat();
        server.write_all(&request).await.ok()?;
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
        self.idle.lock().expect("a lock").push(server);
        Some(came.freeze().slice(body))
    }
}

impl Core {
    /// The response to a request, which is kept.
    async fn answer(&self, body: &[u8], proxy: &Proxy) -> Option<Vec<u8>> {
        let (chat, reply, input) = {
            let text = parse::text(body).ok()?;
            let (draft, context) = (ParsedRequest::read(&text, &Limits::DEFAULT).ok()?, Context::default());
            draft.asks().ok()?;
            let Plan { body, reply, .. } = draft.plan(&PlanOptions::new(&LLAMA_SERVER), &context).ok()?;
            (body, reply, draft.stored_input(&context, &[]))
        };
        let ids = Ids::new(uuid::Uuid::now_v7().simple().to_string());
        let mut transcoder = Box::new(Transcoder::new(reply, ids, 1));
        let came = proxy.ask(&chat).await?;
        let mut unused = Vec::new();
        transcoder.chunk(std::str::from_utf8(&came).ok()?, 2, &mut unused);
        transcoder.end(End::Eof, 2, &mut unused);
        let turn = Turn {
            id: transcoder.id().into(),
            parent: None,
            created_at: 1,
            state: TurnState::Completed(2),
            input,
            echo: self.echoes.share(std::str::from_utf8(transcoder.echo()).ok()?),
            usage: transcoder.usage(),
            background: false,
            marks: Marks::default(),
            output: Output::new(transcoder.take_output(), transcoder.id()),
        };
        self.store.put(Scope([0; 16]), Arc::new(turn)).await.ok()?;
        Some(transcoder.into_body())
    }
}

fn between<'a>(text: &'a [u8], before: &[u8], after: &[u8]) -> Option<&'a [u8]> {
    let rest = &text[memmem::find(text, before)? + before.len()..];
    rest.get(..memmem::find(rest, after)?)
}
