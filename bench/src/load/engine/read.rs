//! Members of groups and stages of a chain.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde::Deserialize;
use tokio::{sync::watch, task::JoinSet};

use super::{Latencies, Run, latencies, micros, pace::Work};
use crate::load::{
    target::{Message, Producer},
    workload::{Kind, Payload},
};

/// Everybody who reads.
pub(super) struct Readers {
    tasks: JoinSet<anyhow::Result<Seen>>,
    /// Events that were seen, by audience.
    counts: Vec<Arc<watch::Sender<u64>>>,
}

/// What all readers together came to.
pub(super) struct Read {
    /// Events that arrived in the measured time.
    pub(super) counted: u64,
    pub(super) deliveries: Latencies,
    pub(super) spread: f64,
}

/// Who one reader is.
struct Reader {
    /// Whoever is of one audience shares the events: the group, or the stage.
    audience: usize,
    topic: usize,
    group: usize,
    slow: bool,
    /// Where it publishes what it has got.
    output: Option<usize>,
    /// Whether its events count; those between stages do not.
    counts: bool,
}

/// What a reader has seen.
struct Seen {
    audience: usize,
    counted: u64,
    /// Numbers of all events.
    sequences: Vec<u64>,
    deliveries: Latencies,
}

fn audience(run: &Run) -> Vec<Reader> {
    if run.spec.kind == Kind::Chain {
        let stage = |stage: usize| {
            let last = stage + 1 == run.spec.stages;
            Reader {
                audience: stage,
                topic: stage,
                group: 0,
                slow: last,
                output: (!last).then_some(stage + 1),
                counts: last,
            }
        };
        return (0..run.spec.stages).map(stage).collect();
    }
    let member = |group: usize, member: usize| Reader {
        audience: group,
        topic: 0,
        group,
        slow: member == 0,
        output: None,
        counts: true,
    };
    let groups = 0..run.spec.groups;
    groups
        .flat_map(|group| (0..run.spec.members).map(move |number| member(group, number)))
        .collect()
}

/// Starts them; each goes on until its audience has seen all of `total`.
pub(super) fn start(run: &Arc<Run>, total: &watch::Receiver<Option<u64>>) -> Readers {
    let readers = audience(run);
    let audiences = readers.iter().map(|reader| reader.audience + 1).max();
    let counts: Vec<_> = (0..audiences.unwrap_or(0))
        .map(|_| Arc::new(watch::Sender::new(0)))
        .collect();
    let mut tasks = JoinSet::new();
    for reader in readers {
        let count = counts[reader.audience].clone();
        tasks.spawn(work(run.clone(), reader, count, total.clone()));
    }
    Readers { tasks, counts }
}

async fn work(
    run: Arc<Run>,
    reader: Reader,
    seen_by_all: Arc<watch::Sender<u64>>,
    mut total: watch::Receiver<Option<u64>>,
) -> anyhow::Result<Seen> {
    let topic = &run.topics[reader.topic];
    let mut consumer = run.target.consumer(topic, reader.group, &run.spec).await?;
    let mut output = match reader.output {
        Some(topic) => Some((run.target.producer(&run.topics, &run.spec).await?, topic)),
        None => None,
    };
    let mut seen = Seen {
        audience: reader.audience,
        counted: 0,
        sequences: Vec::new(),
        deliveries: latencies(),
    };
    let mut count = seen_by_all.subscribe();
    let done = async {
        let total = total.wait_for(Option::is_some).await?.unwrap_or(0);
        let expected = run.spec.passing(total);
        count.wait_for(|count| *count >= expected).await?;
        anyhow::Ok(())
    };
    tokio::pin!(done);
    let each = if reader.slow {
        Duration::from_secs_f64(run.spec.slow_micros / 1e6)
    } else {
        Duration::ZERO
    };
    let mut slow_work = Work::default();
    loop {
        let payloads = tokio::select! {
            biased;
            result = &mut done => {
                result?;
                break;
            }
            payloads = consumer.next() => payloads?,
        };
        let payloads = if run.spec.filter_in_client {
            wanted(payloads)?
        } else {
            payloads
        };
        seen.note(&run, &reader, &payloads, each)?;
        if !each.is_zero() {
            slow_work.take(each * payloads.len() as u32).await?;
        }
        let arrived = payloads.len() as u64;
        if let Some((producer, topic)) = &mut output {
            forward(&run, producer.as_mut(), *topic, payloads).await?;
        }
        seen_by_all.send_modify(|count| *count += arrived);
    }
    consumer.finish().await?;
    Ok(seen)
}

/// What of the payloads a filter would have passed.
fn wanted(payloads: Vec<Bytes>) -> anyhow::Result<Vec<Bytes>> {
    let mut wanted = Vec::new();
    for payload in payloads {
        let event: Labelled = serde_json::from_slice(&payload).context("a foreign event")?;
        if event.label == "0" {
            wanted.push(payload);
        }
    }
    Ok(wanted)
}

/// What a member has to know of a payload to judge it.
#[derive(Deserialize)]
struct Labelled<'a> {
    label: &'a str,
}

/// Publishes to the next stage; is done when that is acked.
async fn forward(
    run: &Run,
    producer: &mut dyn Producer,
    topic: usize,
    payloads: Vec<Bytes>,
) -> anyhow::Result<()> {
    let messages = payloads.into_iter().map(|payload| Message {
        payload,
        is_json: run.spec.payload == Payload::Json,
        key: None,
        label: None,
    });
    producer.send(topic, messages.collect()).await?.await
}

impl Seen {
    /// Notes events, on each of which the reader works for so long. One has arrived when
    /// its turn has come, so that it is the same whether it waits here or at the broker.
    fn note(
        &mut self,
        run: &Run,
        reader: &Reader,
        payloads: &[Bytes],
        each: Duration,
    ) -> anyhow::Result<()> {
        let came = Instant::now();
        for (turn, payload) in payloads.iter().enumerate() {
            let now = came + each * turn as u32;
            let (sequence, due) = run.payloads.read(payload).context("a foreign event")?;
            ensure!(
                run.spec.passes(sequence),
                "the filter passed event {sequence}"
            );
            self.sequences.push(sequence);
            if !reader.counts {
                continue;
            }
            if due >= run.from {
                let time = now.saturating_duration_since(due);
                self.deliveries.saturating_record(micros(time));
            }
            if now >= run.from && now < run.until {
                self.counted += 1;
            }
        }
        Ok(())
    }
}

impl Readers {
    /// Events that were seen, by audience.
    pub(super) fn progress(&self) -> Vec<watch::Receiver<u64>> {
        let each = self.counts.iter();
        each.map(|count| count.subscribe()).collect()
    }

    /// Waits for all, and checks that each audience has seen each event once.
    pub(super) async fn join(mut self, run: &Run) -> anyhow::Result<Read> {
        let mut deliveries = latencies();
        let mut counted = 0;
        let mut by_member = Vec::new();
        let mut by_audience: Vec<HashSet<u64>> = vec![HashSet::new(); self.counts.len()];
        let mut seen_in_all = vec![0; self.counts.len()];
        let all = async {
            while let Some(member) = self.tasks.join_next().await {
                let seen = member??;
                counted += seen.counted;
                by_member.push(seen.sequences.len() as u64);
                deliveries.add(&seen.deliveries)?;
                seen_in_all[seen.audience] += seen.sequences.len();
                by_audience[seen.audience].extend(seen.sequences);
            }
            anyhow::Ok(())
        };
        let patience = run.spec.patience();
        let all = tokio::time::timeout(patience, all).await;
        all.with_context(|| format!("events have not arrived after {patience:?}"))??;
        let sent = run.sent.load(Ordering::Relaxed);
        let expected = run.spec.passing(sent);
        for (audience, sequences) in by_audience.iter().enumerate() {
            ensure!(
                sequences.len() as u64 == expected,
                "audience {audience} has seen {} of {expected} events",
                sequences.len()
            );
            // At least once is what is promised; more would falsify the figures.
            let twice = seen_in_all[audience] - sequences.len();
            ensure!(
                twice == 0,
                "audience {audience} has seen {twice} events twice"
            );
        }
        Ok(Read {
            counted,
            deliveries,
            spread: spread(&by_member),
        })
    }
}

fn spread(by_member: &[u64]) -> f64 {
    let max = by_member.iter().max().copied().unwrap_or(1);
    let min = by_member.iter().min().copied().unwrap_or(1);
    max as f64 / min.max(1) as f64
}
