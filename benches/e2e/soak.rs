//! A long run: 1,000 streams, a token each 20 ms, one stream after another on every connection. It tells how memory
//! goes and whether any stream went wrong.

use std::time::{Duration, Instant};

use crate::scenarios::Bench;
use crate::targets::Target;
use crate::upstream::Kind;

const STREAMS: usize = 1000;
/// 10 s a stream.
const TOKENS: usize = 500;
const EVERY: Duration = Duration::from_millis(20);

/// Runs for `seconds`, and prints.
///
/// # Errors
/// When a stream was wrong, or memory grew by more than a tenth between the first third and the last.
pub async fn run(bench: &Bench, target: &Target, seconds: u64) -> Result<(), String> {
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    println!("idle: {:.1} MB", target.idle as f64 / 1e6);
    let mut memories = Vec::new();
    let (mut streams, mut latencies_p99) = (0, Vec::new());
    while Instant::now() < end {
        let middle = async {
            tokio::time::sleep(Duration::from_secs(6)).await;
            target.memory()
        };
        let script = bench.script(Kind::Text, TOKENS, 1, EVERY);
        let (crowd, memory) = tokio::join!(bench.crowd(target, STREAMS, script), middle);
        let (cpu, latencies) = crowd?;
        streams += STREAMS;
        memories.push(memory);
        let mut micros: Vec<f64> = latencies.iter().map(|latency| latency.as_secs_f64() * 1e6).collect();
        let p99 = crate::scenarios::percentile(&mut micros, 99.0);
        latencies_p99.push(p99);
        println!(
            "{:4} s: {streams} streams without error, {:.1} MB, {:.2} us CPU a token, p99 {p99:.0} us",
            begun.elapsed().as_secs(),
            memory as f64 / 1e6,
            cpu.as_secs_f64() * 1e6 / (STREAMS * TOKENS) as f64,
        );
    }
    let third = (memories.len() / 3).max(1);
    let most = |memories: &[u64]| memories.iter().copied().max().unwrap_or(0) as f64 / 1e6;
    let (first, last) = (most(&memories[..third]), most(&memories[memories.len() - third..]));
    println!(
        "memory: at most {first:.1} MB in the first third, {last:.1} MB in the last; after: {:.1} MB",
        target.memory() as f64 / 1e6
    );
    if last > first * 1.1 { Err("memory grew".to_owned()) } else { Ok(()) }
}
