//! The address of a client behind a proxy: what headers and the PROXY protocol say of it, from whom that is believed, and what
//! becomes of who is not. The access line tells which address was found.

use std::net::SocketAddr;
use std::process::Command;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::support::keeping::Keeping;
use crate::support::proxy::{PATIENCE, Proxy, STREAM, until};
use crate::support::tls::Certificates;

async fn start(env: &[(&str, &str)]) -> Proxy {
    let server = Keeping::start(None).await;
    Proxy::start(server.address, env, true).await
}

/// The address in the line of the request that has these headers.
async fn address(proxy: &Proxy, id: &str, headers: &[(&str, &str)]) -> String {
    let request =
        headers.iter().fold(proxy.post(STREAM), |request, (name, value)| request.header(*name, *value));
    let answer = request.header("x-request-id", id).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap();
    line_of(proxy, id).await
}

async fn line_of(proxy: &Proxy, id: &str) -> String {
    proxy.ended_of(id, 1).await[0]["address"].as_str().unwrap().to_owned()
}

fn listens(proxy: &Proxy) -> SocketAddr {
    proxy.base.strip_prefix("http://").unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_an_untrusted_peer_says_of_its_address_is_not_believed() {
    for trusted in ["", "10.0.0.0/8"] {
        let proxy = start(&[("REJOINDER_TRUSTED_PROXIES", trusted)]).await;
        let forged =
            [("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1"), ("x-real-ip", "192.0.2.1")];
        assert_eq!(address(&proxy, "forged", &forged).await, "127.0.0.1");
    }
}

#[tokio::test]
async fn a_trusted_proxy_names_its_client() {
    let trusted = ("REJOINDER_TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.1");
    let proxy = start(&[trusted]).await;
    let both = [("x-forwarded-for", "198.51.100.7, 192.0.2.1, 10.0.0.1"), ("forwarded", "for=198.51.100.9")];
    assert_eq!(address(&proxy, "a", &both).await, "192.0.2.1");
    assert_eq!(address(&proxy, "b", &[("forwarded", "for=198.51.100.9")]).await, "127.0.0.1");
    assert_eq!(address(&proxy, "c", &[]).await, "127.0.0.1");
    let proxy = start(&[trusted, ("REJOINDER_CLIENT_ADDRESS_HEADER", "forwarded")]).await;
    assert_eq!(address(&proxy, "d", &both).await, "198.51.100.9");
}

/// An answer to a request whose connection begins with these bytes.
async fn behind(proxy: &Proxy, header: &[u8], id: &str) -> String {
    let mut stream = TcpStream::connect(listens(proxy)).await.unwrap();
    stream.write_all(header).await.unwrap();
    ask(&mut stream, id).await
}

async fn ask<S: AsyncReadExt + AsyncWriteExt + Unpin>(stream: &mut S, id: &str) -> String {
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {id}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{STREAM}",
        STREAM.len()
    );
    // one that is refused may be gone already
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// Version 2 of the header, for this address of IPv4.
fn binary(address: [u8; 4]) -> Vec<u8> {
    let addresses = [&address[..], &[10, 0, 0, 1, 0x12, 0x67, 0x1f, 0x91]].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &addresses[..]].concat()
}

const REQUIRED: [(&str, &str); 2] =
    [("REJOINDER_TRUSTED_PROXIES", "127.0.0.1,10.0.0.1"), ("REJOINDER_PROXY_PROTOCOL", "required")];

#[tokio::test]
async fn a_proxy_header_names_the_client_of_each_connection() {
    let proxy = start(&REQUIRED).await;
    for (id, header, want) in [
        ("v1", b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(), "192.0.2.1"),
        ("v2", binary([192, 0, 2, 2]), "192.0.2.2"),
        ("unknown", b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        ("mapped", b"PROXY TCP6 ::ffff:192.0.2.3 ::1 4711 80\r\n".to_vec(), "192.0.2.3"),
    ] {
        let answer = behind(&proxy, &header, id).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{id}: {answer}");
        assert_eq!(line_of(&proxy, id).await, want, "{id}");
    }
    // HTTP/2 behind it
    let mut stream = TcpStream::connect(listens(&proxy)).await.unwrap();
    stream.write_all(&binary([192, 0, 2, 4])).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("{}/v1/responses", proxy.base)).header("x-request-id", "h2");
    let (answer, mut body) = requests.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(STREAM.as_bytes()), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    while let Some(piece) = body.data().await {
        body.flow_control().release_capacity(piece.unwrap().len()).unwrap();
    }
    assert_eq!(line_of(&proxy, "h2").await, "192.0.2.4");
    connection.abort();
}

#[tokio::test]
async fn a_proxy_header_stands_before_tls() {
    let certificates = Certificates::new();
    let tls = [
        ("REJOINDER_TLS__CERTIFICATE", certificates.certificate.to_str().unwrap()),
        ("REJOINDER_TLS__KEY", certificates.key.to_str().unwrap()),
    ];
    let proxy = start(&[REQUIRED, tls].concat()).await;
    let mut socket = TcpStream::connect(listens(&proxy)).await.unwrap();
    socket.write_all(&binary([192, 0, 2, 5])).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = certificates.connector(&["http/1.1"]).connect(name, socket).await.unwrap();
    assert!(ask(&mut stream, "tls").await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(line_of(&proxy, "tls").await, "192.0.2.5");
}

#[tokio::test]
async fn a_connection_without_a_good_proxy_header_is_closed_and_told() {
    let proxy = start(&REQUIRED).await;
    let bad =
        [&b""[..], b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 x\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"];
    for header in bad {
        assert_eq!(behind(&proxy, header, "bad").await, "");
    }
    let failed = "rejoinder_connections_failed_total{kind=\"proxy_header\"}";
    assert_eq!(proxy.metric(failed).await, 3);
    assert_eq!(proxy.log().matches("\"kind\":\"proxy_header\"").count(), 1, "{}", proxy.log());
    // a health check of TCP alone is no fault
    drop(TcpStream::connect(listens(&proxy)).await.unwrap());
    // half headers wait in tasks of their own
    let mut halves = Vec::new();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(listens(&proxy)).await.unwrap();
        stream.write_all(b"PROXY TCP4 192.0.2.1 ").await.unwrap();
        halves.push(stream);
    }
    assert!(behind(&proxy, &binary([192, 0, 2, 1]), "good").await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(proxy.metric(failed).await, 3);

    let elsewhere = [("REJOINDER_TRUSTED_PROXIES", "10.0.0.0/8"), ("REJOINDER_PROXY_PROTOCOL", "required")];
    let proxy = start(&elsewhere).await;
    assert_eq!(behind(&proxy, &binary([192, 0, 2, 1]), "untrusted").await, "");
    assert_eq!(proxy.metric("rejoinder_connections_failed_total{kind=\"untrusted_proxy\"}").await, 1);
    until(async || proxy.log().contains("127.0.0.1 is not in trusted_proxies")).await;
}

#[test]
fn keys_of_proxies_are_checked() {
    for (name, value, words) in [
        ("REJOINDER_TRUSTED_PROXIES", "10.0.0.0/33", "trusted_proxies: \"10.0.0.0/33\" is no network"),
        (
            "REJOINDER_PROXY_PROTOCOL",
            "required",
            "proxy_protocol: proxy_protocol = \"required\" needs trusted_proxies",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rejoinder"));
        let output =
            command.arg("check-config").env(name, value).current_dir(env!("CARGO_TARGET_TMPDIR")).output();
        let output = output.unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(78) && told.contains(words), "{told}");
    }
}
