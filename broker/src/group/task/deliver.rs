//! Gives out what is ready to whoever has credit.

use std::collections::{BTreeMap, VecDeque};

use prost::Message;
use sluice_proto::{Offset, PartitionId};
use tokio::time::Instant;

use super::{GroupTask, READING_EXTENSION};
use crate::group::{
    board::{EventId, Holder, MemberId},
    command::{Delivery, IdleReason, Outgoing, PendingPull, Pulled},
    members::{DELIVERY_OVERHEAD, Share},
    note::DeadLetterNote,
};

/// Ready events that are looked at in one round, in search of one that can be
/// delivered.
const LOOKED_AT_MAX: usize = 64;

/// Whether another event fits the message of a pull that holds so much already.
fn fits(pull: &PendingPull, message_bytes: usize, size: usize) -> bool {
    message_bytes + size + DELIVERY_OVERHEAD <= pull.message_bytes_max
}

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
    /// The same with what is around them in the message.
    message_bytes: usize,
    shares: BTreeMap<MemberId, Share>,
    shared: BTreeMap<MemberId, Vec<Delivery>>,
}

impl GroupTask {
    /// Gives out what is ready to whoever has credit.
    pub(super) fn deliver(&mut self) {
        if self.disabled.is_some() || (self.pulls.is_empty() && !self.members.any_credit()) {
            return;
        }
        self.fetch_missing();
        let mut round = Round::default();
        let mut passed_over = 0;
        while self.board.in_flight() < self.config().max_in_flight as usize
            && passed_over < self.board.ready().min(LOOKED_AT_MAX)
            && let Some(id) = self.board.next_ready()
        {
            let size = self.size(id);
            if !self.could_be_taken(size) {
                self.board.rotate_ready();
                passed_over += 1;
                continue;
            }
            if !self.payloads.has(id) {
                self.board.rotate_ready();
                passed_over += 1;
                continue;
            }
            match self.receiver(size, &mut round) {
                Receiver::Pull(name) => {
                    if let Some(delivery) = self.lease(Holder::Unary(name)) {
                        round.pulled_bytes += size;
                        round.message_bytes += size + DELIVERY_OVERHEAD;
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

    pub(super) fn size(&self, id: EventId) -> usize {
        self.board.size_and_key(id).map_or(0, |(size, _)| size) as usize
    }

    /// Whether somebody who waits takes messages in which an event of `size`
    /// fits.
    pub(super) fn could_be_taken(&self, size: usize) -> bool {
        self.pulls.iter().any(|pull| fits(pull, 0, size)) || self.members.could_take(size)
    }

    /// Whether one of the events that are next could be taken.
    pub(super) fn any_could_be_taken(&self) -> bool {
        let mut next = self.board.first_ready(LOOKED_AT_MAX);
        next.any(|id| self.could_be_taken(self.size(id)))
    }

    fn receiver(&mut self, size: usize, round: &mut Round) -> Receiver {
        while let Some(pull) = self.next_pull(size, round) {
            let whole = round.pulled.is_empty() || round.pulled_bytes + size <= pull.bytes_max;
            if whole
                && fits(pull, round.message_bytes, size)
                && round.pulled.len() < pull.events_max
            {
                return Receiver::Pull(pull.name.clone());
            }
            self.answer_pull(round);
        }
        match self.members.choose(size, &round.shares) {
            Some(member) => Receiver::Member(member),
            None => Receiver::Nobody,
        }
    }

    /// The pull whose turn it is: the one that has got something already, or the
    /// first in which an event of `size` fits, which then is the first of all.
    fn next_pull(&mut self, size: usize, round: &Round) -> Option<&PendingPull> {
        if round.pulled.is_empty() {
            self.pulls.retain(|pull| !pull.reply.is_closed());
            let at = self.pulls.iter().position(|pull| fits(pull, 0, size))?;
            let pull = self.pulls.remove(at)?;
            self.pulls.push_front(pull);
        }
        self.pulls.front()
    }

    fn answer_pull(&mut self, round: &mut Round) {
        let deliveries = std::mem::take(&mut round.pulled);
        round.pulled_bytes = 0;
        round.message_bytes = 0;
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
            epoch: self.epoch_of(id.source),
            event: event.event,
        };
        if !event.note.is_empty()
            && let Ok(note) = DeadLetterNote::decode(event.note)
        {
            delivery.partition = PartitionId(note.partition);
            delivery.offset = Offset(note.offset);
            delivery.redrives = note.redrives;
            delivery.epoch = 0;
        }
        Some(delivery)
    }

    fn epoch_of(&self, source: usize) -> u64 {
        let partition = self.feeds[source].partition();
        let epoch = partition.and_then(|partition| self.scanner.store.epoch_of(partition));
        epoch.unwrap_or(0)
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
