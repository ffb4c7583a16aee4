//! The members of a group that are on streams: their credit, and whose turn it
//! is. Pure but for the channels to the streams.

use std::{
    collections::{BTreeMap, VecDeque},
    time::SystemTime,
};

use tokio::sync::mpsc;

use super::{
    board::MemberId, buffered::Buffer, command::Outgoing, credit::Credit, schedule::Schedule,
    throughput::Throughput,
};

/// Bytes that a delivery takes in a message besides its event.
pub(super) const DELIVERY_OVERHEAD: usize = 64;

#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) credit: Credit,
    pub(super) joined: SystemTime,
    /// The request under which it asked to be told when nothing is left.
    pub(super) draining: Option<i64>,
    /// `None` when the stream is gone and the leases run on.
    pub(super) outgoing: Option<mpsc::Sender<Outgoing>>,
    /// It has lost its leases, and gets nothing until it is heard of again.
    silent: bool,
    throughput: Throughput,
    message_bytes_max: usize,
    /// Bytes that wait in its stream.
    pub(super) buffer: Buffer,
}

/// A member's share of one round of deliveries.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    bytes: usize,
    events: usize,
}

#[derive(Debug, Default)]
pub(super) struct Members {
    members: BTreeMap<MemberId, Member>,
    /// Whose turn it is, first come first.
    turns: VecDeque<MemberId>,
    /// When each has been silent for too long.
    deadlines: Schedule<MemberId>,
    last_id: u64,
    /// Most events in one message, if it is less than [`SHARE_EVENTS_MAX`].
    share_events_max: Option<usize>,
}

/// Most events in one message.
const SHARE_EVENTS_MAX: usize = 1000;
/// Bytes at which a message takes no more, so that one that is encoded and waits
/// for its connection is small. With events of 100 bytes, 1000 fit.
const SHARE_BYTES_MAX: usize = 200 << 10;

impl Members {
    /// From now on messages have at most so many events; `None` for as many as fit.
    pub(super) fn limit_messages(&mut self, events_max: Option<usize>) {
        self.share_events_max = events_max;
    }

    fn share_events_max(&self) -> usize {
        let events_max = self.share_events_max.unwrap_or(SHARE_EVENTS_MAX);
        events_max.clamp(1, SHARE_EVENTS_MAX)
    }

    pub(super) fn add(
        &mut self,
        name: String,
        message_bytes_max: usize,
        outgoing: mpsc::Sender<Outgoing>,
        buffer: Buffer,
        deadline_ms: u64,
    ) -> MemberId {
        self.last_id += 1;
        let id = MemberId(self.last_id);
        let member = Member {
            name,
            credit: Credit::default(),
            joined: SystemTime::now(),
            draining: None,
            outgoing: Some(outgoing),
            silent: false,
            throughput: Throughput::default(),
            message_bytes_max,
            buffer,
        };
        self.members.insert(id, member);
        self.turns.push_back(id);
        self.deadlines.set(id, deadline_ms);
        id
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.members.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        self.members.iter().map(|(id, member)| (*id, member))
    }

    /// The member that has joined last.
    pub(super) fn last_id(&self) -> MemberId {
        MemberId(self.last_id)
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Heard of a member, so its leases go on. True when it was silent.
    pub(super) fn heard(&mut self, id: MemberId, deadline_ms: u64) -> bool {
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        self.deadlines.set(id, deadline_ms);
        std::mem::replace(&mut member.silent, false)
    }

    /// The member acks so many events.
    pub(super) fn acked(&mut self, id: MemberId, events: usize, now_ms: u64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.throughput.acked(events, now_ms);
        }
    }

    /// How many events the member has got through lately.
    pub(super) fn throughput(&self, id: MemberId, now_ms: u64) -> usize {
        let member = self.members.get(&id);
        member.map_or(0, |member| member.throughput.lately(now_ms))
    }

    /// The same of all members.
    pub(super) fn throughput_of_all(&self, now_ms: u64) -> usize {
        let each = self.members.values();
        each.map(|member| member.throughput.lately(now_ms)).sum()
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.deadlines.next_due()
    }

    /// The next member that has been silent for too long.
    pub(super) fn pop_silent(&mut self, now_ms: u64) -> Option<MemberId> {
        let id = self.deadlines.pop_due(now_ms)?;
        if let Some(member) = self.members.get_mut(&id) {
            member.silent = true;
        }
        Some(id)
    }

    /// The member's stream is gone, and its leases run on: until it has been silent for
    /// too long, or until `deadline_ms` if it has been so already.
    pub(super) fn disconnected(&mut self, id: MemberId, deadline_ms: u64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.outgoing = None;
            if !self.deadlines.contains(id) {
                self.deadlines.set(id, deadline_ms);
            }
        }
    }

    /// Members whose streams are gone, and whose leases run on.
    pub(super) fn without_stream(&self) -> Vec<MemberId> {
        let gone = self.members.iter().filter(|(_, m)| m.outgoing.is_none());
        gone.map(|(id, _)| *id).collect()
    }

    /// Whether the member's leases end with it: it is there, and not silent.
    pub(super) fn keeps_leases(&self, id: MemberId) -> bool {
        self.deadlines.contains(id)
    }

    pub(super) fn remove(&mut self, id: MemberId) -> Option<Member> {
        self.deadlines.remove(id);
        self.turns.retain(|turn| *turn != id);
        self.members.remove(&id)
    }

    /// Whose turn it is to get an event of `size`, among those that may have it
    /// and have credit and room for it. The one that is chosen goes to the end of
    /// the line.
    pub(super) fn choose(
        &mut self,
        size: usize,
        shares: &BTreeMap<MemberId, Share>,
        may_have: impl Fn(MemberId) -> bool,
    ) -> Option<MemberId> {
        let takes = |id: &MemberId| self.takes(*id, size, shares) && may_have(*id);
        let at = self.turns.iter().position(takes)?;
        let id = self.turns.remove(at)?;
        self.turns.push_back(id);
        Some(id)
    }

    /// Whether a member has credit and room for an event of `size`.
    fn takes(&self, id: MemberId, size: usize, shares: &BTreeMap<MemberId, Share>) -> bool {
        let member = self.members.get(&id);
        let share = shares.get(&id).copied().unwrap_or_default();
        let is_open = share.events < self.share_events_max();
        is_open && member.is_some_and(|member| member.takes(size, share))
    }

    /// Whether any member that may have more has credit, and takes messages in
    /// which an event of `size` fits.
    pub(super) fn could_take(&self, size: usize, may_have: impl Fn(MemberId) -> bool) -> bool {
        self.members.iter().any(|(id, member)| {
            member.outgoing.is_some()
                && member.credit.may_send()
                && member.has_messages_for(size)
                && may_have(*id)
        })
    }

    /// Whether the member has credit and room for an event of `size` at this time.
    pub(super) fn takes_now(&self, id: MemberId, size: usize) -> bool {
        self.takes(id, size, &BTreeMap::new())
    }

    /// Whether an event of `size` fits the member's messages.
    pub(super) fn has_messages_for(&self, id: MemberId, size: usize) -> bool {
        let member = self.members.get(&id);
        member.is_some_and(|member| member.has_messages_for(size))
    }

    /// The member that is connected and has the least, but something, among those whose
    /// messages an event of `size` fits; by `leases`, the number that each has.
    pub(super) fn nearest_to_idle(
        &self,
        size: usize,
        leases: impl Fn(MemberId) -> usize,
    ) -> Option<MemberId> {
        self.members
            .iter()
            .filter(|(_, member)| member.outgoing.is_some() && !member.silent)
            .filter(|(_, member)| member.has_messages_for(size))
            .map(|(id, _)| (leases(*id), *id))
            .filter(|(leases, _)| *leases > 0)
            .min()
            .map(|(_, id)| id)
    }

    /// Whether any member could take an event of some size.
    pub(super) fn any_credit(&self) -> bool {
        self.members
            .values()
            .any(|member| member.outgoing.is_some() && member.credit.may_send())
    }

    /// Members that wait to be told that nothing is left, and take messages.
    pub(super) fn draining(&self) -> Vec<MemberId> {
        let waits = |member: &Member| member.draining.is_some() && member.has_room();
        let members = self.members.iter();
        members
            .filter(|(_, m)| waits(m))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Whether any member waits to be told that nothing is left.
    pub(super) fn any_draining(&self) -> bool {
        let mut members = self.members.values();
        members.any(|member| member.draining.is_some() && member.outgoing.is_some())
    }

    /// Whether any member has credit, and room in its stream.
    pub(super) fn any_takes_more(&self) -> bool {
        let nothing = Share::default();
        self.members.values().any(|member| member.takes(0, nothing))
    }

    /// Counts those of the next events, by their sizes, that the member takes one
    /// after the other: it is about to be sent them. Returns how many, and their bytes
    /// with what is around them.
    pub(super) fn charge(
        &mut self,
        id: MemberId,
        sizes: impl Iterator<Item = usize>,
        shares: &mut BTreeMap<MemberId, Share>,
    ) -> (usize, usize) {
        let events_max = self.share_events_max();
        let Some(member) = self.members.get_mut(&id) else {
            return (0, 0);
        };
        let share = shares.entry(id).or_default();
        let before = *share;
        for size in sizes.take(events_max.saturating_sub(before.events)) {
            if !member.takes(size, *share) {
                break;
            }
            member.credit.sent(size as u64);
            share.bytes += size + DELIVERY_OVERHEAD;
            share.events += 1;
        }
        (share.events - before.events, share.bytes - before.bytes)
    }
}

impl Member {
    fn has_messages_for(&self, size: usize) -> bool {
        size + DELIVERY_OVERHEAD <= self.message_bytes_max
    }

    /// Whether its stream takes a message. One place in the channel is kept for
    /// lost leases.
    fn has_room(&self) -> bool {
        let outgoing = self.outgoing.as_ref();
        outgoing.is_some_and(|outgoing| outgoing.capacity() >= 2 && !outgoing.is_closed())
    }

    fn takes(&self, size: usize, share: Share) -> bool {
        let Share { bytes, events } = share;
        self.has_room()
            && !self.silent
            && self.credit.may_send()
            && (events == 0 || bytes + size <= SHARE_BYTES_MAX)
            && bytes + size + DELIVERY_OVERHEAD <= self.message_bytes_max
            && self.buffer.takes(size + DELIVERY_OVERHEAD, bytes)
    }
}
