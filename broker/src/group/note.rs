//! What the broker keeps beside an event that has left its place: where it comes
//! from, and what was tried.

use prost::Message;

use sluice_proto::{PartitionId, TopicId};

use crate::commit::record::{AttemptFailed, Source};

/// Beside a dead letter, and beside an event that was redriven or parked.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeadLetterNote {
    /// The topic in which the event was published.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// The group that could not handle it.
    #[prost(string, tag = "2")]
    pub group: String,
    /// Its partition there.
    #[prost(uint32, tag = "3")]
    pub partition: u32,
    /// Its offset there.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// Why the last attempt was the last.
    #[prost(string, tag = "5")]
    pub reason: String,
    /// The latest attempts, oldest first.
    #[prost(message, repeated, tag = "6")]
    pub attempts: Vec<AttemptFailed>,
    /// Attempts in all, since it was last redriven.
    #[prost(uint32, tag = "7")]
    pub attempt_count: u32,
    /// When it became a dead letter, milliseconds since 1970.
    #[prost(uint64, tag = "8")]
    pub dead_lettered_ms: u64,
    /// How often it was redriven.
    #[prost(uint32, tag = "9")]
    pub redrives: u32,
    /// Beside a parked event.
    #[prost(message, optional, tag = "10")]
    pub parked: Option<Parked>,
}

/// How a parked event stands in its group.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Parked {
    /// Id of the topic in which it was first for the group: the group's, or its
    /// parking topic if it was redriven before.
    #[prost(uint64, tag = "1")]
    pub home_topic: u64,
    /// The partition there.
    #[prost(uint32, tag = "2")]
    pub home_partition: u32,
    /// The offset there.
    #[prost(uint64, tag = "3")]
    pub home_offset: u64,
    /// Wall clock before which there is no attempt.
    #[prost(uint64, tag = "4")]
    pub not_before_ms: u64,
    /// The attempt that comes next, from 1.
    #[prost(uint32, tag = "5")]
    pub next_attempt: u32,
    /// A vanished member had it in its last attempt.
    #[prost(bool, tag = "6")]
    pub suspect: bool,
    /// When it was appended where it was first.
    #[prost(uint64, tag = "7")]
    pub append_time_ms: u64,
    /// What tells its offset there from an earlier one; 0 where there is nothing.
    #[prost(uint64, tag = "8")]
    pub epoch: u64,
    /// How long it was to wait when it was parked, which is the longest that it
    /// waits after a start whatever the wall clock says; absent in older logs.
    #[prost(uint64, optional, tag = "9")]
    pub wait_ms: Option<u64>,
}

impl Parked {
    /// The partition in which it was first for the group.
    #[must_use]
    pub fn home(&self) -> Source {
        Source {
            topic: TopicId(self.home_topic),
            partition: PartitionId(self.home_partition),
        }
    }
}

/// How an attempt ended without an ack. The numbers are those of
/// `sluice.v1.AttemptEnd`, and are in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttemptEnd {
    /// The worker said that it is to be tried again.
    Nack = 1,
    /// The worker said that it is not to be tried again.
    Reject = 2,
    /// The worker was silent until its lease ran out.
    LeaseExpired = 3,
    /// It took longer than the group allows.
    ProcessingLimit = 4,
    /// The worker's connection was lost.
    ConnectionLost = 5,
    /// The broker was restarted, and the worker did not come back.
    BrokerRestart = 6,
}
