//! Topics, groups, dead letters, and the broker itself.

use std::sync::Arc;

use sluice_proto::{Offset, PartitionId, wire, wire::read_start::At};

use super::{
    api::Api,
    authorize::{Action, Resource},
    convert,
    read::{self, visible_end},
    refusal::Refusal,
};
use crate::{
    commit::{
        CatalogChange, CatalogChanged, Group, PageLimits, Topic,
        record::{GroupConfig, GroupStart},
    },
    filter::FILTER_BYTES_MAX,
};

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
const REDRIVE_MAX: usize = 1000;
const LEASE_MS: std::ops::RangeInclusive<u64> = 100..=12 * 60 * 60 * 1000;
const DELAY_MS_MAX: u64 = 24 * 60 * 60 * 1000;
const MAX_ATTEMPTS_MAX: usize = 100;
const MAX_IN_FLIGHT_MAX: usize = 100_000;

impl Api {
    pub(super) fn describe_broker(&self) -> Result<wire::DescribeBrokerResponse, Refusal> {
        self.allow(Action::Describe, Resource::Broker)?;
        let catalog = self.proposals.catalog();
        let recovery = &self.info.recovery;
        let limits = &self.limits;
        let log_id = recovery.log.log_id.map(|byte| format!("{byte:02x}"));
        Ok(wire::DescribeBrokerResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            log_id: log_id.concat(),
            log_epoch: recovery.log.epoch as i64,
            started_at: Some(convert::time(self.info.started)),
            limits: Some(wire::Limits {
                event_bytes_max: limits.event_bytes_max as i64,
                request_bytes_max: limits.request_bytes_max as i64,
                batch_events_max: limits.batch_events_max as i32,
                partitions_max: limits.partitions_max as i32,
                filter_bytes_max: FILTER_BYTES_MAX as i32,
                leases_per_member_max: limits.leases_per_member_max as i32,
                pull_events_max: limits.pull_events_max as i32,
                settlements_max: limits.settlements_max as i32,
                publish_window_bytes: limits.publish_window_bytes as i64,
                topics_max: limits.topics_max as i32,
                groups_max: limits.groups_max as i32,
                members_per_group_max: limits.members_per_group_max as i32,
            }),
            features: Vec::new(),
            log_failure: self
                .log
                .failure()
                .map(|reason| reason.to_string())
                .unwrap_or_default(),
            log_bytes: self.log.stored_bytes() as i64,
            topic_count: catalog.topics().filter(|t| !t.name.is_internal()).count() as i64,
            group_count: catalog.groups().len() as i64,
            recovery: Some(wire::Recovery {
                clean: recovery.log.clean,
                replayed_bytes: recovery.log.replayed_bytes as i64,
                cut_bytes: recovery.log.cut_bytes as i64,
                duration: Some(convert::duration(recovery.took)),
                view_rebuilt: recovery.view_rebuilt,
            }),
        })
    }

    pub(super) async fn create_topic(
        &self,
        request: wire::CreateTopicRequest,
    ) -> Result<wire::CreateTopicResponse, Refusal> {
        self.allow(Action::Administer, Resource::Topic(&request.topic))?;
        let name = convert::topic_name("topic", &request.topic)?;
        let asked = request.config.unwrap_or_default().partitions;
        let max = self.limits.partitions_max as usize;
        let partitions = convert::count_or("config.partitions", asked.into(), 1, max)? as u32;
        let change = CatalogChange::CreateTopic { name, partitions };
        let changed = self.proposals.change_catalog(change).await?;
        let created = matches!(changed, CatalogChanged::TopicCreated);
        if created {
            tracing::info!(topic = request.topic, partitions, "topic created");
        }
        Ok(wire::CreateTopicResponse { created })
    }

    pub(super) async fn delete_topic(
        &self,
        request: wire::DeleteTopicRequest,
    ) -> Result<wire::DeleteTopicResponse, Refusal> {
        self.allow(Action::Administer, Resource::Topic(&request.topic))?;
        let name = convert::topic_name("topic", &request.topic)?;
        let change = CatalogChange::DeleteTopic { name };
        self.proposals.change_catalog(change).await?;
        tracing::info!(topic = request.topic, "topic deleted");
        Ok(wire::DeleteTopicResponse {})
    }

    pub(super) fn list_topics(
        &self,
        request: &wire::ListTopicsRequest,
    ) -> Result<wire::ListTopicsResponse, Refusal> {
        self.allow(Action::Describe, Resource::Broker)?;
        let size = page_size(request.page_size)?;
        let catalog = self.proposals.catalog();
        let mut after = catalog
            .topics()
            .filter(|topic| request.include_internal || !topic.name.is_internal())
            .filter(|topic| topic.name.as_str() > request.page_token.as_str())
            .peekable();
        let page: Vec<&Arc<Topic>> = after.by_ref().take(size).collect();
        let more = after.peek().is_some();
        let next_page_token = next_token(more, page.last().map(|topic| topic.name.to_string()));
        let topics = page.into_iter().map(|topic| wire::TopicSummary {
            topic: topic.name.to_string(),
            config: Some(topic_config(topic)),
            event_count: topic
                .partitions
                .iter()
                .map(|partition| partition.visible_end().0 as i64)
                .sum(),
            group_count: catalog.groups_of(topic.id).count() as i32,
        });
        Ok(wire::ListTopicsResponse {
            topics: topics.collect(),
            next_page_token,
        })
    }

    pub(super) fn describe_topic(
        &self,
        request: &wire::DescribeTopicRequest,
    ) -> Result<wire::DescribeTopicResponse, Refusal> {
        let topic = self.topic(Action::Describe, &request.topic)?;
        let catalog = self.proposals.catalog();
        let partitions = topic
            .partitions
            .iter()
            .map(|partition| wire::PartitionDescription {
                partition: partition.source.partition.0 as i32,
                start_offset: 0,
                visible_end: partition.visible_end().0 as i64,
                last_append_time: partition.last_append_ms().map(convert::time_ms),
            });
        let groups = catalog
            .groups_of(topic.id)
            .map(|group| group.name.to_string());
        Ok(wire::DescribeTopicResponse {
            topic: topic.name.to_string(),
            topic_id: topic.id.0 as i64,
            config: Some(topic_config(&topic)),
            created_at: Some(convert::time_ms(topic.created_ms)),
            partitions: partitions.collect(),
            partitioner: "crc32".into(),
            groups: groups.collect(),
        })
    }

    pub(super) async fn create_group(
        self: &Arc<Self>,
        request: wire::CreateGroupRequest,
    ) -> Result<wire::CreateGroupResponse, Refusal> {
        let topic = self.topic(Action::Administer, &request.topic)?;
        let name = convert::group_name("group", &request.group)?;
        let asked = request.config.unwrap_or_default();
        read::compile("config.filter", &asked.filter).await?;
        let start_at = asked.start.and_then(|start| start.at);
        let mut start = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let id = partition.source.partition;
            let offset = match start_at {
                // One offset need not lie within every partition; it then is the
                // end.
                Some(At::Offset(given)) => {
                    let offset = convert::count("config.start.offset", given)?;
                    Offset(offset).min(visible_end(&topic, id))
                }
                _ => read::start_offset(self, &topic, id, start_at, "config.start").await?,
            };
            start.push(offset.0);
        }
        let config = group_config(asked)?;
        let change = CatalogChange::CreateGroup {
            topic: topic.name.clone(),
            name: name.clone(),
            config,
            start,
        };
        let changed = self.proposals.change_catalog(change).await?;
        let created = if let CatalogChanged::GroupCreated(state) = changed {
            let id = sluice_proto::GroupId(state.definition.group);
            self.groups.start(id, *state);
            tracing::info!(
                topic = request.topic,
                group = request.group,
                "group created"
            );
            true
        } else {
            false
        };
        Ok(wire::CreateGroupResponse {
            created,
            dead_letter_topic: sluice_proto::TopicName::dead_letters(&topic.name, &name)
                .to_string(),
        })
    }

    pub(super) async fn delete_group(
        &self,
        request: wire::DeleteGroupRequest,
    ) -> Result<wire::DeleteGroupResponse, Refusal> {
        let topic = self.topic(Action::Administer, &request.topic)?;
        let name = convert::group_name("group", &request.group)?;
        let change = CatalogChange::DeleteGroup {
            topic: topic.name.clone(),
            name,
        };
        if let CatalogChanged::GroupDeleted(id) = self.proposals.change_catalog(change).await? {
            self.groups.stop(id);
            tracing::info!(
                topic = request.topic,
                group = request.group,
                "group deleted"
            );
        }
        Ok(wire::DeleteGroupResponse {})
    }

    pub(super) fn list_groups(
        &self,
        request: &wire::ListGroupsRequest,
    ) -> Result<wire::ListGroupsResponse, Refusal> {
        self.allow(Action::Describe, Resource::Broker)?;
        let size = page_size(request.page_size)?;
        if !request.topic.is_empty() {
            self.topic(Action::Describe, &request.topic)?;
        }
        // "topic/group"; no name has a "/".
        let token = |group: &Group| format!("{}/{}", group.topic.name, group.name);
        let catalog = self.proposals.catalog();
        let seen = |group: &&Arc<Group>| match request.page_token.split_once('/') {
            Some((topic, name)) => (group.topic.name.as_str(), group.name.as_str()) > (topic, name),
            None => true,
        };
        let mut after = catalog
            .groups()
            .filter(|group| request.topic.is_empty() || group.topic.name.as_str() == request.topic)
            .filter(seen)
            .peekable();
        let page: Vec<&Arc<Group>> = after.by_ref().take(size).collect();
        let more = after.peek().is_some();
        let next_page_token = next_token(more, page.last().map(|group| token(group)));
        let groups = page.into_iter().map(|group| wire::GroupSummary {
            topic: group.topic.name.to_string(),
            group: group.name.to_string(),
            config: Some(wire_config(&group.config)),
        });
        Ok(wire::ListGroupsResponse {
            groups: groups.collect(),
            next_page_token,
        })
    }

    pub(super) async fn describe_group(
        &self,
        request: wire::DescribeGroupRequest,
    ) -> Result<wire::DescribeGroupResponse, Refusal> {
        let handle = self.group(Action::Describe, &request.topic, &request.group)?;
        let group = handle.group().clone();
        let described = handle.describe().await.map_err(|_| Refusal::group_gone())?;
        let partitions =
            described
                .partitions
                .iter()
                .enumerate()
                .map(|(at, of)| wire::GroupPartition {
                    partition: at as i32,
                    committed_end: of.committed_end.0 as i64,
                    delivered_end: of.delivered_end.0 as i64,
                    visible_end: of.visible_end.0 as i64,
                    lag: of.lag as i64,
                    in_flight: of.in_flight as i64,
                    delayed: of.delayed as i64,
                    held: of.held as i64,
                });
        let members = described
            .members
            .into_iter()
            .map(|of| wire::MemberDescription {
                member: of.name,
                in_flight: of.in_flight as i64,
                joined_at: Some(convert::time(of.joined)),
                connected: of.connected,
                credit_events: of.credit_events as i64,
                credit_bytes: of.credit_bytes,
            });
        Ok(wire::DescribeGroupResponse {
            topic: group.topic.name.to_string(),
            group: group.name.to_string(),
            group_id: group.id.0 as i64,
            config: Some(wire_config(&group.config)),
            created_at: Some(convert::time_ms(group.created_ms)),
            partitions: partitions.collect(),
            members: members.collect(),
            idle: convert::idle(described.idle).into(),
            idle_detail: described.idle_detail,
            dead_letter_topic: group.dead_letters.name.to_string(),
            dead_letter_count: described.dead_letters as i64,
            filtered_count: described.filtered as i64,
            filter_error_count: described.filter_errors as i64,
            last_filter_error: described.last_filter_error,
        })
    }

    pub(super) async fn list_dead_letters(
        self: &Arc<Self>,
        request: wire::ListDeadLettersRequest,
    ) -> Result<wire::ListDeadLettersResponse, Refusal> {
        let handle = self.group(Action::Read, &request.topic, &request.group)?;
        let resolved = handle
            .resolved_dead_letters()
            .await
            .map_err(|_| Refusal::group_gone())?;
        let size = page_size(request.page_size)?;
        let topic = handle.group().dead_letters.clone();
        let end = visible_end(&topic, PartitionId(0));
        let (from, to) = match request.dead_letter_offset {
            Some(given) => {
                let offset = Offset(convert::count("dead_letter_offset", given)?);
                (offset, end.min(offset.next()))
            }
            None => (page_start(&request.page_token)?, end),
        };
        let open: Vec<Offset> = (from.0..to.0)
            .map(Offset)
            .filter(|offset| !resolved.is_settled(*offset))
            .take(size + 1)
            .collect();
        let more = open.len() > size;
        let page = &open[..open.len().min(size)];
        let next_page_token = next_token(more, page.last().map(|o| o.next().to_string()));
        let mut dead_letters = Vec::with_capacity(page.len());
        for offset in page {
            dead_letters.extend(self.dead_letter(&topic, *offset).await?);
        }
        Ok(wire::ListDeadLettersResponse {
            dead_letters,
            next_page_token,
        })
    }

    async fn dead_letter(
        self: &Arc<Self>,
        topic: &Arc<Topic>,
        offset: Offset,
    ) -> Result<Option<wire::DeadLetter>, Refusal> {
        const ONE: PageLimits = PageLimits {
            events: 1,
            bytes: usize::MAX,
        };
        let (api, topic) = (self.clone(), topic.clone());
        let read = tokio::task::spawn_blocking(move || match topic.partition(PartitionId(0)) {
            Some(partition) => api.store.read(partition, offset, ONE),
            None => Ok(crate::commit::Page::default()),
        });
        let page = read.await.map_err(Refusal::internal)??;
        Ok(page
            .events
            .into_iter()
            .next()
            .map(|stored| wire::DeadLetter {
                dead_letter_offset: offset.0 as i64,
                history: convert::dead_letter_history(&stored),
                event: stored.event,
            }))
    }

    pub(super) async fn redrive_dead_letters(
        &self,
        request: wire::RedriveDeadLettersRequest,
    ) -> Result<wire::RedriveDeadLettersResponse, Refusal> {
        let handle = self.group(Action::Administer, &request.topic, &request.group)?;
        let given = request.dead_letter_offsets;
        let offsets = match (request.all, given.is_empty()) {
            (true, true) => None,
            (true, false) => {
                let message = "give offsets or all, not both";
                return Err(Refusal::field("dead_letter_offsets", message));
            }
            (false, true) => {
                let message = "it is empty; give offsets, or set all";
                return Err(Refusal::field("dead_letter_offsets", message));
            }
            (false, false) => {
                if given.len() > REDRIVE_MAX {
                    let length = format!("{} long", given.len());
                    return Err(Refusal::limit("dead_letter_offsets", length, REDRIVE_MAX));
                }
                let offsets: Result<Vec<_>, _> = given
                    .into_iter()
                    .map(|offset| convert::count("dead_letter_offsets", offset).map(Offset))
                    .collect();
                Some(offsets?)
            }
        };
        let redriven = handle.redrive(offsets).await?;
        Ok(wire::RedriveDeadLettersResponse {
            redriven_count: redriven as i64,
        })
    }
}

fn page_size(given: i32) -> Result<usize, Refusal> {
    convert::count_or("page_size", given.into(), PAGE_DEFAULT, PAGE_MAX)
}

fn next_token(more: bool, last: Option<String>) -> String {
    last.filter(|_| more).unwrap_or_default()
}

fn page_start(token: &str) -> Result<Offset, Refusal> {
    if token.is_empty() {
        return Ok(Offset(0));
    }
    let offset = token.parse().map(Offset);
    offset.map_err(|_| Refusal::field("page_token", "it is not one that this list gave"))
}

fn topic_config(topic: &Topic) -> wire::TopicConfig {
    wire::TopicConfig {
        partitions: topic.partitions.len() as i32,
    }
}

/// Checks a group's configuration and fills in the defaults.
fn group_config(asked: wire::GroupConfig) -> Result<GroupConfig, Refusal> {
    let ms = |field: &str, given: Option<prost_types::Duration>, default, min, max| {
        let field = format!("config.{field}");
        given.map_or(Ok(default), |given| convert::ms_of(&field, given, min, max))
    };
    let ordered_by_key = match wire::Ordering::try_from(asked.ordering) {
        Ok(wire::Ordering::Unspecified | wire::Ordering::Key) => true,
        Ok(wire::Ordering::None) => false,
        Err(_) => {
            let message = format!("{} is no ordering that this broker knows", asked.ordering);
            return Err(Refusal::field("config.ordering", message));
        }
    };
    let retry = asked.retry.unwrap_or_default();
    let multiplier = match retry.multiplier {
        0.0 => 2.0,
        given if (1.0..=10.0).contains(&given) => given,
        given => return Err(Refusal::limit("config.retry.multiplier", given, "1 to 10")),
    };
    let start = asked.start.and_then(|start| start.at);
    Ok(GroupConfig {
        filter: asked.filter,
        ordered_by_key,
        lease_ms: ms(
            "lease_duration",
            asked.lease_duration,
            30_000,
            *LEASE_MS.start(),
            *LEASE_MS.end(),
        )?,
        max_attempts: convert::count_or(
            "config.retry.max_attempts",
            retry.max_attempts.into(),
            5,
            MAX_ATTEMPTS_MAX,
        )? as u32,
        initial_delay_ms: ms(
            "retry.initial_delay",
            retry.initial_delay,
            1000,
            0,
            DELAY_MS_MAX,
        )?,
        multiplier,
        max_delay_ms: ms("retry.max_delay", retry.max_delay, 60_000, 0, DELAY_MS_MAX)?,
        max_in_flight: convert::count_or(
            "config.max_in_flight",
            asked.max_in_flight.into(),
            10_000,
            MAX_IN_FLIGHT_MAX,
        )? as u32,
        start: Some(match start {
            None | Some(At::Earliest(_)) => GroupStart::Earliest(true),
            Some(At::Latest(_)) => GroupStart::Latest(true),
            Some(At::Offset(offset)) => {
                GroupStart::Offset(convert::count("config.start.offset", offset)?)
            }
            Some(At::Time(time)) => {
                GroupStart::TimeMs(convert::ms_of_time("config.start.time", time)?)
            }
        }),
    })
}

fn wire_config(config: &GroupConfig) -> wire::GroupConfig {
    let start = config.start.clone().map(|start| match start {
        GroupStart::Earliest(_) => At::Earliest(wire::Earliest {}),
        GroupStart::Latest(_) => At::Latest(wire::Latest {}),
        GroupStart::Offset(offset) => At::Offset(offset as i64),
        GroupStart::TimeMs(ms) => At::Time(convert::time_ms(ms)),
    });
    let ordering = if config.ordered_by_key {
        wire::Ordering::Key
    } else {
        wire::Ordering::None
    };
    wire::GroupConfig {
        filter: config.filter.clone(),
        ordering: ordering.into(),
        lease_duration: Some(convert::duration_ms(config.lease_ms)),
        retry: Some(wire::RetryPolicy {
            max_attempts: config.max_attempts as i32,
            initial_delay: Some(convert::duration_ms(config.initial_delay_ms)),
            multiplier: config.multiplier,
            max_delay: Some(convert::duration_ms(config.max_delay_ms)),
        }),
        start: Some(wire::ReadStart { at: start }),
        max_in_flight: config.max_in_flight as i32,
    }
}
