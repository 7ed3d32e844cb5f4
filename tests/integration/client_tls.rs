//! TLS on `listen` and `admin`, by the running binary: every protocol within it, clients' certificates, files that change or
//! are wrong, and what is no TLS.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use http::Version;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::keeping::{Keeping, TEXT};
use crate::support::proxy::{PATIENCE, Proxy, STREAM, until};
use crate::support::socket::Socket;
use crate::support::tls::Certificates;

/// The variables that make `listen` take TLS with the certificate.
fn variables(certificates: &Certificates) -> [(&'static str, &str); 2] {
    [
        ("REJOINDER_TLS__CERTIFICATE", certificates.certificate.to_str().unwrap()),
        ("REJOINDER_TLS__KEY", certificates.key.to_str().unwrap()),
    ]
}

async fn start(certificates: &Certificates, more: &[(&'static str, &str)]) -> (Keeping, Proxy) {
    let server = Keeping::start(None).await;
    let env = [&variables(certificates), more].concat();
    let proxy = Proxy::start(server.address, &env, !more.contains(&("REJOINDER_TLS__ADMIN", "true"))).await;
    (server, proxy)
}

fn port(url: &str) -> &str {
    url.rsplit(':').next().unwrap()
}

/// The same address by the name of the certificate.
fn https(base: &str) -> String {
    format!("https://localhost:{}", port(base))
}

fn address(proxy: &Proxy) -> SocketAddr {
    proxy.base.strip_prefix("http://").unwrap().parse().unwrap()
}

async fn connect(
    certificates: &Certificates,
    proxy: &Proxy,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address(proxy)).await?;
    let name = ServerName::try_from("localhost").unwrap();
    certificates.connector(protocols).connect(name, socket).await
}

async fn post(client: &reqwest::Client, proxy: &Proxy, body: &Value) -> reqwest::Result<reqwest::Response> {
    client.post(format!("{}/v1/responses", https(&proxy.base))).body(body.to_string()).send().await
}

fn hi(stream: bool) -> Value {
    json!({"model": "m", "input": "hi", "stream": stream})
}

#[tokio::test]
async fn http_1_and_http_2_are_spoken_within_tls() {
    let certificates = Certificates::new();
    let (_server, proxy) = start(&certificates, &[]).await;
    let http1 = certificates.client(None).http1_only().build().unwrap();
    let http2 = certificates.client(None).build().unwrap();
    for (client, version) in [(http1, Version::HTTP_11), (http2, Version::HTTP_2)] {
        for _ in 0..2 {
            let whole = post(&client, &proxy, &hi(false)).await.unwrap();
            assert_eq!((whole.status().as_u16(), whole.version()), (200, version));
            let whole: Value = serde_json::from_str(&whole.text().await.unwrap()).unwrap();
            assert_eq!(whole["output_text"], TEXT);
            let events = post(&client, &proxy, &hi(true)).await.unwrap().text().await.unwrap();
            assert!(events.contains("event: response.completed") && events.ends_with("data: [DONE]\n\n"));
        }
    }
    // who offers no protocol speaks HTTP/1.1
    let mut stream = connect(&certificates, &proxy, &[]).await.unwrap();
    let head = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

/// More than any buffer on the way holds, in both directions.
#[tokio::test]
async fn large_requests_and_answers_arrive_whole() {
    let certificates = Certificates::new();
    let (server, proxy) = start(&certificates, &[]).await;
    let input = "long ".repeat(800_000);
    let request = json!({"model": "m", "input": input});
    for client in [certificates.client(None).http1_only(), certificates.client(None)] {
        let client = client.build().unwrap();
        let made: Value =
            serde_json::from_str(&post(&client, &proxy, &request).await.unwrap().text().await.unwrap())
                .unwrap();
        let id = made["id"].as_str().unwrap();
        let url = format!("{}/v1/responses/{id}/input_items", https(&proxy.base));
        let items = client.get(url).send().await.unwrap().text().await.unwrap();
        let items: Value = serde_json::from_str(&items).unwrap();
        assert_eq!(items["data"][0]["content"][0]["text"], input);
    }
    let body: Value = serde_json::from_slice(&server.seen()[0].body).unwrap();
    assert_eq!(body["messages"][0]["content"], input);
}

#[tokio::test]
async fn a_websocket_is_spoken_within_tls() {
    let certificates = Certificates::new();
    let (_server, proxy) = start(&certificates, &[]).await;
    let stream = connect(&certificates, &proxy, &["http/1.1"]).await.unwrap();
    let url = format!("wss://localhost:{}/v1/responses", port(&proxy.base));
    let (stream, _) =
        tokio_tungstenite::client_async(url.into_client_request().unwrap(), stream).await.unwrap();
    let mut socket = Socket { stream };
    let create = json!({"type": "response.create", "model": "m", "input": "hi", "store": false});
    for _ in 0..2 {
        assert_eq!(socket.ask(&create).await.last().unwrap()["response"]["output_text"], TEXT);
    }
    drop(socket);
    until(async || proxy.metric("rejoinder_open_websockets").await == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_or_does_not_read_ends_its_request() {
    let certificates = Certificates::new();
    let (server, proxy) = start(&certificates, &[("REJOINDER_SEND_TIMEOUT", "1s")]).await;
    let endless = json!({"model": "m", "input": "endless", "stream": true}).to_string();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{endless}",
        endless.len()
    );
    let ask = async || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // what the kernel takes for the client is soon full
        socket.set_recv_buffer_size(4096).unwrap();
        let socket = socket.connect(address(&proxy)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = certificates.connector(&["http/1.1"]).connect(name, socket).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        stream
    };
    let leaves = ask().await;
    until(async || server.going() == 1).await;
    drop(leaves);
    until(async || server.going() == 0).await;
    let unread = ask().await;
    until(async || server.going() == 1).await;
    until(async || server.going() == 0).await;
    drop(unread);
}

#[tokio::test]
async fn a_certificate_is_asked_of_clients() {
    let (certificates, strangers) = (Certificates::new(), Certificates::new());
    let authority = certificates.authority.to_str().unwrap();
    let (own, foreign) = (certificates.issue("anna"), strangers.issue("anna"));
    for (asked, alone) in [("required", false), ("optional", true)] {
        let more = [("REJOINDER_TLS__CLIENT_CA", authority), ("REJOINDER_TLS__CLIENT_CERTIFICATES", asked)];
        let (_server, proxy) = start(&certificates, &more).await;
        for (identity, want) in [(None, alone), (Some(&own), true), (Some(&foreign), false)] {
            for client in [certificates.client(identity).http1_only(), certificates.client(identity)] {
                let answer = post(&client.build().unwrap(), &proxy, &hi(false)).await;
                let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
                assert_eq!(status, if want { 200 } else { 0 }, "{asked} {answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn admin_takes_tls_and_shows_metrics_to_certificates_where_they_are_required() {
    let certificates = Certificates::new();
    let more = [
        ("REJOINDER_TLS__ADMIN", "true"),
        ("REJOINDER_TLS__CLIENT_CA", certificates.authority.to_str().unwrap()),
        ("REJOINDER_TLS__CLIENT_CERTIFICATES", "required"),
    ];
    let (_server, proxy) = start(&certificates, &more).await;
    let (anna, stranger) = (certificates.issue("anna"), None);
    for (identity, path, want) in [
        (stranger, "/healthz", 200),
        (stranger, "/metrics", 403),
        (Some(&anna), "/metrics", 200),
        (Some(&anna), "/healthz", 200),
    ] {
        let client = certificates.client(identity).build().unwrap();
        let answer = client.get([&https(&proxy.admin), path].concat()).send().await.unwrap();
        assert_eq!(answer.status(), want, "{path}");
    }
    // what a container is asked by reads the same configuration
    let healthcheck = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rejoinder"));
        command.args(["healthcheck", "--admin", proxy.admin.strip_prefix("http://").unwrap()]);
        command.envs(variables(&certificates)).envs(more);
        command.current_dir(env!("CARGO_TARGET_TMPDIR"));
        command.output().unwrap()
    };
    until(async || healthcheck().status.success()).await;
    assert_eq!(healthcheck().stdout, b"ready\n");
}

/// What is shown to who connects now: the name in its certificate is not looked at here.
async fn shown(certificates: &Certificates, proxy: &Proxy) -> Vec<u8> {
    let stream = connect(certificates, proxy, &[]).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn changed_files_take_effect_and_a_broken_pair_changes_nothing() {
    let certificates = Certificates::new();
    let (_server, proxy) = start(&certificates, &[]).await;
    let client = certificates.client(None).http1_only().build().unwrap();
    let old = shown(&certificates, &proxy).await;
    let write = |(certificate, key): &(String, String)| {
        std::fs::write(&certificates.certificate, certificate).unwrap();
        std::fs::write(&certificates.key, key).unwrap();
    };
    let (renewed, other) = (certificates.issue("localhost"), certificates.issue("localhost"));
    write(&(renewed.0.clone(), other.1));
    let told = || proxy.log();
    until(async || told().contains("tls.key: is not the private key")).await;
    assert_eq!(shown(&certificates, &proxy).await, old);
    // a connection that is open stays
    assert_eq!(post(&client, &proxy, &hi(false)).await.unwrap().status(), 200);
    write(&renewed);
    until(async || shown(&certificates, &proxy).await != old).await;
    assert_eq!(post(&client, &proxy, &hi(false)).await.unwrap().status(), 200);
    assert!(!told().contains("take effect after a restart"), "{}", told());

    let new = shown(&certificates, &proxy).await;
    std::fs::write(&certificates.certificate, "nothing").unwrap();
    until(async || told().contains("tls.certificate: ")).await;
    assert_eq!(shown(&certificates, &proxy).await, new);
}

#[test]
fn wrong_files_are_named_and_nothing_starts() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (certificate, key) = (path(&certificates.certificate), path(&certificates.key));
    let refused = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rejoinder"));
        command.current_dir(env!("CARGO_TARGET_TMPDIR")).arg("check-config");
        let names = variables.iter().map(|(name, value)| (format!("REJOINDER_TLS__{name}"), value));
        let Output { status, stderr, .. } = command.envs(names).output().unwrap();
        assert_eq!(status.code(), Some(78), "{variables:?}");
        String::from_utf8(stderr).unwrap()
    };
    let (foreign, authority) = (path(&others.key), path(&certificates.authority));
    for (variables, key, words) in [
        (vec![("CERTIFICATE", &*certificate)], "tls.certificate", "needs tls.key"),
        (vec![("KEY", &*key)], "tls.key", "needs tls.certificate"),
        (vec![("CERTIFICATE", "/nowhere"), ("KEY", &*key)], "tls.certificate", "cannot read /nowhere"),
        (vec![("CERTIFICATE", &*key), ("KEY", &*key)], "tls.certificate", "holds no certificate"),
        (vec![("CERTIFICATE", &*certificate), ("KEY", &*certificate)], "tls.key", "holds no private key"),
        (vec![("CERTIFICATE", &*certificate), ("KEY", &*foreign)], "tls.key", "is not the private key"),
        (vec![("ADMIN", "true")], "tls.admin", "needs tls.certificate"),
        (
            vec![("CERTIFICATE", &*certificate), ("KEY", &*key), ("CLIENT_CERTIFICATES", "required")],
            "tls.client_certificates",
            "needs tls.client_ca",
        ),
        (
            vec![("CERTIFICATE", &*certificate), ("KEY", &*key), ("CLIENT_CA", &*authority)],
            "tls.client_ca",
            "\"required\"",
        ),
        (
            vec![
                ("CERTIFICATE", &*certificate),
                ("KEY", &*key),
                ("CLIENT_CA", &*key),
                ("CLIENT_CERTIFICATES", "optional"),
            ],
            "tls.client_ca",
            "holds no certificate",
        ),
    ] {
        let told = refused(&variables);
        assert!(told.contains(key) && told.contains(words), "{variables:?}: {told}");
    }
}

#[tokio::test]
async fn a_plain_request_is_told_to_use_tls() {
    let certificates = Certificates::new();
    let (_server, proxy) = start(&certificates, &[]).await;
    let answer = proxy.post(STREAM).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.headers()["connection"], "close");
    let error: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "https_required");
    // what is neither, and HTTP/2 without TLS, ends
    for bytes in
        [&b"\x80\x2e\x01\x00\x02"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\xff\xff\xff"]
    {
        let mut stream = TcpStream::connect(address(&proxy)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    }
    assert!(post(&certificates.client(None).build().unwrap(), &proxy, &hi(false)).await.is_ok());
}

/// A handshake waits in a task of its own.
#[tokio::test]
async fn five_hundred_half_handshakes_hold_up_no_request() {
    let certificates = Certificates::new();
    let (_server, proxy) = start(&certificates, &[]).await;
    let mut halves = Vec::new();
    for n in 0..500 {
        let mut stream = TcpStream::connect(address(&proxy)).await.unwrap();
        // the head of a record, of which more or less is there
        let record = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 300]].concat();
        stream.write_all(&record[..1 + n % record.len()]).await.unwrap();
        halves.push(stream);
    }
    let begun = std::time::Instant::now();
    for client in [certificates.client(None).http1_only(), certificates.client(None)] {
        let (client, body) = (client.build().unwrap(), hi(false));
        let answer = tokio::time::timeout(PATIENCE, post(&client, &proxy, &body)).await;
        assert_eq!(answer.unwrap().unwrap().status(), 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(halves);
}
