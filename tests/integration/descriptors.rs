//! Owns the tests of what happens when file descriptors run out: it is told as what it is, nobody else is blamed for it,
//! and the health checks go on.

use crate::support::proxy;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::proxy::{EVENTS, Proxy, STOP, STREAM, text, until, upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

/// A proxy with limits set by `ulimit`.
async fn limited(ulimit: &str, upstream: SocketAddr) -> Proxy {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit {ulimit} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_rejoinder")])
        .args(["--upstream", &format!("http://{upstream}")])
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .env("REJOINDER_UPSTREAM__PROBE_INTERVAL", "100ms");
    let proxy = Proxy::of(command, false).await;
    until(async || admin(&proxy, "/readyz").await.0 == 200).await;
    proxy
}

/// Status and text of an answer of the admin port, on a connection of its own.
async fn admin(proxy: &Proxy, path: &str) -> (u16, String) {
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(5));
    match client.build().unwrap().get(format!("{}{path}", proxy.admin)).send().await {
        Ok(response) => (response.status().as_u16(), response.text().await.unwrap()),
        Err(error) => (0, error.to_string()),
    }
}

async fn answering() -> SocketAddr {
    upstream(|_, mut stream| async move {
        let _ = stream.write_all(&[EVENTS, text("hello").as_bytes(), STOP.as_bytes()].concat()).await;
    })
    .await
}

async fn connected(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.base.strip_prefix("http://").unwrap()).await.unwrap()
}

/// The head and the body, as far as they come together, of the answer to a POST.
async fn post(stream: &mut TcpStream, path: &str, body: &str) -> String {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = vec![0; 64 << 10];
    let read = tokio::time::timeout(proxy::PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn a_lack_of_descriptors_is_told_as_what_it_is() {
    let at = answering().await;
    let proxy = limited("-n 96", at).await;
    // one that is there before the crowd, and takes what the crowd leaves
    let mut early = connected(&proxy).await;
    assert!(post(&mut early, "/v1/responses", STREAM).await.starts_with("HTTP/1.1 200 "));
    let mut early = connected(&proxy).await;
    let mut held = Vec::new();
    let not_ready = async || {
        let (status, text) = admin(&proxy, "/readyz").await;
        status == 503 && text.contains("file descriptors")
    };
    while held.len() < 300 && !not_ready().await {
        for _ in 0..10 {
            held.push(connected(&proxy).await);
        }
    }
    until(not_ready).await;
    assert_eq!(admin(&proxy, "/healthz").await, (200, "ok\n".to_owned()));
    let name = format!("rejoinder_upstream_up{{upstream=\"http://{at}\"}}");
    assert_eq!(proxy.metric(&name).await, 1);
    assert!(post(&mut early, "/v1/responses", STREAM).await.starts_with("HTTP/1.1 200 "));
    let told = |words: &str| {
        let log = proxy.log();
        log.lines().filter(|line| !line.contains("\"level\":\"DEBUG\"") && line.contains(words)).count()
    };
    assert_eq!((told("out of file descriptors"), told("not ready")), (1, 0));
    drop(held);
    until(async || admin(&proxy, "/readyz").await.0 == 200).await;
    assert!(proxy.stream().await.contains("response.completed"));
}

/// Streams take the connections that are left to them; who comes then is told so.
#[tokio::test]
async fn a_request_without_a_descriptor_is_503_and_blames_nobody() {
    let at = upstream(|got, mut stream| async move {
        if got.line.starts_with("POST") {
            let _ = stream.write_all(&[EVENTS, text("on and on").as_bytes()].concat()).await;
            std::future::pending::<()>().await;
        }
    })
    .await;
    let proxy = limited("-n 96", at).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(connected(&proxy).await);
    }
    let mut answers = Vec::new();
    for client in &mut clients {
        // who was not accepted waits
        let answer =
            tokio::time::timeout(Duration::from_secs(2), post(client, "/v1/responses", STREAM)).await;
        let Ok(answer) = answer else { break };
        answers.push(answer);
        if answers.last().unwrap().starts_with("HTTP/1.1 503 ") {
            break;
        }
    }
    let last = answers.pop().unwrap();
    assert!(last.starts_with("HTTP/1.1 503 "), "{} answers, then {last}", answers.len());
    assert!(last.contains("\r\nretry-after: ") && last.contains("out_of_file_descriptors"), "{last}");
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 ")));
    let name = format!("rejoinder_upstream_up{{upstream=\"http://{at}\"}}");
    assert_eq!(proxy.metric(&name).await, 1);
    assert_eq!(admin(&proxy, "/healthz").await.0, 200);
    assert!(!proxy.log().contains("connection refused"));
    // the same on a path that is passed through
    let accepted = answers.len();
    let passed = post(&mut clients[accepted], "/v1/other", "{}").await;
    assert!(passed.starts_with("HTTP/1.1 503 ") && passed.contains("out_of_file_descriptors"), "{passed}");
}

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let proxy = limited("-Sn 64", answering().await).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", proxy.child.id().unwrap())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let [soft, hard] = [line.split_whitespace().nth(3).unwrap(), line.split_whitespace().nth(4).unwrap()];
    assert_eq!(soft, hard);
}
