//! The figures of all rounds, their medians and ratios, and the goals. It must not measure.

use std::collections::BTreeMap;
use std::fmt;

use crate::scenarios::{Figures, percentile};

/// What a figure must not exceed.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// So many times nginx's.
    Times(f64),
    /// nginx's and so much more.
    Over(f64),
    /// This.
    Most(f64),
    /// Told, not judged.
    None,
}

/// Every figure in the table's order, with its goal.
const GOALS: [(&str, Goal); 24] = [
    ("idle memory, MB", Goal::Most(10.0)),
    ("S1 first delta, us", Goal::Over(100.0)),
    ("S1 token latency p50, us", Goal::None),
    ("S1 token latency p99, us", Goal::Times(1.3)),
    ("S1 CPU per token, us", Goal::Times(1.2)),
    ("S2 CPU per token, 1 event a write, us", Goal::Times(1.1)),
    ("S2 CPU per token, 16 events a write, us", Goal::Times(2.0)),
    ("S2 CPU per token, 16 events a write in 16 HTTP chunks, us", Goal::Times(2.0)),
    ("S3 CPU per token, 100 streams, us", Goal::Times(1.5)),
    ("S3 CPU per token, 1,000 streams, us", Goal::Times(1.1)),
    ("S3 token latency p50, 1,000 streams, us", Goal::None),
    ("S3 token latency p99, 1,000 streams, us", Goal::Times(1.0)),
    ("S3 memory per stream beyond idle, KB", Goal::Most(32.0)),
    ("S4 CPU per request, us", Goal::Times(1.5)),
    ("S5 CPU per MB, 1 MB, ms", Goal::Most(3.0)),
    ("S5 CPU per MB, 8 MB, ms", Goal::Most(3.0)),
    ("S5 peak memory / body, 8 MB", Goal::Most(3.0)),
    ("S6 time, 320 KB / 80 KB", Goal::Most(4.4)),
    ("S6 CPU per delta, 320 KB, us", Goal::None),
    ("S6 memory / arguments, 320 KB", Goal::Most(4.0)),
    ("S7 CPU per MB sent upstream, ms", Goal::Most(1.5)),
    ("S7 store growth / text", Goal::Most(1.2)),
    ("S8 upstream freed, tokens coming, ms", Goal::Most(200.0)),
    ("S8 upstream freed, silence, ms", Goal::Most(200.0)),
];

const REFERENCE: &str = "nginx";

/// Figures by name and target, a value each round.
#[derive(Debug, Default)]
pub struct Table {
    values: BTreeMap<(&'static str, String), BTreeMap<usize, f64>>,
    skipped: BTreeMap<String, &'static str>,
}

impl Table {
    pub fn add(&mut self, target: &str, round: usize, figures: Figures) {
        for (name, value) in figures {
            self.values.entry((name, target.to_owned())).or_default().insert(round, value);
        }
    }

    pub fn skip(&mut self, scenario: &str, why: &'static str) {
        self.skipped.insert(scenario.to_owned(), why);
    }

    fn rounds(&self, name: &'static str, target: &str) -> Option<&BTreeMap<usize, f64>> {
        self.values.get(&(name, target.to_owned()))
    }

    /// Median over the rounds of what `of` makes of a round's value and nginx's.
    fn median(&self, name: &'static str, target: &str, of: impl Fn(f64, f64) -> f64) -> Option<f64> {
        let reference = self.rounds(name, REFERENCE);
        let values = self.rounds(name, target)?;
        let mut values: Vec<f64> = values
            .iter()
            .map(|(round, value)| {
                of(*value, reference.and_then(|r| r.get(round)).copied().unwrap_or(f64::NAN))
            })
            .collect();
        Some(percentile(&mut values, 50.0))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = self.values.keys().any(|(_, target)| target == "base");
        writeln!(
            f,
            "| figure | nginx | rejoinder | ratio |{} goal | |",
            if base { " base | ratio |" } else { "" }
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: |{} --- | --- |", if base { " ---: | ---: |" } else { "" })?;
        let number = |value: Option<f64>| match value {
            Some(value) if value.is_nan() => "-".to_owned(),
            Some(value) if value >= 100.0 => format!("{value:.0}"),
            Some(value) => format!("{value:.2}"),
            None => "-".to_owned(),
        };
        for (name, goal) in GOALS {
            let Some(own) = self.median(name, "rejoinder", |own, _| own) else { continue };
            let ratio = self.median(name, "rejoinder", |own, reference| own / reference);
            let nginx = self.median(name, REFERENCE, |own, _| own);
            write!(f, "| {name} | {} | {} | {} |", number(nginx), number(Some(own)), number(ratio))?;
            if base {
                let own = self.median(name, "base", |own, _| own);
                let ratio = self.median(name, "base", |own, reference| own / reference);
                write!(f, " {} | {} |", number(own), number(ratio))?;
            }
            let over = self.median(name, "rejoinder", |own, reference| own - reference);
            let (words, met) = match goal {
                Goal::Times(most) => (format!("<= {most}x"), ratio.map(|ratio| ratio <= most)),
                Goal::Over(most) => (format!("<= nginx + {most}"), over.map(|over| over <= most)),
                Goal::Most(most) => (format!("<= {most}"), Some(own <= most)),
                Goal::None => (String::new(), None),
            };
            let met = met.map_or("", |met| if met { "met" } else { "MISSED" });
            writeln!(f, " {words} | {met} |")?;
        }
        for (scenario, why) in &self.skipped {
            writeln!(f, "skipped {scenario}: {why}")?;
        }
        Ok(())
    }
}
