//! Which paths the running binary passes on, and that they and their bodies reach the upstream as they were sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::support::proxy::{Proxy, upstream, whole};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server that tells what it was asked, and keeps the lines.
async fn echo() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    let at = upstream(move |got, mut stream| {
        kept.lock().unwrap().push(got.line.clone());
        async move {
            let seen = format!("{} {}", got.line, String::from_utf8_lossy(&got.body));
            let _ = stream.write_all(&whole("200 OK", "text/plain", &seen)).await;
        }
    })
    .await;
    (at, lines)
}

/// Sends a request as it stands here, since a client would mend its path.
async fn ask(proxy: &Proxy, line: &str, more: &str) -> (u16, String) {
    let to = proxy.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn a_path_arrives_as_it_was_sent_or_not_at_all() {
    let (at, lines) = echo().await;
    let proxy = Proxy::start(at, &[], true).await;
    for path in [
        "/",
        "/v1/embeddings",
        "//double//slashes/",
        "/v1/files/org%2Fname/",
        "/a%20b/100%25",
        "/%41%3f%23",
        "/a;b=c/d,e",
        "/caf%C3%A9",
        "/...",
        "/x?y=%2e%2e/../z&q=a+b",
        "/x?",
        "/[~]",
        "/a:b@c!$&'()*+,=",
    ] {
        let (status, body) = ask(&proxy, &format!("POST {path}"), "").await;
        assert_eq!((status, body.trim_end()), (200, format!("POST {path}").as_str()), "{path}");
    }
    let (status, body) = ask(&proxy, "POST /x?q='a'", "").await;
    assert_eq!((status, body.trim_end()), (200, "POST /x?q=%27a%27"), "what a URL may not hold, in a query");
    let before = lines.lock().unwrap().len();
    for path in [
        "/v1/../slots",
        "/v1/%2e%2e/slots",
        "/v1/.%2E/slots",
        "/./slots",
        "/v1\\..\\slots",
        "/\\slots",
        "/v1/..%2fslots",
        "/%",
        "/%u0073lots",
        "/a\"b",
        "/a{b}",
        "*",
        "/a%00b",
        "/v1/%72esponses",
        "/v1//responses",
        "//v1/models",
    ] {
        let (status, body) = ask(&proxy, &format!("GET {path}"), "").await;
        assert_eq!(status, 400, "{path} {body}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(error["error"]["code"], "invalid_path", "{path}");
    }
    assert_eq!(ask(&proxy, "CONNECT evil.localhost:80", "").await.0, 400);
    assert_eq!(lines.lock().unwrap().len(), before);
}

#[tokio::test]
async fn management_is_closed_until_it_is_named() {
    let (at, lines) = echo().await;
    let closed = Proxy::start(at, &[], true).await;
    for line in [
        "GET /slots",
        "POST /slots/0?action=erase",
        "GET /slots/",
        "GET //slots",
        "GET /%73lots",
        "GET /SLOTS",
        "GET /%5Cslots",
        "POST /props",
        "POST /models/load",
        "POST /v1/load_lora_adapter",
        "POST /sleep",
        "DELETE /api/delete",
        "POST /tools",
        "POST /codex/v1/load_lora_adapter",
    ] {
        let (status, body) = ask(&closed, line, "Content-Length: 0\r\n").await;
        assert_eq!(status, 403, "{line} {body}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert!(error["error"]["message"].as_str().unwrap().contains("passthrough.paths"), "{body}");
    }
    assert_eq!(*lines.lock().unwrap(), [""; 0]);
    let some = Proxy::start(at, &[("REJOINDER_PASSTHROUGH__PATHS", "/v1/*,/slots")], true).await;
    for (line, status) in [
        ("GET /slots", 200),
        ("POST /slots/0", 403),
        ("POST /v1/chat/completions", 200),
        ("POST /v1/load_lora_adapter", 403),
        ("GET /props/x", 403),
        ("GET /", 403),
        ("POST /codex/v1/chat/completions", 200),
    ] {
        assert_eq!(ask(&some, line, "Content-Length: 0\r\n").await.0, status, "{line}");
    }
}

#[tokio::test]
async fn a_body_goes_on_whatever_the_method_and_its_length() {
    let (at, _) = echo().await;
    let proxy = Proxy::start(at, &[], true).await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "REPORT"] {
        for more in ["Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n", "Content-Length: 4\r\n\r\nbody"]
        {
            let (status, body) = ask(&proxy, &format!("{method} /files/1"), more).await;
            assert_eq!((status, body.as_str()), (200, format!("{method} /files/1 body").as_str()), "{more}");
        }
        assert_eq!(ask(&proxy, &format!("{method} /files/1"), "").await.1, format!("{method} /files/1 "));
    }
}

/// One message must not be two to the server behind.
#[tokio::test]
async fn a_body_of_two_lengths_is_one_message_or_none() {
    let (at, lines) = echo().await;
    let proxy = Proxy::start(at, &[], true).await;
    let chunks = "\r\n4\r\nbody\r\n0\r\n";
    for (more, rest) in [
        ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", chunks),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", chunks),
        ("Content-Length: 4\r\nContent-Length: 3\r\n", "\r\nbody"),
        ("Content-Length: 4, 3\r\n", "\r\nbody"),
        ("Transfer-Encoding: chunked, identity\r\n", chunks),
        ("Transfer-Encoding: xchunked\r\n", chunks),
        ("Connection: content-length\r\nContent-Length: 4\r\n", "\r\nbody"),
    ] {
        let before = lines.lock().unwrap().len();
        let (status, body) = ask(&proxy, "POST /v1/embeddings", &format!("{more}{rest}")).await;
        match status {
            200 => assert_eq!(body, "POST /v1/embeddings body", "{more}"),
            _ => assert_eq!((status, lines.lock().unwrap().len()), (400, before), "{more} {body}"),
        }
    }
}
