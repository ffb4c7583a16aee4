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
//! holder that has nothing else. [`leases`] is what befalls leases, [`settling`]
//! what follows them, [`parked`] what lies in the parking partition meanwhile,
//! [`returning`] where it is after a start, [`counts`] what can be asked.
//!
//! Pure: it knows neither tokio nor the log, and is given the time.

mod anew;
mod counts;
mod gone;
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

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use sluice_proto::Offset;

pub use self::{
    counts::{Counts, InFlight},
    lease::{Holder, Holding, Lease, LeaseError, LeaseToken, MemberId, Report},
    leases::{Loss, Vanished},
    parked::Parking,
    returning::Found,
};
use self::{
    lease::{Holders, Place, Waited},
    parked::{Before, Lot},
    progress::Progress,
};
use super::{
    key_lock::{Arrival, KeyLocks},
    schedule::Schedule,
};
use crate::commit::{
    SourceState,
    record::{AttemptFailed, GroupConfig, Ordering, Source},
};

/// An event of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// Which of the group's sources.
    pub source: usize,
    /// Where in it.
    pub offset: Offset,
}

#[derive(Debug)]
struct Entry {
    key: Option<Bytes>,
    size: u32,
    /// What was tried before it was parked.
    before: Before,
    /// Failed attempts since, the latest ones, oldest first.
    history: Vec<AttemptFailed>,
    not_before_ms: u64,
    /// Where it is in the parking partition, if it is there.
    parked_at: Option<Offset>,
    place: Place,
}

impl Entry {
    /// A vanished member had it, in its last attempt.
    fn is_suspect(&self) -> bool {
        let last = self.history.last();
        last.map_or(self.before.suspect, |failed| failed.suspect)
    }

    fn attempt(&self) -> u32 {
        let last = self.history.last();
        last.map_or(self.before.next_attempt, AttemptFailed::next_attempt)
    }
}

/// What goes one event at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum LineName {
    Key(Bytes),
    Source(usize),
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

/// An event that the group is to deliver.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Where in its source.
    pub offset: Offset,
    /// Its key, in a group that is ordered by key.
    pub key: Option<Bytes>,
    /// Bytes of the encoded event.
    pub size: u32,
    /// It was parked: whoever has its place in the group is known already.
    pub parked: bool,
}

/// An event that takes its place on the board.
#[derive(Debug)]
struct Arriving {
    key: Option<Bytes>,
    size: u32,
    parked_at: Option<Offset>,
    before: Before,
    not_before_ms: u64,
}

/// A lease from before a restart of the broker.
struct Held {
    token: LeaseToken,
    parked_at: Option<Offset>,
    key: Option<Bytes>,
    size: u32,
    member: String,
    /// When its attempt has taken too long.
    limit_ms: Option<u64>,
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
    events: HashMap<EventId, Entry>,
    /// May be given to anybody.
    ready: VecDeque<EventId>,
    /// May be given to a holder that has nothing.
    suspects: VecDeque<EventId>,
    locks: KeyLocks<LineName, EventId>,
    leases: HashMap<LeaseToken, EventId>,
    delayed: Schedule<EventId>,
    /// When leases run out that no member's heartbeat keeps.
    deadlines: Schedule<LeaseToken>,
    /// When attempts have taken too long.
    limits: Schedule<LeaseToken>,
    holders: Holders,
    /// Leases in the order in which they were given, for noting.
    young: VecDeque<(u64, LeaseToken)>,
    lot: Lot,
    epoch: u64,
    next_counter: u64,
    rules: BoardRules,
    in_flight: usize,
    held: usize,
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
            events: HashMap::new(),
            ready: VecDeque::new(),
            suspects: VecDeque::new(),
            locks: KeyLocks::new(),
            leases: HashMap::new(),
            delayed: Schedule::new(),
            deadlines: Schedule::new(),
            limits: Schedule::new(),
            holders: Holders::default(),
            young: VecDeque::new(),
            lot: Lot::new(parking),
            epoch,
            next_counter: 1,
            rules,
            in_flight: 0,
            held: 0,
        };
        let indices: Vec<Source> = sources.iter().map(|(source, _)| *source).collect();
        for (at, (source, mut state)) in sources.into_iter().enumerate() {
            for failed in state.attempts.values_mut().flatten() {
                failed.not_before_ms = failed.not_before_ms.saturating_sub(wall_ahead_ms);
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
                let held = Held {
                    token,
                    parked_at: home.map(|_| offset),
                    key,
                    size: lease.size,
                    member: lease.member,
                    limit_ms: (rules.processing_limit_ms > 0).then(|| {
                        let since_ms = match lease.since_ms {
                            0 => now_ms,
                            wall_ms => wall_ms.saturating_sub(wall_ahead_ms),
                        };
                        since_ms.saturating_add(rules.processing_limit_ms)
                    }),
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
            parked_at,
            key,
            size,
            member,
            limit_ms,
        } = held;
        // It held its line when it was leased, so it is the first of it.
        if let Some(line) = self.line(id, key.as_ref()) {
            self.locks.arrive(line, id);
        }
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
        self.leases.insert(token, id);
        self.deadlines.set(token, now_ms + self.rules.lease_ms);
        if let Some(limit_ms) = limit_ms {
            self.limits.set(token, limit_ms);
        }
        self.held += 1;
        self.events.insert(
            id,
            Entry {
                key,
                size,
                before: Before::default(),
                history,
                not_before_ms: 0,
                parked_at,
                place: Place::Held(token, member),
            },
        );
    }

    /// The line in which an event goes.
    fn line(&self, id: EventId, key: Option<&Bytes>) -> Option<LineName> {
        match self.rules.ordering {
            Ordering::None => None,
            Ordering::Key => key.cloned().map(LineName::Key),
            Ordering::Partition => Some(LineName::Source(id.source)),
        }
    }

    // ------------------------------------------------------------- scanning

    /// How many sources there are.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// The next offset of a source to look at.
    #[must_use]
    pub fn scan_next(&self, source: usize) -> Offset {
        self.sources[source].scan_next
    }

    /// Takes what was found from the source's [`Board::scan_next`] up to `next`.
    /// What is not in `matched` is skipped. Returns those that are new and wait
    /// for delivery.
    pub fn scanned(
        &mut self,
        source: usize,
        next: Offset,
        matched: Vec<Arrived>,
        now_ms: u64,
    ) -> Vec<EventId> {
        let mut new = Vec::new();
        // It may have moved on since the page was asked for.
        let scan_next = self.sources[source].scan_next;
        let next = next.max(scan_next);
        let mut from = scan_next;
        for arrived in matched.into_iter().filter(|of| of.offset >= scan_next) {
            self.sources[source].skip(from, arrived.offset);
            from = arrived.offset.next();
            let progress = &mut self.sources[source];
            let offset = arrived.offset;
            if progress.ahead.remove(&offset) || progress.window.is_settled(offset) {
                continue;
            }
            if arrived.parked {
                continue;
            }
            self.come_home(source, offset, now_ms);
            let id = EventId { source, offset };
            let arriving = Arriving {
                key: arrived.key,
                size: arrived.size,
                parked_at: None,
                before: Before::default(),
                not_before_ms: 0,
            };
            self.arrive(id, arriving, now_ms);
            new.push(id);
        }
        let progress = &mut self.sources[source];
        let last = Offset(next.0.saturating_sub(1));
        if from < next && !progress.window.is_settled(last) && !progress.ahead.contains(&last) {
            progress.ends_skipped = true;
        } else if !new.is_empty() {
            progress.ends_skipped = false;
        }
        progress.skip(from, next);
        // What is settled beyond need not be read again.
        progress.scan_next = progress.window.settled_up_to(next);
        let scan_next = progress.scan_next;
        self.come_home(source, scan_next, now_ms);
        new
    }

    fn arrive(&mut self, id: EventId, arriving: Arriving, now_ms: u64) {
        let history = match arriving.parked_at {
            None => {
                let progress = &mut self.sources[id.source];
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
        let line = self.line(id, arriving.key.as_ref());
        let arrival = match &line {
            Some(line) => self.locks.arrive(line.clone(), id),
            None => Arrival::Free,
        };
        let last_ms = history.last().map(|failed| failed.not_before_ms);
        self.events.insert(
            id,
            Entry {
                not_before_ms: last_ms.unwrap_or(arriving.not_before_ms),
                before: arriving.before,
                history,
                key: arriving.key,
                size: arriving.size,
                parked_at: arriving.parked_at,
                place: Place::Queued,
            },
        );
        match (arrival, line) {
            (Arrival::Queued, Some(line)) => self.lot_follows(id, &line),
            _ => self.activate(id, now_ms),
        }
    }

    /// Takes out the runs that were skipped and are not in the log.
    pub fn take_skipped(&mut self) -> Vec<(Source, Vec<(Offset, u64)>)> {
        self.sources
            .iter_mut()
            .filter(|progress| !progress.skipped.is_empty())
            .map(|progress| (progress.source, std::mem::take(&mut progress.skipped)))
            .collect()
    }

    // ------------------------------------------------------------- delivery

    /// The event that has been ready for longest.
    #[must_use]
    pub fn next_ready(&self) -> Option<EventId> {
        self.ready.front().copied()
    }

    /// The suspect that has been ready for longest.
    #[must_use]
    pub fn next_suspect(&self) -> Option<EventId> {
        self.suspects.front().copied()
    }

    /// The events that are next, at most `count`, suspects first.
    pub fn first_ready(&self, count: usize) -> impl Iterator<Item = EventId> {
        self.suspects.iter().chain(&self.ready).take(count).copied()
    }

    /// Puts the first ready event behind the others.
    pub fn rotate_ready(&mut self) {
        if let Some(first) = self.ready.pop_front() {
            self.ready.push_back(first);
        }
    }

    /// Puts the first suspect behind the others.
    pub fn rotate_suspects(&mut self) {
        if let Some(first) = self.suspects.pop_front() {
            self.suspects.push_back(first);
        }
    }

    /// Whether a holder may be given an event that is not suspect: it has no
    /// suspect, and fewer leases than it may have.
    #[must_use]
    pub fn may_have_more(&self, holder: &Holder) -> bool {
        let holding = self.holders.of(holder);
        let cap = self.rules.per_holder_max;
        holding.suspects == 0 && (cap == 0 || holding.leases < cap)
    }

    /// Leases the first ready event. `None` when nothing is ready.
    pub fn lease(&mut self, holder: Holder, now_ms: u64) -> Option<(EventId, LeaseToken)> {
        let id = self.ready.pop_front()?;
        Some((id, self.give(id, holder, false, now_ms)))
    }

    /// Leases the first suspect, to a holder that has nothing. `None` when there
    /// is none.
    pub fn lease_suspect(&mut self, holder: Holder, now_ms: u64) -> Option<(EventId, LeaseToken)> {
        let id = self.suspects.pop_front()?;
        Some((id, self.give(id, holder, true, now_ms)))
    }

    fn give(&mut self, id: EventId, holder: Holder, solo: bool, now_ms: u64) -> LeaseToken {
        let token = LeaseToken {
            epoch: self.epoch,
            counter: self.next_counter,
        };
        self.next_counter += 1;
        if let Holder::Unary(_) = holder {
            self.deadlines.set(token, now_ms + self.rules.lease_ms);
        }
        if self.rules.processing_limit_ms > 0 {
            self.limits
                .set(token, now_ms + self.rules.processing_limit_ms);
        }
        let lease = Lease {
            token,
            holder,
            since_ms: now_ms,
            solo,
            report: None,
            noted: false,
        };
        self.set_place(id, Place::Leased(lease));
        let progress = &mut self.sources[id.source];
        progress.delivered_end = progress.delivered_end.max(id.offset.next());
        while let Some((_, oldest)) = self.young.front()
            && !self.leases.contains_key(oldest)
        {
            self.young.pop_front();
        }
        self.young.push_back((now_ms, token));
        token
    }

    /// Takes out leases that were given before `before_ms` and are still there,
    /// the oldest ones, at most `count`.
    pub fn take_outlasting(&mut self, before_ms: u64, count: usize) -> Vec<LeaseToken> {
        let mut outlasting = Vec::new();
        while outlasting.len() < count
            && let Some((since, token)) = self.young.front().copied()
            && since < before_ms
        {
            self.young.pop_front();
            let id = self.leased(token).map(|(id, _)| id);
            if let Ok(id) = id
                && let Some(Place::Leased(lease)) = self.events.get_mut(&id).map(|e| &mut e.place)
            {
                lease.noted = true;
                outlasting.push(token);
            }
        }
        outlasting
    }

    /// When the oldest lease was given that was not taken out yet.
    #[must_use]
    pub fn oldest_young(&self) -> Option<u64> {
        self.young.front().map(|(since, _)| *since)
    }

    /// The event's size and key.
    #[must_use]
    pub fn size_and_key(&self, id: EventId) -> Option<(u32, Option<&Bytes>)> {
        let entry = self.events.get(&id)?;
        Some((entry.size, entry.key.as_ref()))
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
            .map_or(&[], |entry| entry.history.as_slice())
    }

    /// The one place where an event's place changes, and with it who finds it by
    /// its lease.
    fn set_place(&mut self, id: EventId, place: Place) {
        let Some(entry) = self.events.get_mut(&id) else {
            return;
        };
        let token = place.token();
        let before = std::mem::replace(&mut entry.place, place);
        self.held -= usize::from(matches!(before, Place::Held(..)));
        if before.token() == token && before.lease().is_some() {
            // Frozen or thawed: the same lease.
            return;
        }
        if let Some(lease) = before.lease() {
            self.in_flight -= 1;
            self.holders.ended(lease);
        }
        if let Some(lease) = entry.place.lease() {
            self.in_flight += 1;
            self.holders.given(lease);
        }
        if before.token() == token {
            return;
        }
        if let Some(ended) = before.token() {
            self.leases.remove(&ended);
            self.deadlines.remove(ended);
            self.limits.remove(ended);
        }
        if let Some(token) = token {
            self.leases.insert(token, id);
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
