//! Leases, and the places in which an event can be.

/// Names one lease, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken {
    /// The log's epoch when it was given.
    pub epoch: u64,
    /// Counts the leases of the epoch.
    pub counter: u64,
}

/// A stream's membership, for the broker's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// Who has a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A member on a stream, whose heartbeats keep it.
    Member(MemberId),
    /// Somebody who pulled, and extends it, or not.
    Unary(String),
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its token.
    pub token: LeaseToken,
    /// Who has it.
    pub holder: Holder,
    /// Since when.
    pub since_ms: u64,
}

/// Where an event is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Queued,
    Ready,
    Delayed,
    Leased(Lease),
    Settling(Lease),
    /// Was leased before a restart, by a member of this name.
    Held(LeaseToken, String),
    /// Its attempt has failed without a lease being there any more.
    Failing,
}

impl Place {
    pub(super) fn token(&self) -> Option<LeaseToken> {
        match self {
            Self::Leased(lease) | Self::Settling(lease) => Some(lease.token),
            Self::Held(token, _) => Some(*token),
            Self::Queued | Self::Ready | Self::Delayed | Self::Failing => None,
        }
    }

    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self, Self::Leased(_) | Self::Settling(_))
    }
}

/// The lease is not there (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Not given, passed on, run out, or settled.
    #[error("the lease is not held any more: it ran out, passed to another member, or was settled")]
    Lost,
    /// A settlement of it is on its way.
    #[error("a settlement of the lease is on its way to the log")]
    Settling,
}
