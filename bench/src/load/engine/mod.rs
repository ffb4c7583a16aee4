//! Runs a load on a broker, and counts.
//!
//! Latency counts from the moment at which an event was due, whether or not the
//! bench or the broker was late then: a stall is seen by every event that was
//! due in it (no coordinated omission).

mod pace;
mod produce;
mod read;
mod sample;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, sleep_until},
};

use self::produce::Acks;
pub(crate) use self::sample::Sample;
use super::{
    payload::Payloads,
    target::{Message, Target},
    workload::{Kind, Payload, Spec},
};
use crate::process::{self, Usage};

/// Events are counted by batches, of which one more or less may be in the measured
/// time: with fewer than this, a rate is wrong by more than a twentieth.
const FEWEST_BATCHES: u64 = 20;
/// The most times as long as a load says that it is measured to have so many.
const LONGEST: f64 = 10.0;

/// The pause after which a server that refused is asked again.
const UNREADY: Duration = Duration::from_millis(5);

/// Latencies in microseconds.
pub(crate) type Latencies = Histogram<u64>;

fn latencies() -> Latencies {
    // Up to ten minutes, to three digits; fixed numbers within what it takes.
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are right")
}

fn micros(time: Duration) -> u64 {
    (time.as_micros() as u64).max(1)
}

/// What a run came to.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Events acked to the producers in the measured time.
    pub(crate) published: u64,
    /// The batches in which they were.
    pub(crate) batches: u64,
    /// Events acked by members in the measured time, of all groups; of a chain,
    /// by the last stage. In a drain, what a filter left out counts as well.
    pub(crate) consumed: u64,
    pub(crate) time: Duration,
    /// From when a batch was due to its ack.
    pub(crate) acks: Latencies,
    /// From when an event was due to its arrival at a member, or at the last
    /// stage.
    pub(crate) deliveries: Latencies,
    /// The busiest member's events over the idlest one's.
    pub(crate) spread: f64,
    /// `None` of a server that somebody else has started.
    pub(crate) server: Option<Usage>,
    pub(crate) client_cpu: Duration,
    /// From the start after a kill to the ack of the first event.
    pub(crate) ready: Option<Duration>,
    /// How far a chain was, over time.
    pub(crate) samples: Vec<Sample>,
}

impl Outcome {
    pub(crate) fn published_per_second(&self) -> f64 {
        self.published as f64 / self.time.as_secs_f64()
    }

    pub(crate) fn consumed_per_second(&self) -> f64 {
        self.consumed as f64 / self.time.as_secs_f64()
    }

    /// How many times as long it should have been measured, where what counts is
    /// how many batches were acked and those were too few; `None` if it will do.
    pub(crate) fn is_too_short(&self, spec: &Spec) -> Option<f64> {
        let counts = spec.kind == Kind::Publish && self.batches < FEWEST_BATCHES;
        // Half as many again, so that it does for certain.
        counts.then(|| 1.5 * FEWEST_BATCHES as f64 / self.batches.max(1) as f64)
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
    topics: Vec<String>,
    spec: Spec,
    payloads: Payloads,
    /// When to begin counting, and when to stop sending.
    from: Instant,
    until: Instant,
    sent: AtomicU64,
}

impl Run {
    fn message(&self, sequence: u64, due: Instant) -> Message {
        let label = (self.spec.labels > 0).then(|| sequence % self.spec.labels);
        Message {
            payload: if self.spec.kind.reads() {
                self.payloads.stamped(sequence, due, label)
            } else {
                self.payloads.plain()
            },
            is_json: self.spec.payload == Payload::Json,
            key: (self.spec.keys > 0).then(|| sequence % self.spec.keys),
            label,
        }
    }
}

/// Runs a load for as long as it says, or longer, until its figure tells something;
/// each try has a server of its own.
pub(crate) async fn measure(
    mut start: impl FnMut() -> anyhow::Result<Arc<dyn Target>>,
    spec: &Spec,
) -> anyhow::Result<Outcome> {
    let outcome = run(start()?, spec).await?;
    let Some(longer) = outcome.is_too_short(spec) else {
        return Ok(outcome);
    };
    let spec = spec.longer(longer.min(LONGEST));
    let outcome = run(start()?, &spec).await?;
    anyhow::ensure!(
        outcome.is_too_short(&spec).is_none(),
        "{} batches were acked in {} s, too few to tell a rate",
        outcome.batches,
        spec.seconds
    );
    Ok(outcome)
}

/// Runs a load on topics of its own.
pub(crate) async fn run(target: Arc<dyn Target>, spec: &Spec) -> anyhow::Result<Outcome> {
    let topics = spec.topic_names();
    target.create(&topics, spec).await?;
    let (server, names) = (target.clone(), topics.clone());
    let outcome = match spec.kind {
        Kind::Publish | Kind::EndToEnd | Kind::Chain => {
            publish_and_read(server, names, spec.clone()).await
        }
        Kind::Drain | Kind::Recovery => drain(server, names, spec.clone()).await,
    };
    // A server of the bench goes when a load has failed on it; others stay.
    let outcome = match outcome {
        Err(error) if target.pid().is_some() => return Err(error),
        outcome => outcome,
    };
    target.remove(&topics, spec).await?;
    outcome
}

async fn publish_and_read(
    target: Arc<dyn Target>,
    topics: Vec<String>,
    spec: Spec,
) -> anyhow::Result<Outcome> {
    let origin = Instant::now();
    let from = origin + spec.warmup();
    let run = Arc::new(Run {
        payloads: Payloads::new(spec.payload, spec.event_bytes, origin),
        target,
        topics,
        from,
        until: from + spec.time(),
        spec,
        sent: AtomicU64::new(0),
    });
    let (total, is_total) = watch::channel(None);
    let readers = read::start(&run, &is_total);
    let sampling = (run.spec.kind == Kind::Chain)
        .then(|| tokio::spawn(sample::watch(run.clone(), readers.progress())));
    let mut producers = JoinSet::new();
    for producer in 0..run.spec.producers {
        producers.spawn(produce::produce(run.clone(), producer));
    }
    let usage = tokio::spawn(measure_usage(run.clone()));

    let mut acks = Acks::none();
    while let Some(done) = producers.join_next().await {
        acks.add(&done??)?;
    }
    total.send_replace(Some(run.sent.load(Ordering::Relaxed)));
    let read = readers.join(&run).await?;
    let samples = match sampling {
        Some(sampling) => sampling.await?,
        None => Vec::new(),
    };
    let (server, client_cpu) = usage.await??;
    Ok(Outcome {
        published: acks.events,
        batches: acks.batches,
        consumed: read.counted,
        time: run.spec.time(),
        acks: acks.times,
        deliveries: read.deliveries,
        spread: read.spread,
        server,
        client_cpu,
        ready: None,
        samples,
    })
}

/// Between the last ack of what is drained, and the first reader: what a server does for
/// those who publish is over by then.
pub(crate) const BACKLOG_AGE: Duration = Duration::from_millis(300);

async fn drain(
    target: Arc<dyn Target>,
    topics: Vec<String>,
    spec: Spec,
) -> anyhow::Result<Outcome> {
    let origin = Instant::now();
    let mut run = Run {
        payloads: Payloads::new(spec.payload, spec.event_bytes, origin),
        target,
        topics,
        from: origin,
        until: origin,
        spec,
        sent: AtomicU64::new(0),
    };
    produce::fill(&run).await?;
    let ready = match run.spec.kind {
        Kind::Recovery => Some(until_ready(&run).await?),
        _ => {
            // A backlog has been there for a while: nothing is being written any more.
            tokio::time::sleep(BACKLOG_AGE).await;
            None
        }
    };
    run.from = Instant::now();
    run.until = run.from + run.spec.patience();
    let run = Arc::new(run);
    let before = usages(&run)?;
    let sent = run.sent.load(Ordering::Relaxed);
    let (_total, is_total) = watch::channel(Some(sent));
    let read = read::start(&run, &is_total).join(&run).await?;
    let time = run.from.elapsed();
    let (server, client_cpu) = used_since(&run, before)?;
    let left_out = (sent - run.spec.passing(sent)) * run.spec.groups as u64;
    Ok(Outcome {
        published: 0,
        batches: 0,
        consumed: read.counted + left_out,
        time,
        acks: latencies(),
        deliveries: read.deliveries,
        spread: read.spread,
        server,
        client_cpu,
        ready,
        samples: Vec::new(),
    })
}

/// Kills the server; the time from its start to the ack of one more event.
async fn until_ready(run: &Run) -> anyhow::Result<Duration> {
    let started = run.target.restart().await?;
    let give_up = started + run.spec.patience();
    let sequence = run.sent.fetch_add(1, Ordering::Relaxed);
    let message = run.message(sequence, started);
    loop {
        match publish_one(run, message.clone()).await {
            Ok(()) => return Ok(started.elapsed()),
            Err(error) if Instant::now() > give_up => return Err(error),
            // What refuses is not ready.
            Err(_) => sleep(UNREADY).await,
        }
    }
}

async fn publish_one(run: &Run, message: Message) -> anyhow::Result<()> {
    let mut producer = run.target.producer(&run.topics, &run.spec).await?;
    producer.send(0, vec![message]).await?.await
}

/// What server and bench use in the measured time.
async fn measure_usage(run: Arc<Run>) -> anyhow::Result<(Option<Usage>, Duration)> {
    sleep_until(run.from.into()).await;
    let before = usages(&run)?;
    sleep_until(run.until.into()).await;
    used_since(&run, before)
}

/// What server and bench have used.
fn usages(run: &Run) -> anyhow::Result<(Option<Usage>, Usage)> {
    let server = run.target.pid().map(|pid| process::usage(&pid.to_string()));
    Ok((server.transpose()?, process::usage("self")?))
}

fn used_since(
    run: &Run,
    before: (Option<Usage>, Usage),
) -> anyhow::Result<(Option<Usage>, Duration)> {
    let now = usages(run)?;
    let server = now.0.zip(before.0);
    let server = server.map(|(now, before)| now.since(&before));
    Ok((server, now.1.since(&before.1).cpu))
}
