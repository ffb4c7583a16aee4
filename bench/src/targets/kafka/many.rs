//! Publishing to many partitions through librdkafka, which has one connection for all of
//! them and a queue for each, from which it sends after its default of 5 ms.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use async_trait::async_trait;
use rdkafka::{
    ClientConfig, ClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseRecord, ProducerContext, ThreadedProducer},
};
use tokio::sync::oneshot;

use crate::{
    load::{
        target::{Acked, Message, Producer},
        workload::Spec,
    },
    targets::partitions,
};

/// Pause before a message is given again to a queue that was full.
const QUEUE_FULL: Duration = Duration::from_millis(1);

/// Is told of each message that is acked.
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Batch>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<Batch>) {
        match result {
            Ok(_) => batch.delivered(),
            Err((error, _)) => batch.end(Err(anyhow::anyhow!("{error}"))),
        }
    }
}

/// Messages that were given together.
struct Batch {
    not_acked: AtomicUsize,
    acked: Mutex<Option<oneshot::Sender<anyhow::Result<()>>>>,
}

impl Batch {
    /// One of so many messages, and its ack.
    fn of(messages: usize) -> (Arc<Self>, Acked) {
        let (acked, ack) = oneshot::channel();
        let batch = Arc::new(Self {
            not_acked: AtomicUsize::new(messages),
            acked: Mutex::new(Some(acked)),
        });
        let ack = Box::pin(async move { ack.await.context("the producer has ended")? });
        (batch, ack)
    }

    fn delivered(&self) {
        if self.not_acked.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.end(Ok(()));
        }
    }

    fn end(&self, result: anyhow::Result<()>) {
        let mut acked = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(acked) = acked.take() {
            // Whoever does not wait any more has ended its load.
            let _ = acked.send(result);
        }
    }
}

type Record<'a> = BaseRecord<'a, [u8], [u8], Arc<Batch>>;

/// A producer.
pub(super) struct Publisher {
    client: ThreadedProducer<Deliveries>,
    topics: Vec<String>,
    /// Partitions that batches without keys go to in turn.
    partitions: u32,
    sent: u32,
}

impl Publisher {
    pub(super) fn new(
        config: &ClientConfig,
        topics: &[String],
        spec: &Spec,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            client: config.create_with_context(Deliveries)?,
            topics: topics.to_owned(),
            partitions: partitions::of_each(spec),
            sent: 0,
        })
    }

    /// Publishes an event to each partition, again and again for so long: the server
    /// makes the files of a partition when it gets its first, which takes longer than
    /// the load, and compiles what it does often.
    pub(super) async fn touch(&self, time: Duration) -> anyhow::Result<()> {
        let all = self.topics.len() * self.partitions as usize;
        let mut until = None;
        while until.is_none_or(|until| Instant::now() < until) {
            let (batch, acked) = Batch::of(all);
            for topic in &self.topics {
                for partition in 0..self.partitions as i32 {
                    let record = BaseRecord::with_opaque_to(topic, batch.clone());
                    let record = record.payload(&[0; 1024][..]).partition(partition);
                    self.give(record).await?;
                }
            }
            acked.await?;
            // The first time does not count.
            until = until.or(Some(Instant::now() + time));
        }
        Ok(())
    }

    /// Gives an event to the client, as soon as there is room.
    async fn give(&self, mut record: Record<'_>) -> anyhow::Result<()> {
        while let Err((error, again)) = self.client.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            anyhow::ensure!(error == full, "{error}");
            record = again;
            tokio::time::sleep(QUEUE_FULL).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, topic: usize, messages: Vec<Message>) -> anyhow::Result<Acked> {
        let (batch, acked) = Batch::of(messages.len());
        let turn = (self.sent % self.partitions) as i32;
        self.sent = self.sent.wrapping_add(1);
        for message in messages {
            let key = message.key.map(u64::to_le_bytes);
            let record = BaseRecord::with_opaque_to(&self.topics[topic], batch.clone())
                .payload(message.payload.as_ref());
            let record = match &key {
                Some(key) => record.key(key.as_slice()),
                None => record.partition(turn),
            };
            self.give(record).await?;
        }
        Ok(acked)
    }
}
