//! The gate of one topic: where those who publish meet the backlogs of the groups
//! that have a limit.
//!
//! A backlog is computed when somebody asks: what the group has met and not
//! settled, as it reported last, what the topic has beyond, and what was let in
//! and is not readable yet. So a burst of appends is seen by the very next one.
//! A request that finds the topic below its limits is let in whole, and may
//! overshoot; while it is shut, requests wait for their turn.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sluice_proto::{GroupId, GroupName, ProducerId, TopicName};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{
    pressure::{Backlog, BacklogLimit, Pressure},
    turns::{Ticket, Turns},
};
use crate::{
    commit::{Topic, record::BacklogPolicy},
    wall_clock::AgeClock,
};

/// Who publishes, as far as fairness between producers goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Producer {
    /// One with a session, whatever connections and streams it has.
    Session(ProducerId),
    /// One without: its connection, by the address that it comes from.
    Connection(Option<SocketAddr>),
}

/// What somebody is about to publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Events.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A topic takes nothing because a group has as much to do as it may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("topic {topic} is full: {by}")]
pub struct Full {
    /// The topic.
    pub topic: TopicName,
    /// The group in the way, and how it stands.
    pub by: Standing,
}

/// How a group with a limit stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The group.
    pub group: GroupName,
    /// What it has not settled.
    pub backlog: Backlog,
    /// How much it may have.
    pub limit: BacklogLimit,
    /// Nobody works for it: no member is connected, and nothing is under lease.
    pub abandoned: bool,
    /// Nothing is let in because of it.
    pub shut: bool,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { backlog, limit, .. } = self;
        write!(f, "group {} has ", self.group)?;
        if limit.events > 0 {
            write!(f, "{} of {} events, ", backlog.events, limit.events)?;
        }
        if limit.bytes > 0 {
            write!(f, "{} of {} bytes, ", backlog.bytes, limit.bytes)?;
        }
        if limit.age_ms > 0 {
            write!(f, "{} of {} ms, ", backlog.age_ms, limit.age_ms)?;
        }
        f.write_str(match self.abandoned {
            true => "and nobody works for it",
            false => "and works on them",
        })
    }
}

/// What a group reports after each of its turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Events that it has met and not settled, those that only it sees counted in.
    pub met: u64,
    /// The sum of the offsets to which it has looked at its topic's partitions.
    pub scanned: u64,
    /// Nobody works for it.
    pub abandoned: bool,
}

/// What was measured in the index, some time ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Events that were not settled.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest was appended, milliseconds since 1970.
    pub oldest_ms: u64,
    /// [`Gate::done_bytes`] before it was measured.
    pub done_bytes: u64,
}

#[derive(Debug)]
struct Metered {
    name: GroupName,
    policy: BacklogPolicy,
    limit: BacklogLimit,
    report: Report,
    measure: Measure,
    pressure: Pressure,
}

/// One topic's gate.
#[derive(Debug)]
pub struct Gate {
    topic: Arc<Topic>,
    state: Mutex<State>,
    /// Counts how often a gate has opened.
    opened: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    /// By which backlogs grow old.
    clock: AgeClock,
    groups: BTreeMap<GroupId, Metered>,
    /// Requests that were let in and have no outcome.
    under_way: usize,
    /// Their bytes.
    under_way_bytes: u64,
    /// What the ends of the partitions sum up to when all of them are readable. Not
    /// below what they do now, so that nothing counts twice, in line and readable,
    /// in the moment between the two.
    expected_end: u64,
    /// All that was ever let in.
    entered_bytes: u64,
    waiting: Turns<Producer, Waiter>,
    /// It was shut since those were told who wait for it to open.
    was_shut: bool,
}

#[derive(Debug)]
struct Waiter {
    load: Load,
    admitted: oneshot::Sender<Entered>,
}

/// What was let in. Dropped when it has an outcome.
#[derive(Debug)]
pub struct Entered {
    gate: Arc<Gate>,
    bytes: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.gate.left(self.bytes);
    }
}

/// In line; out of it when dropped.
struct Waiting<'a> {
    gate: &'a Gate,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let left = self.gate.state().waiting.leave(self.ticket);
        // Not under the lock: it may hold what was let in.
        drop(left);
    }
}

impl Gate {
    pub(super) fn new(topic: Arc<Topic>, opened: watch::Sender<u64>, clock: AgeClock) -> Self {
        Self {
            topic,
            state: Mutex::new(State::new(clock)),
            opened,
        }
    }

    /// Lets a request in: at once, or when it is its turn.
    ///
    /// # Errors
    /// When a group refuses it by its policy, or its turn has not come by `until`.
    pub async fn enter(
        self: &Arc<Self>,
        who: Producer,
        load: Load,
        until: Option<Instant>,
    ) -> Result<Entered, Full> {
        let (ticket, mut admitted) = {
            let mut state = self.state();
            let shut = state.refresh(&self.topic);
            if let Some(by) = shut.and_then(|id| state.groups.get(&id))
                && by.policy == BacklogPolicy::Reject
            {
                return Err(self.full(by, &state));
            }
            if shut.is_none() && state.waiting.is_empty() {
                return Ok(self.admit(&mut state, load));
            }
            let (sender, admitted) = oneshot::channel();
            let cost = state.cost(load);
            let waiter = Waiter {
                load,
                admitted: sender,
            };
            (state.waiting.wait(who, cost, waiter), admitted)
        };
        let waiting = Waiting { gate: self, ticket };
        // It may have opened for those before.
        self.pump();
        let time_is_up = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // A waiter is dropped by nobody else, so it is let in.
            Ok(entered) = &mut admitted => return Ok(entered),
            () = time_is_up => {}
        }
        drop(waiting);
        // It may have been let in just now.
        if let Ok(entered) = admitted.try_recv() {
            return Ok(entered);
        }
        let mut state = self.state();
        state.refresh(&self.topic);
        let fullest = state.fullest(&self.topic);
        match fullest.and_then(|id| state.groups.get(&id)) {
            Some(by) => Err(self.full(by, &state)),
            // The last limit was lifted in this moment.
            None => Ok(self.admit(&mut state, load)),
        }
    }

    /// Counts what is let in whatever the backlog: outputs of a commit.
    pub fn pass(self: &Arc<Self>, load: Load) -> Entered {
        self.admit(&mut self.state(), load)
    }

    fn admit(self: &Arc<Self>, state: &mut State, load: Load) -> Entered {
        state.under_way += 1;
        state.under_way_bytes += load.bytes;
        state.expected_end = state.end(&self.topic) + load.events;
        state.entered_bytes += load.bytes;
        Entered {
            gate: self.clone(),
            bytes: load.bytes,
        }
    }

    fn full(&self, by: &Metered, state: &State) -> Full {
        Full {
            topic: self.topic.name.clone(),
            by: state.standing(by, &self.topic),
        }
    }

    /// The share of their windows that streams have that publish here.
    pub fn share(&self) -> f64 {
        let mut state = self.state();
        state.refresh(&self.topic);
        let throttling = state.groups.values();
        throttling
            .filter(|group| group.policy == BacklogPolicy::Throttle)
            .map(|group| group.pressure.share())
            .fold(1.0, f64::min)
    }

    /// The group because of which nothing is let in, if there is one.
    #[must_use]
    pub fn shut_by(&self) -> Option<Full> {
        let mut state = self.state();
        let id = state.refresh(&self.topic)?;
        let by = state.groups.get(&id)?;
        Some(self.full(by, &state))
    }

    /// How a group stands.
    #[must_use]
    pub fn standing(&self, id: GroupId) -> Option<(Standing, Pressure)> {
        let mut state = self.state();
        state.refresh(&self.topic);
        let group = state.groups.get(&id)?;
        Some((state.standing(group, &self.topic), group.pressure))
    }

    /// Requests that wait for their turn, and their bytes.
    #[must_use]
    pub fn waiting(&self) -> (usize, u64) {
        let state = self.state();
        let bytes = state.waiting.iter().map(|waiter| waiter.load.bytes).sum();
        (state.waiting.len(), bytes)
    }

    /// Bytes that were let in so far and have an outcome: what is measured from now
    /// on has them.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        let state = self.state();
        state.entered_bytes - state.under_way_bytes
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Arc<Topic> {
        &self.topic
    }

    pub(super) fn set_group(
        self: &Arc<Self>,
        id: GroupId,
        name: &GroupName,
        policy: BacklogPolicy,
        limit: BacklogLimit,
    ) {
        let mut state = self.state();
        let group = state.groups.entry(id).or_insert_with(|| Metered {
            name: name.clone(),
            policy,
            limit,
            // Nothing, until it reports.
            report: Report {
                scanned: end_sum(&self.topic),
                ..Report::default()
            },
            measure: Measure::default(),
            pressure: Pressure::None,
        });
        group.policy = policy;
        group.limit = limit;
        drop(state);
        self.pump();
    }

    /// True when no group is left.
    pub(super) fn remove_group(self: &Arc<Self>, id: GroupId) -> bool {
        let mut state = self.state();
        state.groups.remove(&id);
        let none = state.groups.is_empty();
        drop(state);
        self.pump();
        none
    }

    pub(super) fn report(self: &Arc<Self>, id: GroupId, report: Report) {
        if let Some(group) = self.state().groups.get_mut(&id) {
            group.report = report;
        }
        self.pump();
    }

    pub(super) fn measured(self: &Arc<Self>, id: GroupId, measure: Measure) {
        if let Some(group) = self.state().groups.get_mut(&id) {
            group.measure = measure;
        }
        self.pump();
    }

    fn left(self: &Arc<Self>, bytes: u64) {
        let mut state = self.state();
        state.under_way -= 1;
        state.under_way_bytes -= bytes;
        if state.under_way == 0 {
            // Of what was let in, some may have been refused after all.
            state.expected_end = 0;
        }
        let waits = !state.waiting.is_empty();
        drop(state);
        if waits {
            self.pump();
        }
    }

    /// Lets in whose turn it is, as far as there is room.
    fn pump(self: &Arc<Self>) {
        let mut admitted = Vec::new();
        let mut state = self.state();
        while state.refresh(&self.topic).is_none()
            && let Some(waiter) = state.waiting.pop()
        {
            let entered = self.admit(&mut state, waiter.load);
            admitted.push((waiter.admitted, entered));
        }
        let open = state.refresh(&self.topic).is_none();
        let opened = open && std::mem::take(&mut state.was_shut);
        drop(state);
        for (sender, entered) in admitted {
            // One that waits no longer has left the line, or is about to.
            let _ = sender.send(entered);
        }
        if opened {
            self.opened.send_modify(|count| *count += 1);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under this lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(clock: AgeClock) -> Self {
        Self {
            clock,
            groups: BTreeMap::new(),
            under_way: 0,
            under_way_bytes: 0,
            expected_end: 0,
            entered_bytes: 0,
            waiting: Turns::default(),
            was_shut: false,
        }
    }

    /// Looks at every group anew. Returns one because of which nothing is let in,
    /// a refusing one first.
    fn refresh(&mut self, topic: &Topic) -> Option<GroupId> {
        let (end, now_ms) = (self.end(topic), self.clock.now_ms());
        let entered_bytes = self.entered_bytes;
        let mut shut: Option<(GroupId, BacklogPolicy)> = None;
        for (id, group) in &mut self.groups {
            let backlog = group.backlog(end, entered_bytes, now_ms);
            group.pressure = group.pressure.at(group.limit.fill(backlog));
            let refuses = group.policy == BacklogPolicy::Reject;
            if group.pressure.is_shut() && (shut.is_none() || refuses) {
                shut = Some((*id, group.policy));
            }
        }
        self.was_shut |= shut.is_some();
        shut.map(|(id, _)| id)
    }

    fn fullest(&self, topic: &Topic) -> Option<GroupId> {
        let fill = |group: &Metered| {
            let backlog = self.backlog(group, topic);
            group.limit.fill(backlog)
        };
        let groups = self.groups.iter().map(|(id, group)| (fill(group), *id));
        groups.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, id)| id)
    }

    fn backlog(&self, group: &Metered, topic: &Topic) -> Backlog {
        let end = self.end(topic);
        group.backlog(end, self.entered_bytes, self.clock.now_ms())
    }

    fn end(&self, topic: &Topic) -> u64 {
        end_sum(topic).max(self.expected_end)
    }

    fn standing(&self, group: &Metered, topic: &Topic) -> Standing {
        Standing {
            group: group.name.clone(),
            backlog: self.backlog(group, topic),
            limit: group.limit,
            abandoned: group.report.abandoned,
            shut: group.pressure.is_shut(),
        }
    }

    /// What a request takes of what there is too little of.
    fn cost(&self, load: Load) -> u64 {
        match self.groups.values().any(|group| group.limit.events > 0) {
            true => load.events,
            false => load.bytes,
        }
    }
}

impl Metered {
    fn backlog(&self, end: u64, entered_bytes: u64, now_ms: u64) -> Backlog {
        let events = self.report.met + end.saturating_sub(self.report.scanned);
        // Of what was measured some is settled by now; what came since is counted
        // to the byte.
        let measure = &self.measure;
        let left = events.min(measure.events);
        let of_measured = u128::from(measure.bytes) * u128::from(left);
        let measured = of_measured.checked_div(u128::from(measure.events));
        let since = entered_bytes.saturating_sub(measure.done_bytes);
        let bytes = u64::try_from(measured.unwrap_or(0)).unwrap_or(u64::MAX);
        let age = now_ms.saturating_sub(measure.oldest_ms);
        Backlog {
            events,
            bytes: bytes.saturating_add(since),
            age_ms: if events > 0 && measure.oldest_ms > 0 {
                age
            } else {
                0
            },
        }
    }
}

fn end_sum(topic: &Topic) -> u64 {
    let ends = topic.partitions.iter().map(|p| p.visible_end().0);
    ends.sum()
}
