//! How many of the next events a member gets in one go, and in one message: a run in one
//! message is cheaper than the same events here and there, but nobody is to wait for what another
//! one has.
//!
//! Pure.

/// Most of what may be anybody's, so that others get some of it, too.
const RUN_MAX: usize = 256;

/// A member that gets through less than this part of what others do gets less.
const FAR_SLOWER: usize = 8;

/// Messages of fewer events would cost more than it takes to wait for one.
const HALF_MIN: usize = 128;

/// Most events of a message to one of `members`, in a group with an order, where
/// `at_once` events may be given out until some of them are settled. With all of them in
/// one message, the group would wait while the member works, and the member while the
/// group goes on: so it is half of its share.
pub(super) fn half_of(at_once: usize, members: usize) -> usize {
    at_once.div_ceil(2 * members.max(1)).max(HALF_MIN)
}

/// What is there, and who is to get some of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    /// How many members there are, at least one, those counted in that take nothing now.
    pub(super) members: usize,
    /// Events that may be given to any of them now.
    pub(super) ready: usize,
    /// Events under lease.
    pub(super) in_flight: usize,
    /// Those of the member.
    pub(super) leases: usize,
    /// How many more events may be under lease.
    pub(super) free: usize,
    /// What it got through lately, if others may be given other events meanwhile.
    pub(super) lately: usize,
}

/// What has to be looked for, and is only if it matters.
pub(super) trait Others {
    /// What all members got through lately.
    fn lately(&self) -> usize;
    /// Events that may be given out and were not looked at.
    fn unread(&self) -> usize;
}

impl Shares {
    /// Half of its even share of what is ready, so that all have the same in the end;
    /// what members have on average, which they get through anyway; or what they got
    /// through lately on average, if as much is there for each of the others, and may be
    /// under lease: not what this one did, or whoever is fast would have ever more. But
    /// not for one that is far slower, or has far more already.
    pub(super) fn run(self, others: &impl Others) -> usize {
        let even = self.ready / 2 / self.members;
        let average = self.in_flight / self.members;
        if self.leases > 2 * average {
            return even.clamp(1, RUN_MAX);
        }
        let run = even.max(average).clamp(1, RUN_MAX);
        let lately = (FAR_SLOWER * self.lately).min(self.free / self.members);
        if lately <= run {
            return run;
        }
        let each = others.lately().min(others.unread()) / self.members;
        run.max(lately.min(each))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: Shares = Shares {
        members: 4,
        ready: 80,
        in_flight: 400,
        leases: 100,
        free: 100_000,
        lately: 0,
    };

    /// What all got through lately, and what is unread.
    struct Known(usize, usize);

    impl Others for Known {
        fn lately(&self) -> usize {
            self.0
        }

        fn unread(&self) -> usize {
            self.1
        }
    }

    #[test]
    fn a_run_is_what_a_member_gets_through_and_others_need_not_wait_for() {
        let run = |shares: Shares| shares.run(&Known(100_000, 100_000));
        assert_eq!(run(SHARES), 100, "the average");
        let ready = 1000;
        assert_eq!(run(Shares { ready, ..SHARES }), 125, "half its share");
        let in_flight = 4000;
        let many = Shares {
            in_flight,
            ..SHARES
        };
        assert_eq!(run(many), RUN_MAX, "not all that there is");
        let leases = 201;
        assert_eq!(run(Shares { leases, ..SHARES }), 10, "it has far more");
        let first = Shares {
            ready: 1,
            in_flight: 0,
            leases: 0,
            ..SHARES
        };
        assert_eq!(run(first), 1, "something, in any case");
    }

    #[test]
    fn with_an_order_a_message_has_half_of_what_may_be_out_at_once() {
        assert_eq!(half_of(1000, 1), 500);
        assert_eq!(half_of(1001, 1), 501, "two messages are enough");
        assert_eq!(half_of(1000, 2), 250);
        assert_eq!(half_of(1000, 16), HALF_MIN, "few are not worth it");
        assert_eq!(half_of(0, 0), HALF_MIN);
    }

    #[test]
    fn fast_members_get_more_all_the_same_while_there_is_as_much_for_each() {
        let fast = Shares {
            lately: 500,
            ..SHARES
        };
        let faster = Shares {
            lately: 900,
            ..SHARES
        };
        for of in [fast, faster] {
            assert_eq!(of.run(&Known(2400, 10_000)), 600);
        }
        let slow = Shares {
            lately: 15,
            ..SHARES
        };
        assert_eq!(
            slow.run(&Known(2400, 10_000)),
            120,
            "eight times what it did"
        );
        assert_eq!(fast.run(&Known(2400, 1200)), 300);
        assert_eq!(fast.run(&Known(2400, 100)), 100, "not less than without");
        let free = 480;
        assert_eq!(Shares { free, ..fast }.run(&Known(2400, 10_000)), 120);
        let leases = 201;
        assert_eq!(Shares { leases, ..fast }.run(&Known(2400, 10_000)), 10);
    }
}
