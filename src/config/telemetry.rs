//! Owns the keys of metrics and traces. It must not count or send anything.

use serde::{Deserialize, Serialize};

use super::MetricNames;

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// How metrics are called for which there is a convention.
    pub names: MetricNames,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        MetricsConfig { names: MetricNames::Rejoinder }
    }
}

/// `[traces]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracesConfig {
    /// URL of an OpenTelemetry collector that takes OTLP over HTTP; without it there are no traces.
    pub endpoint: Option<String>,
    /// Which part of the requests has spans, from 0 to 1; one whose client has a trace follows that.
    pub sample: f64,
}

impl Default for TracesConfig {
    fn default() -> Self {
        TracesConfig { endpoint: None, sample: 1.0 }
    }
}

/// A part of a whole, as a number or as text.
pub(super) fn fraction(value: &figment::value::Value) -> Option<f64> {
    let number = match value {
        figment::value::Value::Num(_, number) => {
            number.to_f64().or_else(|| number.to_u128().map(|n| n as f64))
        }
        other => other.as_str().and_then(|text| text.trim().parse().ok()),
    };
    number.filter(|number| (0.0..=1.0).contains(number))
}
