//! The life of the process as its service manager and its load balancer see it: what it tells of itself, sockets that it is
//! handed, its drain.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::StreamExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixDatagram};
use tokio::process::Command;
use tokio::sync::Notify;

use super::support::proxy::{PATIENCE, Proxy, STREAM, signal, until, upstream, waiting, whole};

const ANSWER: &str =
    "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"Hello.\"},\"finish_reason\":\"stop\"}]}";
const PLAIN: &str = "{\"model\":\"m\",\"input\":\"hi\"}";

/// An upstream that answers at once.
async fn answering() -> SocketAddr {
    upstream(|_, mut stream| async move {
        let _ = stream.write_all(&whole("200 OK", "application/json", ANSWER)).await;
    })
    .await
}

/// Where a service manager listens to what its services tell.
struct Manager {
    socket: UnixDatagram,
    _folder: tempfile::TempDir,
    path: String,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Manager { socket, path: path.to_str().unwrap().to_owned(), _folder: folder }
    }

    /// The lines of the next message.
    async fn told(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let told = tokio::time::timeout(PATIENCE, self.socket.recv(&mut buffer)).await;
        let length = told.expect("the process tells something in time").unwrap();
        String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn the_service_manager_is_told_of_start_reload_and_end() {
    let manager = Manager::new();
    let at = answering().await;
    let env = [("NOTIFY_SOCKET", &*manager.path), ("REJOINDER_DRAIN_TIMEOUT", "40s")];
    let mut proxy = Proxy::start(at, &env, false).await;
    let told = manager.told().await;
    assert_eq!(told[0], "READY=1");
    let listen = proxy.base.trim_start_matches("http://");
    assert!(told[1].starts_with("STATUS=") && told[1].contains(listen), "{told:?}");
    assert!(proxy.post(PLAIN).send().await.unwrap().status().is_success(), "it listens when it says so");
    signal(&proxy.child, "HUP");
    let told = manager.told().await;
    assert!(told[0] == "RELOADING=1" && told[1].starts_with("MONOTONIC_USEC="), "{told:?}");
    assert_eq!(manager.told().await[0], "READY=1");
    signal(&proxy.child, "TERM");
    let told = manager.told().await;
    assert!(told[0] == "STOPPING=1" && told[1].starts_with("STATUS="), "{told:?}");
    let longest: u64 = told[2].strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap().parse().unwrap();
    // drain_timeout, and what comes after it
    assert!((60_000_000..120_000_000).contains(&longest), "{longest}");
    assert!(proxy.child.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_watchdog_is_told_that_the_process_lives() {
    let manager = Manager::new();
    let env = [("NOTIFY_SOCKET", &*manager.path), ("WATCHDOG_USEC", "200000")];
    let _proxy = Proxy::start(answering().await, &env, false).await;
    for _ in 0..3 {
        while manager.told().await[0] != "WATCHDOG=1" {}
    }
}

/// The binary with this socket as its first, or both as its first two, behind a shell that moves them to where a service
/// manager puts them.
fn activated(at: SocketAddr, sockets: [Option<&TcpListener>; 2], names: &str) -> Command {
    let mut command = Command::new("sh");
    let count = sockets.iter().flatten().count();
    let moved = ["", "3<&0", "3<&0 4<&1"][count];
    command
        .arg("-c")
        .arg(format!("LISTEN_PID=$$ exec \"$0\" \"$@\" {moved} </dev/null >/dev/null"))
        .arg(env!("CARGO_BIN_EXE_rejoinder"))
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", &format!("http://{at}")])
        .env("LISTEN_FDS", count.to_string())
        .env("LISTEN_FDNAMES", names);
    let duplicate = |socket: &TcpListener| Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
    if let [Some(first), second] = sockets {
        command.stdin(duplicate(first));
        second.map(|second| command.stdout(duplicate(second)));
    }
    command
}

fn bound() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

#[tokio::test]
async fn sockets_that_are_handed_over_are_used_by_their_names() {
    let (first, second) = (bound(), bound());
    let command = activated(answering().await, [Some(&first), Some(&second)], "admin:listen");
    let proxy = Proxy::of(command, true).await;
    assert_eq!(proxy.admin, format!("http://{}", first.local_addr().unwrap()));
    assert_eq!(proxy.base, format!("http://{}", second.local_addr().unwrap()));
    assert!(proxy.post(PLAIN).send().await.unwrap().status().is_success());
}

#[tokio::test]
async fn a_socket_that_cannot_be_used_is_named() {
    let at = answering().await;
    let open = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let mute = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    mute.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let mute = TcpListener::from(OwnedFd::from(mute));
    let own = bound();
    for (socket, names, mode, says) in [
        (&own, "rejoinder.socket", "pass", "FileDescriptorName="),
        (&mute, "listen", "pass", "does not listen"),
        // what was checked is `listen` of the configuration, which is a loopback address
        (&open, "listen", "none", "auth.allow_remote"),
    ] {
        let mut command = activated(at, [Some(socket), None], names);
        let output = command.env("REJOINDER_AUTH__MODE", mode).stderr(Stdio::piped()).output();
        let output = tokio::time::timeout(PATIENCE, output).await.expect("it does not start").unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(says), "{names}: {error}");
    }
}

/// Requests one after the other, each on a connection of its own, until told to stop; how many were answered.
async fn load(at: SocketAddr, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
    while !stop.load(Ordering::Acquire) {
        let mut stream = TcpStream::connect(at).await.expect("no connection is refused");
        let head = "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length:";
        stream.write_all(format!("{head} {}\r\n\r\n{PLAIN}", PLAIN.len()).as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("no connection is reset");
        assert!(answer.starts_with("HTTP/1.1 200 "), "every request is answered: {answer:?}");
        answered.fetch_add(1, Ordering::AcqRel);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_a_socket_that_stays_open_refuses_and_loses_nothing() {
    let at = answering().await;
    let socket = bound();
    let address = socket.local_addr().unwrap();
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let start = async || Proxy::of(activated(at, [Some(&socket), None], "listen"), true).await;
    let mut proxy = start().await;
    let clients: Vec<_> =
        (0..8).map(|_| tokio::spawn(load(address, stop.clone(), answered.clone()))).collect();
    for _ in 0..3 {
        let before = answered.load(Ordering::Acquire);
        until(async || answered.load(Ordering::Acquire) > before + 50).await;
        signal(&proxy.child, "TERM");
        assert!(tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap().success());
        proxy = start().await;
    }
    let before = answered.load(Ordering::Acquire);
    until(async || answered.load(Ordering::Acquire) > before + 50).await;
    stop.store(true, Ordering::Release);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_on_its_way_when_the_drain_begins_is_answered() {
    let mut proxy = Proxy::start(answering().await, &[], true).await;
    let address = proxy.base.trim_start_matches("http://").to_owned();
    // accepted, and silent so far
    let mut early = TcpStream::connect(&address).await.unwrap();
    signal(&proxy.child, "TERM");
    let readyz = format!("{}/readyz", proxy.admin);
    until(async || reqwest::get(&readyz).await.is_ok_and(|r| r.status() == 503)).await;
    let head = "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length:";
    early.write_all(format!("{head} {}\r\n\r\n{PLAIN}", PLAIN.len()).as_bytes()).await.unwrap();
    let mut answer = String::new();
    early.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer:?}");
    assert!(tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn what_waits_in_the_kernel_when_the_drain_begins_is_answered() {
    let mut proxy = Proxy::start(answering().await, &[], true).await;
    let address = proxy.base.trim_start_matches("http://").to_owned();
    signal(&proxy.child, "STOP");
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let head = "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length:";
        stream.write_all(format!("{head} {}\r\n\r\n{PLAIN}", PLAIN.len()).as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    signal(&proxy.child, "TERM");
    signal(&proxy.child, "CONT");
    for mut stream in waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("no connection is reset");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    }
    assert!(tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn it_is_not_ready_first_and_serves_until_the_delay_is_over() {
    let mut proxy = Proxy::start(answering().await, &[("REJOINDER_DRAIN_DELAY", "1s")], true).await;
    // a client that keeps its connection
    let client = reqwest::Client::new();
    let url = format!("{}/v1/responses", proxy.base);
    let post = async || client.post(&url).body(PLAIN).send().await;
    assert_eq!(post().await.unwrap().headers().get("connection"), None);
    signal(&proxy.child, "TERM");
    let readyz = format!("{}/readyz", proxy.admin);
    until(async || reqwest::get(&readyz).await.is_ok_and(|r| r.status() == 503)).await;
    for fresh in [false, true] {
        let answer = if fresh { proxy.post(PLAIN).send().await } else { post().await }.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["connection"], "close", "its next request goes elsewhere");
    }
    until(async || proxy.post(PLAIN).send().await.is_err_and(|error| error.is_connect())).await;
    assert!(tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn a_second_signal_ends_the_delay() {
    let mut proxy = Proxy::start(answering().await, &[("REJOINDER_DRAIN_DELAY", "1h")], true).await;
    signal(&proxy.child, "TERM");
    let readyz = format!("{}/readyz", proxy.admin);
    until(async || reqwest::get(&readyz).await.is_ok_and(|r| r.status() == 503)).await;
    signal(&proxy.child, "TERM");
    assert!(tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn what_has_no_stream_is_told_that_the_drain_is_over() {
    let asked = Arc::new(Notify::new());
    let told = asked.clone();
    let at = upstream(move |_, stream| {
        told.notify_one();
        async move {
            let _open = stream;
            std::future::pending().await
        }
    })
    .await;
    let mut proxy = Proxy::start(at, &[("REJOINDER_DRAIN_TIMEOUT", "200ms")], true).await;
    for (path, body) in [("/v1/responses", PLAIN), ("/v1/chat/completions", "{\"messages\":[]}")] {
        let answer =
            tokio::spawn(reqwest::Client::new().post(format!("{}{path}", proxy.base)).body(body).send());
        asked.notified().await;
        signal(&proxy.child, "TERM");
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"));
        let error: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(error["error"]["type"], "service_unavailable_error");
        assert!(tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap().success());
        proxy = Proxy::start(at, &[("REJOINDER_DRAIN_TIMEOUT", "200ms")], true).await;
    }
}

#[tokio::test]
async fn a_stream_that_began_in_the_delay_ends_in_its_own_time() {
    let (at, go) = waiting().await;
    let mut proxy = Proxy::start(at, &[("REJOINDER_DRAIN_DELAY", "500ms")], true).await;
    signal(&proxy.child, "TERM");
    let readyz = format!("{}/readyz", proxy.admin);
    until(async || reqwest::get(&readyz).await.is_ok_and(|r| r.status() == 503)).await;
    let mut body = proxy.post(STREAM).send().await.unwrap().bytes_stream();
    let mut sse = body.next().await.unwrap().unwrap().to_vec();
    until(async || proxy.post(STREAM).send().await.is_err_and(|error| error.is_connect())).await;
    go.notify_one();
    while let Some(piece) = body.next().await {
        sse.extend_from_slice(&piece.unwrap());
    }
    assert!(String::from_utf8(sse).unwrap().contains("response.completed"));
    assert!(tokio::time::timeout(PATIENCE, proxy.child.wait()).await.unwrap().unwrap().success());
}
