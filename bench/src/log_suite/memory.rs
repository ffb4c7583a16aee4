//! What a broker with much stored and many streams takes of memory, and how long
//! it takes to open.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{Log, forget, goal, segments};
use crate::{
    api::{publisher::Publisher, reader},
    events,
    load::{engine, target::Target, workload::Spec},
    report::Figure,
    targets::sluice::Sluice,
};

const STREAMS: usize = 64;
const FURTHER_STREAMS: usize = 192;
const PAGE: u64 = 4096;

pub(super) async fn measure(settings: &Log) -> anyhow::Result<String> {
    let broker = settings.broker_that_keeps(0, &[])?;
    store(settings, &broker).await?;
    let published = broker.process().usage()?.peak_memory;

    let (mut footers, mut opened) = (Vec::new(), Vec::new());
    for _ in settings.rounds() {
        forget(broker.data_dir())?;
        footers.push(read_ends(broker.data_dir())?.as_secs_f64());
        forget(broker.data_dir())?;
        opened.push(open(&broker).await?.as_secs_f64());
    }
    // Each has the whole log before it.
    forget(broker.data_dir())?;
    read_for_a_while(settings, &broker).await?;
    let read = broker.process().usage()?.peak_memory;

    open(&broker).await?;
    let idle = broker.process().memory()?;
    let (some, more) = further_streams(settings, &broker).await?;
    let each = |more: u64, less: u64, count| more.saturating_sub(less) / 1024 / count;

    let stored = bytes_of(broker.data_dir())? as f64;
    // What a lost view costs: it is built again from the whole log.
    fs::remove_dir_all(broker.data_dir().join("view"))?;
    let rebuilt = open(&broker).await?.as_secs_f64();

    let mib = |bytes: u64| bytes >> 20;
    let peak = published.max(read);
    let (footers, opened) = (Figure::of(footers), Figure::of(opened));
    let ratio = opened.median() / footers.median();
    Ok(format!(
        "## Memory, and opening\n\n\
         {:.1} GB stored, every default.\n\n\
         - Peak while {STREAMS} streams publish it at full speed: {} MiB\n\
         - Peak while {STREAMS} readers lag by all of it, each on a connection of its own: {} MiB\n\
         - After a start: {} MiB; {} KiB for each of {STREAMS} publishing streams, {} KiB for each of\n  \
           {FURTHER_STREAMS} further ones, connection included, that have published and wait\n\
         - Header and last page of all segments, read from the disk: {} ms\n\
         - From the start after a kill to serving: {} ms; without its view: {:.1} s\n\n{}{}",
        stored / 1e9,
        mib(published),
        mib(read),
        mib(idle),
        each(some, idle, STREAMS as u64),
        each(more, some, FURTHER_STREAMS as u64),
        footers.show(1e-3, 1),
        opened.show(1e-3, 0),
        rebuilt,
        goal(
            "peak memory with 64 streams, at most 200 MiB",
            format!("{} MiB", mib(peak)),
            mib(peak) <= 200,
        ),
        goal(
            "opening, at most 10 × the time to read the segments' footers",
            format!("{ratio:.1} ×"),
            ratio <= 10.0,
        ),
    ))
}

/// Publishes from all streams until so much is stored.
async fn store(settings: &Log, broker: &Arc<Sluice>) -> anyhow::Result<()> {
    let wanted = u64::from(settings.stored_gb) * 1_000_000_000;
    let mut turn = 0;
    while bytes_of(broker.data_dir())? < wanted {
        turn += 1;
        let spec = Spec {
            producers: STREAMS,
            topic_prefix: format!("turn-{turn}-"),
            ..settings.full_speed()
        };
        let target: Arc<dyn Target> = broker.clone();
        engine::run(target, &spec).await?;
    }
    Ok(())
}

fn bytes_of(data_dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for path in segments(data_dir)? {
        bytes += path.metadata().map_or(0, |file| file.len());
    }
    Ok(bytes)
}

/// Kills the broker and starts it again; from the start to serving.
async fn open(broker: &Arc<Sluice>) -> anyhow::Result<Duration> {
    Ok(broker.restart().await?.elapsed())
}

/// Reads the header and the last page of each segment.
fn read_ends(data_dir: &Path) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut page = [0; PAGE as usize];
    for path in segments(data_dir)? {
        let read = || -> io::Result<()> {
            let file = File::open(&path)?;
            file.read_exact_at(&mut page, 0)?;
            let end = file.metadata()?.len();
            file.read_exact_at(&mut page, end.saturating_sub(PAGE))
        };
        let mut read = read;
        read()?;
    }
    Ok(started.elapsed())
}

async fn read_for_a_while(settings: &Log, broker: &Sluice) -> anyhow::Result<()> {
    let mut reading = JoinSet::new();
    for _ in 0..STREAMS {
        let addr = broker.addr();
        reading.spawn(async move { reader::read_to_end(addr, "turn-1-0", |_| {}).await });
    }
    tokio::time::sleep(Duration::from_secs(settings.seconds.into())).await;
    while let Some(ended) = reading.try_join_next() {
        ended??;
    }
    Ok(())
}

/// Memory with the first streams, and with the further ones as well.
async fn further_streams(settings: &Log, broker: &Sluice) -> anyhow::Result<(u64, u64)> {
    broker.create_topic("further", 0).await?;
    let event = events::event(settings.event_bytes as usize);
    let batch = vec![event; settings.full_speed().batch];
    let mut publishers = Vec::new();
    let mut memory = Vec::new();
    for count in [STREAMS, FURTHER_STREAMS] {
        for _ in 0..count {
            let publisher = Publisher::open(broker.addr()).await?;
            publisher.send("further", batch.clone()).await?.await?;
            publishers.push(publisher);
        }
        memory.push(broker.process().memory()?);
    }
    Ok((memory[0], memory[1]))
}
