//! The report as Markdown: what was measured on what, then a table for each
//! workload.

use super::{
    goals, plots,
    results::{Cell, Percentiles, Results, VariantResults, WorkloadResults},
};
use crate::{
    load::{target::AckedWhen, workload::Kind},
    report::{Figure, markdown_table},
};

/// A row in which the bench took more of the processors than this tells more of
/// the bench than of the broker.
pub(super) const CLIENT_BOUND: f64 = 0.7;

const LEGEND: &str = "\
Median (min–max) of the rounds, in each of which the brokers took turns. **Sluice ×** says how many \
times as fast Sluice is as the broker of the row, of those that ack when an event is in the same \
place; above 1, Sluice is faster. Where events come at a fixed rate or the server was killed, it \
compares times. *client-bound*: the bench itself took more than 70 % of the processors in this row, \
or in Sluice's; what a broker could do is not known then. Each load had a new server, but those of \
RabbitMQ and Kafka take long to start and stay, as do those given by an address, of whose processes \
nothing is told. Times count from when an event was due. \
**of raw**: payload bytes per second over those of durable writes alone.\n";

/// All of it. With `pictures`, the report shows those that are beside it.
pub(super) fn report(results: &Results, pictures: bool) -> String {
    let mut text = head(results) + &goals::table(results);
    for workload in &results.workloads {
        text += &format!(
            "\n## {}\n\n{}.\n\n",
            workload.name,
            capital(&workload.about)
        );
        text += &markdown_table(&header(workload.kind), rows(results, workload));
        text += &notes(workload);
        if pictures {
            for picture in plots::of_workload(results, workload) {
                text += &picture.in_markdown();
            }
        }
    }
    text
}

fn head(results: &Results) -> String {
    let mut text = format!("{}, for brokers and bench together.\n", results.machine);
    if !results.raw.is_empty() {
        let speed = Figure::of(results.raw.iter().map(|raw| raw.bytes_per_second).collect());
        let small = results.raw.iter().map(|raw| raw.small_writes_per_second);
        text += &format!(
            "Durable writes alone, the 100 % of this run: {} MB/s in blocks of 1 MiB, {} a second \
             of 4 KiB one after the other.\n",
            speed.show(1e6, 0),
            Figure::of(small.collect()).show(1.0, 0),
        );
    }
    text += "\n```sh\n";
    for command in &results.commands {
        text += &format!("{command}\n");
    }
    text += "```\n\n";
    let brokers = results.brokers.iter();
    let rows = brokers.map(|(name, settings)| vec![name.clone(), settings.clone()]);
    text += &markdown_table(&["broker", "version and settings"], rows.collect());
    text += "\n";
    text += LEGEND;
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

fn header(kind: Kind) -> Vec<&'static str> {
    let mut header = vec!["", "broker", "acked when"];
    match kind {
        Kind::Recovery => header.push("ready after, ms"),
        _ => header.push("1,000 events/s"),
    }
    header.push("Sluice ×");
    if kind == Kind::Publish {
        header.extend(["MB/s", "of raw"]);
    }
    if kind.publishes() {
        header.push(match kind {
            Kind::Publish => "ack p50 µs",
            _ => "arrival p50 µs",
        });
        header.extend(["p99", "p99.9", "p99.99"]);
    }
    header.extend(["server CPU s/million", "bench CPU"]);
    match kind {
        Kind::Publish => header.push("written/payload"),
        Kind::EndToEnd | Kind::Drain => header.push("busiest/idlest"),
        Kind::Recovery | Kind::Chain => {}
    }
    header.push("peak MiB");
    header
}

fn rows(results: &Results, workload: &WorkloadResults) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for variant in &workload.variants {
        let mut cells: Vec<&Cell> = variant.cells.iter().collect();
        cells.sort_by_key(|cell| cell.acks_when);
        for cell in cells.into_iter().filter(|cell| !cell.rounds.is_empty()) {
            rows.push(row(results, workload.kind, variant, cell));
        }
    }
    rows
}

fn row(results: &Results, kind: Kind, variant: &VariantResults, cell: &Cell) -> Vec<String> {
    let show = |figure: Option<Figure>, scale: f64, decimals: usize| {
        figure.map_or_else(String::new, |figure| figure.show(scale, decimals))
    };
    let main = match kind {
        Kind::Recovery => show(cell.figure(|round| round.ready_seconds), 1e-3, 0),
        _ => show(cell.rate(kind), 1e3, 1),
    };
    let mut row = vec![
        variant.name.clone(),
        cell.broker.clone(),
        cell.acks_when.name().to_owned(),
        main,
        comparison(kind, variant, cell),
    ];
    if kind == Kind::Publish {
        let bytes = cell
            .rate(kind)
            .map(|rate| rate.median() * variant.event_bytes as f64);
        row.push(bytes.map_or_else(String::new, |bytes| format!("{:.0}", bytes / 1e6)));
        let raw = results.raw.iter().map(|raw| raw.bytes_per_second);
        let part = bytes
            .filter(|_| !results.raw.is_empty() && cell.acks_when == AckedWhen::Synced)
            .map(|bytes| bytes / Figure::of(raw.collect()).median() * 100.0);
        row.push(part.map_or_else(String::new, |part| format!("{part:.1} %")));
    }
    if kind.publishes() {
        row.push(show(cell.micros(kind, |times| times.p50), 1.0, 0));
        row.push(show(cell.micros(kind, |times| times.p99), 1.0, 0));
        let median = |of: fn(&Percentiles) -> u64| {
            let figure = cell.micros(kind, of);
            figure.map_or_else(String::new, |figure| format!("{:.0}", figure.median()))
        };
        row.push(median(|times| times.p99_9));
        row.push(median(|times| times.p99_99));
    }
    let server = cell.figure(|round| round.server_cpu_seconds_per_million);
    row.push(show(server, 1.0, 2));
    row.push(format!("{:.0} %", client_share(cell) * 100.0));
    match kind {
        Kind::Publish => {
            let written = cell.figure(|round| round.written_per_payload_byte);
            row.push(show(written, 1.0, 2));
        }
        Kind::EndToEnd | Kind::Drain => {
            row.push(show(cell.figure(|round| Some(round.spread)), 1.0, 2));
        }
        Kind::Recovery | Kind::Chain => {}
    }
    let peaks = cell.rounds.iter();
    let peak = peaks.filter_map(|round| round.peak_memory_bytes).max();
    row.push(peak.map_or_else(String::new, |peak| (peak >> 20).to_string()));
    row
}

pub(super) fn client_share(cell: &Cell) -> f64 {
    let share = cell.figure(|round| Some(round.client_share));
    share.map_or(0.0, |share| share.median())
}

/// How many times as fast Sluice is.
fn comparison(kind: Kind, variant: &VariantResults, cell: &Cell) -> String {
    let of_the_same = |other: &&Cell| {
        other.is_sluice && other.acks_when == cell.acks_when && !other.rounds.is_empty()
    };
    let Some(sluice) = variant.cells.iter().find(of_the_same) else {
        return String::new();
    };
    if [cell, sluice]
        .iter()
        .any(|cell| client_share(cell) > CLIENT_BOUND)
    {
        return "client-bound".to_owned();
    }
    if cell.is_sluice {
        return "1".to_owned();
    }
    let times = |theirs: Option<Figure>, ours: Option<Figure>| {
        let ratio = theirs.zip(ours).map(|(a, b)| a.median() / b.median());
        // Of what has come to nothing there is none.
        let ratio = ratio.filter(|ratio| ratio.is_finite());
        ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
    };
    if kind == Kind::Recovery {
        return times(
            cell.figure(|round| round.ready_seconds),
            sluice.figure(|round| round.ready_seconds),
        );
    }
    if variant.paced {
        let at =
            |of: fn(&Percentiles) -> u64| times(cell.micros(kind, of), sluice.micros(kind, of));
        let (p50, p99) = (at(|times| times.p50), at(|times| times.p99));
        return if p50.is_empty() {
            p50
        } else {
            format!("p50 {p50}, p99 {p99}")
        };
    }
    times(sluice.rate(kind), cell.rate(kind))
}

/// Which brokers are not in the table, and why.
fn notes(workload: &WorkloadResults) -> String {
    let mut notes: Vec<(String, Vec<&str>)> = Vec::new();
    for variant in &workload.variants {
        for cell in &variant.cells {
            let Some(why) = &cell.missing else { continue };
            let note = format!("{}: {why}", cell.broker);
            match notes.iter_mut().find(|(known, _)| *known == note) {
                Some((_, variants)) => variants.push(&variant.name),
                None => notes.push((note, vec![&variant.name])),
            }
        }
    }
    let notes = notes.into_iter().map(|(note, variants)| {
        let all = variants.len() == workload.variants.len();
        if all {
            format!("\nNot measured: {note}.\n")
        } else {
            format!("\nNot measured with {}: {note}.\n", variants.join(", "))
        }
    });
    notes.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::suite::results::tests::{cell, results};

    /// The cells of the row of a broker.
    fn row_of<'a>(report: &'a str, broker: &str) -> Vec<&'a str> {
        let cells = |line: &'a str| line.split('|').map(str::trim).collect::<Vec<_>>();
        let mut rows = report.lines().map(cells);
        rows.find(|cells| cells.len() > 5 && cells[2] == broker)
            .unwrap_or_else(|| panic!("no row of {broker} in\n{report}"))
    }

    #[test]
    fn a_row_tells_its_median_and_how_sluice_compares() {
        let results = results(vec![
            cell("sluice", &[100_000.0, 300_000.0, 200_000.0]),
            cell("other", &[50_000.0, 100_000.0, 80_000.0]),
        ]);
        let report = report(&results, false);
        assert_eq!(row_of(&report, "sluice")[4], "200.0 (100.0–300.0)");
        assert_eq!(row_of(&report, "sluice")[5], "1");
        assert_eq!(row_of(&report, "other")[5], "2.50");
        // 200,000 times 1 KiB of 1 GB/s.
        assert_eq!(row_of(&report, "sluice")[7], "20.5 %");
    }

    #[test]
    fn brokers_that_ack_otherwise_are_not_compared() {
        let mut other = cell("other", &[1.0]);
        other.acks_when = AckedWhen::Written;
        let report = report(&results(vec![cell("sluice", &[1.0]), other]), false);
        assert_eq!(row_of(&report, "other")[5], "");
    }

    #[test]
    fn what_has_come_to_nothing_has_no_ratio() {
        let all = results(vec![cell("sluice", &[1.0]), cell("stuck", &[0.0])]);
        assert_eq!(row_of(&report(&all, false), "stuck")[5], "");
    }

    #[test]
    fn a_client_bound_row_has_no_ratio() {
        let mut busy = cell("busy", &[1.0]);
        busy.rounds[0].client_share = 0.71;
        let all = results(vec![cell("sluice", &[1.0]), busy, cell("idle", &[1.0])]);
        let text = report(&all, false);
        assert_eq!(row_of(&text, "busy")[5], "client-bound");
        assert_eq!(row_of(&text, "idle")[5], "1.00");
        let mut sluice = cell("sluice", &[1.0]);
        sluice.rounds[0].client_share = 0.9;
        let text = report(&results(vec![sluice, cell("idle", &[1.0])]), false);
        assert_eq!(row_of(&text, "idle")[5], "client-bound");
    }

    #[test]
    fn nothing_is_said_of_the_process_of_a_server_that_somebody_else_has_started() {
        let mut other = cell("other", &[1.0]);
        other.rounds[0].server_cpu_seconds_per_million = None;
        other.rounds[0].written_per_payload_byte = None;
        other.rounds[0].peak_memory_bytes = None;
        let report = report(&results(vec![cell("sluice", &[1.0]), other]), false);
        let (ours, theirs) = (row_of(&report, "sluice"), row_of(&report, "other"));
        let of_process = |row: &[&str]| [12, 14, 15].map(|at| row[at].to_owned());
        assert_eq!(of_process(&ours), ["0.50", "1.10", "64"]);
        assert_eq!(of_process(&theirs), [""; 3]);
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut other = cell("other", &[]);
        other.missing = Some("it has no partitions".into());
        let report = report(&results(vec![cell("sluice", &[1.0]), other]), false);
        assert!(report.contains("Not measured: other: it has no partitions."));
    }
}
