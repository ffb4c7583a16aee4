//! `sluice-bench log`: the commit log beside what the machine itself does, in the
//! same run. It has parts, each of which prints its figures, and whether they
//! reach what is aimed at.

mod device;
mod lagging;
mod latency;
mod memory;
mod publish;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::{
    load::{target::Target, workload::Spec},
    process,
    targets::{bare::Bare, sluice::Sluice},
};

/// Settings of the run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Log {
    /// Parts, in this order; all of them without it.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
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
    /// GB that are stored for `memory`; as many are free on the disk.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    stored_gb: u32,
    /// Where files are written: the disk that is measured [default: the
    /// system's folder for temporary files].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// What is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Durable publishing, beside the raw limits and the bare path.
    Publish,
    /// One event at a time, to the ack and to the consumer.
    Latency,
    /// Ten lagging readers beside full publish.
    Lagging,
    /// Bytes written to and read from the device, per byte of payload.
    Device,
    /// Memory with 64 streams and much stored, and how that opens.
    Memory,
}

/// Runs the suite and prints each part when it is done.
pub(crate) async fn run(settings: Log) -> anyhow::Result<()> {
    let parts = match &settings.only[..] {
        [] => Part::value_variants(),
        some => some,
    };
    for part in parts {
        let report = match part {
            Part::Publish => publish::measure(&settings).await,
            Part::Latency => latency::measure(&settings).await,
            Part::Lagging => lagging::measure(&settings).await,
            Part::Device => device::measure(&settings).await,
            Part::Memory => memory::measure(&settings).await,
        };
        println!("{}", report.with_context(|| format!("{part:?}"))?);
    }
    Ok(())
}

impl Log {
    fn rounds(&self) -> impl Iterator<Item = u32> + use<> {
        let all = self.rounds;
        (1..=all).inspect(move |round| eprintln!("round {round} of {all}"))
    }

    fn full_speed(&self) -> Spec {
        let event_bytes = self.event_bytes as usize;
        Spec {
            event_bytes,
            batch: (self.batch_kib as usize * 1024 / event_bytes).clamp(1, 10_000),
            producers: self.streams as usize,
            outstanding: self.in_flight as usize,
            seconds: self.seconds.into(),
            // In this time the broker has touched all of its memory.
            warmup_seconds: 0.8,
            ..Spec::default()
        }
    }

    /// How the loads at full speed publish, for people.
    fn how(&self) -> String {
        format!(
            "Batches of {} KiB, events of {} bytes, {} streams with {} batches under way each;\n\
             {} rounds of {} s, median (min–max).",
            self.batch_kib,
            self.event_bytes,
            self.streams,
            self.in_flight,
            self.rounds,
            self.seconds,
        )
    }

    fn temporary_folder(&self) -> anyhow::Result<tempfile::TempDir> {
        process::temporary_folder(self.dir.as_deref())
    }

    fn broker(&self) -> anyhow::Result<Arc<dyn Target>> {
        Ok(Arc::new(Sluice::start(self.temporary_folder()?, None)?))
    }

    /// A broker with limits, whose topics keep so many bytes in each partition.
    fn broker_that_keeps(&self, bytes: i64, limits: &[&str]) -> anyhow::Result<Arc<Sluice>> {
        let dir = self.temporary_folder()?;
        Ok(Arc::new(Sluice::start_with(dir, None, bytes, limits)?))
    }

    /// One whose topics keep little, so that segments are written again soon.
    fn broker_that_recycles(&self) -> anyhow::Result<Arc<Sluice>> {
        const KEPT_BYTES: i64 = 64 << 20;
        let often = ["retention_interval_ms=100", "spare_segments_max=16"];
        let not_ahead = "ahead_bytes_per_second=0";
        self.broker_that_keeps(KEPT_BYTES, &[&often[..], &[not_ahead]].concat())
    }

    fn bare(&self) -> anyhow::Result<Arc<dyn Target>> {
        Ok(Arc::new(Bare::start(self.temporary_folder()?)?))
    }
}

/// A goal, and whether it is reached.
fn goal(what: &str, figure: String, reached: bool) -> String {
    let verdict = if reached { "reached" } else { "missed" };
    format!("- {what}: {figure}, {verdict}\n")
}

/// The files of a broker's log.
fn segments(data_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(data_dir.join("log"))? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

/// Takes the log's files out of the page cache, in which some are that were
/// read. Whatever is not written stays.
fn forget(data_dir: &Path) -> anyhow::Result<()> {
    for path in segments(data_dir)? {
        // The broker may have removed or renamed it.
        if let Ok(file) = File::open(path) {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}
