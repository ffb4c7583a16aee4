//! Producers that ask for twice as much as is taken.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use sluice_client::{Client, GroupOptions, Outputs, Stage, StageError};
use sluice_proto::pb::{
    self, BacklogLimit, BacklogPolicy, broker_service_client::BrokerServiceClient,
};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status, transport::Channel};

use super::{Findings, Flow};
use crate::{
    api::{broker::OwnBroker, connect},
    events,
    report::markdown_table,
};

const TOPIC: &str = "in";
const GROUP: &str = "workers";
const LIMIT: u64 = 2000;
const HANDLERS: u32 = 16;
const WORK: Duration = Duration::from_millis(10);
const PAYLOAD_BYTES: usize = 1024;
/// Events of one request.
const BATCH: u64 = 5;
/// How long a request may wait to be let in.
const DEADLINE: Duration = Duration::from_millis(200);
const PRODUCERS: usize = 8;

/// What producers and workers share: which events were acked, and which were
/// handled.
#[derive(Default)]
struct Counts {
    acked: AtomicU64,
    /// Refused with `BACKLOG_FULL`.
    full: AtomicU64,
    /// Refused or failed in any other way.
    other: AtomicU64,
    handled: AtomicU64,
}

/// A mark for each event by its number.
struct Marks(Vec<AtomicBool>);

impl Marks {
    fn new(count: u64) -> Arc<Self> {
        Arc::new(Self((0..count).map(|_| AtomicBool::new(false)).collect()))
    }

    fn set(&self, number: u64) {
        if let Some(mark) = self.0.get(number as usize) {
            mark.store(true, Relaxed);
        }
    }

    fn count_without(&self, other: &Self) -> usize {
        let pairs = self.0.iter().zip(&other.0);
        pairs
            .filter(|(mark, other)| mark.load(Relaxed) && !other.load(Relaxed))
            .count()
    }
}

pub(super) async fn run(settings: &Flow) -> anyhow::Result<Findings> {
    let broker = OwnBroker::start(settings.dir.as_deref())?;
    broker.create_topic(TOPIC).await?;
    let client = Client::connect(&format!("http://{}", broker.process.addr())).await?;
    let limit = BacklogLimit {
        policy: BacklogPolicy::Throttle.into(),
        max_events: LIMIT as i64,
        ..BacklogLimit::default()
    };
    let options = GroupOptions::default().unordered().backlog(limit);
    client.admin().create_group(TOPIC, GROUP, options).await?;
    let counts = Arc::new(Counts::default());
    // More than can be asked for.
    let most = (f64::from(HANDLERS) / WORK.as_secs_f64() * 2.5) * 150.0 * settings.scale.max(1.0);
    let (acked, handled) = (Marks::new(most as u64), Marks::new(most as u64));
    let stage = work(&client, &counts, &handled).await?;

    // What is taken when there is always something to do.
    let next = Arc::<AtomicU64>::default();
    let load = Load {
        addr: broker.process.addr(),
        next: next.clone(),
        counts: counts.clone(),
        acked: acked.clone(),
    };
    eprintln!("capacity");
    let capacity = capacity(&load, settings.seconds(15.0)).await?;
    wait_until_done(&client).await?;

    eprintln!("twice {capacity:.0} events/s");
    let before = (
        counts.acked.load(Relaxed),
        counts.full.load(Relaxed),
        counts.other.load(Relaxed),
        counts.handled.load(Relaxed),
        next.load(Relaxed),
    );
    let time = settings.seconds(120.0);
    let memory = tokio::spawn({
        let pid = broker.process.pid();
        async move { sample_memory(pid, time).await }
    });
    let began = Instant::now();
    let mut waits = load.run(2.0 * capacity, time).await?;
    let took = began.elapsed().as_secs_f64();
    let handled_meanwhile = counts.handled.load(Relaxed) - before.3;
    let memory = memory.await??;
    wait_until_done(&client).await?;
    stage.stop().await;

    let lost = acked.count_without(&handled);
    let asked = next.load(Relaxed) - before.4;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let (taken, full, other) = (
        counts.acked.load(Relaxed) - before.0,
        counts.full.load(Relaxed) - before.1,
        counts.other.load(Relaxed) - before.2,
    );
    waits.sort_unstable();
    let percentile = |of: usize| match waits.len() {
        0 => Duration::ZERO,
        len => waits[(len * of / 100).min(len - 1)],
    };
    let settled = &memory[memory.len() / 8..];
    let mib = |bytes: Option<&u64>| bytes.map_or(0, |bytes| bytes >> 20);
    let rows = vec![
        row(
            "capacity: taken when there is always something to do",
            format!("{capacity:.0} events/s"),
        ),
        row(
            "asked for",
            format!(
                "{:.0} events/s for {took:.0} s ({:.2} of the capacity)",
                asked as f64 / took,
                asked as f64 / took / capacity
            ),
        ),
        row(
            "acked",
            format!("{taken} events, {:.0} events/s", taken as f64 / took),
        ),
        row(
            "handled meanwhile",
            format!("{:.0} events/s", handled_meanwhile as f64 / took),
        ),
        row(
            "told `BACKLOG_FULL`, and when to try again",
            format!("{full} events"),
        ),
        row("any other outcome", format!("{other} events")),
        row("acked and never handled", format!("{lost} events")),
        row(
            "ack of those that were acked: p50, p99",
            format!(
                "{:.0} ms, {:.0} ms",
                percentile(50).as_secs_f64() * 1e3,
                percentile(99).as_secs_f64() * 1e3
            ),
        ),
        row(
            "memory of the broker, after the first eighth",
            format!(
                "{} to {} MiB",
                mib(settled.iter().min()),
                mib(settled.iter().max())
            ),
        ),
    ];
    anyhow::ensure!(lost == 0, "{lost} events were acked and never handled");
    Ok(Findings {
        text: format!(
            "# Twice as much as is taken\n\n\
             {PRODUCERS} producers publish {BATCH} events of {PAYLOAD_BYTES} bytes at a time, each \
             request with a deadline of {} ms, on a schedule that does not wait for answers. The \
             group takes what {HANDLERS} handlers of {} ms do, and throttles at {LIMIT} events.\n\n{}",
            DEADLINE.as_millis(),
            WORK.as_millis(),
            markdown_table(&["what", "seen"], rows),
        ),
        pictures: Vec::new(),
    })
}

async fn work(
    client: &Client,
    counts: &Arc<Counts>,
    handled: &Arc<Marks>,
) -> anyhow::Result<Stage> {
    let stage = client.stage(TOPIC, GROUP).concurrency(HANDLERS);
    let (counts, handled) = (counts.clone(), handled.clone());
    let stage = stage.start(move |job| {
        let (counts, handled) = (counts.clone(), handled.clone());
        async move {
            tokio::time::sleep(WORK).await;
            if let Ok(number) = job.event.id().parse() {
                handled.set(number);
            }
            counts.handled.fetch_add(1, Relaxed);
            Ok::<_, StageError>(Outputs::none())
        }
    });
    Ok(stage.await?)
}

/// Who asks for events to be taken.
struct Load {
    addr: SocketAddr,
    /// The number of the next event.
    next: Arc<AtomicU64>,
    counts: Arc<Counts>,
    acked: Arc<Marks>,
}

impl Load {
    /// Asks for so many events a second, whatever becomes of them; returns how long
    /// those waited that were acked.
    async fn run(&self, rate: f64, time: Duration) -> anyhow::Result<Vec<Duration>> {
        let mut producers = JoinSet::new();
        let every = Duration::from_secs_f64(BATCH as f64 * PRODUCERS as f64 / rate);
        let began = Instant::now();
        for producer in 0..PRODUCERS {
            let broker = BrokerServiceClient::new(connect(self.addr).await?);
            let first = began + every * producer as u32 / PRODUCERS as u32;
            let (next, counts) = (self.next.clone(), self.counts.clone());
            let acked = self.acked.clone();
            producers.spawn(async move {
                let (mut requests, mut due) = (JoinSet::new(), first);
                let mut waits = Vec::new();
                while due < began + time {
                    tokio::time::sleep_until(due.into()).await;
                    let number = next.fetch_add(BATCH, Relaxed);
                    let (counts, acked) = (counts.clone(), acked.clone());
                    requests.spawn(request(broker.clone(), number, due, counts, acked));
                    due += every;
                    while let Some(wait) = requests.try_join_next() {
                        waits.extend(wait?);
                    }
                }
                while let Some(wait) = requests.join_next().await {
                    waits.extend(wait?);
                }
                anyhow::Ok(waits)
            });
        }
        let mut all = Vec::new();
        while let Some(waits) = producers.join_next().await {
            all.extend(waits??);
        }
        Ok(all)
    }
}

/// How long it took from when it was due until it was acked.
async fn request(
    mut broker: BrokerServiceClient<Channel>,
    number: u64,
    due: Instant,
    counts: Arc<Counts>,
    acked: Arc<Marks>,
) -> Option<Duration> {
    let events = (number..number + BATCH).map(|number| pb::Event {
        id: number.to_string(),
        data: vec![b'x'; PAYLOAD_BYTES].into(),
        ..events::bare_event()
    });
    let mut request = Request::new(pb::PublishRequest {
        topic: TOPIC.to_owned(),
        events: events.collect(),
        ..pb::PublishRequest::default()
    });
    request.set_timeout(DEADLINE);
    match broker.publish(request).await {
        Ok(_) => {
            (number..number + BATCH).for_each(|number| acked.set(number));
            counts.acked.fetch_add(BATCH, Relaxed);
            Some(due.elapsed())
        }
        Err(status) => {
            let count = match is_full(&status) {
                true => &counts.full,
                false => &counts.other,
            };
            count.fetch_add(BATCH, Relaxed);
            None
        }
    }
}

fn is_full(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && status.message().contains("is full")
}

/// Events a second that are handled while more is asked for than is taken.
async fn capacity(load: &Load, time: Duration) -> anyhow::Result<f64> {
    // More than the handlers could do without any cost.
    let asked = f64::from(HANDLERS) / WORK.as_secs_f64() * 1.2;
    let counts = load.counts.clone();
    let measure = async {
        tokio::time::sleep(time / 3).await;
        let before = (counts.handled.load(Relaxed), Instant::now());
        tokio::time::sleep(time / 2).await;
        let handled = counts.handled.load(Relaxed) - before.0;
        handled as f64 / before.1.elapsed().as_secs_f64()
    };
    let (_, capacity) = tokio::join!(load.run(asked, time), measure);
    Ok(capacity)
}

/// Until the group has settled all.
async fn wait_until_done(client: &Client) -> anyhow::Result<()> {
    let done = async {
        loop {
            let described = client.admin().describe_group(TOPIC, GROUP).await?;
            if described
                .partitions
                .iter()
                .all(|partition| partition.lag == 0)
            {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(120), done).await;
    done.context("the group does not get done")?
}

async fn sample_memory(pid: u32, time: Duration) -> anyhow::Result<Vec<u64>> {
    let until = Instant::now() + time;
    let mut memory = Vec::new();
    while Instant::now() < until {
        memory.push(crate::process::memory(pid)?);
        tokio::time::sleep(time / 240).await;
    }
    Ok(memory)
}
