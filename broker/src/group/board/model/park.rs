//! Parking, as the group's task does it.

use super::*;

const LONG_MS: u64 = 300;

/// What lies in the parking partition.
#[derive(Clone, Debug)]
pub(super) enum InParking {
    /// The times of it are by the wall clock.
    Parked(Found),
    /// It has its first place there.
    Redriven(EventId),
}

impl Run {
    /// Where an event lies.
    pub(super) fn lies(&self, id: EventId) -> EventId {
        match self.events[&id].parked_at {
            Some(offset) => EventId {
                source: self.lot(),
                offset,
            },
            None => id,
        }
    }

    pub(super) fn parks(&self) -> bool {
        self.rules.ordering != Ordering::Partition
    }

    /// The frame that parks an event.
    fn park_in_log(&mut self, id: EventId) -> Offset {
        let event = &self.events[&id];
        let at = Offset(self.parking.len() as u64);
        self.parking.push(InParking::Parked(Found {
            at,
            home: source_of(id.source, self.lot()),
            home_offset: id.offset,
            key: self.key_of(id),
            size: 1,
            not_before_ms: event.due_ms,
            next_attempt: event.counted + 1,
            suspect: event.suspect,
        }));
        self.settle_in_log(id);
        self.event_mut(id).parked_at = Some(at);
        at
    }

    /// The same at the end of an attempt that has failed.
    pub(super) fn park_failed_in_log(&mut self, id: EventId) -> AttemptFailed {
        let due_ms = self.now + LONG_MS;
        let event = self.event_mut(id);
        event.counted += 1;
        event.suspect = false;
        event.has_failed = true;
        event.due_ms = due_ms;
        let failed = AttemptFailed {
            attempt: event.counted,
            not_before_ms: due_ms,
            ..AttemptFailed::default()
        };
        self.park_in_log(id);
        failed
    }

    /// What is behind a parked event sets out.
    pub(super) fn follow(&mut self) {
        let followers = self.board.take_followers(self.rng.random_range(1..5));
        for id in &followers {
            let hold = self.rules.ordering == Ordering::Key && !self.rules.overtake;
            assert!(hold, "{id:?} follows where nothing holds its key");
        }
        self.set_out(followers);
    }

    pub(super) fn make_room(&mut self) {
        if self.parks() {
            let clock = self.clock();
            let stuck_since = clock - self.rng.random_range(0..=clock.min(LEASE_MS));
            let movable = self.board.movable(self.rng.random_range(1..5), stuck_since);
            self.set_out(movable);
        }
    }

    pub(super) fn park_again(&mut self) {
        if self.parks() {
            let stragglers = self.board.stragglers(3, 2);
            self.set_out(stragglers);
        }
    }

    fn set_out(&mut self, waiting: Vec<EventId>) {
        for id in waiting {
            assert!(self.board.begin_move(id), "{id:?} waits");
            assert!(!self.board.begin_move(id), "{id:?} is on its way");
            self.moving.insert(id);
        }
        if self.rng.random_bool(0.5) {
            self.arrive_parked();
        }
    }

    /// The log answers those that are on their way; it may refuse.
    pub(super) fn arrive_parked(&mut self) {
        let clock = self.clock();
        for id in std::mem::take(&mut self.moving) {
            self.log_answers();
            if self.is_gone(id) {
                self.ends_settled(id);
                self.board.moved_nowhere(id, clock);
            } else if self.rng.random_bool(0.8) {
                let at = self.park_in_log(id);
                if self.rng.random_bool(0.3) {
                    // The scan may be sooner than the answer.
                    self.scan_parking();
                }
                self.board.parked(id, at, None, clock);
                self.board.forget(id);
            } else {
                self.board.not_moved_yet(id, clock);
            }
        }
        self.scan_parking();
    }

    /// Frames that were on their way are in the log or not.
    pub(super) fn moves_end_with_the_broker(&mut self) {
        for id in std::mem::take(&mut self.moving) {
            if self.rng.random_bool(0.5) {
                match self.is_gone(id) {
                    true => self.ends_settled(id),
                    false => drop(self.park_in_log(id)),
                }
            }
        }
    }

    /// As after a start, page by page.
    pub(super) fn find_parked(&mut self) {
        while self.find_page() {}
    }

    /// False when everything is found.
    pub(super) fn find_page(&mut self) -> bool {
        let Some(from) = self.board.finds_from() else {
            return false;
        };
        let from = from.0 as usize;
        let next = self.rng.random_range(from + 1..=self.parking.len());
        let page = self.parking[from..next].iter();
        let found = page.filter_map(|of| match of {
            InParking::Redriven(_) => None,
            InParking::Parked(found) => Some(Found {
                not_before_ms: found.not_before_ms.saturating_sub(self.ahead),
                ..found.clone()
            }),
        });
        let (found, clock) = (found.collect(), self.clock());
        self.board.found(Offset(next as u64), found, clock);
        true
    }

    /// The ordinary scan of the parking partition, in which all is known but what is
    /// redriven.
    pub(super) fn scan_parking(&mut self) {
        let (lot, end) = (self.lot(), self.parking.len());
        let from = self.board.scan_next(lot).0 as usize;
        if self.board.finds_from().is_some() || self.board.are_returning() || from >= end {
            return;
        }
        let next = match self.lasts {
            true => self.rng.random_range(from + 1..=end),
            false => end,
        };
        let page = (from..next).map(|offset| match &self.parking[offset] {
            InParking::Parked(of) => (of.at, of.key.clone(), true),
            InParking::Redriven(id) => (id.offset, self.key_of(*id), false),
        });
        let page: Vec<_> = page.collect();
        let arrived = page.iter().map(|(offset, key, parked)| Arrived {
            offset: *offset,
            key: key.as_deref().map(LineName::from),
            size: 1,
            parked: *parked,
        });
        let clock = self.clock();
        let new = self.board.scanned(lot, Offset(next as u64), arrived, clock);
        for Seat { id, .. } in new {
            let lies = &self.parking[id.offset.0 as usize];
            assert!(matches!(lies, InParking::Redriven(_)), "{id:?} is new");
        }
    }
}
