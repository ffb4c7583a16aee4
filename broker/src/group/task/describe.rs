//! What the group tells about itself.

use sluice_proto::{Offset, PartitionId};

use super::GroupTask;
use crate::group::{
    board::{EventId, Holder, MemberId, PlaceOf},
    command::{Description, EventStanding, IdleReason, MemberState, SourceDescription},
    credit::Credit,
    scan::Feed,
};

impl GroupTask {
    /// Why nothing is delivered.
    pub(super) fn idle(&self) -> IdleReason {
        let behind = self.is_behind();
        let to_do = behind || self.board.has_ready() || self.board.suspects() > 0;
        if self.disabled.is_some() {
            IdleReason::Disabled
        } else if self.group.paused {
            IdleReason::Paused
        } else if to_do && self.flow.held_back.is_some() {
            IdleReason::DownstreamFull
        } else if self.board.occupied() >= self.config().max_in_flight as usize {
            IdleReason::InFlightCap
        } else if self.board.has_ready() {
            if self.any_could_be_taken() {
                IdleReason::Delivering
            } else if self.at_member_caps() {
                IdleReason::InFlightCap
            } else if self.members.any_credit() || !self.pulls.is_empty() {
                IdleReason::TooLarge
            } else {
                IdleReason::NoCredit
            }
        } else if self.board.len() >= self.limits.window_events_max && behind {
            IdleReason::WindowFull
        } else if behind {
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

    /// Whether nobody with credit may have more.
    fn at_member_caps(&self) -> bool {
        self.members.any_credit() && !self.members.could_take(0, |id| self.may_have_more(id))
    }

    pub(super) fn describe(&self) -> Description {
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
                in_flight: counts[source].in_flight,
                delayed: counts[source].delayed,
                held: counts[source].held,
            }
        };
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
            members: members.collect(),
            idle: self.idle(),
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

    /// Where an event of the topic stands.
    pub(super) fn explain(&self, partition: PartitionId, offset: Offset) -> EventStanding {
        let topic = self.group.topic.id;
        let is_it = |feed: &Feed| feed.topic.id == topic && feed.id == partition;
        let Some(source) = self.feeds.iter().position(is_it) else {
            return EventStanding::NotScanned;
        };
        let id = EventId { source, offset };
        let attempt = self.board.attempt(id);
        match self.board.place(id) {
            PlaceOf::Unknown if self.board.window(source).is_settled(offset) => {
                EventStanding::Settled
            }
            PlaceOf::Unknown => EventStanding::NotScanned,
            PlaceOf::Waiting => EventStanding::Waiting { attempt },
            PlaceOf::Delayed => EventStanding::Delayed { attempt },
            PlaceOf::Held(member) => EventStanding::Held { attempt, member },
            PlaceOf::Leased(holder) => EventStanding::InFlight {
                attempt,
                member: self.holder_name(&holder),
            },
        }
    }
}
