//! Where each event of a group stands that has been met and is not settled.
//!
//! ```text
//!           scanned
//!              │
//!   key held?  ├── yes ──> Queued ── the key is released ──┐
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
//! ```
//!
//! Pure: it knows neither tokio nor the log, and is given the time.

mod lease;
mod progress;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use sluice_proto::Offset;

pub use self::lease::{Holder, Lease, LeaseError, LeaseToken, MemberId};
use self::{lease::Place, progress::Progress};
use super::{
    key_lock::{Arrival, KeyLocks},
    schedule::Schedule,
};
use crate::commit::{
    AckWindow, SourceState,
    record::{AttemptFailed, Source},
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
    /// Failed attempts, the latest ones, oldest first.
    history: Vec<AttemptFailed>,
    not_before_ms: u64,
    place: Place,
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
}

/// A lease from before a restart of the broker.
struct Held {
    token: LeaseToken,
    key: Option<Bytes>,
    size: u32,
    member: String,
}

/// A count per state, of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // As in `sluice.v1.GroupPartition`.
pub struct Counts {
    pub in_flight: u64,
    pub delayed: u64,
    pub held: u64,
}

/// The group's unsettled events.
#[derive(Debug)]
pub struct Board {
    sources: Vec<Progress>,
    events: HashMap<EventId, Entry>,
    ready: VecDeque<EventId>,
    locks: KeyLocks<EventId>,
    leases: HashMap<LeaseToken, EventId>,
    delayed: Schedule<EventId>,
    /// When leases run out that no member's heartbeat keeps.
    deadlines: Schedule<LeaseToken>,
    /// Leases in the order in which they were given, for noting.
    young: VecDeque<(u64, LeaseToken)>,
    epoch: u64,
    next_counter: u64,
    lease_ms: u64,
    in_flight: usize,
    held: usize,
}

impl Board {
    /// The board of a group as it is in the log.
    ///
    /// `wall_ahead_ms` turns wall clock into the group's clock: what is due at
    /// wall time `t` is due at `t - wall_ahead_ms`.
    #[must_use]
    pub fn new(
        sources: Vec<(Source, SourceState)>,
        epoch: u64,
        lease_ms: u64,
        now_ms: u64,
        wall_ahead_ms: u64,
    ) -> Self {
        let mut board = Self {
            sources: Vec::with_capacity(sources.len()),
            events: HashMap::new(),
            ready: VecDeque::new(),
            locks: KeyLocks::new(),
            leases: HashMap::new(),
            delayed: Schedule::new(),
            deadlines: Schedule::new(),
            young: VecDeque::new(),
            epoch,
            next_counter: 1,
            lease_ms,
            in_flight: 0,
            held: 0,
        };
        for (at, (source, mut state)) in sources.into_iter().enumerate() {
            for failed in state.attempts.values_mut().flatten() {
                failed.not_before_ms = failed.not_before_ms.saturating_sub(wall_ahead_ms);
            }
            let scan_next = state.window.committed_end();
            board.sources.push(Progress {
                source,
                scan_next,
                delivered_end: scan_next,
                window: state.window,
                attempts: state.attempts,
                ahead: BTreeSet::new(),
                skipped: Vec::new(),
            });
            for (offset, lease) in state.leases {
                let id = EventId { source: at, offset };
                let token = LeaseToken {
                    epoch: lease.token_epoch,
                    counter: lease.token_counter,
                };
                let key = Some(lease.key).filter(|key| !key.is_empty());
                let held = Held {
                    token,
                    key,
                    size: lease.size,
                    member: lease.member,
                };
                board.insert_held(id, held, now_ms);
            }
        }
        board
    }

    fn insert_held(&mut self, id: EventId, held: Held, now_ms: u64) {
        let Held {
            token,
            key,
            size,
            member,
        } = held;
        // It held its key when it was leased, so it is the first of it.
        if let Some(key) = &key {
            self.locks.arrive(key.clone(), id);
        }
        let progress = &mut self.sources[id.source];
        progress.delivered_end = progress.delivered_end.max(id.offset.next());
        progress.ahead.insert(id.offset);
        let history = progress.attempts.remove(&id.offset).unwrap_or_default();
        self.leases.insert(token, id);
        self.deadlines.set(token, now_ms + self.lease_ms);
        self.held += 1;
        self.events.insert(
            id,
            Entry {
                key,
                size,
                history,
                not_before_ms: 0,
                place: Place::Held(token, member),
            },
        );
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
        let mut from = self.sources[source].scan_next;
        for arrived in matched {
            self.sources[source].skip(from, arrived.offset);
            from = arrived.offset.next();
            let progress = &mut self.sources[source];
            let offset = arrived.offset;
            if progress.ahead.remove(&offset) || progress.window.is_settled(offset) {
                continue;
            }
            let id = EventId { source, offset };
            self.arrive(id, arrived, now_ms);
            new.push(id);
        }
        self.sources[source].skip(from, next);
        self.sources[source].scan_next = next;
        new
    }

    fn arrive(&mut self, id: EventId, arrived: Arrived, now_ms: u64) {
        let history = self.sources[id.source]
            .attempts
            .remove(&id.offset)
            .unwrap_or_default();
        let arrival = match &arrived.key {
            Some(key) => self.locks.arrive(key.clone(), id),
            None => Arrival::Free,
        };
        self.events.insert(
            id,
            Entry {
                not_before_ms: history.last().map_or(0, |failed| failed.not_before_ms),
                history,
                key: arrived.key,
                size: arrived.size,
                place: Place::Queued,
            },
        );
        if arrival == Arrival::Free {
            self.activate(id, now_ms);
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

    /// The events that are next, at most `count`.
    pub fn first_ready(&self, count: usize) -> impl Iterator<Item = EventId> {
        self.ready.iter().take(count).copied()
    }

    /// Puts the first ready event behind the others.
    pub fn rotate_ready(&mut self) {
        if let Some(first) = self.ready.pop_front() {
            self.ready.push_back(first);
        }
    }

    /// Leases the first ready event. `None` when nothing is ready.
    pub fn lease(&mut self, holder: Holder, now_ms: u64) -> Option<(EventId, LeaseToken)> {
        let id = self.ready.pop_front()?;
        let token = LeaseToken {
            epoch: self.epoch,
            counter: self.next_counter,
        };
        self.next_counter += 1;
        if let Holder::Unary(_) = holder {
            self.deadlines.set(token, now_ms + self.lease_ms);
        }
        let lease = Lease {
            token,
            holder,
            since_ms: now_ms,
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
        Some((id, token))
    }

    /// Takes out the leases that were given before `before_ms` and are still
    /// there.
    pub fn take_outlasting(&mut self, before_ms: u64) -> Vec<LeaseToken> {
        let mut outlasting = Vec::new();
        while let Some((since, token)) = self.young.front().copied()
            && since < before_ms
        {
            self.young.pop_front();
            if self.leased(token).is_ok() {
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
        let last = self.events.get(&id).and_then(|entry| entry.history.last());
        last.map_or(1, |failed| failed.attempt + 1)
    }

    /// The event's failed attempts, the latest ones, oldest first.
    #[must_use]
    pub fn history(&self, id: EventId) -> &[AttemptFailed] {
        self.events
            .get(&id)
            .map_or(&[], |entry| entry.history.as_slice())
    }

    // -------------------------------------------------------------- leases

    /// The event and lease of a token.
    ///
    /// # Errors
    /// When it is not held.
    pub fn leased(&self, token: LeaseToken) -> Result<(EventId, &Lease), LeaseError> {
        let id = *self.leases.get(&token).ok_or(LeaseError::Lost)?;
        match self.events.get(&id).map(|entry| &entry.place) {
            Some(Place::Leased(lease)) => Ok((id, lease)),
            Some(Place::Settling(_)) => Err(LeaseError::Settling),
            _ => Err(LeaseError::Lost),
        }
    }

    /// Gives a lease to the member that presents it. False when it is lost.
    pub fn present(&mut self, token: LeaseToken, member: MemberId, now_ms: u64) -> bool {
        let Some(id) = self.leases.get(&token).copied() else {
            return false;
        };
        let holder = Holder::Member(member);
        match self.events.get_mut(&id).map(|entry| &mut entry.place) {
            Some(Place::Held(..)) => {
                let since_ms = now_ms;
                self.set_place(
                    id,
                    Place::Leased(Lease {
                        token,
                        holder,
                        since_ms,
                    }),
                );
            }
            Some(Place::Leased(lease) | Place::Settling(lease)) => lease.holder = holder,
            _ => return false,
        }
        self.deadlines.remove(token);
        true
    }

    /// Lets a unary lease run anew.
    ///
    /// # Errors
    /// When it is not held.
    pub fn extend(&mut self, token: LeaseToken, now_ms: u64) -> Result<(), LeaseError> {
        self.claim_held(token, now_ms);
        let (_, lease) = self.leased(token)?;
        if let Holder::Unary(_) = lease.holder {
            self.deadlines.set(token, now_ms + self.lease_ms);
        }
        Ok(())
    }

    /// Whoever uses a lease from before a restart, without a stream, has it.
    fn claim_held(&mut self, token: LeaseToken, now_ms: u64) {
        let id = self.leases.get(&token).copied();
        let place = id.and_then(|id| self.events.get(&id)).map(|e| &e.place);
        if let (Some(id), Some(Place::Held(_, member))) = (id, place) {
            let lease = Lease {
                token,
                holder: Holder::Unary(member.clone()),
                since_ms: now_ms,
            };
            self.set_place(id, Place::Leased(lease));
        }
    }

    /// Gives an event back that was not worked on. It keeps its key and is next.
    pub fn hand_back(&mut self, token: LeaseToken) {
        if let Ok((id, _)) = self.leased(token) {
            self.set_place(id, Place::Ready);
            self.ready.push_front(id);
        }
    }

    /// Freezes a lease while its settlement is on its way.
    ///
    /// # Errors
    /// When it is not held, or frozen already.
    pub fn freeze(&mut self, token: LeaseToken, now_ms: u64) -> Result<EventId, LeaseError> {
        self.claim_held(token, now_ms);
        let (id, lease) = self.leased(token)?;
        let lease = lease.clone();
        self.deadlines.remove(token);
        self.set_place(id, Place::Settling(lease));
        Ok(id)
    }

    /// The settlement did not happen: the lease goes on. One whose holder is
    /// gone, or has no stream, has another lease duration.
    pub fn thaw(&mut self, id: EventId, now_ms: u64, is_member: impl Fn(MemberId) -> bool) {
        let Some(Place::Settling(lease)) = self.events.get(&id).map(|entry| &entry.place) else {
            return;
        };
        let lease = lease.clone();
        let kept_by_heartbeats = match lease.holder {
            Holder::Unary(_) => false,
            Holder::Member(member) => is_member(member),
        };
        if !kept_by_heartbeats {
            self.deadlines.set(lease.token, now_ms + self.lease_ms);
        }
        self.set_place(id, Place::Leased(lease));
    }

    /// A failed attempt could not be recorded, and its lease is over: the event
    /// waits until `due_ms`, and is delivered as the same attempt again.
    pub fn unrecorded(&mut self, id: EventId, due_ms: u64) {
        if let Some(entry) = self.events.get(&id)
            && let Place::Failing = entry.place
        {
            self.delayed.set(id, due_ms);
            self.set_place(id, Place::Delayed);
        }
    }

    /// Ends a lease that ran out, or that nobody presented. Returns the event,
    /// whose failed attempt is to be recorded, and who had it.
    pub fn expire(&mut self, token: LeaseToken) -> Option<(EventId, Holder)> {
        let id = *self.leases.get(&token)?;
        let holder = match &self.events.get(&id)?.place {
            Place::Leased(lease) => lease.holder.clone(),
            Place::Held(_, member) => Holder::Unary(member.clone()),
            _ => return None,
        };
        self.set_place(id, Place::Failing);
        Some((id, holder))
    }

    /// The next token whose own deadline has passed.
    pub fn pop_expired(&mut self, now_ms: u64) -> Option<LeaseToken> {
        self.deadlines.pop_due(now_ms)
    }

    /// When the next thing happens by itself.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        [self.delayed.next_due(), self.deadlines.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Makes ready what has waited long enough.
    pub fn wake_delayed(&mut self, now_ms: u64) {
        while let Some(id) = self.delayed.pop_due(now_ms) {
            self.set_place(id, Place::Ready);
            self.ready.push_back(id);
        }
    }

    /// The leases of a member, in the order in which they were given.
    #[must_use]
    pub fn leases_of(&self, member: MemberId) -> Vec<LeaseToken> {
        let mut leases: Vec<_> = self
            .leases
            .keys()
            .filter(|token| {
                self.leased(**token)
                    .is_ok_and(|(_, lease)| lease.holder == Holder::Member(member))
            })
            .copied()
            .collect();
        leases.sort_unstable();
        leases
    }

    // ----------------------------------------------------------- settlement

    /// The event is settled, durably.
    pub fn settled(&mut self, id: EventId, now_ms: u64) {
        self.sources[id.source].window.settle(id.offset);
        self.set_place(id, Place::Queued);
        let Some(entry) = self.events.remove(&id) else {
            return;
        };
        if let Some(key) = &entry.key
            && let Ok(Some(next)) = self.locks.release(key, id)
        {
            self.activate(next, now_ms);
        }
    }

    /// Settles those of these events that wait for delivery, without having
    /// delivered them. Returns how many.
    pub fn drop_ready(&mut self, events: &[EventId], now_ms: u64) -> u64 {
        let is_ready = |id: &&EventId| {
            let entry = self.events.get(id);
            entry.is_some_and(|entry| matches!(entry.place, Place::Ready))
        };
        let gone: HashSet<EventId> = events.iter().filter(is_ready).copied().collect();
        self.ready.retain(|id| !gone.contains(id));
        for id in &gone {
            self.sources[id.source].skip_one(id.offset);
            self.settled(*id, now_ms);
        }
        gone.len() as u64
    }

    /// The event's failed attempt is recorded, durably; `failed.not_before_ms`
    /// is by the group's clock.
    pub fn failed(&mut self, id: EventId, failed: AttemptFailed, now_ms: u64) {
        let Some(entry) = self.events.get_mut(&id) else {
            return;
        };
        entry.not_before_ms = failed.not_before_ms;
        if entry.history.len() == crate::commit::ATTEMPTS_REMEMBERED {
            entry.history.remove(0);
        }
        entry.history.push(failed);
        self.activate(id, now_ms);
    }

    /// Makes an event ready that holds its key, now or when it is due.
    fn activate(&mut self, id: EventId, now_ms: u64) {
        let Some(entry) = self.events.get(&id) else {
            return;
        };
        let due_ms = entry.not_before_ms;
        if due_ms > now_ms {
            self.delayed.set(id, due_ms);
            self.set_place(id, Place::Delayed);
        } else {
            self.ready.push_back(id);
            self.set_place(id, Place::Ready);
        }
    }

    /// The one place where an event's place changes, and with it who finds it by
    /// its lease.
    fn set_place(&mut self, id: EventId, place: Place) {
        let Some(entry) = self.events.get_mut(&id) else {
            return;
        };
        let token = place.token();
        self.in_flight += usize::from(place.is_in_flight());
        let before = std::mem::replace(&mut entry.place, place);
        self.in_flight -= usize::from(before.is_in_flight());
        self.held -= usize::from(matches!(before, Place::Held(..)));
        if before.token() == token {
            return;
        }
        if let Some(ended) = before.token() {
            self.leases.remove(&ended);
            self.deadlines.remove(ended);
        }
        if let Some(token) = token {
            self.leases.insert(token, id);
        }
    }

    // --------------------------------------------------------------- counts

    /// Events under lease.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Events that may be delivered now.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether any event may be delivered now.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Events that are met and not settled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether no event is on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Events behind others of their key.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.locks.waiting()
    }

    /// Events that wait for their next attempt.
    #[must_use]
    pub fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// Whether events are held for members from before a restart.
    #[must_use]
    pub fn has_held(&self) -> bool {
        self.held > 0
    }

    /// What is settled of a source.
    #[must_use]
    pub fn window(&self, source: usize) -> &AckWindow {
        &self.sources[source].window
    }

    /// No event at or above has been delivered, in this run of the broker.
    #[must_use]
    pub fn delivered_end(&self, source: usize) -> Offset {
        let progress = &self.sources[source];
        progress.delivered_end.max(progress.window.committed_end())
    }

    /// The source's place in the log.
    #[must_use]
    pub fn source(&self, source: usize) -> Source {
        self.sources[source].source
    }

    /// Counts of each source. Walks over all events.
    #[must_use]
    pub fn counts(&self) -> Vec<Counts> {
        let mut counts = vec![Counts::default(); self.sources.len()];
        for (id, entry) in &self.events {
            let of = &mut counts[id.source];
            match entry.place {
                Place::Leased(_) | Place::Settling(_) => of.in_flight += 1,
                Place::Delayed => of.delayed += 1,
                Place::Held(..) => of.held += 1,
                Place::Queued | Place::Ready | Place::Failing => {}
            }
        }
        counts
    }
}
