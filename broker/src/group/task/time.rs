//! The group's clock, and what happens when time passes: leases run out, and
//! members fall silent.

use std::time::Duration;

use tokio::time::Instant;

use super::{GroupTask, NOTE_AFTER_MS, READING_EXTENSION};
use crate::{
    group::{
        command::{Outgoing, PendingPull},
        note::AttemptEnd,
    },
    wall_clock,
};

/// The group's clock, which nobody sets, beside the wall clock as it is now.
#[derive(Clone, Copy, Debug)]
pub(in crate::group) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(in crate::group) fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    pub(in crate::group) fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    /// Another one whenever somebody has set the wall clock.
    pub(in crate::group) fn wall_ahead_ms(&self) -> u64 {
        wall_clock::now_ms().saturating_sub(self.now_ms())
    }

    /// Wall clock of a time of this clock.
    pub(in crate::group) fn wall(&self, at_ms: u64) -> u64 {
        at_ms.saturating_add(self.wall_ahead_ms())
    }

    pub(super) fn instant(&self, at_ms: u64) -> Instant {
        // A day is as good as never: the task looks again then.
        const LONGEST: u64 = 24 * 60 * 60 * 1000;
        self.origin + Duration::from_millis(at_ms.min(self.now_ms() + LONGEST))
    }
}

impl GroupTask {
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        // One whose time is up is waiting for a read, whose end wakes the task.
        let now = Instant::now();
        let next_end = |pull: &PendingPull| {
            let until = pull.until;
            if until > now {
                until
            } else {
                until + READING_EXTENSION
            }
        };
        let pull_ms = self.pulls.iter().map(next_end).min().map(|until| {
            let from_origin = until.saturating_duration_since(self.clock.origin);
            from_origin.as_millis() as u64 + 1
        });
        if self.changing.holds() || self.is_stopping() {
            return pull_ms;
        }
        let now_ms = self.clock.now_ms();
        [
            self.board.next_due(),
            self.board.oldest_young().map(|since| since + NOTE_AFTER_MS),
            self.members.next_due(),
            self.solo.next_due(now_ms),
            self.skips_due_ms,
            self.read_on_ms,
            // One that is past waits for what is on its way.
            self.look_for_movable_ms.filter(|due| *due > now_ms),
            Some(self.parks_again_ms).filter(|due| *due > now_ms),
            self.measure_due_ms(),
            pull_ms,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn let_time_pass(&mut self) {
        if self.changing.holds() || self.is_stopping() {
            return;
        }
        let now = self.clock.now_ms();
        self.board.wake_delayed(now);
        self.expire_leases(now);
        self.note_leases(now);
        if self.skips_due_ms.is_some_and(|due| due <= now) {
            self.save_skips();
        }
    }

    fn expire_leases(&mut self, now: u64) {
        while let Some(token) = self.board.pop_overdue(now) {
            self.overdue(token);
        }
        let mut expired = Vec::new();
        while let Some(token) = self.board.pop_expired(now) {
            expired.push(token);
        }
        self.vanish(&expired, AttemptEnd::LeaseExpired);
        while let Some(member) = self.members.pop_silent(now) {
            let lost = self.board.leases_of(member);
            let mut end = AttemptEnd::LeaseExpired;
            self.solo.gone(member);
            match self.members.get(member).and_then(|m| m.outgoing.as_ref()) {
                Some(outgoing) if !lost.is_empty() => {
                    // One place is kept for this; if it is taken, an earlier
                    // loss has not been read, and the settlements will tell.
                    let _ = outgoing.try_send(Outgoing::LeasesLost(lost.clone()));
                }
                Some(_) => {}
                None => end = AttemptEnd::ConnectionLost,
            }
            self.vanish(&lost, end);
            if end == AttemptEnd::ConnectionLost {
                self.members.remove(member);
            }
        }
    }
}
