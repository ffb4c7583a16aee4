//! Publishing: at a rate or as fast as it goes, and filling a topic.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    Latencies, Run, latencies, micros,
    pace::{Due, Schedule, pace},
};
use crate::load::target::{Acked, Message};

/// Bytes of a batch that fills a topic, and batches under way.
const FILL_BATCH_BYTES: usize = 256 << 10;
const FILL_UNDER_WAY: usize = 16;

/// What was acked to a producer.
pub(super) struct Acks {
    /// Events and batches that were acked in the measured time.
    pub(super) events: u64,
    pub(super) batches: u64,
    /// From when a batch was due to its ack.
    pub(super) times: Latencies,
}

impl Acks {
    pub(super) fn none() -> Self {
        Self {
            events: 0,
            batches: 0,
            times: latencies(),
        }
    }

    pub(super) fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.events += other.events;
        self.batches += other.batches;
        self.times.add(&other.times)?;
        Ok(())
    }

    fn count(&mut self, run: &Run, done: anyhow::Result<(Instant, u64)>) -> anyhow::Result<()> {
        let (due, events) = done?;
        let now = Instant::now();
        if due >= run.from {
            self.times.saturating_record(micros(now - due));
        }
        if now >= run.from && now < run.until {
            self.events += events;
            self.batches += 1;
        }
        Ok(())
    }
}

/// Publishes until the time is over, and waits for what is not acked then.
pub(super) async fn produce(run: Arc<Run>, producer: usize) -> anyhow::Result<Acks> {
    let mut sender = run.target.producer(&run.topics, &run.spec).await?;
    // A chain begins at its first topic; otherwise they take turns.
    let topics = if run.spec.stages > 0 {
        1
    } else {
        run.topics.len()
    };
    let mut topic = producer;
    let mut acks = Acks::none();
    let mut on_their_way = FuturesUnordered::new();
    let mut due = match Schedule::new(&run, producer) {
        Some(schedule) => Due::Paced(pace(schedule, run.until)?),
        None => Due::AtOnce { until: run.until },
    };
    loop {
        let full = on_their_way.len() >= run.spec.outstanding;
        tokio::select! {
            biased;
            Some(done) = on_their_way.next() => acks.count(&run, done)?,
            due = due.next(), if !full => {
                let Some(due) = due else { break };
                let batch = batch(&run, due);
                let events = batch.len() as u64;
                let ack = sender.send(topic % topics, batch).await?;
                topic += 1;
                on_their_way.push(async move { ack.await.map(|()| (due, events)) });
            }
        }
    }
    let rest = async {
        while let Some(done) = on_their_way.next().await {
            acks.count(&run, done)?;
        }
        anyhow::Ok(())
    };
    let patience = run.spec.patience();
    let rest = tokio::time::timeout(patience, rest).await;
    rest.with_context(|| format!("batches are not acked after {patience:?}"))??;
    Ok(acks)
}

fn batch(run: &Run, due: Instant) -> Vec<Message> {
    let events = run.spec.batch as u64;
    let first = run.sent.fetch_add(events, Ordering::Relaxed);
    let all = first..first + events;
    all.map(|sequence| run.message(sequence, due)).collect()
}

/// Publishes the events that are there before the members come.
pub(super) async fn fill(run: &Run) -> anyhow::Result<()> {
    let due = Instant::now();
    let mut producer = run.target.producer(&run.topics, &run.spec).await?;
    let mut on_their_way = FuturesUnordered::<Acked>::new();
    let per_batch = (FILL_BATCH_BYTES / run.spec.event_bytes).clamp(1, 500) as u64;
    let work = async {
        let mut sequence = 0;
        while sequence < run.spec.events {
            let end = (sequence + per_batch).min(run.spec.events);
            let batch = (sequence..end).map(|sequence| run.message(sequence, due));
            on_their_way.push(producer.send(0, batch.collect()).await?);
            sequence = end;
            if on_their_way.len() >= FILL_UNDER_WAY {
                on_their_way.next().await.transpose()?;
            }
        }
        while on_their_way.next().await.transpose()?.is_some() {}
        anyhow::Ok(())
    };
    let patience: Duration = run.spec.patience();
    let work = tokio::time::timeout(patience, work).await;
    work.with_context(|| format!("the topic is not full after {patience:?}"))??;
    run.sent.store(run.spec.events, Ordering::Relaxed);
    Ok(())
}
