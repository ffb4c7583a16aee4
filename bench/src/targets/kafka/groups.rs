//! Groups whose offsets the server keeps. Partitions are given to members by the bench,
//! so that nobody waits for others to join.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};

/// Events after which an offset is committed.
pub(super) const EVENTS_PER_COMMIT: i64 = 1000;
/// Longest wait for a commit, after a start of the server too.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pause after which a server that refused is asked again.
const UNREADY: Duration = Duration::from_millis(20);

/// A client for each group, for as long as the server is used: one takes seconds to
/// find the coordinator of its group.
pub(super) struct Groups {
    config: ClientConfig,
    clients: Mutex<HashMap<usize, Arc<BaseConsumer>>>,
}

/// How far a member is in its partition.
pub(super) struct Offsets {
    client: Arc<BaseConsumer>,
    topic: String,
    partition: i32,
    committed: i64,
}

impl Groups {
    pub(super) fn new(config: ClientConfig) -> Self {
        Self {
            config,
            clients: Mutex::default(),
        }
    }

    /// Finds the coordinators of the first groups, by an offset of a topic.
    pub(super) async fn know(&self, groups: usize, topic: &str) -> anyhow::Result<()> {
        for group in 0..groups {
            let is_known = self.clients().contains_key(&group);
            if !is_known {
                let mut offsets = self.offsets(group, topic, 0)?;
                offsets.commit_and_wait(0).await?;
            }
        }
        Ok(())
    }

    /// Those of a member that begins.
    pub(super) fn offsets(
        &self,
        group: usize,
        topic: &str,
        partition: u32,
    ) -> anyhow::Result<Offsets> {
        let mut clients = self.clients();
        let client = match clients.get(&group) {
            Some(client) => client.clone(),
            None => {
                let mut config = self.config.clone();
                config
                    .set("group.id", format!("sluice-bench-{group}"))
                    .set("enable.auto.commit", "false");
                let client: Arc<BaseConsumer> = Arc::new(config.create()?);
                clients.insert(group, client.clone());
                client
            }
        };
        Ok(Offsets {
            client,
            topic: topic.to_owned(),
            partition: partition as i32,
            committed: 0,
        })
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Arc<BaseConsumer>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Offsets {
    /// The member has done all before an offset, which is committed now and then.
    pub(super) fn done(&mut self, next: i64) -> anyhow::Result<()> {
        if next - self.committed >= EVENTS_PER_COMMIT {
            self.client.commit(&self.list(next)?, CommitMode::Async)?;
            self.committed = next;
        }
        Ok(())
    }

    /// Commits an offset, and waits until the server has confirmed it.
    pub(super) async fn commit_and_wait(&mut self, next: i64) -> anyhow::Result<()> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let (client, offsets) = (self.client.clone(), self.list(next)?);
            let commit = move || client.commit(&offsets, CommitMode::Sync);
            match tokio::task::spawn_blocking(commit).await? {
                Ok(()) => break,
                Err(error) if Instant::now() > give_up => {
                    return Err(error).context("the offset is not committed");
                }
                Err(_) => tokio::time::sleep(UNREADY).await,
            }
        }
        self.committed = next;
        Ok(())
    }

    fn list(&self, next: i64) -> anyhow::Result<TopicPartitionList> {
        let mut offsets = TopicPartitionList::new();
        let next = Offset::Offset(next);
        offsets.add_partition_offset(&self.topic, self.partition, next)?;
        Ok(offsets)
    }
}
