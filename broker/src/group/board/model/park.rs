//! Parking, and seeking, as the group's task does them.

use super::*;

const LONG_MS: u64 = 300;

impl Run {
    /// Where an event lies.
    pub(super) fn lies(&self, id: EventId) -> EventId {
        match self.events[id.offset.0 as usize].parked_at {
            Some(offset) => EventId { source: 1, offset },
            None => id,
        }
    }

    /// What the log says of the source in which an event lies.
    pub(super) fn durable_at(&mut self, id: EventId) -> &mut SourceState {
        match self.lies(id).source {
            1 => &mut self.durable_parking,
            _ => &mut self.durable,
        }
    }

    pub(super) fn settle_durably(&mut self, id: EventId) {
        self.log_answers();
        self.settle_in_log(id);
    }

    pub(super) fn settle_in_log(&mut self, id: EventId) {
        let at = self.lies(id).offset;
        let durable = self.durable_at(id);
        durable.window.settle(at);
        durable.attempts.remove(&at);
        durable.leases.remove(&at);
    }

    fn parks(&self) -> bool {
        self.rules.ordering != Ordering::Partition
    }

    /// The frame that parks an event.
    fn park_durably(&mut self, id: EventId, not_before_ms: u64) -> Offset {
        let event = &self.events[id.offset.0 as usize];
        let at = Offset(self.parking.len() as u64);
        self.parking.push(Found {
            at,
            home: SOURCE,
            home_offset: id.offset,
            key: self.key_of(id.offset.0),
            size: 1,
            not_before_ms,
            next_attempt: event.counted + 1,
            suspect: event.suspect,
        });
        self.settle_durably(id);
        self.events[id.offset.0 as usize].parked_at = Some(at);
        at
    }

    pub(super) fn nack_for_long(&mut self) {
        if !self.parks() {
            return;
        }
        let Some(token) = self.some_lease() else {
            return;
        };
        let offset = self.given[&token].offset.0 as usize;
        if self.events[offset].counted + 1 >= MAX_ATTEMPTS {
            return;
        }
        let id = self.freeze(token);
        let due_ms = self.now + LONG_MS;
        let event = &mut self.events[offset];
        event.counted += 1;
        event.suspect = false;
        event.due_ms = due_ms;
        let failed = AttemptFailed {
            attempt: event.counted,
            not_before_ms: due_ms,
            ..AttemptFailed::default()
        };
        let at = self.park_durably(id, due_ms);
        self.board.parked(id, at, Some(&failed), self.now);
        self.board.forget(id);
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
            let stuck_since = self.now - self.rng.random_range(0..=self.now.min(LEASE_MS));
            let movable = self.board.movable(self.rng.random_range(1..5), stuck_since);
            self.set_out(movable);
        }
    }

    pub(super) fn park_again(&mut self) {
        let stragglers = self.board.stragglers(3, 2);
        self.set_out(stragglers);
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
        for id in std::mem::take(&mut self.moving) {
            if self.rng.random_bool(0.8) {
                let due_ms = self.events[id.offset.0 as usize].due_ms;
                let at = self.park_durably(id, due_ms);
                if self.rng.random_bool(0.3) {
                    // The scan may be sooner than the answer.
                    self.scan_parking();
                }
                self.board.parked(id, at, None, self.now);
                self.board.forget(id);
            } else {
                self.board.not_moved(id, self.now);
            }
        }
        self.scan_parking();
    }

    /// Frames that were on their way are in the log or not.
    pub(super) fn moves_end_with_the_broker(&mut self) {
        for id in std::mem::take(&mut self.moving) {
            if self.rng.random_bool(0.5) {
                let due_ms = self.events[id.offset.0 as usize].due_ms;
                self.park_durably(id, due_ms);
            }
        }
    }

    pub(super) fn durable_sources(&self) -> (Vec<(Source, SourceState)>, Parking) {
        let sources = vec![
            (SOURCE, self.durable.clone()),
            (PARKING, self.durable_parking.clone()),
        ];
        let end = Offset(self.parking.len() as u64);
        (sources, Parking { source: 1, end })
    }

    /// As after a start, page by page.
    pub(super) fn find_parked(&mut self) {
        while let Some(from) = self.board.finds_from() {
            let from = from.0 as usize;
            let next = self.rng.random_range(from + 1..=self.parking.len());
            let found = self.parking[from..next].to_vec();
            self.board.found(Offset(next as u64), found, self.now);
        }
    }

    /// The ordinary scan of the parking partition, in which all is known.
    pub(super) fn scan_parking(&mut self) {
        let from = self.board.scan_next(1).0 as usize;
        if self.board.are_returning() || from >= self.parking.len() {
            return;
        }
        let arrived = self.parking[from..].iter().map(|of| Arrived {
            offset: of.at,
            key: of.key.as_deref().map(LineName::from),
            size: 1,
            parked: true,
        });
        let next = Offset(self.parking.len() as u64);
        let new = self.board.scanned(1, next, arrived, self.now);
        assert!(new.is_empty(), "{new:?} was parked and is new");
    }

    /// The group goes on elsewhere, without leases.
    pub(super) fn seek(&mut self) {
        self.log_answers();
        self.arrive_parked();
        let to = Offset(self.rng.random_range(0..=self.events.len() as u64));
        let parked: Vec<Offset> = self.board.parked_of(0).map(|(_, at)| at).collect();
        for at in parked {
            self.durable_parking.window.settle(at);
            self.durable_parking.attempts.remove(&at);
        }
        self.durable_parking.leases.clear();
        self.durable = SourceState::new(to);
        self.given.clear();
        self.held.clear();
        for (offset, event) in self.events.iter_mut().enumerate() {
            let Event { key, dropped, .. } = *event;
            *event = Event {
                key,
                dropped,
                settled: (offset as u64) < to.0 || dropped,
                ..Event::default()
            };
        }
        let (sources, parking) = self.durable_sources();
        self.board = self.board.anew(sources, parking, self.now, 0);
        self.payloads = nothing_kept();
        self.find_parked();
        self.scan();
    }
}
