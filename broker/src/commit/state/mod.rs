//! What the log says, folded: topics, groups, next offsets, producer sessions,
//! and what each group has settled.
//!
//! [`State::apply`] reads nothing but the frame and the state, so that replaying
//! the log gives the same state again, on this machine or another.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sluice_proto::{
    Epoch, GroupId, GroupName, Offset, PartitionId, ProducerId, TopicId, TopicName,
};

mod group_changed;
mod kept;
mod saved;

pub use self::kept::Placed;
pub(super) use self::kept::{Applied, Kept};
use super::{
    ack_window::AckWindow,
    epochs::Epochs,
    producers::{Appended, Producers},
    record::{
        Append, AttemptFailed, Channel, Frame, GroupCreated, LeaseNoted, Record, Settle, Source,
        TopicCreated,
    },
};
use crate::view::EntityKey;

/// How many failed attempts of one event are remembered, the latest ones.
pub const ATTEMPTS_REMEMBERED: usize = 16;

/// Everything that the log says.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The current epoch.
    pub epoch: Epoch,
    /// Time of the last frame, milliseconds since 1970.
    pub time_ms: u64,
    /// The highest id given to a topic, group or producer; ids begin at 1.
    last_id: u64,
    /// The time by which events grow old, as far as it was noted; 0 when it was not.
    pub retention_ms: u64,
    topics: BTreeMap<TopicId, TopicState>,
    topic_names: HashMap<TopicName, TopicId>,
    groups: BTreeMap<GroupId, GroupState>,
    group_names: HashMap<(TopicId, GroupName), GroupId>,
    /// Producer sessions.
    pub producers: Producers,
    /// What has changed since the last checkpoint.
    dirty: BTreeSet<EntityKey>,
}

/// A topic and its next offsets.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicState {
    /// As it was created, with the retention that it has now.
    pub definition: TopicCreated,
    /// By partition: where it begins and ends.
    pub partitions: Vec<PartitionState>,
    /// By partition of a buffered topic: in which epochs it was appended to.
    pub epochs: BTreeMap<PartitionId, Epochs>,
}

/// Both ends of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// The first offset that is still there, or would be.
    pub start_offset: Offset,
    /// About the bytes of its events, notes counted in.
    pub bytes: u64,
    /// The offset that the next event gets.
    pub next_offset: Offset,
    /// Time of the last append, milliseconds since 1970; 0 when there was none.
    pub last_append_ms: u64,
}

/// A group and what it has settled.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupState {
    /// As it was created.
    pub definition: GroupCreated,
    /// By source.
    pub sources: BTreeMap<Source, SourceState>,
}

/// What a group has settled of one source, and what is known of the rest.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceState {
    /// What is settled.
    pub window: AckWindow,
    /// Failed attempts of events that are not settled, oldest first.
    pub attempts: BTreeMap<Offset, Vec<AttemptFailed>>,
    /// Leases that outlasted a moment, of events that are not settled.
    pub leases: BTreeMap<Offset, LeaseNoted>,
}

/// A frame that contradicts what came before it: the log is damaged, or was
/// written by a broker with a fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A record refers to a topic or partition that does not exist.
    #[error("it refers to partition {1} of topic {0}, which does not exist")]
    NoPartition(TopicId, PartitionId),
    /// A record refers to a group or source that does not exist.
    #[error("it refers to a source of group {0} that does not exist")]
    NoGroup(GroupId),
    /// Events do not follow those before them.
    #[error("it appends at offset {found} of topic {topic}, where {expected} is next")]
    Gap {
        /// The topic.
        topic: TopicId,
        /// The offset that is next.
        expected: Offset,
        /// The record's.
        found: Offset,
    },
    /// An id or name is in use.
    #[error("it creates {0} a second time")]
    Twice(String),
}

/// A stored entity of the view does not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key:?} of the view does not decode: {reason}")]
pub struct LoadError {
    key: EntityKey,
    reason: String,
}

impl State {
    /// Folds one frame in, and says what it put where, and what is gone by it.
    ///
    /// # Errors
    /// When the frame contradicts the state. The state is then undefined and
    /// must not be used.
    pub fn apply(&mut self, frame: &Frame) -> Result<Applied, ApplyError> {
        self.time_ms = self.time_ms.max(frame.time_ms);
        let mut applied = Applied::default();
        for record in &frame.records {
            match record {
                Record::Append(append) => {
                    let (appended, kept) = self.append(append, frame.time_ms)?;
                    applied.placed.push(Placed::appended(append, frame.time_ms));
                    applied.appended.push(appended);
                    applied.kept.push(kept);
                }
                Record::Settle(settle) => {
                    self.settle(settle)?;
                    applied.kept.extend(self.trim_own(settle));
                }
                Record::AttemptFailed(failed) => self.attempt_failed(failed)?,
                Record::LeaseNoted(lease) => self.lease_noted(lease)?,
                Record::TopicCreated(topic) => self.topic_created(topic)?,
                Record::TopicDeleted(topic) => self.topic_deleted(TopicId(topic.topic))?,
                Record::GroupCreated(group) => self.group_created(group)?,
                Record::GroupDeleted(group) => self.group_deleted(GroupId(group.group))?,
                Record::GroupChanged(changed) => self.group_changed(changed)?,
                Record::ProducerOpened(opened) => {
                    self.uses_id(opened.producer);
                    for id in &opened.forgotten {
                        self.dirty.insert(EntityKey::Producer(ProducerId(*id)));
                    }
                    self.dirty
                        .insert(EntityKey::Producer(ProducerId(opened.producer)));
                    self.producers.opened(opened, frame.time_ms);
                }
                Record::EpochStarted(started) => {
                    self.epoch = Epoch(started.epoch);
                    self.uses_id(started.last_id);
                }
                Record::Trimmed(trimmed) => applied.kept.extend(self.trimmed(trimmed)?),
                Record::RetentionTime(time) => {
                    self.retention_ms = self.retention_ms.max(time.now_ms);
                }
                Record::TopicUpdated(updated) => self.topic_updated(updated)?,
                Record::Relocated(relocated) => {
                    let (placed, kept) = self.relocated(relocated)?;
                    applied.placed.push(placed);
                    applied.kept.push(kept);
                }
                // The state that it is made of is this one.
                Record::CheckpointBegun(_)
                | Record::CheckpointChunk(_)
                | Record::CheckpointEnded(_) => {}
            }
        }
        if let Some(sequence) = frame.producer {
            self.dirty.insert(EntityKey::Producer(sequence.producer));
            let appended = applied.appended.clone();
            self.producers.applied(sequence, appended, frame.time_ms);
        }
        Ok(applied)
    }

    fn append(&mut self, append: &Append, time_ms: u64) -> Result<(Appended, Kept), ApplyError> {
        let (topic, partition) = (append.topic, append.partition);
        let gone = ApplyError::NoPartition(topic, partition);
        let Some(of) = self.topics.get_mut(&topic) else {
            return Err(gone);
        };
        let state = of.partitions.get_mut(partition.0 as usize).ok_or(gone)?;
        if state.next_offset != append.first {
            return Err(ApplyError::Gap {
                topic,
                expected: state.next_offset,
                found: append.first,
            });
        }
        let count = append.events.len() as u32;
        state.next_offset = append.first + u64::from(count);
        state.last_append_ms = time_ms;
        if of.definition.channel() == Channel::Buffered {
            let epochs = of.epochs.entry(partition).or_default();
            epochs.appended(self.epoch.0, append.first);
        }
        state.bytes += append.events.bytes();
        let kept = state.kept(Source { topic, partition }, false);
        self.dirty.insert(EntityKey::Partition(topic, partition));
        let appended = Appended {
            topic,
            partition,
            first: append.first,
            count,
            time_ms,
        };
        Ok((appended, kept))
    }

    fn source_mut(
        &mut self,
        group: GroupId,
        source: Source,
    ) -> Result<&mut SourceState, ApplyError> {
        self.groups
            .get_mut(&group)
            .and_then(|g| g.sources.get_mut(&source))
            .ok_or(ApplyError::NoGroup(group))
    }

    fn settle(&mut self, settle: &Settle) -> Result<(), ApplyError> {
        let (group, source) = (settle.group, settle.source);
        let state = self.source_mut(group, source)?;
        let mut gone = Vec::new();
        for &(first, length) in &settle.runs {
            let end = Offset(first.0.saturating_add(length));
            state.window.settle_range(first, end);
            // Few events have either, so looking them up by range is cheap.
            for (&offset, _) in state.attempts.range(first..end) {
                gone.push(EntityKey::Attempts(group, source, offset));
            }
            for (&offset, _) in state.leases.range(first..end) {
                gone.push(EntityKey::Lease(group, source, offset));
            }
        }
        for key in &gone {
            match key {
                EntityKey::Attempts(.., offset) => drop(state.attempts.remove(offset)),
                EntityKey::Lease(.., offset) => drop(state.leases.remove(offset)),
                _ => {}
            }
        }
        self.dirty.extend(gone);
        self.dirty.insert(EntityKey::Window(group, source));
        Ok(())
    }

    fn attempt_failed(&mut self, failed: &AttemptFailed) -> Result<(), ApplyError> {
        let (group, source, offset) = (
            GroupId(failed.group),
            source_of(failed.topic, failed.partition),
            Offset(failed.offset),
        );
        let state = self.source_mut(group, source)?;
        if state.window.is_settled(offset) {
            return Ok(());
        }
        let attempts = state.attempts.entry(offset).or_default();
        if attempts.len() == ATTEMPTS_REMEMBERED {
            attempts.remove(0);
        }
        attempts.push(failed.clone());
        state.leases.remove(&offset);
        self.dirty
            .insert(EntityKey::Attempts(group, source, offset));
        self.dirty.insert(EntityKey::Lease(group, source, offset));
        Ok(())
    }

    fn lease_noted(&mut self, lease: &LeaseNoted) -> Result<(), ApplyError> {
        let (group, source, offset) = (
            GroupId(lease.group),
            source_of(lease.topic, lease.partition),
            Offset(lease.offset),
        );
        let state = self.source_mut(group, source)?;
        if lease.ended {
            state.leases.remove(&offset);
        } else if !state.window.is_settled(offset) {
            state.leases.insert(offset, lease.clone());
        } else {
            return Ok(());
        }
        self.dirty.insert(EntityKey::Lease(group, source, offset));
        Ok(())
    }

    fn topic_created(&mut self, created: &TopicCreated) -> Result<(), ApplyError> {
        let id = TopicId(created.topic);
        let name = TopicName::from_stored(&created.name);
        if self.topics.contains_key(&id) || self.topic_names.contains_key(&name) {
            return Err(ApplyError::Twice(format!("topic {}", created.name)));
        }
        self.uses_id(created.topic);
        self.topic_names.insert(name, id);
        self.topics.insert(
            id,
            TopicState {
                definition: created.clone(),
                partitions: vec![PartitionState::default(); created.partitions as usize],
                epochs: BTreeMap::new(),
            },
        );
        self.dirty.insert(EntityKey::Topic(id));
        Ok(())
    }

    fn topic_deleted(&mut self, id: TopicId) -> Result<(), ApplyError> {
        let topic = self
            .topics
            .remove(&id)
            .ok_or(ApplyError::NoPartition(id, PartitionId(0)))?;
        self.topic_names
            .remove(&TopicName::from_stored(&topic.definition.name));
        self.dirty.insert(EntityKey::Topic(id));
        for partition in 0..topic.definition.partitions {
            self.dirty
                .insert(EntityKey::Partition(id, PartitionId(partition)));
        }
        Ok(())
    }

    fn group_created(&mut self, created: &GroupCreated) -> Result<(), ApplyError> {
        let id = GroupId(created.group);
        let topic = TopicId(created.topic);
        let name = (topic, GroupName::from_stored(&created.name));
        if self.groups.contains_key(&id) || self.group_names.contains_key(&name) {
            return Err(ApplyError::Twice(format!("group {}", created.name)));
        }
        self.uses_id(created.group);
        self.group_names.insert(name, id);
        let group = GroupState::new(created);
        for source in group.sources.keys() {
            self.dirty.insert(EntityKey::Window(id, *source));
        }
        self.groups.insert(id, group);
        self.dirty.insert(EntityKey::Group(id));
        Ok(())
    }

    fn group_deleted(&mut self, id: GroupId) -> Result<(), ApplyError> {
        let group = self.groups.remove(&id).ok_or(ApplyError::NoGroup(id))?;
        let definition = &group.definition;
        self.group_names.remove(&(
            TopicId(definition.topic),
            GroupName::from_stored(&definition.name),
        ));
        self.dirty.insert(EntityKey::Group(id));
        for (source, state) in &group.sources {
            self.dirty.insert(EntityKey::Window(id, *source));
            let attempts = state.attempts.keys();
            self.dirty
                .extend(attempts.map(|o| EntityKey::Attempts(id, *source, *o)));
            let leases = state.leases.keys();
            self.dirty
                .extend(leases.map(|o| EntityKey::Lease(id, *source, *o)));
        }
        Ok(())
    }

    fn uses_id(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// The next id to give to a topic, group or producer.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// A topic by id.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&TopicState> {
        self.topics.get(&id)
    }

    /// A topic's id by name.
    #[must_use]
    pub fn topic_id(&self, name: &TopicName) -> Option<TopicId> {
        self.topic_names.get(name).copied()
    }

    /// Every topic, in order of id.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = (TopicId, &TopicState)> {
        self.topics.iter().map(|(id, topic)| (*id, topic))
    }

    /// A group by id.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&GroupState> {
        self.groups.get(&id)
    }

    /// A group's id by topic and name.
    #[must_use]
    pub fn group_id(&self, topic: TopicId, name: &GroupName) -> Option<GroupId> {
        self.group_names.get(&(topic, name.clone())).copied()
    }

    /// Every group, in order of id.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (GroupId, &GroupState)> {
        self.groups.iter().map(|(id, group)| (*id, group))
    }
}

impl GroupState {
    /// A group as it is when it has just been created.
    #[must_use]
    pub fn new(created: &GroupCreated) -> Self {
        let mut sources = BTreeMap::new();
        for (partition, start) in created.start.iter().enumerate() {
            let source = source_of(created.topic, partition as u32);
            sources.insert(source, SourceState::new(Offset(*start)));
        }
        for topic in [created.parking, created.dead_letters] {
            sources.insert(source_of(topic, 0), SourceState::new(Offset(0)));
        }
        Self {
            definition: created.clone(),
            sources,
        }
    }
}

impl SourceState {
    /// A source of which everything below `start` is settled.
    #[must_use]
    pub fn new(start: Offset) -> Self {
        Self {
            window: AckWindow::new(start),
            attempts: BTreeMap::new(),
            leases: BTreeMap::new(),
        }
    }
}

fn source_of(topic: u64, partition: u32) -> Source {
    Source {
        topic: TopicId(topic),
        partition: PartitionId(partition),
    }
}
