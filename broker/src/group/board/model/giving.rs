//! To whom events are given, as the group's task does it.

use super::*;

impl Run {
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

    pub(super) fn deliver(&mut self) {
        if self.paused {
            return;
        }
        self.drop_missing();
        let clock = self.clock();
        self.solo.tick(self.board.suspects(), clock);
        while self.may_give_suspect()
            && let Some(member) = self.idle_member()
        {
            self.give_suspect(Holder::Member(member));
        }
        if self.board.suspects() > 0 && self.solo.wants_member(clock) {
            let leases = |id: &MemberId| self.board.holding(&Holder::Member(*id)).leases;
            let members = self.members.keys().filter(|id| !self.silent.contains(id));
            let busy = members.filter(|id| leases(id) > 0);
            if let Some(member) = busy.min_by_key(|id| leases(id)).copied() {
                self.solo.empty(member);
            }
        }
        while self.board.has_ready()
            && self.board.occupied() < self.cap
            && let Some(member) = self.willing_member()
        {
            let holder = Holder::Member(member);
            let given = self.board.lease(holder.clone(), clock);
            self.sent(holder, given);
        }
    }

    /// Somebody without a stream asks for some.
    pub(super) fn pull(&mut self) {
        if self.paused {
            return;
        }
        self.drop_missing();
        let name = ["a", "b"][self.rng.random_range(0..2)];
        // A worker of this name may have leases from before a restart.
        let holder = Holder::Unary(format!("{name}{}", self.epoch));
        let clock = self.clock();
        self.solo.tick(self.board.suspects(), clock);
        if self.may_give_suspect() && self.board.holding(&holder).leases == 0 {
            return self.give_suspect(holder);
        }
        for _ in 0..self.rng.random_range(1..4) {
            if self.board.has_ready()
                && self.board.occupied() < self.cap
                && self.board.may_have_more(&holder)
            {
                let given = self.board.lease(holder.clone(), clock);
                self.sent(holder.clone(), given);
            }
        }
    }

    fn may_give_suspect(&self) -> bool {
        let (others, out) = (self.board.has_ready(), self.board.suspects_out());
        self.board.suspects() > 0
            && self.board.occupied() < self.cap
            && self.solo.may_give(others, out)
    }

    fn give_suspect(&mut self, holder: Holder) {
        let clock = self.clock();
        let given = self.board.lease_suspect(holder.clone(), clock);
        self.sent(holder, given);
        self.solo.given(clock);
    }

    /// Members that take more.
    fn takers(&self) -> impl Iterator<Item = MemberId> {
        let members = self.members.iter().filter(|(_, credit)| credit.may_send());
        let members = members.map(|(id, _)| *id);
        members.filter(|id| !self.silent.contains(id))
    }

    fn idle_member(&self) -> Option<MemberId> {
        let holds_nothing = |id: &MemberId| self.board.holding(&Holder::Member(*id)).leases == 0;
        self.takers().find(holds_nothing)
    }

    fn willing_member(&self) -> Option<MemberId> {
        let may = |id: &MemberId| {
            self.board.may_have_more(&Holder::Member(*id)) && !self.solo.is_emptying(*id)
        };
        self.takers().find(may)
    }

    fn sent(&mut self, holder: Holder, given: Option<delivery::Given>) {
        let given = given.expect("one is ready");
        let (id, token) = (given.id, given.token);
        if let Some(at) = given.kept {
            let of = self.payloads.take(at, |payload| payload.append_time_ms);
            assert_eq!(of, id.offset.0, "another event is in its place");
        }
        let clock = self.clock();
        match &holder {
            Holder::Unary(_) => drop(self.deadlines.insert(token, clock + LEASE_MS)),
            Holder::Member(member) => {
                let credit = self.members.get_mut(member).expect("it is a member");
                assert!(credit.remaining_events() > 0, "more than was granted");
                credit.sent(1);
            }
        }
        assert!(self.tokens.insert(token), "{token:?} was given before");
        let event = &self.events[&id];
        assert!(!event.settled, "{id:?} is settled and delivered");
        assert!(event.due_ms <= self.now, "{id:?} comes before its delay");
        assert_eq!(given.attempt, event.counted + 1, "the attempt of {id:?}");
        if !event.delivered {
            self.check_first_delivery(id);
        }
        self.event_mut(id).delivered = true;
        let given = Given {
            id,
            holder,
            since_ms: clock,
            from_before: false,
        };
        self.given.insert(token, given);
    }
}
