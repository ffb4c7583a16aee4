//! How events flow from topic to topic, and who slows whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use futures_util::future::join_all;
use sluice_proto::{TopicId, wire};

use super::backlog::wire_limit;
use crate::{
    commit::{Catalog, Group, Topic},
    flow::{Full, Outputs},
    group::Description,
    grpc::{
        api::Api,
        authorize::{Action, Resource},
        convert,
        refusal::Refusal,
    },
};

/// Most groups of one answer.
const GROUPS_MAX: usize = 1000;

impl Api {
    pub(in crate::grpc) async fn describe_flow(
        &self,
        request: wire::DescribeFlowRequest,
    ) -> Result<wire::DescribeFlowResponse, Refusal> {
        self.allow(Action::Describe, Resource::Broker)?;
        let catalog = self.proposals.catalog();
        let outputs = self.groups.flow().outputs(&catalog);
        let around = match request.topic.as_str() {
            "" => None,
            name => {
                let topic = self.topic(Action::Describe, name)?;
                Some(connected(topic.id, &catalog, &outputs))
            }
        };
        let chosen = |topic: &Topic| match &around {
            Some(around) => around.contains(&topic.id),
            None => !topic.name.is_internal(),
        };
        let topics = catalog.topics().filter(|topic| chosen(topic));
        let topics: Vec<_> = topics.map(|topic| self.flow_topic(topic)).collect();
        let mut groups: Vec<_> = catalog
            .groups()
            .filter(|group| chosen(&group.topic))
            .take(GROUPS_MAX + 1)
            .collect();
        let more = groups.len() > GROUPS_MAX;
        groups.truncate(GROUPS_MAX);
        let groups = groups
            .into_iter()
            .map(|group| self.flow_group(group, &catalog, &outputs));
        let groups = join_all(groups).await.into_iter().flatten();
        Ok(wire::DescribeFlowResponse {
            at: Some(convert::time(SystemTime::now())),
            topics,
            groups: groups.collect(),
            more,
        })
    }

    fn flow_topic(&self, topic: &Topic) -> wire::FlowTopic {
        let gate = self.groups.flow().gate(topic.id);
        let full = gate.as_ref().and_then(|gate| gate.shut_by());
        let (waiting, bytes) = gate.as_ref().map_or((0, 0), |gate| gate.waiting());
        wire::FlowTopic {
            topic: topic.name.to_string(),
            appended_count: appended(topic) as i64,
            credit: gate.map_or(1.0, |gate| gate.share()),
            waiting_count: waiting as i64,
            waiting_bytes: bytes as i64,
            full_by: full.map_or_else(String::new, |full| full.by.group.to_string()),
        }
    }

    /// `None` for one that is gone by now.
    async fn flow_group(
        &self,
        group: &Arc<Group>,
        catalog: &Catalog,
        outputs: &Outputs,
    ) -> Option<wire::FlowGroup> {
        let handle = self.groups.get(group.id)?;
        let described = handle.describe(0).await.ok()?;
        let output = |(topic, exempt): &(TopicId, bool)| {
            let name = catalog.topic_by_id(*topic)?.name.to_string();
            let gate = self.groups.flow().gate(*topic);
            let full = gate.is_some_and(|gate| gate.shut_by().is_some());
            Some(wire::FlowOutput {
                topic: name,
                exempt: *exempt,
                holds_back: full && !exempt,
            })
        };
        let appended = appended(&group.topic);
        let lag: u64 = described.partitions.iter().map(|of| of.lag).sum();
        let connected = described.members.iter().filter(|of| of.connected);
        Some(wire::FlowGroup {
            topic: group.topic.name.to_string(),
            group: group.name.to_string(),
            backlog: Some(self.backlog_state(group, &described)),
            settled_count: appended.saturating_sub(lag) as i64,
            in_flight: described
                .partitions
                .iter()
                .map(|of| of.counts.in_flight as i64)
                .sum(),
            member_count: connected.clone().count() as i64,
            credit_events: connected.map(|of| of.credit_events as i64).sum(),
            outputs: outputs
                .of_group(group.id)
                .iter()
                .filter_map(output)
                .collect(),
            idle: convert::idle(described.idle).into(),
            idle_detail: described.idle_detail,
        })
    }

    /// What a group has to do, against its limit.
    pub(super) fn backlog_state(
        &self,
        group: &Group,
        described: &Description,
    ) -> wire::BacklogState {
        let mut state = wire::BacklogState {
            limit: Some(wire_limit(&group.config)),
            events: described.backlog_events as i64,
            abandoned: described.abandoned,
            ..wire::BacklogState::default()
        };
        let gate = self.groups.flow().gate(group.topic.id);
        let Some((standing, _)) = gate.and_then(|gate| gate.standing(group.id)) else {
            return state;
        };
        state.full = standing.shut;
        if standing.limit.bytes > 0 || standing.limit.age_ms > 0 {
            state.bytes = standing.backlog.bytes as i64;
            state.age = Some(convert::duration_ms(standing.backlog.age_ms));
        }
        state
    }

    /// Groups because of which nothing is let into their topics.
    pub(super) fn full_groups(&self) -> Vec<wire::FullGroup> {
        let gates = self.groups.flow().gates();
        let full = gates.iter().filter_map(|gate| gate.shut_by());
        let mut full: Vec<Full> = full.collect();
        full.sort_by(|a, b| a.topic.cmp(&b.topic));
        full.truncate(GROUPS_MAX);
        let of_each = full.into_iter().map(|full| wire::FullGroup {
            topic: full.topic.to_string(),
            group: full.by.group.to_string(),
            abandoned: full.by.abandoned,
            detail: full.by.to_string(),
        });
        of_each.collect()
    }
}

/// Events that were ever appended.
fn appended(topic: &Topic) -> u64 {
    topic.partitions.iter().map(|p| p.visible_end().0).sum()
}

/// The topics that lead to one, and those to which it leads.
fn connected(topic: TopicId, catalog: &Catalog, outputs: &Outputs) -> BTreeSet<TopicId> {
    let (mut onward, mut back) = (BTreeMap::new(), BTreeMap::new());
    for group in catalog.groups() {
        for (to, _) in outputs.of_group(group.id) {
            onward
                .entry(group.topic.id)
                .or_insert_with(Vec::new)
                .push(*to);
            back.entry(*to)
                .or_insert_with(Vec::new)
                .push(group.topic.id);
        }
    }
    let mut all = BTreeSet::from([topic]);
    for edges in [onward, back] {
        let mut next = vec![topic];
        let mut seen = BTreeSet::new();
        while let Some(topic) = next.pop() {
            if seen.insert(topic) {
                next.extend(edges.get(&topic).into_iter().flatten());
            }
        }
        all.extend(seen);
    }
    all
}
