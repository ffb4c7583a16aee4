//! NATS JetStream: publishing with acks, pull consumers with explicit acks
//! (<https://docs.nats.io/nats-concepts/jetstream>).

use std::{fs, time::Duration};

use anyhow::Context;
use async_nats::jetstream::{
    self, AckKind,
    consumer::{AckPolicy, PullConsumer, pull},
    stream::{self, StorageType},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, future::try_join_all};

use super::peer::{PeerProcess, free_port};
use crate::load::{
    target::{Acked, Consumer, Message, Producer, Target},
    workload::{Ack, Spec},
};

/// Events of one fetch.
const FETCH_COUNT: usize = 1000;

pub(crate) struct Nats {
    process: PeerProcess,
    name: String,
    settings: String,
    url: String,
}

impl Nats {
    /// Starts a server that syncs before it acks, or every two minutes, which is
    /// its default.
    pub(crate) fn start(dir: tempfile::TempDir, synced: bool) -> anyhow::Result<Self> {
        let port = free_port()?;
        let sync = if synced { "always" } else { "2m" };
        let store = dir.path().join("store");
        let file = dir.path().join("nats.conf");
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}, sync_interval: {sync} }}\n"
        );
        fs::write(&file, text)?;
        let process = PeerProcess::start_with_file("nats-server", "-c", &file, dir, port)?;
        Ok(Self {
            settings: format!("{}, file storage, sync_interval {sync}", process.version()?),
            name: format!("nats, sync {sync}"),
            url: format!("nats://127.0.0.1:{port}"),
            process,
        })
    }

    async fn connect(&self) -> anyhow::Result<jetstream::Context> {
        let client = async_nats::ConnectOptions::new().connect(&self.url).await?;
        Ok(jetstream::new(client))
    }
}

#[async_trait]
impl Target for Nats {
    fn name(&self) -> &str {
        &self.name
    }

    fn settings(&self) -> &str {
        &self.settings
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn create(&self, topic: &str, spec: &Spec) -> anyhow::Result<()> {
        let context = self.connect().await?;
        let config = stream::Config {
            name: topic.to_owned(),
            subjects: vec![topic.to_owned()],
            storage: StorageType::File,
            ..stream::Config::default()
        };
        let stream = context.create_stream(config).await?;
        for group in 0..spec.groups {
            let policy = match spec.ack {
                Ack::Event => AckPolicy::Explicit,
                Ack::Batch => AckPolicy::All,
            };
            let config = pull::Config {
                durable_name: Some(format!("group-{group}")),
                ack_policy: policy,
                max_ack_pending: 100_000,
                ..pull::Config::default()
            };
            stream.create_consumer(config).await?;
        }
        Ok(())
    }

    async fn producer(&self, topic: &str) -> anyhow::Result<Box<dyn Producer>> {
        Ok(Box::new(Publisher {
            topic: topic.to_owned(),
            context: self.connect().await?,
        }))
    }

    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        spec: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>> {
        let stream = self.connect().await?.get_stream(topic).await?;
        let consumer = stream.get_consumer(&format!("group-{group}")).await;
        Ok(Box::new(Member {
            consumer: consumer.map_err(|error| anyhow::anyhow!("{error}"))?,
            ack: spec.ack,
            unacked: Vec::new(),
        }))
    }
}

struct Publisher {
    topic: String,
    context: jetstream::Context,
}

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let mut acks = Vec::with_capacity(batch.len());
        for message in batch {
            let topic = self.topic.clone();
            acks.push(self.context.publish(topic, message.payload).await?);
        }
        Ok(Box::pin(async move {
            try_join_all(acks.into_iter().map(IntoFuture::into_future)).await?;
            Ok(())
        }))
    }
}

struct Member {
    consumer: PullConsumer,
    ack: Ack,
    unacked: Vec<jetstream::Message>,
}

impl Member {
    async fn acknowledge(&mut self) -> anyhow::Result<()> {
        let unacked = std::mem::take(&mut self.unacked);
        let first = match self.ack {
            Ack::Event => 0,
            // The last ack covers all before it.
            Ack::Batch => unacked.len().saturating_sub(1),
        };
        for message in &unacked[first..] {
            let acked = message.ack_with(AckKind::Ack).await;
            acked.map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
        self.acknowledge().await?;
        loop {
            let mut batch = self
                .consumer
                .batch()
                .max_messages(FETCH_COUNT)
                .expires(Duration::from_millis(500))
                .messages()
                .await
                .context("a fetch failed")?;
            // What has come is handed on as soon as nothing more is at hand.
            let mut payloads = Vec::new();
            while let Some(message) = batch.next().await {
                let message = message.map_err(|error| anyhow::anyhow!("{error}"))?;
                payloads.push(message.payload.clone());
                self.unacked.push(message);
            }
            if !payloads.is_empty() {
                return Ok(payloads);
            }
        }
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        self.acknowledge().await?;
        Ok(())
    }
}
