//! How much memory topics may take, each and together, and who gives way.

use std::collections::{BTreeMap, HashMap};

use sluice_proto::{PartitionId, TopicId};

use crate::commit::record::Source;

/// Counts the chunks of all memory topics. What does not fit drives out the
/// oldest of its topic, and then the oldest of all.
#[derive(Debug)]
pub(in crate::commit) struct Room {
    topic_bytes_max: usize,
    bytes_max: usize,
    bytes: usize,
    /// Chunks in the order in which they came.
    order: BTreeMap<u64, TopicId>,
    topics: HashMap<TopicId, OfTopic>,
    next: u64,
}

#[derive(Debug, Default)]
struct OfTopic {
    bytes: usize,
    order: BTreeMap<u64, (PartitionId, usize)>,
}

impl Room {
    /// No chunks; `topic_bytes_max` for each topic, `bytes_max` for all.
    pub(in crate::commit) fn new(topic_bytes_max: usize, bytes_max: usize) -> Self {
        Self {
            topic_bytes_max,
            bytes_max,
            bytes: 0,
            order: BTreeMap::new(),
            topics: HashMap::new(),
            next: 0,
        }
    }

    /// Takes room for a chunk that comes to `target`. Returns the partitions that
    /// must drop their oldest chunk before, each as often as it is named.
    pub(in crate::commit) fn take(&mut self, target: Source, bytes: usize) -> Vec<Source> {
        let mut dropped = Vec::new();
        while self.topic_bytes(target.topic) + bytes > self.topic_bytes_max
            && let Some(partition) = self.drop_oldest_of(target.topic)
        {
            dropped.push(partition);
        }
        while self.bytes + bytes > self.bytes_max
            && let Some((_, oldest)) = self.order.first_key_value()
            && let Some(partition) = self.drop_oldest_of(*oldest)
        {
            dropped.push(partition);
        }
        let topic = self.topics.entry(target.topic).or_default();
        topic.order.insert(self.next, (target.partition, bytes));
        topic.bytes += bytes;
        self.order.insert(self.next, target.topic);
        self.bytes += bytes;
        self.next += 1;
        dropped
    }

    fn topic_bytes(&self, topic: TopicId) -> usize {
        self.topics.get(&topic).map_or(0, |topic| topic.bytes)
    }

    fn drop_oldest_of(&mut self, topic: TopicId) -> Option<Source> {
        let of = self.topics.get_mut(&topic)?;
        let (number, (partition, bytes)) = of.order.pop_first()?;
        of.bytes -= bytes;
        self.bytes -= bytes;
        self.order.remove(&number);
        Some(Source { topic, partition })
    }

    /// A topic is gone, with all that it had.
    pub(in crate::commit) fn forget(&mut self, topic: TopicId) {
        let Some(of) = self.topics.remove(&topic) else {
            return;
        };
        self.bytes -= of.bytes;
        for number in of.order.keys() {
            self.order.remove(number);
        }
    }

    /// What all chunks take.
    #[cfg(test)]
    pub(in crate::commit) fn bytes(&self) -> usize {
        self.bytes
    }
}
