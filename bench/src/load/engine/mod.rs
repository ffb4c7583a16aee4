//! Runs a load on a broker, and counts.
//!
//! Latency counts from the moment at which an event was due, whether or not the
//! bench or the broker was late then: a stall is seen by every event that was
//! due in it (no coordinated omission).

mod pace;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use hdrhistogram::Histogram;
use tokio::{sync::watch, task::JoinSet, time::sleep_until};

use self::pace::{Due, Schedule, pace};
use super::{
    payload::Payloads,
    target::{Acked, Message, Target},
    workload::{Kind, Spec},
};
use crate::process::{self, Usage};

/// Latencies in microseconds.
pub(crate) type Latencies = Histogram<u64>;

pub(crate) fn latencies() -> Latencies {
    // Up to ten minutes, to three digits; fixed numbers within what it takes.
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are right")
}

/// What a run came to.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Events acked to the producers in the measured time.
    pub(crate) published: u64,
    /// Events acked by members in the measured time, of all groups.
    pub(crate) consumed: u64,
    pub(crate) time: Duration,
    /// From when a batch was due to its ack.
    pub(crate) acks: Latencies,
    /// From when an event was due to its arrival at a member.
    pub(crate) deliveries: Latencies,
    /// The busiest member's events over the idlest one's.
    pub(crate) spread: f64,
    pub(crate) server: Usage,
    pub(crate) client_cpu: Duration,
}

impl Outcome {
    pub(crate) fn published_per_second(&self) -> f64 {
        self.published as f64 / self.time.as_secs_f64()
    }

    pub(crate) fn consumed_per_second(&self) -> f64 {
        self.consumed as f64 / self.time.as_secs_f64()
    }

    /// The part of the CPU that the bench itself took.
    pub(crate) fn client_share(&self) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.client_cpu.as_secs_f64() / (self.time.as_secs_f64() * cores as f64)
    }
}

/// What tasks of a run share.
struct Run {
    target: Arc<dyn Target>,
    topic: String,
    spec: Spec,
    payloads: Payloads,
    /// When to begin counting, and when to stop sending.
    from: Instant,
    until: Instant,
    sent: AtomicU64,
}

/// Runs a load on a topic of its own.
pub(crate) async fn run(
    target: Arc<dyn Target>,
    topic: &str,
    spec: &Spec,
) -> anyhow::Result<Outcome> {
    target.create(topic, spec).await?;
    let spec = spec.clone();
    match spec.kind {
        Kind::Publish | Kind::EndToEnd => publish_and_consume(target, topic, spec).await,
        Kind::Drain => drain(target, topic, spec).await,
    }
}

async fn publish_and_consume(
    target: Arc<dyn Target>,
    topic: &str,
    spec: Spec,
) -> anyhow::Result<Outcome> {
    let origin = Instant::now();
    let from = origin + spec.warmup();
    let run = Arc::new(Run {
        payloads: Payloads::new(spec.payload, spec.event_bytes, origin),
        target,
        topic: topic.to_owned(),
        from,
        until: from + spec.time(),
        spec,
        sent: AtomicU64::new(0),
    });
    let (total, is_total) = watch::channel(None);
    let mut members = start_members(&run, &is_total);
    let mut producers = JoinSet::new();
    for producer in 0..run.spec.producers {
        producers.spawn(produce(run.clone(), producer));
    }
    let usage = tokio::spawn(measure_usage(run.clone()));

    let mut acks = latencies();
    let mut published = 0;
    while let Some(done) = producers.join_next().await {
        let (count, hist) = done??;
        published += count;
        acks.add(&hist)?;
    }
    total.send_replace(Some(run.sent.load(Ordering::Relaxed)));
    let (consumed, deliveries, by_member) = join_members(&mut members, &run).await?;
    let (server, client_cpu) = usage.await??;
    Ok(Outcome {
        published,
        consumed,
        time: run.spec.time(),
        acks,
        deliveries,
        spread: spread(&by_member),
        server,
        client_cpu,
    })
}

async fn drain(target: Arc<dyn Target>, topic: &str, spec: Spec) -> anyhow::Result<Outcome> {
    let origin = Instant::now();
    let payloads = Payloads::new(spec.payload, spec.event_bytes, origin);
    let mut producer = target.producer(topic).await?;
    let mut on_their_way = FuturesUnordered::<Acked>::new();
    let per_batch = (256 * 1024 / spec.event_bytes).clamp(1, 500) as u64;
    let mut sequence = 0;
    while sequence < spec.events {
        let end = (sequence + per_batch).min(spec.events);
        let batch = (sequence..end).map(|sequence| Message {
            payload: payloads.stamped(sequence, origin),
            key: (spec.keys > 0).then(|| sequence % spec.keys),
        });
        on_their_way.push(producer.send(batch.collect()).await?);
        sequence = end;
        if on_their_way.len() >= 16 {
            on_their_way.next().await.transpose()?;
        }
    }
    while on_their_way.next().await.transpose()?.is_some() {}
    let from = Instant::now();
    let pid = target.pid();
    let before = (process::usage(&pid.to_string())?, process::usage("self")?);
    let run = Arc::new(Run {
        payloads,
        target,
        topic: topic.to_owned(),
        from,
        until: from + spec.patience(),
        sent: AtomicU64::new(spec.events),
        spec,
    });
    let (_total, is_total) = watch::channel(Some(run.spec.events));
    let mut members = start_members(&run, &is_total);
    let (consumed, deliveries, by_member) = join_members(&mut members, &run).await?;
    let time = from.elapsed();
    let after = (process::usage(&pid.to_string())?, process::usage("self")?);
    Ok(Outcome {
        published: 0,
        consumed,
        time,
        acks: latencies(),
        deliveries,
        spread: spread(&by_member),
        server: after.0.since(&before.0),
        client_cpu: after.1.since(&before.1).cpu,
    })
}

/// What server and bench use in the measured time.
async fn measure_usage(run: Arc<Run>) -> anyhow::Result<(Usage, Duration)> {
    let pid = run.target.pid().to_string();
    sleep_until(run.from.into()).await;
    let before = (process::usage(&pid)?, process::usage("self")?);
    sleep_until(run.until.into()).await;
    let after = (process::usage(&pid)?, process::usage("self")?);
    Ok((after.0.since(&before.0), after.1.since(&before.1).cpu))
}

// --------------------------------------------------------------- producers

/// Publishes until the time is over; returns how many events were acked in the
/// measured time, and how long the acks took.
async fn produce(run: Arc<Run>, producer: usize) -> anyhow::Result<(u64, Latencies)> {
    let mut sender = run.target.producer(&run.topic).await?;
    let mut acks = latencies();
    let mut acked = 0;
    let mut on_their_way = FuturesUnordered::new();
    let mut due = match Schedule::new(&run, producer) {
        Some(schedule) => Due::Paced(pace(schedule, run.until)?),
        None => Due::AtOnce { until: run.until },
    };
    loop {
        let full = on_their_way.len() >= run.spec.outstanding;
        tokio::select! {
            biased;
            Some(done) = on_their_way.next() => count(&run, done, &mut acked, &mut acks)?,
            due = due.next(), if !full => {
                let Some(due) = due else { break };
                let batch = batch(&run, due);
                let events = batch.len() as u64;
                let ack = sender.send(batch).await?;
                on_their_way.push(async move { ack.await.map(|()| (due, events)) });
            }
        }
    }
    let rest = async {
        while let Some(done) = on_their_way.next().await {
            count(&run, done, &mut acked, &mut acks)?;
        }
        anyhow::Ok(())
    };
    let patience = run.spec.patience();
    let rest = tokio::time::timeout(patience, rest).await;
    rest.with_context(|| format!("batches are not acked after {patience:?}"))??;
    Ok((acked, acks))
}

fn count(
    run: &Run,
    done: anyhow::Result<(Instant, u64)>,
    acked: &mut u64,
    acks: &mut Latencies,
) -> anyhow::Result<()> {
    let (due, events) = done?;
    let now = Instant::now();
    if due >= run.from {
        acks.saturating_record(micros(now - due));
    }
    if now >= run.from && now < run.until {
        *acked += events;
    }
    Ok(())
}

fn micros(time: Duration) -> u64 {
    (time.as_micros() as u64).max(1)
}

fn batch(run: &Run, due: Instant) -> Vec<Message> {
    let events = run.spec.batch as u64;
    let first = run.sent.fetch_add(events, Ordering::Relaxed);
    let stamp = run.spec.kind == Kind::EndToEnd;
    let message = |sequence| Message {
        payload: if stamp {
            run.payloads.stamped(sequence, due)
        } else {
            run.payloads.plain()
        },
        key: (run.spec.keys > 0).then(|| sequence % run.spec.keys),
    };
    (first..first + events).map(message).collect()
}

// ----------------------------------------------------------------- members

/// What a member has seen.
struct Seen {
    group: usize,
    /// Events that arrived in the measured time.
    counted: u64,
    /// Numbers of all events.
    sequences: Vec<u64>,
    deliveries: Latencies,
}

type Members = JoinSet<anyhow::Result<Seen>>;

fn start_members(run: &Arc<Run>, total: &watch::Receiver<Option<u64>>) -> Members {
    let mut members = JoinSet::new();
    let seen: Vec<_> = (0..run.spec.groups)
        .map(|_| Arc::new(watch::Sender::new(0)))
        .collect();
    for group in 0..run.spec.groups {
        for _ in 0..run.spec.members {
            let (run, total, seen) = (run.clone(), total.clone(), seen[group].clone());
            members.spawn(work(run, group, seen, total));
        }
    }
    members
}

/// Takes events until the group has seen as many as were published.
async fn work(
    run: Arc<Run>,
    group: usize,
    seen_by_group: Arc<watch::Sender<u64>>,
    mut total: watch::Receiver<Option<u64>>,
) -> anyhow::Result<Seen> {
    let mut consumer = run.target.consumer(&run.topic, group, &run.spec).await?;
    let mut seen = Seen {
        group,
        counted: 0,
        sequences: Vec::new(),
        deliveries: latencies(),
    };
    let mut group_count = seen_by_group.subscribe();
    let done = async {
        let total = total.wait_for(Option::is_some).await?.unwrap_or(0);
        group_count.wait_for(|count| *count >= total).await?;
        anyhow::Ok(())
    };
    tokio::pin!(done);
    loop {
        tokio::select! {
            biased;
            result = &mut done => {
                result?;
                break;
            }
            payloads = consumer.next() => {
                let now = Instant::now();
                let payloads = payloads?;
                for payload in &payloads {
                    let (sequence, due) = run.payloads.read(payload).context("a foreign event")?;
                    seen.sequences.push(sequence);
                    if due >= run.from {
                        seen.deliveries.saturating_record(micros(now.saturating_duration_since(due)));
                    }
                    if now >= run.from && now < run.until {
                        seen.counted += 1;
                    }
                }
                seen_by_group.send_modify(|count| *count += payloads.len() as u64);
            }
        }
    }
    consumer.finish().await?;
    Ok(seen)
}

/// Waits for the members, and checks that each group has seen each event once.
async fn join_members(
    members: &mut Members,
    run: &Run,
) -> anyhow::Result<(u64, Latencies, Vec<u64>)> {
    let mut deliveries = latencies();
    let mut counted = 0;
    let mut by_member = Vec::new();
    let mut by_group: Vec<HashSet<u64>> = vec![HashSet::new(); run.spec.groups];
    let mut seen_in_all = vec![0; run.spec.groups];
    let all = async {
        while let Some(member) = members.join_next().await {
            let seen = member??;
            counted += seen.counted;
            by_member.push(seen.sequences.len() as u64);
            deliveries.add(&seen.deliveries)?;
            seen_in_all[seen.group] += seen.sequences.len();
            by_group[seen.group].extend(seen.sequences);
        }
        anyhow::Ok(())
    };
    let patience = run.spec.patience();
    let all = tokio::time::timeout(patience, all).await;
    all.with_context(|| format!("events have not arrived after {patience:?}"))??;
    let sent = run.sent.load(Ordering::Relaxed);
    for (group, sequences) in by_group.iter().enumerate() {
        ensure!(
            sequences.len() as u64 == sent,
            "group {group} has seen {} of {sent} events",
            sequences.len()
        );
        // At least once is what is promised; more would falsify the figures.
        let twice = seen_in_all[group] - sequences.len();
        ensure!(twice == 0, "group {group} has seen {twice} events twice");
    }
    Ok((counted, deliveries, by_member))
}

fn spread(by_member: &[u64]) -> f64 {
    let max = by_member.iter().max().copied().unwrap_or(1);
    let min = by_member.iter().min().copied().unwrap_or(1);
    max as f64 / min.max(1) as f64
}
