//! Publishes events: batched, pipelined, and once.

mod worker;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sluice_proto::{PartitionId, partition_of_key, pb};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use self::worker::Worker;
use crate::{client::Client, error::Error, event::Event, limits::PublishLimits};

/// Bytes of events that a producer holds before [`Producer::send`] waits.
const QUEUE_BYTES: usize = 16 << 20;

/// Where an event is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
    /// It had been stored before, by an earlier try of this producer.
    pub duplicate: bool,
}

/// Publishes events. Cheap to clone; all clones share one session.
///
/// Batches form by themselves: what gathers while a few of a partition's batches are
/// under way goes into the next one. There is no timer. After a lost connection the
/// producer reconnects and sends again what was not acked, with the same
/// sequence numbers, so that each event is appended once, in the order in which
/// it was sent to its partition.
///
/// An event that breaks a rule, or a limit that the broker had when the producer
/// was opened, is refused before it is queued, so that it fails alone.
///
/// ```no_run
/// # async fn example(client: sluice_client::Client) -> Result<(), sluice_client::Error> {
/// use sluice_client::Event;
/// let producer = client.producer().await?;
/// // Queued: waits only while too much is under way.
/// let receipt = producer.send("uploads", Event::new("/web", "upload")).await?;
/// // Durable.
/// let position = receipt.durable().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Producer {
    client: Client,
    queue: mpsc::UnboundedSender<Queued>,
    budget: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// What a producer, its receipts and its task share.
#[derive(Debug)]
struct Shared {
    limits: PublishLimits,
    /// How many partitions topics have, as far as it is known.
    partitions: Mutex<HashMap<String, u32>>,
    /// Why the producer has ended, for good.
    failure: Mutex<Option<Error>>,
}

impl Shared {
    fn partitions(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        // Nothing that runs under these locks panics.
        self.partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_ended(&self) -> Error {
        let failure = self.failure().clone();
        failure.unwrap_or_else(|| Error::closed("the producer"))
    }
}

/// An event that is queued.
#[derive(Debug)]
#[must_use = "an event is stored when `durable` says so"]
pub struct PublishReceipt {
    answer: oneshot::Receiver<Result<Position, Error>>,
    shared: Arc<Shared>,
}

impl PublishReceipt {
    /// Waits until the event is durable.
    ///
    /// # Errors
    /// When the broker refuses it, or the session has ended.
    pub async fn durable(self) -> Result<Position, Error> {
        match self.answer.await {
            Ok(result) => result,
            Err(_) => Err(self.shared.why_ended()),
        }
    }
}

struct Queued {
    topic: String,
    /// `None` where any partition will do.
    partition: Option<PartitionId>,
    partitions: u32,
    event: pb::Event,
    bytes: usize,
    done: oneshot::Sender<Result<Position, Error>>,
    _budget: OwnedSemaphorePermit,
}

impl Producer {
    pub(crate) async fn open(client: Client, name: String) -> Result<Self, Error> {
        let api = client.publish_api();
        let session = client
            .retrying(|| {
                let mut api = api.clone();
                let request = pb::OpenProducerRequest { name: name.clone() };
                async move { Ok(api.open_producer(request).await?.into_inner()) }
            })
            .await?;
        let described = client.admin().describe_broker().await?;
        let limits = PublishLimits::of(&described.limits.unwrap_or_default());
        let shared = Arc::new(Shared {
            limits,
            partitions: Mutex::default(),
            failure: Mutex::default(),
        });
        let (queue, queued) = mpsc::unbounded_channel();
        tokio::spawn(Worker::new(client.clone(), session, queued, shared.clone()).run());
        Ok(Self {
            client,
            queue,
            budget: Arc::new(Semaphore::new(QUEUE_BYTES)),
            shared,
        })
    }

    /// Queues an event. Waits while too much is under way.
    ///
    /// # Errors
    /// When the event breaks a rule or limit, the topic does not exist, or the
    /// session has ended.
    pub async fn send(&self, topic: &str, event: Event) -> Result<PublishReceipt, Error> {
        let event = self.shared.limits.checked(event)?;
        let partitions = self.partitions_of(topic).await?;
        let partition = match event.key() {
            Some(key) => Some(partition_of_key(key, partitions)),
            // There is only one, so all its events keep their order.
            None => (partitions == 1).then_some(PartitionId(0)),
        };
        let bytes = event.encoded_len();
        let permits = bytes.clamp(1, QUEUE_BYTES) as u32;
        let budget = self.budget.clone().acquire_many_owned(permits).await;
        let (done, answer) = oneshot::channel();
        let queued = Queued {
            topic: topic.to_owned(),
            partition,
            partitions,
            event: event.into_message(),
            bytes,
            done,
            _budget: budget.map_err(|_| Error::closed("the producer"))?,
        };
        self.queue
            .send(queued)
            .map_err(|_| self.shared.why_ended())?;
        Ok(PublishReceipt {
            answer,
            shared: self.shared.clone(),
        })
    }

    /// Publishes an event and waits until it is durable.
    ///
    /// # Errors
    /// As [`Producer::send`] and [`PublishReceipt::durable`].
    pub async fn publish(&self, topic: &str, event: Event) -> Result<Position, Error> {
        self.send(topic, event).await?.durable().await
    }

    /// Waits until everything that was sent before has an outcome.
    pub async fn flush(&self) {
        // Whoever holds the whole budget knows that nobody else holds any of it.
        drop(self.budget.acquire_many(QUEUE_BYTES as u32).await);
    }

    async fn partitions_of(&self, topic: &str) -> Result<u32, Error> {
        if let Some(partitions) = self.shared.partitions().get(topic) {
            return Ok(*partitions);
        }
        let described = self.client.admin().describe_topic(topic).await?;
        let partitions = described.config.unwrap_or_default().partitions;
        let partitions = u32::try_from(partitions).unwrap_or(1).max(1);
        let mut known = self.shared.partitions();
        known.insert(topic.to_owned(), partitions);
        Ok(partitions)
    }
}
