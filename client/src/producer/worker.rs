//! The task behind a producer: gathers events into batches, and keeps a stream.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use sluice_proto::{
    PartitionId,
    pb::{
        self, ErrorReason, publish_stream_request::Message as Out,
        publish_stream_response::Message as In,
    },
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::{Position, Queued, Shared};
use crate::{client::Client, error::Error, limits::PublishLimits, sequence::Sequence};

/// Batches of one lane that are under way before what comes has to gather. With one,
/// half of what waits would wait for an ack that it has nothing to do with.
const UNDER_WAY_MAX: usize = 4;

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
pub(super) struct Worker {
    client: Client,
    session: pb::OpenProducerResponse,
    queued: mpsc::UnboundedReceiver<Queued>,
    gathering: BTreeMap<Lane, Gathered>,
    /// In the order in which they were sent.
    in_flight: VecDeque<Batch>,
    sequence: Sequence,
    turn: u32,
    shared: Arc<Shared>,
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
    pub(super) fn new(
        client: Client,
        session: pb::OpenProducerResponse,
        queued: mpsc::UnboundedReceiver<Queued>,
        shared: Arc<Shared>,
    ) -> Self {
        let span = u64::try_from(session.max_in_flight).unwrap_or(1);
        Self {
            client,
            session,
            queued,
            gathering: BTreeMap::new(),
            in_flight: VecDeque::new(),
            sequence: Sequence::new(span),
            turn: 0,
            shared,
        }
    }

    /// Publishes what is queued until everything is, and nobody can queue more.
    pub(super) async fn run(mut self) {
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
        *self.shared.failure() = Some(error.clone());
        for waiting in self.in_flight.into_iter().flat_map(|batch| batch.waiting) {
            let _ = waiting.done.send(Err(error.clone()));
        }
        // Those that gather, and those that are queued, learn it from what is
        // shared when their senders are dropped here.
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

    /// Sends the batches whose turn it is: full ones, and those of lanes of which few
    /// are under way.
    async fn send_what_is_due(&mut self, sending: &mut Sending) -> Result<(), ()> {
        let lanes: Vec<Lane> = self
            .gathering
            .iter()
            .filter(|(lane, gathered)| {
                let of_lane = self.in_flight.iter().filter(|batch| batch.lane == **lane);
                gathered.is_full(self.shared.limits) || of_lane.count() < UNDER_WAY_MAX
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
            let full = bytes > self.shared.limits.batch_bytes
                || batch.events.len() >= self.shared.limits.batch_events;
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
                // A topic that is full refuses because it was asked to: the caller
                // decides.
                let full = error.reason() == ErrorReason::BacklogFull;
                if error.is_retryable() && !full {
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
                        self.shared.partitions().remove(&batch.lane.0);
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
