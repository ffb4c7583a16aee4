//! How events are given: what is next, to whom it may go, and its lease.

use super::{Board, EventId, Holder, Lease, LeaseToken, Seat, lease::Place};
use crate::group::payloads::KeptAt;

/// An event that was given to somebody.
#[derive(Debug)]
#[must_use]
pub struct Given {
    /// Which.
    pub id: EventId,
    /// The lease.
    pub token: LeaseToken,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Where it is in memory, if it is. Whoever it is given to takes it from there.
    pub kept: Option<KeptAt>,
}

impl Board {
    /// The next lease has this counter, or a higher one. Nothing is leased yet.
    pub fn count_leases_from(&mut self, counter: u64) {
        self.leases.count_from(counter);
    }

    /// The event that has been ready for longest.
    #[must_use]
    pub fn next_ready(&self) -> Option<Seat> {
        self.ready.front().copied()
    }

    /// The suspect that has been ready for longest.
    #[must_use]
    pub fn next_suspect(&self) -> Option<Seat> {
        self.suspects.front().copied()
    }

    /// The events that are next: `count` suspects at most, and then as many others.
    pub fn first_ready(&self, count: usize) -> impl Iterator<Item = Seat> {
        let suspects = self.suspects.iter().take(count);
        suspects.chain(self.ready.iter().take(count)).copied()
    }

    /// Suspects that wait for somebody who holds nothing.
    pub fn waiting_suspects(&self) -> impl Iterator<Item = Seat> {
        self.suspects.iter().copied()
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

    /// The ready events, in the order in which they are leased.
    pub fn ready_in_order(&self) -> impl Iterator<Item = Seat> {
        self.ready.iter().copied()
    }

    /// How many events that are not suspect a holder may be given: none while it has
    /// a suspect.
    #[must_use]
    pub fn may_have(&self, holder: &Holder) -> usize {
        let holding = self.holders.of(holder);
        match self.rules.per_holder_max {
            _ if holding.suspects > 0 => 0,
            0 => usize::MAX,
            cap => cap.saturating_sub(holding.leases),
        }
    }

    /// Whether a holder may be given an event that is not suspect.
    #[must_use]
    pub fn may_have_more(&self, holder: &Holder) -> bool {
        self.may_have(holder) > 0
    }

    /// Leases the first ready event. `None` when nothing is ready.
    pub fn lease(&mut self, holder: Holder, now_ms: u64) -> Option<Given> {
        let seat = self.ready.pop_front()?;
        self.give(seat, holder, false, now_ms)
    }

    /// Leases the first suspect, to a holder that has nothing. `None` when there
    /// is none.
    pub fn lease_suspect(&mut self, holder: Holder, now_ms: u64) -> Option<Given> {
        let seat = self.suspects.pop_front()?;
        self.give(seat, holder, true, now_ms)
    }

    /// Leases an event that was ready.
    fn give(&mut self, seat: Seat, holder: Holder, solo: bool, now_ms: u64) -> Option<Given> {
        let Seat { id, slot } = seat;
        let (there, entry) = self.events.at_mut(slot)?;
        if *there != id || !matches!(entry.place, Place::Ready) {
            return None;
        }
        let token = self.leases.give(slot);
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
        self.in_flight += 1;
        self.holders.given(&lease);
        entry.place = Place::Leased(lease);
        let (attempt, kept) = (entry.attempt(), entry.kept.take());
        let progress = &mut self.sources[id.source];
        progress.delivered_end = progress.delivered_end.max(id.offset.next());
        while let Some((_, oldest)) = self.young.front()
            && self.leases.get(*oldest).is_none()
        {
            self.young.pop_front();
        }
        self.young.push_back((now_ms, token));
        Some(Given {
            id,
            token,
            attempt,
            kept,
        })
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
                && !lease.noted
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
}
