//! Leases, and the places in which an event can be.

use std::collections::HashMap;

use crate::group::by_number::ByNumber;

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A member on a stream, whose heartbeats keep it.
    Member(MemberId),
    /// Somebody who pulled, and extends it, or not.
    Unary(String),
}

/// How far the work on an event is, as its worker says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// 0 to 100.
    pub percent: Option<u8>,
    /// In words.
    pub note: String,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its token.
    pub token: LeaseToken,
    /// Who has it.
    pub holder: Holder,
    /// Since when, by this run of the broker.
    pub since_ms: u64,
    /// It was given as a suspect, to a holder that held nothing.
    pub solo: bool,
    /// What its worker said last.
    pub report: Option<Box<Report>>,
    /// It is noted in the log.
    pub noted: bool,
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
    /// Waits, and is on its way to the parking partition.
    Moving(Waited),
}

/// What an event waits for that is on its way to the parking partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// Its line.
    Line,
    /// Nothing any more: it has got its line meanwhile.
    Turn,
    /// Its next attempt.
    Delay,
}

impl Place {
    pub(super) fn token(&self) -> Option<LeaseToken> {
        match self {
            Self::Leased(lease) | Self::Settling(lease) => Some(lease.token),
            Self::Held(token, _) => Some(*token),
            Self::Queued | Self::Ready | Self::Delayed | Self::Failing | Self::Moving(_) => None,
        }
    }

    /// The lease is being settled from now on.
    pub(super) fn freeze(&mut self) -> Result<(), LeaseError> {
        match std::mem::replace(self, Self::Queued) {
            Self::Leased(lease) => {
                *self = Self::Settling(lease);
                Ok(())
            }
            other => {
                let settling = matches!(other, Self::Settling(_));
                *self = other;
                Err(if settling {
                    LeaseError::Settling
                } else {
                    LeaseError::Lost
                })
            }
        }
    }

    pub(super) fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Leased(lease) | Self::Settling(lease) => Some(lease),
            _ => None,
        }
    }
}

/// What one holder has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Leases, settlements on their way counted in.
    pub leases: usize,
    /// Those of them that are suspects; then it is the only one.
    pub suspects: usize,
    /// It has vanished from a lease while it had others, and was not heard of
    /// since.
    pub(super) vanishing: bool,
}

/// What each holder has that has anything.
#[derive(Debug, Default)]
pub(super) struct Holders {
    members: ByNumber<MemberId, Holding>,
    unary: HashMap<String, Holding>,
    suspects: usize,
}

impl Holders {
    pub(super) fn of(&self, holder: &Holder) -> Holding {
        let holding = match holder {
            Holder::Member(id) => self.members.get(id),
            Holder::Unary(name) => self.unary.get(name),
        };
        holding.copied().unwrap_or_default()
    }

    /// Suspects under lease.
    pub(super) fn suspects(&self) -> usize {
        self.suspects
    }

    pub(super) fn given(&mut self, lease: &Lease) {
        let holding = match &lease.holder {
            Holder::Member(id) => self.members.entry(*id).or_default(),
            Holder::Unary(name) => self.unary.entry(name.clone()).or_default(),
        };
        holding.leases += 1;
        holding.suspects += usize::from(lease.solo);
        self.suspects += usize::from(lease.solo);
    }

    pub(super) fn ended(&mut self, lease: &Lease) {
        let Some(holding) = self.get_mut(&lease.holder) else {
            return;
        };
        holding.leases -= 1;
        holding.suspects -= usize::from(lease.solo);
        if holding.leases == 0 {
            match &lease.holder {
                Holder::Member(id) => drop(self.members.remove(id)),
                Holder::Unary(name) => drop(self.unary.remove(name)),
            }
        }
        self.suspects -= usize::from(lease.solo);
    }

    pub(super) fn vanishing(&mut self, holder: &Holder, vanishing: bool) {
        if let Some(holding) = self.get_mut(holder) {
            holding.vanishing = vanishing;
        }
    }

    fn get_mut(&mut self, holder: &Holder) -> Option<&mut Holding> {
        match holder {
            Holder::Member(id) => self.members.get_mut(id),
            Holder::Unary(name) => self.unary.get_mut(name),
        }
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
