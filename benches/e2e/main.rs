//! `make bench`, end to end: rejoinder beside nginx, which passes the same chat stream through unparsed and so shows
//! what moving the bytes costs. Both run on one core, the load generator and an upstream that costs nearly nothing on
//! another; every figure is the kernel's, per process, and every comparison is of one run.
//!
//! Variables: `ROUNDS` (5), `QUICK=1` (one short round), `ONLY=S1,S5`, `BASE=path` (another build of rejoinder, shown
//! beside; with S4 also `BASE=bare`, a proxy that translates nothing, and `BASE=core`, that proxy with our core in it),
//! `REJOINDER_BIN`, `SOAK=600` (1,000 streams for so many seconds, in place of the scenarios), `HOSTILE=60` (`STREAMS=5000`
//! for so many seconds, without and with hostile requests beside them, likewise).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    reason = "a bench prints, and fails by panicking"
)]

mod bare;
#[path = "../../tests/integration/support/checker.rs"]
mod checker;
mod client;
mod hostile;
mod scenarios;
mod siege;
mod soak;
mod table;
mod targets;
mod upstream;

use std::path::PathBuf;
use std::process::ExitCode;

use scenarios::{Bench, SCENARIOS};
use table::Table;
use targets::Target;

fn main() -> ExitCode {
    if let [_, name, listen, upstream] = &std::env::args().collect::<Vec<_>>()[..]
        && targets::FLOORS.contains(&name.as_str())
    {
        let address = |text: &String| text.parse().expect("an address");
        let served = bare::run(address(listen), address(upstream), name == targets::CORE);
        return served.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    match runtime.block_on(local.run_until(run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let quick = variable("QUICK").is_some_and(|value| value != "0");
    let rounds = variable("ROUNDS").and_then(|n| n.parse().ok()).unwrap_or(if quick { 1 } else { 5 });
    let only = variable("ONLY");
    let binary = match variable("REJOINDER_BIN") {
        Some(path) => PathBuf::from(path),
        None => beside()?,
    };
    let base = variable("BASE").map(PathBuf::from);
    targets::prepare();
    let seen = upstream::Shared::default();
    let address = upstream::start(seen.clone()).await.map_err(|error| error.to_string())?;
    let bench = Bench::new(seen, quick);
    if let Some(seconds) = variable("SOAK").and_then(|n| n.parse().ok()) {
        return soak::run(&bench, &Target::rejoinder("rejoinder", &binary, address)?, seconds).await;
    }
    if let Some(seconds) = variable("HOSTILE").and_then(|n| n.parse().ok()) {
        let streams = variable("STREAMS").and_then(|n| n.parse().ok()).unwrap_or(5000);
        return siege::run(&Target::unpinned("rejoinder", &binary, address)?, streams, seconds).await;
    }
    println!("rejoinder: {}", binary.display());
    println!("load average at the start: {}", load());
    let mut table = Table::default();
    for (scenario, what) in SCENARIOS {
        if only.as_ref().is_some_and(|only| !only.split(',').any(|name| name == scenario)) {
            continue;
        }
        eprintln!("{scenario}: {what}");
        // fresh processes, so that no scenario pays for the memory of another
        let mut targets = vec![Target::nginx(address)?, Target::rejoinder("rejoinder", &binary, address)?];
        match &base {
            Some(base) if targets::FLOORS.iter().any(|floor| base.as_os_str() == *floor) => {
                targets.push(Target::bare(&base.display().to_string(), address)?);
            }
            Some(base) => targets.push(Target::rejoinder("base", base, address)?),
            None => {}
        }
        for round in 0..rounds {
            for at in 0..targets.len() {
                let target = &targets[(at + round) % targets.len()];
                match bench.run(scenario, target).await.map_err(|error| format!("{scenario}: {error}"))? {
                    Some(figures) => table.add(&target.name, round, figures),
                    None if target.name == "nginx" => {}
                    None => table.skip(scenario, "the server knows no previous_response_id"),
                }
            }
        }
    }
    print!("{table}");
    println!("load average at the end: {}; {rounds} rounds, medians", load());
    Ok(())
}

/// The release binary of the build folder that this bench lies in.
fn beside() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let found = own.ancestors().map(|folder| folder.join("release/rejoinder")).find(|path| path.exists());
    found.ok_or(
        "no release binary; build it first (cargo build --release), or name it in REJOINDER_BIN".to_owned(),
    )
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}
