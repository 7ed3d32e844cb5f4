//! Owns the tests of what an upstream's answer is, whatever its head calls it: forms, encodings, errors, limits. Real processes
//! and sockets; the servers are scripted.

use crate::support::proxy::{Proxy, STOP, STREAM, text, upstream};
use async_compression::tokio::write::{BrotliEncoder, DeflateEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

macro_rules! packed {
    ($encoder:ident, $bytes:expr) => {{
        let mut encoder = $encoder::new(Vec::new());
        encoder.write_all($bytes).await.unwrap();
        encoder.shutdown().await.unwrap();
        encoder.into_inner()
    }};
}

/// A proxy in front of a server that answers chats with that head and body.
async fn answering(head: &str, body: &[u8]) -> Proxy {
    let answer = [format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes(), body].concat();
    let at = upstream(move |_, mut stream| {
        let answer = answer.clone();
        async move {
            let _ = stream.write_all(&answer).await;
        }
    })
    .await;
    Proxy::start(at, &[], true).await
}

async fn said(proxy: &Proxy, stream: bool) -> String {
    let body = if stream { STREAM.to_owned() } else { json!({"model": "m", "input": "x"}).to_string() };
    proxy.post(body).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn an_answer_is_what_its_bytes_are() {
    let events = format!("{}{STOP}", text("hello"));
    let message =
        json!({"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"});
    let whole = json!({"object": "chat.completion", "choices": [message]}).to_string();
    // a chunk a line, with [DONE] and without
    let lines = events.replace("data: ", "").replace("\n\n", "\n");
    let chunks_alone = lines.replace("[DONE]\n", "");
    for body in [events, whole, lines.replace('\n', "\r\n"), lines, chunks_alone] {
        for label in
            ["text/event-stream", "application/json", "text/plain", "application/x-ndjson", "text/html"]
        {
            let proxy = answering(&format!("200 OK\r\nContent-Type: {label}"), body.as_bytes()).await;
            for stream in [true, false] {
                let answer = said(&proxy, stream).await;
                assert!(answer.contains("hello") && answer.contains("completed"), "{label} {body}: {answer}");
            }
        }
        let bare = answering("200 OK", body.as_bytes()).await;
        assert!(said(&bare, true).await.contains("hello"));
    }
    let page = answering("200 OK\r\nContent-Type: text/html", b"<html>hello</html>").await;
    let answer = said(&page, false).await;
    assert!(
        answer.contains("text/html instead of a chat completion") && !answer.contains("hello"),
        "{answer}"
    );
}

#[tokio::test]
async fn sources_are_cited_in_either_form() {
    let message =
        json!({"index": 0, "message": {"role": "assistant", "content": "Oslo[1]"}, "finish_reason": "stop"});
    let body = json!({"choices": [message], "citations": ["https://a.example/"]}).to_string();
    let proxy = answering("200 OK\r\nContent-Type: application/json", body.as_bytes()).await;
    for stream in [true, false] {
        let answer = said(&proxy, stream).await;
        let citation = r#"{"type":"url_citation","start_index":4,"end_index":7,"url":"https://a.example/""#;
        assert!(answer.contains(citation), "{answer}");
    }
}

#[tokio::test]
async fn an_encoding_that_nobody_asked_for_is_undone() {
    let events = format!("{}{STOP}", text("hello"));
    let events = events.as_bytes();
    for (label, body) in [
        ("gzip", packed!(GzipEncoder, events)),
        ("x-gzip", packed!(GzipEncoder, events)),
        ("br", packed!(BrotliEncoder, events)),
        ("deflate", packed!(ZlibEncoder, events)),
        ("deflate", packed!(DeflateEncoder, events)),
        ("zstd", packed!(ZstdEncoder, events)),
        ("", packed!(GzipEncoder, events)),
        // said of what is plain
        ("gzip", events.to_vec()),
        ("br", events.to_vec()),
    ] {
        let proxy = answering(
            &format!("200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: {label}"),
            &body,
        )
        .await;
        let answer = said(&proxy, true).await;
        assert!(answer.contains("hello") && answer.contains("response.completed"), "{label}: {answer}");
    }
    let refusal = packed!(GzipEncoder, &br#"{"error":{"message":"no such luck"}}"#[..]);
    let proxy = answering("400 Bad Request\r\nContent-Encoding: gzip", &refusal).await;
    assert!(said(&proxy, false).await.contains("no such luck"));
    // a body that is cut is no whole answer
    let cut = packed!(GzipEncoder, events);
    let proxy = answering("200 OK\r\nContent-Encoding: gzip", &cut[..cut.len() / 2]).await;
    assert!(!said(&proxy, true).await.contains("response.completed"));
}

/// The most memory that it had, in KiB.
#[cfg(target_os = "linux")]
fn peak(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.child.id().unwrap())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_small_body_does_not_become_a_large_one() {
    let mut plain = text("hello").into_bytes();
    plain.extend_from_slice(b"data: ");
    plain.resize(200 << 20, b' ');
    for body in [packed!(GzipEncoder, &plain), packed!(ZstdEncoder, &plain)] {
        let proxy = answering("200 OK\r\nContent-Type: text/event-stream", &body).await;
        let answer = said(&proxy, true).await;
        assert!(answer.contains("hello") && answer.contains("response.failed"), "{}", answer.len());
        #[cfg(target_os = "linux")]
        assert!(peak(&proxy) < 120_000, "{} KiB at the most", peak(&proxy));
    }
}

#[tokio::test]
async fn a_whole_answer_has_an_end() {
    let answer =
        br#"{"choices":[{"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}]}"#;
    for (length, status) in [((256 << 20) - answer.len(), 200), ((256 << 20) + 1, 502)] {
        // behind it: white space, which a JSON text may have
        let mut plain = answer.to_vec();
        plain.resize(length, b' ');
        let body = packed!(ZstdEncoder, &plain);
        drop(plain);
        let proxy = answering("200 OK\r\nContent-Type: application/json", &body).await;
        let got = proxy.post(r#"{"model":"m","input":"x"}"#).send().await.unwrap();
        assert_eq!(got.status(), status);
        let said = got.text().await.unwrap();
        let wanted = if status == 200 { "hello" } else { "answer is longer than 268435456 bytes" };
        assert!(said.contains(wanted), "{said}");
    }
}

#[tokio::test]
async fn an_error_is_read_up_to_its_bound() {
    let error = |length: usize| {
        let mut error = br#"{"error":{"message":"no such luck"}}"#.to_vec();
        error.resize(length, b' ');
        error
    };
    for (length, is_read) in [(256 << 10, true), ((256 << 10) + 1, false), (300 << 20, false)] {
        let proxy = answering("400 Bad Request", &packed!(ZstdEncoder, &error(length))).await;
        let answer = said(&proxy, false).await;
        assert_eq!(answer.contains("no such luck"), is_read, "{length}: {answer}");
        assert!(answer.contains("\"error\""), "{answer}");
        #[cfg(target_os = "linux")]
        assert!(peak(&proxy) < 100_000, "{} KiB at the most", peak(&proxy));
    }
}

#[tokio::test]
async fn what_an_upstream_tells_of_its_limits_reaches_the_client() {
    let limits = "x-ratelimit-remaining-requests: 7\r\nX-RateLimit-Reset-Tokens: 6ms\r\nx-ratelimit-limit-tokens: 9\r\nx-other: 1";
    let events = format!("{}{STOP}", text("hello"));
    let good =
        answering(&format!("200 OK\r\nContent-Type: text/event-stream\r\n{limits}"), events.as_bytes()).await;
    let refused = answering(
        &format!("429 Too Many Requests\r\nretry-after: 11\r\n{limits}"),
        br#"{"message":"slower"}"#,
    )
    .await;
    for (proxy, status) in [(good, 200), (refused, 429)] {
        for stream in [true, false] {
            let body = json!({"model": "m", "input": "x", "stream": stream}).to_string();
            let answer = proxy.post(body).send().await.unwrap();
            let headers = answer.headers();
            assert_eq!(answer.status(), status);
            assert_eq!(headers["x-ratelimit-remaining-requests"], "7");
            assert_eq!(headers["x-ratelimit-reset-tokens"], "6ms");
            assert_eq!(headers["x-ratelimit-limit-tokens"], "9");
            assert!(headers.get("x-other").is_none());
            if status == 429 {
                assert_eq!(headers["retry-after"], "11");
                let error: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
                assert_eq!(error["error"]["message"], "slower");
            }
        }
    }
}
