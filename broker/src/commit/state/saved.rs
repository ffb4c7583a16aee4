//! The state as entities for the view, and back.

use std::collections::BTreeMap;

use prost::Message;
use sluice_proto::{Offset, PartitionId};

use super::{Epoch, Epochs, LoadError, State};
use crate::{
    commit::{
        epochs::EpochStart,
        record::{AttemptFailed, GroupCreated, LeaseNoted, TopicCreated},
        saved_window,
    },
    view::{Digest, EntityKey},
};

impl State {
    /// What has changed since the last call, each with its value as it is now
    /// (`None`: it is gone).
    pub fn take_changes(&mut self) -> Vec<(EntityKey, Option<Vec<u8>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut changes: Vec<_> = dirty.into_iter().map(|key| (key, self.save(key))).collect();
        changes.push((EntityKey::Counters, self.save(EntityKey::Counters)));
        changes
    }

    /// Whether anything has changed since the last [`State::take_changes`].
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Everything there is, for comparing two states.
    #[must_use]
    pub fn entities(&self) -> BTreeMap<EntityKey, Vec<u8>> {
        let mut keys = vec![EntityKey::Counters];
        for (id, topic) in &self.topics {
            keys.push(EntityKey::Topic(*id));
            let partitions = 0..topic.definition.partitions;
            keys.extend(partitions.map(|p| EntityKey::Partition(*id, PartitionId(p))));
        }
        for (id, group) in &self.groups {
            keys.push(EntityKey::Group(*id));
            for (source, state) in &group.sources {
                keys.push(EntityKey::Window(*id, *source));
                let attempts = state.attempts.keys();
                keys.extend(attempts.map(|o| EntityKey::Attempts(*id, *source, *o)));
                let leases = state.leases.keys();
                keys.extend(leases.map(|o| EntityKey::Lease(*id, *source, *o)));
            }
        }
        keys.extend(self.producers.ids().map(EntityKey::Producer));
        keys.into_iter()
            .filter_map(|key| Some((key, self.save(key)?)))
            .collect()
    }

    /// Equal for states that say the same. The epoch and the time of the
    /// last frame do not count: a start and a checkpoint move them on.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for (key, value) in self.entities() {
            if key != EntityKey::Counters {
                digest.add(key, &value);
            }
        }
        digest.add(EntityKey::Counters, &self.last_id.to_le_bytes());
        digest
    }

    fn save(&self, key: EntityKey) -> Option<Vec<u8>> {
        let source_state = |group, source| self.groups.get(&group)?.sources.get(&source);
        match key {
            EntityKey::Counters => Some(
                SavedCounters {
                    epoch: self.epoch.0,
                    time_ms: self.time_ms,
                    last_id: self.last_id,
                    retention_ms: self.retention_ms,
                }
                .encode_to_vec(),
            ),
            EntityKey::Topic(id) => Some(self.topics.get(&id)?.definition.encode_to_vec()),
            EntityKey::Partition(topic, partition) => {
                let topic = self.topics.get(&topic)?;
                let state = topic.partitions.get(partition.0 as usize)?;
                let saved = SavedPartition {
                    next_offset: state.next_offset.0,
                    last_append_ms: state.last_append_ms,
                    epochs: topic
                        .epochs
                        .get(&partition)
                        .map_or_else(Vec::new, |epochs| epochs.starts().to_vec()),
                    start_offset: state.start_offset.0,
                    bytes: state.bytes,
                };
                Some(saved.encode_to_vec())
            }
            EntityKey::Group(id) => Some(self.groups.get(&id)?.definition.encode_to_vec()),
            EntityKey::Window(group, source) => {
                source_state(group, source).map(|s| saved_window::encode(&s.window))
            }
            EntityKey::Attempts(group, source, offset) => {
                let attempts = source_state(group, source)?.attempts.get(&offset)?.clone();
                Some(SavedAttempts { attempts }.encode_to_vec())
            }
            EntityKey::Lease(group, source, offset) => {
                let lease = source_state(group, source)?.leases.get(&offset)?;
                Some(lease.encode_to_vec())
            }
            EntityKey::Producer(id) => self.producers.save(id),
            // Not part of the state: it depends on where frames are.
            EntityKey::Segment(_) => None,
        }
    }

    /// Takes back one entity that [`State::take_changes`] gave. Entities come in
    /// the order of their keys, which puts topics before partitions and groups
    /// before their windows.
    ///
    /// # Errors
    /// When the bytes are not such.
    pub fn load(&mut self, key: EntityKey, bytes: &[u8]) -> Result<(), LoadError> {
        self.try_load(key, bytes)
            .map_err(|reason| LoadError { key, reason })?;
        // Applying a definition marks it as changed, which it is not.
        self.dirty.clear();
        Ok(())
    }

    fn try_load(&mut self, key: EntityKey, bytes: &[u8]) -> Result<(), String> {
        fn text(error: impl std::fmt::Display) -> String {
            error.to_string()
        }
        match key {
            EntityKey::Counters => {
                let saved = SavedCounters::decode(bytes).map_err(text)?;
                self.epoch = Epoch(saved.epoch);
                self.time_ms = saved.time_ms;
                self.last_id = self.last_id.max(saved.last_id);
                self.retention_ms = self.retention_ms.max(saved.retention_ms);
            }
            EntityKey::Topic(_) => {
                let created = TopicCreated::decode(bytes).map_err(text)?;
                self.topic_created(&created).map_err(text)?;
            }
            EntityKey::Partition(topic, partition) => {
                let saved = SavedPartition::decode(bytes).map_err(text)?;
                let missing = "its topic is missing";
                let topic = self.topics.get_mut(&topic).ok_or(missing)?;
                let state = topic.partitions.get_mut(partition.0 as usize);
                let state = state.ok_or(missing)?;
                if !saved.epochs.is_empty() {
                    let epochs = Epochs::from_starts(saved.epochs);
                    topic.epochs.insert(partition, epochs);
                }
                state.next_offset = Offset(saved.next_offset);
                state.last_append_ms = saved.last_append_ms;
                state.start_offset = Offset(saved.start_offset);
                state.bytes = saved.bytes;
            }
            EntityKey::Group(_) => {
                let created = GroupCreated::decode(bytes).map_err(text)?;
                self.group_created(&created).map_err(text)?;
            }
            EntityKey::Window(group, source) => {
                self.source_mut(group, source).map_err(text)?.window =
                    saved_window::decode(bytes).map_err(text)?;
            }
            EntityKey::Attempts(group, source, offset) => {
                let saved = SavedAttempts::decode(bytes).map_err(text)?;
                let state = self.source_mut(group, source).map_err(text)?;
                state.attempts.insert(offset, saved.attempts);
            }
            EntityKey::Lease(group, source, offset) => {
                let lease = LeaseNoted::decode(bytes).map_err(text)?;
                let state = self.source_mut(group, source).map_err(text)?;
                state.leases.insert(offset, lease);
            }
            EntityKey::Producer(id) => self.producers.load(id, bytes).map_err(text)?,
            EntityKey::Segment(_) => return Err("it is no part of the state".into()),
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct SavedCounters {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    time_ms: u64,
    #[prost(uint64, tag = "3")]
    last_id: u64,
    #[prost(uint64, tag = "4")]
    retention_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct SavedPartition {
    #[prost(uint64, tag = "1")]
    next_offset: u64,
    #[prost(uint64, tag = "2")]
    last_append_ms: u64,
    #[prost(uint64, tag = "3")]
    start_offset: u64,
    #[prost(uint64, tag = "4")]
    bytes: u64,
    #[prost(message, repeated, tag = "10")]
    epochs: Vec<EpochStart>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct SavedAttempts {
    #[prost(message, repeated, tag = "1")]
    attempts: Vec<AttemptFailed>,
}
