//! Gives out what is ready to whoever has credit.

use std::collections::{BTreeMap, VecDeque};

use prost::Message;
use sluice_proto::{Offset, PartitionId};
use tokio::time::Instant;

use super::{GroupTask, READING_EXTENSION};
use crate::group::{
    board::{Holder, MemberId},
    command::{Delivery, IdleReason, Outgoing, Pulled},
    members::Share,
    note::DeadLetterNote,
};

/// Who gets the next event.
enum Receiver {
    Pull(String),
    Member(MemberId),
    Nobody,
}

/// What one round of deliveries gives to whom.
#[derive(Default)]
struct Round {
    pulled: Vec<Delivery>,
    pulled_bytes: usize,
    shares: BTreeMap<MemberId, Share>,
    shared: BTreeMap<MemberId, Vec<Delivery>>,
}

impl GroupTask {
    /// Gives out what is ready to whoever has credit.
    pub(super) fn deliver(&mut self) {
        if self.disabled.is_some() || (self.pulls.is_empty() && !self.members.any_credit()) {
            return;
        }
        let mut round = Round::default();
        let mut passed_over = 0;
        while self.board.in_flight() < self.config().max_in_flight as usize
            && passed_over < self.board.ready().min(64)
            && let Some(id) = self.board.next_ready()
        {
            if !self.payloads.has(id) {
                self.fetch(id);
                self.board.rotate_ready();
                passed_over += 1;
                continue;
            }
            let size = self.board.size_and_key(id).map_or(0, |(size, _)| size) as usize;
            match self.receiver(size, &mut round) {
                Receiver::Pull(name) => {
                    if let Some(delivery) = self.lease(Holder::Unary(name)) {
                        round.pulled_bytes += size;
                        round.pulled.push(delivery);
                    }
                }
                Receiver::Member(member) => {
                    if let Some(delivery) = self.lease(Holder::Member(member)) {
                        self.members.charge(member, size, &mut round.shares);
                        round.shared.entry(member).or_default().push(delivery);
                    }
                }
                Receiver::Nobody if self.members.any_credit() => {
                    self.board.rotate_ready();
                    passed_over += 1;
                }
                Receiver::Nobody => break,
            }
        }
        if !round.pulled.is_empty() {
            self.answer_pull(&mut round);
        }
        for (member, deliveries) in round.shared {
            self.send(member, deliveries);
        }
    }

    fn receiver(&mut self, size: usize, round: &mut Round) -> Receiver {
        while let Some(pull) = self.pulls.front() {
            if pull.reply.is_closed() && round.pulled.is_empty() {
                self.pulls.pop_front();
                continue;
            }
            let fits = round.pulled.is_empty() || round.pulled_bytes + size <= pull.bytes_max;
            if fits && round.pulled.len() < pull.events_max {
                return Receiver::Pull(pull.name.clone());
            }
            self.answer_pull(round);
        }
        match self.members.choose(size, &round.shares) {
            Some(member) => Receiver::Member(member),
            None => Receiver::Nobody,
        }
    }

    fn answer_pull(&mut self, round: &mut Round) {
        let deliveries = std::mem::take(&mut round.pulled);
        round.pulled_bytes = 0;
        let Some(pull) = self.pulls.pop_front() else {
            return;
        };
        let answer = Pulled {
            deliveries,
            idle: IdleReason::Delivering,
            lease_ms: self.config().lease_ms,
        };
        if let Err(unread) = pull.reply.send(answer) {
            for delivery in unread.deliveries.iter().rev() {
                self.board.hand_back(delivery.token);
            }
        }
    }

    fn send(&mut self, member: MemberId, deliveries: Vec<Delivery>) {
        let outgoing = self.members.get(member).and_then(|m| m.outgoing.as_ref());
        let Some(outgoing) = outgoing else { return };
        if let Err(unsent) = outgoing.try_send(Outgoing::Deliveries(deliveries))
            && let Outgoing::Deliveries(deliveries) = unsent.into_inner()
        {
            for delivery in deliveries.iter().rev() {
                self.board.hand_back(delivery.token);
            }
        }
    }

    /// Leases the first ready event, whose payload is at hand.
    fn lease(&mut self, holder: Holder) -> Option<Delivery> {
        let (id, token) = self.board.lease(holder, self.clock.now_ms())?;
        let event = self.payloads.take(id)?;
        let attempt = self.board.attempt(id);
        let mut delivery = Delivery {
            token,
            partition: self.feeds[id.source].id,
            offset: id.offset,
            append_time_ms: event.append_time_ms,
            attempt,
            redrives: 0,
            event: event.event,
        };
        if !event.note.is_empty()
            && let Ok(note) = DeadLetterNote::decode(event.note)
        {
            delivery.partition = PartitionId(note.partition);
            delivery.offset = Offset(note.offset);
            delivery.redrives = note.redrives;
        }
        Some(delivery)
    }

    /// Answers the pulls whose time is up. While events are being read for them
    /// they wait a little longer: a pull that does not want to wait wants what is
    /// there all the same.
    pub(super) fn end_pulls(&mut self) {
        if self.pulls.is_empty() {
            return;
        }
        let now = Instant::now();
        let idle = self.idle();
        let lease_ms = self.config().lease_ms;
        let reading = idle == IdleReason::Delivering;
        let mut waiting = VecDeque::new();
        for pull in self.pulls.drain(..) {
            let until = if reading {
                pull.until + READING_EXTENSION
            } else {
                pull.until
            };
            if until <= now {
                let _ = pull.reply.send(Pulled {
                    deliveries: Vec::new(),
                    idle,
                    lease_ms,
                });
            } else if !pull.reply.is_closed() {
                waiting.push_back(pull);
            }
        }
        self.pulls = waiting;
    }
}
