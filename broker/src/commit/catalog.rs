//! The topics and groups there are, as readers see them: an immutable snapshot
//! that the sequencer replaces once a change is durable.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use sluice_proto::{GroupId, GroupName, Offset, PartitionId, TopicId, TopicName};
use tokio::sync::watch;

use super::{
    epochs::Epochs,
    memory::{Chunk, Ring},
    record::{
        Channel, GroupChanged, GroupConfig, GroupCreated, Record, Retention, Source, TopicCreated,
    },
    state::{Kept, PartitionState, Placed, State},
};
use crate::{log::Position, view::IndexEntry};

/// A snapshot of all topics and groups.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    topics: BTreeMap<TopicName, Arc<Topic>>,
    topics_by_id: HashMap<TopicId, Arc<Topic>>,
    groups: BTreeMap<(TopicName, GroupName), Arc<Group>>,
}

/// A topic that can be read.
#[derive(Debug)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// When it was created, milliseconds since 1970.
    pub created_ms: u64,
    /// How its events are kept.
    pub channel: Channel,
    /// Its partitions.
    pub partitions: Vec<Partition>,
    retention: RwLock<Retention>,
    /// Counts appends, so that a reader can wait for the next.
    changed: watch::Sender<u64>,
}

/// A partition that can be read.
#[derive(Debug)]
pub struct Partition {
    /// Which.
    pub source: Source,
    start_offset: AtomicU64,
    start_in_view: AtomicU64,
    visible_end: AtomicU64,
    last_append_ms: AtomicU64,
    bytes: AtomicU64,
    /// Where its newest frames are; older ones are in the view.
    head: Mutex<VecDeque<IndexEntry>>,
    /// How its events are kept.
    pub(super) channel: Channel,
    /// What a buffered topic's partition was when this run of the broker began;
    /// nothing when it was made since.
    recovered: OnceLock<Recovered>,
    /// All that there is of a memory topic.
    ring: Option<Mutex<Ring>>,
    /// What was written again, and is to stand in the view in place of what is
    /// there.
    relocated: Mutex<Vec<IndexEntry>>,
}

/// What earlier runs of the broker have left of a partition.
#[derive(Clone, Debug, Default)]
struct Recovered {
    epochs: Epochs,
    end: Offset,
}

/// A consumer group.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Its name.
    pub name: GroupName,
    /// When it was created, milliseconds since 1970.
    pub created_ms: u64,
    /// What it was asked to be.
    pub config: GroupConfig,
    /// Where it began, by partition of the topic.
    pub start: Vec<Offset>,
    /// The topic that it reads.
    pub topic: Arc<Topic>,
    /// The topic of its dead letters, of one partition.
    pub dead_letters: Arc<Topic>,
    /// The topic of what only this group sees again, of one partition.
    pub parking: Arc<Topic>,
    /// Whether it delivers nothing because somebody said so.
    pub paused: bool,
}

impl Catalog {
    /// The catalog of a state that was recovered.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let mut catalog = Self::default();
        for (_, topic) in state.topics() {
            catalog.add_topic(&topic.definition, &topic.partitions);
        }
        for (_, group) in state.groups() {
            catalog.add_group(&group.definition);
        }
        catalog
    }

    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &TopicName) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by id.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics_by_id.get(&id)
    }

    /// A partition with its topic.
    pub(super) fn partition(&self, source: Source) -> Option<(&Arc<Topic>, &Partition)> {
        let topic = self.topic_by_id(source.topic)?;
        Some((topic, topic.partition(source.partition)?))
    }

    /// A group by topic and name.
    #[must_use]
    pub fn group(&self, topic: &TopicName, name: &GroupName) -> Option<&Arc<Group>> {
        self.groups.get(&(topic.clone(), name.clone()))
    }

    /// Every topic, in order of name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// Every group, in order of topic and name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &Arc<Group>> {
        self.groups.values()
    }

    /// The groups of one topic, in order of name.
    pub fn groups_of(&self, topic: TopicId) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.values().filter(move |g| g.topic.id == topic)
    }

    /// Follows one record of the log. Returns the topic that it deletes, if any.
    pub(super) fn apply(&mut self, record: &Record) -> Option<Arc<Topic>> {
        match record {
            Record::TopicCreated(created) => {
                let empty = vec![PartitionState::default(); created.partitions as usize];
                self.add_topic(created, &empty);
            }
            Record::TopicDeleted(deleted) => {
                let topic = self.topics_by_id.remove(&TopicId(deleted.topic))?;
                self.topics.remove(&topic.name);
                return Some(topic);
            }
            Record::TopicUpdated(updated) => {
                if let Some(topic) = self.topics_by_id.get(&TopicId(updated.topic)) {
                    topic.keep(updated.retention.clone());
                }
            }
            Record::GroupCreated(created) => self.add_group(created),
            Record::GroupChanged(changed) => self.change_group(changed),
            Record::GroupDeleted(deleted) => {
                self.groups.retain(|_, group| group.id.0 != deleted.group);
            }
            _ => {}
        }
        None
    }

    fn add_topic(&mut self, created: &TopicCreated, partitions: &[PartitionState]) {
        let id = TopicId(created.topic);
        let partitions = partitions.iter().enumerate().map(|(at, p)| Partition {
            source: Source {
                topic: id,
                partition: PartitionId(at as u32),
            },
            start_offset: AtomicU64::new(p.start_offset.0),
            start_in_view: AtomicU64::new(p.start_offset.0),
            visible_end: AtomicU64::new(p.next_offset.0),
            last_append_ms: AtomicU64::new(p.last_append_ms),
            bytes: AtomicU64::new(p.bytes),
            head: Mutex::default(),
            channel: created.channel(),
            recovered: OnceLock::new(),
            ring: (created.channel() == Channel::Memory).then(Mutex::default),
            relocated: Mutex::default(),
        });
        let topic = Arc::new(Topic {
            id,
            name: TopicName::from_stored(&created.name),
            created_ms: created.created_ms,
            channel: created.channel(),
            partitions: partitions.collect(),
            retention: RwLock::new(created.retention.clone().unwrap_or_default()),
            changed: watch::Sender::new(0),
        });
        self.topics.insert(topic.name.clone(), topic.clone());
        self.topics_by_id.insert(id, topic);
    }

    fn add_group(&mut self, created: &GroupCreated) {
        let topic = |id| self.topics_by_id.get(&TopicId(id)).cloned();
        // A group is created after its topics and deleted before them.
        let (Some(topic), Some(dead_letters), Some(parking)) = (
            topic(created.topic),
            topic(created.dead_letters),
            topic(created.parking),
        ) else {
            return;
        };
        let group = Arc::new(Group {
            id: GroupId(created.group),
            name: GroupName::from_stored(&created.name),
            created_ms: created.created_ms,
            config: created.config.clone(),
            start: created.start.iter().copied().map(Offset).collect(),
            topic,
            dead_letters,
            parking,
            paused: created.paused,
        });
        let key = (group.topic.name.clone(), group.name.clone());
        self.groups.insert(key, group);
    }

    fn change_group(&mut self, changed: &GroupChanged) {
        let mut groups = self.groups.values_mut();
        let Some(group) = groups.find(|group| group.id.0 == changed.group) else {
            return;
        };
        let mut new = Group::clone(group);
        if let Some(config) = &changed.config {
            new.config = config.clone();
        }
        if let Some(paused) = changed.paused {
            new.paused = paused;
        }
        *group = Arc::new(new);
    }
}

impl Topic {
    /// A partition, if the topic has it.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<&Partition> {
        self.partitions.get(id.0 as usize)
    }

    /// How long its events are kept.
    #[must_use]
    pub fn retention(&self) -> Retention {
        let retention = self.retention.read();
        retention.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, retention: Retention) {
        let mut kept = self
            .retention
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *kept = retention;
    }

    /// Changes whenever something was appended to the topic, when events of it
    /// went, and when it was deleted.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Partition {
    /// The first offset that cannot be read yet.
    #[must_use]
    pub fn visible_end(&self) -> Offset {
        Offset(self.visible_end.load(Ordering::Acquire))
    }

    /// Time of the last append, milliseconds since 1970; `None` before the
    /// first.
    #[must_use]
    pub fn last_append_ms(&self) -> Option<u64> {
        Some(self.last_append_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    /// The first offset that is still there, or would be. Never above the
    /// visible end by more than what is on its way to be visible.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        match self.ring() {
            Some(ring) => ring.start(),
            None => Offset(self.start_offset.load(Ordering::Acquire)),
        }
    }

    /// About the bytes of its events.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Shows events that are durable now, in the frame at `position` of `length`
    /// bytes.
    pub(super) fn publish(&self, placed: &Placed, position: Position, length: u32) {
        let entry = self.index(placed, position, length);
        if !placed.relocated {
            self.last_append_ms.store(entry.time_ms, Ordering::Relaxed);
            self.visible_end.store(entry.end().0, Ordering::Release);
        }
    }

    /// Notes where events are, without showing any that were not visible.
    pub(super) fn index(&self, placed: &Placed, position: Position, length: u32) -> IndexEntry {
        let entry = IndexEntry {
            first: placed.first,
            count: placed.count,
            position,
            length,
            time_ms: placed.time_ms,
            bytes: placed.bytes,
        };
        if placed.relocated {
            self.relocated().push(entry);
        } else {
            self.head().push_back(entry);
        }
        entry
    }

    /// The first offset whose place is in memory; `None` when the view has all.
    pub(crate) fn first_in_memory(&self) -> Option<Offset> {
        self.head().front().map(|entry| entry.first)
    }

    /// Shows what there still is.
    pub(super) fn keep(&self, kept: &Kept) {
        self.start_offset.store(kept.start.0, Ordering::Release);
        self.bytes.store(kept.bytes, Ordering::Relaxed);
    }

    /// Where it begins, if that has changed since the last call.
    pub(super) fn take_trimmed(&self) -> Option<Offset> {
        let start = self.start_offset();
        let before = self.start_in_view.swap(start.0, Ordering::AcqRel);
        (before < start.0).then_some(start)
    }

    /// Takes out what was written again since the last call.
    pub(super) fn take_relocated(&self) -> Vec<IndexEntry> {
        std::mem::take(&mut self.relocated())
    }

    fn relocated(&self) -> MutexGuard<'_, Vec<IndexEntry>> {
        // Nothing that runs under this lock can leave the list half changed.
        self.relocated
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How many events can be read.
    #[must_use]
    pub fn event_count(&self) -> u64 {
        // The start may have moved beyond an end that was looked at before.
        let end = self.visible_end().0;
        end.saturating_sub(self.start_offset().0)
    }

    /// The partition is as earlier runs of the broker have left it.
    pub(super) fn recovered(&self, epochs: Epochs) {
        let end = self.visible_end();
        let _ = self.recovered.set(Recovered { epochs, end });
    }

    /// The epoch in which the event at an offset of a buffered topic was appended;
    /// `epoch` is that of this run of the broker.
    pub(super) fn epoch_of(&self, offset: Offset, epoch: u64) -> u64 {
        match self.recovered.get() {
            Some(recovered) if offset < recovered.end => recovered.epochs.of(offset),
            _ => epoch,
        }
    }

    /// The epochs in which a buffered topic's partition was appended to, with
    /// that of this run of the broker.
    pub(super) fn epochs(&self, epoch: u64) -> Epochs {
        let Recovered { mut epochs, end } = self.recovered.get().cloned().unwrap_or_default();
        if self.visible_end() > end {
            epochs.appended(epoch, end);
        }
        epochs
    }

    /// The events of a memory topic; `None` for those that are in the log.
    pub(super) fn ring(&self) -> Option<MutexGuard<'_, Ring>> {
        // Nothing that runs under this lock can leave the ring half changed.
        let ring = self.ring.as_ref()?;
        Some(ring.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes events of a memory topic readable.
    pub(super) fn push(&self, chunk: Chunk, time_ms: u64) {
        if let Some(mut ring) = self.ring() {
            ring.push(chunk);
            self.last_append_ms.store(time_ms, Ordering::Relaxed);
            self.visible_end.store(ring.end().0, Ordering::Release);
        }
    }

    /// Forgets the oldest events of a memory topic.
    pub(super) fn drop_oldest(&self) {
        if let Some(mut ring) = self.ring() {
            ring.drop_oldest();
        }
    }

    /// The newest index entries; the view has those before them.
    pub(super) fn head(&self) -> MutexGuard<'_, VecDeque<IndexEntry>> {
        // Nothing that runs under this lock can leave the queue half changed.
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
