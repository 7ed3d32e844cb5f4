//! The alerts and the dashboard of `deploy/` ask for metrics that there are.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rejoinder::config::MetricNames;
use rejoinder::telemetry::{Answered, Ended, Metrics, ResponseNumbers, Server};
use rejoinder_core::{Timings, Usage};

const FILES: [&str; 2] = ["deploy/prometheus/alerts.yml", "deploy/grafana/rejoinder.json"];

/// A scrape of a process in which everything has happened.
fn scrape(names: MetricNames) -> String {
    let metrics = Metrics::new(names);
    // a family is not written before it has a member
    let _ = metrics.requests.get_or_create(&Answered { endpoint: "responses", status: 200 });
    let _ = metrics.responses.get_or_create(&Ended { outcome: "completed", stream: "true" });
    let server = Server { upstream: "http://server".to_owned() };
    let _ = metrics.routing.up.get_or_create(&server);
    let _ = metrics.routing.in_flight.get_or_create(&server);
    metrics.routing.affinity("hit");
    metrics.routing.failover("503");
    metrics.routing.slot_restored("used");
    metrics.routing.prompt("http://server".to_owned()).set(1);
    metrics.routing.worked("http://server", &Timings { draft_n: Some(2), ..Timings::default() });
    let usage = Usage { input: 1, cached: 0, written: 0, output: 2, reasoning: 0 };
    let response = ResponseNumbers {
        error: Some("server_error"),
        usage: Some(usage),
        first_token: Some(Duration::ZERO),
        whole: true,
        ..ResponseNumbers::default()
    };
    metrics.response.ended(&response);
    metrics.key_request("anna");
    metrics.key_tokens("anna", 1);
    metrics.limit_reached("max_connections");
    metrics.connection_failed("tls");
    metrics.error("server_error");
    metrics.note("hidden_tool");
    metrics.repair("patch_fences", 1);
    metrics.encode()
}

/// Name and type of each family of a scrape.
fn families(scrape: &str) -> impl Iterator<Item = (&str, &str)> {
    scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
}

/// The names under which a scrape has them: counters end with `_total`, histograms have three each.
fn scraped() -> BTreeSet<String> {
    let both = [MetricNames::Rejoinder, MetricNames::GenAi].map(scrape).concat();
    families(&both)
        .flat_map(|(name, kind)| {
            let endings: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                _ => &[""],
            };
            endings.iter().map(move |ending| [name, ending].concat())
        })
        .collect()
}

/// Name, type and labels of each family of a scrape, as the document writes them.
fn told(scrape: &str) -> BTreeSet<[String; 3]> {
    let labels = |family: &str| -> String {
        let samples = scrape.lines().filter_map(|line| line.strip_prefix(family));
        let of = |sample: &str| {
            let rest = ["_total", "_bucket", "_info"].iter().find_map(|ending| sample.strip_prefix(ending));
            let labels = rest.unwrap_or(sample).strip_prefix('{')?.split('}').next()?.to_owned();
            let names =
                labels.split("\",").filter_map(|label| Some(format!("`{}`", label.split_once('=')?.0)));
            Some(names.filter(|name| name != "`le`").collect::<Vec<_>>())
        };
        let all: BTreeSet<String> = samples.filter_map(of).flatten().collect();
        if all.is_empty() { "none".to_owned() } else { all.into_iter().collect::<Vec<_>>().join(", ") }
    };
    families(scrape).map(|(name, kind)| [name.to_owned(), kind.to_owned(), labels(name)]).collect()
}

/// Each metric has a row with its type and its labels, and each row has a metric.
#[test]
fn the_document_tells_of_every_metric() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    let rows = |part: &str| -> BTreeSet<[String; 3]> {
        let rows = part.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.map(|row| {
            let mut cells = row.split(" | ");
            let mut next = || cells.next().unwrap().to_owned();
            let (name, kind, labels) = (next(), next(), next());
            let mut labels: Vec<&str> = labels.split(", ").collect();
            labels.sort_unstable();
            [name.trim_end_matches('`').to_owned(), kind, labels.join(", ")]
        })
        .collect()
    };
    let (own, conventions) = text.split_once("## Names of the conventions").unwrap();
    assert_eq!(rows(own), told(&scrape(MetricNames::Rejoinder)));
    let new: BTreeSet<_> = told(&scrape(MetricNames::GenAi)).difference(&rows(own)).cloned().collect();
    assert_eq!(rows(conventions), new);
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let (scraped, mut asked) = (scraped(), BTreeSet::new());
    for file in FILES {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        let names = text.split(|c| !is_part(c)).filter(|word| {
            ["rejoinder_", "gen_ai_client_", "gen_ai_server_"].iter().any(|start| word.starts_with(start))
        });
        let before = asked.len();
        for name in names {
            assert!(scraped.contains(name), "{file} asks for {name}, which is none of {scraped:?}");
            asked.insert(name.to_owned());
        }
        assert!(asked.len() > before, "{file} asks for nothing");
    }
    // and the other way round: an operator is shown every metric, but for the version
    let shown = |name: &&String| {
        let family = name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count");
        asked.iter().any(|asked| asked.starts_with(family))
    };
    let hidden: Vec<&String> = scraped.iter().filter(|name| !shown(name)).collect();
    assert!(hidden.is_empty(), "no panel and no alert shows {hidden:?}");
}
