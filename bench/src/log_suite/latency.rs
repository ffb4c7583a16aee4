//! One event at a time, at a rate that is no load.

use std::sync::Arc;

use super::{Log, goal};
use crate::{
    load::{
        engine::{self, Latencies},
        workload::{Kind, Spec},
    },
    raw_disk::{Blocks, RawLog},
    report::{Figure, markdown_table},
    targets::bare::Bare,
};

#[derive(Default)]
struct Latency {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Latency {
    fn add(&mut self, micros: &Latencies) {
        self.p50.push(micros.value_at_quantile(0.5) as f64);
        self.p99.push(micros.value_at_quantile(0.99) as f64);
    }

    fn medians(&self) -> (f64, f64) {
        let of = |values: &[f64]| Figure::of(values.to_vec()).median();
        (of(&self.p50), of(&self.p99))
    }

    fn row(self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            Figure::of(self.p50).show(1.0, 0),
            Figure::of(self.p99).show(1.0, 0),
        ]
    }
}

pub(super) async fn measure(settings: &Log) -> anyhow::Result<String> {
    let publish = at_rate(settings, Kind::Publish);
    let to_a_member = at_rate(settings, Kind::EndToEnd);
    let mut write = Vec::new();
    let (mut round_trip, mut bare) = (Latency::default(), Latency::default());
    let (mut ack, mut delivery) = (Latency::default(), Latency::default());
    for _ in settings.rounds() {
        write.push(one_write(settings).await?);
        let stream = Arc::new(Bare::start_without_disk()?);
        round_trip.add(&engine::run(stream, &publish).await?.acks);
        bare.add(&engine::run(settings.bare()?, &publish).await?.acks);
        ack.add(&engine::run(settings.broker()?, &publish).await?.acks);
        let outcome = engine::run(settings.broker()?, &to_a_member).await?;
        delivery.add(&outcome.deliveries);
    }

    let write = Figure::of(write);
    let sum = write.median() + round_trip.medians().0;
    let (p50, p99) = delivery.medians();
    let of_bare = p99 / bare.medians().1;
    let goals = [
        goal(
            "p50 to the consumer, at most 3 × (a durable write and a round trip)",
            format!("{:.2} ×", p50 / sum),
            p50 <= 3.0 * sum,
        ),
        goal(
            "p99 to the consumer, at most 1.5 × the bare path's",
            format!("{of_bare:.2} ×"),
            of_bare <= 1.5,
        ),
    ];
    let rows = vec![
        vec![
            "durable write of 4 KiB".to_owned(),
            write.show(1.0, 0),
            String::new(),
        ],
        round_trip.row("gRPC stream, there and back"),
        bare.row("bare path, to the ack"),
        ack.row("broker, to the ack"),
        delivery.row("broker, to the consumer"),
    ];
    Ok(format!(
        "## Latency\n\n{} events/s of {} bytes, open loop; {} rounds of {} s, median (min–max).\n\n\
         {}\n{}",
        settings.rate,
        settings.event_bytes,
        settings.rounds,
        settings.seconds,
        markdown_table(&["one event, µs", "p50", "p99"], rows),
        goals.concat()
    ))
}

fn at_rate(settings: &Log, kind: Kind) -> Spec {
    let readers = usize::from(kind.reads());
    Spec {
        kind,
        event_bytes: (settings.event_bytes as usize).max(16),
        rate: settings.rate.into(),
        outstanding: 100_000,
        groups: readers,
        members: readers,
        seconds: settings.seconds.into(),
        warmup_seconds: 0.3,
        ..Spec::default()
    }
}

/// Microseconds of a durable write of 4 KiB.
async fn one_write(settings: &Log) -> anyhow::Result<f64> {
    let dir = settings.temporary_folder()?;
    let time = tokio::task::spawn_blocking(move || {
        RawLog::create(&dir.path().join("raw"), Blocks::Written)?.latency(2000)
    });
    Ok(time.await??.as_secs_f64() * 1e6)
}
