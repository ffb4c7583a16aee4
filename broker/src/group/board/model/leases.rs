//! What befalls leases: they are noted, presented, extended, handed back, and lost.

use super::*;

impl Run {
    pub(super) fn some_member(&mut self) -> Option<MemberId> {
        let at = self.rng.random_range(0..self.members.len().max(1));
        self.members.keys().nth(at).copied()
    }

    pub(super) fn some_lease(&mut self) -> Option<LeaseToken> {
        let at = self.rng.random_range(0..self.given.len().max(1));
        self.given.keys().nth(at).copied()
    }

    fn is_gone_member(&mut self, member: MemberId) {
        self.members.remove(&member);
        self.silent.remove(&member);
        self.solo.gone(member);
    }

    /// The lease of a token that has ended, or is presented again.
    pub(super) fn take_given(&mut self, token: LeaseToken) -> Given {
        self.deadlines.remove(&token);
        self.given.remove(&token).expect("it was given")
    }

    /// Forgets that somebody was vanishing who has nothing left.
    pub(super) fn forget_vanishing(&mut self) {
        let vanishing = std::mem::take(&mut self.vanishing);
        let left = vanishing.into_iter().filter(|of| self.leases_of(of) > 0);
        self.vanishing = left.collect();
    }

    pub(super) fn leave(&mut self) {
        let Some(member) = self.some_member() else {
            return;
        };
        for token in self.board.leases_of(member).into_iter().rev() {
            let is_noted = self.board.leased(token).is_ok_and(|(_, lease)| lease.noted);
            let given = self.take_given(token);
            self.board.hand_back(token);
            if is_noted {
                // Its note is taken back.
                self.log_answers();
                let at = self.lies(given.id);
                self.durable[at.source].leases.remove(&at.offset);
            }
        }
        self.is_gone_member(member);
        self.forget_vanishing();
    }

    /// A connection is lost, and what it held at once.
    pub(super) fn crash(&mut self) {
        if let Some(member) = self.some_member() {
            let tokens = self.board.leases_of(member);
            self.is_gone_member(member);
            self.lose(&tokens);
        }
    }

    /// A member is not heard of for too long.
    pub(super) fn fall_silent(&mut self) {
        if let Some(member) = self.some_member()
            && self.silent.insert(member)
        {
            self.solo.gone(member);
            let tokens = self.board.leases_of(member);
            self.lose(&tokens);
        }
    }

    pub(super) fn some_is_heard(&mut self) {
        if let Some(member) = self.silent.first().copied() {
            self.is_heard(member);
        }
    }

    pub(super) fn is_heard(&mut self, member: MemberId) {
        self.silent.remove(&member);
        self.board.keep_with(member);
        let holder = Holder::Member(member);
        for (token, _) in self.given.iter().filter(|(_, of)| of.holder == holder) {
            self.deadlines.remove(token);
        }
        self.vanishing.remove(&holder);
    }

    /// A connection is lost, and what it held goes on for a while.
    pub(super) fn disconnect(&mut self) {
        let Some(member) = self.some_member() else {
            return;
        };
        self.is_gone_member(member);
        if self.board.holding(&Holder::Member(member)).leases > 0 {
            self.disconnected.insert(member, self.clock() + LEASE_MS);
        }
    }

    /// Leases end because those who have them vanish together.
    pub(super) fn lose(&mut self, tokens: &[LeaseToken]) {
        let mut failures = Vec::new();
        let mut vanishing = Vec::new();
        for token in tokens {
            let (id, counts) = match (self.given.get(token), self.held.get(token)) {
                (Some(Given { id, holder, .. }), _) => {
                    let alone = self.leases_of(holder) == 1 && !self.vanishing.contains(holder);
                    vanishing.extend((!alone).then(|| holder.clone()));
                    (*id, alone)
                }
                (None, Some(held)) => (held.id, false),
                (None, None) => panic!("{token:?} is nobody's"),
            };
            failures.push(Failure {
                id,
                delay_ms: Some(0),
                counts,
                suspect: true,
            });
        }
        self.vanishing.extend(vanishing);
        for token in tokens {
            self.given.remove(token);
            self.held.remove(token);
            self.deadlines.remove(token);
            self.lost.insert(*token);
        }
        self.forget_vanishing();
        let vanished = self.board.vanish(tokens);
        assert_eq!(vanished.len(), failures.len());
        for (vanished, failure) in vanished.iter().zip(&failures) {
            let counts = matches!(vanished.loss, Loss::Member { alone: true, .. });
            assert_eq!((vanished.id, counts), (failure.id, failure.counts));
        }
        for token in tokens {
            assert!(self.board.leased(*token).is_err(), "a lost lease is held");
        }
        self.failing.extend(failures);
        if !self.takes_long() {
            self.answer_failures();
        }
    }

    /// Somebody presents leases: of a lost connection, or from before a restart.
    pub(super) fn reconnect(&mut self) {
        self.join();
        let member = MemberId(self.next_member);
        let holder = Holder::Member(member);
        let clock = self.clock();
        if let Some(first) = self.some_held() {
            let name = self.held[&first].member.clone();
            let held = self.held.iter().filter(|(_, held)| held.member == name);
            let tokens = held.map(|(token, _)| *token);
            let tokens: Vec<_> = tokens.filter(|token| !self.lost.contains(token)).collect();
            for token in tokens {
                assert!(self.board.present(token, member, clock), "a held lease");
                let HeldFor { id, .. } = self.held.remove(&token).expect("it was held");
                self.deadlines.remove(&token);
                let given = Given {
                    id,
                    holder: holder.clone(),
                    since_ms: clock,
                    from_before: true,
                };
                self.given.insert(token, given);
            }
        } else if let Some((old, _)) = self.disconnected.pop_first() {
            self.present_all(Holder::Member(old), member);
        }
        let never = LeaseToken {
            epoch: self.epoch,
            counter: u64::MAX,
        };
        assert!(!self.board.present(never, member, clock));
    }

    fn present_all(&mut self, old: Holder, member: MemberId) {
        let clock = self.clock();
        let holder = Holder::Member(member);
        for (token, given) in &mut self.given {
            if given.holder == old {
                assert!(self.board.present(*token, member, clock));
                self.deadlines.remove(token);
                given.holder = holder.clone();
            }
        }
        for (token, of) in &mut self.under_way {
            if of.given.holder == old {
                assert!(self.board.present(*token, member, clock));
                of.given.holder = holder.clone();
            }
        }
        for of in &mut self.in_line {
            if of.holder == old {
                assert!(self.board.present(of.token, member, clock));
                of.holder = holder.clone();
            }
        }
        self.forget_vanishing();
    }

    /// A worker says how far it is; one without a stream keeps its lease by that.
    pub(super) fn report(&mut self) {
        if let Some(token) = self.some_lease() {
            self.report_of(token);
        }
    }

    /// A worker without a stream goes on after a restart.
    pub(super) fn claim(&mut self) {
        if let Some(token) = self.some_held() {
            self.report_of(token);
        }
    }

    /// A lease from before a restart whose holder goes on with it.
    pub(super) fn some_held(&self) -> Option<LeaseToken> {
        let mut held = self.held.keys();
        held.find(|token| !self.lost.contains(token)).copied()
    }

    fn report_of(&mut self, token: LeaseToken) {
        let report = Report {
            percent: Some(50),
            note: "half".into(),
        };
        let clock = self.clock();
        let extended = self.board.extend(token, Some(report.clone()), clock);
        extended.expect("it is held");
        self.is_claimed(token);
        let (_, lease) = self.board.leased(token).expect("it is held");
        assert_eq!(lease.report.as_deref(), Some(&report));
        if let holder @ Holder::Unary(_) = &self.given[&token].holder {
            self.vanishing.remove(holder);
            self.deadlines.insert(token, clock + LEASE_MS);
        }
    }

    /// If it was held, it is of who has used it.
    pub(super) fn is_claimed(&mut self, token: LeaseToken) {
        if let Some(HeldFor { id, member }) = self.held.remove(&token) {
            let given = Given {
                id,
                holder: Holder::Unary(member),
                since_ms: self.clock(),
                from_before: true,
            };
            self.given.insert(token, given);
        }
    }

    /// Leases that have lasted long enough are noted.
    pub(super) fn note(&mut self) {
        let clock = self.clock();
        let (before, count) = match self.rng.random_bool(0.5) {
            true => (clock + 1, usize::MAX),
            false => (clock, self.rng.random_range(1..4)),
        };
        let outlasting = self.board.take_outlasting(before, count);
        self.log_answers();
        for token in outlasting {
            self.note_in_log(token);
        }
        for token in self.given.keys().filter(|_| count == usize::MAX) {
            let (id, lease) = self.board.leased(*token).expect("a live lease");
            assert!(lease.noted, "the lease of {id:?} is not noted");
        }
    }

    fn note_in_log(&mut self, token: LeaseToken) {
        let given = &self.given[&token];
        let (id, at) = (given.id, self.lies(given.id));
        let home = source_of(id.source, self.lot());
        let member = match &given.holder {
            Holder::Member(member) => format!("m{}", member.0),
            Holder::Unary(name) => name.clone(),
        };
        let note = LeaseNoted {
            token_epoch: token.epoch,
            token_counter: token.counter,
            attempt: self.board.attempt(id),
            suspect: self.board.is_suspect(id),
            member,
            key: self.key_of(id).unwrap_or_default(),
            size: 1,
            since_ms: (given.since_ms + self.ahead).max(1),
            home_topic: if at == id { 0 } else { home.topic.0 },
            home_partition: home.partition.0,
            home_offset: id.offset.0,
            ..LeaseNoted::default()
        };
        self.durable[at.source].leases.insert(at.offset, note);
    }

    pub(super) fn pass(&mut self, passes: u64) {
        self.now += passes;
        let clock = self.clock();
        self.board.wake_delayed(clock);
        while let Some(token) = self.board.pop_overdue(clock) {
            let Some((id, _)) = self.board.overdue(token) else {
                continue;
            };
            if let Some(given) = self.given.remove(&token) {
                assert!(clock - given.since_ms >= LIMIT_MS, "too soon");
            } else {
                self.held.remove(&token).expect("it was held");
            }
            self.deadlines.remove(&token);
            self.lost.insert(token);
            self.forget_vanishing();
            self.failing.push(Failure {
                id,
                delay_ms: None,
                counts: true,
                suspect: false,
            });
        }
        let due = self.deadlines.iter().filter(|(_, due)| **due <= clock);
        let due: BTreeSet<_> = due.map(|(token, _)| *token).collect();
        let mut expired = Vec::new();
        while let Some(token) = self.board.pop_expired(clock) {
            expired.push(token);
        }
        assert_eq!(expired.iter().copied().collect::<BTreeSet<_>>(), due);
        self.lose(&expired);
        while let Some((member, deadline)) = self.disconnected.first_key_value()
            && *deadline <= clock
        {
            let member = *member;
            self.disconnected.remove(&member);
            let tokens = self.board.leases_of(member);
            self.lose(&tokens);
        }
        if !self.takes_long() {
            self.answer_failures();
        }
    }
}
