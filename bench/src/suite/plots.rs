//! Which pictures there are of what was measured.

use super::{
    results::{Cell, Results, VariantResults, WorkloadResults},
    svg::{Chart, Line, Picture, XAxis, YAxis},
};
use crate::{
    load::{target::AckedWhen, workload::Kind},
    report::Figure,
};

const ALL_ACKS: [AckedWhen; 3] = [AckedWhen::Synced, AckedWhen::Written, AckedWhen::InMemory];

/// The pictures of a workload; none where a table tells as much.
pub(super) fn of_workload(results: &Results, workload: &WorkloadResults) -> Vec<Picture> {
    match workload.kind {
        Kind::Publish if workload.variants.len() > 1 => ALL_ACKS
            .into_iter()
            .filter_map(|acks| throughput(results, workload, acks))
            .collect(),
        Kind::EndToEnd => {
            let paced = workload.variants.iter().filter(|variant| variant.paced);
            paced
                .flat_map(|variant| ALL_ACKS.map(|acks| (variant, acks)))
                .filter_map(|(variant, acks)| latency(workload, variant, acks))
                .collect()
        }
        Kind::Chain => {
            let variants = workload.variants.iter();
            variants
                .flat_map(|variant| variant.cells.iter().map(move |cell| (variant, cell)))
                .filter_map(|(variant, cell)| chain(workload, variant, cell))
                .collect()
        }
        Kind::Publish | Kind::Drain | Kind::Recovery => Vec::new(),
    }
}

/// Speed over the variants: in bytes where they differ in size, with what the
/// disk does alone; otherwise in events.
fn throughput(results: &Results, workload: &WorkloadResults, acks: AckedWhen) -> Option<Picture> {
    let first = workload.variants.first()?.event_bytes;
    let by_size = workload
        .variants
        .iter()
        .any(|variant| variant.event_bytes != first);
    let line = |broker: &str| {
        let points = workload.variants.iter().enumerate();
        let points = points.filter_map(|(at, variant)| {
            let cell = cell_of(variant, broker, acks)?;
            let rate = cell.rate(workload.kind)?.median();
            let scale = if by_size {
                variant.event_bytes as f64 / 1e6
            } else {
                1.0
            };
            Some((at as f64, rate * scale))
        });
        Line {
            name: broker.to_owned(),
            points: points.collect(),
        }
    };
    let raw: Vec<f64> = results
        .raw
        .iter()
        .map(|raw| raw.bytes_per_second / 1e6)
        .collect();
    let limit = (by_size && acks == AckedWhen::Synced && !raw.is_empty()).then(|| {
        (
            "100 %: durable writes alone".to_owned(),
            Figure::of(raw).median(),
        )
    });
    let brokers = brokers(workload.variants.iter(), acks);
    (!brokers.is_empty()).then(|| Picture {
        name: name(&[&workload.name, acks.name()]),
        chart: Chart {
            title: format!("{}: acked when {}", workload.name, acks.name()),
            about: workload.about.clone(),
            x_name: if by_size { "bytes of an event" } else { "" }.to_owned(),
            x: XAxis::Names(workload.variants.iter().map(|v| v.name.clone()).collect()),
            y_name: if by_size { "MB/s" } else { "events/s" }.to_owned(),
            y: YAxis::Logarithmic,
            lines: brokers.into_iter().map(line).collect(),
            limit,
        },
    })
}

/// Percentiles of the time until an event arrives.
fn latency(
    workload: &WorkloadResults,
    variant: &VariantResults,
    acks: AckedWhen,
) -> Option<Picture> {
    let line = |broker: &str| {
        let cell = cell_of(variant, broker, acks)?;
        let points = (0..5).filter_map(|at| {
            let micros = cell.micros(workload.kind, |times| times.all()[at].1)?;
            Some((at as f64, micros.median()))
        });
        Some(Line {
            name: broker.to_owned(),
            points: points.collect(),
        })
    };
    let brokers = brokers([variant].into_iter(), acks);
    let names = ["p50", "p90", "p99", "p99.9", "p99.99"].map(str::to_owned);
    (!brokers.is_empty()).then(|| Picture {
        name: name(&[&workload.name, &variant.name, acks.name()]),
        chart: Chart {
            title: format!(
                "{}, {}: acked when {}",
                workload.name,
                variant.name,
                acks.name()
            ),
            about: workload.about.clone(),
            x_name: "part of the events that were at least so fast".into(),
            x: XAxis::Names(names.into()),
            y_name: "µs from when it was due".into(),
            y: YAxis::Logarithmic,
            lines: brokers.into_iter().filter_map(line).collect(),
            limit: None,
        },
    })
}

/// What waits for each stage over time, in the round of the middle.
fn chain(workload: &WorkloadResults, variant: &VariantResults, cell: &Cell) -> Option<Picture> {
    let round = cell.rounds.get(cell.rounds.len() / 2)?;
    let stages = round.samples.first()?.done.len();
    let line = |stage: usize| Line {
        name: format!("stage {}", stage + 1),
        points: (round.samples.iter())
            .map(|sample| (sample.at, sample.backlog(stage) as f64))
            .collect(),
    };
    Some(Picture {
        name: name(&[&workload.name, &variant.name, &cell.broker]),
        chart: Chart {
            title: format!("{}: {}", workload.name, cell.broker),
            about: workload.about.clone(),
            x_name: "seconds".into(),
            x: XAxis::Numbers,
            y_name: "events that wait".into(),
            y: YAxis::Linear,
            lines: (0..stages).map(line).collect(),
            limit: None,
        },
    })
}

/// The brokers of which there is anything, in the order of the tables.
fn brokers<'a>(
    variants: impl Iterator<Item = &'a VariantResults>,
    acks: AckedWhen,
) -> Vec<&'a str> {
    let mut names = Vec::new();
    for cell in variants.flat_map(|variant| &variant.cells) {
        let counts = cell.acks_when == acks && !cell.rounds.is_empty();
        if counts && !names.contains(&cell.broker.as_str()) {
            names.push(cell.broker.as_str());
        }
    }
    names
}

fn cell_of<'a>(variant: &'a VariantResults, broker: &str, acks: AckedWhen) -> Option<&'a Cell> {
    let mut cells = variant.cells.iter();
    cells.find(|cell| cell.broker == broker && cell.acks_when == acks)
}

/// A file's name of words, without what is odd in one.
fn name(parts: &[&str]) -> String {
    let letters = parts.join("-").to_lowercase();
    let plain = letters.chars().map(|letter| match letter {
        'a'..='z' | '0'..='9' => letter,
        _ => '-',
    });
    let mut name = String::new();
    for letter in plain {
        if letter != '-' || !name.ends_with('-') {
            name.push(letter);
        }
    }
    name.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_plain() {
        assert_eq!(
            name(&["latency", "1,000 events/s", "synced"]),
            "latency-1-000-events-s-synced"
        );
        assert_eq!(name(&["chain", "", "redis, always"]), "chain-redis-always");
    }
}
