//! Connections to a server are used again; one that turns out to be closed costs another one, and nobody notices.

use crate::support::keeping::{Keeping, Seen, TEXT};
use crate::support::proxy::{Proxy, STREAM};

/// No look at the server that no request gave rise to.
const NO_LOOKS: [(&str, &str); 1] = [("REJOINDER_UPSTREAM__PROBE_INTERVAL", "1h")];

fn connections(seen: &[Seen]) -> Vec<usize> {
    let mut connections: Vec<usize> = seen.iter().map(|seen| seen.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    connections
}

async fn passed(proxy: &Proxy) -> u16 {
    let request = reqwest::Client::new().get(format!("{}/v1/files", proxy.base));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn requests_one_after_another_share_a_connection() {
    let server = Keeping::start(None).await;
    let proxy = Proxy::start(server.address, &NO_LOOKS, true).await;
    for _ in 0..5 {
        assert!(proxy.stream().await.contains("response.completed"));
        let whole = proxy.post(r#"{"model":"m","input":"hi"}"#).send().await.unwrap();
        assert!(whole.text().await.unwrap().contains(TEXT));
        assert_eq!(passed(&proxy).await, 200);
    }
    let (chat, passed): (Vec<Seen>, Vec<Seen>) =
        server.seen().into_iter().partition(|seen| seen.line == "POST /v1/chat/completions");
    assert_eq!((chat.len(), passed.len()), (10, 5));
    assert_eq!((connections(&chat).len(), connections(&passed).len()), (1, 1), "{chat:?} {passed:?}");
}

/// It is sent as the general client sends it, and takes no other way for that.
#[tokio::test]
async fn the_user_of_a_url_goes_with_requests_that_name_no_other() {
    let server = Keeping::start(None).await;
    let url = format!("http://me:pass%20word@{}", server.address);
    let proxy = Proxy::with(&["--upstream", &url], &NO_LOOKS, true).await;
    assert!(proxy.stream().await.contains("response.completed"));
    assert_eq!(passed(&proxy).await, 200);
    let with_key = proxy.post(STREAM).bearer_auth("key").send().await.unwrap();
    assert!(with_key.text().await.unwrap().contains("response.completed"));
    let sent: Vec<_> = server.seen().into_iter().map(|seen| seen.authorization.unwrap()).collect();
    // base64 of `me:pass word`
    let basic = "Basic bWU6cGFzcyB3b3Jk";
    assert_eq!(sent, [basic, basic, "Bearer key"]);
}

/// A request that is taken back takes its connection along.
#[tokio::test]
async fn a_connection_is_not_used_again_before_its_answer_has_ended() {
    let server = Keeping::start(None).await;
    let proxy = Proxy::start(server.address, &NO_LOOKS, true).await;
    let endless = r#"{"model":"m","input":"endless","stream":true}"#;
    let mut answer = proxy.post(endless).send().await.unwrap();
    assert!(answer.chunk().await.unwrap().is_some());
    assert!(proxy.stream().await.contains("response.completed"));
    drop(answer);
    crate::support::proxy::until(async || server.going() == 0).await;
    assert!(proxy.stream().await.contains("response.completed"));
    let used: Vec<usize> = server.seen().iter().map(|seen| seen.connection).collect();
    assert!(used[0] != used[1] && used[1] == used[2], "{used:?}");
}

/// Four in a row would open the circuit, and each failure would cost a look at the server.
#[tokio::test]
async fn a_connection_that_the_server_closes_as_it_is_used_is_no_failure_of_its() {
    let server = Keeping::closing().await;
    let proxy = Proxy::start(server.address, &NO_LOOKS, true).await;
    let looks = server.probes();
    for _ in 0..5 {
        assert!(proxy.stream().await.contains("response.completed"));
    }
    assert_eq!(connections(&server.seen()).len(), 5);
    assert_eq!(server.probes(), looks);
    let metrics = reqwest::get(format!("{}/metrics", proxy.admin)).await.unwrap().text().await.unwrap();
    assert!(!metrics.contains("rejoinder_failovers_total{"), "{metrics}");
}
