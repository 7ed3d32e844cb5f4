//! Owns the metrics of responses: what they took, by model. They are counted once, at a response's end. Their names are
//! our own, or those of OpenTelemetry's conventions for generative AI, in Prometheus' spelling, with their boundaries.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use rejoinder_core::Usage;

use super::TIME_BUCKETS;
use crate::config::MetricNames;

/// Names and values of labels: which there are depends on the names that are chosen.
type Labels = Vec<(&'static str, String)>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// Most names of models that become a label.
const MOST_MODELS: usize = 100;
/// The label of every other model.
const OTHER: &str = "other";

const INTERVALS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0];
const GEN_AI_TOKENS: [f64; 14] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];
const GEN_AI_DURATIONS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const GEN_AI_FIRST_TOKENS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const GEN_AI_INTERVALS: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

/// What is measured of one response, at its end.
#[derive(Debug, Default)]
pub struct ResponseNumbers<'a> {
    /// The model, if it is one that a server has.
    pub model: Option<&'a str>,
    /// Why it failed.
    pub error: Option<&'static str>,
    /// The tokens that the upstream counted.
    pub usage: Option<Usage>,
    /// From the request's head to the end.
    pub duration: Duration,
    /// To the first of its output, if it was streamed.
    pub first_token: Option<Duration>,
    /// Whether it has all of its output: how fast it came can be told.
    pub whole: bool,
}

/// What responses took.
#[derive(Debug)]
pub struct ResponseMetrics {
    names: MetricNames,
    models: Mutex<HashSet<String>>,
    tokens: Family<Labels, Counter>,
    token_usage: Histograms,
    duration: Histograms,
    first_token: Histograms,
    token_interval: Histograms,
}

impl ResponseMetrics {
    pub(super) fn new(names: MetricNames) -> ResponseMetrics {
        let own = names == MetricNames::Rejoinder;
        let of = |ours: fn() -> Histogram, theirs: fn() -> Histogram| {
            Histograms::new_with_constructor(if own { ours } else { theirs })
        };
        let times: fn() -> Histogram = || Histogram::new(TIME_BUCKETS);
        ResponseMetrics {
            names,
            models: Mutex::default(),
            tokens: Family::default(),
            token_usage: Histograms::new_with_constructor(|| Histogram::new(GEN_AI_TOKENS)),
            duration: of(times, || Histogram::new(GEN_AI_DURATIONS)),
            first_token: of(times, || Histogram::new(GEN_AI_FIRST_TOKENS)),
            token_interval: of(|| Histogram::new(INTERVALS), || Histogram::new(GEN_AI_INTERVALS)),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let own = registry.sub_registry_with_prefix("rejoinder");
        own.register("tokens", "Tokens as the upstream counted them", self.tokens.clone());
        let (registry, [duration, first_token, token_interval]) = match self.names {
            MetricNames::Rejoinder => (own, ["response_duration", "first_token", "token_interval"]),
            MetricNames::GenAi => {
                let help = "Tokens of prompts and of answers, by response";
                registry.register("gen_ai_client_token_usage", help, self.token_usage.clone());
                let names = [
                    "gen_ai_server_request_duration",
                    "gen_ai_server_time_to_first_token",
                    "gen_ai_server_time_per_output_token",
                ];
                (registry, names)
            }
        };
        for (name, help, histograms) in [
            (duration, "Time from request to the end of its response", &self.duration),
            (
                first_token,
                "Time from request to the first of its response's output, if streamed",
                &self.first_token,
            ),
            (token_interval, "Mean time between two tokens of a streamed response", &self.token_interval),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histograms.clone());
        }
    }

    /// Counts a response that has ended.
    pub fn ended(&self, numbers: &ResponseNumbers<'_>) {
        let model = self.known(numbers.model);
        let labels = self.labels(&model);
        let mut all = labels.clone();
        if self.names == MetricNames::GenAi {
            all.extend(numbers.error.map(|error| ("error_type", error.to_owned())));
        }
        self.duration.get_or_create(&all).observe(numbers.duration.as_secs_f64());
        if let Some(usage) = numbers.usage {
            self.count(&model, &labels, usage);
        }
        let Some(first) = numbers.first_token else { return };
        self.first_token.get_or_create(&labels).observe(first.as_secs_f64());
        let intervals = numbers.usage.map_or(0, |usage| usage.output.saturating_sub(1));
        if numbers.whole && intervals > 0 {
            let rest = numbers.duration.saturating_sub(first).as_secs_f64();
            self.token_interval.get_or_create(&labels).observe(rest / f64::from(intervals));
        }
    }

    fn count(&self, model: &str, labels: &Labels, usage: Usage) {
        let Usage { input, cached, output, reasoning, .. } = usage;
        for (kind, count) in
            [("input", input), ("cached", cached), ("output", output), ("reasoning", reasoning)]
        {
            let labels = vec![("kind", kind.to_owned()), ("model", model.to_owned())];
            self.tokens.get_or_create(&labels).inc_by(count.into());
        }
        if self.names == MetricNames::GenAi {
            for (kind, count) in [("input", input), ("output", output)] {
                let mut labels = labels.clone();
                labels.push(("gen_ai_token_type", kind.to_owned()));
                self.token_usage.get_or_create(&labels).observe(count.into());
            }
        }
    }

    fn labels(&self, model: &str) -> Labels {
        match self.names {
            MetricNames::Rejoinder => vec![("model", model.to_owned())],
            MetricNames::GenAi => vec![
                ("gen_ai_operation_name", "chat".to_owned()),
                ("gen_ai_provider_name", "openai".to_owned()),
                ("gen_ai_request_model", model.to_owned()),
            ],
        }
    }

    /// The label of a model: its name as long as there are not too many.
    fn known(&self, model: Option<&str>) -> String {
        let Some(model) = model else { return OTHER.to_owned() };
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if models.len() < MOST_MODELS && !models.contains(model) {
            models.insert(model.to_owned());
        }
        if models.contains(model) { model.to_owned() } else { OTHER.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn scraped(names: MetricNames, responses: &[ResponseNumbers<'_>]) -> String {
        let metrics = Metrics::new(names);
        responses.iter().for_each(|numbers| metrics.response.ended(numbers));
        metrics.encode()
    }

    fn whole(model: Option<&str>) -> ResponseNumbers<'_> {
        let usage = Usage { input: 100, cached: 60, written: 0, output: 11, reasoning: 4 };
        ResponseNumbers {
            model,
            error: None,
            usage: Some(usage),
            duration: Duration::from_secs(3),
            first_token: Some(Duration::from_secs(1)),
            whole: true,
        }
    }

    #[test]
    fn the_time_between_tokens_is_the_rest_over_the_tokens_behind_the_first() {
        let text = scraped(MetricNames::Rejoinder, &[whole(Some("m"))]);
        for line in [
            "rejoinder_token_interval_seconds_sum{model=\"m\"} 0.2",
            "rejoinder_first_token_seconds_sum{model=\"m\"} 1.0",
            "rejoinder_response_duration_seconds_sum{model=\"m\"} 3.0",
            "rejoinder_tokens_total{kind=\"cached\",model=\"m\"} 60",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
        // of one token, of a part, or of what was not streamed there is none
        let usage = Usage { output: 1, ..whole(None).usage.unwrap() };
        for numbers in [
            ResponseNumbers { usage: Some(usage), ..whole(None) },
            ResponseNumbers { whole: false, ..whole(None) },
            ResponseNumbers { first_token: None, ..whole(None) },
        ] {
            assert!(!scraped(MetricNames::Rejoinder, &[numbers]).contains("token_interval_seconds_sum"));
        }
    }

    #[test]
    fn the_conventions_names_and_labels_stand_in_the_place_of_ours() {
        let failed = ResponseNumbers { error: Some("upstream_error"), ..whole(None) };
        let text = scraped(MetricNames::GenAi, &[whole(Some("m")), failed]);
        let labels = "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"openai\",gen_ai_request_model=";
        for line in [
            format!("gen_ai_client_token_usage_sum{{{labels}\"m\",gen_ai_token_type=\"input\"}} 100.0"),
            format!(
                "gen_ai_client_token_usage_bucket{{le=\"16.0\",{labels}\"m\",gen_ai_token_type=\"output\"}} 1"
            ),
            format!("gen_ai_server_request_duration_seconds_sum{{{labels}\"m\"}} 3.0"),
            format!(
                "gen_ai_server_request_duration_seconds_sum{{{labels}\"other\",error_type=\"upstream_error\"}} 3.0"
            ),
            format!("gen_ai_server_time_to_first_token_seconds_bucket{{le=\"1.0\",{labels}\"m\"}} 1"),
            format!("gen_ai_server_time_per_output_token_seconds_bucket{{le=\"0.15\",{labels}\"m\"}} 0"),
        ] {
            assert!(text.contains(&line), "no {line} in {text}");
        }
        assert!(!text.contains("rejoinder_first_token") && !text.contains("rejoinder_response_duration"));
    }

    #[test]
    fn there_are_no_more_models_than_are_taken() {
        let names: Vec<String> = (0..MOST_MODELS + 5).map(|n| format!("m{n}")).collect();
        let responses: Vec<_> = names.iter().map(|name| whole(Some(name))).collect();
        let text = scraped(MetricNames::Rejoinder, &responses);
        assert_eq!(text.matches("rejoinder_first_token_seconds_count{").count(), MOST_MODELS + 1);
        assert!(text.contains("rejoinder_first_token_seconds_count{model=\"other\"} 5"));
    }
}
