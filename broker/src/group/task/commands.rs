//! What others ask of the group, and how members come and go.

use super::GroupTask;
use crate::group::{
    board::{Holder, LeaseToken, MemberId},
    command::{Command, JoinError, Joined},
    credit::{Grant, Shrinks},
    note::AttemptEnd,
};

impl GroupTask {
    pub(super) fn handle(&mut self, command: Command) {
        self.look_again();
        match command {
            Command::Join {
                name,
                grant,
                held,
                message_bytes_max,
                outgoing,
                buffer,
                reply,
            } => {
                let lease_ms = self.config().lease_ms;
                let deadline_ms = self.clock.now_ms() + lease_ms;
                let _ = reply.send(if self.members.len() >= self.limits.members_max {
                    Err(JoinError::TooManyMembers(self.members.len()))
                } else {
                    let members = &mut self.members;
                    let id = members.add(name, message_bytes_max, outgoing, buffer, deadline_ms);
                    Ok(self.join(id, grant, &held))
                });
            }
            Command::Grant {
                member,
                grant,
                reply,
            } => {
                self.heard(member);
                let _ = reply.send(self.grant(member, grant));
            }
            Command::Heartbeat {
                member,
                grant,
                reply,
            } => {
                self.heard(member);
                let granted = grant.map_or(Ok(()), |grant| self.grant(member, grant));
                self.come_up();
                let _ = reply.send(granted.map(|()| self.idle()));
            }
            Command::Drain { member, request_id } => {
                self.heard(member);
                if let Some(member) = self.members.get_mut(member) {
                    member.draining = Some(request_id);
                    self.draining = true;
                }
            }
            Command::HandBack { tokens } => self.hand_back(&tokens),
            Command::Leave { member } => self.leave(member),
            Command::Disconnected { member } => self.disconnected(member),
            Command::Settle {
                member,
                settlements,
                reply,
            } => {
                if let Some(member) = member {
                    self.heard(member);
                }
                let acked = self.settle(settlements, reply);
                if let Some(member) = member {
                    self.members.acked(member, acked, self.clock.now_ms());
                }
            }
            Command::Freeze { tokens, reply } => self.freeze(tokens, reply),
            Command::Thaw { events, thaw } => self.thaw(&events, thaw),
            Command::Pull { pull } => {
                self.flow.pulled_ms = Some(self.clock.now_ms());
                self.pulls.push_back(pull);
            }
            Command::Describe {
                in_flight_max,
                reply,
            } => {
                self.come_up();
                let _ = reply.send(self.describe(in_flight_max));
            }
            Command::Explain {
                source,
                offset,
                reply,
            } => {
                self.come_up();
                let _ = reply.send(self.explain(source, offset));
            }
            Command::ResolvedDeadLetters { reply } => drop(reply.send(self.resolved.clone())),
            Command::Change { request, reply } => self.change(*request, reply),
            Command::PlanMoves { positions, reply } => {
                let _ = reply.send(self.plan_moves(&positions));
            }
            Command::Redrive {
                letters,
                force,
                reply,
            } => self.redrive(letters, force, reply),
            Command::Purge { letters, reply } => self.purge(letters, reply),
        }
    }

    fn join(&mut self, member: MemberId, grant: Option<Grant>, held: &[LeaseToken]) -> Joined {
        let now = self.clock.now_ms();
        if let (Some(grant), Some(member)) = (grant, self.members.get_mut(member)) {
            // A first grant cannot shrink.
            let _ = member.credit.grant(grant);
        }
        let lost = held
            .iter()
            .filter(|token| !self.board.present(**token, member, now))
            .copied()
            .collect();
        Joined {
            member,
            lost,
            lease_ms: self.config().lease_ms,
        }
    }

    fn grant(&mut self, member: MemberId, grant: Grant) -> Result<(), Shrinks> {
        match self.members.get_mut(member) {
            Some(member) => member.credit.grant(grant),
            None => Ok(()),
        }
    }

    fn heard(&mut self, member: MemberId) {
        let deadline = self.clock.now_ms() + self.lease_ms_of(member);
        if self.members.heard(member, deadline) {
            self.board.keep_with(member);
        }
    }

    fn leave(&mut self, member: MemberId) {
        self.hand_back(&self.board.leases_of(member));
        self.solo.gone(member);
        self.members.remove(member);
    }

    /// Members that were lost while the position was about to move, which it did not.
    pub(in crate::group) fn lose_disconnected(&mut self) {
        if !self.config().connection_loss_at_once || self.changing.holds() {
            return;
        }
        for member in self.members.without_stream() {
            self.disconnected(member);
        }
    }

    fn disconnected(&mut self, member: MemberId) {
        self.solo.gone(member);
        // A move of the position ends the leases by itself, and nothing may come between.
        if self.config().connection_loss_at_once && !self.changing.holds() {
            let lost = self.board.leases_of(member);
            self.vanish(&lost, AttemptEnd::ConnectionLost);
            self.members.remove(member);
        } else if self.board.holding(&Holder::Member(member)).leases == 0 {
            self.members.remove(member);
        } else {
            let deadline = self.clock.now_ms() + self.lease_ms_of(member);
            self.members.disconnected(member, deadline);
        }
    }
}
