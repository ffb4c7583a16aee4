//! Gives out what is ready to whoever has credit; [`suspects`] go to those who hold
//! nothing.

mod suspects;

use std::collections::{BTreeMap, VecDeque};

use prost::Message as _;
use sluice_proto::{Offset, PartitionId, deliveries::DeliveryHead, wire};
use tokio::time::Instant;

use super::{GroupTask, READING_EXTENSION};
use crate::group::{
    board::{EventId, Given, Holder, MemberId},
    command::{IdleReason, Outgoing, PendingPull, Pulled},
    members::{DELIVERY_OVERHEAD, Share},
    message::{Delivery, Message},
    note::DeadLetterNote,
    payloads::{EventBytes, Payload},
    run::{Others, Shares, half_of},
};

/// Ready events that are looked at in one round, in search of one that can be
/// delivered.
pub(super) const LOOKED_AT_MAX: usize = 64;

/// Whether another event fits the message of a pull that holds so much already.
fn fits(pull: &PendingPull, message_bytes: usize, size: usize) -> bool {
    message_bytes + size + DELIVERY_OVERHEAD <= pull.message_bytes_max
}

/// Who gets the next event.
enum Receiver {
    Pull(String),
    /// And so many of those behind it.
    Member(MemberId, usize),
    Nobody,
}

/// What came of a round of deliveries.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delivered {
    /// Events that were sent to members.
    pub(super) sent: usize,
    /// A member was sent something, or what it looked at fits nobody and there is more
    /// to look at.
    pub(super) goes_on: bool,
}

/// What one round of deliveries gives to whom.
#[derive(Default)]
struct Round {
    pulled: Vec<Delivery>,
    pulled_bytes: usize,
    /// The same with what is around them in the message.
    message_bytes: usize,
    shares: BTreeMap<MemberId, Share>,
    shared: BTreeMap<MemberId, Message>,
}

impl GroupTask {
    /// Gives out what is ready to whoever has credit: to each member a message, at
    /// most.
    pub(super) fn deliver(&mut self) -> Delivered {
        let stopped = self.disabled.is_some()
            || self.group.paused
            || self.changing.holds()
            || self.flow.held_back.is_some();
        if stopped || (self.pulls.is_empty() && self.are_all_full()) {
            return Delivered::default();
        }
        if self.stirs != self.board.stirs() {
            self.stirs = self.board.stirs();
            self.in_vain = 0;
        }
        self.fetch_missing();
        self.limit_messages();
        let mut round = Round::default();
        self.deliver_suspects(&mut round);
        let now = self.clock.now_ms();
        let mut passed_over = 0;
        while self.board.occupied() < self.config().max_in_flight as usize
            && passed_over < self.board.ready().min(LOOKED_AT_MAX)
            && let Some(next) = self.board.next_ready()
        {
            let at_hand = self.board.size_at_hand(next);
            let Some(size) = at_hand.filter(|size| self.could_be_taken(*size)) else {
                self.board.rotate_ready();
                passed_over += 1;
                continue;
            };
            let receiver = self.receiver(size, &mut round);
            // What a pull gives back, whose caller is gone, is ready before this one.
            if self.board.next_ready() != Some(next) {
                continue;
            }
            match receiver {
                Receiver::Pull(name) => {
                    let given = self.board.lease(Holder::Unary(name), now);
                    let delivery = self.take(given, |delivery| delivery.into_own());
                    if let Some(delivery) = delivery {
                        round.pulled_bytes += size;
                        round.message_bytes += size + DELIVERY_OVERHEAD;
                        round.pulled.push(delivery);
                    }
                }
                Receiver::Member(member, count) => {
                    self.deliver_run(member, count, now, &mut round);
                }
                // Whoever takes it has a whole message, and gets it with the next one. For
                // those who pull there may be something behind it.
                Receiver::Nobody if !round.shared.is_empty() && self.pulls.is_empty() => break,
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
        let any = !round.shared.is_empty();
        let mut sent = 0;
        for (member, message) in round.shared {
            sent += message.tokens().len();
            self.send(member, message);
        }
        self.in_vain = match any {
            true => 0,
            false => self.in_vain + passed_over,
        };
        let looks_on =
            passed_over > 0 && self.in_vain < self.board.ready() && self.could_be_taken(0);
        Delivered {
            sent,
            goes_on: any || looks_on,
        }
    }

    fn limit_messages(&mut self) {
        // Events without a key are in none.
        let at_once = self.board.lines().max(self.board.ready());
        let at_once = at_once.min(self.config().max_in_flight as usize);
        let half = self
            .has_order()
            .then(|| half_of(at_once, self.members.len()));
        self.members.limit_messages(half);
    }

    /// Somebody may take more than before.
    pub(super) fn look_again(&mut self) {
        self.all_are_full = false;
        self.in_vain = 0;
    }

    /// Gives a member as many of the next events, `count` at most, as it takes and
    /// are at hand.
    fn deliver_run(&mut self, member: MemberId, count: usize, now_ms: u64, round: &mut Round) {
        let holder = Holder::Member(member);
        let board = &self.board;
        let in_flight_max = self.group.config.max_in_flight as usize;
        let leases = board.may_have(&holder);
        let count = count.min(leases).min(in_flight_max - board.occupied());
        let next = board.ready_in_order().take(count);
        let sizes = next.map_while(|seat| board.size_at_hand(seat));
        let (count, bytes) = self.members.charge(member, sizes, &mut round.shares);
        let message = round.shared.entry(member).or_default();
        message.reserve(count, bytes);
        for _ in 0..count {
            let given = self.board.lease(holder.clone(), now_ms);
            self.take(given, |delivery| message.push(delivery));
        }
    }

    /// Whether there is, or can be read, more for members that take more.
    pub(super) fn has_more_to_deliver(&mut self) -> bool {
        !self.are_all_full()
            && (self.board.has_ready() || (0..self.feeds.len()).any(|s| self.wants_page(s)))
    }

    fn are_all_full(&mut self) -> bool {
        self.all_are_full = self.all_are_full || !self.members.any_takes_more();
        self.all_are_full
    }

    pub(super) fn size(&self, id: EventId) -> usize {
        self.board.size(id).unwrap_or(0) as usize
    }

    /// Whether somebody who waits takes messages in which an event of `size`
    /// fits.
    pub(super) fn could_be_taken(&self, size: usize) -> bool {
        self.pulls
            .iter()
            .any(|pull| fits(pull, 0, size) && self.pull_may_have_more(pull))
            || self.members.could_take(size, |id| self.may_have_more(id))
    }

    /// The same of a suspect, by who takes one when it holds nothing: also a
    /// member that gets nothing else so that it comes to that.
    pub(super) fn suspect_could_be_taken(&self, size: usize) -> bool {
        self.pulls.iter().any(|pull| fits(pull, 0, size)) || self.members.could_take(size, |_| true)
    }

    /// Whether the member may be given an event that is not suspect.
    pub(super) fn may_have_more(&self, member: MemberId) -> bool {
        self.board.may_have_more(&Holder::Member(member)) && !self.solo.is_emptying(member)
    }

    fn pull_may_have_more(&self, pull: &PendingPull) -> bool {
        let holder = Holder::Unary(pull.name.clone());
        self.board.may_have_more(&holder)
    }

    /// Whether one of the events that are next could be taken.
    pub(super) fn any_could_be_taken(&self) -> bool {
        let mut next = self.board.first_ready(LOOKED_AT_MAX);
        next.any(|seat| self.could_be_taken(self.size(seat.id)))
    }

    /// Who gets an event of `size`: a pull, or the member whose turn it is.
    fn receiver(&mut self, size: usize, round: &mut Round) -> Receiver {
        while let Some(pull) = self.next_pull(size, round) {
            let whole = round.pulled.is_empty() || round.pulled_bytes + size <= pull.bytes_max;
            if whole
                && fits(pull, round.message_bytes, size)
                && round.pulled.len() < pull.events_max
            {
                let name = pull.name.clone();
                if self.board.may_have_more(&Holder::Unary(name.clone())) {
                    return Receiver::Pull(name);
                }
            }
            self.answer_pull(round);
        }
        let (board, solo) = (&self.board, &self.solo);
        let may_have = |id| board.may_have_more(&Holder::Member(id)) && !solo.is_emptying(id);
        let Some(member) = self.members.choose(size, &round.shares, may_have) else {
            return Receiver::Nobody;
        };
        // Who pulls comes first.
        let run = match self.pulls.is_empty() {
            true => self.run_for(member),
            false => 1,
        };
        Receiver::Member(member, run)
    }

    /// How many of the next events a member gets in one go.
    fn run_for(&self, member: MemberId) -> usize {
        // With an order, others wait for what one has; and how much there is for them is
        // not known with a filter.
        let is_known = !self.has_order() && self.scanner.filter.is_none();
        let lately = match is_known {
            true => self.members.throughput(member, self.clock.now_ms()),
            false => 0,
        };
        let shares = Shares {
            members: self.members.len(),
            ready: self.board.ready(),
            in_flight: self.board.in_flight(),
            leases: self.board.holding(&Holder::Member(member)).leases,
            free: (self.config().max_in_flight as usize).saturating_sub(self.board.occupied()),
            lately,
        };
        shares.run(self)
    }

    /// The pull whose turn it is: the one that has got something already, or the
    /// first in which an event of `size` fits, which then is the first of all.
    fn next_pull(&mut self, size: usize, round: &Round) -> Option<&PendingPull> {
        if round.pulled.is_empty() {
            self.pulls.retain(|pull| !pull.reply.is_closed());
            let at = self
                .pulls
                .iter()
                .position(|pull| fits(pull, 0, size) && self.pull_may_have_more(pull))?;
            let pull = self.pulls.remove(at)?;
            self.pulls.push_front(pull);
        }
        self.pulls.front()
    }

    fn answer_pull(&mut self, round: &mut Round) {
        let deliveries = std::mem::take(&mut round.pulled);
        round.pulled_bytes = 0;
        round.message_bytes = 0;
        if let Some(pull) = self.pulls.pop_front() {
            self.reply(pull, deliveries);
        }
    }

    fn reply(&mut self, pull: PendingPull, deliveries: Vec<Delivery>) {
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

    fn send(&mut self, member: MemberId, message: Message) {
        if message.tokens().is_empty() {
            return;
        }
        let Some(member) = self.members.get(member) else {
            return;
        };
        let Some(outgoing) = &member.outgoing else {
            return;
        };
        // Before its stream takes them out again.
        let bytes = message.bytes();
        member.buffer.add(bytes);
        if let Err(unsent) = outgoing.try_send(Outgoing::Deliveries(message))
            && let Outgoing::Deliveries(message) = unsent.into_inner()
        {
            member.buffer.remove(bytes);
            for token in message.tokens().iter().rev() {
                self.board.hand_back(*token);
            }
        }
    }

    /// Tells those who asked for it that nothing is left for them.
    pub(super) fn tell_drained(&mut self) {
        if !self.draining {
            return;
        }
        for id in self.members.draining() {
            let idle = self.idle_of(id);
            if idle == IdleReason::Delivering {
                continue;
            }
            if let Some(member) = self.members.get_mut(id)
                && let Some(request_id) = member.draining.take()
                && let Some(outgoing) = &member.outgoing
            {
                // It has room, or is gone.
                let _ = outgoing.try_send(Outgoing::Drained { request_id, idle });
            }
        }
        self.draining = self.members.any_draining();
    }

    /// Gives away what is sent for a lease of an event whose payload is at hand.
    fn take<R>(
        &mut self,
        given: Option<Given>,
        give: impl FnOnce(Delivery<EventBytes<'_>>) -> R,
    ) -> Option<R> {
        let Given {
            id,
            token,
            attempt,
            kept,
        } = given?;
        let partition = self.feeds[id.source].id;
        let epoch = self.epoch_of(id);
        let taken = self.payloads.take(kept?, |payload| {
            let Payload {
                append_time_ms,
                event,
                note,
            } = payload;
            let mut head = DeliveryHead {
                // Its numbers come back as they were given.
                lease: wire::LeaseToken {
                    epoch: token.epoch as i64,
                    counter: token.counter as i64,
                },
                partition,
                offset: id.offset,
                append_time_ms,
                attempt,
                redrives: 0,
                epoch,
            };
            if !note.is_empty()
                && let Ok(note) = DeadLetterNote::decode(note)
            {
                head.partition = PartitionId(note.partition);
                head.offset = Offset(note.offset);
                head.redrives = note.redrives;
                head.epoch = 0;
                if let Some(parked) = note.parked {
                    head.append_time_ms = parked.append_time_ms;
                    head.epoch = parked.epoch;
                }
            }
            give(Delivery { token, head, event })
        });
        Some(taken)
    }

    pub(in crate::group) fn epoch_of(&self, id: EventId) -> u64 {
        let store = &self.scanner.store;
        let partition = self.feeds[id.source].partition();
        let epoch = partition.and_then(|partition| store.epoch_of(partition, id.offset));
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

impl Others for GroupTask {
    fn lately(&self) -> usize {
        self.members.throughput_of_all(self.clock.now_ms())
    }

    /// Offsets, as they are before a look at them.
    fn unread(&self) -> usize {
        let sources = (0..self.feeds.len()).filter(|source| self.has_room_for(*source));
        let ahead = sources.map(|source| {
            let end = self.readable_end(source).0;
            end.saturating_sub(self.board.scan_next(source).0)
        });
        usize::try_from(ahead.sum::<u64>()).unwrap_or(usize::MAX)
    }
}
