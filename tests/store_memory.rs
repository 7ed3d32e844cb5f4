//! What conversations cost in memory, in a process of their own, so that its size means something.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "integration/support/store.rs"]
#[allow(dead_code, reason = "shared with tests/integration")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use rejoinder::store::Store;
use rejoinder::store::memory::{MemoryLimits, MemoryStore};
use rejoinder_core::{Input, Output};
use support::{ALICE, turn};

const TURNS: usize = 200;
const HALF: usize = 1024;

/// Bytes of this process that lie in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

async fn conversation(store: &MemoryStore, name: &str) {
    for n in 0..TURNS {
        let parent = (n > 0).then(|| format!("resp_{name}_{}", n - 1));
        let mut turn = turn(&format!("resp_{name}_{n}"), parent.as_deref());
        (turn.input, turn.output) = (Input::new(&"i".repeat(HALF)), Output::new("o".repeat(HALF), "resp_"));
        store.put(ALICE, Arc::new(turn)).await.unwrap();
    }
}

#[tokio::test]
async fn two_hundred_turns_of_two_kilobytes_cost_three_times_that_at_most() {
    let bounds = MemoryLimits { ttl: Duration::from_secs(86_400), entries: 1_000_000, bytes: 1 << 30 };
    let store = MemoryStore::new(bounds, Arc::new(|| 0));
    // what the cache sets up once is no conversation's cost
    conversation(&store, "first").await;
    let before = resident();
    conversation(&store, "second").await;
    let bytes = TURNS * 2 * HALF;
    let grown = resident().saturating_sub(before);
    println!(
        "{TURNS} turns of 2 KB: {bytes} bytes sent, {grown} grown, {:.2} times",
        grown as f64 / bytes as f64
    );
    assert!(grown <= 3 * bytes, "{grown} for {bytes}");
    // and ten more conversations cost ten times one, not a hundred times
    for n in 0..10 {
        conversation(&store, &n.to_string()).await;
    }
    let grown = resident().saturating_sub(before);
    println!("eleven such conversations: {grown} grown, {:.2} times", grown as f64 / (11 * bytes) as f64);
    assert!(grown <= 3 * 11 * bytes, "{grown} for {}", 11 * bytes);
    assert!(grown >= 11 * bytes, "it is all there: {grown}");
    assert!(store.turn(ALICE, "resp_second_0").await.unwrap().is_some());
}
