//! What the payload of one frame says: the changes of one proposal, which happen
//! together or not at all.
//!
//! All integers are little endian.
//!
//! ```text
//! frame payload
//!   time_ms   u64   wall clock, milliseconds since 1970; never decreases
//!   flags     u8    bit 0: `producer` follows; others are 0
//!   producer  24 B  producer id u64, producer epoch u64, sequence u64
//!   count     u16   number of records
//!   records   each: kind u8, length u32, body
//!
//! append (kind 1)
//!   topic u64, partition u32, first offset u64, count u32, then `count` times:
//!     event length u32, note length u32, event, note
//! settle (kind 27; as kind 2 builds before wrote it, with first offset u64 and
//! length u64 of each run)
//!   group u64, topic u64, partition u32, count u32, then `count` times:
//!     offsets between the run before, or 0, and this one (varint), length of
//!     this one (varint)
//! relocated (kind 22)
//!   topic u64, partition u32, first offset u64, end offset u64,
//!   time of the range's last event u64, dropped bytes u64, count u32, then
//!   `count` times:
//!     offsets missing before it (varint), milliseconds that it is older than
//!     the range's last event (varint), event length u32, note length u32,
//!     event, note
//! every other kind
//!   a protobuf message of this module
//! ```
//!
//! An event is the encoded `sluice.v1.Event` as its producer sent it. A note is
//! what the broker keeps beside an event (a dead letter's history); its format
//! belongs to whoever wrote it.
//!
//! Records hold numeric ids and never names to refer to things, and everything
//! that applying them needs, so that replay does not depend on configuration,
//! clock or order of arrival.

mod codec;
mod events;
mod new_events;
mod retention;
mod settle;

use bytes::Bytes;
use prost::Message;
use sluice_proto::{GroupId, Offset, PartitionId, ProducerId, TopicId};

pub(super) use self::codec::EVENT_OVERHEAD;
pub use self::{
    codec::{DecodeError, is_checkpoint},
    events::{EventAt, EventsAt, events_at},
    new_events::{NewEvent, NewEvents},
    retention::{
        CheckpointBegun, CheckpointChunk, CheckpointEnded, Relocated, RelocatedEvent, Retention,
        RetentionTime, SavedEntity, TopicUpdated, Trimmed,
    },
};

/// Most records of one frame: their number is 16 bits wide.
pub(super) const RECORDS_MAX: usize = u16::MAX as usize;

/// One proposal as it is in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Wall clock when it was sequenced, milliseconds since 1970.
    pub time_ms: u64,
    /// The producer's sequence that it took, if any.
    pub producer: Option<ProducerSequence>,
    /// What it changes.
    pub records: Vec<Record>,
}

/// A number in a producer session's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProducerSequence {
    /// Whose.
    pub producer: ProducerId,
    /// Which session of it.
    pub epoch: u64,
    /// From 1.
    pub sequence: u64,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // Each variant is its type.
pub enum Record {
    Append(Append),
    Settle(Settle),
    AttemptFailed(AttemptFailed),
    LeaseNoted(LeaseNoted),
    TopicCreated(TopicCreated),
    TopicDeleted(TopicDeleted),
    GroupCreated(GroupCreated),
    GroupDeleted(GroupDeleted),
    GroupChanged(GroupChanged),
    ProducerOpened(ProducerOpened),
    EpochStarted(EpochStarted),
    Trimmed(Trimmed),
    TopicUpdated(TopicUpdated),
    RetentionTime(RetentionTime),
    Relocated(Relocated),
    CheckpointBegun(CheckpointBegun),
    CheckpointChunk(CheckpointChunk),
    CheckpointEnded(CheckpointEnded),
}

impl Record {
    /// Whether topics or groups come or go by it.
    #[must_use]
    pub fn changes_catalog(&self) -> bool {
        matches!(
            self,
            Self::TopicCreated(_)
                | Self::TopicDeleted(_)
                | Self::TopicUpdated(_)
                | Self::GroupCreated(_)
                | Self::GroupDeleted(_)
                | Self::GroupChanged(_)
        )
    }
}

/// Events of one partition with consecutive offsets.
#[derive(Clone, Debug, PartialEq)]
pub struct Append {
    /// Their topic.
    pub topic: TopicId,
    /// Their partition.
    pub partition: PartitionId,
    /// Offset of the first one.
    pub first: Offset,
    /// The events, in order.
    pub events: NewEvents,
}

/// Where a group reads: a partition of its topic, of its parking topic, or of
/// its dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
}

/// Offsets that a group is done with, for whatever reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The group.
    pub group: GroupId,
    /// Where.
    pub source: Source,
    /// Runs of offsets: first, and how many. In ascending order they take least.
    pub runs: Vec<(Offset, u64)>,
}

/// An attempt ended without an ack. The next one is not made before this is
/// durable.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AttemptFailed {
    /// Group id.
    #[prost(uint64, tag = "1")]
    pub group: u64,
    /// Topic id.
    #[prost(uint64, tag = "2")]
    pub topic: u64,
    /// Partition.
    #[prost(uint32, tag = "3")]
    pub partition: u32,
    /// Offset.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// Number of the attempt that ended, from 1.
    #[prost(uint32, tag = "5")]
    pub attempt: u32,
    /// Wall clock before which there is no other attempt.
    #[prost(uint64, tag = "6")]
    pub not_before_ms: u64,
    /// How it ended: the value of `sluice.v1.AttemptEnd`.
    #[prost(uint32, tag = "7")]
    pub end: u32,
    /// Who made it.
    #[prost(string, tag = "8")]
    pub member: String,
    /// What the worker said.
    #[prost(string, tag = "9")]
    pub reason: String,
    /// Wall clock when it ended.
    #[prost(uint64, tag = "10")]
    pub ended_ms: u64,
    /// Its member vanished with it: it goes only to a member that holds nothing.
    #[prost(bool, tag = "11")]
    pub suspect: bool,
    /// It counts no attempt; the next one has the same number.
    #[prost(bool, tag = "12")]
    pub uncounted: bool,
    /// How long the next attempt waits from the end of this one on, so that it never
    /// waits longer because the wall clock was set back; absent in older logs.
    #[prost(uint64, optional, tag = "13")]
    pub delay_ms: Option<u64>,
}

impl AttemptFailed {
    /// Number of the attempt that follows.
    #[must_use]
    pub fn next_attempt(&self) -> u32 {
        self.attempt.saturating_add(u32::from(!self.uncounted))
    }
}

/// When something is due that was to be at a time of the wall clock, by a clock that
/// nobody sets: that is `now_ms` now, and the wall clock is `wall_ahead_ms` ahead.
/// It never waits longer than it was to wait at first, `wait_ms`.
#[must_use]
pub fn due_ms(at_wall_ms: u64, wait_ms: Option<u64>, now_ms: u64, wall_ahead_ms: u64) -> u64 {
    let due_ms = at_wall_ms.saturating_sub(wall_ahead_ms);
    wait_ms.map_or(due_ms, |wait_ms| due_ms.min(now_ms.saturating_add(wait_ms)))
}

/// A lease that has lasted long enough to be worth a wait for its holder after
/// a restart of the broker.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LeaseNoted {
    /// Group id.
    #[prost(uint64, tag = "1")]
    pub group: u64,
    /// Topic id.
    #[prost(uint64, tag = "2")]
    pub topic: u64,
    /// Partition.
    #[prost(uint32, tag = "3")]
    pub partition: u32,
    /// Offset.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// Log epoch of the lease's token.
    #[prost(uint64, tag = "5")]
    pub token_epoch: u64,
    /// Counter of the lease's token.
    #[prost(uint64, tag = "6")]
    pub token_counter: u64,
    /// Number of the attempt, from 1.
    #[prost(uint32, tag = "7")]
    pub attempt: u32,
    /// Who holds it.
    #[prost(string, tag = "8")]
    pub member: String,
    /// The event's key; empty for none.
    #[prost(bytes = "bytes", tag = "9")]
    pub key: Bytes,
    /// Bytes of the encoded event.
    #[prost(uint32, tag = "10")]
    pub size: u32,
    /// Wall clock when it was given, for whoever looks at the log: nothing goes by it.
    #[prost(uint64, tag = "11")]
    pub since_ms: u64,
    /// It is over, and its event is as it was before: nobody is waited for.
    #[prost(bool, tag = "12")]
    pub ended: bool,
    /// Of a parked event: id of the topic in which it was first for the group;
    /// 0 for one that is not parked.
    #[prost(uint64, tag = "13")]
    pub home_topic: u64,
    /// The partition there.
    #[prost(uint32, tag = "14")]
    pub home_partition: u32,
    /// The offset there.
    #[prost(uint64, tag = "15")]
    pub home_offset: u64,
    /// A vanished member had it in its last attempt.
    #[prost(bool, tag = "16")]
    pub suspect: bool,
}

impl LeaseNoted {
    /// Where its event was first for the group, if it is parked.
    #[must_use]
    pub fn home(&self) -> Option<(Source, Offset)> {
        let source = Source {
            topic: TopicId(self.home_topic),
            partition: PartitionId(self.home_partition),
        };
        (self.home_topic != 0).then_some((source, Offset(self.home_offset)))
    }
}

/// A topic came to be.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TopicCreated {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub topic: u64,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// How many partitions it has.
    #[prost(uint32, tag = "3")]
    pub partitions: u32,
    /// Wall clock of its creation.
    #[prost(uint64, tag = "4")]
    pub created_ms: u64,
    /// How its events are kept.
    #[prost(enumeration = "Channel", tag = "5")]
    pub channel: i32,
    /// How long its events are kept; absent: for ever.
    #[prost(message, optional, tag = "10")]
    pub retention: Option<Retention>,
}

/// How a topic's events are kept. The numbers are the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Channel {
    /// Acked and readable when they are durable.
    Fsync = 0,
    /// Acked and readable when they are written, and durable soon after.
    Buffered = 1,
    /// Never in the log.
    Memory = 2,
}

impl std::fmt::Display for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fsync => "fsync",
            Self::Buffered => "buffered",
            Self::Memory => "memory",
        })
    }
}

/// A topic and its events are gone.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TopicDeleted {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub topic: u64,
}

/// A group came to be. Its dead-letter and parking topics are created in the
/// same frame.
#[derive(Clone, PartialEq, Message)]
pub struct GroupCreated {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub group: u64,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Id of the topic that it reads.
    #[prost(uint64, tag = "3")]
    pub topic: u64,
    /// Id of the topic of its dead letters.
    #[prost(uint64, tag = "4")]
    pub dead_letters: u64,
    /// Id of the topic of what only it sees again.
    #[prost(uint64, tag = "5")]
    pub parking: u64,
    /// Where it begins, by partition.
    #[prost(uint64, repeated, tag = "6")]
    pub start: Vec<u64>,
    /// Wall clock of its creation.
    #[prost(uint64, tag = "7")]
    pub created_ms: u64,
    /// What it was asked to be.
    #[prost(message, required, tag = "8")]
    pub config: GroupConfig,
    /// Nothing is delivered. Never so in the log, where it is a change; in the
    /// view this is how the group stands.
    #[prost(bool, tag = "9")]
    pub paused: bool,
}

/// A group is another one from here on: its settings, whether it delivers, and
/// where it stands, as far as each is given.
#[derive(Clone, PartialEq, Message)]
pub struct GroupChanged {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub group: u64,
    /// All of its settings.
    #[prost(message, optional, tag = "2")]
    pub config: Option<GroupConfig>,
    /// Whether it is paused.
    #[prost(bool, optional, tag = "3")]
    pub paused: Option<bool>,
    /// Where it goes on. If there is any, every lease of the group is over, and
    /// so are the failed attempts in the partitions that are named.
    #[prost(message, repeated, tag = "4")]
    pub positions: Vec<GroupPosition>,
}

/// Where a group goes on in a partition of its topic.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GroupPosition {
    /// Partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// Everything below is settled, and nothing above.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
}

/// What a group was asked to be, with every default filled in.
#[derive(Clone, PartialEq, Message)]
pub struct GroupConfig {
    /// CEL; empty for every event.
    #[prost(string, tag = "1")]
    pub filter: String,
    /// Which events go one at a time.
    #[prost(enumeration = "Ordering", tag = "2")]
    pub ordering: i32,
    /// How long a silent member keeps its leases.
    #[prost(uint64, tag = "3")]
    pub lease_ms: u64,
    /// Attempts before an event is a dead letter.
    #[prost(uint32, tag = "4")]
    pub max_attempts: u32,
    /// Delay before the second attempt.
    #[prost(uint64, tag = "5")]
    pub initial_delay_ms: u64,
    /// Factor between delays.
    #[prost(double, tag = "6")]
    pub multiplier: f64,
    /// The longest delay.
    #[prost(uint64, tag = "7")]
    pub max_delay_ms: u64,
    /// Events under lease at once.
    #[prost(uint32, tag = "8")]
    pub max_in_flight: u32,
    /// How often one event may be redriven; 0 in groups that were made before
    /// there was a bound.
    #[prost(uint32, tag = "30")]
    pub max_redrives: u32,
    /// Where it was asked to begin.
    #[prost(oneof = "GroupStart", tags = "9, 10, 11, 12")]
    pub start: Option<GroupStart>,
    /// How long one attempt may take; 0 for no limit.
    #[prost(uint64, tag = "13")]
    pub processing_limit_ms: u64,
    /// A lost connection ends the member's leases at once, not at the deadline.
    #[prost(bool, tag = "14")]
    pub connection_loss_at_once: bool,
    /// Events under lease of one member; 0 for no bound.
    #[prost(uint32, tag = "15")]
    pub max_in_flight_per_member: u32,
    /// How long suspects wait for a member to fall idle.
    #[prost(uint64, tag = "16")]
    pub solo_wait_ms: u64,
    /// The share of a delay that is left to chance.
    #[prost(double, tag = "17")]
    pub jitter: f64,
    /// Later events of a key go on while one waits for its next attempt.
    #[prost(bool, tag = "18")]
    pub overtake: bool,
    /// Filters of the Subscriptions API as a JSON array, in the place of
    /// `filter`; empty for none.
    #[prost(string, tag = "31")]
    pub dialects: String,
    /// What happens to those who publish to its topic when it has too much to do.
    #[prost(enumeration = "BacklogPolicy", tag = "40")]
    pub backlog_policy: i32,
    /// Events that it may have to do; 0 for no bound.
    #[prost(uint64, tag = "41")]
    pub backlog_events: u64,
    /// The same in bytes.
    #[prost(uint64, tag = "42")]
    pub backlog_bytes: u64,
    /// How old the oldest of them may be.
    #[prost(uint64, tag = "43")]
    pub backlog_age_ms: u64,
    /// Ids of topics to which its workers publish; it is not fed while one of them
    /// is full.
    #[prost(uint64, repeated, tag = "44")]
    pub outputs: Vec<u64>,
}

/// What happens to those who publish to a group's topic when the group has too
/// much to do. The numbers are the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum BacklogPolicy {
    /// Nothing.
    Ignore = 0,
    /// They are slowed down, and wait.
    Throttle = 1,
    /// They are refused.
    Reject = 2,
}

/// Which events of a group go one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Ordering {
    /// None.
    None = 0,
    /// Those of one key.
    Key = 1,
    /// Those of one partition.
    Partition = 2,
}

/// Where a group was asked to begin.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
#[allow(missing_docs)] // As in `sluice.v1.ReadStart`.
pub enum GroupStart {
    #[prost(bool, tag = "9")]
    Earliest(bool),
    #[prost(bool, tag = "10")]
    Latest(bool),
    #[prost(uint64, tag = "11")]
    Offset(u64),
    #[prost(uint64, tag = "12")]
    TimeMs(u64),
}

/// A group, its dead letters and its parked events are gone.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GroupDeleted {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub group: u64,
}

/// A producer session was opened.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ProducerOpened {
    /// The producer's id.
    #[prost(uint64, tag = "1")]
    pub producer: u64,
    /// The session's epoch; what earlier ones send is refused from here on.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Its name; empty for none.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Producers forgotten to make room.
    #[prost(uint64, repeated, tag = "4")]
    pub forgotten: Vec<u64>,
}

/// The first frame of every epoch.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EpochStarted {
    /// The epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Version of the broker that started it.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Ids up to this one are not given any more; 0 says nothing. In the first
    /// epoch of a copy, because the broker that it was taken of goes on giving
    /// those that come next.
    #[prost(uint64, tag = "3")]
    pub last_id: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A wait goes by the wall clock over a restart, and never gets longer by it.
        #[test]
        fn what_waits_for_a_time_is_due_by_it_and_never_later_than_it_was_to_be(
            wait_ms in 0_u64..1 << 40, stopped_ms in 0_u64..1 << 40,
            set_ms in -(1_i64 << 40)..1 << 40, began_wall_ms in 1_u64 << 41..1 << 42,
            now_ms in 0_u64..1000,
        ) {
            let at_wall_ms = began_wall_ms + wait_ms;
            let wall_ms = (began_wall_ms + stopped_ms).saturating_add_signed(set_ms);
            let due = due_ms(at_wall_ms, Some(wait_ms), now_ms, wall_ms - now_ms);
            prop_assert!(due <= now_ms + wait_ms);
            prop_assert_eq!(due <= now_ms, at_wall_ms <= wall_ms || wait_ms == 0);
            if wall_ms >= began_wall_ms {
                prop_assert_eq!(due.saturating_sub(now_ms), at_wall_ms.saturating_sub(wall_ms));
            }
        }
    }
}
