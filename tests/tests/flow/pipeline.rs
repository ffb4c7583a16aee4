//! A pipeline of stages over a broker, with a source that publishes as fast as it
//! may, watched while it runs.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use sluice_client::{Client, Event, GroupOptions, Job, Outputs, Stage, StageError};
use sluice_proto::pb::{BacklogPolicy, DescribeFlowRequest, DescribeFlowResponse};
use sluice_tests::{
    api::{Api, event, expect},
    broker::TestBroker,
};
use tokio::task::JoinSet;

use super::events_max;

/// Requests of the source that are under way at once, of one event each.
const SOURCE_REQUESTS: usize = 8;

/// The full numbers instead of those for every day.
pub(crate) fn is_full() -> bool {
    std::env::var_os("SLUICE_FLOW_FULL").is_some()
}

/// One of two numbers: that for every day, or the full one.
pub(crate) fn scaled(daily: i64, full: i64) -> i64 {
    if is_full() { full } else { daily }
}

/// A stage: where it reads, where it publishes, and how long it works.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) topic: &'static str,
    pub(crate) outputs: Vec<&'static str>,
    pub(crate) work: Duration,
    /// Handlers, which is also what may be in flight.
    pub(crate) handlers: u32,
    /// Events for each output and input.
    pub(crate) fan_out: usize,
    pub(crate) limit: i64,
}

impl Step {
    pub(crate) fn new(topic: &'static str, outputs: &[&'static str], limit: i64) -> Self {
        Self {
            topic,
            outputs: outputs.to_vec(),
            work: Duration::from_millis(1),
            handlers: 2,
            fan_out: 1,
            limit,
        }
    }

    pub(crate) fn slow(mut self, work: Duration) -> Self {
        (self.work, self.handlers) = (work, 1);
        self
    }

    /// The group's name: one group for each step.
    pub(crate) fn group(&self) -> String {
        format!("to-{}", self.outputs.join("-"))
    }
}

pub(crate) struct Pipeline {
    _broker: TestBroker,
    pub(crate) api: Api,
    client: Client,
    steps: Vec<Step>,
    stages: BTreeMap<usize, Stage>,
    /// Events that the steps have done.
    done: Vec<Arc<AtomicI64>>,
    published: Arc<AtomicI64>,
    source: JoinSet<()>,
    /// The largest backlog that was seen, by step.
    pub(crate) largest: Vec<i64>,
}

impl Pipeline {
    /// Topics, groups with limits and outputs in the order of the steps, and no
    /// worker.
    pub(crate) async fn new(steps: Vec<Step>) -> Self {
        let broker = TestBroker::start();
        let api = Api::connect(broker.url()).await;
        let client = Client::connect(broker.url()).await.unwrap();
        let mut topics: Vec<_> = steps.iter().map(|step| step.topic).collect();
        topics.extend(steps.iter().flat_map(|step| &step.outputs));
        topics.sort_unstable();
        topics.dedup();
        for topic in topics {
            api.create_topic(topic, 2).await;
        }
        for step in &steps {
            let limit = events_max(BacklogPolicy::Throttle, step.limit);
            let options = GroupOptions::default().unordered().backlog(limit);
            let outputs = step.outputs.iter();
            let options = outputs.fold(options, |options, topic| options.output(*topic));
            let admin = client.admin();
            let group = step.group();
            admin
                .create_group(step.topic, &group, options)
                .await
                .unwrap();
        }
        Self {
            _broker: broker,
            api,
            client,
            stages: BTreeMap::new(),
            done: steps.iter().map(|_| Arc::default()).collect(),
            published: Arc::default(),
            source: JoinSet::new(),
            largest: vec![0; steps.len()],
            steps,
        }
    }

    pub(crate) async fn start_all(&mut self) {
        for step in 0..self.steps.len() {
            self.start(step).await;
        }
        self.start_source();
    }

    /// Starts a worker for a step.
    pub(crate) async fn start(&mut self, at: usize) {
        let step = self.steps[at].clone();
        let stage = self.client.stage(step.topic, &step.group());
        let done = self.done[at].clone();
        let stage = stage
            .concurrency(step.handlers)
            .start(move |job| work(job, step.clone(), done.clone()))
            .await;
        self.stages.insert(at, stage.unwrap());
    }

    /// Stops the worker of a step.
    pub(crate) async fn stop(&mut self, at: usize) {
        self.stages.remove(&at).unwrap().stop().await;
    }

    fn start_source(&mut self) {
        for number in 0..SOURCE_REQUESTS {
            let (api, published) = (self.api.clone(), self.published.clone());
            let topic = self.steps[0].topic;
            self.source.spawn(async move {
                for at in 0.. {
                    let id = format!("{number}-{at}");
                    // One that has waited for too long is tried again.
                    if api.publish(topic, vec![event(&id)]).await.is_ok() {
                        published.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    }

    pub(crate) fn published(&self) -> i64 {
        self.published.load(Relaxed)
    }

    pub(crate) fn done(&self, step: usize) -> i64 {
        self.done[step].load(Relaxed)
    }

    /// Waits until a step has done so much more, and watches every backlog
    /// meanwhile.
    pub(crate) async fn watch_until_done(&mut self, step: usize, more: i64) {
        let until = self.done(step) + more;
        let mut last = (self.done(step), tokio::time::Instant::now());
        while self.done(step) < until {
            self.watch().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.done(step) != last.0 {
                last = (self.done(step), tokio::time::Instant::now());
            }
            let flow = self.flow().await;
            assert!(
                last.1.elapsed() < Duration::from_secs(60),
                "stuck: {flow:#?}"
            );
        }
    }

    /// Notes how large backlogs are.
    pub(crate) async fn watch(&mut self) {
        let flow = self.flow().await;
        for (at, step) in self.steps.iter().enumerate() {
            let mut groups = flow.groups.iter();
            let group = groups.find(|of| of.topic == step.topic && of.group == step.group());
            let backlog = group.unwrap().backlog.unwrap().events;
            self.largest[at] = self.largest[at].max(backlog);
        }
    }

    pub(crate) async fn flow(&self) -> DescribeFlowResponse {
        let request = DescribeFlowRequest::default();
        let response = self.api.admin.clone().describe_flow(request).await;
        response.unwrap().into_inner()
    }

    /// No backlog was larger than its limit and the overshoot that the README
    /// states: one request of the source, and what the steps before commit for
    /// what they had in flight. Prints what was seen.
    pub(crate) fn check_backlogs(&self, name: &str) {
        for (at, step) in self.steps.iter().enumerate() {
            let feeds = |of: &&Step| of.outputs.contains(&step.topic);
            let committed: i64 = self
                .steps
                .iter()
                .filter(feeds)
                .map(|of| i64::from(of.handlers) * of.fan_out as i64)
                .sum();
            let published = i64::from(at == 0);
            let bound = step.limit + committed + published;
            let seen = self.largest[at];
            eprintln!(
                "{name}: {} on {}: at most {seen} to do, limit {}, bound {bound}",
                step.group(),
                step.topic,
                step.limit,
            );
            assert!(seen <= bound, "{name}: {seen} of {bound} on {}", step.topic);
        }
    }

    /// Ends the source, and waits until everything is through.
    pub(crate) async fn drain(mut self) {
        self.source.shutdown().await;
        for step in &self.steps {
            self.api
                .wait_until_caught_up(step.topic, &step.group())
                .await;
        }
        for (_, stage) in std::mem::take(&mut self.stages) {
            expect("a stage to stop", stage.stop()).await;
        }
    }
}

async fn work(job: Job, step: Step, done: Arc<AtomicI64>) -> Result<Outputs, StageError> {
    tokio::time::sleep(step.work).await;
    done.fetch_add(1, Relaxed);
    let mut outputs = Outputs::none();
    for topic in &step.outputs {
        for at in 0..step.fan_out {
            let id = format!("{}-{at}", job.event.id());
            // What has been here before goes on.
            let again = *topic == "again" || *topic == step.topic;
            if !again || (job.event.event_type() != "again" && id.len() % 3 == 0) {
                let kind = if again { "again" } else { "made" };
                outputs = outputs.and(*topic, Event::new("/tests", kind).with_id(id));
            }
        }
    }
    Ok(outputs)
}
