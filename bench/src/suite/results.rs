//! What was measured, as it is written to a file and read again: parts that were
//! measured one after the other make one report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use crate::{
    load::{
        engine::{Latencies, Outcome, Sample},
        target::AckedWhen,
        workload::{Kind, Spec},
    },
    report::Figure,
    targets::Broker,
};

/// Everything of one or more runs on one machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// The commands that measured it.
    pub(crate) commands: Vec<String>,
    pub(crate) machine: Machine,
    /// The machine's own limits, by round.
    pub(crate) raw: Vec<Raw>,
    /// Versions and settings, by the name of a broker.
    pub(crate) brokers: BTreeMap<String, String>,
    pub(crate) workloads: Vec<WorkloadResults>,
}

/// Durable writes without anything around them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Raw {
    /// In blocks of 1 MiB, of which so many are under way as in the broker.
    pub(crate) bytes_per_second: f64,
    /// One block of 4 KiB after the other.
    pub(crate) small_writes_per_second: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WorkloadResults {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) kind: Kind,
    pub(crate) variants: Vec<VariantResults>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VariantResults {
    pub(crate) name: String,
    pub(crate) event_bytes: usize,
    /// Whether events come at a given rate.
    pub(crate) paced: bool,
    /// Events that are there in the beginning.
    pub(crate) events: u64,
    pub(crate) cells: Vec<Cell>,
}

/// One variant on one broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) broker: String,
    pub(crate) acks_when: AckedWhen,
    /// Whether it is what the others are compared with.
    pub(crate) is_sluice: bool,
    pub(crate) rounds: Vec<Round>,
    /// Why there is nothing, or less than there should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) missing: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) published_per_second: f64,
    pub(crate) consumed_per_second: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ack_micros: Option<Percentiles>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delivery_micros: Option<Percentiles>,
    /// These three tell of the server's process; of one that somebody else has started
    /// they are not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server_cpu_seconds_per_million: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) written_per_payload_byte: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) client_cpu_seconds_per_million: f64,
    /// The bench's part of the machine's processors.
    pub(crate) client_share: f64,
    /// The busiest member's events over the idlest one's.
    pub(crate) spread: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ready_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) samples: Vec<Sample>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) p99_99: u64,
}

impl Percentiles {
    /// `None` of nothing.
    fn of(micros: &Latencies) -> Option<Self> {
        let at = |quantile| micros.value_at_quantile(quantile);
        (!micros.is_empty()).then(|| Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
        })
    }

    pub(crate) fn all(&self) -> [(&'static str, u64); 5] {
        [
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p99_9),
            ("p99.99", self.p99_99),
        ]
    }
}

impl Round {
    pub(crate) fn of(outcome: &Outcome, event_bytes: usize) -> Self {
        let events = outcome.published.max(outcome.consumed).max(1) as f64;
        let server = outcome.server;
        Self {
            published_per_second: outcome.published_per_second(),
            consumed_per_second: outcome.consumed_per_second(),
            ack_micros: Percentiles::of(&outcome.acks),
            delivery_micros: Percentiles::of(&outcome.deliveries),
            server_cpu_seconds_per_million: server
                .map(|server| server.cpu.as_secs_f64() * 1e6 / events),
            written_per_payload_byte: server
                .map(|server| server.written as f64 / (events * event_bytes as f64)),
            peak_memory_bytes: server.map(|server| server.peak_memory),
            client_cpu_seconds_per_million: outcome.client_cpu.as_secs_f64() * 1e6 / events,
            client_share: outcome.client_share(),
            spread: outcome.spread,
            ready_seconds: outcome.ready.map(|time| time.as_secs_f64()),
            samples: outcome.samples.clone(),
        }
    }
}

impl Cell {
    /// A figure over all rounds; `None` without any.
    pub(crate) fn figure(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<Figure> {
        let values: Vec<f64> = self.rounds.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| Figure::of(values))
    }

    /// Events a second, of what the load is about.
    pub(crate) fn rate(&self, kind: Kind) -> Option<Figure> {
        self.figure(|round| {
            Some(if kind == Kind::Publish {
                round.published_per_second
            } else {
                round.consumed_per_second
            })
        })
    }

    /// One percentile of the time that the load is about.
    pub(crate) fn micros(&self, kind: Kind, of: impl Fn(&Percentiles) -> u64) -> Option<Figure> {
        let times = |round: &Round| match kind {
            Kind::Publish => round.ack_micros,
            Kind::EndToEnd | Kind::Chain => round.delivery_micros,
            // Everything was there before: how long it waited tells nothing.
            Kind::Drain | Kind::Recovery => None,
        };
        self.figure(|round| times(round).map(|times| of(&times) as f64))
    }
}

impl Results {
    /// The place for the rounds of a variant on a broker.
    pub(crate) fn cell(
        &mut self,
        (workload, about): (&str, &str),
        spec: &Spec,
        cell: Cell,
    ) -> &mut Cell {
        let workload = entry(
            &mut self.workloads,
            |known| known.name == workload,
            || WorkloadResults {
                name: workload.to_owned(),
                about: about.to_owned(),
                kind: spec.kind,
                variants: Vec::new(),
            },
        );
        let variant = entry(
            &mut workload.variants,
            |known| known.name == spec.variant,
            || VariantResults {
                name: spec.variant.clone(),
                event_bytes: spec.event_bytes,
                paced: spec.rate > 0.0,
                events: spec.events,
                cells: Vec::new(),
            },
        );
        let broker = cell.broker.clone();
        entry(&mut variant.cells, |known| known.broker == broker, || cell)
    }

    /// The loads at which Sluice has failed, and why: those that cannot run on one of
    /// its channels can run on fsync.
    pub(crate) fn failures_of_sluice(&self) -> Vec<String> {
        let loads = self.workloads.iter().flat_map(|workload| {
            let variants = workload.variants.iter();
            variants.map(|variant| (&workload.name, variant))
        });
        let failures = loads.flat_map(|(workload, variant)| {
            let cells = variant.cells.iter();
            let failed = cells.filter(|cell| cell.broker == Broker::Sluice.name());
            failed.filter_map(move |cell| {
                let why = cell.missing.as_ref()?;
                Some(format!("{workload}, {}: {why}", variant.name))
            })
        });
        failures.collect()
    }

    /// Adds what was measured in another run. Rounds of the same cell go
    /// together.
    pub(crate) fn join(&mut self, other: Self) -> anyhow::Result<()> {
        if self.commands.is_empty() {
            *self = other;
            return Ok(());
        }
        anyhow::ensure!(
            self.machine == other.machine,
            "parts from different machines do not compare"
        );
        self.commands.extend(other.commands);
        self.raw.extend(other.raw);
        for (broker, settings) in other.brokers {
            let known = self
                .brokers
                .entry(broker.clone())
                .or_insert(settings.clone());
            anyhow::ensure!(
                *known == settings,
                "{broker} had other settings in another part"
            );
        }
        for theirs in other.workloads {
            let ours = entry(
                &mut self.workloads,
                |known| known.name == theirs.name,
                || WorkloadResults {
                    variants: Vec::new(),
                    ..theirs.clone()
                },
            );
            for theirs in theirs.variants {
                let ours = entry(
                    &mut ours.variants,
                    |known| known.name == theirs.name,
                    || VariantResults {
                        cells: Vec::new(),
                        ..theirs.clone()
                    },
                );
                for theirs in theirs.cells {
                    let broker = theirs.broker.clone();
                    match ours.cells.iter_mut().find(|known| known.broker == broker) {
                        Some(known) => {
                            known.rounds.extend(theirs.rounds);
                            known.missing = known.missing.take().or(theirs.missing);
                        }
                        None => ours.cells.push(theirs),
                    }
                }
            }
        }
        Ok(())
    }
}

/// The one that is asked for, which is made if it is not there.
fn entry<T>(all: &mut Vec<T>, is_it: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> &mut T {
    let at = all.iter().position(is_it).unwrap_or_else(|| {
        all.push(make());
        all.len() - 1
    });
    &mut all[at]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn round(events_per_second: f64) -> Round {
        Round {
            published_per_second: events_per_second,
            consumed_per_second: 0.0,
            ack_micros: Some(Percentiles {
                p50: 100,
                p90: 150,
                p99: 200,
                p99_9: 300,
                p99_99: 400,
            }),
            delivery_micros: None,
            server_cpu_seconds_per_million: Some(0.5),
            written_per_payload_byte: Some(1.1),
            peak_memory_bytes: Some(64 << 20),
            client_cpu_seconds_per_million: 0.5,
            client_share: 0.3,
            spread: 1.0,
            ready_seconds: None,
            samples: Vec::new(),
        }
    }

    /// One workload with one variant on some brokers.
    pub(crate) fn results(cells: Vec<Cell>) -> Results {
        let mut results = Results {
            commands: vec!["sluice-bench compare".into()],
            raw: vec![Raw {
                bytes_per_second: 1e9,
                small_writes_per_second: 5000.0,
            }],
            ..Results::default()
        };
        let spec = Spec {
            variant: "1 KiB".into(),
            ..Spec::default()
        };
        for cell in cells {
            results.cell(("throughput", "at full speed"), &spec, cell);
        }
        results
    }

    pub(crate) fn cell(broker: &str, rates: &[f64]) -> Cell {
        Cell {
            broker: broker.into(),
            acks_when: AckedWhen::Synced,
            is_sluice: broker.starts_with("sluice"),
            rounds: rates.iter().map(|rate| round(*rate)).collect(),
            missing: None,
        }
    }

    #[test]
    fn parts_go_together_by_cell() {
        let mut all = Results::default();
        all.join(results(vec![cell("sluice", &[1.0]), cell("other", &[2.0])]))
            .unwrap();
        all.join(results(vec![
            cell("sluice", &[3.0, 5.0]),
            cell("third", &[7.0]),
        ]))
        .unwrap();
        let cells = &all.workloads[0].variants[0].cells;
        let names: Vec<_> = cells.iter().map(|cell| cell.broker.as_str()).collect();
        assert_eq!(names, ["sluice", "other", "third"]);
        assert_eq!(cells[0].rate(Kind::Publish).unwrap().median(), 3.0);
        assert_eq!(all.commands.len(), 2);
        assert_eq!(all.raw.len(), 2);
    }

    #[test]
    fn parts_with_other_settings_or_of_another_machine_are_refused() {
        let mut all = results(Vec::new());
        all.brokers.insert("sluice".into(), "0.1.0".into());
        let mut other = results(Vec::new());
        other.brokers.insert("sluice".into(), "0.2.0".into());
        assert!(all.join(other).is_err());
        let mut other = results(Vec::new());
        other.machine.cores = 64;
        assert!(all.join(other).is_err());
    }

    #[test]
    fn what_others_lack_is_no_failure_of_sluice() {
        let with = |broker: &str, missing: &str| Cell {
            missing: Some(missing.into()),
            ..cell(broker, &[1.0])
        };
        let lacking = with("sluice, memory", "it keeps the newest only");
        let all = results(vec![cell("sluice", &[1.0]), lacking]);
        assert!(all.failures_of_sluice().is_empty());
        let failures = results(vec![with("sluice", "lost")]).failures_of_sluice();
        assert_eq!(failures, ["throughput, 1 KiB: lost"]);
    }

    #[test]
    fn what_was_written_is_read_again() {
        let results = results(vec![cell("sluice", &[1.5])]);
        let text = serde_json::to_string(&results).unwrap();
        let again: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
}
