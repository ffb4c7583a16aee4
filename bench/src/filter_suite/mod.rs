//! `sluice-bench filters`: what a filter costs, beside none and beside the `cel`
//! crate as it comes; and what many groups cost whose filters fix the type.

mod alone;
mod cases;
mod load;

use std::path::PathBuf;

use clap::Args;

use self::{
    alone::Alone,
    cases::{Case, EVENT_BYTES, FILTER, Outcome, cases_at_the_head, cases_of_many},
};
use crate::report::{Figure, table};

/// Settings of the run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Filters {
    /// Rounds, of which the median is told.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Thousand events of 300 bytes in one measurement.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    thousand_events: u32,
    /// Groups with distinct types on one topic.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=2000))]
    groups: u32,
    /// Where files are written [default: the system's folder for temporary
    /// files].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Runs the suite and prints its tables.
pub(crate) async fn run(settings: Filters) -> anyhow::Result<()> {
    let events = u64::from(settings.thousand_events) * 1000;
    let mut at_the_head = cases_at_the_head(events);
    let mut many = cases_of_many(events, settings.groups);
    let mut alone = Alone::default();
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        for case in at_the_head.iter_mut().chain(&mut many) {
            case.measure(settings.dir.as_deref(), events).await?;
        }
        tokio::task::block_in_place(|| alone.measure())?;
    }
    print!("{}", report(&settings, &at_the_head, &many, &alone));
    Ok(())
}

fn report(settings: &Filters, at_the_head: &[Case], many: &[Case], alone: &Alone) -> String {
    let row = |case: &Case, ratio: String| {
        let Outcome {
            events_per_second,
            server_cpu_per_million,
        } = &case.outcome;
        vec![
            case.name.clone(),
            Figure::of(events_per_second.clone()).show(1e3, 0),
            Figure::of(server_cpu_per_million.clone()).show(1.0, 2),
            ratio,
        ]
    };
    let none = at_the_head[0].outcome.rate();
    let head_rows = at_the_head
        .iter()
        .map(|case| row(case, format!("{:.2}", case.outcome.rate() / none)))
        .collect();
    let head = table(
        &[
            "one group at the head",
            "1,000 events/s",
            "server CPU s/million",
            "speed of no filter",
        ],
        head_rows,
    );
    // Beside the one group that looks at the same events; and where every event is
    // wanted, beside one that gets as many, on one stream and on as many streams.
    let ratio =
        |at: usize, one: usize| format!("{:.2}", many[at].outcome.cpu() / many[one].outcome.cpu());
    let of_one = |at: usize| match at {
        0 => String::new(),
        1 => "1 of every event".to_owned(),
        2 => format!("{} of every event", ratio(at, 1)),
        _ if !at.is_multiple_of(2) => "1".to_owned(),
        4 => format!(
            "{} ({} of every event, {} by as many members)",
            ratio(at, 3),
            ratio(at, 1),
            ratio(at, 2)
        ),
        _ => ratio(at, at - 1),
    };
    let many_rows = many.iter().enumerate();
    let many_rows = many_rows.map(|(at, case)| row(case, of_one(at))).collect();
    let many = table(
        &[
            "many groups",
            "1,000 events/s",
            "server CPU s/million",
            "CPU of one group",
        ],
        many_rows,
    );
    let show = |values: &Vec<f64>| vec![Figure::of(values.clone()).show(1.0, 0)];
    let named = |name: &str, values: &Vec<f64>| [vec![name.to_owned()], show(values)].concat();
    let judging = table(
        &["judging alone, one thread", "ns/event"],
        vec![
            named("the filter", &alone.in_place),
            named("its first term is false", &alone.first_term_false),
            named("the cel crate over serde_json", &alone.plain),
            named("the same, a context for each event", &alone.plain_anew),
        ],
    );
    format!(
        "{} rounds, median (min–max); {} thousand events of {EVENT_BYTES} B, published, delivered \
         and acked at full speed.\nThe filter: {FILTER}\n\n{head}\n{many}\n{judging}",
        settings.rounds, settings.thousand_events,
    )
}
