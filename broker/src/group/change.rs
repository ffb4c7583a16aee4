//! Changes a group that may be at work: its settings, whether it is paused, and
//! where it stands.
//!
//! A change is one record of the log. One that moves the group's position is held
//! back until no settlement is on its way, and lets no other begin meanwhile, so
//! that nothing of before the move settles anything after it. Then the board is
//! made anew from what the log says, on which there are no leases.

use std::collections::VecDeque;

use sluice_proto::{Offset, PartitionId};
use tokio::sync::oneshot;

use super::{
    board::{BoardRules, MemberId},
    command::Outgoing,
    parking::parking_of,
    payloads::Payloads,
    scan::Feed,
    task::{Continuation, GroupTask},
};
use crate::{
    commit::{
        CatalogChange, CatalogChanged, CatalogError, GroupChange, GroupState,
        record::{GroupPosition, Settle, Source},
    },
    filter::{Counters, Filter},
};

/// How a group is to change.
#[derive(Debug)]
pub struct ChangeRequest {
    /// What is written.
    pub change: GroupChange,
    /// The new filter if it changes, compiled.
    pub filter: Option<Option<Filter>>,
}

/// What a move of the position means for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub partition: PartitionId,
    /// Where the group goes on.
    pub offset: Offset,
    /// Settled events at or above it.
    pub replayed: u64,
    /// Events below it that are not settled.
    pub skipped: u64,
}

/// What a change does, or would do, to the position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// By partition.
    pub moves: Vec<Move>,
    /// Leases that are lost by it.
    pub leases: u64,
}

/// Why a group was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The catalog refuses it.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The group is gone.
    #[error("the group does not exist any more")]
    GroupGone,
}

pub(super) type ChangeReply = oneshot::Sender<Result<Moved, ChangeError>>;

/// Changes that wait for their turn.
#[derive(Default)]
pub(super) struct Changing {
    waiting: VecDeque<(ChangeRequest, ChangeReply)>,
    /// One is on its way to the log; whether it moves the position.
    proposed: Option<bool>,
    /// What members were told that joined before the lease became shorter.
    earlier: Option<EarlierLease>,
}

#[derive(Clone, Copy)]
struct EarlierLease {
    lease_ms: u64,
    up_to: MemberId,
}

impl Changing {
    /// Whether the position is about to move, so that nothing may begin that
    /// rests on where it is.
    pub(super) fn holds(&self) -> bool {
        let moves = |(request, _): &(ChangeRequest, _)| !request.change.positions.is_empty();
        self.moves() || self.waiting.front().is_some_and(moves)
    }

    /// Whether a move of the position is on its way to the log.
    pub(super) fn moves(&self) -> bool {
        self.proposed == Some(true)
    }
}

impl GroupTask {
    pub(super) fn change(&mut self, request: ChangeRequest, reply: ChangeReply) {
        self.changing.waiting.push_back((request, reply));
        self.go_on_changing();
    }

    /// What a move to these positions would mean now.
    pub(super) fn plan_moves(&self, positions: &[GroupPosition]) -> Moved {
        let moves = positions.iter().filter_map(|position| {
            let partition = PartitionId(position.partition);
            let source = self.source_of(partition)?;
            let (window, to) = (self.board.window(source), Offset(position.offset));
            let end = self.feeds[source].visible_end();
            let (mut parked_below, mut parked_above) = (0, 0);
            for (offset, _) in self.board.parked_of(source) {
                match offset < to {
                    true => parked_below += 1,
                    false => parked_above += 1,
                }
            }
            let below = window.unsettled_below(to);
            let skipped = below + parked_below;
            let unsettled_above = window.unsettled_below(end).saturating_sub(below) + parked_above;
            Some(Move {
                partition,
                offset: to,
                replayed: end.0.saturating_sub(to.0).saturating_sub(unsettled_above),
                skipped,
            })
        });
        Moved {
            moves: moves.collect(),
            leases: self.board.in_flight() as u64,
        }
    }

    /// What settles the parked events of the partitions whose position moves: each
    /// is either skipped, or looked at again where it was first.
    fn parked_settles(&self, positions: &[GroupPosition]) -> Option<Settle> {
        let parked = positions.iter().filter_map(|position| {
            let source = self.source_of(PartitionId(position.partition))?;
            Some(self.board.parked_of(source).map(|(_, at)| at))
        });
        let mut offsets: Vec<Offset> = parked.flatten().collect();
        offsets.sort_unstable();
        let runs: Vec<_> = offsets.into_iter().map(|offset| (offset, 1)).collect();
        let settle = Settle {
            group: self.group.id,
            source: Source {
                topic: self.group.parking.id,
                partition: PartitionId(0),
            },
            runs,
        };
        (!settle.runs.is_empty()).then_some(settle)
    }

    /// The feed of a partition of the group's topic.
    fn source_of(&self, partition: PartitionId) -> Option<usize> {
        let topic = self.group.topic.id;
        let is_it = |feed: &Feed| feed.topic.id == topic && feed.id == partition;
        self.feeds.iter().position(is_it)
    }

    /// Proposes the next change, when nothing is in its way.
    pub(super) fn go_on_changing(&mut self) {
        // In every turn of the task: what is under way is counted only for a change.
        if self.changing.proposed.is_some() || self.changing.waiting.is_empty() {
            return;
        }
        let moves = self.changing.holds();
        // A log that has failed never answers what is on its way.
        let under_way = !self.log_failed && (self.board.settling() > 0 || self.quiet > 0)
            || self.board.finds_from().is_some();
        if moves && under_way {
            return;
        }
        let Some((request, reply)) = self.changing.waiting.pop_front() else {
            return;
        };
        self.changing.proposed = Some(moves);
        let ChangeRequest { mut change, filter } = request;
        change.settles = self.parked_settles(&change.positions);
        let moved = if moves {
            self.plan_moves(&change.positions)
        } else {
            Moved::default()
        };
        let change = CatalogChange::ChangeGroup {
            id: self.group.id,
            change: Box::new(change),
        };
        let proposals = self.proposals.clone();
        self.jobs.push(Box::pin(async move {
            let changed = proposals.change_catalog(change).await;
            Box::new(move |task: &mut Self| {
                task.changing.proposed = None;
                let result = match changed {
                    Ok(CatalogChanged::GroupChanged(state)) => {
                        task.take_over(*state, filter, moves);
                        Ok(moved)
                    }
                    // A change of a group is answered by nothing else.
                    Ok(_) => Err(ChangeError::GroupGone),
                    Err(error) => Err(error.into()),
                };
                if result.is_err() {
                    task.lose_disconnected();
                }
                let _ = reply.send(result);
                task.go_on_changing();
            }) as Continuation
        }));
    }

    /// Goes on as the log has it now.
    pub(super) fn take_over(
        &mut self,
        state: GroupState,
        filter: Option<Option<Filter>>,
        moves: bool,
    ) {
        let catalog = self.proposals.catalog();
        let lease_before_ms = self.config().lease_ms;
        if let Some(group) = catalog.groups().find(|group| group.id == self.group.id) {
            self.group = group.clone();
        }
        let lease_ms = self.config().lease_ms;
        if lease_ms < lease_before_ms {
            // They send heartbeats as often as they were told, which is too
            // seldom now.
            let earlier = self.changing.earlier.map_or(0, |e| e.lease_ms);
            self.changing.earlier = Some(EarlierLease {
                lease_ms: lease_before_ms.max(earlier),
                up_to: self.members.last_id(),
            });
        }
        self.board.set_rules(BoardRules::from(self.config()));
        self.solo.set_wait(self.config().solo_wait_ms);
        let limit_is_new = self.follow_settings();
        let reroutes = limit_is_new || filter.is_some();
        if let Some(filter) = filter {
            // It came before, and what it tells is counted.
            while self.take_arriving() {}
            self.scanner.filter = filter;
            // They are of terms that are gone, as is what a page under way will say.
            self.counters = Counters::default();
            self.generation += 1;
            // What was in the way was the filter, unless the log has failed since.
            if !self.log_failed {
                self.disabled = None;
            }
        }
        if reroutes {
            let filter = self.scanner.filter.as_ref();
            self.scanner.route = self.routes.of(&self.group, filter, &self.room);
        }
        if moves {
            // What its filter took too long for is judged again where it goes on. One
            // that does not compile stays in the way.
            if self.scanner.filter.is_some() && !self.log_failed {
                self.disabled = None;
            }
            self.move_to(state);
        }
        tracing::info!(group = %self.group.name, paused = self.group.paused, moves, "group changed");
    }

    fn move_to(&mut self, state: GroupState) {
        let members: Vec<_> = self.members.iter().map(|(id, _)| id).collect();
        for member in members {
            let lost = self.board.leases_of(member);
            let outgoing = self.members.get(member).and_then(|m| m.outgoing.as_ref());
            if let Some(outgoing) = outgoing
                && !lost.is_empty()
            {
                // One place is kept for this; if it is taken, the settlements
                // will tell.
                let _ = outgoing.try_send(Outgoing::LeasesLost(lost));
            }
        }
        // Their leases were what was left of them.
        for member in self.members.without_stream() {
            self.members.remove(member);
        }
        let mut sources = state.sources;
        sources.retain(|source, _| source.topic != self.group.dead_letters.id);
        let (now, wall) = (self.clock.now_ms(), self.clock.wall_ahead_ms());
        let parking = parking_of(&self.feeds, &self.group);
        let sources = sources.into_iter().collect();
        self.board = self.board.anew(sources, parking, now, wall);
        self.begin_anew(Payloads::new(self.limits.payload_bytes_max));
    }

    /// How long a member may be silent: what it was told when it joined, or more.
    pub(super) fn lease_ms_of(&self, member: MemberId) -> u64 {
        let now_ms = self.config().lease_ms;
        match self.changing.earlier {
            Some(earlier) if member <= earlier.up_to => earlier.lease_ms.max(now_ms),
            _ => now_ms,
        }
    }
}
