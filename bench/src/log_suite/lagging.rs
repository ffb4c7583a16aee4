//! Ten readers that lag, each behind in a topic of its own, beside full publish.
//! What they read is in no cache.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::task::JoinSet;

use super::{Log, forget, goal};
use crate::{
    api::reader,
    load::{engine, target::Target},
    preload,
    report::{Figure, markdown_table},
    targets::sluice::Sluice,
};

const READERS: usize = 10;
/// What each has before it, so that none comes to the end.
const BACKLOG_BYTES: u64 = 200 << 20;
/// The topic that is published to comes and goes, so that the disk does not fill.
const KEPT_BYTES: i64 = 256 << 20;
const LIMITS: [&str; 2] = ["retention_interval_ms=100", "spare_segments_max=16"];

/// What one setting came to, by round.
#[derive(Default)]
struct Beside {
    published: Vec<f64>,
    read: Vec<f64>,
}

pub(super) async fn measure(settings: &Log) -> anyhow::Result<String> {
    let mut alone = Beside::default();
    let (mut limited, mut unlimited) = (Beside::default(), Beside::default());
    let with_limit = broker(settings, &LIMITS).await?;
    for _ in settings.rounds() {
        round(settings, &with_limit, 0, &mut alone).await?;
        round(settings, &with_limit, READERS, &mut limited).await?;
    }
    // The disk need not hold both.
    drop(with_limit);
    let no_limit = [&LIMITS[..], &["lagging_bytes_per_s=0"]].concat();
    let without_limit = broker(settings, &no_limit).await?;
    for _ in settings.rounds() {
        round(settings, &without_limit, READERS, &mut unlimited).await?;
    }
    let base = Figure::of(alone.published.clone()).median();
    let kept = Figure::of(limited.published.clone()).median() / base;
    let row = |name: &str, beside: Beside| {
        let published = Figure::of(beside.published);
        vec![
            name.to_owned(),
            published.show(1e6, 0),
            format!("{:.2}", published.median() / base),
            Figure::of(beside.read).show(1e6, 0),
        ]
    };
    let rows = vec![
        row("no readers", alone),
        row("10 lagging readers", limited),
        row("10 lagging readers, lagging_bytes_per_s=0", unlimited),
    ];
    let goal = goal(
        "beside ten lagging readers, publishing keeps at least 70 %",
        format!("{:.0} %", kept * 100.0),
        kept >= 0.7,
    );
    Ok(format!(
        "## Lagging readers beside full publish\n\n{}\nEach reader has {} MiB of its own before it, \
         which is in no cache.\n\n{}\n{goal}",
        settings.how(),
        BACKLOG_BYTES >> 20,
        markdown_table(&["", "published MB/s", "of that alone", "read MB/s"], rows),
    ))
}

fn backlog(number: usize) -> String {
    format!("backlog-{number}")
}

/// With a backlog for each reader.
async fn broker(settings: &Log, limits: &[&str]) -> anyhow::Result<Arc<Sluice>> {
    let broker = settings.broker_that_keeps(KEPT_BYTES, limits)?;
    let event_bytes = settings.event_bytes as usize;
    for number in 0..READERS {
        broker.create_topic(&backlog(number), 0).await?;
    }
    for number in 0..READERS {
        let count = BACKLOG_BYTES / event_bytes as u64;
        preload::run(broker.addr(), &backlog(number), count, event_bytes, 0).await?;
    }
    Ok(broker)
}

async fn round(
    settings: &Log,
    broker: &Arc<Sluice>,
    readers: usize,
    beside: &mut Beside,
) -> anyhow::Result<()> {
    forget(broker.data_dir())?;
    let read = Arc::new(AtomicU64::new(0));
    let mut reading = JoinSet::new();
    for number in 0..readers {
        reading.spawn(again_and_again(
            broker.addr(),
            backlog(number),
            read.clone(),
        ));
    }
    let mut spec = settings.full_speed();
    // A topic of this round's own.
    spec.topic_prefix = format!("round-{}-{readers}-", beside.published.len());
    let (started, before) = (Instant::now(), read.load(Ordering::Relaxed));
    let target: Arc<dyn Target> = broker.clone();
    let outcome = engine::run(target, &spec).await?;
    let bytes = read.load(Ordering::Relaxed) - before;
    beside
        .read
        .push(bytes as f64 / started.elapsed().as_secs_f64());
    let bytes = (outcome.published * spec.event_bytes as u64) as f64;
    beside.published.push(bytes / outcome.time.as_secs_f64());
    // Those who end while they should read are told of.
    while let Some(ended) = reading.try_join_next() {
        ended??;
    }
    Ok(())
}

async fn again_and_again(
    addr: SocketAddr,
    topic: String,
    read: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    loop {
        reader::read_to_end(addr, &topic, |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        })
        .await?;
    }
}
