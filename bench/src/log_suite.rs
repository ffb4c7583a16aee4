//! `sluice-bench log`: durable publishing beside the same path without a broker,
//! and the latency of one event.

use std::{
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use sluice_proto::pb::{self, admin_service_client::AdminServiceClient};

use crate::{
    end_to_end, events,
    process::{ServerProcess, Usage, usage},
    publish::{self, Load, connect},
    raw_disk::RawLog,
    report::{Figure, quantile, table},
};

const GROUP: &str = "bench";

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

#[derive(Default)]
struct Latency {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Latency {
    fn add(&mut self, sorted: &[Duration]) {
        self.p50.push(micros(quantile(sorted, 0.5)));
        self.p99.push(micros(quantile(sorted, 0.99)));
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
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
        let time = Duration::from_secs(self.seconds.into());
        let dir = self.temporary_folder()?;
        let (disk, disk_4k) = tokio::task::spawn_blocking({
            let file = dir.path().join("raw");
            let block = self.batch_kib as usize * 1024;
            move || -> anyhow::Result<_> {
                let mut log = RawLog::create(&file)?;
                Ok((log.speed(block, time)?, log.latency(2000)?))
            }
        })
        .await??;
        results.disk.push(disk);
        results.disk_4k.push(micros(disk_4k));
        drop(dir);

        let nowhere = ServerProcess::start(&["bare".as_ref()])?;
        self.publish(&nowhere, &["bench"], &mut results.grpc)
            .await?;
        drop(nowhere);

        let dir = self.temporary_folder()?;
        let file = dir.path().join("log");
        let bare = ServerProcess::start(&["bare".as_ref(), file.as_os_str()])?;
        self.publish(&bare, &["bench"], &mut results.bare).await?;
        let event = events::event(self.event_bytes as usize);
        let acks = end_to_end::to_ack(bare.addr, "bench", event.clone(), self.rate, time).await?;
        results.bare_ack.add(&acks.0);
        drop((bare, dir));

        let (broker, dir) = self.broker()?;
        create(broker.addr, "one", 1).await?;
        self.publish(&broker, &["one"], &mut results.one_partition)
            .await?;
        drop((broker, dir));

        let (broker, dir) = self.broker()?;
        let topics = ["a", "b", "c", "d", "e", "f", "g", "h"];
        for topic in topics {
            create(broker.addr, topic, 8).await?;
        }
        self.publish(&broker, &topics, &mut results.many_partitions)
            .await?;
        drop((broker, dir));

        let (broker, _dir) = self.broker()?;
        create(broker.addr, "acks", 1).await?;
        let acks = end_to_end::to_ack(broker.addr, "acks", event.clone(), self.rate, time).await?;
        results.ack.add(&acks.0);
        create(broker.addr, "events", 1).await?;
        let deliveries =
            end_to_end::to_delivery(broker.addr, "events", GROUP, event, self.rate, time).await?;
        results.delivery.add(&deliveries.0);
        Ok(())
    }

    fn temporary_folder(&self) -> anyhow::Result<tempfile::TempDir> {
        let dir = match &self.dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        dir.context("no temporary folder can be made")
    }

    fn broker(&self) -> anyhow::Result<(ServerProcess, tempfile::TempDir)> {
        let dir = self.temporary_folder()?;
        let data: &Path = dir.path();
        let args: [&OsStr; 2] = ["broker".as_ref(), data.as_os_str()];
        Ok((ServerProcess::start(&args)?, dir))
    }

    async fn publish(
        &self,
        server: &ServerProcess,
        topics: &[&str],
        way: &mut Way,
    ) -> anyhow::Result<()> {
        let mut load = Load {
            addr: server.addr,
            topics: topics.iter().map(ToString::to_string).collect(),
            streams: self.streams as usize,
            in_flight: self.in_flight as usize,
            events: events::batch(self.batch_kib as usize * 1024, self.event_bytes as usize),
            time: Duration::from_millis(300),
        };
        // Once to warm up.
        publish::run(&load).await?;
        load.time = Duration::from_secs(self.seconds.into());
        let before = [server.usage()?, usage("self")?];
        let acked = publish::run(&load).await?;
        let after = [server.usage()?, usage("self")?];
        let gb = acked.payload_bytes as f64 / 1e9;
        let cpu = |at: usize| {
            let used: [Usage; 2] = [before[at], after[at]];
            (used[1].cpu - used[0].cpu).as_secs_f64() / gb
        };
        way.bytes_per_second.push(acked.bytes_per_second());
        way.server_cpu_per_gb.push(cpu(0));
        way.client_cpu_per_gb.push(cpu(1));
        let written = after[0].written - before[0].written;
        way.written_per_byte
            .push(written as f64 / acked.payload_bytes as f64);
        way.peak_memory = way.peak_memory.max(after[0].peak_memory);
        Ok(())
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

/// Makes a topic, and a group on it.
async fn create(addr: SocketAddr, topic: &str, partitions: i32) -> anyhow::Result<()> {
    let mut admin = AdminServiceClient::new(connect(addr).await?);
    admin
        .create_topic(pb::CreateTopicRequest {
            topic: topic.into(),
            config: Some(pb::TopicConfig {
                partitions,
                ..pb::TopicConfig::default()
            }),
        })
        .await?;
    if topic == "events" {
        admin
            .create_group(pb::CreateGroupRequest {
                topic: topic.into(),
                group: GROUP.into(),
                config: None,
            })
            .await?;
    }
    Ok(())
}
