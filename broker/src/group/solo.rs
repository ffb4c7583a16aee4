//! When a suspect may go to a member, and which member is made idle for it.
//!
//! A suspect goes to a member that holds nothing. While nothing else is ready,
//! every such member may take one. While other events are ready, one suspect at
//! a time is out, so that they go on; and after a turn of `wait_ms` the suspects
//! rest for as long, so that they go on with a single member, too. When suspects
//! have waited for `wait_ms` and nobody fell idle, one member is fed no more
//! until it is.
//!
//! Pure: it is given the time, and what is known of the board.

use super::board::MemberId;

/// Whose turn it is, suspects or others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nobody competes, or nothing was given yet.
    Open,
    /// Suspects are given since then.
    SuspectsSince(u64),
    /// The others have their turn until then.
    OthersUntil(u64),
}

/// Gives suspects their place beside other events.
#[derive(Debug)]
pub struct Solo {
    wait_ms: u64,
    waiting_since: Option<u64>,
    turn: Turn,
    emptying: Option<MemberId>,
}

impl Solo {
    /// No suspects. They wait `wait_ms` for a member to fall idle.
    #[must_use]
    pub fn new(wait_ms: u64) -> Self {
        Self {
            wait_ms,
            waiting_since: None,
            turn: Turn::Open,
            emptying: None,
        }
    }

    /// From now on suspects wait so long.
    pub fn set_wait(&mut self, wait_ms: u64) {
        self.wait_ms = wait_ms;
    }

    /// Time passes; `waiting` suspects are ready.
    pub fn tick(&mut self, waiting: usize, now_ms: u64) {
        if waiting == 0 {
            self.waiting_since = None;
            self.emptying = None;
            self.turn = Turn::Open;
            return;
        }
        self.waiting_since.get_or_insert(now_ms);
        match self.turn {
            Turn::SuspectsSince(since) if now_ms >= since.saturating_add(self.wait_ms.max(1)) => {
                self.turn = Turn::OthersUntil(now_ms.saturating_add(self.wait_ms));
                self.waiting_since = Some(now_ms);
            }
            Turn::OthersUntil(until) if now_ms >= until => self.turn = Turn::Open,
            _ => {}
        }
    }

    /// Whether a suspect may go to a member that holds nothing, when `others`
    /// are ready and so many suspects are out.
    #[must_use]
    pub fn may_give(&self, others: bool, out: usize) -> bool {
        !others || (out == 0 && !matches!(self.turn, Turn::OthersUntil(_)))
    }

    /// A suspect was given away.
    pub fn given(&mut self, now_ms: u64) {
        self.waiting_since = Some(now_ms);
        self.emptying = None;
        if self.turn == Turn::Open {
            self.turn = Turn::SuspectsSince(now_ms);
        }
    }

    /// Whether a member is to be made idle, and none is yet.
    #[must_use]
    pub fn wants_member(&self, now_ms: u64) -> bool {
        self.emptying.is_none()
            && self
                .waiting_since
                .is_some_and(|since| since.saturating_add(self.wait_ms) <= now_ms)
    }

    /// This member is fed no more until it is idle.
    pub fn empty(&mut self, member: MemberId) {
        self.emptying = Some(member);
    }

    /// The member that is being made idle.
    #[must_use]
    pub fn emptying(&self) -> Option<MemberId> {
        self.emptying
    }

    /// Whether a member is being made idle.
    #[must_use]
    pub fn is_emptying(&self, member: MemberId) -> bool {
        self.emptying == Some(member)
    }

    /// A member is gone, or silent.
    pub fn gone(&mut self, member: MemberId) {
        if self.is_emptying(member) {
            self.emptying = None;
        }
    }

    /// When to look again, without anything else happening.
    #[must_use]
    pub fn next_due(&self, now_ms: u64) -> Option<u64> {
        let wants = self.waiting_since.filter(|_| self.emptying.is_none());
        let wants = wants.map(|since| since.saturating_add(self.wait_ms));
        let turn = match self.turn {
            Turn::Open => None,
            Turn::SuspectsSince(since) => Some(since.saturating_add(self.wait_ms.max(1))),
            Turn::OthersUntil(until) => Some(until),
        };
        // What is past waits for something else.
        [wants, turn]
            .into_iter()
            .flatten()
            .filter(|due| *due > now_ms)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: MemberId = MemberId(1);

    #[test]
    fn a_member_is_made_idle_when_none_falls_idle_in_time() {
        let mut solo = Solo::new(100);
        solo.tick(1, 0);
        assert!(!solo.wants_member(99));
        assert_eq!(solo.next_due(0), Some(100));
        assert!(solo.wants_member(100));
        solo.empty(MEMBER);
        assert!(solo.is_emptying(MEMBER) && !solo.wants_member(1000));
        solo.gone(MEMBER);
        assert!(solo.wants_member(1000));
        solo.empty(MEMBER);
        solo.given(1000);
        assert!(!solo.is_emptying(MEMBER));
        solo.tick(0, 1001);
        assert_eq!(solo.next_due(1001), None);
    }

    #[test]
    fn others_that_are_ready_leave_room_for_one_suspect_at_a_time_and_have_turns() {
        let mut solo = Solo::new(100);
        solo.tick(9, 0);
        assert!(solo.may_give(true, 0));
        assert!(!solo.may_give(true, 1));
        assert!(solo.may_give(false, 1));
        solo.given(0);
        solo.tick(8, 99);
        assert!(solo.may_give(true, 0));
        solo.tick(8, 100);
        assert!(!solo.may_give(true, 0));
        assert!(solo.may_give(false, 0));
        assert!(!solo.wants_member(199));
        solo.tick(8, 200);
        assert!(solo.may_give(true, 0) && solo.wants_member(200));
    }
}
