//! Consumer groups: who gets which event, and what becomes of it.
//!
//! One task owns each group ([`task`]). What it knows of events and leases is the
//! [`board`], of members the [`members`]; both are pure, as are [`key_lock`],
//! [`credit`], [`schedule`], [`retry`] and [`solo`]. It reads and filters events through
//! [`scan`], and changes anything durable by proposals to `commit/`.
//!
//! Others talk to a group by [`GroupHandle`]; [`registry`] finds it.

mod acks;
pub mod board;
mod buffered;
mod by_event;
mod by_number;
mod change;
mod command;
pub mod credit;
mod dead_letters;
mod failures;
mod handle;
pub mod key_lock;
pub mod line_name;
mod members;
mod message;
pub mod note;
mod pace;
mod parking;
mod payloads;
mod registry;
pub mod retry;
mod routes;
mod run;
mod scan;
pub mod schedule;
mod settle;
pub mod solo;
mod task;
mod throughput;
mod unread;

pub(crate) use self::scan::turn_to_filter;
pub use self::{
    board::{Counts, LeaseError, LeaseToken, MemberId, Report},
    buffered::BufferLimits,
    change::{ChangeError, ChangeRequest, Move, Moved},
    command::{
        Description, EventStanding, IdleReason, InFlightEvent, JoinError, Joined, Letters,
        MemberState, Outgoing, Pulled, PurgeError, RedriveError, Redriven, Settlement,
        SettlementAction, SettlementError, SourceDescription,
    },
    credit::{Grant, Shrinks},
    dead_letters::{MAX_REDRIVES, max_redrives},
    handle::{FrozenInputs, GroupGone, GroupHandle, Inbox, JoinRequest, PullRequest},
    message::{Delivery, Message},
    note::{DeadLetterNote, Parked},
    registry::{GroupLimits, Groups},
};
