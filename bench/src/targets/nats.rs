//! NATS JetStream: publishing with acks, pull consumers with explicit acks
//! (<https://docs.nats.io/nats-concepts/jetstream>).

use std::{fs, time::Instant};

use async_nats::jetstream::{
    self, AckKind,
    consumer::{AckPolicy, PullConsumer, pull},
    stream::{self, StorageType},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::try_join_all};

use super::peer::{self, PeerProcess, Start, free_port};
use crate::load::{
    target::{ANSWER_PATIENCE, Acked, Consumer, Message, Producer, Target},
    workload::{Ack, Kind, Spec},
};

/// Events that the server sends ahead of the acks.
const FETCH_COUNT: usize = 1000;
pub(super) const PROGRAM: &str = "nats-server";

pub(crate) struct Nats {
    process: PeerProcess,
    settings: String,
    url: String,
}

impl Nats {
    /// Starts a server that syncs before it acks, or every two minutes, which is
    /// its default.
    pub(crate) fn start(dir: tempfile::TempDir, synced: bool) -> anyhow::Result<Self> {
        let port = free_port()?;
        // Older servers do not know the setting, so it is only given to change it.
        let (sync, setting) = if synced {
            ("always", ", sync_interval: always")
        } else {
            ("2m", "")
        };
        let store = dir.path().join("store");
        let file = dir.path().join("nats.conf");
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}{setting} }}\n"
        );
        fs::write(&file, text)?;
        let start = Start {
            program: PROGRAM.into(),
            args: vec!["-c".into(), file.into()],
            variables: Vec::new(),
            port,
        };
        let process = PeerProcess::start(start, dir)?;
        let version = peer::version(PROGRAM).unwrap_or_default();
        Ok(Self {
            settings: format!("{version}, file storage, sync_interval {sync}"),
            url: format!("nats://127.0.0.1:{port}"),
            process,
        })
    }

    async fn connect(&self) -> anyhow::Result<jetstream::Context> {
        let client = async_nats::ConnectOptions::new().connect(&self.url).await?;
        let mut context = jetstream::new(client);
        context.set_timeout(ANSWER_PATIENCE);
        Ok(context)
    }
}

/// Whether there is a server that can sync before each ack, which came with
/// version 2.10.
pub(super) fn can_sync_always() -> bool {
    let version = peer::version(PROGRAM).unwrap_or_default();
    let numbers = version.rsplit_once('v').map_or("", |(_, numbers)| numbers);
    let mut numbers = numbers.split('.').map_while(|number| number.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (2, 10)
}

#[async_trait]
impl Target for Nats {
    fn settings(&self) -> &str {
        &self.settings
    }

    fn pid(&self) -> Option<u32> {
        Some(self.process.pid())
    }

    async fn create(&self, topics: &[String], spec: &Spec) -> anyhow::Result<()> {
        let context = self.connect().await?;
        // One stream with many subjects is what its documentation advises.
        if topics.len() > 1 && spec.kind == Kind::Publish {
            let config = stream::Config {
                name: "bench".to_owned(),
                subjects: vec!["bench.*".to_owned()],
                storage: StorageType::File,
                ..stream::Config::default()
            };
            context.create_stream(config).await?;
            return Ok(());
        }
        for topic in topics {
            let config = stream::Config {
                name: topic.clone(),
                subjects: match spec.partitions {
                    1 => vec![subject(topic)],
                    _ => vec![format!("{}.*", subject(topic))],
                },
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
        }
        Ok(())
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        self.process.restart()
    }

    async fn producer(&self, topics: &[String], spec: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        Ok(Box::new(Publisher {
            subjects: topics.iter().map(|topic| subject(topic)).collect(),
            partitions: u64::from(spec.partitions),
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
        let consumer: PullConsumer = consumer.map_err(|error| anyhow::anyhow!("{error}"))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(spec.window.min(FETCH_COUNT))
            .messages()
            .await?;
        Ok(Box::new(Member {
            messages,
            ack: spec.ack,
            unacked: Vec::new(),
        }))
    }
}

/// What a topic is called where names have parts.
fn subject(topic: &str) -> String {
    topic.replace('-', ".")
}

struct Publisher {
    subjects: Vec<String>,
    /// Each a subject below that of its topic, by the keys of events.
    partitions: u64,
    context: jetstream::Context,
}

#[async_trait]
impl Producer for Publisher {
    async fn send(&mut self, topic: usize, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let mut acks = Vec::with_capacity(batch.len());
        for message in batch {
            let subject = match message.key {
                Some(key) if self.partitions > 1 => {
                    format!("{}.{}", self.subjects[topic], key % self.partitions)
                }
                _ => self.subjects[topic].clone(),
            };
            let ack = self.context.publish(subject, message.payload).await?;
            // Spawned, because the client lets no more than so many wait that
            // nobody asks for.
            acks.push(tokio::spawn(ack.into_future()));
        }
        Ok(Box::pin(async move {
            for ack in try_join_all(acks).await? {
                ack?;
            }
            Ok(())
        }))
    }
}

struct Member {
    messages: pull::Stream,
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
        let mut payloads = Vec::new();
        let mut next = self.messages.next().await;
        // What has come is handed on as soon as nothing more is at hand.
        while let Some(message) = next {
            let message = message.map_err(|error| anyhow::anyhow!("{error}"))?;
            payloads.push(message.payload.clone());
            self.unacked.push(message);
            if payloads.len() == FETCH_COUNT {
                break;
            }
            next = self.messages.next().now_or_never().flatten();
        }
        anyhow::ensure!(!payloads.is_empty(), "the stream has ended");
        Ok(payloads)
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        self.acknowledge().await?;
        Ok(())
    }
}
