//! A server behind TLS: which way requests take to it, whose certificate is trusted, and what becomes of its connections.

use http::Version;
use serde_json::{Value, json};

use crate::support::keeping::{Keeping, TEXT};
use crate::support::proxy::{PATIENCE, Proxy, until};
use crate::support::tls::Certificates;

/// A server with these protocols, and a proxy that trusts its certificate.
async fn start(protocols: &[&str]) -> (Keeping, Proxy) {
    let certificates = Certificates::new();
    let server = Keeping::start(Some(certificates.acceptor(protocols))).await;
    let env = [certificates.trust(), ("REJOINDER_UPSTREAM__PROBE_INTERVAL", "1h")];
    let proxy = Proxy::with(&["--upstream", &url(&server)], &env, true).await;
    (server, proxy)
}

fn url(server: &Keeping) -> String {
    format!("https://localhost:{}", server.address.port())
}

async fn json_of(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

fn output_text(stream: &str) -> Value {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: ")).rev();
    let mut events = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    events.next().unwrap()["response"]["output_text"].clone()
}

/// The newer version is offered, too: chat requests have no use for it.
#[tokio::test]
async fn chat_requests_share_one_connection_of_http_1() {
    let (server, proxy) = start(&["h2", "http/1.1"]).await;
    for _ in 0..3 {
        assert_eq!(output_text(&proxy.stream().await), TEXT);
        let whole = json_of(proxy.post(r#"{"model":"m","input":"hi"}"#)).await.1;
        assert_eq!(whole["output_text"], TEXT);
    }
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.line == "POST /v1/chat/completions"), "{seen:?}");
    assert_eq!(seen.len(), 6);
    assert!(seen.iter().all(|seen| seen.version == Version::HTTP_11), "{seen:?}");
    let first = seen[0].connection;
    assert!(seen.iter().all(|seen| seen.connection == first), "{seen:?}");
}

/// More than any buffer on the way holds: both sides wait for each other within it.
#[tokio::test]
async fn a_large_request_arrives_whole() {
    let (server, proxy) = start(&["http/1.1"]).await;
    let input = "long ".repeat(800_000);
    let request = json!({"model": "m", "input": input, "stream": true}).to_string();
    let answer = proxy.post(request).send().await.unwrap().text().await.unwrap();
    assert_eq!(output_text(&answer), TEXT);
    let body: Value = serde_json::from_slice(&server.seen()[0].body).unwrap();
    assert_eq!(body["messages"][0]["content"], input);
}

#[tokio::test]
async fn events_arrive_as_they_are_sent_and_a_client_that_leaves_ends_the_request() {
    let (server, proxy) = start(&["http/1.1"]).await;
    let request = json!({"model": "m", "input": "endless", "stream": true}).to_string();
    let mut answer = proxy.post(request).send().await.unwrap();
    let first_texts = async {
        let mut seen = Vec::new();
        while memchr::memmem::find_iter(&seen, "output_text.delta").count() < 6 {
            seen.extend_from_slice(&answer.chunk().await.unwrap().unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, first_texts).await.unwrap();
    assert_eq!(server.going(), 1);
    drop(answer);
    until(async || server.going() == 0).await;
}

#[tokio::test]
async fn other_paths_are_passed_on() {
    let (server, proxy) = start(&["h2", "http/1.1"]).await;
    let sent = reqwest::Client::new().put(format!("{}/files/1", proxy.base)).body(vec![b'x'; 300_000]);
    assert_eq!(json_of(sent).await, (200, json!({"line": "PUT /files/1", "bytes": 300_000})));
    assert_eq!(server.seen()[0].version, Version::HTTP_2);
}

/// Such servers refuse the handshake to who offers HTTP/1.1 alone.
#[tokio::test]
async fn a_server_of_http_2_alone_is_spoken_to_in_http_2() {
    let (server, proxy) = start(&["h2"]).await;
    for _ in 0..3 {
        assert_eq!(output_text(&proxy.stream().await), TEXT);
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|seen| seen.version == Version::HTTP_2), "{seen:?}");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let (trusted, other) = (Certificates::new(), Certificates::new());
    let server = Keeping::start(Some(trusted.acceptor(&["http/1.1"]))).await;
    let by_address = format!("https://{}", server.address);
    for (url, trust) in [(url(&server), &other), (by_address, &trusted)] {
        let env = [trust.trust(), ("REJOINDER_UPSTREAM__READY_TIMEOUT", "1s")];
        let proxy = Proxy::with(&["--upstream", &url], &env, false).await;
        let answer = tokio::time::timeout(PATIENCE, json_of(proxy.post(r#"{"model":"m","input":"hi"}"#)))
            .await
            .unwrap();
        assert_eq!(answer.0, 503, "{url}");
        let ready = reqwest::get(format!("{}/readyz", proxy.admin)).await.unwrap().text().await.unwrap();
        assert!(ready.contains("certificate"), "{url}: {ready}");
    }
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_trusted_where_it_is_named() {
    let certificates = Certificates::self_signed();
    let server = Keeping::start(Some(certificates.acceptor(&["http/1.1"]))).await;
    let proxy = Proxy::with(&["--upstream", &url(&server)], &[certificates.trust()], true).await;
    assert_eq!(output_text(&proxy.stream().await), TEXT);
}

/// What the server closes between two requests costs a handshake, and is not its failure.
#[tokio::test]
async fn a_kept_connection_that_the_server_closed_costs_another_one() {
    let (server, proxy) = start(&["http/1.1"]).await;
    let probes = server.probes();
    for _ in 0..3 {
        assert_eq!(output_text(&proxy.stream().await), TEXT);
        server.close().await;
    }
    let seen = server.seen();
    assert!(seen.windows(2).all(|pair| pair[0].connection != pair[1].connection), "{seen:?}");
    assert_eq!((seen.len(), server.probes()), (3, probes));
}
