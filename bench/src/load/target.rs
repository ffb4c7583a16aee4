//! What the bench asks of a broker, so that the same load runs on each.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::workload::Spec;

/// A server that runs, with what is needed to talk to it.
#[async_trait]
pub(crate) trait Target: Send + Sync {
    /// For tables, for example `redis, appendfsync always`.
    fn name(&self) -> &str;
    /// Version, and what was set otherwise than by default.
    fn settings(&self) -> &str;
    /// The server's process.
    fn pid(&self) -> u32;
    /// Makes the topic and the groups of a load, new ones.
    async fn create(&self, topic: &str, spec: &Spec) -> anyhow::Result<()>;
    /// Somebody who publishes, on a connection of its own.
    async fn producer(&self, topic: &str) -> anyhow::Result<Box<dyn Producer>>;
    /// A member of a group, on a connection of its own.
    async fn consumer(
        &self,
        topic: &str,
        group: usize,
        spec: &Spec,
    ) -> anyhow::Result<Box<dyn Consumer>>;
}

/// One event to publish.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) payload: Bytes,
    pub(crate) key: Option<u64>,
}

/// Is done when the broker has acked.
pub(crate) type Acked = BoxFuture<'static, anyhow::Result<()>>;

#[async_trait]
pub(crate) trait Producer: Send {
    /// Sends a batch, or begins to.
    async fn send(&mut self, batch: Vec<Message>) -> anyhow::Result<Acked>;
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
