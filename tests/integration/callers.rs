//! Who the running binary lets call: by Host, by the page that a request comes from, and what an allowed page is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::proxy::{EVENTS, Got, Proxy, STOP, STREAM, text, upstream, whole};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BODY: &str = "{\"model\":\"m\",\"input\":\"x\"}";
const COMPLETION: &str =
    "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"ok\"},\"finish_reason\":\"stop\"}]}";

/// Answers chat requests, and everything else in the way of a server that lets every page read it.
async fn permissive() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let at = upstream(move |got: Got, mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            if got.header("accept") == Some("text/event-stream") {
                let whole = [EVENTS, text("hi").as_bytes(), STOP.as_bytes()].concat();
                let _ = stream.write_all(&whole).await;
                return;
            }
            let (status, body) = match got.line.as_str() {
                "POST /v1/chat/completions" if got.header("x-own") == Some("fail") => {
                    ("418 Teapot", "no".to_owned())
                }
                "POST /v1/chat/completions" => ("200 OK", COMPLETION.to_owned()),
                line => ("200 OK", format!("{line} {:?}", got.header("origin"))),
            };
            let answer = String::from_utf8(whole(status, "application/json", &body)).unwrap();
            let own = "\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n\r\n";
            let _ = stream.write_all(answer.replacen("\r\n\r\n", own, 1).as_bytes()).await;
        }
    })
    .await;
    (at, asked)
}

/// Sends these bytes and reads to the end; a head without its `Connection: close` gets it.
async fn raw(base: &str, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(base.strip_prefix("http://").unwrap()).await.unwrap();
    let request = format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[tokio::test]
async fn a_page_that_is_not_let_in_gets_nothing() {
    let (at, asked) = permissive().await;
    let proxy = Proxy::start(at, &[], true).await;
    let own = proxy.base.strip_prefix("http://").unwrap();
    let post = "POST /v1/responses HTTP/1.1\r\n";
    let evil = "Origin: https://evil.example\r\n";
    for (head, status, word) in [
        (format!("{post}Host: evil.example\r\n{evil}Content-Type: text/plain\r\n"), 403, "allowed_hosts"),
        (format!("{post}Host: evil.example\r\n"), 403, "allowed_hosts"),
        (format!("{post}Host: {own}\r\n{evil}Content-Type: application/json\r\n"), 403, "cors.origins"),
        (format!("{post}Host: {own}\r\nOrigin: null\r\n"), 403, "cors.origins"),
        (format!("{post}Host: {own}\r\nSec-Fetch-Site: cross-site\r\n"), 403, "cors.origins"),
        (
            format!("GET /v1/models HTTP/1.1\r\nHost: {own}\r\nSec-Fetch-Site: same-site\r\n"),
            403,
            "cors.origins",
        ),
        (format!("GET /v1/models HTTP/1.1\r\nHost: {own}\r\n{evil}"), 403, "cors.origins"),
        (format!("GET /anything HTTP/1.1\r\nHost: {own}\r\n{evil}"), 403, "cors.origins"),
        (
            format!(
                "OPTIONS /v1/responses HTTP/1.1\r\nHost: {own}\r\n{evil}Access-Control-Request-Method: POST\r\n"
            ),
            403,
            "cors.origins",
        ),
        (post.to_owned(), 400, "no Host"),
        (format!("{post}Host: {own}\r\nHost: {own}\r\n"), 400, "more than one Host"),
        (
            format!("{post}Host: {own}\r\nOrigin: http://{own}\r\nContent-Type: text/plain\r\n"),
            415,
            "application/json",
        ),
    ] {
        let (found, answer) = raw(&proxy.base, &head, BODY).await;
        assert_eq!(found, status, "{head}{answer}");
        let error: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert!(error["error"]["message"].as_str().unwrap().contains(word), "{head}{answer}");
        assert!(!answer.to_lowercase().contains("access-control-allow-"), "{answer}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    // what is no page, and a page of the server's own, go on working
    for head in [
        format!("{post}Host: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"),
        format!("{post}Host: {own}\r\nOrigin: http://{own}\r\nContent-Type: application/json\r\n"),
        format!("{post}Host: {own}\r\nSec-Fetch-Site: same-origin\r\nContent-Type: application/json\r\n"),
        "GET /v1/models HTTP/1.0\r\n".to_owned(),
    ] {
        assert_eq!(raw(&proxy.base, &head, BODY).await.0, 200, "{head}");
    }
    // nor is the other address for pages
    for (head, status) in [
        ("Host: evil.example\r\n", 403),
        ("Host: localhost\r\nOrigin: https://evil.example\r\n", 403),
        ("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n", 403),
        ("Host: localhost\r\n", 200),
        ("", 400),
    ] {
        for path in ["/metrics", "/healthz", "/readyz"] {
            let head = format!("GET {path} HTTP/1.1\r\n{head}");
            assert_eq!(raw(&proxy.admin, &head, "").await.0, status, "{head}");
        }
    }
}

#[tokio::test]
async fn an_allowed_page_may_read_every_answer() {
    let (at, asked) = permissive().await;
    let env =
        [("REJOINDER_CORS__ORIGINS", "https://app.example"), ("REJOINDER_ALLOWED_HOSTS", "llm.example")];
    let proxy = Proxy::start(at, &env, true).await;
    let client = reqwest::Client::new();
    let page = |method: &str, path: &str| {
        let url = format!("{}{path}", proxy.base);
        client.request(method.parse().unwrap(), url).header("origin", "https://app.example")
    };
    for path in ["/v1/responses", "/v1/chat/completions", "/v1/conversations/c", "/any/path"] {
        let preflight = page("OPTIONS", path)
            .header("access-control-request-method", "DELETE")
            .header("access-control-request-headers", "authorization,content-type,x-stainless-os")
            .header("access-control-request-private-network", "true");
        let answer = preflight.send().await.unwrap();
        assert!(answer.status().is_success());
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_lowercase();
        assert_eq!(header("access-control-allow-origin"), "https://app.example");
        assert_eq!(header("access-control-allow-methods"), "delete");
        assert_eq!(header("access-control-allow-headers"), "authorization,content-type,x-stainless-os");
        assert_eq!(header("access-control-allow-private-network"), "true");
        assert_eq!(header("access-control-max-age"), "3600");
        assert!(header("vary").contains("origin"), "{path}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "preflights are answered here");
    let json = "application/json";
    for (method, path, body, status) in [
        ("POST", "/v1/responses", BODY, 200),
        ("POST", "/v1/responses", STREAM, 200),
        ("POST", "/v1/responses", "{", 400),
        ("PUT", "/v1/responses", "{}", 405),
        ("GET", "/v1/responses/resp_none", "", 404),
        ("GET", "/v1/models", "", 200),
        ("POST", "/v1/embeddings", "{}", 200),
    ] {
        let answer = page(method, path).header("content-type", json).body(body).send().await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
        let all = |name: &str| answer.headers().get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("access-control-allow-origin"), ["https://app.example"], "{method} {path}");
        assert!(all("access-control-allow-credentials").is_empty(), "the upstream's word");
        let exposed = all("access-control-expose-headers")[0].to_str().unwrap();
        for name in ["x-request-id", "openai-processing-ms", "retry-after", "x-ratelimit-remaining-tokens"] {
            assert!(exposed.contains(name), "{exposed}");
        }
        assert!(all("vary").iter().any(|vary| vary.to_str().unwrap().to_lowercase().contains("origin")));
        let text = answer.text().await.unwrap();
        match path {
            "/v1/embeddings" => {
                assert_eq!(text, "POST /v1/embeddings None", "the upstream is not asked again")
            }
            _ => assert!(!text.is_empty()),
        }
    }
    let plain =
        page("POST", "/v1/responses").header("content-type", "text/plain").body(BODY).send().await.unwrap();
    assert_eq!(plain.status(), 415);
    assert_eq!(
        plain.headers()["access-control-allow-origin"],
        "https://app.example",
        "the page can read why"
    );
    // a cache must not give a page what it kept of a program's answer
    let program = client.get(format!("{}/any", proxy.base)).send().await.unwrap();
    assert_eq!(program.headers()["vary"], "origin");
    assert!(!program.headers().contains_key("access-control-allow-origin"), "the upstream's word");
    let named = client.get(format!("{}/v1/models", proxy.base)).header("host", "llm.example:443");
    assert_eq!(named.send().await.unwrap().status(), 200);
    let admin = client.get(format!("{}/metrics", proxy.admin)).header("origin", "https://app.example");
    assert_eq!(admin.send().await.unwrap().status(), 403);
}

/// A server that runs in a container is reached by names that nobody told it, and probed by its address.
#[tokio::test]
async fn an_address_of_a_network_is_called_by_any_name_and_its_probes_by_address() {
    let (at, _) = permissive().await;
    let upstream = format!("http://{at}");
    let args = ["--upstream", &upstream, "--listen", "0.0.0.0:0", "--admin", "0.0.0.0:0"];
    let proxy = Proxy::with(&args, &[], false).await;
    let local = |base: &str| base.replace("0.0.0.0", "127.0.0.1");
    let client = reqwest::Client::new();
    for (base, path, host, status) in [
        (&proxy.base, "/v1/responses/resp_none", "rejoinder.default.svc", 404),
        (&proxy.admin, "/healthz", "10.42.0.7:8082", 200),
        (&proxy.admin, "/healthz", "[fd00::42]:8082", 200),
        (&proxy.admin, "/healthz", "rejoinder.default.svc:8082", 403),
    ] {
        let request = client.get(format!("{}{path}", local(base))).header("host", host);
        assert_eq!(request.send().await.unwrap().status(), status, "{path} {host}");
    }
}
