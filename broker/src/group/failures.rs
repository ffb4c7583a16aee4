//! How attempts fail, and what is planned for their events: another attempt, a wait
//! in the parking partition, or the dead letters.

use super::{
    board::{EventId, Holder, LeaseToken, Loss, Vanished},
    command::Outgoing,
    note::AttemptEnd,
    retry::{self, Verdict},
    settle::{DeadLetter, Plan},
    task::GroupTask,
};
use crate::{commit::record::AttemptFailed, wall_clock};

/// Leases that ended by themselves and are recorded in one turn, so that many
/// that end together hold up nothing.
const LOSSES_PER_TURN: usize = 1000;

/// How an attempt failed.
pub(super) struct Failure {
    pub(super) id: EventId,
    pub(super) end: AttemptEnd,
    pub(super) member: String,
    pub(super) reason: String,
    /// Asked for by the worker.
    pub(super) delay_ms: Option<u64>,
    /// Whether it vanished with its member.
    pub(super) suspect: bool,
    /// Whether it counts no attempt.
    pub(super) uncounted: bool,
}

impl Failure {
    /// One that counts an attempt, and is not its member's end.
    pub(super) fn counted(id: EventId, end: AttemptEnd, member: String, reason: String) -> Self {
        Self {
            id,
            end,
            member,
            reason,
            delay_ms: None,
            suspect: false,
            uncounted: false,
        }
    }
}

impl GroupTask {
    /// What followed from leases that ended by themselves, for the log: a bounded
    /// number in a turn. True when more are left.
    pub(super) fn record_losses(&mut self) -> bool {
        let count = self.losses.len().min(LOSSES_PER_TURN);
        let mut plan = Plan::default();
        for failure in self.losses.drain(..count).collect::<Vec<_>>() {
            self.plan_failure(&mut plan, None, failure);
        }
        if count > 0 {
            self.carry_out(plan, None);
        }
        !self.losses.is_empty()
    }

    /// Leases ended because their holders vanished, as `end` says if it was a
    /// member.
    pub(super) fn vanish(&mut self, tokens: &[LeaseToken], end: AttemptEnd) {
        for Vanished { id, loss } in self.board.vanish(tokens) {
            let (end, member, alone) = match loss {
                Loss::Member { holder, alone } => (end, self.holder_name(&holder), alone),
                Loss::Restart { member } => (AttemptEnd::BrokerRestart, member, false),
            };
            let reason = match end {
                AttemptEnd::ConnectionLost => "the worker's connection was lost",
                AttemptEnd::BrokerRestart => "the worker did not come back after a restart",
                _ => "the lease ran out",
            };
            self.losses.push_back(Failure {
                // Not the event's fault, as far as anybody knows: no delay.
                delay_ms: Some(0),
                suspect: true,
                uncounted: !alone,
                ..Failure::counted(id, end, member, reason.to_owned())
            });
        }
    }

    /// An attempt has taken longer than the group allows.
    pub(super) fn overdue(&mut self, token: LeaseToken) {
        let Some((id, holder)) = self.board.overdue(token) else {
            return;
        };
        if let Holder::Member(member) = &holder
            && let Some(outgoing) = self.members.get(*member).and_then(|m| m.outgoing.as_ref())
        {
            // If it cannot be told, the settlement will tell.
            let _ = outgoing.try_send(Outgoing::LeasesLost(vec![token]));
        }
        let member = self.holder_name(&holder);
        let limit_ms = self.config().processing_limit_ms;
        let reason = format!("it took longer than the limit of {limit_ms} ms");
        let end = AttemptEnd::ProcessingLimit;
        self.losses
            .push_back(Failure::counted(id, end, member, reason));
    }

    pub(super) fn plan_failure(&mut self, plan: &mut Plan, index: Option<usize>, failure: Failure) {
        let id = failure.id;
        let attempt = self.board.attempt(id);
        let at = self.board.at(id);
        let source = self.board.source(at.source);
        let verdict = match failure.end {
            AttemptEnd::Reject => Verdict::DeadLetter,
            _ if failure.uncounted => Verdict::RetryAfter(0),
            _ => retry::after_failure(self.config(), attempt, failure.delay_ms, rand::random()),
        };
        let delay_ms = match verdict {
            Verdict::RetryAfter(delay_ms) => delay_ms,
            Verdict::DeadLetter => 0,
        };
        let wall_ms = wall_clock::now_ms();
        let failed = AttemptFailed {
            group: self.group.id.0,
            topic: source.topic.0,
            partition: source.partition.0,
            offset: at.offset.0,
            attempt,
            not_before_ms: wall_ms.saturating_add(delay_ms),
            end: failure.end as u32,
            member: failure.member,
            reason: failure.reason,
            ended_ms: wall_ms,
            suspect: failure.suspect,
            uncounted: failure.uncounted,
            delay_ms: Some(delay_ms),
        };
        match verdict {
            Verdict::RetryAfter(delay) if self.parks_for(delay, plan) => {
                plan.parks.push((index, id, failed));
                fault_point!(ParkPlanned);
            }
            Verdict::RetryAfter(_) => plan.retries.push((index, id, failed)),
            Verdict::DeadLetter => {
                plan.dead_letters.push(DeadLetter {
                    id,
                    index,
                    last: failed,
                });
                fault_point!(DeadLetterPlanned);
            }
        }
    }

    /// Whether an event that waits so long for its next attempt is parked.
    fn parks_for(&self, delay_ms: u64, plan: &Plan) -> bool {
        delay_ms > self.limits.park_after_ms && self.may_park_after(plan.parks.len())
    }
}
