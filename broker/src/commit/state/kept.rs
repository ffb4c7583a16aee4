//! What of the partitions is still there.

use sluice_proto::{Offset, PartitionId, TopicId};

use super::{ApplyError, PartitionState, State, TopicState};
use crate::{
    commit::{
        producers::Appended,
        record::{Append, Record, Relocated, Settle, Source, TopicUpdated, Trimmed},
    },
    view::EntityKey,
};

/// What a frame did to partitions.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// What was appended, in the order of the records.
    pub appended: Vec<Appended>,
    /// Where events are by this, appended ones and relocated ones.
    pub placed: Vec<Placed>,
    /// What is left of the partitions that it changed.
    pub kept: Vec<Kept>,
}

/// What there is of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub source: Source,
    /// Where it begins.
    pub start: Offset,
    /// About the bytes of its events.
    pub bytes: u64,
    /// It began earlier before.
    pub trimmed: bool,
}

/// A range of a partition whose events are in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Which partition.
    pub source: Source,
    /// The first offset.
    pub first: Offset,
    /// How many offsets.
    pub count: u32,
    /// Bytes of the events, notes counted in.
    pub bytes: u32,
    /// When the last of them was appended.
    pub time_ms: u64,
    /// They were somewhere else before.
    pub relocated: bool,
}

impl Placed {
    /// Where a record of a frame of this time puts events.
    #[must_use]
    pub fn by(record: &Record, time_ms: u64) -> Option<Self> {
        match record {
            Record::Append(append) => Some(Self::appended(append, time_ms)),
            Record::Relocated(relocated) => Some(Self::relocated(relocated)),
            _ => None,
        }
    }

    pub(super) fn appended(append: &Append, time_ms: u64) -> Self {
        Self {
            source: Source {
                topic: append.topic,
                partition: append.partition,
            },
            first: append.first,
            count: append.events.len() as u32,
            // A frame, and so what is in it, is shorter than 16 MiB.
            bytes: append.events.bytes() as u32,
            time_ms,
            relocated: false,
        }
    }

    fn relocated(relocated: &Relocated) -> Self {
        let bytes: u64 = relocated.events.iter().map(|of| of.event.bytes()).sum();
        Self {
            source: Source {
                topic: relocated.topic,
                partition: relocated.partition,
            },
            first: relocated.first,
            // Whoever writes a range again keeps it as short as an entry is.
            count: relocated.end.0.saturating_sub(relocated.first.0) as u32,
            bytes: bytes as u32,
            time_ms: relocated.time_ms,
            relocated: true,
        }
    }
}

impl PartitionState {
    /// Begins at `start` from here on. False when it does so already.
    fn trim(&mut self, start: Offset, bytes: u64) -> bool {
        let start = start.min(self.next_offset);
        if start <= self.start_offset {
            return false;
        }
        self.start_offset = start;
        self.bytes = match start == self.next_offset {
            true => 0,
            false => self.bytes.saturating_sub(bytes),
        };
        true
    }

    pub(super) fn kept(&self, source: Source, trimmed: bool) -> Kept {
        Kept {
            source,
            start: self.start_offset,
            bytes: self.bytes,
            trimmed,
        }
    }
}

impl State {
    fn partition_mut(&mut self, source: Source) -> Result<&mut PartitionState, ApplyError> {
        self.topics
            .get_mut(&source.topic)
            .and_then(|t| t.partitions.get_mut(source.partition.0 as usize))
            .ok_or(ApplyError::NoPartition(source.topic, source.partition))
    }

    pub(super) fn trimmed(&mut self, trimmed: &Trimmed) -> Result<Option<Kept>, ApplyError> {
        let source = Source {
            topic: TopicId(trimmed.topic),
            partition: PartitionId(trimmed.partition),
        };
        let start = Offset(trimmed.start);
        let partition = self.partition_mut(source)?;
        if !partition.trim(start, trimmed.bytes) {
            return Ok(None);
        }
        let kept = partition.kept(source, true);
        self.changed(source);
        Ok(Some(kept))
    }

    /// What a group has settled of a topic of its own nobody needs any more.
    pub(super) fn trim_own(&mut self, settle: &Settle) -> Option<Kept> {
        let group = self.groups.get(&settle.group)?;
        let topic = settle.source.topic.0;
        if topic != group.definition.dead_letters && topic != group.definition.parking {
            return None;
        }
        let start = group.sources.get(&settle.source)?.window.committed_end();
        let partition = self.partition_mut(settle.source).ok()?;
        // Nobody measures these, so about is good enough.
        let all = partition.next_offset.0 - partition.start_offset.0;
        let gone = start.0.saturating_sub(partition.start_offset.0).min(all);
        let bytes = u128::from(partition.bytes) * u128::from(gone) / u128::from(all.max(1));
        if !partition.trim(start, bytes as u64) {
            return None;
        }
        let kept = partition.kept(settle.source, true);
        self.changed(settle.source);
        Some(kept)
    }

    fn changed(&mut self, source: Source) {
        self.dirty
            .insert(EntityKey::Partition(source.topic, source.partition));
    }

    pub(super) fn topic_updated(&mut self, updated: &TopicUpdated) -> Result<(), ApplyError> {
        let id = TopicId(updated.topic);
        let topic: &mut TopicState = self
            .topics
            .get_mut(&id)
            .ok_or(ApplyError::NoPartition(id, PartitionId(0)))?;
        topic.definition.retention = Some(updated.retention.clone());
        self.dirty.insert(EntityKey::Topic(id));
        Ok(())
    }

    pub(super) fn relocated(
        &mut self,
        relocated: &Relocated,
    ) -> Result<(Placed, Kept), ApplyError> {
        let source = Source {
            topic: relocated.topic,
            partition: relocated.partition,
        };
        let partition = self.partition_mut(source)?;
        partition.bytes = partition.bytes.saturating_sub(relocated.dropped_bytes);
        let kept = partition.kept(source, false);
        self.changed(source);
        Ok((Placed::relocated(relocated), kept))
    }
}
