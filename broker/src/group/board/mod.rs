//! Where each event of a group stands that has been met and is not settled.
//!
//! ```text
//!           scanned
//!              │
//!   line held? ├── yes ──> Queued ── the line is released ─┐
//!              └── no ─────────────────────────────────────┤
//!                                                          v
//!            retry time in the future? ── yes ──> Delayed ─┤ due
//!                                                          v
//!    ┌────────────────────────────────────────────────── Ready
//!    │ handed back                                         │ lease
//!    ├──────────────────────────────────────────────────── v
//!    │         failed attempt is durable     ┌────────── Leased
//!    └──────────────────── Settling <────────┘ nack, expiry, ack, reject
//!                             │ ack or dead letter is durable
//!                             v
//!                    settled: gone from here
//!
//!   Held: was leased before a restart of the broker; becomes Leased when its
//!   holder presents the lease, or fails when nobody does in time.
//!   Moving: waits, and is on its way to the group's parking partition.
//! ```
//!
//! A line is a key, or a partition, by the group's ordering. What is ready waits
//! in one of two queues: suspects, which a vanished member had, go only to a
//! holder that has nothing else. [`arriving`] is how events come, [`delivery`]
//! how they are given, [`leases`] what befalls leases, [`settling`]
//! what follows them, [`parked`] what lies in the parking partition meanwhile,
//! [`returning`] where it is after a start, [`counts`] what can be asked.
//!
//! Pure: it knows neither tokio nor the log, and is given the time.

mod anew;
mod arriving;
mod counts;
mod delivery;
mod entry;
mod gone;
mod keeping;
mod lease;
mod leases;
#[cfg(test)]
mod model;
mod parked;
mod progress;
mod returning;
mod settling;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use sluice_proto::Offset;

pub use self::{
    arriving::Arrived,
    counts::{Counts, InFlight},
    delivery::Given,
    lease::{Holder, Holding, Lease, LeaseError, LeaseToken, MemberId, Report},
    leases::{Loss, Vanished},
    parked::Parking,
    returning::Found,
};
use self::{
    arriving::Arriving,
    entry::{Before, Entry, Past},
    lease::{Holders, Place, Waited},
    parked::Lot,
    progress::Progress,
    tokens::Tokens,
};
use super::{
    by_event::{ByEvent, Slot},
    key_lock::{Arrival, KeyLocks, LineId},
    line_name::LineName,
    payloads::KeptAt,
    schedule::Schedule,
};
use crate::commit::{
    SourceState,
    record::{AttemptFailed, GroupConfig, Ordering, Source, due_ms},
};

/// An event of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// Which of the group's sources.
    pub source: usize,
    /// Where in it.
    pub offset: Offset,
}

/// An event on the board, which is found there without a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The event.
    pub id: EventId,
    slot: Slot,
}

/// What the board has to know of the group's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardRules {
    /// Which events go one at a time.
    pub ordering: Ordering,
    /// Later events of a line go on while one waits for its next attempt.
    pub overtake: bool,
    /// How long a lease lasts.
    pub lease_ms: u64,
    /// How long an attempt may take; 0 for no limit.
    pub processing_limit_ms: u64,
    /// Leases of one holder; 0 for no bound.
    pub per_holder_max: usize,
}

impl From<&GroupConfig> for BoardRules {
    fn from(config: &GroupConfig) -> Self {
        Self {
            ordering: config.ordering(),
            overtake: config.overtake,
            lease_ms: config.lease_ms,
            processing_limit_ms: config.processing_limit_ms,
            per_holder_max: config.max_in_flight_per_member as usize,
        }
    }
}

/// A lease from before a restart of the broker.
struct Held {
    token: LeaseToken,
    /// Where it is parked, if it is, and what was tried before.
    parked: Option<(Offset, Before)>,
    key: Option<Bytes>,
    size: u32,
    member: String,
}

/// What an event waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceOf {
    /// It is not on the board.
    Unknown,
    /// Its key, or somebody with credit.
    Waiting,
    /// Its next attempt.
    Delayed,
    /// A member of this name, from before a restart.
    Held(String),
    /// Its holder.
    Leased(Holder),
}

/// The group's unsettled events.
#[derive(Debug)]
pub struct Board {
    sources: Vec<Progress>,
    events: ByEvent<Entry>,
    /// May be given to anybody.
    ready: VecDeque<Seat>,
    /// May be given to a holder that has nothing.
    suspects: VecDeque<Seat>,
    locks: KeyLocks<Slot>,
    leases: Tokens,
    delayed: Schedule<EventId>,
    /// When leases run out that no member's heartbeat keeps.
    deadlines: Schedule<LeaseToken>,
    /// When attempts have taken too long.
    limits: Schedule<LeaseToken>,
    holders: Holders,
    /// Leases in the order in which they were given, for noting.
    young: VecDeque<(u64, LeaseToken)>,
    lot: Lot,
    /// What is in memory of events that are not on it any more, or need not be there.
    unwanted: Vec<KeptAt>,
    epoch: u64,
    rules: BoardRules,
    in_flight: usize,
    held: usize,
    settled_count: u64,
    stirs: u64,
}

impl Board {
    /// The board of a group as it is in the log.
    ///
    /// `wall_ahead_ms` turns wall clock into the group's clock: what is due at
    /// wall time `t` is due at `t - wall_ahead_ms`. `sources` are in order, with
    /// the parking partition among them.
    #[must_use]
    pub fn new(
        sources: Vec<(Source, SourceState)>,
        parking: Parking,
        epoch: u64,
        rules: BoardRules,
        now_ms: u64,
        wall_ahead_ms: u64,
    ) -> Self {
        let mut board = Self {
            sources: Vec::with_capacity(sources.len()),
            events: ByEvent::default(),
            ready: VecDeque::new(),
            suspects: VecDeque::new(),
            locks: KeyLocks::new(),
            leases: Tokens::new(epoch, 1),
            delayed: Schedule::new(),
            deadlines: Schedule::new(),
            limits: Schedule::new(),
            holders: Holders::default(),
            young: VecDeque::new(),
            lot: Lot::new(parking),
            unwanted: Vec::new(),
            epoch,
            rules,
            in_flight: 0,
            held: 0,
            settled_count: 0,
            stirs: 0,
        };
        let indices: Vec<Source> = sources.iter().map(|(source, _)| *source).collect();
        for (at, (source, mut state)) in sources.into_iter().enumerate() {
            for failed in state.attempts.values_mut().flatten() {
                let (at_wall_ms, wait_ms) = (failed.not_before_ms, failed.delay_ms);
                failed.not_before_ms = due_ms(at_wall_ms, wait_ms, now_ms, wall_ahead_ms);
            }
            let committed_end = state.window.committed_end();
            board.sources.push(Progress {
                source,
                scan_next: committed_end,
                delivered_end: committed_end,
                unsettled: 0,
                ends_skipped: false,
                window: state.window,
                attempts: state.attempts,
                ahead: BTreeSet::new(),
                skipped: Vec::new(),
            });
            for (offset, lease) in state.leases {
                let home = lease.home().and_then(|(home, offset)| {
                    let source = indices.binary_search(&home).ok()?;
                    Some(EventId { source, offset })
                });
                let id = home.unwrap_or(EventId { source: at, offset });
                let token = LeaseToken {
                    epoch: lease.token_epoch,
                    counter: lease.token_counter,
                };
                let key = Some(lease.key).filter(|key| !key.is_empty());
                let before = Before {
                    next_attempt: lease.attempt.max(1),
                    suspect: lease.suspect,
                };
                let held = Held {
                    token,
                    parked: home.map(|_| (offset, before)),
                    key,
                    size: lease.size,
                    member: lease.member,
                };
                board.insert_held(id, held, now_ms);
            }
        }
        board.begin_finding();
        board
    }

    fn insert_held(&mut self, id: EventId, held: Held, now_ms: u64) {
        let Held {
            token,
            parked,
            key,
            size,
            member,
        } = held;
        // All attempts of one that is not parked are in its history.
        let (parked_at, before) = parked.unzip();
        let progress = &mut self.sources[id.source];
        progress.delivered_end = progress.delivered_end.max(id.offset.next());
        let history = match parked_at {
            None => {
                progress.ahead.insert(id.offset);
                progress.unsettled += 1;
                progress.attempts.remove(&id.offset)
            }
            Some(at) => {
                self.lot.locations.insert(at, id);
                let parking = self.sources.get_mut(self.lot.parking.source);
                parking.and_then(|parking| parking.attempts.remove(&at))
            }
        };
        let history = history.unwrap_or_default();
        self.deadlines.set(token, now_ms + self.rules.lease_ms);
        if self.rules.processing_limit_ms > 0 {
            // Anew: no clock tells for how long there was no broker.
            let due_ms = now_ms.saturating_add(self.rules.processing_limit_ms);
            self.limits.set(token, due_ms);
        }
        self.held += 1;
        let past = Past {
            before: before.unwrap_or_default(),
            history,
            parked_at,
            ..Past::default()
        };
        let entry = Entry::new(size, past, Place::Held(token, member));
        let slot = self.events.insert(id, entry);
        self.leases.insert(token, slot);
        // It held its line when it was leased, so it is the first of it.
        self.enter_line(slot, key.as_deref().map(LineName::from), now_ms);
    }

    /// An event that has arrived goes in its line, if it has one.
    fn enter_line(
        &mut self,
        slot: Slot,
        key: Option<LineName<'_>>,
        now_ms: u64,
    ) -> Option<(LineId, Arrival)> {
        let (id, entry) = self.events.at_mut(slot)?;
        let source = id.source.to_le_bytes();
        let name = match self.rules.ordering {
            Ordering::None => return None,
            Ordering::Key => key?,
            Ordering::Partition => LineName::from(&source[..]),
        };
        let (line, arrival) = self.locks.arrive(name, slot, now_ms);
        entry.line = Some(line);
        Some((line, arrival))
    }

    /// Bytes of the encoded event, if it is on the board.
    #[must_use]
    pub fn size(&self, id: EventId) -> Option<u32> {
        self.events.get(&id).map(|entry| entry.size)
    }

    /// The key of an event that is in line by it.
    #[must_use]
    pub fn key(&self, id: EventId) -> Option<&[u8]> {
        let line = self.line_of(id)?;
        let is_by_key = self.rules.ordering == Ordering::Key;
        let name = self.locks.name(line).filter(|_| is_by_key)?;
        Some(name)
    }

    /// Number of the attempt that is under way, or would be next; from 1.
    #[must_use]
    pub fn attempt(&self, id: EventId) -> u32 {
        self.events.get(&id).map_or(1, Entry::attempt)
    }

    /// The event's failed attempts since it was parked, if it was; the latest
    /// ones, oldest first. Those from before are beside it in the log.
    #[must_use]
    pub fn history(&self, id: EventId) -> &[AttemptFailed] {
        self.events
            .get(&id)
            .map_or(&[], |entry| entry.past().history.as_slice())
    }

    /// Where an event's place changes, and with it what is counted of it; but for
    /// [`Board::give`], and a lease that is frozen.
    fn set_place(&mut self, id: EventId, place: Place) {
        let Some(entry) = self.events.get_mut(&id) else {
            return;
        };
        let token = place.token();
        let before = std::mem::replace(&mut entry.place, place);
        if before.token() == token && before.lease().is_some() {
            // Thawed: the same lease.
            return;
        }
        if let Some(lease) = entry.place.lease() {
            self.in_flight += 1;
            self.holders.given(lease);
        }
        self.left(&before, token);
    }

    /// An event is not in this place any more. `token` is that of its new place.
    fn left(&mut self, before: &Place, token: Option<LeaseToken>) {
        self.held -= usize::from(matches!(before, Place::Held(..)));
        if let Some(lease) = before.lease() {
            self.in_flight -= 1;
            self.stirs += 1;
            self.holders.ended(lease);
        }
        if let Some(ended) = before.token().filter(|ended| Some(*ended) != token) {
            self.leases.remove(ended);
            self.deadlines.remove(ended);
            self.limits.remove(ended);
        }
    }

    /// What an event waits for.
    #[must_use]
    pub fn place(&self, id: EventId) -> PlaceOf {
        match self.events.get(&id).map(|entry| &entry.place) {
            None if self.lot.returning.contains_key(&id) => PlaceOf::Waiting,
            None => PlaceOf::Unknown,
            Some(Place::Delayed | Place::Moving(Waited::Delay)) => PlaceOf::Delayed,
            Some(Place::Queued | Place::Ready | Place::Failing | Place::Moving(_)) => {
                PlaceOf::Waiting
            }
            Some(Place::Held(_, member)) => PlaceOf::Held(member.clone()),
            Some(Place::Leased(lease) | Place::Settling(lease)) => {
                PlaceOf::Leased(lease.holder.clone())
            }
        }
    }
}
