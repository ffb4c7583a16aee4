//! `sluice-bench run`, `quick`, `compare` and `report`: named loads on one broker
//! or on several in turn.

mod goals;
pub(crate) mod machine;
mod markdown;
mod plots;
mod results;
mod servers;
pub(crate) mod svg;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::Args;

use self::{
    machine::Machine,
    results::{Cell, Results, Round},
    servers::Servers,
};
use crate::{
    load::{
        engine,
        target::AckedWhen,
        workload::{self, Spec, Workload},
    },
    process,
    targets::{Broker, Peer, address::Addresses},
};

/// Settings of a run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    /// Names of built-in workloads, or files [default: every built-in one].
    workloads: Vec<String>,
    /// Only the variants whose names contain this.
    #[arg(long, value_name = "TEXT")]
    variant: Option<String>,
    /// Rounds, of which the median is told; the brokers take turns in each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Times the seconds and the events that each workload says.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Where brokers write [default: the system's folder for temporary files].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Also writes the figures as JSON, from which `report` makes reports.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also writes a report there: report.md, its pictures, and the figures.
    #[arg(long, value_name = "FOLDER")]
    report: Option<PathBuf>,
}

/// Settings of a comparison.
#[derive(Clone, Debug, Args)]
pub(crate) struct Compare {
    #[command(flatten)]
    run: Run,
    /// The other brokers [default: all that this build knows and this machine
    /// has, or none beside one that is given by its address].
    #[arg(long, value_delimiter = ',')]
    peers: Option<Vec<Peer>>,
    #[command(flatten)]
    addresses: Addresses,
    /// Only brokers that ack when an event is there [default: all].
    #[arg(long, value_delimiter = ',')]
    acked: Option<Vec<AckedWhen>>,
}

/// Parts that make a report.
#[derive(Clone, Debug, Args)]
pub(crate) struct Report {
    /// What `run` and `compare` have written as JSON, on one machine.
    #[arg(required = true)]
    parts: Vec<PathBuf>,
    /// Where the report is written.
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
}

/// Runs workloads on Sluice, and on the bare path where that can take them.
pub(crate) async fn run(settings: Run) -> anyhow::Result<()> {
    let brokers = [Broker::Sluice, Broker::Bare];
    suite(&settings, &brokers, &Addresses::default()).await
}

/// A look at everything, in less than two minutes.
pub(crate) async fn quick() -> anyhow::Result<()> {
    let settings = Run {
        workloads: Vec::new(),
        variant: None,
        rounds: 1,
        scale: 0.4,
        dir: None,
        json: None,
        report: None,
    };
    run(settings).await
}

/// Runs the same workloads on several brokers.
pub(crate) async fn compare(settings: Compare) -> anyhow::Result<()> {
    let mut brokers = Broker::own();
    let given = settings.addresses.brokers();
    let peers = match settings.peers {
        Some(peers) => peers,
        None if given.is_empty() => Peer::installed(),
        None => Vec::new(),
    };
    for peer in peers {
        anyhow::ensure!(peer.is_installed(), "{peer:?} is not installed");
        brokers.extend(peer.brokers());
    }
    brokers.extend(given);
    if let Some(acked) = settings.acked {
        brokers.retain(|broker| acked.contains(&broker.acks_when()));
    }
    suite(&settings.run, &brokers, &settings.addresses).await
}

/// Makes one report of several parts.
pub(crate) fn report(settings: &Report) -> anyhow::Result<()> {
    let mut all = Results::default();
    for part in &settings.parts {
        let named = || part.display().to_string();
        let text = fs::read_to_string(part).with_context(named)?;
        let results = serde_json::from_str(&text).with_context(named)?;
        all.join(results).with_context(named)?;
    }
    write_report(&all, &settings.to)
}

async fn suite(settings: &Run, brokers: &[Broker], addresses: &Addresses) -> anyhow::Result<()> {
    let workloads = choose(settings)?;
    let folder = process::temporary_folder(settings.dir.as_deref())?;
    let mut servers = Servers::new(folder.path(), addresses);
    let mut results = Results {
        commands: vec![command()],
        machine: Machine::of(folder.path()),
        ..Results::default()
    };
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        let dir = tempfile::tempdir_in(folder.path())?;
        let raw = move || machine::raw_limits(dir.path(), Duration::from_millis(500));
        let raw = tokio::task::spawn_blocking(raw).await??;
        results.raw.push(raw);
        for workload in &workloads {
            for spec in &workload.variants {
                for broker in brokers {
                    one(&mut results, workload, spec, *broker, &mut servers).await?;
                }
            }
            // So that what is cut off later leaves what there is.
            if let Some(file) = &settings.json {
                let text = serde_json::to_string_pretty(&results)?;
                fs::write(file, text).with_context(|| file.display().to_string())?;
            }
        }
    }
    print!("{}", markdown::report(&results, false));
    if let Some(folder) = &settings.report {
        write_report(&results, folder)?;
    }
    let failed = results.failures_of_sluice();
    anyhow::ensure!(failed.is_empty(), "Sluice failed: {}", failed.join("; "));
    Ok(())
}

/// Runs one variant on one broker, once.
async fn one(
    results: &mut Results,
    workload: &Workload,
    spec: &Spec,
    broker: Broker,
    servers: &mut Servers,
) -> anyhow::Result<()> {
    let mut cell = Cell {
        broker: broker.name().to_owned(),
        acks_when: broker.acks_when(),
        is_sluice: broker.is_sluice(),
        rounds: Vec::new(),
        missing: broker.lacks(spec).map(str::to_owned),
    };
    let what = (workload.name.as_str(), workload.about.as_str());
    cell = results.cell(what, spec, cell).clone();
    if cell.missing.is_some() {
        return Ok(());
    }
    let name = format!("{}, {}, {}", workload.name, spec.variant, broker.name());
    eprintln!("{name}");
    let spec = &Spec {
        filter_in_client: spec.filter_in_client || (!spec.filter.is_empty() && !broker.filters()),
        ..spec.clone()
    };
    let brokers = &mut results.brokers;
    let start = || {
        let target = servers.start(broker, spec)?;
        brokers.insert(broker.name().to_owned(), target.settings().to_owned());
        Ok(target)
    };
    let outcome = engine::measure(start, spec).await;
    servers.settle(broker, outcome.is_err())?;
    match outcome {
        Ok(outcome) => {
            let round = Round::of(&outcome, spec.event_bytes);
            results.cell(what, spec, cell).rounds.push(round);
            Ok(())
        }
        // The others have their rows none the less.
        Err(error) => {
            eprintln!("{name}: {error:#}");
            results.cell(what, spec, cell).missing = Some(format!("{error:#}"));
            Ok(())
        }
    }
}

fn write_report(results: &Results, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for workload in &results.workloads {
        for picture in plots::of_workload(results, workload) {
            picture.write(folder)?;
        }
    }
    let text = format!("# Load tests\n\n{}", markdown::report(results, true));
    fs::write(folder.join("report.md"), text)?;
    let json = serde_json::to_string(results)?;
    fs::write(folder.join("results.json"), json)?;
    Ok(())
}

/// How this was called.
fn command() -> String {
    let arguments = std::env::args().skip(1);
    let words = arguments.map(|word| {
        if word.contains(' ') {
            format!("'{word}'")
        } else {
            word
        }
    });
    let words = ["sluice-bench".to_owned()].into_iter().chain(words);
    words.collect::<Vec<_>>().join(" ")
}

/// The workloads that are asked for, as long as they are to be.
fn choose(settings: &Run) -> anyhow::Result<Vec<Workload>> {
    let built_in = workload::built_in();
    let one = |name: &String| {
        if let Some(found) = built_in.iter().find(|workload| workload.name == *name) {
            return Ok(found.clone());
        }
        let known: Vec<_> = built_in.iter().map(|w| w.name.as_str()).collect();
        let text = fs::read_to_string(name).with_context(|| {
            format!(
                "{name:?} is neither a file nor one of the workloads: {}",
                known.join(", ")
            )
        })?;
        workload::parse(&text).with_context(|| name.clone())
    };
    let chosen: anyhow::Result<Vec<Workload>> = settings.workloads.iter().map(one).collect();
    let mut chosen = chosen?;
    if chosen.is_empty() {
        chosen = built_in;
    }
    for workload in &mut chosen {
        let wanted = |name: &str| {
            settings
                .variant
                .as_ref()
                .is_none_or(|text| name.contains(text))
        };
        workload.variants.retain(|spec| wanted(&spec.variant));
        for spec in &mut workload.variants {
            *spec = spec.scaled(settings.scale);
        }
    }
    chosen.retain(|workload| !workload.variants.is_empty());
    anyhow::ensure!(!chosen.is_empty(), "no workload has such a variant");
    Ok(chosen)
}
