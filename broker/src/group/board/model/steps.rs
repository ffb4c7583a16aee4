//! What may happen to a group: the steps of the model, each done to the board
//! and to the model alike.

use super::*;

impl Run {
    pub(super) fn step(&mut self) {
        match self.rng.random_range(0..29) {
            0..4 => self.publish(),
            4 => self.join(),
            5 => self.grant(),
            6 => self.leave(),
            7 => self.crash(),
            8 => self.restart(),
            9 => self.reconnect(),
            10..13 => self.ack(),
            13 => self.nack(),
            14 => self.reject(),
            15 => self.report(),
            16 => self.refused(),
            17 => self.note(),
            18 => self.paused = !self.paused,
            19 => self.nack_for_long(),
            20 => self.follow(),
            21 => self.make_room(),
            22 => self.park_again(),
            23 => self.arrive_parked(),
            24 if self.rng.random_bool(0.2) => self.seek(),
            25..27 => self.ack_in_line(),
            27 => self.log_answers(),
            _ => {
                let passes = self.rng.random_range(0..2 * LEASE_MS);
                self.pass(passes);
            }
        }
        self.deliver();
        self.check();
    }

    fn publish(&mut self) {
        for _ in 0..self.rng.random_range(1..5) {
            let key = self
                .rng
                .random_bool(0.8)
                .then(|| self.rng.random_range(0..3));
            let dropped = self.filters && self.events.len() % 3 == 1;
            self.events.push(Event {
                key,
                dropped,
                settled: dropped,
                ..Event::default()
            });
        }
        self.scan();
    }

    /// Reads what is there, page by page.
    pub(super) fn scan(&mut self) {
        let end = self.events.len() as u64;
        while self.board.scan_next(0).0 < end {
            let from = self.board.scan_next(0).0;
            let next = self.rng.random_range(from + 1..=end);
            let passes = |offset: &u64| !self.events[*offset as usize].dropped;
            let pass: Vec<_> = (from..next).filter(passes).collect();
            let keys: Vec<_> = pass.iter().map(|offset| self.key_of(*offset)).collect();
            let arrived = pass.iter().zip(&keys).map(|(offset, key)| Arrived {
                offset: Offset(*offset),
                key: key.as_deref().map(LineName::from),
                size: 1,
                parked: false,
            });
            let new = self.board.scanned(0, Offset(next), arrived, self.now);
            for (source, runs) in self.board.take_skipped() {
                assert_eq!(source, SOURCE);
                for (first, count) in runs {
                    self.durable.window.settle_range(first, first + count);
                }
            }
            for seat in new {
                if seat.id.offset.0.is_multiple_of(2) {
                    self.keep(seat);
                }
            }
        }
        self.scan_parking();
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

    /// The event's key, in a group that is ordered by key.
    pub(super) fn key_of(&self, offset: u64) -> Option<Bytes> {
        let keyed = self.rules.ordering == Ordering::Key;
        let key = self.events[offset as usize].key.filter(|_| keyed);
        key.map(|key| Bytes::from(vec![key]))
    }

    pub(super) fn join(&mut self) {
        self.next_member += 1;
        let mut credit = Credit::default();
        let max_events = self.rng.random_range(0..5);
        let max_bytes = None;
        let grant = Grant {
            max_events,
            max_bytes,
        };
        credit.grant(grant).expect("a first grant cannot shrink");
        self.members.insert(MemberId(self.next_member), credit);
    }

    pub(super) fn grant(&mut self) {
        for credit in self.members.values_mut() {
            let limit = self.tokens.len() as u64 + 2;
            let _ = credit.grant(Grant {
                max_events: limit,
                max_bytes: None,
            });
        }
    }

    fn some_member(&mut self) -> Option<MemberId> {
        let at = self.rng.random_range(0..self.members.len().max(1));
        self.members.keys().nth(at).copied()
    }

    pub(super) fn some_lease(&mut self) -> Option<LeaseToken> {
        let at = self.rng.random_range(0..self.given.len().max(1));
        self.given.keys().nth(at).copied()
    }

    fn leave(&mut self) {
        let Some(member) = self.some_member() else {
            return;
        };
        for token in self.board.leases_of(member).into_iter().rev() {
            let given = self.given.remove(&token).expect("it was given");
            self.board.hand_back(token);
            // Its note is taken back.
            self.log_answers();
            let id = EventId {
                source: 0,
                offset: given.offset,
            };
            let at = self.lies(id).offset;
            self.durable_at(id).leases.remove(&at);
        }
        self.members.remove(&member);
        self.solo.gone(member);
    }

    /// A member is gone, or silent for too long: what it held vanishes with it.
    fn crash(&mut self) {
        let Some(member) = self.some_member() else {
            return;
        };
        let tokens = self.board.leases_of(member);
        let in_line = self.in_line.iter();
        let acked = in_line.filter(|(_, holder)| *holder == Holder::Member(member));
        let alone = tokens.len() + acked.count() == 1;
        for token in &tokens {
            let given = self.given.remove(token).expect("it was given");
            let event = &mut self.events[given.offset.0 as usize];
            event.suspect = true;
            event.counted += u32::from(alone);
        }
        let vanished = self.board.vanish(&tokens);
        assert_eq!(vanished.len(), tokens.len());
        self.members.remove(&member);
        self.solo.gone(member);
        self.record(vanished);
        for token in tokens {
            assert!(self.board.leased(token).is_err(), "a lost lease is held");
        }
    }

    /// What vanished goes to the log as the group's task would write it.
    fn record(&mut self, vanished: Vec<Vanished>) {
        for Vanished { id, loss } in vanished {
            let counts = matches!(loss, Loss::Member { alone: true, .. });
            self.fail(id, Some(0), counts, true);
        }
    }

    /// An attempt has failed; the model has counted it already.
    fn fail(&mut self, id: EventId, delay_ms: Option<u64>, counts: bool, suspect: bool) {
        let attempt = self.board.attempt(id);
        let config = GroupConfig {
            max_attempts: MAX_ATTEMPTS,
            initial_delay_ms: 40,
            multiplier: 2.0,
            max_delay_ms: 100,
            jitter: 0.5,
            ..GroupConfig::default()
        };
        let verdict = if counts {
            retry::after_failure(&config, attempt, delay_ms, self.rng.random())
        } else {
            Verdict::RetryAfter(0)
        };
        let event = &mut self.events[id.offset.0 as usize];
        match verdict {
            Verdict::DeadLetter => {
                assert_eq!(event.counted, MAX_ATTEMPTS, "{id:?} died too early");
                self.settle(id);
            }
            Verdict::RetryAfter(delay) => {
                assert!(event.counted < MAX_ATTEMPTS, "{id:?} lives too long");
                event.due_ms = self.now + delay;
                let failed = AttemptFailed {
                    attempt,
                    not_before_ms: event.due_ms,
                    suspect,
                    uncounted: !counts,
                    ..AttemptFailed::default()
                };
                self.log_answers();
                let at = self.lies(id).offset;
                let durable = self.durable_at(id);
                durable.attempts.entry(at).or_default().push(failed.clone());
                durable.leases.remove(&at);
                self.board.failed(id, failed, self.now);
            }
        }
    }

    fn settle(&mut self, id: EventId) {
        self.settle_durably(id);
        self.is_settled(id);
    }

    fn is_settled(&mut self, id: EventId) {
        let event = &mut self.events[id.offset.0 as usize];
        event.settled = true;
        event.parked_at = None;
        self.board.settled(id, self.now);
    }

    /// The broker ends and starts again from what is durable. Of the settlements
    /// that were in line the last ones are lost with it.
    fn restart(&mut self) {
        self.epoch += 1;
        let written = self.rng.random_range(0..=self.in_line.len());
        self.log_answers_to(written);
        self.nothing_settled_follows_what_is_lost();
        self.in_line.clear();
        self.moves_end_with_the_broker();
        let (sources, parking) = self.durable_sources();
        self.board = Board::new(sources, parking, self.epoch, self.rules, self.now, 0);
        self.payloads = nothing_kept();
        self.solo = Solo::new(SOLO_WAIT_MS);
        self.members.clear();
        self.given.clear();
        // What was noted is held.
        let parked = self.durable_parking.leases.iter();
        let noted = self.durable.leases.iter().chain(parked);
        let held = noted.map(|(offset, noted)| {
            let token = LeaseToken {
                epoch: noted.token_epoch,
                counter: noted.token_counter,
            };
            (token, noted.home().map_or(*offset, |(_, home)| home))
        });
        self.held = held.collect();
        self.find_parked();
        self.scan();
    }

    /// Somebody presents leases: of a lost connection, or from before a restart.
    fn reconnect(&mut self) {
        self.join();
        let member = MemberId(self.next_member);
        let mut presented: Vec<_> = self.held.keys().copied().collect();
        presented.truncate(1);
        for token in presented {
            assert!(self.board.present(token, member, self.now), "a held lease");
            let offset = self.held.remove(&token).expect("it was held");
            let given = Given {
                offset,
                holder: Holder::Member(member),
            };
            self.given.insert(token, given);
        }
        let never = LeaseToken {
            epoch: self.epoch,
            counter: u64::MAX,
        };
        assert!(!self.board.present(never, member, self.now));
    }

    pub(super) fn ack(&mut self) {
        if let Some(token) = self.some_lease() {
            let id = self.freeze(token);
            self.settle(id);
        }
    }

    /// An ack that is in line for the log. If its event was first of a line, the
    /// next one goes on.
    fn ack_in_line(&mut self) {
        if let Some(token) = self.some_lease() {
            let holder = self.given[&token].holder.clone();
            let seat = self.freeze_seat(token);
            self.board.pass_on(seat, self.now);
            self.in_line.push_back((seat.id, holder));
        }
    }

    /// Everything that is in line is durable. What is written later is so only
    /// together with it.
    pub(super) fn log_answers(&mut self) {
        self.log_answers_to(self.in_line.len());
    }

    fn log_answers_to(&mut self, count: usize) {
        let answered: Vec<_> = self.in_line.drain(..count).collect();
        for (id, _) in answered {
            self.settle_in_log(id);
            self.is_settled(id);
        }
    }

    /// What a crash takes of a line's acks are the last ones.
    fn nothing_settled_follows_what_is_lost(&self) {
        if self.rules.overtake {
            return;
        }
        for (lost, _) in &self.in_line {
            let lost = lost.offset.0 as usize;
            for later in lost + 1..self.events.len() {
                let follows = self.same_line(&self.events[lost], &self.events[later]);
                let settled = self.events[later].settled;
                assert!(
                    !(follows && settled),
                    "{later} is settled and {lost} is lost"
                );
            }
        }
    }

    fn nack(&mut self) {
        if let Some(token) = self.some_lease() {
            let id = self.freeze(token);
            let event = &mut self.events[id.offset.0 as usize];
            event.counted += 1;
            event.suspect = false;
            let delay_ms = self.rng.random_bool(0.5).then_some(30);
            self.fail(id, delay_ms, true, false);
        }
    }

    fn reject(&mut self) {
        if let Some(token) = self.some_lease() {
            let id = self.freeze(token);
            self.settle(id);
        }
    }

    pub(super) fn freeze(&mut self, token: LeaseToken) -> EventId {
        self.freeze_seat(token).id
    }

    fn freeze_seat(&mut self, token: LeaseToken) -> Seat {
        let seat = self.board.freeze(token, self.now).expect("it is held");
        assert_eq!(
            self.board.freeze(token, self.now),
            Err(LeaseError::Settling)
        );
        assert!(self.board.vanish(&[token]).is_empty(), "a frozen lease");
        assert_eq!(self.board.overdue(token), None);
        self.given.remove(&token);
        seat
    }

    fn report(&mut self) {
        if let Some(token) = self.some_lease() {
            let report = Report {
                percent: Some(50),
                note: "half".into(),
            };
            let extended = self.board.extend(token, Some(report.clone()), self.now);
            extended.expect("it is held");
            let (_, lease) = self.board.leased(token).expect("it is held");
            assert_eq!(lease.report.as_deref(), Some(&report));
        }
    }

    /// A settlement that the log does not take.
    fn refused(&mut self) {
        if let Some(token) = self.some_lease() {
            let id = self.board.freeze(token, self.now).expect("it is held").id;
            let members = &self.members;
            self.board
                .thaw(id, self.now, |member| members.contains_key(&member));
            assert!(self.board.leased(token).is_ok(), "its lease goes on");
        }
    }

    fn note(&mut self) {
        if let Some(token) = self.some_lease() {
            self.log_answers();
            let offset = self.given[&token].offset;
            let id = EventId { source: 0, offset };
            let (at, parked) = (self.lies(id).offset, self.lies(id) != id);
            let key = self.key_of(offset.0);
            let note = LeaseNoted {
                token_epoch: token.epoch,
                token_counter: token.counter,
                key: key.unwrap_or_default(),
                size: 1,
                since_ms: self.now.max(1),
                home_topic: if parked { SOURCE.topic.0 } else { 0 },
                home_offset: offset.0,
                ..LeaseNoted::default()
            };
            self.durable_at(id).leases.insert(at, note);
        }
    }

    pub(super) fn pass(&mut self, passes: u64) {
        self.now += passes;
        self.board.wake_delayed(self.now);
        while let Some(token) = self.board.pop_overdue(self.now) {
            let Some((id, _)) = self.board.overdue(token) else {
                continue;
            };
            assert!(self.given.remove(&token).is_some() || self.held.remove(&token).is_some());
            let event = &mut self.events[id.offset.0 as usize];
            event.counted += 1;
            event.suspect = false;
            self.fail(id, None, true, false);
        }
        let mut expired = Vec::new();
        while let Some(token) = self.board.pop_expired(self.now) {
            expired.push(token);
        }
        // Only those that nobody has presented have a deadline here.
        for token in &expired {
            let offset = self.held.remove(token).expect("it was held");
            self.events[offset.0 as usize].suspect = true;
        }
        let vanished = self.board.vanish(&expired);
        assert_eq!(vanished.len(), expired.len());
        self.record(vanished);
    }

    /// As the group's task delivers.
    pub(super) fn deliver(&mut self) {
        if self.paused {
            return;
        }
        self.solo.tick(self.board.suspects(), self.now);
        while self.board.suspects() > 0
            && self.board.occupied() < self.cap
            && self
                .solo
                .may_give(self.board.has_ready(), self.board.suspects_out())
            && let Some(member) = self.idle_member()
        {
            let given = self.board.lease_suspect(Holder::Member(member), self.now);
            self.sent(member, given);
            self.solo.given(self.now);
        }
        if self.board.suspects() > 0 && self.solo.wants_member(self.now) {
            let leases = |id: &MemberId| self.board.holding(&Holder::Member(*id)).leases;
            let busy = self.members.keys().filter(|id| leases(id) > 0);
            if let Some(member) = busy.min_by_key(|id| leases(id)).copied() {
                self.solo.empty(member);
            }
        }
        while self.board.has_ready()
            && self.board.occupied() < self.cap
            && let Some(member) = self.willing_member()
        {
            let given = self.board.lease(Holder::Member(member), self.now);
            self.sent(member, given);
        }
    }

    fn idle_member(&self) -> Option<MemberId> {
        let idle = |id: &MemberId| self.board.holding(&Holder::Member(*id)).leases == 0;
        let mut members = self.members.iter().filter(|(_, credit)| credit.may_send());
        members.find(|(id, _)| idle(id)).map(|(id, _)| *id)
    }

    fn willing_member(&self) -> Option<MemberId> {
        let may = |id: &MemberId| {
            self.board.may_have_more(&Holder::Member(*id)) && !self.solo.is_emptying(*id)
        };
        let mut members = self.members.iter().filter(|(_, credit)| credit.may_send());
        members.find(|(id, _)| may(id)).map(|(id, _)| *id)
    }

    fn sent(&mut self, member: MemberId, given: Option<delivery::Given>) {
        let given = given.expect("one is ready");
        let (id, token) = (given.id, given.token);
        if let Some(at) = given.kept {
            let of = self.payloads.take(at, |payload| payload.append_time_ms);
            assert_eq!(of, id.offset.0, "another event is in its place");
        }
        let credit = self.members.get_mut(&member).expect("it is a member");
        assert!(credit.remaining_events() > 0, "more than was granted");
        credit.sent(1);
        assert!(self.tokens.insert(token), "{token:?} was given before");
        let offset = id.offset.0 as usize;
        let event = &self.events[offset];
        assert!(!event.settled, "{id:?} is settled and delivered");
        assert!(event.due_ms <= self.now, "{id:?} comes before its delay");
        if !event.delivered {
            self.check_first_delivery(offset);
        }
        self.events[offset].delivered = true;
        let holder = Holder::Member(member);
        let given = Given {
            offset: id.offset,
            holder,
        };
        self.given.insert(token, given);
    }
}
