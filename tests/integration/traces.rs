//! Traces: the spans that a collector gets of a request, their parents, and what it means that the collector is away.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::proxy::{EVENTS, Got, PATIENCE, Proxy, STOP, STREAM, read, text, until, upstream, whole};
use crate::support::socket::Socket;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A collector, and the messages that it got.
async fn collector() -> (SocketAddr, Arc<Mutex<Vec<Got>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let messages = Arc::new(Mutex::new(Vec::new()));
    let kept = messages.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let kept = kept.clone();
            tokio::spawn(async move {
                let Some((got, mut stream)) = read(stream).await else { return };
                kept.lock().unwrap().push(got);
                let _ = stream.write_all(&whole("200 OK", "application/x-protobuf", "")).await;
            });
        }
    });
    (address, messages)
}

/// An upstream that streams an answer, and the requests that it got.
async fn streaming() -> (SocketAddr, Arc<Mutex<Vec<Got>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    let at = upstream(move |got: Got, mut stream: TcpStream| {
        kept.lock().unwrap().push(got);
        async move {
            let _ = stream.write_all(&[EVENTS, text("Hello").as_bytes(), STOP.as_bytes()].concat()).await;
        }
    })
    .await;
    (at, asked)
}

async fn traced(at: SocketAddr, collector: SocketAddr, sample: &str) -> Proxy {
    let endpoint = format!("http://{collector}");
    let env = [
        ("REJOINDER_TRACES__ENDPOINT", endpoint.as_str()),
        ("REJOINDER_TRACES__SAMPLE", sample),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    Proxy::start(at, &env, true).await
}

fn spans(messages: &Mutex<Vec<Got>>) -> Vec<Span> {
    let messages = messages.lock().unwrap();
    let decoded = messages.iter().map(|got| ExportTraceServiceRequest::decode(&*got.body).unwrap());
    let scopes = decoded.flat_map(|message| message.resource_spans).flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The attributes of a span, as text.
fn attributes(span: &Span) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = span
        .attributes
        .iter()
        .map(|pair| (pair.key.clone(), text(pair.value.clone().unwrap().value.unwrap())));
    pairs.collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
}

#[tokio::test]
async fn a_stream_has_a_span_with_its_plan_its_wait_and_its_server() {
    let (collector, messages) = collector().await;
    let (at, asked) = streaming().await;
    let proxy = traced(at, collector, "1.0").await;
    let request = proxy.post(STREAM).header("traceparent", PARENT).header("tracestate", "a=b");
    request.header("x-request-id", "r").send().await.unwrap().text().await.unwrap();
    until(async || spans(&messages).iter().any(|span| span.name == "POST responses")).await;
    let spans = spans(&messages);
    assert_eq!(spans.len(), 4, "{spans:#?}");
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE));
    let root = named(&spans, "POST responses");
    assert_eq!(hex(&root.parent_span_id), "00f067aa0ba902b7");
    for child in ["plan", "queue", "chat m"] {
        assert_eq!(named(&spans, child).parent_span_id, root.span_id, "{child}");
    }
    let chat = named(&spans, "chat m");
    // the server's own span is below that
    let got = asked.lock().unwrap()[0].clone();
    assert_eq!(got.header("traceparent").unwrap(), format!("00-{TRACE}-{}-01", hex(&chat.span_id)));
    assert_eq!(got.header("tracestate"), Some("a=b"));
    assert_eq!(got.headers.iter().filter(|(name, _)| name == "traceparent").count(), 1);
    let all = attributes(chat);
    for (name, want) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "m"),
        ("gen_ai.usage.input_tokens", "3"),
        ("gen_ai.usage.output_tokens", "2"),
        ("server.address", "127.0.0.1"),
    ] {
        assert_eq!(all.get(name).map(String::as_str), Some(want), "{name} of {all:?}");
    }
    assert!(all["gen_ai.response.id"].starts_with("resp_"));
    let [first] = &chat.events[..] else { panic!("{chat:#?}") };
    assert_eq!(first.name, "first token");
    let within = chat.start_time_unix_nano..=chat.end_time_unix_nano;
    assert!(within.contains(&first.time_unix_nano) && root.start_time_unix_nano <= chat.start_time_unix_nano);
    let of_root = attributes(root);
    assert_eq!(
        (of_root["http.response.status_code"].as_str(), of_root["rejoinder.ended"].as_str()),
        ("200", "completed")
    );
    assert_eq!(of_root["rejoinder.request.id"], "r");
    // nothing of what was said
    let messages = messages.lock().unwrap();
    let all: Vec<u8> = messages.iter().flat_map(|got| got.body.clone()).collect();
    assert!(!String::from_utf8_lossy(&all).contains("Hello"));
    assert_eq!(messages[0].line, "POST /v1/traces");
}

#[tokio::test]
async fn each_create_of_a_websocket_and_what_is_passed_on_has_a_span() {
    let (collector, messages) = collector().await;
    let (at, asked) = streaming().await;
    let proxy = traced(at, collector, "1.0").await;
    let mut socket = Socket::connect(&proxy, &[("traceparent", PARENT)]).await;
    socket.ask(&json!({"type": "response.create", "model": "m", "input": "hi", "store": false})).await;
    let url = format!("{}/v1/passed", proxy.base);
    reqwest::Client::new().get(url).header("traceparent", PARENT).send().await.unwrap().text().await.unwrap();
    let ends = ["response.create responses", "GET passthrough"];
    until(async || ends.iter().all(|name| spans(&messages).iter().any(|span| span.name == *name))).await;
    let spans = spans(&messages);
    for name in ends {
        let root = named(&spans, name);
        assert_eq!(
            (hex(&root.trace_id).as_str(), hex(&root.parent_span_id).as_str()),
            (TRACE, "00f067aa0ba902b7")
        );
    }
    let passed = asked.lock().unwrap().iter().find(|got| got.line == "GET /v1/passed").unwrap().clone();
    let span = spans.iter().find(|span| span.name == "pass").unwrap();
    assert_eq!(span.parent_span_id, named(&spans, "GET passthrough").span_id);
    assert_eq!(passed.header("traceparent").unwrap(), format!("00-{TRACE}-{}-01", hex(&span.span_id)));
}

/// Without a parent it is up to us, and the server is told that it is not to be recorded.
#[tokio::test]
async fn what_is_not_sampled_is_not_sent() {
    let (collector, messages) = collector().await;
    let (at, asked) = streaming().await;
    let mut proxy = traced(at, collector, "0").await;
    proxy.stream().await;
    let parent = asked.lock().unwrap()[0].header("traceparent").unwrap().to_owned();
    assert!(parent.ends_with("-00"), "{parent}");
    let pid = proxy.child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap();
    assert_eq!(messages.lock().unwrap().len(), 0);
}

/// A collector that takes connections and answers nothing holds up neither a request nor, for long, the end.
#[tokio::test]
async fn a_collector_that_hangs_holds_up_nothing() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, _) = streaming().await;
    let mut proxy = traced(at, hangs.local_addr().unwrap(), "1.0").await;
    for _ in 0..20 {
        assert!(proxy.stream().await.contains("response.completed"));
    }
    let pid = proxy.child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}
