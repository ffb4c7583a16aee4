//! Pipelines whose last stage is slow: the source settles at its rate, and no
//! backlog outgrows its limit.

use std::time::Duration;

use super::{
    Findings, Flow,
    pipeline::{Pipeline, SOURCE_UNDER_WAY, Sample, Step},
};
use crate::{
    report::markdown_table,
    suite::svg::{Chart, Line, Picture, XAxis, YAxis},
};

const LIMIT: u64 = 100;
const HANDLERS: u32 = 8;
const FAST: Duration = Duration::from_millis(2);
/// Fifty times as long.
const SLOW: Duration = Duration::from_millis(100);
/// Seconds for which there is one point in a picture: what went on average, and the
/// most that there was to do.
const POINT_SECONDS: f64 = 1.0;

/// A pipeline and what is done with it.
struct Shape {
    name: &'static str,
    steps: Vec<Step>,
    /// Events that the last stage does for one of the source.
    per_source: f64,
    /// When the last stage is stopped, and when it goes on.
    pause: Option<(f64, f64)>,
    seconds: f64,
}

fn step(topic: &'static str, outputs: &[&'static str], work: Duration) -> Step {
    Step {
        topic,
        outputs: outputs.to_vec(),
        work,
        handlers: HANDLERS,
        fan_out: 1,
        limit: LIMIT,
    }
}

fn shapes() -> Vec<Shape> {
    let mut burst = step("a", &["b"], FAST);
    (burst.fan_out, burst.handlers) = (100, 2);
    vec![
        Shape {
            name: "chain",
            steps: vec![
                step("a", &["b"], FAST),
                step("b", &["c"], FAST),
                step("c", &["d"], FAST),
                step("d", &[], SLOW),
            ],
            per_source: 1.0,
            pause: Some((25.0, 35.0)),
            seconds: 60.0,
        },
        Shape {
            name: "diamond",
            steps: vec![
                step("a", &["b"], FAST),
                step("a", &["c"], FAST),
                step("b", &["d"], FAST),
                step("c", &["d"], FAST),
                step("d", &[], SLOW),
            ],
            per_source: 2.0,
            pause: None,
            seconds: 25.0,
        },
        Shape {
            name: "1 to 100",
            steps: vec![burst, step("b", &[], SLOW / 10)],
            per_source: 100.0,
            pause: None,
            seconds: 25.0,
        },
    ]
}

/// How fast the source and the last stage went in a stretch of time.
struct Stretch {
    shape: &'static str,
    when: String,
    source: f64,
    last: f64,
    per_source: f64,
}

pub(super) async fn run(settings: &Flow) -> anyhow::Result<Findings> {
    let (mut stretches, mut backlogs) = (Vec::new(), Vec::new());
    let mut pictures = Vec::new();
    for shape in shapes() {
        eprintln!("{}", shape.name);
        let scale = settings.scale;
        let last = shape.steps.len() - 1;
        let mut pipeline = Pipeline::start(settings.dir.as_deref(), shape.steps.clone()).await?;
        if let Some((stop, go_on)) = shape.pause {
            pipeline.watch_until(stop * scale).await?;
            pipeline.stop_step(last).await;
            pipeline.watch_until(go_on * scale).await?;
            pipeline.start_step(last).await?;
        }
        pipeline.watch_until(shape.seconds * scale).await?;
        let samples = std::mem::take(&mut pipeline.samples);
        let (stop, go_on) = shape.pause.unwrap_or((shape.seconds, shape.seconds));
        // The first ten seconds fill the backlogs; the same after the pause.
        for (from, to) in [(10.0, stop), (go_on + 10.0, shape.seconds)] {
            if from < to {
                stretches.push(stretch(&shape, &samples, from * scale, to * scale)?);
            }
        }
        backlogs.extend(largest(&shape, &samples));
        if shape.pause.is_some() {
            pictures.extend(draw(&shape, &samples, scale));
        }
    }
    Ok(Findings {
        text: report(&stretches, backlogs),
        pictures,
    })
}

fn stretch(shape: &Shape, samples: &[Sample], from: f64, to: f64) -> anyhow::Result<Stretch> {
    let within: Vec<_> = samples
        .iter()
        .filter(|sample| sample.at >= from && sample.at <= to)
        .collect();
    let [first, .., last] = within[..] else {
        anyhow::bail!("too short to say anything");
    };
    let time = last.at - first.at;
    let done = |sample: &Sample| sample.done.last().copied().unwrap_or(0);
    Ok(Stretch {
        shape: shape.name,
        when: format!("{from:.0} to {to:.0} s"),
        source: (last.published - first.published) as f64 / time,
        last: (done(last) - done(first)) as f64 / time,
        per_source: shape.per_source,
    })
}

/// What a step may have to do at most: its limit, a batch of the source, and what
/// those before commit for the events that they had.
fn bound(shape: &Shape, at: usize) -> u64 {
    let step = &shape.steps[at];
    let feeds = |of: &&Step| of.outputs.contains(&step.topic);
    let before = shape.steps.iter().filter(feeds);
    let committed: u64 = before
        .map(|of| u64::from(of.handlers) * of.fan_out as u64)
        .sum();
    let published = if step.topic == shape.steps[0].topic {
        SOURCE_UNDER_WAY as u64
    } else {
        0
    };
    step.limit + committed + published
}

fn largest(shape: &Shape, samples: &[Sample]) -> Vec<Vec<String>> {
    let steps = shape.steps.iter().enumerate();
    steps
        .map(|(at, step)| {
            let most = samples.iter().map(|sample| sample.backlog[at]).max();
            vec![
                shape.name.to_owned(),
                step.group(),
                step.limit.to_string(),
                bound(shape, at).to_string(),
                most.unwrap_or(0).to_string(),
            ]
        })
        .collect()
}

fn draw(shape: &Shape, samples: &[Sample], scale: f64) -> [Picture; 2] {
    let about = shape.pause.map_or(String::new(), |(stop, go_on)| {
        let (stop, go_on) = (stop * scale, go_on * scale);
        format!(
            "the last stage takes 50 times as long, and is stopped from {stop:.0} to {go_on:.0} s"
        )
    });
    let names: Vec<_> = (1..=shape.steps.len())
        .map(|at| format!("stage {at}"))
        .collect();
    let rate = |name: &str, count: &dyn Fn(&Sample) -> u64| Line {
        name: name.to_owned(),
        points: rates(samples, count),
    };
    let of_steps = names.iter().enumerate();
    let mut lines: Vec<_> = of_steps
        .map(|(at, name)| rate(name, &|sample| sample.done[at]))
        .collect();
    lines.push(rate("source", &|sample| sample.published));
    let backlogs = names.iter().enumerate().map(|(at, name)| Line {
        name: name.clone(),
        points: points(samples)
            .map(|of| {
                let most = of.iter().map(|sample| sample.backlog[at]).max();
                (of[0].at, most.unwrap_or(0) as f64)
            })
            .collect(),
    });
    let chart = |title: &str, y_name: &str| Chart {
        title: title.to_owned(),
        about: about.clone(),
        x_name: "seconds".into(),
        x: XAxis::Numbers,
        y_name: y_name.to_owned(),
        y: YAxis::Linear,
        lines: Vec::new(),
        limit: None,
    };
    [
        Picture {
            name: "chain-rates".into(),
            chart: Chart {
                y: YAxis::Logarithmic,
                lines,
                ..chart("Chain: how fast each goes", "events/s")
            },
        },
        Picture {
            name: "chain-backlogs".into(),
            chart: Chart {
                lines: backlogs.collect(),
                limit: Some(("the limit of each".into(), LIMIT as f64)),
                ..chart(
                    "Chain: what each has to do",
                    "events, the most in each second",
                )
            },
        },
    ]
}

/// The samples by the point to which they belong; never none.
fn points(samples: &[Sample]) -> impl Iterator<Item = &[Sample]> {
    let point = |sample: &Sample| (sample.at / POINT_SECONDS) as u64;
    samples.chunk_by(move |a, b| point(a) == point(b))
}

/// Events a second over time; 1 where there are fewer, as the axis has no 0.
fn rates(samples: &[Sample], count: &dyn Fn(&Sample) -> u64) -> Vec<(f64, f64)> {
    let mut before: Option<&Sample> = None;
    let points = points(samples).filter_map(|of| {
        let last = of.last()?;
        let from = before.replace(last).unwrap_or(&of[0]);
        let time = last.at - from.at;
        let rate = (count(last) - count(from)) as f64 / time;
        // Not of the piece of a second at the end.
        (time > POINT_SECONDS / 2.0).then_some((of[0].at, rate.max(1.0)))
    });
    points.collect()
}

fn report(stretches: &[Stretch], backlogs: Vec<Vec<String>>) -> String {
    let rates = stretches.iter().map(|stretch| {
        let asked = stretch.source * stretch.per_source;
        vec![
            stretch.shape.to_owned(),
            stretch.when.clone(),
            format!("{:.1}", stretch.source),
            format!("{:.0}", stretch.per_source),
            format!("{:.1}", stretch.last),
            format!("{:.3}", asked / stretch.last),
        ]
    });
    let rates = markdown_table(
        &[
            "pipeline",
            "when",
            "source, events/s",
            "events of each for the last stage",
            "last stage, events/s",
            "source / last stage",
        ],
        rates.collect(),
    );
    let backlogs = markdown_table(
        &[
            "pipeline",
            "group",
            "limit",
            "with its overshoot",
            "most seen",
        ],
        backlogs,
    );
    format!(
        "# A slow last stage\n\n\
         Each stage has {HANDLERS} handlers (the first of \"1 to 100\" has 2) and a backlog limit of \
         {LIMIT} events; a handler of the last takes {} ms, of the others {} ms (of \"1 to 100\" a tenth \
         of that). The source publishes on a stream as fast as its credit lets it. The last stage of \
         the chain is stopped for 10 s and resumed.\n\n{rates}\n\
         The overshoot is what the README states: a batch of the source, here {SOURCE_UNDER_WAY} events, \
         and what the stages before commit for the events that they had.\n\n{backlogs}",
        SLOW.as_millis(),
        FAST.as_millis(),
    )
}
