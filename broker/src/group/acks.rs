//! Acks, which is what nearly all settlements are. Those that came in one turn of the
//! group's task go to the log together: what many members ack costs one proposal, not
//! one for each of them.
//!
//! In a group with an order the next event of a line need not wait for the log's answer:
//! it goes on when the ack is in line, behind which everything about it is written.

use super::{
    board::Seat,
    command::SettlementFailures,
    settle::Asked,
    task::{Continuation, GroupTask},
};
use crate::commit::{Changes, CommitError, Submitted};

/// Acks of one request, with their indices in it.
pub(super) struct Acks {
    pub(super) acks: Vec<(usize, Seat)>,
    pub(super) asked: Asked,
}

impl GroupTask {
    /// Proposes what was acked in this turn.
    pub(super) fn propose_acks(&mut self) {
        let requests = std::mem::take(&mut self.acks);
        if requests.is_empty() {
            return;
        }
        let seats = requests.iter().flat_map(|request| &request.acks);
        let changes = Changes {
            settles: self.settles_of(seats.map(|(_, seat)| seat.id)),
            ..Changes::default()
        };
        let proposals = self.proposals.clone();
        let has_lines = self.has_order();
        self.jobs.push(Box::pin(async move {
            if !has_lines {
                let settled = proposals.commit(changes).await.map(drop);
                return acked(requests, settled, false);
            }
            let submitted = proposals.submit(changes).await;
            Box::new(move |task: &mut Self| match submitted {
                Ok(submitted) => task.pass_lines_on(requests, submitted),
                Err(error) => task.finish_acks(requests, Err(error), false),
            }) as Continuation
        }));
    }

    fn pass_lines_on(&mut self, requests: Vec<Acks>, submitted: Submitted) {
        let now = self.clock.now_ms();
        for (_, seat) in requests.iter().flat_map(|request| &request.acks) {
            self.board.pass_on(*seat, now);
        }
        self.jobs.push(Box::pin(async move {
            let settled = submitted.committed().await.map(drop);
            acked(requests, settled, true)
        }));
    }

    /// `passed_on` says whether the acks were in line, and their lines passed on.
    fn finish_acks(
        &mut self,
        requests: Vec<Acks>,
        settled: Result<(), CommitError>,
        passed_on: bool,
    ) {
        if let Err(error) = &settled {
            self.disable_if_the_log_failed(error);
        }
        let now = self.clock.now_ms();
        for Acks { acks, asked } in requests {
            let (mut failures, reply) = asked;
            for (index, Seat { id, .. }) in acks {
                match &settled {
                    Ok(()) => self.board.settled(id, now),
                    Err(error) => {
                        // What was in line is refused only when the group, the log or
                        // the broker is at its end.
                        if !passed_on {
                            self.unfreeze(id, error);
                        }
                        failures.push((index, error.clone().into()));
                    }
                }
            }
            in_order(&mut failures);
            let _ = reply.send(failures);
            fault_point!(SettlementsAnswered);
        }
    }
}

fn acked(requests: Vec<Acks>, settled: Result<(), CommitError>, passed_on: bool) -> Continuation {
    Box::new(move |task: &mut GroupTask| task.finish_acks(requests, settled, passed_on))
}

/// By their indices in the request.
pub(super) fn in_order(failures: &mut SettlementFailures) {
    failures.sort_by_key(|(index, _)| *index);
}
