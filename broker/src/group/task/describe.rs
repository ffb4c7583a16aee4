//! What the group tells about itself.

use sluice_proto::{Offset, PartitionId};

use super::GroupTask;
use crate::{
    commit::record::Source,
    group::{
        board::{Counts, EventId, Holder, MemberId, PlaceOf},
        command::{
            Description, EventStanding, IdleReason, InFlightEvent, MemberState, SourceDescription,
        },
        credit::Credit,
    },
};

impl GroupTask {
    /// Why nothing is delivered.
    pub(super) fn idle(&self) -> IdleReason {
        let behind = self.is_behind();
        let to_do = behind || self.board.has_ready() || self.board.suspects() > 0;
        if let Some(reason) = self.idle_as_a_whole(to_do) {
            return reason;
        }
        if self.board.has_ready() {
            self.idle_with_ready()
        } else if behind && self.window_is_used_up() {
            IdleReason::WindowFull
        } else if (0..self.feeds.len()).any(|source| self.is_to_be_read(source)) {
            IdleReason::Delivering
        } else if self.board.suspects() > 0 {
            IdleReason::Suspect
        } else if self.board.has_held() {
            IdleReason::RestartGrace
        } else if self.board.queued() > 0 {
            IdleReason::KeyLocked
        } else if self.board.delayed() > 0 {
            IdleReason::Delayed
        } else {
            IdleReason::Empty
        }
    }

    /// The same for one member: what is ready may be for others alone.
    pub(super) fn idle_of(&self, member: MemberId) -> IdleReason {
        let credit = self.members.get(member).map(|member| &member.credit);
        let may_send = credit.is_some_and(Credit::may_send);
        match self.idle() {
            IdleReason::Delivering if self.board.has_ready() && !may_send => IdleReason::NoCredit,
            idle => idle,
        }
    }

    /// What holds for every partition; `to_do` is whether there is anything to
    /// deliver.
    fn idle_as_a_whole(&self, to_do: bool) -> Option<IdleReason> {
        if self.disabled.is_some() {
            Some(IdleReason::Disabled)
        } else if self.group.paused {
            Some(IdleReason::Paused)
        } else if to_do && self.flow.held_back.is_some() {
            Some(IdleReason::DownstreamFull)
        } else if self.board.occupied() >= self.config().max_in_flight as usize {
            Some(IdleReason::InFlightCap)
        } else {
            None
        }
    }

    fn idle_with_ready(&self) -> IdleReason {
        if self.any_could_be_taken() {
            IdleReason::Delivering
        } else if self.at_member_caps() {
            IdleReason::InFlightCap
        } else if self.members.any_credit() || !self.pulls.is_empty() {
            IdleReason::TooLarge
        } else {
            IdleReason::NoCredit
        }
    }

    fn is_source_behind(&self, source: usize) -> bool {
        self.board.scan_next(source) < self.readable_end(source)
    }

    /// Whether a source is behind and about to be read: it is not when the first
    /// of its events holds the others.
    fn is_to_be_read(&self, source: usize) -> bool {
        let comes_later = self.board.finds_from().is_some() || self.board.are_returning();
        self.is_source_behind(source) && (comes_later || self.has_room_for(source))
    }

    fn window_is_used_up(&self) -> bool {
        self.board.unparked() >= self.limits.window_events_max
    }

    /// Why nothing of one source is delivered.
    fn idle_of_source(&self, source: usize, counts: &Counts) -> IdleReason {
        let behind = self.is_source_behind(source);
        let to_do = behind || counts.ready + counts.suspect > 0;
        if let Some(reason) = self.idle_as_a_whole(to_do) {
            return reason;
        }
        if counts.ready > 0 {
            self.idle_with_ready()
        } else if behind && self.window_is_used_up() {
            IdleReason::WindowFull
        } else if self.is_to_be_read(source) {
            IdleReason::Delivering
        } else if counts.suspect > 0 {
            IdleReason::Suspect
        } else if counts.held > 0 {
            IdleReason::RestartGrace
        } else if counts.queued > 0 {
            IdleReason::KeyLocked
        } else if counts.delayed + counts.parked > 0 {
            IdleReason::Delayed
        } else if self.ends_filtered(source) {
            IdleReason::Filtered
        } else {
            IdleReason::Empty
        }
    }

    /// Whether what came last of a source did not pass the filter.
    fn ends_filtered(&self, source: usize) -> bool {
        self.scanner.filter.is_some() && self.board.ends_skipped(source)
    }

    /// As [`GroupTask::idle`], with a difference between what is empty and what
    /// the filter has passed over.
    fn idle_in_full(&self) -> IdleReason {
        let idle = self.idle();
        let partitions = 0..self.group.topic.partitions.len();
        let mut with_events = partitions
            .filter(|source| self.feeds[*source].visible_end() > self.starts[*source])
            .peekable();
        if idle == IdleReason::Empty
            && with_events.peek().is_some()
            && with_events.all(|source| self.ends_filtered(source))
        {
            return IdleReason::Filtered;
        }
        idle
    }

    /// The events with the oldest leases.
    fn in_flight(&self, count: usize) -> Vec<InFlightEvent> {
        let mut leased: Vec<_> = self.board.leased_events().collect();
        leased.sort_unstable_by_key(|of| (of.lease.since_ms, of.lease.token));
        leased.truncate(count);
        let parking = self.board.parking_source();
        let in_flight = leased.into_iter().map(|of| InFlightEvent {
            partition: self.feeds[of.id.source].id,
            offset: of.id.offset,
            redriven: of.id.source == parking,
            member: self.holder_name(&of.lease.holder),
            attempt: of.attempt,
            since_ms: self.clock.wall(of.lease.since_ms),
            report: of.lease.report.as_deref().cloned(),
        });
        in_flight.collect()
    }

    /// Whether nobody with credit may have more.
    fn at_member_caps(&self) -> bool {
        self.members.any_credit() && !self.members.could_take(0, |id| self.may_have_more(id))
    }

    pub(super) fn describe(&self, in_flight_max: usize) -> Description {
        let counts = self.board.counts();
        let partitions = self.group.topic.partitions.len();
        let describe_source = |source: usize| {
            let visible_end = self.feeds[source].visible_end();
            let window = self.board.window(source);
            SourceDescription {
                committed_end: window.committed_end(),
                delivered_end: self.board.delivered_end(source),
                visible_end,
                lag: window.unsettled_below(visible_end),
                counts: counts[source],
                filtered: self.tallies[source].filtered,
                dead_lettered: self.tallies[source].dead_lettered,
                idle: self.idle_of_source(source, &counts[source]),
            }
        };
        let mut totals = Counts::default();
        counts.iter().for_each(|of| totals += *of);
        let members = self.members.iter().map(|(id, member)| MemberState {
            name: member.name.clone(),
            in_flight: self.board.holding(&Holder::Member(id)).leases as u64,
            joined: member.joined,
            connected: member.outgoing.is_some(),
            credit_events: member.credit.remaining_events(),
            credit_bytes: member.credit.remaining_bytes(),
        });
        let dead_letters_end = self
            .group
            .dead_letters
            .partition(PartitionId(0))
            .map_or(Offset(0), crate::commit::Partition::visible_end);
        Description {
            partitions: (0..partitions).map(describe_source).collect(),
            totals,
            in_flight: self.in_flight(in_flight_max),
            members: members.collect(),
            idle: self.idle_in_full(),
            idle_detail: self.idle_detail(),
            dead_letters: self.resolved.unsettled_below(dead_letters_end),
            dropped: self.dropped,
            abandoned: self.is_abandoned(),
            backlog_events: self.backlog_events(),
            counters: self.counters.clone(),
            terms: self
                .scanner
                .filter
                .as_ref()
                .map_or_else(Vec::new, |filter| {
                    let terms = filter.terms().iter();
                    terms.map(|term| term.text().to_owned()).collect()
                }),
        }
    }

    /// Why it is disabled, or which output holds it back.
    fn idle_detail(&self) -> String {
        let held_back = self.flow.held_back.as_ref();
        match (&self.disabled, held_back) {
            (Some(why), _) => why.clone(),
            (None, Some(full)) => full.to_string(),
            (None, None) => String::new(),
        }
    }

    /// Where an event stands whose first place in the group is in this source.
    pub(super) fn explain(&self, source: Source, offset: Offset) -> EventStanding {
        let is_it = |at: &usize| self.board.source(*at) == source;
        let Some(source) = (0..self.feeds.len()).find(is_it) else {
            return EventStanding::NotScanned;
        };
        let id = EventId { source, offset };
        let attempt = self.board.attempt(id);
        let parked = self.board.is_parked(id);
        match self.board.place(id) {
            PlaceOf::Unknown if self.board.window(source).is_settled(offset) => {
                EventStanding::Settled
            }
            PlaceOf::Unknown => EventStanding::NotScanned,
            PlaceOf::Waiting => EventStanding::Waiting { attempt, parked },
            PlaceOf::Delayed => EventStanding::Delayed { attempt, parked },
            PlaceOf::Held(member) => EventStanding::Held { attempt, member },
            PlaceOf::Leased(holder) => EventStanding::InFlight {
                attempt,
                member: self.holder_name(&holder),
            },
        }
    }
}
