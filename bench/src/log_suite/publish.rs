//! Durable publishing at full speed.

use std::{sync::Arc, time::Duration};

use anyhow::Context;

use super::{Log, goal};
use crate::{
    bare::BLOCKS_UNDER_WAY,
    load::{
        engine::{self, Outcome},
        workload::Spec,
    },
    raw_disk::{Blocks, RawLog},
    report::{Figure, markdown_table},
    targets::bare::Bare,
};

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
    fn add(&mut self, outcome: &Outcome, event_bytes: usize) -> anyhow::Result<()> {
        let server = outcome.server.context("the server was not looked at")?;
        let bytes = (outcome.published * event_bytes as u64) as f64;
        let gb = bytes / 1e9;
        self.bytes_per_second
            .push(bytes / outcome.time.as_secs_f64());
        self.server_cpu_per_gb.push(server.cpu.as_secs_f64() / gb);
        self.client_cpu_per_gb
            .push(outcome.client_cpu.as_secs_f64() / gb);
        self.written_per_byte.push(server.written as f64 / bytes);
        self.peak_memory = self.peak_memory.max(server.peak_memory);
        Ok(())
    }

    fn speed(&self) -> f64 {
        Figure::of(self.bytes_per_second.clone()).median()
    }

    fn row(self, name: &str, bare: f64) -> Vec<String> {
        let speed = Figure::of(self.bytes_per_second);
        vec![
            name.to_owned(),
            speed.show(1e6, 0),
            format!("{:.2}", speed.median() / bare),
            Figure::of(self.server_cpu_per_gb).show(1.0, 2),
            Figure::of(self.client_cpu_per_gb).show(1.0, 2),
            Figure::of(self.written_per_byte).show(1.0, 2),
            (self.peak_memory >> 20).to_string(),
        ]
    }
}

pub(super) async fn measure(settings: &Log) -> anyhow::Result<String> {
    let full_speed = settings.full_speed();
    let many = Spec {
        topics: 8,
        partitions: 8,
        ..full_speed.clone()
    };
    let first_files = Spec {
        topic_prefix: "before-".to_owned(),
        seconds: 1.0,
        ..full_speed.clone()
    };
    let mut disk = Vec::new();
    let (mut grpc, mut bare) = (Way::default(), Way::default());
    let mut bare_new = Way::default();
    let (mut one_partition, mut many_partitions) = (Way::default(), Way::default());
    let mut recycled = Way::default();
    for _ in settings.rounds() {
        disk.push(disk_alone(settings).await?);
        let outcome = engine::run(Arc::new(Bare::start_without_disk()?), &full_speed).await?;
        grpc.add(&outcome, full_speed.event_bytes)?;
        let outcome = engine::run(settings.bare()?, &full_speed).await?;
        bare.add(&outcome, full_speed.event_bytes)?;
        let new_blocks = Bare::start_on_new_blocks(settings.temporary_folder()?)?;
        let outcome = engine::run(Arc::new(new_blocks), &full_speed).await?;
        bare_new.add(&outcome, full_speed.event_bytes)?;
        let outcome = engine::run(settings.broker()?, &full_speed).await?;
        one_partition.add(&outcome, full_speed.event_bytes)?;
        let outcome = engine::run(settings.broker()?, &many).await?;
        many_partitions.add(&outcome, many.event_bytes)?;
        let broker = settings.broker_that_recycles()?;
        // So that there are files to be written again.
        engine::run(broker.clone(), &first_files).await?;
        let outcome = engine::run(broker, &full_speed).await?;
        recycled.add(&outcome, full_speed.event_bytes)?;
    }

    let bare_speed = bare.speed();
    let of_bare = one_partition.speed() / bare_speed;
    let of_bare_new = one_partition.speed() / bare_new.speed();
    let of_bare_recycled = recycled.speed() / bare_speed;
    let of_one = many_partitions.speed() / one_partition.speed();
    let goals = [
        goal(
            "one partition, new segments, at least 0.8 of the bare path",
            format!("{of_bare:.2}"),
            of_bare >= 0.8,
        ),
        goal(
            "one partition, new segments, at least 0.8 of the bare path on new blocks",
            format!("{of_bare_new:.2}"),
            of_bare_new >= 0.8,
        ),
        goal(
            "one partition, recycled segments, at least 0.8 of the bare path, whose file is such",
            format!("{of_bare_recycled:.2}"),
            of_bare_recycled >= 0.8,
        ),
        goal(
            "64 partitions of 8 topics, within 10 % of one",
            format!("{of_one:.2}"),
            of_one >= 0.9,
        ),
    ];
    let disk = Figure::of(disk);
    let mut alone = vec![
        "durable writes alone".to_owned(),
        disk.show(1e6, 0),
        format!("{:.2}", disk.median() / bare_speed),
    ];
    alone.resize(7, String::new());
    let rows = vec![
        alone,
        grpc.row("gRPC stream, nothing written", bare_speed),
        bare.row("bare path: gRPC, CRC, durable write", bare_speed),
        bare_new.row("bare path, on blocks that were never written", bare_speed),
        one_partition.row("broker, 1 partition", bare_speed),
        many_partitions.row("broker, 64 partitions of 8 topics", bare_speed),
        recycled.row("broker, 1 partition, recycled segments", bare_speed),
    ];
    let header = [
        "durable publish",
        "MB/s",
        "of bare",
        "server CPU s/GB",
        "client CPU s/GB",
        "written/payload",
        "peak MiB",
    ];
    Ok(format!(
        "## Durable publishing\n\n{}\n\n{}\n{}",
        settings.how(),
        markdown_table(&header, rows),
        goals.concat()
    ))
}

/// Bytes a second of the same blocks, written durably in the same way and by as
/// many threads.
async fn disk_alone(settings: &Log) -> anyhow::Result<f64> {
    let dir = settings.temporary_folder()?;
    let block = settings.batch_kib as usize * 1024;
    let time = Duration::from_secs(settings.seconds.into());
    tokio::task::spawn_blocking(move || {
        let log = RawLog::create(&dir.path().join("raw"), Blocks::Written)?;
        Ok(log.speed(block, BLOCKS_UNDER_WAY, time)?)
    })
    .await?
}
