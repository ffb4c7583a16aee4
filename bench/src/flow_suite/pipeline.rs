//! A pipeline of stages with backlog limits, over a broker of its own, with a
//! source that publishes as fast as it may; watched while it runs.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use sluice_client::{Client, Event, GroupOptions, Job, Outputs, Stage, StageError};
use sluice_proto::pb::{
    self, BacklogLimit, BacklogPolicy, admin_service_client::AdminServiceClient,
};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::api::broker::OwnBroker;

/// Events of the source that have no ack yet, at most; so one batch has no more.
pub(super) const SOURCE_UNDER_WAY: usize = 32;
/// How often it is looked how everything stands.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
const PAYLOAD_BYTES: usize = 1024;

/// A stage: where it reads, where it publishes, and how long it works.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) topic: &'static str,
    pub(super) outputs: Vec<&'static str>,
    pub(super) work: Duration,
    /// Handlers, which is also what may be in flight.
    pub(super) handlers: u32,
    /// Events for each output and input.
    pub(super) fan_out: usize,
    pub(super) limit: u64,
}

impl Step {
    pub(super) fn group(&self) -> String {
        match self.outputs.is_empty() {
            true => format!("{}-end", self.topic),
            false => format!("{}-to-{}", self.topic, self.outputs.join("-")),
        }
    }
}

/// How everything stood at one time.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Seconds since the start.
    pub(super) at: f64,
    /// Events of the source that were acked.
    pub(super) published: u64,
    /// Events that each step had done.
    pub(super) done: Vec<u64>,
    /// Events that each step had to do.
    pub(super) backlog: Vec<u64>,
}

pub(super) struct Pipeline {
    _broker: OwnBroker,
    client: Client,
    admin: AdminServiceClient<Channel>,
    pub(super) steps: Vec<Step>,
    stages: Vec<Option<Stage>>,
    done: Vec<Arc<AtomicU64>>,
    published: Arc<AtomicU64>,
    source: JoinHandle<anyhow::Result<()>>,
    started: Instant,
    pub(super) samples: Vec<Sample>,
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.source.abort();
    }
}

impl Pipeline {
    /// Makes topics and groups, in the order of the steps, and starts all.
    pub(super) async fn start(dir: Option<&Path>, steps: Vec<Step>) -> anyhow::Result<Self> {
        let broker = OwnBroker::start(dir)?;
        let topics: BTreeSet<_> = steps.iter().map(|step| step.topic).collect();
        for topic in topics {
            broker.create_topic(topic).await?;
        }
        let client = Client::connect(&format!("http://{}", broker.process.addr())).await?;
        for step in &steps {
            let limit = BacklogLimit {
                policy: BacklogPolicy::Throttle.into(),
                max_events: step.limit as i64,
                ..BacklogLimit::default()
            };
            let options = GroupOptions::default().unordered().backlog(limit);
            let outputs = step.outputs.iter();
            let options = outputs.fold(options, |options, topic| options.output(*topic));
            let admin = client.admin();
            admin
                .create_group(step.topic, &step.group(), options)
                .await?;
        }
        let published = Arc::<AtomicU64>::default();
        let first = steps[0].topic;
        let source = tokio::spawn(publish(client.clone(), first, published.clone()));
        let mut pipeline = Self {
            admin: broker.admin().await?,
            _broker: broker,
            client,
            stages: steps.iter().map(|_| None).collect(),
            done: steps.iter().map(|_| Arc::default()).collect(),
            published,
            source,
            steps,
            started: Instant::now(),
            samples: Vec::new(),
        };
        for step in 0..pipeline.steps.len() {
            pipeline.start_step(step).await?;
        }
        Ok(pipeline)
    }

    pub(super) async fn start_step(&mut self, at: usize) -> anyhow::Result<()> {
        let step = self.steps[at].clone();
        let done = self.done[at].clone();
        let stage = self.client.stage(step.topic, &step.group());
        let stage = stage.concurrency(step.handlers);
        let stage = stage.start(move |job| work(job, step.clone(), done.clone()));
        self.stages[at] = Some(stage.await?);
        Ok(())
    }

    pub(super) async fn stop_step(&mut self, at: usize) {
        if let Some(stage) = self.stages[at].take() {
            stage.stop().await;
        }
    }

    /// Seconds since the start.
    pub(super) fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Looks how everything stands, again and again, until so many seconds after
    /// the start.
    pub(super) async fn watch_until(&mut self, until: f64) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(SAMPLE_EVERY);
        while self.now() < until {
            ticks.tick().await;
            if self.source.is_finished() {
                (&mut self.source).await??;
                anyhow::bail!("the source has ended");
            }
            let sample = self.sample().await?;
            self.samples.push(sample);
        }
        Ok(())
    }

    async fn sample(&mut self) -> anyhow::Result<Sample> {
        let request = pb::DescribeFlowRequest::default();
        let flow = self.admin.describe_flow(request).await?.into_inner();
        let backlog = self.steps.iter().map(|step| {
            let group = step.group();
            let found = flow.groups.iter().find(|of| of.group == group);
            let backlog = found.and_then(|of| of.backlog.as_ref());
            backlog.map_or(0, |backlog| backlog.events as u64)
        });
        Ok(Sample {
            at: self.now(),
            published: self.published.load(Relaxed),
            done: self.done.iter().map(|done| done.load(Relaxed)).collect(),
            backlog: backlog.collect(),
        })
    }
}

/// Publishes on a stream, with the credit that the broker gives.
async fn publish(
    client: Client,
    topic: &'static str,
    published: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let producer = client.producer().await?;
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() < SOURCE_UNDER_WAY {
            let event = Event::new("/sluice/bench", "bench.load")
                .bytes("application/octet-stream", vec![b'x'; PAYLOAD_BYTES]);
            under_way.push(producer.send(topic, event).await?.durable());
        }
        if let Some(position) = under_way.next().await {
            position?;
            published.fetch_add(1, Relaxed);
        }
    }
}

async fn work(job: Job, step: Step, done: Arc<AtomicU64>) -> Result<Outputs, StageError> {
    tokio::time::sleep(step.work).await;
    done.fetch_add(1, Relaxed);
    let outputs = step.outputs.iter().flat_map(|topic| {
        let events = 0..step.fan_out;
        events.map(|at| {
            let id = format!("{}-{at}", job.event.id());
            (
                *topic,
                Event::new("/sluice/bench", "bench.made").with_id(id),
            )
        })
    });
    Ok(outputs.collect())
}
