//! `sluice-bench log`: durable publishing beside the same path without a broker,
//! and the latency of one event.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;

use crate::{
    bare::BLOCKS_UNDER_WAY,
    load::{
        engine::{self, Outcome},
        target::Target,
        workload::{Kind, Spec},
    },
    raw_disk::RawLog,
    report::{Figure, table},
    targets::{bare::Bare, sluice::Sluice},
};

/// Settings of the run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Log {
    /// Rounds, of which the median is told.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// KiB of a batch.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch_kib: u32,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    event_bytes: u32,
    /// Streams that publish.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    streams: u32,
    /// Batches under way in each stream.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    in_flight: u32,
    /// Events a second for the latencies.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Where files are written: the disk that is measured [default: the
    /// system's folder for temporary files].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// What one way of writing came to, by round.
#[derive(Default)]
struct Way {
    bytes_per_second: Vec<f64>,
    server_cpu_per_gb: Vec<f64>,
    client_cpu_per_gb: Vec<f64>,
    written_per_byte: Vec<f64>,
    peak_memory: u64,
}

impl Way {
    fn add(&mut self, outcome: &Outcome, event_bytes: usize) {
        let bytes = (outcome.published * event_bytes as u64) as f64;
        let gb = bytes / 1e9;
        self.bytes_per_second
            .push(bytes / outcome.time.as_secs_f64());
        self.server_cpu_per_gb
            .push(outcome.server.cpu.as_secs_f64() / gb);
        self.client_cpu_per_gb
            .push(outcome.client_cpu.as_secs_f64() / gb);
        self.written_per_byte
            .push(outcome.server.written as f64 / bytes);
        self.peak_memory = self.peak_memory.max(outcome.server.peak_memory);
    }
}

#[derive(Default)]
struct Latency {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Latency {
    fn add(&mut self, micros: &engine::Latencies) {
        self.p50.push(micros.value_at_quantile(0.5) as f64);
        self.p99.push(micros.value_at_quantile(0.99) as f64);
    }
}

#[derive(Default)]
struct Results {
    disk: Vec<f64>,
    disk_4k: Vec<f64>,
    grpc: Way,
    bare: Way,
    one_partition: Way,
    many_partitions: Way,
    bare_ack: Latency,
    ack: Latency,
    delivery: Latency,
}

/// Runs the suite and prints its tables.
pub(crate) async fn run(settings: Log) -> anyhow::Result<()> {
    let mut results = Results::default();
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        settings.round(&mut results).await?;
    }
    print!("{}", settings.report(results));
    Ok(())
}

impl Log {
    async fn round(&self, results: &mut Results) -> anyhow::Result<()> {
        let dir = self.temporary_folder()?;
        let (disk, disk_4k) = tokio::task::spawn_blocking({
            let file = dir.path().join("raw");
            let block = self.batch_kib as usize * 1024;
            let time = Duration::from_secs(self.seconds.into());
            move || -> anyhow::Result<_> {
                let log = RawLog::create(&file)?;
                let speed = log.speed(block, BLOCKS_UNDER_WAY, time)?;
                Ok((speed, log.latency(2000)?))
            }
        })
        .await??;
        results.disk.push(disk);
        results.disk_4k.push(disk_4k.as_secs_f64() * 1e6);
        drop(dir);

        let full_speed = self.full_speed();
        let one_topic = |target| engine::run(target, &full_speed);
        let outcome = one_topic(Arc::new(Bare::start_without_disk()?)).await?;
        results.grpc.add(&outcome, full_speed.event_bytes);
        let outcome = one_topic(self.bare()?).await?;
        results.bare.add(&outcome, full_speed.event_bytes);
        let outcome = one_topic(self.broker()?).await?;
        results.one_partition.add(&outcome, full_speed.event_bytes);
        let many = Spec {
            topics: 8,
            partitions: 8,
            ..self.full_speed()
        };
        let outcome = engine::run(self.broker()?, &many).await?;
        results.many_partitions.add(&outcome, many.event_bytes);

        let at_rate = self.at_rate(Kind::Publish);
        results
            .bare_ack
            .add(&engine::run(self.bare()?, &at_rate).await?.acks);
        results
            .ack
            .add(&engine::run(self.broker()?, &at_rate).await?.acks);
        let to_a_member = self.at_rate(Kind::EndToEnd);
        let outcome = engine::run(self.broker()?, &to_a_member).await?;
        results.delivery.add(&outcome.deliveries);
        Ok(())
    }

    fn full_speed(&self) -> Spec {
        let event_bytes = self.event_bytes as usize;
        Spec {
            event_bytes,
            batch: (self.batch_kib as usize * 1024 / event_bytes).clamp(1, 10_000),
            producers: self.streams as usize,
            outstanding: self.in_flight as usize,
            seconds: self.seconds.into(),
            warmup_seconds: 0.3,
            ..Spec::default()
        }
    }

    fn at_rate(&self, kind: Kind) -> Spec {
        Spec {
            kind,
            event_bytes: (self.event_bytes as usize).max(16),
            rate: self.rate.into(),
            outstanding: 100_000,
            groups: 1,
            members: 1,
            seconds: self.seconds.into(),
            warmup_seconds: 0.3,
            ..Spec::default()
        }
    }

    fn temporary_folder(&self) -> anyhow::Result<tempfile::TempDir> {
        let dir = match &self.dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        dir.context("no temporary folder can be made")
    }

    fn broker(&self) -> anyhow::Result<Arc<dyn Target>> {
        Ok(Arc::new(Sluice::start(self.temporary_folder()?, None)?))
    }

    fn bare(&self) -> anyhow::Result<Arc<dyn Target>> {
        Ok(Arc::new(Bare::start(self.temporary_folder()?)?))
    }

    fn report(&self, results: Results) -> String {
        let bare = Figure::of(results.bare.bytes_per_second.clone()).median();
        let ways = [
            ("gRPC stream, nothing written", results.grpc),
            ("bare path: gRPC, CRC, durable write", results.bare),
            ("broker, 1 partition", results.one_partition),
            ("broker, 64 partitions of 8 topics", results.many_partitions),
        ];
        let mut rows = vec![way_without_server(results.disk, bare)];
        for (name, way) in ways {
            let speed = Figure::of(way.bytes_per_second);
            rows.push(vec![
                name.to_owned(),
                speed.show(1e6, 0),
                format!("{:.2}", speed.median() / bare),
                Figure::of(way.server_cpu_per_gb).show(1.0, 2),
                Figure::of(way.client_cpu_per_gb).show(1.0, 2),
                Figure::of(way.written_per_byte).show(1.0, 2),
                (way.peak_memory >> 20).to_string(),
            ]);
        }
        let speeds = table(
            &[
                "durable publish",
                "MB/s",
                "of bare",
                "server CPU s/GB",
                "client CPU s/GB",
                "written/payload",
                "peak MiB",
            ],
            rows,
        );
        let disk_4k = Figure::of(results.disk_4k);
        let latency = |name: &str, latency: Latency| {
            vec![
                name.to_owned(),
                Figure::of(latency.p50).show(1.0, 0),
                Figure::of(latency.p99).show(1.0, 0),
            ]
        };
        let latencies = table(
            &["one event, µs", "p50", "p99"],
            vec![
                vec![
                    "durable write of 4 KiB".into(),
                    disk_4k.show(1.0, 0),
                    String::new(),
                ],
                latency("bare path, to the ack", results.bare_ack),
                latency("broker, to the ack", results.ack),
                latency("broker, to the consumer", results.delivery),
            ],
        );
        format!(
            "Batches of {} KiB, events of {} bytes, {} streams with {} batches under way each;\n\
             {} rounds of {} s, median (min–max).\n\n{speeds}\n{} events/s, open loop:\n\n{latencies}",
            self.batch_kib,
            self.event_bytes,
            self.streams,
            self.in_flight,
            self.rounds,
            self.seconds,
            self.rate,
        )
    }
}

fn way_without_server(disk: Vec<f64>, bare: f64) -> Vec<String> {
    let speed = Figure::of(disk);
    let mut row = vec![
        "durable writes alone".to_owned(),
        speed.show(1e6, 0),
        format!("{:.2}", speed.median() / bare),
    ];
    row.resize(7, String::new());
    row
}
