//! How events come to the group, and how they are gone without it.

use super::*;

impl Run {
    pub(super) fn publish(&mut self) {
        for _ in 0..self.rng.random_range(1..5) {
            let key = self
                .rng
                .random_bool(0.8)
                .then(|| self.rng.random_range(0..3));
            // A key has its partition.
            let source = match key {
                Some(key) => usize::from(key) % self.ends.len(),
                None => self.rng.random_range(0..self.ends.len()),
            };
            let offset = self.ends[source];
            self.ends[source] += 1;
            let id = EventId {
                source,
                offset: Offset(offset),
            };
            let event = Event {
                key,
                dropped: self.filters && offset % 3 == 1,
                ..Event::default()
            };
            self.events.insert(id, event);
        }
        if !self.takes_long() {
            self.scan();
        }
    }

    /// Reads what is there, page by page.
    pub(super) fn scan(&mut self) {
        for source in 0..self.ends.len() {
            while self.scan_page(source) {}
        }
        self.scan_parking();
    }

    /// Reads some of what is there.
    pub(super) fn scan_some(&mut self) {
        let source = self.rng.random_range(0..=self.ends.len());
        match source == self.lot() {
            true => self.scan_parking(),
            false => drop(self.scan_page(source)),
        }
    }

    /// False when there is nothing to read.
    fn scan_page(&mut self, source: usize) -> bool {
        let from = self.board.scan_next(source).0;
        let end = self.ends[source];
        if self.board.finds_from().is_some() || from >= end {
            return false;
        }
        let next = self.rng.random_range(from + 1..=end);
        let ids = (from..next).map(|offset| EventId {
            source,
            offset: Offset(offset),
        });
        let passes = |id: &EventId| !self.events[id].dropped && !self.events[id].gone;
        let pass: Vec<_> = ids.clone().filter(passes).collect();
        let keys: Vec<_> = pass.iter().map(|id| self.key_of(*id)).collect();
        let arrived = pass.iter().zip(&keys).map(|(id, key)| Arrived {
            offset: id.offset,
            key: key.as_deref().map(LineName::from),
            size: 1,
            parked: false,
        });
        let clock = self.clock();
        let new = self.board.scanned(source, Offset(next), arrived, clock);
        for id in ids.filter(|id| !pass.contains(id)) {
            // What is under lease since before a restart, or parked, stays.
            if self.board.events.get(&id).is_none() && self.events[&id].parked_at.is_none() {
                self.event_mut(id).settled = true;
            }
        }
        self.save_skipped();
        for seat in new {
            if seat.id.offset.0.is_multiple_of(2) {
                self.keep(seat);
            }
        }
        true
    }

    fn save_skipped(&mut self) {
        for (source, runs) in self.board.take_skipped() {
            let at = (0..self.durable.len()).find(|at| self.board.source(*at) == source);
            let durable = &mut self.durable[at.expect("a source of the group")];
            for (first, count) in runs {
                let end = first + count;
                durable.window.settle_range(first, end);
                durable.attempts.retain(|at, _| !(first..end).contains(at));
                durable.leases.retain(|at, _| !(first..end).contains(at));
            }
        }
    }

    /// The event is in memory from now on. Its offset is in it.
    fn keep(&mut self, seat: Seat) {
        let stored = StoredEvent {
            offset: seat.id.offset,
            append_time_ms: seat.id.offset.0,
            event: Bytes::new(),
            note: Bytes::new(),
        };
        if let Some(at) = self.payloads.keep_ahead(stored) {
            self.board.keep_new(seat, at);
        }
    }

    /// Retention takes the first events of a partition away.
    pub(super) fn retain(&mut self) {
        let source = self.rng.random_range(0..self.ends.len());
        let gone = self.of_source(source).filter(|(_, event)| event.gone);
        let (before, end) = (gone.count() as u64, self.ends[source]);
        let start = Offset(self.rng.random_range(before..=end));
        for (id, event) in &mut self.events {
            event.gone |= id.source == source && id.offset < start;
        }
        let clock = self.clock();
        let before = self.board.len();
        let dropped = self.board.drop_below(source, start, clock);
        self.are_dropped();
        assert_eq!(before - self.board.len(), dropped as usize);
        let ready = self.board.ready_in_order();
        let left = ready.chain(self.board.waiting_suspects());
        for Seat { id, .. } in left.filter(|seat| seat.id.source == source) {
            assert!(!self.is_gone(id), "{id:?} is gone and ready");
        }
    }

    /// Whether nothing is left of an event.
    pub(super) fn is_gone(&self, id: EventId) -> bool {
        let event = &self.events[&id];
        event.gone && event.parked_at.is_none()
    }

    /// What is not on the board any more, as it was gone, is settled.
    fn are_dropped(&mut self) {
        let ids: Vec<EventId> = self.events.keys().copied().collect();
        for id in ids {
            let is_there = self.board.events.get(&id).is_some();
            let is_dropped = !is_there && self.board.window(id.source).is_settled(id.offset);
            if is_dropped && !self.events[&id].settled && self.is_gone(id) {
                assert!(!self.is_worked_on(id), "{id:?} was dropped");
                self.event_mut(id).settled = true;
            }
        }
        self.save_skipped();
    }

    fn is_worked_on(&self, id: EventId) -> bool {
        self.given.values().any(|given| given.id == id)
            || self.under_way.values().any(|of| of.given.id == id)
            || self.held.values().any(|held| held.id == id)
            || self.in_line.iter().any(|of| of.id == id)
            || self.failing.iter().any(|of| of.id == id)
            || self.moving.contains(&id)
    }

    /// What is ready, is to be read again, and is gone, is found to be so.
    pub(super) fn drop_missing(&mut self) {
        let next: Vec<EventId> = self
            .board
            .first_ready(usize::MAX)
            .filter(|seat| self.is_gone(seat.id) && self.board.size_at_hand(*seat).is_none())
            .map(|seat| seat.id)
            .collect();
        let clock = self.clock();
        let dropped = self.board.drop_ready(&next, clock);
        assert_eq!(dropped, next.len() as u64);
        self.are_dropped();
    }

    /// A dead letter comes back: it is appended to the parking partition.
    pub(super) fn redrive(&mut self) {
        let id = EventId {
            source: self.lot(),
            offset: Offset(self.parking.len() as u64),
        };
        let key = Some(self.rng.random_range(0..3));
        let event = Event {
            key,
            ..Event::default()
        };
        self.events.insert(id, event);
        self.parking.push(InParking::Redriven(id));
        if !self.takes_long() {
            self.scan_parking();
        }
    }
}
