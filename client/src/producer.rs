//! Publishes events: batched, pipelined, and once.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use sluice_proto::{
    PartitionId, partition_of_key,
    pb::{
        self, ErrorReason, publish_stream_request::Message as Out,
        publish_stream_response::Message as In,
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::{
    client::Client, error::Error, event::Event, limits::PublishLimits, sequence::Sequence,
};

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
/// Batches form by themselves: what gathers while a partition's batch is under
/// way goes into the next one. There is no timer. After a lost connection the
/// producer reconnects and sends again what was not acked, with the same
/// sequence numbers, so that each event is appended once, in the order in which
/// it was sent to its partition.
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
    partitions: Partitions,
    limits: PublishLimits,
    /// Why the producer has ended, for good.
    failure: Arc<Mutex<Option<Error>>>,
}

/// How many partitions topics have, as far as it is known.
type Partitions = Arc<Mutex<HashMap<String, u32>>>;

/// An event that is queued.
#[derive(Debug)]
#[must_use = "an event is stored when `durable` says so"]
pub struct PublishReceipt {
    answer: oneshot::Receiver<Result<Position, Error>>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl PublishReceipt {
    /// Waits until the event is durable.
    ///
    /// # Errors
    /// When the broker refuses it, or the session has ended.
    pub async fn durable(self) -> Result<Position, Error> {
        match self.answer.await {
            Ok(result) => result,
            Err(_) => Err(why_ended(&self.failure)),
        }
    }
}

fn why_ended(failure: &Mutex<Option<Error>>) -> Error {
    let failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
    failure
        .clone()
        .unwrap_or_else(|| Error::closed("the producer"))
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
        let partitions = Partitions::default();
        let (queue, queued) = mpsc::unbounded_channel();
        let failure = Arc::new(Mutex::new(None));
        let span = u64::try_from(session.max_in_flight).unwrap_or(1);
        let worker = Worker {
            client: client.clone(),
            session,
            queued,
            gathering: BTreeMap::new(),
            turn: 0,
            in_flight: VecDeque::new(),
            sequence: Sequence::new(span),
            limits,
            partitions: partitions.clone(),
            failure: failure.clone(),
        };
        tokio::spawn(worker.run());
        Ok(Self {
            client,
            queue,
            budget: Arc::new(Semaphore::new(QUEUE_BYTES)),
            partitions,
            limits,
            failure,
        })
    }

    /// Queues an event. Waits while too much is under way.
    ///
    /// # Errors
    /// When the event breaks a rule or limit, the topic does not exist, or the
    /// session has ended.
    pub async fn send(&self, topic: &str, event: Event) -> Result<PublishReceipt, Error> {
        let event = self.limits.checked(event)?;
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
            .map_err(|_| why_ended(&self.failure))?;
        Ok(PublishReceipt {
            answer,
            failure: self.failure.clone(),
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
        let known = |of: &Mutex<HashMap<String, u32>>| {
            let of = of.lock().unwrap_or_else(PoisonError::into_inner);
            of.get(topic).copied()
        };
        if let Some(partitions) = known(&self.partitions) {
            return Ok(partitions);
        }
        let described = self.client.admin().describe_topic(topic).await?;
        let partitions = described.config.unwrap_or_default().partitions;
        let partitions = u32::try_from(partitions).unwrap_or(1).max(1);
        let mut known = self
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.insert(topic.to_owned(), partitions);
        Ok(partitions)
    }
}

/// What gathers together: events of one partition, or those of one topic for
/// which any partition will do.
type Lane = (String, Option<PartitionId>);

#[derive(Default)]
struct Gathered {
    events: VecDeque<Queued>,
    bytes: usize,
}

impl Gathered {
    /// Whether a batch is due, whatever is under way.
    fn is_full(&self, limits: PublishLimits) -> bool {
        self.bytes >= limits.batch_bytes || self.events.len() >= limits.batch_events
    }
}

/// A batch that was sent and has no answer.
struct Batch {
    sequence: u64,
    lane: Lane,
    partition: PartitionId,
    events: Vec<pb::Event>,
    bytes: u64,
    waiting: Vec<Waiting>,
}

/// What is left of a queued event when it is in a batch.
struct Waiting {
    done: oneshot::Sender<Result<Position, Error>>,
    _budget: OwnedSemaphorePermit,
}

/// The task behind a producer.
struct Worker {
    client: Client,
    session: pb::OpenProducerResponse,
    queued: mpsc::UnboundedReceiver<Queued>,
    gathering: BTreeMap<Lane, Gathered>,
    /// In the order in which they were sent.
    in_flight: VecDeque<Batch>,
    sequence: Sequence,
    turn: u32,
    limits: PublishLimits,
    partitions: Partitions,
    failure: Arc<Mutex<Option<Error>>>,
}

/// One stream's sending half, and what it may carry.
struct Sending {
    requests: mpsc::Sender<pb::PublishStreamRequest>,
    sent_bytes: u64,
    credit_bytes: u64,
}

/// How a stream ended.
enum End {
    /// Everything is published and nobody can send any more.
    Finished,
    /// It can go on with another stream.
    Lost(Error),
    /// It cannot go on.
    Fatal(Error),
}

impl Worker {
    async fn run(mut self) {
        let mut attempt = 0;
        loop {
            match self.stream(&mut attempt).await {
                End::Finished => return,
                End::Lost(error) => {
                    tracing::info!(%error, "publishing is interrupted; reconnecting");
                    self.client.options().backoff.wait(attempt).await;
                    attempt = attempt.saturating_add(1);
                }
                End::Fatal(error) => return self.fail(&error),
            }
        }
    }

    /// Ends everything with the reason.
    fn fail(self, error: &Error) {
        tracing::error!(%error, "the producer cannot go on");
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        *failure = Some(error.clone());
        drop(failure);
        for waiting in self.in_flight.into_iter().flat_map(|batch| batch.waiting) {
            let _ = waiting.done.send(Err(error.clone()));
        }
        // Those that gather, and those that are queued, learn it from `failure`
        // when their senders are dropped here.
    }

    async fn stream(&mut self, attempt: &mut u32) -> End {
        let (mut sending, mut responses) = match self.connect().await {
            Ok(stream) => stream,
            Err(error) if error.is_retryable() => return End::Lost(error),
            Err(error) => return End::Fatal(error),
        };
        for batch in &self.in_flight {
            if sending.send(batch).await.is_err() {
                return End::Lost(Error::closed("the stream"));
            }
        }
        let mut open = true;
        loop {
            if self.send_what_is_due(&mut sending).await.is_err() {
                return End::Lost(Error::closed("the stream"));
            }
            if !open && self.in_flight.is_empty() && self.gathering.is_empty() {
                return End::Finished;
            }
            tokio::select! {
                biased;
                response = responses.message() => {
                    let response = match response {
                        Ok(Some(response)) => response,
                        Ok(None) => return End::Lost(Error::closed("the stream")),
                        Err(status) => {
                            let error = Error::from(status);
                            return if error.is_final() { End::Fatal(error) } else { End::Lost(error) };
                        }
                    };
                    *attempt = 0;
                    if let Some(end) = self.take_response(response, &mut sending) {
                        return end;
                    }
                }
                queued = self.queued.recv(), if open => match queued {
                    None => open = false,
                    Some(queued) => {
                        self.gather(queued);
                        while let Ok(queued) = self.queued.try_recv() {
                            self.gather(queued);
                        }
                    }
                },
            }
        }
    }

    async fn connect(&mut self) -> Result<(Sending, Streaming<pb::PublishStreamResponse>), Error> {
        let (requests, outgoing) = mpsc::channel(64);
        let open = Out::Open(pb::PublishOpen {
            producer_id: self.session.producer_id,
            producer_epoch: self.session.producer_epoch,
        });
        // Before the call: it answers when the broker has headers, and some
        // brokers' proxies send those only after a first message.
        let first = pb::PublishStreamRequest {
            message: Some(open),
        };
        let queued = requests.try_send(first);
        debug_assert!(queued.is_ok(), "the channel is new");
        let mut api = self.client.publish_api();
        let stream = api.publish_stream(ReceiverStream::new(outgoing)).await?;
        let sending = Sending {
            requests,
            sent_bytes: 0,
            credit_bytes: 0,
        };
        Ok((sending, stream.into_inner()))
    }

    fn gather(&mut self, queued: Queued) {
        let lane = (queued.topic.clone(), queued.partition);
        let gathered = self.gathering.entry(lane).or_default();
        gathered.bytes += queued.bytes;
        gathered.events.push_back(queued);
    }

    /// Sends the batches whose turn it is: full ones, and those of lanes of
    /// which none is under way.
    async fn send_what_is_due(&mut self, sending: &mut Sending) -> Result<(), ()> {
        let lanes: Vec<Lane> = self
            .gathering
            .iter()
            .filter(|(lane, gathered)| {
                gathered.is_full(self.limits)
                    || !self.in_flight.iter().any(|batch| batch.lane == **lane)
            })
            .map(|(lane, _)| lane.clone())
            .collect();
        for lane in lanes {
            if sending.sent_bytes >= sending.credit_bytes {
                return Ok(());
            }
            let Some(sequence) = self.sequence.take() else {
                return Ok(());
            };
            let batch = self.take_batch(lane, sequence);
            let sent = sending.send(&batch).await;
            // Also one that was not sent is under way: the next stream sends it.
            self.in_flight.push_back(batch);
            sent?;
        }
        Ok(())
    }

    /// The next batch of a lane that has events.
    fn take_batch(&mut self, lane: Lane, sequence: u64) -> Batch {
        let mut batch = Batch {
            sequence,
            partition: PartitionId(0),
            events: Vec::new(),
            bytes: 0,
            waiting: Vec::new(),
            lane: lane.clone(),
        };
        let Some(gathered) = self.gathering.get_mut(&lane) else {
            return batch;
        };
        while let Some(next) = gathered.events.front() {
            let bytes = batch.bytes as usize + next.bytes;
            let full =
                bytes > self.limits.batch_bytes || batch.events.len() >= self.limits.batch_events;
            if full && !batch.events.is_empty() {
                break;
            }
            let Some(queued) = gathered.events.pop_front() else {
                break;
            };
            if batch.events.is_empty() {
                batch.partition = queued.partition.unwrap_or_else(|| {
                    self.turn = self.turn.wrapping_add(1);
                    PartitionId(self.turn % queued.partitions)
                });
            }
            gathered.bytes -= queued.bytes;
            batch.bytes += queued.bytes as u64;
            batch.events.push(queued.event);
            batch.waiting.push(Waiting {
                done: queued.done,
                _budget: queued._budget,
            });
        }
        if gathered.events.is_empty() {
            self.gathering.remove(&lane);
        }
        batch
    }

    fn take_response(
        &mut self,
        response: pb::PublishStreamResponse,
        sending: &mut Sending,
    ) -> Option<End> {
        match response.message {
            Some(In::Opened(opened)) => sending.credit(opened.credit),
            Some(In::Credit(credit)) => sending.credit(Some(credit)),
            Some(In::Ack(ack)) => {
                if let Some(batch) = self.take_in_flight(ack.request_id) {
                    self.sequence.done(batch.sequence);
                    batch.acked(&ack);
                }
            }
            Some(In::Refused(refused)) => {
                let error = Error::from_message(refused.error);
                if error.is_retryable() {
                    return Some(End::Lost(error));
                }
                if let ErrorReason::ProducerFenced | ErrorReason::UnknownProducer = error.reason() {
                    return Some(End::Fatal(error));
                }
                if let Some(batch) = self.take_in_flight(refused.request_id) {
                    self.sequence.refused(batch.sequence);
                    if let ErrorReason::UnknownTopic | ErrorReason::UnknownPartition =
                        error.reason()
                    {
                        // It was deleted; another of that name may be another.
                        let partitions = self.partitions.lock();
                        let mut partitions = partitions.unwrap_or_else(PoisonError::into_inner);
                        partitions.remove(&batch.lane.0);
                    }
                    for waiting in batch.waiting {
                        let _ = waiting.done.send(Err(error.clone()));
                    }
                }
            }
            // A kind of message from a later version.
            None => {}
        }
        None
    }

    /// The batch that was sent under this id, which is its sequence number.
    fn take_in_flight(&mut self, request_id: i64) -> Option<Batch> {
        let sequence = u64::try_from(request_id).ok()?;
        let at = self.in_flight.iter().position(|b| b.sequence == sequence)?;
        self.in_flight.remove(at)
    }
}

impl Batch {
    fn acked(self, ack: &pb::PublishAck) {
        let range = ack.ranges.first();
        for (at, waiting) in self.waiting.into_iter().enumerate() {
            let result = match range {
                Some(range) => Ok(Position {
                    topic: self.lane.0.clone(),
                    partition: range.partition,
                    offset: range.first_offset + at as i64,
                    duplicate: ack.duplicate,
                }),
                None => Err(Error::new(Code::Internal, "the broker acked no range")),
            };
            let _ = waiting.done.send(result);
        }
    }
}

impl Sending {
    fn credit(&mut self, credit: Option<pb::PublishCredit>) {
        let bytes = credit.unwrap_or_default().max_bytes;
        let bytes = u64::try_from(bytes).unwrap_or(0);
        self.credit_bytes = self.credit_bytes.max(bytes);
    }

    async fn send(&mut self, batch: &Batch) -> Result<(), ()> {
        self.sent_bytes += batch.bytes;
        let message = Out::Batch(pb::PublishBatch {
            request_id: batch.sequence as i64,
            topic: batch.lane.0.clone(),
            events: batch.events.clone(),
            partition: Some(batch.partition.0 as i32),
            sequence: batch.sequence as i64,
        });
        let request = pb::PublishStreamRequest {
            message: Some(message),
        };
        self.requests.send(request).await.map_err(drop)
    }
}
