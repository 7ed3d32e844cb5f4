//! Many streams at 20 tokens a second, first alone, then with hostile requests beside them, then with six bodies of 100 MB:
//! what it does to the streams, and to memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hostile::{self, EVERY, Hostile, Pauses, millis};
use crate::targets::Target;

/// By how much longer a stream may pause.
const MOST: Duration = Duration::from_millis(100);
/// How long memory may take to go back.
const REST: Duration = Duration::from_secs(20);
/// How much more of it than before may stay, in bytes.
const KEPT: u64 = 32 << 20;
/// The most that one stream may take: 5,000 fit into 1 GiB.
const OF_A_STREAM: u64 = (1 << 30) / 5000;

/// Runs each part for `seconds`, and prints.
///
/// # Errors
/// When a stream failed, paused for too much longer, or memory did not go back.
pub async fn run(target: &Target, streams: usize, seconds: u64) -> Result<(), String> {
    println!("{streams} streams, a token each {} ms, {seconds} s a part", EVERY.as_millis());
    let tokens = (u128::from(seconds) * 1000 / EVERY.as_millis()) as usize;
    println!("memory, idle: {}", megabytes(target.memory()));
    target.forget_peak();
    let alone = hostile::streams(target.address, streams, tokens).await;
    println!("alone: {}", alone.line());
    let peak = target.peak();
    println!("memory, most: {}, {:.1} KB a stream", megabytes(peak), peak as f64 / 1e3 / streams as f64);
    let before = rest(target, 0).await;
    println!("memory, after that: {}", megabytes(before));
    let mut wrong = alone.failures.clone();
    if peak > OF_A_STREAM * streams as u64 {
        wrong.push(format!("{streams} streams took {}", megabytes(peak)));
    }
    let each = |attacks: Vec<(&'static str, Vec<u8>)>| {
        attacks.into_iter().map(|(name, body)| (name, Arc::new(body))).collect::<Vec<_>>()
    };
    let large = Arc::new(hostile::large(100_000_000));
    let parts = [
        ("hostile requests, each once a second", each(hostile::attacks())),
        ("six bodies of 100 MB at a time", (0..6).map(|_| ("100 MB", large.clone())).collect()),
    ];
    for (what, requests) in parts {
        target.forget_peak();
        let hostile = Hostile::start(target.address, requests, Duration::from_secs(1));
        let beside = hostile::streams(target.address, streams, tokens).await;
        println!("{what}: {}", beside.line());
        for (name, answers) in hostile.stop().await {
            println!("  {name}: {answers:?}");
        }
        wrong.extend(judge(what, &alone, &beside));
        let peak = target.peak();
        let after = rest(target, before + KEPT).await;
        println!("memory, most: {}, after it: {}", megabytes(peak), megabytes(after));
        if after > before + KEPT {
            wrong.push(format!("{what}: memory did not go back"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into_iter().take(20).collect::<Vec<_>>().join("\n")) }
}

fn judge(what: &str, alone: &Pauses, beside: &Pauses) -> Vec<String> {
    let mut wrong: Vec<String> = beside.failures.iter().map(|failure| format!("{what}: {failure}")).collect();
    let more = beside.most().saturating_sub(alone.most());
    if more > MOST {
        wrong.push(format!("{what}: a stream paused for {:.0} ms more", millis(more)));
    }
    wrong
}

/// Memory once it is at most `goal`, or after a while.
async fn rest(target: &Target, goal: u64) -> u64 {
    let begun = Instant::now();
    loop {
        let memory = target.memory();
        if memory <= goal || begun.elapsed() > REST {
            return memory;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
