//! Which topics have a gate, and which outputs hold their group back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use sluice_proto::{GroupId, TopicId};
use tokio::sync::watch;

use super::{
    edges::{self, Edge},
    gate::{Full, Gate, Measure, Report},
    pressure::BacklogLimit,
};
use crate::{
    commit::{
        Catalog, Group, Topic,
        record::{BacklogPolicy, GroupConfig},
    },
    wall_clock::AgeClock,
};

/// The gates of all topics that have a group with a limit. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Flow(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// What the age of a backlog goes by.
    clock: AgeClock,
    gates: RwLock<HashMap<TopicId, Arc<Gate>>>,
    opened: watch::Sender<u64>,
    /// Of the catalog that was looked at last.
    outputs: Mutex<Option<(Arc<Catalog>, Arc<Outputs>)>>,
}

/// By group, the topics that hold it back while they are over their mark, and
/// those that do not because they close a cycle.
#[derive(Debug, Default)]
pub struct Outputs {
    groups: HashMap<GroupId, Vec<(TopicId, bool)>>,
}

impl Outputs {
    fn of(catalog: &Catalog) -> Self {
        let mut groups: Vec<&Arc<Group>> = catalog
            .groups()
            .filter(|group| !group.config.outputs.is_empty())
            .collect();
        // In the order in which they were made.
        groups.sort_unstable_by_key(|group| group.id);
        let mut all = Vec::new();
        for group in &groups {
            for output in &group.config.outputs {
                let from = group.topic.id;
                let to = TopicId(*output);
                all.push((group.id, Edge { from, to }));
            }
        }
        let edges: Vec<_> = all.iter().map(|(_, edge)| *edge).collect();
        let mut outputs = Self::default();
        for ((group, edge), exempt) in all.into_iter().zip(edges::exempt(&edges)) {
            let of_group = outputs.groups.entry(group).or_default();
            of_group.push((edge.to, exempt));
        }
        outputs
    }

    /// The declared outputs of a group, each with whether it is exempt.
    #[must_use]
    pub fn of_group(&self, group: GroupId) -> &[(TopicId, bool)] {
        self.groups.get(&group).map_or(&[], Vec::as_slice)
    }
}

impl Flow {
    /// Without any gate. Backlogs grow old by this clock.
    #[must_use]
    pub(crate) fn new(clock: AgeClock) -> Self {
        Self(Arc::new(Shared {
            clock,
            gates: RwLock::default(),
            opened: watch::Sender::default(),
            outputs: Mutex::default(),
        }))
    }

    /// The gate of a topic; `None` when no group of it has a limit.
    #[must_use]
    pub fn gate(&self, topic: TopicId) -> Option<Arc<Gate>> {
        let gates = self.0.gates.read();
        let gates = gates.unwrap_or_else(PoisonError::into_inner);
        gates.get(&topic).cloned()
    }

    /// Every gate there is.
    #[must_use]
    pub fn gates(&self) -> Vec<Arc<Gate>> {
        let gates = self.0.gates.read();
        let gates = gates.unwrap_or_else(PoisonError::into_inner);
        gates.values().cloned().collect()
    }

    /// Changes whenever a topic that was shut lets something in.
    #[must_use]
    pub fn opened(&self) -> watch::Receiver<u64> {
        self.0.opened.subscribe()
    }

    /// What the declared outputs of a catalog's groups come to.
    #[must_use]
    pub fn outputs(&self, catalog: &Arc<Catalog>) -> Arc<Outputs> {
        let mut known = self
            .0
            .outputs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, outputs)) if Arc::ptr_eq(of, catalog) => outputs.clone(),
            _ => {
                let outputs = Arc::new(Outputs::of(catalog));
                *known = Some((catalog.clone(), outputs.clone()));
                outputs
            }
        }
    }

    /// The output because of which a group is not fed, if there is one.
    #[must_use]
    pub fn downstream(&self, outputs: &[(TopicId, bool)]) -> Option<Full> {
        let held_by = outputs.iter().filter(|(_, exempt)| !exempt);
        held_by
            .filter_map(|(topic, _)| self.gate(*topic)?.shut_by())
            .next()
    }

    /// A group's place at its topic's gate, for as long as it runs.
    #[must_use]
    pub fn register(&self, group: &Group) -> Metering {
        let mut metering = Metering {
            flow: self.clone(),
            group: group.id,
            gate: None,
        };
        metering.follow(group);
        metering
    }

    fn open_gate(&self, topic: &Arc<Topic>) -> Arc<Gate> {
        let gates = self.0.gates.write();
        let mut gates = gates.unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let (opened, clock) = (self.0.opened.clone(), self.0.clock.clone());
            Arc::new(Gate::new(topic.clone(), opened, clock))
        };
        gates.entry(topic.id).or_insert_with(new).clone()
    }

    fn leave_gate(&self, gate: &Arc<Gate>, group: GroupId) {
        let gates = self.0.gates.write();
        let mut gates = gates.unwrap_or_else(PoisonError::into_inner);
        if gate.remove_group(group) {
            gates.remove(&gate.topic().id);
        }
    }
}

/// A group's place at its topic's gate; it has none without a limit.
#[derive(Debug)]
pub struct Metering {
    flow: Flow,
    group: GroupId,
    gate: Option<Arc<Gate>>,
}

impl Metering {
    /// Goes by the group's settings as they are now.
    pub fn follow(&mut self, group: &Group) {
        let limit = limit_of(&group.config);
        let policy = group.config.backlog_policy();
        if policy == BacklogPolicy::Ignore {
            self.leave();
            return;
        }
        let gate = self.flow.open_gate(&group.topic);
        gate.set_group(group.id, &group.name, policy, limit);
        self.gate = Some(gate);
    }

    /// The gate, if the group has a limit.
    #[must_use]
    pub fn gate(&self) -> Option<&Arc<Gate>> {
        self.gate.as_ref()
    }

    /// All gates.
    #[must_use]
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Tells how the group stands.
    pub fn report(&self, report: Report) {
        if let Some(gate) = &self.gate {
            gate.report(self.group, report);
        }
    }

    /// Tells what its backlog holds.
    pub fn measured(&self, measure: Measure) {
        if let Some(gate) = &self.gate {
            gate.measured(self.group, measure);
        }
    }

    fn leave(&mut self) {
        if let Some(gate) = self.gate.take() {
            self.flow.leave_gate(&gate, self.group);
        }
    }
}

impl Drop for Metering {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A group's limit as arithmetic has it.
#[must_use]
pub fn limit_of(config: &GroupConfig) -> BacklogLimit {
    BacklogLimit {
        events: config.backlog_events,
        bytes: config.backlog_bytes,
        age_ms: config.backlog_age_ms,
    }
}
