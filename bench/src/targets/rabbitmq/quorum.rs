//! RabbitMQ quorum queues: publishing with confirms, which come after a sync, and
//! acks (<https://www.rabbitmq.com/docs/quorum-queues>).

use std::time::Instant;

use async_rs::Runtime;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};

use super::{Server, until_it_is_there, version};
use crate::load::{
    target::{Acked, Consumer, Message, Producer, Target},
    workload::{Ack, Spec},
};

/// As many as the documentation advises to let a member have where it is fast.
const PREFETCH: usize = 2000;

/// A node on which groups are queues behind an exchange for each topic.
pub(crate) struct Quorum {
    server: Server,
    settings: String,
}

impl Quorum {
    pub(crate) fn start(dir: tempfile::TempDir) -> anyhow::Result<Self> {
        let version = version().unwrap_or_default();
        Ok(Self {
            server: Server::start(dir, super::Protocol::Amqp)?,
            settings: format!("RabbitMQ {version}, quorum queue of one node, prefetch {PREFETCH}"),
        })
    }

    async fn connect(&self) -> anyhow::Result<(Connection, Channel)> {
        let address = format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.server.port);
        let connection = Connection::connect_with_runtime(
            &address,
            ConnectionProperties::default(),
            Runtime::tokio_current(),
        );
        let connection = connection.await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }
}

fn queue(topic: &str, group: usize) -> String {
    format!("{topic}-group-{group}")
}

#[async_trait]
impl Target for Quorum {
    fn settings(&self) -> &str {
        &self.settings
    }

    fn pid(&self) -> Option<u32> {
        Some(self.server.node.pid())
    }

    async fn create(&self, topics: &[String], spec: &Spec) -> anyhow::Result<()> {
        let (_connection, channel) = until_it_is_there(|| self.connect()).await?;
        for topic in topics {
            let declare = ExchangeDeclareOptions {
                durable: true,
                ..ExchangeDeclareOptions::default()
            };
            let none = FieldTable::default();
            channel
                .exchange_declare(topic.as_str().into(), ExchangeKind::Fanout, declare, none)
                .await?;
            // Without a queue, events would go nowhere.
            for group in 0..spec.groups.max(1) {
                let mut arguments = FieldTable::default();
                let kind = AMQPValue::LongString("quorum".into());
                arguments.insert("x-queue-type".into(), kind);
                let queue = queue(topic, group);
                let durable = QueueDeclareOptions::durable();
                channel
                    .queue_declare(queue.as_str().into(), durable, arguments)
                    .await?;
                channel
                    .queue_bind(
                        queue.as_str().into(),
                        topic.as_str().into(),
                        "".into(),
                        QueueBindOptions::default(),
                        FieldTable::default(),
                    )
                    .await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, topics: &[String], spec: &Spec) -> anyhow::Result<()> {
        let (_connection, channel) = self.connect().await?;
        for topic in topics {
            for group in 0..spec.groups.max(1) {
                let queue = queue(topic, group);
                let options = QueueDeleteOptions::default();
                channel.queue_delete(queue.as_str().into(), options).await?;
            }
            let options = ExchangeDeleteOptions::default();
            channel
                .exchange_delete(topic.as_str().into(), options)
                .await?;
        }
        Ok(())
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        self.server.node.restart()
    }

    async fn producer(&self, topics: &[String], _: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        let (connection, channel) = until_it_is_there(|| self.connect()).await?;
        let options = ConfirmSelectOptions::default();
        channel.confirm_select(options).await?;
        Ok(Box::new(Publisher {
            topics: topics.to_vec(),
            channel,
            _connection: connection,
        }))
    }

    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        spec: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>> {
        let (connection, channel) = until_it_is_there(|| self.connect()).await?;
        let prefetch = spec.window.min(PREFETCH);
        channel
            .basic_qos(prefetch as u16, BasicQosOptions::default())
            .await?;
        let deliveries = channel
            .basic_consume(
                queue(topic, group).into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        Ok(Box::new(Member {
            deliveries,
            channel,
            // Half of what it may have, so that the next come meanwhile.
            count: prefetch.div_ceil(2),
            ack: spec.ack,
            unacked: Vec::new(),
            _connection: connection,
        }))
    }
}

struct Publisher {
    topics: Vec<String>,
    channel: Channel,
    _connection: Connection,
}

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, topic: usize, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let mut confirms = Vec::with_capacity(batch.len());
        for message in batch {
            // Persistent.
            let properties = BasicProperties::default().with_delivery_mode(2);
            let confirm = self.channel.basic_publish(
                self.topics[topic].as_str().into(),
                "".into(),
                BasicPublishOptions::default(),
                &message.payload,
                properties,
            );
            confirms.push(confirm.await?);
        }
        Ok(Box::pin(async move {
            for confirm in confirms {
                let confirmed = matches!(confirm.await?, Confirmation::Ack(_));
                anyhow::ensure!(confirmed, "not confirmed");
            }
            Ok(())
        }))
    }
}

struct Member {
    deliveries: lapin::Consumer,
    channel: Channel,
    /// The most events of one read.
    count: usize,
    ack: Ack,
    unacked: Vec<u64>,
    _connection: Connection,
}

impl Member {
    async fn acknowledge(&mut self) -> anyhow::Result<()> {
        let unacked = std::mem::take(&mut self.unacked);
        let (first, multiple) = match self.ack {
            Ack::Event => (0, false),
            // The last ack covers all before it.
            Ack::Batch => (unacked.len().saturating_sub(1), true),
        };
        for tag in &unacked[first..] {
            let options = BasicAckOptions { multiple };
            self.channel.basic_ack(*tag, options).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
        self.acknowledge().await?;
        let mut payloads = Vec::new();
        let mut next = self.deliveries.next().await;
        // What has come is handed on as soon as nothing more is at hand.
        while let Some(delivery) = next {
            let delivery = delivery?;
            self.unacked.push(delivery.delivery_tag);
            payloads.push(delivery.data.into());
            if payloads.len() == self.count {
                break;
            }
            next = self.deliveries.next().now_or_never().flatten();
        }
        anyhow::ensure!(!payloads.is_empty(), "the queue has ended");
        Ok(payloads)
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        self.acknowledge().await
    }
}
