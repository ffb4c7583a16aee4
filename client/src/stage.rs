//! A stage: events of a group in, events of other topics out.

use std::{fmt, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use sluice_proto::pb;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    client::Client,
    commit::Committer,
    consumer::{Consumer, ConsumerBuilder},
    delivery::{Acker, Delivery},
    error::Error,
    event::Event,
    progress::Progress,
    trace,
};

/// How long running handlers may go on when a stage stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// An event for a stage's handler.
#[derive(Debug)]
pub struct Job {
    /// The event.
    pub event: Event,
    /// Its partition.
    pub partition: i32,
    /// Its offset in it.
    pub offset: i64,
    /// Which attempt this is, from 1.
    pub attempt: i32,
    /// Becomes cancelled when the lease is lost. The handler's future is then
    /// dropped; this is for work that it has handed to others.
    pub lost: CancellationToken,
    /// Says how far the work is, until the handler ends.
    pub progress: Progress,
}

/// What a handler publishes, together with the ack of its input.
///
/// What an output leaves unset is filled in from the input: `correlationid` (the
/// input's, or its id), `causationid` (its id), `traceparent` (a child of its
/// trace), and `partitionkey`.
///
/// ```
/// use sluice_client::{Event, Outputs};
/// let outputs = Outputs::none()
///     .and("pages", Event::new("/render", "page.ready"))
///     .and("pages", Event::new("/render", "page.ready"));
/// assert_eq!(outputs.len(), 2);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Outputs(Vec<(String, Event)>);

impl Outputs {
    /// Nothing but the ack.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// One event.
    #[must_use]
    pub fn one(topic: impl Into<String>, event: Event) -> Self {
        Self::none().and(topic, event)
    }

    /// Another event.
    #[must_use]
    pub fn and(mut self, topic: impl Into<String>, event: Event) -> Self {
        self.0.push((topic.into(), event));
        self
    }

    /// How many events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Into<String>> FromIterator<(T, Event)> for Outputs {
    fn from_iter<I: IntoIterator<Item = (T, Event)>>(events: I) -> Self {
        let events = events.into_iter();
        Self(events.map(|(topic, event)| (topic.into(), event)).collect())
    }
}

/// Why a handler did not do its work. Any error becomes one that is tried again,
/// by `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StageError {
    /// To be tried again.
    Retry {
        /// Why.
        reason: String,
        /// When; by the group's policy if it does not say.
        delay: Option<Duration>,
    },
    /// Never to be tried again: to the dead letters.
    Reject {
        /// Why.
        reason: String,
    },
}

impl StageError {
    /// To be tried again, by the group's policy.
    #[must_use]
    pub fn retry(reason: impl fmt::Display) -> Self {
        Self::Retry {
            reason: reason.to_string(),
            delay: None,
        }
    }

    /// Never to be tried again.
    #[must_use]
    pub fn reject(reason: impl fmt::Display) -> Self {
        Self::Reject {
            reason: reason.to_string(),
        }
    }
}

impl<E: std::error::Error> From<E> for StageError {
    fn from(error: E) -> Self {
        let mut reason = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            reason.push_str(": ");
            reason.push_str(&source.to_string());
            next = source.source();
        }
        Self::retry(reason)
    }
}

/// Sets up a [`Stage`].
#[derive(Clone, Debug)]
pub struct StageBuilder {
    client: Client,
    topic: String,
    group: String,
    concurrency: u32,
    allow_volatile: bool,
    consumer: ConsumerBuilder,
}

impl StageBuilder {
    pub(crate) fn new(client: Client, topic: &str, group: &str) -> Self {
        Self {
            consumer: client.consumer(topic, group),
            client,
            topic: topic.to_owned(),
            group: group.to_owned(),
            concurrency: 1,
            allow_volatile: false,
        }
    }

    /// The worker's name, for people and histories.
    #[must_use]
    pub fn member(mut self, name: impl Into<String>) -> Self {
        self.consumer = self.consumer.member(name);
        self
    }

    /// How many handlers run at once. Default 1.
    #[must_use]
    pub fn concurrency(mut self, handlers: u32) -> Self {
        self.concurrency = handlers.max(1);
        self.consumer = self.consumer.concurrency(handlers);
        self
    }

    /// How many events may wait here for a free handler. Default 0.
    #[must_use]
    pub fn prefetch(mut self, events: u32) -> Self {
        self.consumer = self.consumer.prefetch(events);
        self
    }

    /// Lets outputs go to memory topics, which lose their events when the broker
    /// ends, while the input stays acked. Without this such a commit is refused, and
    /// the input is tried again.
    #[must_use]
    pub fn allow_volatile(mut self) -> Self {
        self.allow_volatile = true;
        self
    }

    /// Joins the group, and runs `handler` for each event.
    ///
    /// # Errors
    /// When the broker does not take the member.
    pub async fn start<H, F>(self, handler: H) -> Result<Stage, Error>
    where
        H: Fn(Job) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Outputs, StageError>> + Send + 'static,
    {
        let consumer = self.consumer.clone().join().await?;
        let stop = CancellationToken::new();
        let runner = Runner {
            committer: Arc::new(Committer::new(self.client, self.allow_volatile)),
            topic: self.topic,
            group: self.group,
            handler: Arc::new(handler),
            slots: self.concurrency as usize,
            stop: stop.clone(),
        };
        let task = tokio::spawn(runner.run(consumer));
        Ok(Stage { stop, task })
    }
}

/// A running stage.
///
/// Each event's outputs and its ack are one commit: a crash, of the worker or of
/// the broker, never loses one and keeps the other. A handler that fails or
/// panics has its event tried again by the group's policy. When a lease is lost,
/// the handler's future is dropped, and its outputs with it.
///
/// Dropping it stops the stage without waiting; [`Stage::stop`] waits.
///
/// See the [crate's documentation](crate) for an example.
#[derive(Debug)]
pub struct Stage {
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Stage {
    /// Takes no more events, lets running handlers end (at most 30 seconds),
    /// and leaves the group.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
    }

    /// Waits until the stage ends by itself, which it does only on an error
    /// that cannot pass, for example when its group is deleted.
    ///
    /// # Errors
    /// That error.
    pub async fn ended(&mut self) -> Result<(), Error> {
        match (&mut self.task).await {
            Ok(result) => result,
            Err(_) => Err(Error::closed("the stage")),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Runner<H> {
    committer: Arc<Committer>,
    topic: String,
    group: String,
    handler: Arc<H>,
    slots: usize,
    stop: CancellationToken,
}

impl<H, F> Runner<H>
where
    H: Fn(Job) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Outputs, StageError>> + Send + 'static,
{
    async fn run(self, mut consumer: Consumer) -> Result<(), Error> {
        let mut running = JoinSet::new();
        let result = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break Ok(()),
                Some(_) = running.join_next() => {}
                delivery = consumer.next(), if running.len() < self.slots => match delivery {
                    Some(Ok(delivery)) => {
                        running.spawn(self.handle(delivery));
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(()),
                },
            }
        };
        let all = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
            tracing::warn!(
                group = self.group,
                "handlers did not end in time and are dropped"
            );
            running.shutdown().await;
        }
        consumer.leave().await;
        result
    }

    fn handle(&self, delivery: Delivery) -> impl Future<Output = ()> + Send + use<H, F> {
        let lost = delivery.lost();
        let lease = delivery.lease();
        let job = Job {
            partition: delivery.partition(),
            offset: delivery.offset(),
            attempt: delivery.attempt(),
            event: delivery.event().clone(),
            lost: lost.clone(),
            progress: delivery.progress(),
        };
        let (input, acker) = delivery.split();
        let handler = self.handler.clone();
        let committer = self.committer.clone();
        let inputs = vec![pb::CommitInput {
            topic: self.topic.clone(),
            group: self.group.clone(),
            acks: vec![lease],
        }];
        async move {
            let work = AssertUnwindSafe(async { handler(job).await }).catch_unwind();
            let result = tokio::select! {
                result = work => result,
                () = lost.cancelled() => {
                    tracing::warn!(event = input.id(), "the lease was lost; the work is dropped");
                    return acker.settled_elsewhere();
                }
            };
            let result = result.unwrap_or_else(|panic| {
                Err(StageError::retry(format!(
                    "the handler panicked: {}",
                    text_of(&*panic)
                )))
            });
            match result {
                Ok(outputs) => commit(&committer, &input, inputs, outputs, acker).await,
                Err(StageError::Retry { reason, delay }) => {
                    tracing::info!(event = input.id(), reason, "the handler failed");
                    tell_if_lost(&input, acker.nack(delay, &reason).await);
                }
                Err(StageError::Reject { reason }) => {
                    tracing::info!(event = input.id(), reason, "the handler rejects");
                    tell_if_lost(&input, acker.reject(&reason).await);
                }
            }
        }
    }
}

async fn commit(
    committer: &Committer,
    input: &Event,
    inputs: Vec<pb::CommitInput>,
    outputs: Outputs,
    acker: Acker,
) {
    acker.end_progress();
    let outputs = outputs
        .0
        .into_iter()
        .map(|(topic, event)| pb::CommitOutput {
            topic,
            events: vec![with_context(event, input).into_message()],
            partition: None,
        });
    match committer.commit(inputs, outputs.collect()).await {
        Ok(_) => acker.settled_elsewhere(),
        Err(error) if error.is_lease_lost() => {
            tracing::warn!(
                event = input.id(),
                "the lease was lost; the outputs are dropped"
            );
            acker.settled_elsewhere();
        }
        Err(error) => {
            tracing::warn!(event = input.id(), %error, "the outputs were not committed");
            tell_if_lost(input, acker.nack(None, &format!("commit: {error}")).await);
        }
    }
}

fn tell_if_lost(input: &Event, settled: Result<(), Error>) {
    if let Err(error) = settled {
        tracing::warn!(event = input.id(), %error, "the event was not settled");
    }
}

/// The output, with what it leaves unset taken from its input.
fn with_context(output: Event, input: &Event) -> Event {
    let mut context = Vec::new();
    let mut fill = |name: &'static str, value: Option<String>| {
        if output.get(name).is_none()
            && let Some(value) = value
        {
            context.push((name, value));
        }
    };
    let correlation = input.get("correlationid").unwrap_or(input.id());
    fill("correlationid", Some(correlation.to_owned()));
    fill("causationid", Some(input.id().to_owned()));
    fill("traceparent", Some(trace::child(input.get("traceparent"))));
    fill("tracestate", input.get("tracestate").map(str::to_owned));
    fill("partitionkey", input.key().map(str::to_owned));
    context.into_iter().fold(output, |output, (name, value)| {
        output.attribute(name, value)
    })
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_carry_on_the_context_of_their_input() {
        let input = Event::new("/web", "upload")
            .with_id("e1")
            .with_key("doc1")
            .attribute(
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            );
        let output = with_context(Event::new("/ocr", "text"), &input);
        assert_eq!(output.get("correlationid"), Some("e1"));
        assert_eq!(output.get("causationid"), Some("e1"));
        assert_eq!(output.key(), Some("doc1"));
        let trace = output.get("traceparent").expect("it is filled in");
        assert!(trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        assert!(!trace.contains("00f067aa0ba902b7"));

        let next = with_context(Event::new("/nlp", "entities").with_key("own"), &output);
        assert_eq!(next.get("correlationid"), Some("e1"));
        assert_eq!(next.get("causationid"), Some(output.id()));
        assert_eq!(next.key(), Some("own"));
    }
}
