//! What a group's task is asked, and what it answers.

use sluice_proto::{Offset, PartitionId};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    board::{Counts, EventId, LeaseError, LeaseToken, MemberId, Report},
    buffered::Buffer,
    change::{ChangeReply, ChangeRequest, Moved},
    credit::{Grant, Shrinks},
    message::{Delivery, Message},
};
use crate::commit::{
    AckWindow, CommitError, ReadError,
    record::{GroupPosition, Settle, Source},
};
use crate::filter::Counters;

/// What a member's stream is sent without having asked.
#[derive(Debug)]
pub enum Outgoing {
    /// Events to work on.
    Deliveries(Message),
    /// Leases that ran out.
    LeasesLost(Vec<LeaseToken>),
    /// Events were gone before the group had settled them.
    Gap {
        /// Of which partition.
        partition: PartitionId,
        /// The first that is gone.
        first: Offset,
        /// The offset after the last one.
        end: Offset,
        /// How many of them the group had not settled.
        count: u64,
    },
    /// Nothing is left for the member, which has asked to be told.
    Drained {
        /// What it asked under.
        request_id: i64,
        /// Why.
        idle: IdleReason,
    },
}

/// Why nothing is delivered. As in `sluice.v1.IdleReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum IdleReason {
    /// Something is.
    Delivering,
    Empty,
    Filtered,
    NoCredit,
    InFlightCap,
    KeyLocked,
    Delayed,
    RestartGrace,
    WindowFull,
    Disabled,
    TooLarge,
    Suspect,
    Paused,
    DownstreamFull,
}

/// A member is in.
#[derive(Debug)]
pub struct Joined {
    /// For later commands.
    pub member: MemberId,
    /// Presented leases that are not its own any more.
    pub lost: Vec<LeaseToken>,
    /// How long a lease lasts without a heartbeat.
    pub lease_ms: u64,
}

/// Why a member cannot join.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JoinError {
    /// The group has as many members as it may have.
    #[error("the group has {0} members, the limit")]
    TooManyMembers(usize),
    /// The group is gone, or going.
    #[error("the group does not exist any more")]
    GroupGone,
}

/// What is to become of a lease.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which lease.
    pub token: LeaseToken,
    /// What.
    pub action: SettlementAction,
}

/// What is to become of a lease.
#[derive(Clone, Debug)]
pub enum SettlementAction {
    /// Done.
    Ack,
    /// Try again.
    Nack {
        /// When; by the group's policy if it does not say.
        delay_ms: Option<u64>,
        /// Why.
        reason: String,
    },
    /// Never again.
    Reject {
        /// Why.
        reason: String,
    },
    /// Still working; with what the worker says of it.
    Extend(Option<Report>),
}

/// Why a lease was not settled.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SettlementError {
    /// It is not held.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The log did not take it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The event could not be read for its dead letter.
    #[error("the event cannot be moved to the dead letters: {0}")]
    Read(String),
    /// The group is gone.
    #[error("the group does not exist any more")]
    GroupGone,
}

/// What a pull got.
#[derive(Debug)]
pub struct Pulled {
    /// Events, each with a lease of its own.
    pub deliveries: Vec<Delivery>,
    /// Why there are none.
    pub idle: IdleReason,
    /// How long the leases last.
    pub lease_ms: u64,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letters {
    /// All that there are.
    All,
    /// These, each of which must be there.
    Named(Vec<Offset>),
    /// Those of these that are still there.
    Found(Vec<Offset>),
}

/// What redriving came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Dead letters that were.
    pub redriven: u64,
    /// Those that were passed over, because they had been so often.
    pub capped: u64,
}

/// Why dead letters were not purged.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// There is none at this offset, or no more.
    #[error("there is no dead letter at offset {0}, or it was redriven or purged before")]
    Unknown(Offset),
    /// The log did not take it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The group is gone.
    #[error("the group does not exist any more")]
    GroupGone,
}

/// Why dead letters were not redriven.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    /// There is none at this offset, or no more.
    #[error("there is no dead letter at offset {0}, or it was redriven before")]
    Unknown(Offset),
    /// It was redriven as often as the group allows.
    #[error(
        "the dead letter at offset {0} was redriven {1} times, and the group's max_redrives \
         is {2}"
    )]
    TooOften(Offset, u32, u32),
    /// It cannot be read.
    #[error("a dead letter cannot be read: {0}")]
    Read(#[from] ReadError),
    /// The log did not take it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The group is gone.
    #[error("the group does not exist any more")]
    GroupGone,
}

/// How a group stands.
#[derive(Clone, Debug)]
pub struct Description {
    /// By partition of the topic.
    pub partitions: Vec<SourceDescription>,
    /// The whole group, what was redriven counted in.
    pub totals: Counts,
    /// Events under lease, those with the oldest leases first.
    pub in_flight: Vec<InFlightEvent>,
    /// Its members.
    pub members: Vec<MemberState>,
    /// Why nothing is delivered.
    pub idle: IdleReason,
    /// More about it.
    pub idle_detail: String,
    /// Dead letters that are not resolved.
    pub dead_letters: u64,
    /// What the filter did, since the broker's start.
    pub counters: Counters,
    /// The filter's terms as they were written.
    pub terms: Vec<String>,
    /// Events that were gone before they were settled, since the broker's start.
    pub dropped: u64,
    /// Nobody works for it.
    pub abandoned: bool,
    /// What it has met and not settled, and what it has not looked at.
    pub backlog_events: u64,
}

/// Where an event of the topic stands in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventStanding {
    /// The group has not come to it.
    NotScanned,
    /// It waits for its key, for credit or for its turn.
    Waiting {
        /// The attempt that comes next.
        attempt: u32,
        /// It is in the group's parking partition.
        parked: bool,
    },
    /// It waits for its next attempt.
    Delayed {
        /// Which that is.
        attempt: u32,
        /// It is in the group's parking partition.
        parked: bool,
    },
    /// It is kept for a member from before a restart.
    Held {
        /// The attempt that is under way.
        attempt: u32,
        /// Whom for.
        member: String,
    },
    /// A member works on it.
    InFlight {
        /// Which attempt that is.
        attempt: u32,
        /// Who.
        member: String,
    },
    /// The group is done with it, or never wanted it.
    Settled,
}

impl EventStanding {
    /// Whether it is in the group's parking partition.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        matches!(
            self,
            Self::Waiting { parked: true, .. } | Self::Delayed { parked: true, .. }
        )
    }
}

/// How a group stands in one partition. As in `sluice.v1.GroupPartition`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct SourceDescription {
    pub committed_end: Offset,
    pub delivered_end: Offset,
    pub visible_end: Offset,
    pub lag: u64,
    pub counts: Counts,
    pub filtered: u64,
    pub dead_lettered: u64,
    pub idle: IdleReason,
}

/// An event under lease. As in `sluice.v1.InFlightEvent`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct InFlightEvent {
    pub partition: PartitionId,
    pub offset: Offset,
    pub redriven: bool,
    pub member: String,
    pub attempt: u32,
    /// Milliseconds since 1970.
    pub since_ms: u64,
    pub report: Option<Report>,
}

/// How a member stands. As in `sluice.v1.MemberDescription`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct MemberState {
    pub name: String,
    pub in_flight: u64,
    pub joined: std::time::SystemTime,
    pub connected: bool,
    pub credit_events: u64,
    pub credit_bytes: Option<i64>,
}

/// What became of frozen leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thaw {
    /// They are settled, durably.
    Settled,
    /// Nothing happened.
    Unchanged,
    /// The log failed; nothing is known, and nothing goes on.
    Unknown,
}

/// Leases that a commit has frozen, and what it has to write to settle them.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) events: Vec<EventId>,
    pub(super) settles: Vec<Settle>,
}

/// Settlements that failed, by their index in the request.
pub(super) type SettlementFailures = Vec<(usize, SettlementError)>;

pub(super) enum Command {
    Join {
        name: String,
        grant: Option<Grant>,
        held: Vec<LeaseToken>,
        message_bytes_max: usize,
        outgoing: mpsc::Sender<Outgoing>,
        buffer: Buffer,
        reply: oneshot::Sender<Result<Joined, JoinError>>,
    },
    Grant {
        member: MemberId,
        grant: Grant,
        reply: oneshot::Sender<Result<(), Shrinks>>,
    },
    Heartbeat {
        member: MemberId,
        grant: Option<Grant>,
        reply: oneshot::Sender<Result<IdleReason, Shrinks>>,
    },
    Drain {
        member: MemberId,
        request_id: i64,
    },
    /// These leases were given to a stream that ended before it sent them.
    HandBack {
        tokens: Vec<LeaseToken>,
    },
    Leave {
        member: MemberId,
    },
    Disconnected {
        member: MemberId,
    },
    Settle {
        member: Option<MemberId>,
        settlements: Vec<Settlement>,
        reply: oneshot::Sender<SettlementFailures>,
    },
    Freeze {
        tokens: Vec<LeaseToken>,
        reply: oneshot::Sender<Result<Frozen, LeaseError>>,
    },
    Thaw {
        events: Vec<EventId>,
        thaw: Thaw,
    },
    Pull {
        pull: PendingPull,
    },
    Describe {
        /// Events under lease that are wanted.
        in_flight_max: usize,
        reply: oneshot::Sender<Description>,
    },
    Explain {
        source: Source,
        offset: Offset,
        reply: oneshot::Sender<EventStanding>,
    },
    ResolvedDeadLetters {
        reply: oneshot::Sender<AckWindow>,
    },
    Change {
        request: Box<ChangeRequest>,
        reply: ChangeReply,
    },
    PlanMoves {
        positions: Vec<GroupPosition>,
        reply: oneshot::Sender<Moved>,
    },
    Redrive {
        letters: Letters,
        force: bool,
        reply: oneshot::Sender<Result<Redriven, RedriveError>>,
    },
    Purge {
        letters: Letters,
        reply: oneshot::Sender<Result<u64, PurgeError>>,
    },
}

pub(super) struct PendingPull {
    pub(super) name: String,
    pub(super) events_max: usize,
    pub(super) bytes_max: usize,
    pub(super) message_bytes_max: usize,
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Pulled>,
}
