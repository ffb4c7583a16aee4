//! Sluice itself, over the API as any client would.

use std::{ffi::OsStr, net::SocketAddr, path::Path, time::Instant};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use sluice_proto::{
    event::EventRef,
    pb::{self, admin_service_client::AdminServiceClient},
    wire,
};

use crate::{
    api::{
        connect,
        member::{self, Came, Member},
        publisher::Publisher,
    },
    events,
    load::{
        target::{Acked, Consumer, Message, Producer, Target},
        workload::{Ack, Channel, Spec},
    },
    process::ServerProcess,
};

/// A broker over a folder of its own.
pub(crate) struct Sluice {
    process: ServerProcess,
    /// Of all topics, whatever the load says.
    channel: Option<Channel>,
    settings: String,
    /// Bytes that topics keep in each partition; 0 for all.
    keep_bytes: i64,
    dir: tempfile::TempDir,
}

impl Sluice {
    /// With a channel for all topics; without one, loads say it, and most say
    /// fsync.
    pub(crate) fn start(dir: tempfile::TempDir, channel: Option<Channel>) -> anyhow::Result<Self> {
        Self::start_with(dir, channel, 0, &[])
    }

    /// As [`Sluice::start`], with limits as NAME=VALUE, and topics that keep so
    /// many bytes in each partition.
    pub(crate) fn start_with(
        dir: tempfile::TempDir,
        channel: Option<Channel>,
        keep_bytes: i64,
        limits: &[&str],
    ) -> anyhow::Result<Self> {
        let mut args: Vec<&OsStr> = vec!["broker".as_ref(), dir.path().as_os_str()];
        args.extend(limits.iter().map(OsStr::new));
        let others = match limits {
            [] => "every default".to_owned(),
            some => some.join(", "),
        };
        Ok(Self {
            process: ServerProcess::start(&args)?,
            channel,
            settings: format!("{}, {others}", env!("CARGO_PKG_VERSION")),
            keep_bytes,
            dir,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.process.addr()
    }

    pub(crate) fn process(&self) -> &ServerProcess {
        &self.process
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) async fn admin(
        &self,
    ) -> anyhow::Result<AdminServiceClient<tonic::transport::Channel>> {
        Ok(AdminServiceClient::new(connect(self.addr()).await?))
    }

    /// Makes a topic of one partition, which keeps so many bytes; 0 for all.
    pub(crate) async fn create_topic(&self, topic: &str, keep_bytes: i64) -> anyhow::Result<()> {
        let request = pb::CreateTopicRequest {
            topic: topic.to_owned(),
            config: Some(pb::TopicConfig {
                partitions: 1,
                retention: Some(retention(keep_bytes)),
                ..pb::TopicConfig::default()
            }),
        };
        self.admin().await?.create_topic(request).await?;
        Ok(())
    }
}

#[async_trait]
impl Target for Sluice {
    fn settings(&self) -> &str {
        &self.settings
    }

    fn pid(&self) -> Option<u32> {
        Some(self.process.pid())
    }

    async fn create(&self, topics: &[String], spec: &Spec) -> anyhow::Result<()> {
        let mut admin = self.admin().await?;
        let channel = match self.channel.unwrap_or(spec.channel) {
            Channel::Fsync => pb::Channel::Fsync,
            Channel::Buffered => pb::Channel::Buffered,
            Channel::Memory => pb::Channel::Memory,
        };
        for topic in topics {
            let config = pb::TopicConfig {
                partitions: spec.partitions as i32,
                channel: channel.into(),
                retention: Some(retention(self.keep_bytes)),
            };
            let request = pb::CreateTopicRequest {
                topic: topic.clone(),
                config: Some(config),
            };
            admin.create_topic(request).await?;
            for group in 0..spec.groups {
                let ordering = if spec.keys > 0 {
                    pb::Ordering::Key
                } else {
                    pb::Ordering::None
                };
                let config = pb::GroupConfig {
                    ordering: ordering.into(),
                    max_in_flight: 100_000,
                    filter: spec.filter_of_groups().to_owned(),
                    ..pb::GroupConfig::default()
                };
                let request = pb::CreateGroupRequest {
                    topic: topic.clone(),
                    group: name_of(group),
                    config: Some(config),
                };
                admin.create_group(request).await?;
            }
        }
        Ok(())
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        self.process.restart()
    }

    async fn producer(&self, topics: &[String], _: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        Ok(Box::new(EventPublisher {
            topics: topics.to_vec(),
            publisher: Publisher::open(self.process.addr()).await?,
            encoded: None,
        }))
    }

    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        spec: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>> {
        let addr = self.process.addr();
        let window = spec.window as i64;
        // Each event is acked by itself in the log; a batch of acks travels
        // together in one message either way.
        let (Ack::Event | Ack::Batch) = spec.ack;
        Ok(Box::new(Worker {
            member: Member::join(addr, topic, &name_of(group), "bench", window).await?,
            unsettled: Vec::new(),
            settled: 0,
        }))
    }
}

fn retention(max_bytes: i64) -> pb::Retention {
    pb::Retention {
        max_bytes,
        ..pb::Retention::default()
    }
}

fn name_of(group: usize) -> String {
    format!("group-{group}")
}

/// Makes events of messages; also for the bare path, which has the same API.
pub(super) struct EventPublisher {
    pub(super) topics: Vec<String>,
    pub(super) publisher: Publisher,
    /// The payload that was encoded last, and its event.
    pub(super) encoded: Option<(Bytes, Bytes)>,
}

impl EventPublisher {
    fn event(&mut self, message: Message) -> Bytes {
        let plain = message.key.is_none() && message.label.is_none();
        if plain
            && let Some((payload, event)) = &self.encoded
            && payload.as_ptr() == message.payload.as_ptr()
        {
            return event.clone();
        }
        let mut event = events::bare_event();
        event.data = message.payload.clone();
        if message.is_json {
            event.data_content_type = "application/json".into();
        }
        let key = message.key.map(|key| format!("key-{key}"));
        let label = message.label.map(|label| label.to_string());
        let attributes = [("partitionkey", key), ("label", label)];
        for (name, value) in attributes {
            event
                .attributes
                .extend(value.map(|value| (name.to_owned(), value)));
        }
        let event = Bytes::from(event.encode_to_vec());
        if plain {
            self.encoded = Some((message.payload, event.clone()));
        }
        event
    }
}

#[async_trait]
impl Producer for EventPublisher {
    async fn send(&mut self, topic: usize, batch: Vec<Message>) -> anyhow::Result<Acked> {
        let events = batch.into_iter().map(|message| self.event(message));
        let events = events.collect();
        let acked = self.publisher.send(&self.topics[topic], events).await?;
        Ok(Box::pin(acked))
    }
}

struct Worker {
    member: Member,
    unsettled: Vec<wire::Settlement>,
    /// The number of the settlements that were confirmed last.
    settled: i64,
}

impl Worker {
    async fn settle(&mut self) -> anyhow::Result<()> {
        if !self.unsettled.is_empty() {
            self.member.settle(&mut self.unsettled).await?;
        }
        Ok(())
    }

    /// The next payloads; none when settlements were confirmed.
    async fn receive(&mut self) -> anyhow::Result<Vec<Bytes>> {
        match self.member.next().await?.context("the stream has ended")? {
            Came::Deliveries(deliveries) => {
                let mut payloads = Vec::with_capacity(deliveries.len());
                for delivery in deliveries {
                    let event = EventRef::read(&delivery.event)?;
                    payloads.push(delivery.event.slice_ref(event.data()));
                    self.unsettled.push(member::ack(delivery.lease));
                }
                Ok(payloads)
            }
            Came::Settled(number) => {
                self.settled = self.settled.max(number);
                Ok(Vec::new())
            }
        }
    }
}

#[async_trait]
impl Consumer for Worker {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
        self.settle().await?;
        loop {
            let payloads = self.receive().await?;
            if !payloads.is_empty() {
                return Ok(payloads);
            }
        }
    }

    async fn finish(&mut self) -> anyhow::Result<()> {
        self.settle().await?;
        while self.settled < self.member.last_number() {
            let late = self.receive().await?;
            anyhow::ensure!(late.is_empty(), "{} events too many", late.len());
        }
        Ok(())
    }
}
