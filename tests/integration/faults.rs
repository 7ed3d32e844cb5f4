//! The tables of docs/faults.md: each phase of a request with each fault, by the running binary. A cell is what the document
//! says it is, within its time-out, and a row leaves nothing behind. `make faults` prints what was seen.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::checker;
use crate::support::faulty::{Faulty, LONG};
use crate::support::proxy::{Proxy, client, until};
use crate::support::socket::Socket;

/// What the document says.
const DOCUMENT: &str = include_str!("../../docs/faults.md");
/// Rows that run at a time.
const BESIDE: usize = 8;
/// A request that takes longer hangs: the time-outs are of 5 s at most, and the machine may be busy.
const HANGS: Duration = Duration::from_secs(20);
/// Memory of large answers goes back after 10 s without such.
const GOES_BACK: Duration = Duration::from_secs(30);
/// Memory that may stay: what a process takes once.
const KEPT: u64 = 48 << 20;

/// The table below a heading: the columns' names, and the rows.
fn table(heading: &str) -> (Vec<&'static str>, Vec<Vec<&'static str>>) {
    let section = DOCUMENT.split(&format!("## {heading}\n")).nth(1).expect("the heading is there");
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    let lines = section.lines().skip_while(|line| !line.starts_with('|'));
    let mut lines = lines.take_while(|line| line.starts_with('|')).map(cells);
    let columns = lines.next().unwrap();
    // one row alone, to look at it
    let only = std::env::var("FAULT").ok();
    (columns, lines.skip(1).filter(|cells| only.as_ref().is_none_or(|only| cells[0] == only)).collect())
}

/// How a request ended, in the words of the document.
type Seen = String;

/// `status`, its code in an HTTP error, and that of `response.failed`, as docs/protocol.md 8 has them.
fn codes(status: u16) -> (Value, &'static str) {
    match status {
        401 => (json!("invalid_api_key"), "invalid_prompt"),
        429 => (json!("rate_limit_exceeded"), "rate_limit_exceeded"),
        400..=499 => (Value::Null, "invalid_prompt"),
        _ => (Value::Null, "server_error"),
    }
}

/// An error before a stream began.
fn refused(status: u16, error: &Value) -> Seen {
    let right = error["code"] == codes(status).0 && !error["message"].as_str().unwrap().is_empty();
    if right { status.to_string() } else { format!("{status} with {error}") }
}

/// The end of a stream that is judged whole. `wanted`: the status that the same has without a stream.
fn ended(sse: &str, wanted: &str) -> Seen {
    let violations = checker::check(sse);
    if !violations.is_empty() {
        return format!("{violations:?}");
    }
    let data = sse.lines().filter_map(|line| line.strip_prefix("data: {")).next_back().unwrap();
    let last: Value = serde_json::from_str(&format!("{{{data}")).unwrap();
    let code = last["response"]["error"]["code"].as_str();
    match last["type"].as_str().unwrap() {
        "response.completed" => "completed".to_owned(),
        "response.failed" if wanted.parse().is_ok_and(|status| code == Some(codes(status).1)) => {
            format!("failed {wanted}")
        }
        other => format!("{other} {}", last["response"]["error"]),
    }
}

/// The ways to ask.
const FORMS: [&str; 3] = ["stream", "whole", "websocket"];

/// What a client of that form sees of a cell.
async fn ask(proxy: &Proxy, form: &str, input: &str, cell: &str) -> Seen {
    let wanted = cell.trim_start_matches("failed ");
    let tool = json!({"type": "function", "name": "get", "parameters": {"type": "object"}});
    let mut body = json!({"model": "m", "input": input, "tools": [tool], "store": false});
    let asked = async {
        if form == "websocket" {
            body["type"] = json!("response.create");
            let events = Socket::connect(proxy, &[]).await.ask(&body).await;
            let last = events.last().unwrap();
            return match last["type"] == "error" {
                true => refused(last["status"].as_u64().unwrap() as u16, &last["error"]),
                false => ended(&crate::support::socket::as_sse(&events), wanted),
            };
        }
        body["stream"] = json!(form == "stream");
        let response = proxy.post(body.to_string()).send().await.unwrap();
        let status = response.status().as_u16();
        let retry_after = response.headers().contains_key("retry-after");
        let text = match response.text().await {
            Ok(text) => text,
            Err(error) => return format!("cut off: {error}"),
        };
        if status == 200 && form == "stream" {
            return ended(&text, wanted);
        }
        let answer: Value = serde_json::from_str(&text).unwrap();
        match status {
            200 => answer["status"].as_str().unwrap().to_owned(),
            // Codex gives up at once on one of these that does not say when to come back
            429 | 503 if !retry_after => format!("{status} without Retry-After"),
            _ => refused(status, &answer["error"]),
        }
    };
    tokio::time::timeout(HANGS, asked).await.unwrap_or_else(|_| "hangs".to_owned())
}

/// What the cell says for a client of that form.
fn expected(cell: &str, form: &str) -> Seen {
    match cell.strip_prefix("failed ") {
        Some(status) if form == "whole" => status.to_owned(),
        _ => cell.to_owned(),
    }
}

/// What a process holds.
struct Held {
    tasks: u64,
    descriptors: usize,
    memory: u64,
}

fn held(proxy: &Proxy, tasks: u64) -> Held {
    let folder = format!("/proc/{}", proxy.child.id().unwrap());
    let text = std::fs::read_to_string(format!("{folder}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    let memory = line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10;
    Held { tasks, descriptors: std::fs::read_dir(format!("{folder}/fd")).unwrap().count(), memory }
}

/// What is still there of requests that have all ended.
async fn leftovers(proxy: &Proxy, server: SocketAddr, before: &Held) -> Vec<String> {
    let in_flight = format!("rejoinder_upstream_in_flight{{upstream=\"http://{server}\"}}");
    let gauges = [
        "rejoinder_open_streams",
        "rejoinder_open_websockets",
        "rejoinder_waiting",
        "rejoinder_buffered_bytes",
        &in_flight,
    ];
    let metrics =
        client().get(format!("{}/metrics", proxy.admin)).send().await.unwrap().text().await.unwrap();
    let values = metrics.lines().filter_map(|line| line.split_once(' '));
    let values = values.filter(|(name, value)| gauges.contains(name) && *value != "0");
    let mut left: Vec<String> = values.map(|(name, value)| format!("{name} {value}")).collect();
    let tasks = metrics.lines().find_map(|line| line.strip_prefix("rejoinder_tasks "));
    let now = held(proxy, tasks.unwrap().parse().unwrap());
    if now.tasks > before.tasks {
        left.push(format!("{} tasks, {} before", now.tasks, before.tasks));
    }
    if now.descriptors > before.descriptors {
        left.push(format!("{} file descriptors, {} before", now.descriptors, before.descriptors));
    }
    if now.memory > before.memory + KEPT {
        left.push(format!("{} MB, {} MB before", now.memory >> 20, before.memory >> 20));
    }
    left
}

/// The same, once nothing more goes away.
async fn left_behind(proxy: &Proxy, server: SocketAddr, before: &Held) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let left = leftovers(proxy, server, before).await;
        if left.is_empty() || begun.elapsed() > GOES_BACK {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Short time-outs. What is refused is to be told as such, so the stream does not begin before.
const SHORT: [(&str, &str); 7] = [
    ("REJOINDER_COMMIT_AFTER", "10s"),
    ("REJOINDER_SEND_TIMEOUT", "1s"),
    ("REJOINDER_BODY_TIMEOUT", "1s"),
    ("REJOINDER_UPSTREAM__CONNECT_TIMEOUT", "500ms"),
    ("REJOINDER_UPSTREAM__RESPONSE_TIMEOUT", "5s"),
    ("REJOINDER_UPSTREAM__IDLE_TIMEOUT", "5s"),
    ("REJOINDER_UPSTREAM__READY_TIMEOUT", "300ms"),
];

async fn start(server: SocketAddr, more: &[(&str, &str)], ready: bool) -> (Proxy, Held) {
    let env: Vec<_> = SHORT.iter().chain(more).copied().collect();
    let proxy = Proxy::start(server, &env, ready).await;
    if ready {
        let answer = proxy.post("{\"model\":\"m\",\"input\":\"hi\"}").send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let held = held(&proxy, proxy.metric("rejoinder_tasks").await);
    (proxy, held)
}

/// What was seen of a row: what is wrong with it, and the line to print.
struct Row {
    wrong: Vec<String>,
    line: String,
}

impl Row {
    fn new(fault: &str) -> Row {
        Row { wrong: Vec::new(), line: format!("{fault:26}") }
    }

    fn add(&mut self, what: &str, seen: Seen, expected: Seen, took: Duration) {
        self.line += &format!(" | {what}: {seen} ({} ms)", took.as_millis());
        if !expected.split(" or ").any(|one| one == seen) {
            self.wrong.push(format!("{what}: {seen}, not {expected}"));
        }
    }

    fn left(&mut self, left: Vec<String>) {
        self.line += if left.is_empty() { " | nothing left" } else { " | LEFT" };
        self.wrong.extend(left.into_iter().map(|what| format!("left behind: {what}")));
    }
}

/// Prints the rows; fails if one is wrong.
fn judge(title: &str, rows: Vec<Row>) {
    println!("{title}");
    let mut wrong = Vec::new();
    for row in rows {
        println!("{}", row.line);
        wrong.extend(
            row.wrong.iter().map(|what| format!("{}: {what}", row.line.split('|').next().unwrap().trim())),
        );
    }
    assert!(wrong.is_empty(), "{title}\n{}", wrong.join("\n"));
}

/// A row of the first two tables, but what happens to a connection as it is made.
async fn server_row(columns: &[&str], cells: &[&str], is_whole: bool) -> Row {
    let (fault, mut row) = (cells[0], Row::new(cells[0]));
    let server = Faulty::start(is_whole).await;
    let commit_after = if fault == "stall after commit_after" { "50ms" } else { "10s" };
    let more = [
        ("REJOINDER_UPSTREAM__DIALECT", if is_whole { "generic" } else { "auto" }),
        ("REJOINDER_COMMIT_AFTER", commit_after),
    ];
    let (proxy, before) = start(server.address, &more, true).await;
    let asked =
        columns.iter().zip(cells).skip(1).filter(|(phase, cell)| !cell.is_empty() && **phase != "connect");
    let asked = asked.flat_map(|(phase, cell)| FORMS.map(|form| (*phase, *cell, form)));
    let proxy_ref = &proxy;
    let asked = asked.map(|(phase, cell, form)| async move {
        let begun = Instant::now();
        let seen = ask(proxy_ref, form, &format!("{fault}|{phase}|{form}"), cell).await;
        (format!("{phase}, {form}"), seen, expected(cell, form), begun.elapsed())
    });
    // megabytes beside each other would all be late
    let beside = if fault == "huge line" { 4 } else { 64 };
    let mut asked = stream::iter(asked).buffered(beside);
    while let Some((what, seen, expected, took)) = asked.next().await {
        row.add(&what, seen, expected, took);
    }
    drop(asked);
    if columns[1] == "connect" && !cells[1].is_empty() {
        connect_cell(&mut row, &proxy, &server, fault, cells[1]).await;
    }
    row.left(left_behind(&proxy, server.address, &before).await);
    row
}

/// What happens to a connection as it is made: to those of the requests, and of the looks at the server that follow.
async fn connect_cell(row: &mut Row, proxy: &Proxy, server: &Faulty, fault: &str, cell: &str) {
    // a server that takes no connection, and one whose queue of connections is full
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let dead = socket.local_addr().unwrap();
    let mut filling = Vec::new();
    let listener = (fault == "stall").then(|| socket.listen(0).unwrap());
    if fault == "stall" {
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(dead)).await
        {
            filling.push(stream);
        }
    }
    for form in FORMS {
        let begun = Instant::now();
        let seen = match fault {
            "refused" | "stall" => {
                let (proxy, _) = start(dead, &[], false).await;
                ask(&proxy, form, "hi", cell).await
            }
            _ => {
                server.at_connect(fault);
                let seen = ask(proxy, form, "hi", cell).await;
                server.at_connect("");
                let ready = format!("{}/readyz", proxy.admin);
                until(async || client().get(&ready).send().await.is_ok_and(|answer| answer.status() == 200))
                    .await;
                seen
            }
        };
        row.add(&format!("connect, {form}"), seen, expected(cell, form), begun.elapsed());
    }
    drop(listener);
}

async fn server_table(heading: &str, is_whole: bool) {
    let (columns, rows) = table(heading);
    let rows = rows.iter().map(|cells| server_row(&columns, cells, is_whole));
    judge(heading, stream::iter(rows).buffered(BESIDE).collect().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_a_server_has_one_outcome() {
    server_table("The server's faults", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_a_server_that_answers_with_one_object_has_one_outcome() {
    server_table("The faults of a server that answers with one object", true).await;
}

/// The request, of which `phase` may leave something out, and the input by which the server knows it.
fn request(fault: &str, phase: &str, form: &str) -> (String, String) {
    let kind = match fault {
        "reads nothing" => "no end",
        "reads slowly" => "long",
        _ => "stall",
    };
    let input = format!("{kind}|{phase}|{fault} {form}");
    let body = json!({"model": "m", "input": input, "stream": form == "stream", "store": false}).to_string();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        body.len()
    );
    let sent = match phase {
        "mid head" => head,
        "mid body" => format!("{head}\r\n{}", &body[..body.len() / 2]),
        _ => format!("{head}\r\n{body}"),
    };
    (sent, input)
}

/// What becomes of a request whose client does that.
async fn client_cell(proxy: &Proxy, server: &Faulty, fault: &str, phase: &str, form: &str) -> Seen {
    let (sent, input) = request(fault, phase, form);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut client =
        socket.connect(proxy.base.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap();
    client.write_all(sent.as_bytes()).await.unwrap();
    if phase != "mid head" && phase != "mid body" && fault != "reads slowly" {
        until(async || server.sight(&input).held).await;
    }
    if form == "stream" && ["mid text", "mid arguments", "finish_reason sent", "[DONE] sent"].contains(&phase)
    {
        let wanted = match phase {
            "mid arguments" => "arguments.delta",
            "[DONE] sent" => "response.completed",
            _ => "output_text.delta",
        };
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains(wanted) {
            assert!(
                client.read_buf(&mut all).await.unwrap() > 0,
                "cut off: {}",
                String::from_utf8_lossy(&all)
            );
        }
    }
    match fault {
        "silence" => return said(client).await,
        "reads slowly" => return read_slowly(client).await,
        "reads nothing" => return after(server, &input, phase, Some(client)).await,
        "half-close" => {
            client.shutdown().await.unwrap();
            return after(server, &input, phase, Some(client)).await;
        }
        "reset" => SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap(),
        "close" => {}
        other => panic!("no such fault of a client: {other}"),
    }
    drop(client);
    after(server, &input, phase, None).await
}

/// What a client gets that takes its time.
async fn read_slowly(mut client: TcpStream) -> Seen {
    let (mut all, mut piece) = (Vec::new(), [0; 32 << 10]);
    loop {
        let read = client.read(&mut piece).await.unwrap();
        all.extend_from_slice(&piece[..read]);
        let tail = &all[all.len().saturating_sub(64)..];
        if read == 0 || tail.windows(12).any(|window| window == b"data: [DONE]") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let whole = String::from_utf8_lossy(&all).contains("event: response.completed");
    if whole && all.len() > LONG { "completed" } else { "cut off" }.to_owned()
}

/// What a client that stays silent is told.
async fn said(mut client: TcpStream) -> Seen {
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(40), client.read_to_string(&mut answer)).await;
    match (read, answer.split(' ').nth(1)) {
        (Ok(_), Some(status)) if status == "408" && !answer.contains("request_timeout") => answer,
        (Ok(_), Some(status)) => status.to_owned(),
        (Ok(_), None) => "no request".to_owned(),
        (Err(_), _) => "hangs".to_owned(),
    }
}

/// What becomes of the server's side.
async fn after(server: &Faulty, input: &str, phase: &str, client: Option<TcpStream>) -> Seen {
    if phase == "mid head" || phase == "mid body" {
        if let Some(client) = client {
            // an answer that says so may come before its end
            said(client).await;
        }
        return if server.sight(input) == Default::default() { "no request" } else { "a request" }.to_owned();
    }
    until(async || server.sight(input).gone).await;
    if phase == "[DONE] sent" { "completed" } else { "cancelled" }.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_a_client_has_one_outcome() {
    let (columns, rows) = table("The client's faults");
    let columns = &columns;
    let rows = rows.iter().map(|cells| async move {
        let (fault, mut row) = (cells[0], Row::new(cells[0]));
        let server = Faulty::start(false).await;
        let more =
            [("REJOINDER_UPSTREAM__IDLE_TIMEOUT", "1m"), ("REJOINDER_UPSTREAM__RESPONSE_TIMEOUT", "1m")];
        let (proxy, before) = start(server.address, &more, true).await;
        let (proxy_ref, server_ref) = (&proxy, &server);
        let asked = columns.iter().zip(cells).skip(1).filter(|(_, cell)| !cell.is_empty());
        let asked = asked.flat_map(|(phase, cell)| ["stream", "whole"].map(|form| (*phase, *cell, form)));
        let asked = asked.filter(|(_, _, form)| !fault.starts_with("reads") || *form == "stream");
        let asked = asked.map(|(phase, cell, form)| async move {
            let begun = Instant::now();
            let seen = client_cell(proxy_ref, server_ref, fault, phase, form).await;
            (format!("{phase}, {form}"), seen, cell.to_owned(), begun.elapsed())
        });
        for (what, seen, expected, took) in futures::future::join_all(asked).await {
            row.add(&what, seen, expected, took);
        }
        row.left(left_behind(&proxy, server.address, &before).await);
        row
    });
    judge("The client's faults", stream::iter(rows).buffered(BESIDE).collect().await);
}
