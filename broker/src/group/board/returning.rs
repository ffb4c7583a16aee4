//! Parked events after a start of the broker, or after a seek.
//!
//! What is parked is found first, before anything is scanned. Each event then
//! takes its place when the scan of its first source has come past its first
//! offset: so a line is in the order of its partition again, whatever lies where.

use bytes::Bytes;
use sluice_proto::Offset;

use super::{Arriving, Before, Board, EventId};
use crate::{commit::record::Source, group::line_name::LineName};

/// A parked event that was found in the parking partition.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it lies.
    pub at: Offset,
    /// Where it lay first.
    pub home: Source,
    /// Where in it.
    pub home_offset: Offset,
    /// Its key, in a group that is ordered by key.
    pub key: Option<Bytes>,
    /// Bytes of the encoded event.
    pub size: u32,
    /// When it is due, by the group's clock.
    pub not_before_ms: u64,
    /// The attempt that comes next, from 1.
    pub next_attempt: u32,
    /// A vanished member had it in its last attempt.
    pub suspect: bool,
}

impl Found {
    fn before(&self) -> Before {
        Before {
            next_attempt: self.next_attempt,
            suspect: self.suspect,
        }
    }
}

impl Board {
    /// Finding begins at the first parked event.
    pub(super) fn begin_finding(&mut self) {
        if let Some(parking) = self.sources.get(self.lot.parking.source) {
            self.lot.found_end = parking.scan_next;
        }
    }

    /// Where to look for parked events next; `None` when all are found. Until
    /// then nothing is to be scanned.
    #[must_use]
    pub fn finds_from(&self) -> Option<Offset> {
        Some(self.lot.found_end).filter(|next| *next < self.lot.parking.end)
    }

    /// Takes the parked events that were found from [`Board::finds_from`] up to
    /// `next`.
    pub fn found(&mut self, next: Offset, found: Vec<Found>, now_ms: u64) {
        let parking = self.lot.parking.source;
        for of in found {
            if self.sources[parking].window.is_settled(of.at) {
                continue;
            }
            let home = self.sources.binary_search_by_key(&of.home, |s| s.source);
            let id = match home {
                Ok(source) => EventId {
                    source,
                    offset: of.home_offset,
                },
                // Its partition is never gone.
                Err(_) => continue,
            };
            match self.events.get_mut(&id) {
                Some(held) => held.past_mut().before = of.before(),
                None => drop(self.lot.returning.insert(id, of)),
            }
        }
        self.lot.found_end = self.sources[parking].window.settled_up_to(next);
        if self.finds_from().is_none() {
            for source in (0..self.sources.len()).filter(|source| *source != parking) {
                let scan_next = self.sources[source].scan_next;
                self.come_home(source, scan_next, now_ms);
            }
            self.last_come_home(now_ms);
        }
    }

    /// Whether parked events have not taken their places yet, before which
    /// nothing else of the parking partition may come.
    #[must_use]
    pub fn are_returning(&self) -> bool {
        let first = self.lot.returning.keys().next();
        first.is_some_and(|id| id.source != self.lot.parking.source)
    }

    /// The scan of a source has come to `end`: what had its place below takes it
    /// again.
    pub(super) fn come_home(&mut self, source: usize, end: Offset, now_ms: u64) {
        if self.lot.returning.is_empty() {
            return;
        }
        self.all_come_home(source, end, now_ms);
        if source != self.lot.parking.source {
            self.last_come_home(now_ms);
        }
    }

    /// What was redriven before it was parked has its place among what was redriven,
    /// behind all others.
    pub(super) fn last_come_home(&mut self, now_ms: u64) {
        let parking = self.lot.parking.source;
        let others = self.finds_from().is_some() || self.are_returning();
        if !others && !self.lot.returning.is_empty() {
            let scan_next = self.sources[parking].scan_next;
            self.all_come_home(parking, scan_next, now_ms);
        }
    }

    fn all_come_home(&mut self, source: usize, end: Offset, now_ms: u64) {
        while let Some((id, _)) = self
            .lot
            .returning
            .range(
                EventId {
                    source,
                    offset: Offset(0),
                }..EventId {
                    source,
                    offset: end,
                },
            )
            .next()
        {
            let id = *id;
            if let Some(of) = self.lot.returning.remove(&id) {
                let arriving = Arriving {
                    key: of.key.as_deref().map(LineName::from),
                    size: of.size,
                    parked_at: Some(of.at),
                    before: of.before(),
                    not_before_ms: of.not_before_ms,
                };
                self.arrive(id, arriving, now_ms);
            }
        }
    }
}
