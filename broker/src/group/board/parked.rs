//! Events that lie in the group's parking partition, so that none of them pins
//! the window or a segment of its topic.
//!
//! A parked event keeps its name on the board, which is where it lay first, and
//! so its line and its place in it; only what is read and settled is elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use sluice_proto::Offset;

use super::{
    Before, Board, Entry, EventId, Found,
    lease::{Place, Waited},
};
use crate::{
    commit::record::{AttemptFailed, Ordering},
    group::{by_event::Slot, key_lock::LineId},
};

/// The first events of the parking partition are parked again when all of it is
/// so many times what is unsettled.
const SPREAD_MAX: u64 = 4;

/// Where a group's parking partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parking {
    /// Which of the sources; beyond them if there is none.
    pub source: usize,
    /// What lies below was parked before the board was made.
    pub end: Offset,
}

/// What is parked.
#[derive(Debug)]
pub(super) struct Lot {
    pub(super) parking: Parking,
    /// What is on the board and parked, by where it lies.
    pub(super) locations: BTreeMap<Offset, EventId>,
    /// What was found and waits for the scan to come past its first place.
    pub(super) returning: BTreeMap<EventId, Found>,
    /// Where to go on finding; at `parking.end` everything is found.
    pub(super) found_end: Offset,
    /// Events that may be behind a parked one of their line.
    pub(super) followers: BTreeSet<EventId>,
    /// Events on their way to the parking partition that were not parked before.
    moving: usize,
    /// The last one there that could not be moved: as long as it is the first of all, to
    /// move others from behind it makes no room.
    stuck: Option<Offset>,
}

impl Lot {
    pub(super) fn new(parking: Parking) -> Self {
        Self {
            parking,
            locations: BTreeMap::new(),
            returning: BTreeMap::new(),
            found_end: parking.end,
            followers: BTreeSet::new(),
            moving: 0,
            stuck: None,
        }
    }
}

fn is_parked_and_waits(entry: &Entry) -> bool {
    entry.parked_at().is_some() && matches!(entry.place, Place::Delayed)
}

impl Board {
    // ------------------------------------------------------- where it lies

    /// Where an event lies: in the source that names it, or in the parking
    /// partition.
    #[must_use]
    pub fn at(&self, id: EventId) -> EventId {
        if self.lot.locations.is_empty() {
            // As mostly.
            return id;
        }
        match self.events.get(&id).and_then(Entry::parked_at) {
            Some(offset) => EventId {
                source: self.lot.parking.source,
                offset,
            },
            None => id,
        }
    }

    /// The event is at `at` in the parking partition, durably, and settled where
    /// it lay before. `failed` is the attempt that ended with it, if one did;
    /// `failed.not_before_ms` is by the group's clock.
    pub fn parked(&mut self, id: EventId, at: Offset, failed: Option<&AttemptFailed>, now_ms: u64) {
        let from = self.at(id);
        let Some(entry) = self.events.get_mut(&id) else {
            return;
        };
        let before = match failed {
            Some(failed) => Before {
                next_attempt: failed.next_attempt(),
                suspect: failed.suspect,
            },
            None => Before {
                next_attempt: entry.attempt(),
                suspect: entry.is_suspect(),
            },
        };
        let past = entry.past_mut();
        past.before = before;
        past.history.clear();
        let was_parked = past.parked_at.replace(at);
        if let Some(failed) = failed {
            past.not_before_ms = failed.not_before_ms;
        }
        self.sources[from.source].window.settle(from.offset);
        match was_parked {
            Some(before) => drop(self.lot.locations.remove(&before)),
            None => self.sources[id.source].unsettled -= 1,
        }
        self.lot.locations.insert(at, id);
        self.pass_over_parked(now_ms);
        match failed {
            Some(_) => self.activate_event(id, now_ms),
            None => self.end_move(id, was_parked.is_some(), now_ms),
        }
    }

    /// What is known to be parked need not be read.
    fn pass_over_parked(&mut self, now_ms: u64) {
        if let Some(parking) = self.sources.get_mut(self.lot.parking.source) {
            while self.lot.locations.contains_key(&parking.scan_next) {
                let next = parking.scan_next.next();
                parking.scan_next = parking.window.settled_up_to(next);
            }
        }
        self.last_come_home(now_ms);
    }

    /// Sends a waiting event on its way to the parking partition. False when it
    /// does not wait any more.
    pub fn begin_move(&mut self, id: EventId) -> bool {
        let Some(entry) = self.events.get(&id) else {
            return false;
        };
        let waited = match entry.place {
            Place::Queued => Waited::Line,
            Place::Delayed => Waited::Delay,
            _ => return false,
        };
        if entry.parked_at().is_none() {
            self.lot.moving += 1;
        }
        self.delayed.remove(id);
        self.set_place(id, Place::Moving(waited));
        true
    }

    /// It stays where it is.
    pub fn not_moved(&mut self, id: EventId, now_ms: u64) {
        let was_parked = self.is_parked(id);
        self.end_move(id, was_parked, now_ms);
        let at = self.at(id);
        if at.source == self.lot.parking.source {
            self.lot.stuck = Some(at.offset);
        }
    }

    /// It stays where it is for now: if it was to follow a parked event, it still is.
    pub fn not_moved_yet(&mut self, id: EventId, now_ms: u64) {
        let was_parked = self.is_parked(id);
        self.end_move(id, was_parked, now_ms);
        if let Some(line) = self.line_of(id).filter(|_| !was_parked) {
            self.lot_follows(id, line);
        }
    }

    /// The event was gone when it was to be moved, and is settled.
    pub fn moved_nowhere(&mut self, id: EventId, now_ms: u64) {
        self.not_moved(id, now_ms);
        self.delayed.remove(id);
        self.ready.retain(|ready| ready.id != id);
        self.suspects.retain(|ready| ready.id != id);
        self.settled(id, now_ms);
    }

    fn end_move(&mut self, id: EventId, was_parked: bool, now_ms: u64) {
        let Some(Place::Moving(waited)) = self.events.get(&id).map(|entry| &entry.place) else {
            return;
        };
        let waited = *waited;
        if !was_parked {
            self.lot.moving -= 1;
        }
        self.set_place(id, Place::Queued);
        match waited {
            Waited::Line => {}
            Waited::Turn => self.activate_event(id, now_ms),
            Waited::Delay => {
                let due_ms = self
                    .events
                    .get(&id)
                    .map_or(0, |entry| entry.past().not_before_ms);
                self.delayed.set(id, due_ms);
                self.set_place(id, Place::Delayed);
                if !self.rules.overtake
                    && let Some(line) = self.line_of(id)
                {
                    self.lot_is_followed(id, line);
                }
            }
        }
    }

    // ------------------------------------------------------------ followers

    /// An event came to a line that another one holds.
    pub(super) fn lot_follows(&mut self, id: EventId, line: LineId) {
        if self.holder_is_parked(line) {
            self.lot.followers.insert(id);
        }
    }

    /// An event waits for its next attempt and keeps its line.
    pub(super) fn lot_is_followed(&mut self, id: EventId, line: LineId) {
        let waits = self.events.get(&id).is_some_and(is_parked_and_waits);
        if !waits || self.rules.ordering != Ordering::Key {
            return;
        }
        let events = &self.events;
        let unparked = |slot: &Slot| {
            let (id, entry) = events.at(*slot)?;
            entry.parked_at().is_none().then_some(*id)
        };
        let followers = self.locks.waiting_behind(line).filter_map(unparked);
        self.lot.followers.extend(followers);
    }

    pub(super) fn holder_is_parked(&self, line: LineId) -> bool {
        let holder = self.locks.holder(line);
        let entry = holder.and_then(|slot| self.events.at(*slot));
        entry.is_some_and(|(_, entry)| is_parked_and_waits(entry))
    }

    /// Takes out events that wait for a line whose first event is parked, at
    /// most `count`.
    pub fn take_followers(&mut self, count: usize) -> Vec<EventId> {
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(id) = self.lot.followers.pop_first()
        {
            let waits = self.events.get(&id).is_some_and(|entry| {
                entry.parked_at().is_none() && matches!(entry.place, Place::Queued)
            });
            let line = self.line_of(id).filter(|_| waits);
            if line.is_some_and(|line| self.holder_is_parked(line)) {
                taken.push(id);
            }
        }
        taken
    }

    // --------------------------------------------------------------- bounds

    /// Whether an event is parked.
    #[must_use]
    pub fn is_parked(&self, id: EventId) -> bool {
        self.at(id) != id || self.lot.returning.contains_key(&id)
    }

    /// Events that are parked, or on their way there.
    #[must_use]
    pub fn parked_events(&self) -> usize {
        self.lot.locations.len() + self.lot.returning.len() + self.lot.moving
    }

    /// The source that is the parking partition; beyond them if there is none.
    #[must_use]
    pub fn parking_source(&self) -> usize {
        self.lot.parking.source
    }

    /// When the event is due, by the group's clock.
    #[must_use]
    pub fn not_before_ms(&self, id: EventId) -> u64 {
        self.events
            .get(&id)
            .map_or(0, |entry| entry.past().not_before_ms)
    }

    /// Whether a vanished member had the event in its last attempt.
    #[must_use]
    pub fn is_suspect(&self, id: EventId) -> bool {
        self.events.get(&id).is_some_and(Entry::is_suspect)
    }

    /// Events that are met and not settled, those counted in that have not come
    /// back to the board since a start.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.events.len() + self.lot.returning.len()
    }

    /// Events on the board that are not parked.
    #[must_use]
    pub fn unparked(&self) -> usize {
        self.events.len() - self.lot.locations.len()
    }

    /// Events of a source that are on the board and not parked.
    #[must_use]
    pub fn unparked_of(&self, source: usize) -> usize {
        self.sources[source].unsettled
    }

    /// Waiting events that may be parked to make room, at most `count`: those
    /// first whose line is held by one and the same event since `stuck_since_ms`
    /// or before, and the latest of them. Walks over all events.
    #[must_use]
    pub fn movable(&self, count: usize, stuck_since_ms: u64) -> Vec<EventId> {
        let is_stuck = |entry: &Entry| {
            let since = entry.line.and_then(|line| self.locks.held_since(line));
            since.is_some_and(|since| since <= stuck_since_ms)
        };
        let mut movable: Vec<(bool, EventId)> = self
            .events
            .iter()
            .filter(|(_, entry)| entry.parked_at().is_none())
            .filter_map(|(id, entry)| match entry.place {
                Place::Queued if is_stuck(entry) => Some((true, *id)),
                Place::Delayed => Some((false, *id)),
                _ => None,
            })
            .collect();
        movable.sort_unstable_by(|a, b| b.cmp(a));
        movable.truncate(count);
        movable.into_iter().map(|(_, id)| id).collect()
    }

    /// The first events of the parking partition, at most `count`, if they pin
    /// many that are settled, `spread_min` at least: they are to be parked again,
    /// behind the others.
    #[must_use]
    pub fn stragglers(&self, count: usize, spread_min: u64) -> Vec<EventId> {
        let parking = self.lot.parking.source;
        let Some(of) = self.sources.get(parking) else {
            return Vec::new();
        };
        // What is on its way to the partition is neither settled nor known.
        let end = of.window.settled_end();
        let first = of.window.committed_end();
        let unsettled = (self.lot.locations.len() + of.unsettled) as u64;
        if end.0.saturating_sub(first.0) < spread_min.max(SPREAD_MAX * unsettled)
            || self.are_returning()
            || self.lot.stuck == Some(first)
        {
            return Vec::new();
        }
        let waits = |id: &EventId| {
            let entry = self.events.get(id);
            entry.is_some_and(|entry| matches!(entry.place, Place::Queued | Place::Delayed))
        };
        let unsettled = of.window.unsettled(first, end);
        let ids = unsettled.map(|offset| match self.lot.locations.get(&offset) {
            Some(id) => *id,
            None => EventId {
                source: parking,
                offset,
            },
        });
        ids.take_while(waits).take(count).collect()
    }

    /// The parked events of a source: where each was first, and where it lies.
    pub fn parked_of(&self, source: usize) -> impl Iterator<Item = (Offset, Offset)> {
        let here = self.lot.locations.iter().map(|(at, id)| (*id, *at));
        let returning = self.lot.returning.iter();
        let returning = returning.map(|(id, of)| (*id, of.at));
        here.chain(returning)
            .filter(move |(id, _)| id.source == source)
            .map(|(id, at)| (id.offset, at))
    }
}
