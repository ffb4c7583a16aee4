//! Suspects, which vanished members had, go to those who hold nothing; when nobody falls
//! idle, somebody is made idle for them. See [`crate::group::solo`].

use super::{LOOKED_AT_MAX, Round, fits};
use crate::group::{
    board::Holder,
    task::{FETCHES_MAX, GroupTask},
};

impl GroupTask {
    /// Gives suspects to those who hold nothing.
    pub(super) fn deliver_suspects(&mut self, round: &mut Round) {
        let now = self.clock.now_ms();
        self.solo.tick(self.board.suspects(), now);
        let mut passed_over = 0;
        while passed_over < self.board.suspects().min(LOOKED_AT_MAX)
            && self.board.occupied() < self.config().max_in_flight as usize
            && let others = self.board.has_ready()
            && self.solo.may_give(others, self.board.suspects_out())
            && let Some(next) = self.board.next_suspect()
        {
            let at_hand = self.board.size_at_hand(next);
            if !at_hand.is_some_and(|size| self.give_suspect(size, now, round)) {
                self.board.rotate_suspects();
                passed_over += 1;
            }
        }
        self.empty_for_suspects(now);
    }

    /// Chooses who gets nothing else until it can be given a suspect: one whose messages
    /// have room for one of those that wait.
    pub(in crate::group::task) fn empty_for_suspects(&mut self, now_ms: u64) {
        let emptying = self.solo.emptying();
        if self.board.suspects() == 0 || (emptying.is_none() && !self.solo.wants_member(now_ms)) {
            return;
        }
        // Of those that are next; the others have their turn there.
        let next = self.board.waiting_suspects().take(FETCHES_MAX);
        let smallest = next.map(|seat| self.size(seat.id)).min().unwrap_or(0);
        // As long as one is out beside others, which may be long, no other one is given.
        let one_is_out = self.board.has_ready() && self.board.suspects_out() > 0;
        if let Some(member) = emptying {
            // One that is idle and does not take any keeps them from nobody else.
            let is_idle = self.board.holding(&Holder::Member(member)).leases == 0;
            let takes = match is_idle {
                true => !one_is_out && self.members.takes_now(member, smallest),
                false => self.members.has_messages_for(member, smallest),
            };
            if !takes {
                self.solo.gone(member);
            }
        }
        if !one_is_out && self.solo.wants_member(now_ms) {
            let leases = |id| self.board.holding(&Holder::Member(id)).leases;
            if let Some(member) = self.members.nearest_to_idle(smallest, leases) {
                self.solo.empty(member);
            }
        }
    }

    /// Gives the first suspect to somebody who holds nothing. False when nobody
    /// takes it.
    fn give_suspect(&mut self, size: usize, now_ms: u64, round: &mut Round) -> bool {
        let board = &self.board;
        let holds_nothing = |holder: &Holder| board.holding(holder).leases == 0;
        self.pulls.retain(|pull| !pull.reply.is_closed());
        let pull = self.pulls.iter().position(|pull| {
            fits(pull, 0, size) && holds_nothing(&Holder::Unary(pull.name.clone()))
        });
        if let Some(pull) = pull.and_then(|at| self.pulls.remove(at)) {
            let holder = Holder::Unary(pull.name.clone());
            let given = self.board.lease_suspect(holder, now_ms);
            let delivery = self.take(given, |delivery| delivery.into_own());
            self.reply(pull, delivery.into_iter().collect());
        } else {
            let idle = |id| holds_nothing(&Holder::Member(id));
            let Some(member) = self.members.choose(size, &round.shares, idle) else {
                return false;
            };
            let given = self.board.lease_suspect(Holder::Member(member), now_ms);
            let message = round.shared.entry(member).or_default();
            if self
                .take(given, |delivery| message.push(delivery))
                .is_some()
            {
                let size = std::iter::once(size);
                self.members.charge(member, size, &mut round.shares);
            }
        }
        self.solo.given(now_ms);
        true
    }
}
