//! What settling does: acks (those without anything else are in [`super::acks`]), failed
//! attempts (what they come to is in [`super::failures`]), dead letters, and commits over
//! several groups.
//!
//! Every settlement first freezes its lease, then proposes, and leaves that
//! state on the log's answer, so that an expiry or another settlement cannot
//! come between.

use sluice_proto::Offset;
use tokio::sync::oneshot;

use super::{
    acks::{Acks, in_order},
    board::{EventId, LeaseError, LeaseToken, Seat},
    command::{Frozen, Settlement, SettlementAction, SettlementError, SettlementFailures, Thaw},
    dead_letters::Moved,
    failures::Failure,
    note::AttemptEnd,
    parking::ParkedAt,
    task::{Continuation, GroupTask},
};
use crate::commit::{
    Changes, CommitError, Unavailable,
    record::{AttemptFailed, Settle},
};

/// An attempt that ended and could not be recorded is made again after so long.
const RECORD_AGAIN_AFTER_MS: u64 = 1000;

/// An event that is to become a dead letter.
pub(super) struct DeadLetter {
    pub(super) id: EventId,
    /// The settlement that asked for it, if one did.
    pub(super) index: Option<usize>,
    pub(super) last: AttemptFailed,
}

/// What settlements come to.
#[derive(Default)]
pub(super) struct Plan {
    /// Settlement's index, and event.
    pub(super) acks: Vec<(usize, Seat)>,
    /// Settlement's index if there is one, event, and the record.
    pub(super) retries: Vec<(Option<usize>, EventId, AttemptFailed)>,
    /// As retries, of events that are to be parked.
    pub(super) parks: Vec<(Option<usize>, EventId, AttemptFailed)>,
    pub(super) dead_letters: Vec<DeadLetter>,
}

impl Plan {
    fn is_acks(&self) -> bool {
        self.retries.is_empty() && self.parks.is_empty() && self.dead_letters.is_empty()
    }
}

/// Whoever asked for settlements, and what has failed of them so far.
pub(super) type Asked = (SettlementFailures, oneshot::Sender<SettlementFailures>);

/// What became of a plan.
struct Settled {
    plan: Plan,
    main: Result<(), CommitError>,
    /// In the order of the plan's parks.
    parked: Vec<Result<ParkedAt, SettlementError>>,
    /// In the order of the plan's dead letters.
    dead_letters: Vec<Result<Moved, SettlementError>>,
}

impl GroupTask {
    /// Returns how many of them are acks of leases that are held.
    pub(super) fn settle(
        &mut self,
        settlements: Vec<Settlement>,
        reply: oneshot::Sender<SettlementFailures>,
    ) -> usize {
        let now = self.clock.now_ms();
        let mut failures = SettlementFailures::new();
        let mut plan = Plan::default();
        for (index, settlement) in settlements.into_iter().enumerate() {
            let token = settlement.token;
            let action = match settlement.action {
                SettlementAction::Extend(report) => {
                    if let Err(error) = self.board.extend(token, report, now) {
                        failures.push((index, error.into()));
                    }
                    continue;
                }
                action => action,
            };
            if self.changing.holds() {
                failures.push((index, LeaseError::Settling.into()));
                continue;
            }
            let member = match action {
                SettlementAction::Ack => String::new(),
                _ => self.member_of(token),
            };
            let seat = match self.board.freeze(token, now) {
                Ok(seat) => seat,
                Err(error) => {
                    failures.push((index, error.into()));
                    continue;
                }
            };
            let (end, reason, delay_ms) = match action {
                SettlementAction::Ack | SettlementAction::Extend(_) => {
                    plan.acks.push((index, seat));
                    continue;
                }
                SettlementAction::Nack { delay_ms, reason } => (AttemptEnd::Nack, reason, delay_ms),
                SettlementAction::Reject { reason } => (AttemptEnd::Reject, reason, None),
            };
            let failure = Failure {
                delay_ms,
                ..Failure::counted(seat.id, end, member, reason)
            };
            self.plan_failure(&mut plan, Some(index), failure);
        }
        let acked = plan.acks.len();
        let asked = (failures, reply);
        if plan.is_acks() && acked > 0 {
            let acks = plan.acks;
            self.acks.push(Acks { acks, asked });
        } else {
            self.carry_out(plan, Some(asked));
        }
        acked
    }

    fn member_of(&self, token: LeaseToken) -> String {
        self.board
            .leased(token)
            .map(|(_, lease)| self.holder_name(&lease.holder))
            .unwrap_or_default()
    }

    /// Proposes what was planned, and goes on when the log has answered.
    pub(super) fn carry_out(&mut self, plan: Plan, asked: Option<Asked>) {
        let mut changes = Changes {
            settles: self.settles_of(plan.acks.iter().map(|(_, seat)| seat.id)),
            ..Changes::default()
        };
        changes.attempts = plan.retries.iter().map(|(_, _, f)| f.clone()).collect();
        let nothing = changes.settles.is_empty() && changes.attempts.is_empty();
        if nothing && plan.dead_letters.is_empty() && plan.parks.is_empty() {
            if let Some((failures, reply)) = asked {
                let _ = reply.send(failures);
            }
            return;
        }
        let dead_letters: Vec<_> = plan
            .dead_letters
            .iter()
            .map(|letter| (self.read_event(letter.id), self.dead_letter_move(letter)))
            .collect();
        let parks = plan.parks.iter();
        let to_park = parks.map(|(_, id, failed)| self.to_park(*id, Some(failed)));
        let to_park = to_park.collect();
        let mover = self.mover();
        let proposals = self.proposals.clone();
        self.jobs.push(Box::pin(async move {
            let main = if nothing {
                Ok(())
            } else {
                proposals.commit(changes).await.map(drop)
            };
            let parked = mover.park(to_park).await;
            let mut moved = Vec::with_capacity(dead_letters.len());
            for (event, dead_letter) in dead_letters {
                moved.push(match event.await {
                    Ok(event) => dead_letter.commit(&proposals, event).await,
                    Err(error) => Err(SettlementError::Read(error)),
                });
            }
            Box::new(move |task: &mut Self| {
                task.finish(
                    Settled {
                        plan,
                        main,
                        parked,
                        dead_letters: moved,
                    },
                    asked,
                );
            }) as Continuation
        }));
    }

    fn finish(&mut self, settled: Settled, asked: Option<Asked>) {
        let Settled {
            plan,
            main,
            parked,
            dead_letters,
        } = settled;
        let now = self.clock.now_ms();
        let mut failures = Vec::new();
        if let Err(error) = &main {
            self.disable_if_the_log_failed(error);
        }
        for (index, Seat { id, .. }) in plan.acks {
            match &main {
                Ok(()) => self.board.settled(id, now),
                Err(error) => {
                    self.unfreeze(id, error);
                    failures.push((Some(index), error.clone().into()));
                }
            }
        }
        for (index, id, mut failed) in plan.retries {
            match &main {
                Ok(()) => {
                    failed.not_before_ms = now.saturating_add(failed.delay_ms.unwrap_or(0));
                    self.board.failed(id, failed, now);
                }
                Err(error) => {
                    self.unfreeze(id, error);
                    failures.push((index, error.clone().into()));
                }
            }
        }
        for ((index, id, failed), parked) in plan.parks.into_iter().zip(parked) {
            match parked {
                Ok(parked) => self.retry_parked(id, parked, failed),
                Err(error) => {
                    self.stays(id, &error);
                    failures.push((index, error));
                }
            }
        }
        for (letter, moved) in plan.dead_letters.into_iter().zip(dead_letters) {
            match moved {
                Ok(Moved::Gone) => {
                    self.dropped += 1;
                    self.board.settled(letter.id, now);
                }
                Ok(Moved::Kept) => {
                    tracing::info!(
                        group = %self.group.name, offset = %letter.id.offset,
                        attempt = letter.last.attempt, reason = letter.last.reason,
                        "an event is a dead letter",
                    );
                    self.tallies[letter.id.source].dead_lettered += 1;
                    self.board.settled(letter.id, now);
                    fault_point!(DeadLetterSettled);
                }
                Err(error) => {
                    self.stays(letter.id, &error);
                    failures.push((letter.index, error));
                }
            }
        }
        if let Some((mut all, reply)) = asked {
            let asked_for = failures.into_iter().filter_map(|(i, e)| Some((i?, e)));
            all.extend(asked_for);
            in_order(&mut all);
            let _ = reply.send(all);
            fault_point!(SettlementsAnswered);
        }
    }

    fn retry_parked(&mut self, id: EventId, parked: ParkedAt, mut failed: AttemptFailed) {
        let now = self.clock.now_ms();
        match parked {
            ParkedAt::Offset(at) => {
                failed.not_before_ms = now.saturating_add(failed.delay_ms.unwrap_or(0));
                self.board.parked(id, at, Some(&failed), now);
                self.board.forget(id);
                fault_point!(ParkMoved);
            }
            ParkedAt::Gone => {
                self.dropped += 1;
                self.board.settled(id, now);
            }
        }
    }

    /// An event could not be moved, to the dead letters or the parked ones.
    fn stays(&mut self, id: EventId, error: &SettlementError) {
        if let SettlementError::Commit(error) = error {
            self.disable_if_the_log_failed(error);
            self.unfreeze(id, error);
        } else {
            tracing::error!(%error, ?id, "an event stays where it is");
            self.not_settled(id);
        }
    }

    /// The lease goes on, unless the outcome is unknown.
    pub(super) fn unfreeze(&mut self, id: EventId, error: &CommitError) {
        if !matches!(error, CommitError::Unavailable(Unavailable::LogFailed(_))) {
            self.not_settled(id);
        }
    }

    fn not_settled(&mut self, id: EventId) {
        let now = self.clock.now_ms();
        let members = &self.members;
        self.board
            .thaw(id, now, |member| members.keeps_leases(member));
        self.board.unrecorded(id, now + RECORD_AGAIN_AFTER_MS, now);
    }

    pub(super) fn disable_if_the_log_failed(&mut self, error: &CommitError) {
        if let CommitError::Unavailable(Unavailable::LogFailed(_)) = error {
            self.disabled = Some(error.to_string());
            self.log_failed = true;
        }
    }

    /// The records that settle these events.
    pub(super) fn settles_of(&self, events: impl Iterator<Item = EventId>) -> Vec<Settle> {
        let mut places: Vec<EventId> = events.map(|id| self.board.at(id)).collect();
        places.sort_unstable();
        let of_source = places.chunk_by(|one, next| one.source == next.source);
        let settles = of_source.map(|places| {
            let mut runs: Vec<(Offset, u64)> = Vec::new();
            for at in places {
                match runs.last_mut() {
                    Some((first, length)) if first.0 + *length == at.offset.0 => *length += 1,
                    _ => runs.push((at.offset, 1)),
                }
            }
            Settle {
                group: self.group.id,
                source: self.board.source(places[0].source),
                runs,
            }
        });
        settles.collect()
    }

    // ---------------------------------------------- commits over groups

    pub(super) fn freeze(
        &mut self,
        tokens: Vec<LeaseToken>,
        reply: oneshot::Sender<Result<Frozen, LeaseError>>,
    ) {
        if self.changing.holds() {
            let _ = reply.send(Err(LeaseError::Settling));
            return;
        }
        let now = self.clock.now_ms();
        let mut events = Vec::with_capacity(tokens.len());
        for token in tokens {
            match self.board.freeze(token, now) {
                Ok(seat) => events.push(seat.id),
                Err(error) => {
                    self.thaw(&events, Thaw::Unchanged);
                    let _ = reply.send(Err(error));
                    return;
                }
            }
        }
        let settles = self.settles_of(events.iter().copied());
        if let Err(Ok(unread)) = reply.send(Ok(Frozen { events, settles })) {
            self.thaw(&unread.events, Thaw::Unchanged);
        }
    }

    pub(super) fn thaw(&mut self, events: &[EventId], thaw: Thaw) {
        let now = self.clock.now_ms();
        for id in events {
            match thaw {
                Thaw::Settled => self.board.settled(*id, now),
                Thaw::Unchanged => self.not_settled(*id),
                Thaw::Unknown => {}
            }
        }
        if thaw == Thaw::Unknown {
            self.disabled = Some("the log has failed".into());
            self.log_failed = true;
        }
    }
}
