//! How a board is made from the log, after a restart and when the group moves.

use super::*;

impl Run {
    /// The broker ends and starts again from what is durable. Of the settlements
    /// that were in line the last ones are lost with it.
    pub(super) fn restart(&mut self) {
        if self.takes_long() {
            self.note();
        }
        self.epoch += 1;
        let written = self.rng.random_range(0..=self.in_line.len());
        let all = written == self.in_line.len();
        self.log_answers_to(written);
        self.nothing_settled_follows_what_is_lost();
        self.in_line.clear();
        if all {
            self.ends_under_way();
            self.moves_end_with_the_broker();
        }
        if self.lasts {
            self.ahead = self.now;
        }
        let clock = self.clock();
        let (sources, parking) = sources_of(&self.durable, self.parking.len());
        self.board = Board::new(sources, parking, self.epoch, self.rules, clock, self.ahead);
        self.solo = Solo::new(SOLO_WAIT_MS);
        self.members.clear();
        self.begins_anew();
        // What was noted is held.
        for (source, durable) in self.durable.iter().enumerate() {
            for (offset, noted) in &durable.leases {
                let token = LeaseToken {
                    epoch: noted.token_epoch,
                    counter: noted.token_counter,
                };
                let offset = *offset;
                let id = match noted.home() {
                    None => EventId { source, offset },
                    Some((home, offset)) => {
                        let at = |at: &usize| source_of(*at, self.ends.len()) == home;
                        let source = (0..self.durable.len()).find(at);
                        let source = source.expect("a source of the group");
                        EventId { source, offset }
                    }
                };
                let member = noted.member.clone();
                self.held.insert(token, HeldFor { id, member });
                self.deadlines.insert(token, clock + LEASE_MS);
            }
        }
        self.find_and_scan();
    }

    /// What the broker knew is over, or only what rested on the board.
    fn begins_anew(&mut self) {
        self.payloads = nothing_kept();
        self.in_line.clear();
        self.under_way.clear();
        self.failing.clear();
        self.moving.clear();
        self.given.clear();
        self.held.clear();
        self.deadlines.clear();
        self.vanishing.clear();
        self.silent.clear();
        self.disconnected.clear();
        // When events are due is what the log says.
        let ids: Vec<EventId> = self.events.keys().copied().collect();
        for id in ids {
            let at = self.lies(id);
            let attempts = self.durable[at.source].attempts.get(&at.offset);
            let due_ms = match (attempts.and_then(|of| of.last()), at == id) {
                (Some(failed), _) => failed.not_before_ms,
                (None, true) => 0,
                (None, false) => match &self.parking[at.offset.0 as usize] {
                    InParking::Parked(found) => found.not_before_ms,
                    InParking::Redriven(_) => 0,
                },
            };
            self.event_mut(id).due_ms = due_ms;
        }
    }

    fn find_and_scan(&mut self) {
        if !self.takes_long() {
            self.find_parked();
        }
        if !self.takes_long() {
            self.scan();
        }
    }

    /// What a crash takes of a line's acks are the last ones.
    fn nothing_settled_follows_what_is_lost(&self) {
        if self.rules.overtake {
            return;
        }
        for InLine { id: lost, .. } in &self.in_line {
            let later = self.of_source(lost.source).filter(|(id, _)| id > lost);
            for (later, event) in later.filter(|(_, event)| !event.gone) {
                let follows = self.same_line(*lost, later);
                let lost_first = !(follows && event.settled);
                assert!(lost_first, "{later:?} is settled and {lost:?} is lost");
            }
        }
    }

    /// The group goes on elsewhere in some partitions, without leases.
    pub(super) fn seek(&mut self) {
        // It waits for what is on its way.
        self.answer_all();
        self.log_answers();
        self.arrive_parked();
        self.find_parked();
        assert_eq!(self.board.settling(), 0);
        let lot = self.lot();
        let skipped = match self.rng.random_bool(0.5) {
            true => self.rng.random_range(0..self.ends.len()),
            false => lot,
        };
        for source in (0..lot).filter(|source| lot == 1 || *source != skipped) {
            let to = Offset(self.rng.random_range(0..=self.ends[source]));
            let parked: Vec<Offset> = self.board.parked_of(source).map(|(_, at)| at).collect();
            for at in parked {
                self.durable[lot].window.settle(at);
                self.durable[lot].attempts.remove(&at);
            }
            self.durable[source] = SourceState::new(to);
            for (id, event) in &mut self.events {
                if id.source == source {
                    *event = Event {
                        key: event.key,
                        dropped: event.dropped,
                        gone: event.gone,
                        settled: id.offset < to,
                        ..Event::default()
                    };
                }
            }
        }
        for durable in &mut self.durable {
            durable.leases.clear();
        }
        let (sources, parking) = sources_of(&self.durable, self.parking.len());
        self.board = self.board.anew(sources, parking, self.clock(), self.ahead);
        let silent = std::mem::take(&mut self.silent);
        self.begins_anew();
        self.silent = silent;
        self.find_and_scan();
    }
}
