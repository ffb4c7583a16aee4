//! What retention and checkpoints write: what is gone, what was written again,
//! and the state itself.

use bytes::Bytes;
use prost::Message;
use sluice_proto::{Offset, PartitionId, TopicId};

use super::NewEvent;

/// How long a topic's events are kept. A zero is no bound.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Retention {
    /// Events that are older go.
    #[prost(uint64, tag = "1")]
    pub age_ms: u64,
    /// Bytes of events in each partition, of which the oldest go.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Events in each partition, of which the oldest go.
    #[prost(uint64, tag = "3")]
    pub events: u64,
    /// What a group has not settled stays.
    #[prost(bool, tag = "4")]
    pub hold_unread: bool,
    /// Of the events with one key only the last stays.
    #[prost(bool, tag = "5")]
    pub compact: bool,
    /// In a compacted topic, how long a key's last event stays when it has no
    /// data.
    #[prost(uint64, tag = "6")]
    pub tombstone_ms: u64,
}

impl Retention {
    /// Whether events go by themselves, other than by compaction.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.age_ms > 0 || self.bytes > 0 || self.events > 0
    }
}

/// A topic is kept otherwise from here on.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TopicUpdated {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub topic: u64,
    /// How long its events are kept.
    #[prost(message, required, tag = "2")]
    pub retention: Retention,
}

/// The time by which events grow old, so that after a restart it goes on from there,
/// whatever the wall clock says then.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RetentionTime {
    /// Milliseconds since 1970, as far as the wall clock is believed.
    #[prost(uint64, tag = "1")]
    pub now_ms: u64,
}

/// The oldest events of a partition are gone.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Trimmed {
    /// Topic id.
    #[prost(uint64, tag = "1")]
    pub topic: u64,
    /// Partition.
    #[prost(uint32, tag = "2")]
    pub partition: u32,
    /// The first offset that is still there.
    #[prost(uint64, tag = "3")]
    pub start: u64,
    /// About the bytes of the events that are gone.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
}

/// Events of one partition, written again. They stand for every offset of
/// `first..end`; those of the range that are missing are gone for good.
#[derive(Clone, Debug, PartialEq)]
pub struct Relocated {
    /// Their topic.
    pub topic: TopicId,
    /// Their partition.
    pub partition: PartitionId,
    /// The first offset of the range.
    pub first: Offset,
    /// The offset after the range.
    pub end: Offset,
    /// When the last event of the range was appended, gone or not.
    pub time_ms: u64,
    /// Bytes of the events of the range that are gone by this.
    pub dropped_bytes: u64,
    /// The events, in order.
    pub events: Vec<RelocatedEvent>,
}

/// An event that was written again.
#[derive(Clone, Debug, PartialEq)]
pub struct RelocatedEvent {
    /// Its offset.
    pub offset: Offset,
    /// When it was first appended.
    pub time_ms: u64,
    /// The event with its note, as they were.
    pub event: NewEvent,
}

/// A checkpoint of the state follows, in chunks.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CheckpointBegun {
    /// Position of the log at which the state was as the chunks say.
    #[prost(uint64, tag = "1")]
    pub position: u64,
    /// The highest epoch below that position.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// CRC of the block before it.
    #[prost(uint32, tag = "3")]
    pub block_crc: u32,
}

/// A part of a checkpoint.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CheckpointChunk {
    /// The checkpoint's log position.
    #[prost(uint64, tag = "1")]
    pub position: u64,
    /// Entities, in the order of their keys.
    #[prost(message, repeated, tag = "2")]
    pub entities: Vec<SavedEntity>,
}

/// One piece of the state.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SavedEntity {
    /// Its key, as in the view.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Its value, as `commit/state/` saves it.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// A checkpoint is complete.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CheckpointEnded {
    /// The checkpoint's log position.
    #[prost(uint64, tag = "1")]
    pub position: u64,
    /// How many chunks it has.
    #[prost(uint64, tag = "2")]
    pub chunks: u64,
    /// How many entities they hold.
    #[prost(uint64, tag = "3")]
    pub entities: u64,
}
