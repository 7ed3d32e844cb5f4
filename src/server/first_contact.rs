//! Owns what a person at a terminal is told after the start: what was found, where we listen, and how a client gets
//! here. It must not say anything to a log that a program reads.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::app::App;
use crate::config::{Config, LogFormat};
use crate::telemetry::escaped;
use crate::upstream::{Model, ServerStatus};

/// Time until it is said that a server is waited for.
const QUIET: Duration = Duration::from_secs(2);
/// Time between two lines on what is waited for.
const REPEAT: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(100);
/// Models of one server that are named.
const SHOWN: usize = 8;

/// Greets once the servers are known, and says what is waited for until then. Does nothing where nobody looks.
pub async fn greet(app: Arc<App>, listen: SocketAddr, admin: SocketAddr) {
    if app.config.log.format != LogFormat::Auto || !io::stderr().is_terminal() {
        return;
    }
    let upstream = &app.upstream;
    let tls = &app.config.tls;
    let places = Places {
        listen,
        admin,
        tls: tls.certificate.is_some(),
        admin_tls: tls.admin,
        page: app.activity.is_some(),
    };
    let begun = Instant::now();
    let mut told = false;
    let mut next = QUIET;
    while upstream.ready().is_err() {
        if begun.elapsed() >= next {
            if !told {
                say(&greeting(&upstream.seen(), &places));
            }
            say(&waiting(&upstream.seen(), begun.elapsed()));
            told = true;
            next += REPEAT;
        }
        tokio::time::sleep(TICK).await;
    }
    if told {
        say(&servers(&upstream.seen()));
    } else {
        say(&greeting(&upstream.seen(), &places));
    }
}

/// At once, so that no log line comes between.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Where we listen.
struct Places {
    listen: SocketAddr,
    admin: SocketAddr,
    tls: bool,
    admin_tls: bool,
    /// Whether `/ui` is there.
    page: bool,
}

fn greeting(seen: &[ServerStatus], places: &Places) -> String {
    let Places { listen, admin, .. } = *places;
    let scheme = |tls| if tls { "https" } else { "http" };
    let usual = listen.ip().is_loopback() && listen.port() == Config::default().listen.port();
    let place = match (places.tls, usual) {
        (true, _) => format!(" --url https://NAME:{}", listen.port()),
        (false, true) => String::new(),
        (false, false) => format!(" --listen {}", reached(listen)),
    };
    let (api, admin) = (scheme(places.tls), format!("{}://{}", scheme(places.admin_tls), reached(admin)));
    let page = if places.page { format!("  page           {admin}/ui\n") } else { String::new() };
    format!(
        "\nRejoinder {}\n  Responses API  {api}://{}/v1\n  health         {admin}/readyz\n{page}{}\n\
         In another terminal:\n  rejoinder setup codex --write{place}   points Codex here (also droid, opencode, vscode)\n  \
         rejoinder launch codex{place}          starts Codex on it, writes nothing\n\n",
        env!("CARGO_PKG_VERSION"),
        reached(listen),
        servers(seen),
    )
}

/// The address for a client on this machine.
fn reached(address: SocketAddr) -> SocketAddr {
    let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    SocketAddr::new(ip, address.port())
}

/// A line for each server.
fn servers(seen: &[ServerStatus]) -> String {
    let mut text = String::new();
    for server in seen {
        let found = match (&server.ready, &server.facts) {
            (Err(reason), _) => format!("not ready: {}", escaped(reason)),
            (Ok(()), None) => "ready".to_owned(),
            (Ok(()), Some(facts)) => {
                let slots = facts.slots.map_or_else(String::new, |slots| format!(", {slots} slots"));
                let model = |model: &Model| {
                    let context = model.traits.or(facts.traits_of(&model.id)).context;
                    let context =
                        context.map_or("context unknown".to_owned(), |context| format!("{context} tokens"));
                    format!("{} ({context})", escaped(&model.id))
                };
                let names: Vec<String> = facts.models.iter().take(SHOWN).map(model).collect();
                let more = facts.models.len().saturating_sub(SHOWN);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let names = if names.is_empty() { "no model".to_owned() } else { names.join(", ") };
                format!("{}: {names}{more}{slots}", facts.dialect.name)
            }
        };
        // writing to a String cannot fail
        let _ = writeln!(text, "  upstream       {}  {found}", escaped(&server.label));
    }
    text
}

fn waiting(seen: &[ServerStatus], time: Duration) -> String {
    let labels: Vec<String> = seen.iter().map(|server| escaped(&server.label)).collect();
    format!(
        "  waiting for {} ... {} s (requests wait too, up to upstream.ready_timeout; \"rejoinder doctor\" says what is wrong)\n",
        labels.join(", "),
        time.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use rejoinder_core::dialect::LLAMA_SERVER;

    use super::*;
    use crate::upstream::{Saves, ServerInfo, Traits};

    fn status(ready: Result<(), String>) -> ServerStatus {
        let traits = Traits { context: Some(32768), ..Traits::default() };
        let model = Model { id: "qwen\u{1b}[2J".into(), aliases: Vec::new(), traits, loaded: None };
        let facts = ServerInfo { models: vec![model], slots: Some(2), ..ServerInfo::of(&LLAMA_SERVER) };
        let (label, models) = ("http://gpu:8080".to_owned(), None);
        ServerStatus { label, ready, facts: Some(Arc::new(facts)), in_flight: 0, models, saves: Saves::Off }
    }

    #[test]
    fn it_says_what_was_found_and_how_a_client_gets_here() {
        let address = |port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let places = |listen, tls, page| Places { listen, admin: address(9001), tls, admin_tls: false, page };
        let text = greeting(&[status(Ok(()))], &places(address(9000), false, true));
        for want in [
            "http://127.0.0.1:9000/v1\n",
            "http://127.0.0.1:9001/readyz\n",
            "http://127.0.0.1:9001/ui\n",
            "http://gpu:8080  llama_server: qwen",
            "(32768 tokens), 2 slots",
            "rejoinder setup codex --write --listen 127.0.0.1:9000",
            "rejoinder launch codex --listen 127.0.0.1:9000",
        ] {
            assert!(text.contains(want), "{want}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let usual = greeting(&[], &places(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8081), false, false));
        assert!(usual.contains("setup codex --write  ") && !usual.contains("--listen"), "{usual}");
        assert!(!usual.contains("/ui"), "{usual}");
        let tls = greeting(&[], &places(address(443), true, false));
        assert!(tls.contains("https://127.0.0.1:443/v1") && tls.contains("--url https://NAME:443"), "{tls}");
    }

    #[test]
    fn a_server_that_is_not_ready_is_named_with_its_reason() {
        let text = servers(&[status(Err("connection refused".to_owned()))]);
        assert!(text.contains("http://gpu:8080  not ready: connection refused"), "{text}");
        let text = waiting(&[status(Ok(()))], Duration::from_secs(12));
        assert!(text.contains("http://gpu:8080 ... 12 s") && text.contains("doctor"), "{text}");
    }
}
