//! `sluice-bench run`, `quick` and `compare`: named loads on one broker or on
//! several in turn.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::{
    load::{
        engine::{self, Latencies, Outcome, latencies},
        workload::{self, Kind, Spec, Workload},
    },
    report::{Figure, table},
    targets::Broker,
};

/// A row in which the bench took more of the CPU than this tells more of the
/// bench than of the broker.
const CLIENT_BOUND: f64 = 0.7;

/// Settings of a run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    /// Names of built-in workloads, or files [default: every built-in one].
    workloads: Vec<String>,
    /// Rounds, of which the median is told; the brokers take turns in each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Times the seconds that each workload says.
    #[arg(long, default_value_t = 1.0)]
    seconds_factor: f64,
    /// Where files are written [default: the system's folder for temporary
    /// files].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Also writes the figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Settings of a comparison.
#[derive(Clone, Debug, Args)]
pub(crate) struct Compare {
    #[command(flatten)]
    run: Run,
    /// The brokers [default: all that this build knows and this machine has].
    #[arg(long, value_delimiter = ',')]
    brokers: Vec<Broker>,
}

/// Runs workloads on Sluice.
pub(crate) async fn run(settings: Run) -> anyhow::Result<()> {
    suite(&settings, &[Broker::Sluice]).await
}

/// A look at everything, in less than two minutes.
pub(crate) async fn quick() -> anyhow::Result<()> {
    let settings = Run {
        workloads: Vec::new(),
        rounds: 1,
        seconds_factor: 0.5,
        dir: None,
        json: None,
    };
    suite(&settings, &[Broker::Sluice]).await
}

/// Runs the same workloads on several brokers.
pub(crate) async fn compare(settings: Compare) -> anyhow::Result<()> {
    let brokers = if settings.brokers.is_empty() {
        Broker::installed()
    } else {
        settings.brokers
    };
    suite(&settings.run, &brokers).await
}

/// The outcomes of one variant on one broker.
#[derive(Default)]
struct Cell {
    outcomes: Vec<Outcome>,
    broker: String,
}

/// A row of the JSON file.
#[derive(Serialize)]
struct JsonRow {
    workload: String,
    variant: String,
    broker: String,
    published_per_second: Vec<f64>,
    consumed_per_second: Vec<f64>,
    /// Of all rounds together: p50, p90, p99, p99.9, p99.99.
    ack_micros: Option<[u64; 5]>,
    delivery_micros: Option<[u64; 5]>,
    server_cpu_seconds_per_million: Vec<f64>,
    client_share: Vec<f64>,
}

async fn suite(settings: &Run, brokers: &[Broker]) -> anyhow::Result<()> {
    let workloads = choose(&settings.workloads)?;
    // By workload, variant and broker.
    let mut cells: BTreeMap<(usize, usize, usize), Cell> = BTreeMap::new();
    let mut versions = BTreeMap::new();
    for round in 1..=settings.rounds {
        for (w, workload) in workloads.iter().enumerate() {
            for (v, spec) in workload.variants.iter().enumerate() {
                for (b, broker) in brokers.iter().enumerate() {
                    let target = broker.start(folder(settings)?)?;
                    let name = format!("{}, {}", workload.name, spec.variant);
                    eprintln!(
                        "round {round} of {}: {name}, {}",
                        settings.rounds,
                        target.name()
                    );
                    let mut spec = spec.clone();
                    spec.seconds *= settings.seconds_factor;
                    let outcome = engine::run(target.clone(), "bench", &spec).await;
                    let outcome = outcome.with_context(|| format!("{name}, {}", target.name()))?;
                    let cell = cells.entry((w, v, b)).or_default();
                    cell.broker = target.name().to_owned();
                    cell.outcomes.push(outcome);
                    versions.insert(target.name().to_owned(), target.settings().to_owned());
                }
            }
        }
    }
    print!("{}", report(settings, &workloads, &cells, &versions));
    if let Some(file) = &settings.json {
        let rows: Vec<_> = cells
            .iter()
            .map(|((w, v, _), cell)| json_row(&workloads[*w], *v, cell))
            .collect();
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn folder(settings: &Run) -> anyhow::Result<tempfile::TempDir> {
    let dir = match &settings.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    dir.context("no temporary folder can be made")
}

fn choose(names: &[String]) -> anyhow::Result<Vec<Workload>> {
    let built_in = workload::built_in();
    if names.is_empty() {
        return Ok(built_in);
    }
    let one = |name: &String| {
        if let Some(found) = built_in.iter().find(|workload| workload.name == *name) {
            return Ok(found.clone());
        }
        let known: Vec<_> = built_in.iter().map(|w| w.name.as_str()).collect();
        let text = std::fs::read_to_string(name).with_context(|| {
            format!(
                "{name:?} is neither a file nor one of the workloads: {}",
                known.join(", ")
            )
        })?;
        workload::parse(&text).with_context(|| name.clone())
    };
    names.iter().map(one).collect()
}

// ------------------------------------------------------------------- report

fn report(
    settings: &Run,
    workloads: &[Workload],
    cells: &BTreeMap<(usize, usize, usize), Cell>,
    versions: &BTreeMap<String, String>,
) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "{cores} cores for brokers and bench together; {} rounds, median (min–max).\n",
        settings.rounds
    );
    for (broker, version) in versions {
        text += &format!("{broker}: {version}\n");
    }
    for (w, workload) in workloads.iter().enumerate() {
        text += &format!("\n{}: {}\n\n", workload.name, workload.about);
        let kind = workload.variants[0].kind;
        let mut rows = Vec::new();
        for (v, spec) in workload.variants.iter().enumerate() {
            let of_variant = || cells.range((w, v, 0)..=(w, v, usize::MAX));
            let first = of_variant()
                .next()
                .map(|(_, cell)| rate(cell, kind).median());
            for (_, cell) in of_variant() {
                rows.push(row(spec, cell, kind, first));
            }
        }
        text += &table(&header(kind), rows);
    }
    text
}

fn header(kind: Kind) -> Vec<&'static str> {
    let mut header = vec!["variant", "broker", "1,000 events/s", "of the first"];
    header.extend(match kind {
        Kind::Publish => ["ack p50 µs", "p99", "p99.9"],
        Kind::EndToEnd | Kind::Drain => ["delivery p50 µs", "p99", "p99.9"],
    });
    header.push("server CPU s/million");
    header.push(match kind {
        Kind::Publish => "written/payload",
        Kind::EndToEnd | Kind::Drain => "busiest/idlest",
    });
    header.push("peak MiB");
    header
}

fn rate(cell: &Cell, kind: Kind) -> Figure {
    let of = |outcome: &Outcome| match kind {
        Kind::Publish => outcome.published_per_second(),
        Kind::EndToEnd | Kind::Drain => outcome.consumed_per_second(),
    };
    Figure::of(cell.outcomes.iter().map(of).collect())
}

fn row(spec: &Spec, cell: &Cell, kind: Kind, first: Option<f64>) -> Vec<String> {
    let rate = rate(cell, kind);
    let client_bound = cell
        .outcomes
        .iter()
        .any(|outcome| outcome.client_share() > CLIENT_BOUND);
    let ratio = match first {
        _ if client_bound => "client-bound".to_owned(),
        Some(first) if spec.rate == 0.0 => format!("{:.2}", rate.median() / first),
        _ => String::new(),
    };
    let mut row = vec![
        spec.variant.clone(),
        cell.broker.clone(),
        rate.show(1e3, 1),
        ratio,
    ];
    let times = match kind {
        Kind::Publish => together(cell, |outcome| &outcome.acks),
        Kind::EndToEnd => together(cell, |outcome| &outcome.deliveries),
        // Everything was there before: how long it waited tells nothing.
        Kind::Drain => None,
    };
    let quantiles = [0.5, 0.99, 0.999];
    row.extend(quantiles.map(|q| {
        let value = times.as_ref().map(|times| times.value_at_quantile(q));
        value.map_or_else(String::new, |micros| micros.to_string())
    }));
    row.push(Figure::of(cpu_per_million(cell)).show(1.0, 2));
    let last = |outcome: &Outcome| match kind {
        Kind::Publish => {
            let payload = outcome.published.max(1) * spec.event_bytes as u64;
            outcome.server.written as f64 / payload as f64
        }
        Kind::EndToEnd | Kind::Drain => outcome.spread,
    };
    row.push(Figure::of(cell.outcomes.iter().map(last).collect()).show(1.0, 2));
    let peak = cell.outcomes.iter().map(|o| o.server.peak_memory).max();
    row.push((peak.unwrap_or(0) >> 20).to_string());
    row
}

/// CPU seconds of the server for a million events that it took or gave out.
fn cpu_per_million(cell: &Cell) -> Vec<f64> {
    let of = |outcome: &Outcome| {
        let events = outcome.published.max(outcome.consumed).max(1);
        outcome.server.cpu.as_secs_f64() * 1e6 / events as f64
    };
    cell.outcomes.iter().map(of).collect()
}

/// The latencies of all rounds; `None` when there are none.
fn together(cell: &Cell, of: impl Fn(&Outcome) -> &Latencies) -> Option<Latencies> {
    let mut all = latencies();
    for outcome in &cell.outcomes {
        // They have the same bounds.
        let _ = all.add(of(outcome));
    }
    (!all.is_empty()).then_some(all)
}

fn json_row(workload: &Workload, variant: usize, cell: &Cell) -> JsonRow {
    let percentiles = |times: Option<Latencies>| {
        times.map(|times| [0.5, 0.9, 0.99, 0.999, 0.9999].map(|q| times.value_at_quantile(q)))
    };
    let each = |of: fn(&Outcome) -> f64| cell.outcomes.iter().map(of).collect();
    JsonRow {
        workload: workload.name.clone(),
        variant: workload.variants[variant].variant.clone(),
        broker: cell.broker.clone(),
        published_per_second: each(Outcome::published_per_second),
        consumed_per_second: each(Outcome::consumed_per_second),
        ack_micros: percentiles(together(cell, |outcome| &outcome.acks)),
        delivery_micros: percentiles(together(cell, |outcome| &outcome.deliveries)),
        server_cpu_seconds_per_million: cpu_per_million(cell),
        client_share: each(Outcome::client_share),
    }
}
