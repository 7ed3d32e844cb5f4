//! Streams beside hostile requests, by the running binary: none fails, none pauses for much longer than without them, and
//! memory goes back. `HOSTILE=60 make bench` is the same with thousands of streams.

#[path = "../../benches/e2e/hostile.rs"]
#[allow(dead_code)] // shared with the bench
mod bench;
#[path = "../../benches/e2e/upstream.rs"]
#[allow(dead_code)] // shared with the bench
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::support::proxy::{Proxy, until};
use bench::Hostile;
use tokio::task::LocalSet;

type Requests = Vec<(&'static str, Arc<Vec<u8>>)>;

/// By how much longer a stream may pause.
const MOST: Duration = Duration::from_millis(100);
/// The machine may be busy with something else, but not each time.
const TRIES: usize = 4;
/// How much more memory than before may stay.
const KEPT: u64 = 48 << 20;

fn memory(proxy: &Proxy) -> u64 {
    let file = format!("/proc/{}/smaps_rollup", proxy.child.id().unwrap());
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// `count` streams of some seconds, without and with `requests` beside them.
async fn unhurt(count: usize, tokens: usize, requests: Requests, every: Duration) {
    let at = upstream::start(upstream::Shared::default()).await.unwrap();
    let proxy = Proxy::start(at, &[], true).await;
    let address: SocketAddr = proxy.base.strip_prefix("http://").unwrap().parse().unwrap();
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let alone = bench::streams(address, count, tokens).await;
        let before = memory(&proxy);
        let hostile = Hostile::start(address, requests.clone(), every);
        let beside = bench::streams(address, count, tokens).await;
        let answers = hostile.stop().await;
        assert!(beside.failures.is_empty(), "{:?} {answers:?}", beside.failures);
        for (name, answers) in &answers {
            let told = answers.keys().all(|status| ["200", "400", "413", "429"].contains(&&**status));
            assert!(told && !answers.is_empty(), "{name}: {answers:?}");
        }
        until(async || memory(&proxy) <= before + KEPT).await;
        seen.push(format!("alone: {}\nbeside: {}\n{answers:?}", alone.line(), beside.line()));
        if beside.most() <= alone.most() + MOST {
            return;
        }
    }
    panic!("streams paused each time:\n{}", seen.join("\n"));
}

#[tokio::test]
async fn requests_made_to_hurt_hold_up_no_stream() {
    let requests = bench::attacks().into_iter().map(|(name, body)| (name, Arc::new(body))).collect();
    LocalSet::new().run_until(unhurt(200, 100, requests, Duration::from_secs(1))).await;
}

#[tokio::test]
async fn six_large_bodies_at_a_time_hold_up_no_stream() {
    let body = Arc::new(bench::large(100_000_000 / bench::SLOWER));
    let requests = (0..6).map(|_| ("large", body.clone())).collect();
    LocalSet::new().run_until(unhurt(50, 100, requests, Duration::from_millis(100))).await;
}
