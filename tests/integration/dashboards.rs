//! The alerts and the dashboard of `deploy/` ask for metrics that there are.

use std::collections::BTreeSet;
use std::path::Path;

use rejoinder::telemetry::{Answered, Ended, Metrics, Server};

const FILES: [&str; 2] = ["deploy/prometheus/alerts.yml", "deploy/grafana/rejoinder.json"];

/// The names under which a scrape has the metrics: counters end with `_total`, histograms have three each.
fn scraped() -> BTreeSet<String> {
    let metrics = Metrics::new();
    // a family is not written before it has a member
    let _ = metrics.requests.get_or_create(&Answered { endpoint: "responses", status: 200 });
    let _ = metrics.responses.get_or_create(&Ended { outcome: "completed", stream: "true" });
    let server = Server { upstream: "http://server".to_owned() };
    let _ = metrics.routing.up.get_or_create(&server);
    let _ = metrics.routing.in_flight.get_or_create(&server);
    metrics.routing.affinity("hit");
    metrics.routing.failover("503");
    metrics.routing.slot_restored("used");
    metrics.key_request("anna");
    metrics.key_tokens("anna", 1);
    metrics.error("server_error");
    metrics.note("hidden_tool");
    metrics.repair("patch_fences", 1);
    let text = metrics.encode();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
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

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let (scraped, mut asked) = (scraped(), BTreeSet::new());
    for file in FILES {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        let names = text.split(|c| !is_part(c)).filter(|word| word.starts_with("rejoinder_"));
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
