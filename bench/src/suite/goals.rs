//! What Sluice aims at beside other brokers, and how far it is in what was measured.

use serde::Deserialize;

use super::{
    markdown::{CLIENT_BOUND, client_share},
    results::{Cell, Results, VariantResults},
};
use crate::{
    load::{target::AckedWhen, workload::Kind},
    report::markdown_table,
    targets::Broker,
};

/// What is compared.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Measure {
    Rate,
    P50,
    P99,
    Ready,
    ServerCpu,
}

#[derive(Debug, Deserialize)]
struct Goals {
    goals: Vec<Goal>,
}

/// So many times as good as the best other broker, or better.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Goal {
    what: String,
    workload: String,
    /// With how many times.
    variants: Vec<(String, f64)>,
    measure: Measure,
    /// Of Sluice's channels, the one that acks then.
    ours: AckedWhen,
    /// The others that count.
    theirs: Vec<AckedWhen>,
}

fn goals() -> Vec<Goal> {
    let text = include_str!("../../goals.toml");
    let all: Result<Goals, _> = toml::from_str(text);
    // A test reads them.
    all.expect("the goals are right").goals
}

impl Measure {
    fn of(self, kind: Kind, cell: &Cell) -> Option<f64> {
        let figure = match self {
            Self::Rate => cell.rate(kind),
            Self::P50 => cell.micros(kind, |times| times.p50),
            Self::P99 => cell.micros(kind, |times| times.p99),
            Self::Ready => cell.figure(|round| round.ready_seconds),
            Self::ServerCpu => cell.figure(|round| round.server_cpu_seconds_per_million),
        };
        let median = figure.map(|figure| figure.median());
        // Nothing that came to nothing is the best.
        median.filter(|median| *median > 0.0)
    }

    /// How many times as good one is as another.
    fn ratio(self, one: f64, other: f64) -> f64 {
        match self {
            Self::Rate => one / other,
            Self::P50 | Self::P99 | Self::Ready | Self::ServerCpu => other / one,
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Rate => format!("{:.1} k", value / 1e3),
            Self::P50 | Self::P99 => format!("{value:.0}"),
            Self::Ready => format!("{:.0}", value * 1e3),
            Self::ServerCpu => format!("{value:.2}"),
        }
    }
}

/// A table of all goals of which there is anything; empty without any.
pub(super) fn table(results: &Results) -> String {
    let mut rows = Vec::new();
    for goal in goals() {
        let workloads = &results.workloads;
        let Some(workload) = workloads.iter().find(|known| known.name == goal.workload) else {
            continue;
        };
        for (name, times) in &goal.variants {
            let variants = &workload.variants;
            let variant = variants.iter().find(|known| known.name == *name);
            rows.extend(variant.and_then(|variant| row(&goal, workload.kind, variant, *times)));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let header = [
        "goal",
        "",
        "at least ×",
        "Sluice",
        "the best other",
        "",
        "×",
        "",
        "bare path",
    ];
    format!(
        "\n## Goals\n\nHow many times as good as the best other broker Sluice is to be, and is.\n\n{}",
        markdown_table(&header, rows)
    )
}

fn row(goal: &Goal, kind: Kind, variant: &VariantResults, times: f64) -> Option<Vec<String>> {
    let measured = |cell: &Cell| goal.measure.of(kind, cell);
    let is_bare = |cell: &Cell| cell.broker == Broker::Bare.name();
    let cells = &variant.cells;
    let our_cell = cells
        .iter()
        .find(|cell| cell.is_sluice && cell.acks_when == goal.ours)?;
    let ours = measured(our_cell)?;
    let others = cells
        .iter()
        .filter(|cell| !cell.is_sluice && !is_bare(cell) && goal.theirs.contains(&cell.acks_when));
    let others = others.filter_map(|cell| Some((cell, measured(cell)?)));
    let (their_cell, theirs) =
        others.max_by(|(_, a), (_, b)| goal.measure.ratio(*a, *b).total_cmp(&1.0))?;
    let ratio = goal.measure.ratio(ours, theirs);
    let is_bound = [our_cell, their_cell]
        .iter()
        .any(|cell| client_share(cell) > CLIENT_BOUND);
    let (ratio, verdict) = match (is_bound, ratio >= times) {
        (true, _) => (String::new(), "client-bound"),
        (false, true) => (format!("{ratio:.2}"), "met"),
        (false, false) => (format!("{ratio:.2}"), "not met"),
    };
    let bare = cells.iter().find(|cell| is_bare(cell)).and_then(measured);
    let bare = bare.filter(|_| goal.ours == AckedWhen::Synced);
    Some(vec![
        goal.what.clone(),
        variant.name.clone(),
        times.to_string(),
        goal.measure.show(ours),
        their_cell.broker.clone(),
        goal.measure.show(theirs),
        ratio,
        verdict.to_owned(),
        bare.map_or_else(String::new, |bare| goal.measure.show(bare)),
    ])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        load::workload,
        suite::results::tests::{cell, results},
    };

    fn verdict(cells: Vec<Cell>) -> (String, String) {
        let text = table(&results(cells));
        let row = text.lines().find(|line| line.contains("many in flight"));
        let cells: Vec<_> = row.unwrap().split('|').map(str::trim).collect();
        (cells[5].to_owned(), cells[8].to_owned())
    }

    #[test]
    fn goals_are_loads_that_there_are() {
        let all = workload::built_in();
        for goal in goals() {
            let workload = all.iter().find(|known| known.name == goal.workload);
            for (name, _) in goal.variants {
                let variants = &workload.unwrap().variants;
                assert!(
                    variants.iter().any(|known| known.variant == *name),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn the_best_other_counts_and_not_the_bare_path() {
        let others = vec![
            cell("sluice", &[300.0]),
            cell("slow", &[10.0]),
            cell("best", &[100.0]),
            cell("stuck", &[0.0]),
            cell("bare path", &[900.0]),
        ];
        assert_eq!(verdict(others), ("best".into(), "met".into()));
        let close = vec![cell("sluice", &[300.0]), cell("best", &[200.0])];
        assert_eq!(verdict(close), ("best".into(), "not met".into()));
    }

    #[test]
    fn others_that_ack_earlier_do_not_count() {
        let mut early = cell("early", &[1000.0]);
        early.acks_when = AckedWhen::Written;
        let all = vec![cell("sluice", &[300.0]), cell("best", &[100.0]), early];
        assert_eq!(verdict(all), ("best".into(), "met".into()));
    }

    #[test]
    fn less_time_is_better() {
        assert_eq!(Measure::P50.ratio(100.0, 200.0), 2.0);
        assert_eq!(Measure::Rate.ratio(100.0, 200.0), 0.5);
    }

    #[test]
    fn nothing_is_told_where_the_client_was_the_limit() {
        let mut busy = cell("busy", &[100.0]);
        busy.rounds[0].client_share = 0.9;
        let all = vec![cell("sluice", &[300.0]), busy];
        assert_eq!(verdict(all), ("busy".into(), "client-bound".into()));
    }
}
