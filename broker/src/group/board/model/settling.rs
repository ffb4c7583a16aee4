//! What follows leases: settlements and failures go to the log, which answers now or
//! later, or refuses.

use super::*;

/// What a worker asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Ack,
    Nack {
        delay_ms: Option<u64>,
    },
    /// It is to wait for long, so that it is parked.
    Park,
}

/// A settlement that waits for the log's answer.
#[derive(Clone, Debug)]
pub(super) struct UnderWay {
    pub(super) given: Given,
    pub(super) action: Action,
}

/// An attempt that has failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) id: EventId,
    pub(super) delay_ms: Option<u64>,
    pub(super) counts: bool,
    pub(super) suspect: bool,
}

/// An event whose failure could not be recorded is tried again after so long.
const RECORD_AGAIN_AFTER_MS: u64 = 20;

impl Run {
    pub(super) fn ack(&mut self) {
        self.settle_some(Action::Ack);
    }

    pub(super) fn nack(&mut self) {
        let delay_ms = self.rng.random_bool(0.5).then_some(30);
        self.settle_some(Action::Nack { delay_ms });
    }

    pub(super) fn nack_for_long(&mut self) {
        if self.parks() {
            self.settle_some(Action::Park);
        }
    }

    fn settle_some(&mut self, action: Action) {
        if let Some(token) = self.some_lease_or_held() {
            self.begin(token, action);
            if !self.takes_long() {
                self.answer(token);
            }
        }
    }

    /// Several settlements set out.
    pub(super) fn begin_some(&mut self) {
        for _ in 0..3 {
            if let Some(token) = self.some_lease() {
                self.begin(token, Action::Ack);
            }
        }
    }

    /// A worker that was there before a restart may settle without more ado.
    fn some_lease_or_held(&mut self) -> Option<LeaseToken> {
        match self.some_held() {
            Some(held) if self.lasts && self.rng.random_bool(0.2) => Some(held),
            _ => self.some_lease(),
        }
    }

    fn begin(&mut self, token: LeaseToken, action: Action) {
        let (given, _) = self.freeze(token);
        self.under_way.insert(token, UnderWay { given, action });
    }

    fn freeze(&mut self, token: LeaseToken) -> (Given, Seat) {
        let clock = self.clock();
        let seat = self.board.freeze(token, clock).expect("it is held");
        assert_eq!(self.board.freeze(token, clock), Err(LeaseError::Settling));
        assert!(self.board.vanish(&[token]).is_empty(), "a frozen lease");
        assert_eq!(self.board.overdue(token), None);
        self.is_claimed(token);
        let given = self.take_given(token);
        assert_eq!(given.id, seat.id);
        (given, seat)
    }

    /// The log takes a settlement.
    fn answer(&mut self, token: LeaseToken) {
        let of = self.under_way.remove(&token).expect("it is under way");
        self.log_answers();
        let (id, clock) = (of.given.id, self.clock());
        match of.action {
            _ if self.is_refused_attempt(&of) => return self.refuse(token, of),
            Action::Ack => self.settle(id),
            Action::Nack { delay_ms } => self.record(&Failure {
                id,
                delay_ms,
                counts: true,
                suspect: false,
            }),
            Action::Park if self.is_gone(id) => self.settle(id),
            Action::Park => {
                let failed = self.park_failed_in_log(id);
                let at = self.events[&id].parked_at.expect("it is parked");
                let failed = self.by_clock(failed);
                self.board.parked(id, at, Some(&failed), clock);
                self.board.forget(id);
            }
        }
        self.forget_vanishing();
    }

    /// What would be a dead letter is not parked.
    fn is_refused_attempt(&self, of: &UnderWay) -> bool {
        let is_last = self.events[&of.given.id].counted + 1 >= MAX_ATTEMPTS;
        matches!(of.action, Action::Park) && is_last
    }

    /// The log does not take it: the lease goes on.
    fn refuse(&mut self, token: LeaseToken, of: UnderWay) {
        let clock = self.clock();
        let (members, silent, disconnected) = (&self.members, &self.silent, &self.disconnected);
        let is_member = |member: MemberId| {
            let is_heard = members.contains_key(&member) && !silent.contains(&member);
            is_heard || disconnected.contains_key(&member)
        };
        self.board.thaw(of.given.id, clock, is_member);
        let is_kept = matches!(of.given.holder, Holder::Member(member) if is_member(member));
        assert!(self.board.leased(token).is_ok(), "its lease goes on");
        if !is_kept {
            self.deadlines.insert(token, clock + LEASE_MS);
        }
        self.given.insert(token, of.given);
    }

    pub(super) fn answer_some(&mut self) {
        let at = self.rng.random_range(0..self.under_way.len().max(1));
        if let Some(token) = self.under_way.keys().nth(at).copied() {
            self.answer(token);
        }
    }

    pub(super) fn answer_all(&mut self) {
        while let Some(token) = self.under_way.keys().next().copied() {
            self.answer(token);
        }
        self.answer_failures();
    }

    /// A settlement that the log does not take.
    pub(super) fn refuse_some(&mut self) {
        if self.under_way.is_empty()
            && let Some(token) = self.some_lease()
        {
            self.begin(token, Action::Ack);
        }
        while let Some((token, of)) = self.under_way.pop_first() {
            self.refuse(token, of);
            if !self.takes_long() {
                return;
            }
        }
    }

    /// The log answers of attempts that ended by themselves.
    pub(super) fn answer_failures(&mut self) {
        for failure in std::mem::take(&mut self.failing) {
            if self.lasts && self.rng.random_bool(0.3) {
                self.log_answers();
                let clock = self.clock();
                let due_ms = self.now + RECORD_AGAIN_AFTER_MS;
                let event = self.event_mut(failure.id);
                event.has_failed = true;
                event.due_ms = due_ms;
                let due_ms = clock + RECORD_AGAIN_AFTER_MS;
                self.board.unrecorded(failure.id, due_ms, clock);
            } else {
                self.log_answers();
                self.record(&failure);
            }
        }
    }

    /// A failed attempt is durable.
    fn record(&mut self, failure: &Failure) {
        match self.fail_in_log(failure) {
            None => self.settle(failure.id),
            Some(failed) => {
                let failed = self.by_clock(failed);
                let clock = self.clock();
                self.board.failed(failure.id, failed, clock);
            }
        }
    }

    /// What is in the log of a failed attempt, in the time of the broker.
    pub(super) fn by_clock(&self, failed: AttemptFailed) -> AttemptFailed {
        AttemptFailed {
            not_before_ms: failed.not_before_ms - self.ahead,
            ..failed
        }
    }

    /// A failed attempt goes to the log. `None` when the event is a dead letter by it,
    /// which does not.
    fn fail_in_log(&mut self, failure: &Failure) -> Option<AttemptFailed> {
        let (id, now) = (failure.id, self.now);
        let attempt = self.events[&id].counted + 1;
        let config = GroupConfig {
            max_attempts: MAX_ATTEMPTS,
            initial_delay_ms: 40,
            multiplier: 2.0,
            max_delay_ms: 100,
            jitter: 0.5,
            ..GroupConfig::default()
        };
        let verdict = if failure.counts {
            retry::after_failure(&config, attempt, failure.delay_ms, self.rng.random())
        } else {
            Verdict::RetryAfter(0)
        };
        let Verdict::RetryAfter(delay_ms) = verdict else {
            assert_eq!(attempt, MAX_ATTEMPTS, "{id:?} died too early");
            return None;
        };
        let event = self.event_mut(id);
        event.counted += u32::from(failure.counts);
        event.suspect = failure.suspect;
        event.has_failed |= failure.counts;
        event.due_ms = now + delay_ms;
        assert!(event.counted < MAX_ATTEMPTS, "{id:?} lives too long");
        let failed = AttemptFailed {
            attempt,
            not_before_ms: event.due_ms,
            suspect: failure.suspect,
            uncounted: !failure.counts,
            delay_ms: Some(delay_ms),
            ..AttemptFailed::default()
        };
        let at = self.lies(id);
        let durable = &mut self.durable[at.source];
        let attempts = durable.attempts.entry(at.offset).or_default();
        attempts.push(failed.clone());
        durable.leases.remove(&at.offset);
        Some(failed)
    }

    fn settle(&mut self, id: EventId) {
        self.settle_in_log(id);
        self.is_settled(id);
    }

    pub(super) fn settle_in_log(&mut self, id: EventId) {
        let at = self.lies(id);
        let durable = &mut self.durable[at.source];
        durable.window.settle(at.offset);
        durable.attempts.remove(&at.offset);
        durable.leases.remove(&at.offset);
    }

    fn is_settled(&mut self, id: EventId) {
        let clock = self.clock();
        let event = self.event_mut(id);
        event.settled = true;
        event.parked_at = None;
        self.board.settled(id, clock);
    }

    /// An ack that is in line for the log. If its event was first of a line, the
    /// next one goes on.
    pub(super) fn ack_in_line(&mut self) {
        if let Some(token) = self.some_lease() {
            let (given, seat) = self.freeze(token);
            let clock = self.clock();
            self.board.pass_on(seat, clock);
            self.in_line.push_back(InLine {
                token,
                id: given.id,
                holder: given.holder,
            });
        }
    }

    /// Everything that is in line is durable. What is written later is so only
    /// together with it.
    pub(super) fn log_answers(&mut self) {
        self.log_answers_to(self.in_line.len());
    }

    pub(super) fn log_answers_to(&mut self, count: usize) {
        let answered: Vec<_> = self.in_line.drain(..count).collect();
        for InLine { id, .. } in answered {
            self.settle(id);
        }
        self.forget_vanishing();
    }

    /// Of what is on its way when the broker ends some is in the log.
    pub(super) fn ends_under_way(&mut self) {
        for (_, of) in std::mem::take(&mut self.under_way) {
            let id = of.given.id;
            if self.rng.random_bool(0.5) || self.is_refused_attempt(&of) {
                continue;
            }
            match of.action {
                Action::Ack => self.ends_settled(id),
                Action::Nack { delay_ms } => self.ends_failed(&Failure {
                    id,
                    delay_ms,
                    counts: true,
                    suspect: false,
                }),
                Action::Park if self.is_gone(id) => self.ends_settled(id),
                Action::Park => drop(self.park_failed_in_log(id)),
            }
        }
        for failure in std::mem::take(&mut self.failing) {
            if self.rng.random_bool(0.5) {
                self.ends_failed(&failure);
            }
        }
    }

    fn ends_failed(&mut self, failure: &Failure) {
        if self.fail_in_log(failure).is_none() {
            self.ends_settled(failure.id);
        }
    }

    pub(super) fn ends_settled(&mut self, id: EventId) {
        self.settle_in_log(id);
        let event = self.event_mut(id);
        event.settled = true;
        event.parked_at = None;
    }
}
