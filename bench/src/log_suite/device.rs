//! Bytes written to the device and read from it, per byte of payload.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use sluice_proto::pb;

use super::{Log, forget, goal};
use crate::{
    api::{publisher::Publisher, reader},
    events,
    load::{
        engine,
        target::{Acked, Target},
    },
    report::{Figure, markdown_table},
    targets::sluice::Sluice,
};

/// So little that full segments are of no use soon.
const PASSING_BYTES: i64 = 64 << 20;
const RECYCLING: [&str; 2] = ["retention_interval_ms=100", "spare_segments_max=16"];
const NOT_AHEAD: &str = "ahead_bytes_per_second=0";
/// Of the runs with two topics.
const MIXED_BYTES: u64 = 1 << 30;
/// Longest wait until retention has done what there is to do.
const RETAINED: Duration = Duration::from_secs(30);

pub(super) async fn measure(settings: &Log) -> anyhow::Result<String> {
    let (mut recycled, mut new, mut zeroed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in settings.rounds() {
        let broker = settings.broker_that_recycles()?;
        // So that there are files to be written again.
        written_per_byte(settings, &broker, "before-").await?;
        recycled.push(written_per_byte(settings, &broker, "then-").await?);
        // Its folder goes with it: the disk need not hold several.
        drop(broker);
        let broker = settings.broker_that_keeps(0, &[NOT_AHEAD])?;
        new.push(written_per_byte(settings, &broker, "").await?);
        drop(broker);
        let broker = settings.broker_that_keeps(0, &[])?;
        zeroed.push(written_per_byte(settings, &broker, "").await?);
    }
    let median = Figure::of(recycled.clone()).median();
    let goal = goal(
        "written per byte of payload into recycled segments, at most 1.1",
        format!("{median:.2}"),
        median <= 1.1,
    );
    let rows = [
        ("recycled segments", recycled),
        ("new segments", new),
        ("new segments, zeroed ahead: every default", zeroed),
    ];
    let rows = rows.map(|(name, figures)| vec![name.to_owned(), Figure::of(figures).show(1.0, 3)]);
    Ok(format!(
        "## Bytes on the device\n\n{}\n\n{}\n{goal}\n{}\n\n{}",
        settings.how(),
        markdown_table(&["", "written/payload"], rows.to_vec()),
        mixed_retention(settings).await?,
        replay_of_little(settings).await?,
    ))
}

/// Of publishing at full speed.
async fn written_per_byte(
    settings: &Log,
    broker: &Arc<Sluice>,
    topics: &str,
) -> anyhow::Result<f64> {
    let mut spec = settings.full_speed();
    spec.topic_prefix = topics.to_owned() + "bench-";
    let target: Arc<dyn Target> = broker.clone();
    let outcome = engine::run(target, &spec).await?;
    let payload = outcome.published * spec.event_bytes as u64;
    let server = outcome.server.context("the server was not looked at")?;
    Ok(server.written as f64 / payload as f64)
}

/// Publishes to two topics in turn, batches of so many events; returns the bytes
/// of their payloads.
async fn two_topics(
    settings: &Log,
    broker: &Sluice,
    topics: [(&str, usize); 2],
) -> anyhow::Result<u64> {
    const UNDER_WAY: usize = 16;
    let event_bytes = settings.event_bytes as usize;
    let event = events::event(event_bytes);
    let publisher = Publisher::open(broker.addr()).await?;
    let mut under_way: VecDeque<Acked> = VecDeque::new();
    let mut bytes = 0;
    while bytes < MIXED_BYTES {
        for (topic, count) in topics {
            let batch: Vec<Bytes> = vec![event.clone(); count];
            under_way.push_back(Box::pin(publisher.send(topic, batch).await?));
            bytes += (count * event_bytes) as u64;
        }
        while under_way.len() > UNDER_WAY
            && let Some(first) = under_way.pop_front()
        {
            first.await?;
        }
    }
    for acked in under_way {
        acked.await?;
    }
    Ok(bytes)
}

/// One topic keeps little of what it gets, and another, in the same segments, all
/// of a tenth as much.
async fn mixed_retention(settings: &Log) -> anyhow::Result<String> {
    let broker = settings.broker_that_keeps(0, &RECYCLING)?;
    broker.create_topic("passing", PASSING_BYTES).await?;
    broker.create_topic("kept", 0).await?;
    let batch = settings.full_speed().batch;
    let before = broker.process().usage()?;
    let topics = [("passing", batch), ("kept", batch.div_ceil(10))];
    let bytes = two_topics(settings, &broker, topics).await?;
    let while_published = broker.process().usage()?.since(&before).written;
    let status = settled(&broker).await?;
    let written = broker.process().usage()?.since(&before).written;
    let per_byte = |written: f64| written / bytes as f64;
    Ok(format!(
        "Mixed retention, {:.1} GB in two topics, of which one keeps {} MiB and the other its tenth:\n\
         {:.2} bytes written per byte of payload while publishing, {:.2} when retention has come\n\
         to rest; {:.2} of them are events that were written again. The log's files take {:.0} MiB,\n\
         in which {:.0} MiB are kept.",
        bytes as f64 / 1e9,
        PASSING_BYTES >> 20,
        per_byte(while_published as f64),
        per_byte(written as f64),
        per_byte(status.rewritten_bytes as f64),
        status.log_bytes as f64 / f64::from(1 << 20),
        status.live_bytes as f64 / f64::from(1 << 20),
    ))
}

/// Waits until retention does nothing any more; what the broker says then.
async fn settled(broker: &Sluice) -> anyhow::Result<pb::DescribeBrokerResponse> {
    let mut admin = broker.admin().await?;
    let (started, mut before) = (Instant::now(), (-1, -1));
    loop {
        let status = admin.describe_broker(pb::DescribeBrokerRequest {}).await?;
        let status = status.into_inner();
        let now = (status.reclaimed_bytes, status.rewritten_bytes);
        if now == before || started.elapsed() > RETAINED {
            return Ok(status);
        }
        before = now;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Reads a topic that has a hundredth of the log, spread all over it.
async fn replay_of_little(settings: &Log) -> anyhow::Result<String> {
    let broker = settings.broker_that_keeps(0, &[])?;
    broker.create_topic("much", 0).await?;
    broker.create_topic("little", 0).await?;
    let batch = settings.full_speed().batch;
    let topics = [("much", batch), ("little", batch.div_ceil(100))];
    two_topics(settings, &broker, topics).await?;
    let (mut speeds, mut read_per_byte) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in settings.rounds() {
        forget(broker.data_dir())?;
        let (before, started) = (broker.process().usage()?, Instant::now());
        bytes = 0;
        reader::read_to_end(broker.addr(), "little", |page| bytes += page).await?;
        let read = broker.process().usage()?.since(&before).read;
        speeds.push(bytes as f64 / started.elapsed().as_secs_f64());
        read_per_byte.push(read as f64 / bytes as f64);
    }
    Ok(format!(
        "Replay of a topic with a hundredth of a log of {:.1} GB, {:.0} MB, in no cache:\n\
         {} MB/s, {} bytes read from the device per byte of events.\n",
        MIXED_BYTES as f64 / 1e9,
        bytes as f64 / 1e6,
        Figure::of(speeds).show(1e6, 0),
        Figure::of(read_per_byte).show(1.0, 1),
    ))
}
