//! What the bench asks of a broker, so that the same load runs on each.

#[cfg(any(feature = "nats", feature = "redis"))]
use std::time::Duration;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::workload::Spec;

/// How long a client waits for an answer, where it has such a limit: slow brokers
/// are to be measured, not given up.
#[cfg(any(feature = "nats", feature = "redis"))]
pub(crate) const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs, with what is needed to talk to it.
#[async_trait]
pub(crate) trait Target: Send + Sync {
    /// Version, and what was set otherwise than by default.
    fn settings(&self) -> &str;
    /// The server's process; `None` if somebody else has started it.
    fn pid(&self) -> Option<u32>;
    /// Makes the topics and the groups of a load, new ones.
    async fn create(&self, topics: &[String], spec: &Spec) -> anyhow::Result<()>;
    /// Removes what was made, so that another load can make its own; nothing where
    /// each load has a server of its own.
    async fn remove(&self, _topics: &[String], _spec: &Spec) -> anyhow::Result<()> {
        Ok(())
    }
    /// Kills the server and starts it again over what it has written; tells when
    /// it was started.
    async fn restart(&self) -> anyhow::Result<Instant>;
    /// Somebody who publishes, on a connection of its own.
    async fn producer(&self, topics: &[String], spec: &Spec) -> anyhow::Result<Box<dyn Producer>>;
    /// A member of a group, on a connection of its own.
    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        spec: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>>;
}

/// Where an event is when it is acked. Only brokers that say the same compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AckedWhen {
    /// On the disk: it survives a power cut.
    Synced,
    /// With the operating system: it survives a killed process.
    Written,
    /// In the server's memory.
    InMemory,
}

impl AckedWhen {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Written => "written",
            Self::InMemory => "in memory",
        }
    }
}

/// One event to publish.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) payload: Bytes,
    pub(crate) is_json: bool,
    pub(crate) key: Option<u64>,
    pub(crate) label: Option<u64>,
}

/// Is done when the broker has acked.
pub(crate) type Acked = BoxFuture<'static, anyhow::Result<()>>;

#[async_trait]
pub(crate) trait Producer: Send {
    /// Sends a batch, or begins to, to one of the topics that it was made for.
    async fn send(&mut self, topic: usize, batch: Vec<Message>) -> anyhow::Result<Acked>;
}

#[async_trait]
pub(crate) trait Consumer: Send {
    /// The payloads that came next, when there are any. What was given before is
    /// acked with this call, in the way that the load says.
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>>;
    /// Acks what was given last, and waits until the broker has confirmed all
    /// acks, where it does that.
    async fn finish(&mut self) -> anyhow::Result<()>;
}
