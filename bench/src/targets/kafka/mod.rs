//! Kafka (<https://kafka.apache.org/documentation>), with two clients. rskafka sends and
//! gets batches as they are, and is the faster one where there are few partitions, but
//! has a connection for each. librdkafka takes event by event over one connection, and
//! commits the offsets of groups.

mod few;
mod groups;
mod many;
mod server;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

pub(super) use self::server::version;
use self::{groups::Groups, server::Node};
use super::{
    address::Address,
    partitions::{self, Members},
    peer::PeerProcess,
};
use crate::load::{
    target::{Consumer, Message, Producer, Target},
    workload::Spec,
};

/// Events go to and fro for so long before a load begins: a virtual machine that
/// has just started interprets what it will have compiled soon.
const WARM_UP: Duration = Duration::from_secs(4);
const WARM_UP_TOPIC: &str = "sluice-bench-warm-up";
/// Longest wait for topics that are made or removed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, and how to talk to it.
pub(crate) struct Kafka {
    /// `None` if somebody else has started it.
    process: Option<PeerProcess>,
    address: Address,
    settings: String,
    is_warm: AtomicBool,
    members: Members,
    groups: Groups,
}

impl Kafka {
    /// Starts a node that syncs each batch before it acks, or leaves that to the
    /// operating system, which is its default.
    pub(crate) fn start(dir: tempfile::TempDir, synced: bool) -> anyhow::Result<Self> {
        let node = Node::start(dir, synced)?;
        let address = Address::of_loopback(node.port);
        Ok(Self::of(Some(node.process), address, &node.settings))
    }

    /// One that somebody else has started.
    pub(crate) fn at(address: Address) -> Self {
        let settings = format!("a server at {address}");
        Self::of(None, address, &settings)
    }

    fn of(process: Option<PeerProcess>, address: Address, settings: &str) -> Self {
        Self {
            process,
            settings: format!(
                "{settings}, acks all; published by rskafka, by librdkafka to many topics or \
                 partitions; a partition for each member of a group, an offset committed every \
                 {} events; after {} s of warm-up",
                groups::EVENTS_PER_COMMIT,
                WARM_UP.as_secs()
            ),
            groups: Groups::new(config(&address)),
            address,
            is_warm: AtomicBool::new(false),
            members: Members::default(),
        }
    }

    /// Publishes and reads for a while, so that what runs often is compiled.
    async fn warm_up(&self, spec: &Spec) -> anyhow::Result<()> {
        let spec = &Spec {
            topics: 1,
            partitions: 1,
            members: 1,
            ..spec.clone()
        };
        let topics = [WARM_UP_TOPIC.to_owned()];
        self.make(&topics, 1).await?;
        let until = Instant::now() + WARM_UP;
        let mut reader = self.consumer(WARM_UP_TOPIC, 0, spec).await?;
        let mut producer = self.producer(&topics, spec).await?;
        while Instant::now() < until {
            let message = Message {
                payload: Bytes::from_static(&[0; 1024]),
                is_json: false,
                key: None,
                label: None,
            };
            producer.send(0, vec![message]).await?.await?;
            reader.next().await?;
        }
        reader.finish().await?;
        self.unmake(&topics).await
    }

    fn admin(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        Ok(config(&self.address).create()?)
    }

    async fn make(&self, topics: &[String], partitions: u32) -> anyhow::Result<()> {
        let topics: Vec<_> = topics
            .iter()
            .map(|topic| NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(1)))
            .collect();
        let results = self.admin()?.create_topics(&topics, &patiently()).await?;
        let mut made = Vec::new();
        let mut refused = None;
        for result in results {
            match result {
                Ok(topic) => made.push(topic),
                Err((topic, code)) => refused = Some(format!("{topic} is not made: {code}")),
            }
        }
        let Some(refused) = refused else {
            return Ok(());
        };
        if !made.is_empty() {
            self.unmake(&made).await?;
        }
        anyhow::bail!(refused)
    }

    async fn unmake(&self, topics: &[String]) -> anyhow::Result<()> {
        let names: Vec<_> = topics.iter().map(String::as_str).collect();
        let results = self.admin()?.delete_topics(&names, &patiently()).await?;
        for result in results {
            if let Err((topic, code)) = result {
                anyhow::bail!("{topic} is not removed: {code}");
            }
        }
        Ok(())
    }
}

fn config(address: &Address) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", address.to_string())
        .set("socket.nagle.disable", "true");
    config
}

/// Whether events go to many partitions, and nobody reads them.
fn has_many(spec: &Spec) -> bool {
    spec.topics > 1 || spec.partitions > 1
}

fn patiently() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE))
}

#[async_trait]
impl Target for Kafka {
    fn settings(&self) -> &str {
        &self.settings
    }

    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(PeerProcess::pid)
    }

    async fn create(&self, topics: &[String], spec: &Spec) -> anyhow::Result<()> {
        if !self.is_warm.load(Ordering::Relaxed) {
            self.warm_up(spec).await?;
            self.is_warm.store(true, Ordering::Relaxed);
        }
        self.members.clear();
        self.make(topics, partitions::of_each(spec)).await?;
        if has_many(spec) {
            let publisher = many::Publisher::new(&config(&self.address), topics, spec)?;
            publisher.touch(WARM_UP).await?;
        }
        if spec.kind.reads() {
            self.groups.know(spec.groups, &topics[0]).await?;
        }
        Ok(())
    }

    async fn remove(&self, topics: &[String], _: &Spec) -> anyhow::Result<()> {
        self.unmake(topics).await
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        let process = self.process.as_ref();
        process.context("it is not the bench's to kill")?.restart()
    }

    async fn producer(&self, topics: &[String], spec: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        if has_many(spec) {
            let publisher = many::Publisher::new(&config(&self.address), topics, spec)?;
            return Ok(Box::new(publisher));
        }
        let publisher = few::Publisher::open(&self.address, topics, spec).await?;
        Ok(Box::new(publisher))
    }

    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        spec: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>> {
        let partition = self.members.join(topic, group, spec);
        let offsets = self.groups.offsets(group, topic, partition)?;
        let reader = few::Reader::open(&self.address, topic, partition, offsets).await?;
        Ok(Box::new(reader))
    }
}
