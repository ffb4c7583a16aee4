//! Groups: made, deleted, listed, described.

use std::sync::Arc;

use sluice_proto::{Offset, wire, wire::read_start::At};

use super::{backlog, next_token, page_size};
use crate::{
    commit::{
        Backlog, Catalog, CatalogChange, CatalogChanged, Group, NewGroup, Partition, ReadError,
        record::{GroupConfig, GroupStart, Ordering},
    },
    group::{Counts, Description, InFlightEvent, MAX_REDRIVES, max_redrives},
    grpc::{
        api::Api,
        authorize::{Action, Resource},
        convert,
        filters::{self, AskedFilter},
        read::{self, visible_end},
        refusal::Refusal,
    },
};

const LEASE_MS: std::ops::RangeInclusive<u64> = 100..=12 * 60 * 60 * 1000;
const DELAY_MS_MAX: u64 = 24 * 60 * 60 * 1000;
const MAX_ATTEMPTS_MAX: usize = 100;
const MAX_IN_FLIGHT_MAX: usize = 100_000;
const MAX_REDRIVES_MAX: usize = 1000;
const PROCESSING_LIMIT_MS: std::ops::RangeInclusive<u64> = 100..=7 * 24 * 60 * 60 * 1000;
const SOLO_WAIT_MS: u64 = 10_000;
const SOLO_WAIT_MS_MAX: u64 = 24 * 60 * 60 * 1000;
const JITTER: f64 = 0.5;
/// Events under lease that a description tells, and at most.
const IN_FLIGHT_TOLD: usize = 100;
const IN_FLIGHT_TOLD_MAX: usize = 1000;

impl Api {
    pub(in crate::grpc) async fn create_group(
        self: &Arc<Self>,
        request: wire::CreateGroupRequest,
    ) -> Result<wire::CreateGroupResponse, Refusal> {
        let topic = self.topic(Action::Administer, &request.topic)?;
        let name = convert::group_name("group", &request.group)?;
        if self.proposals.catalog().group(&topic.name, &name).is_none() {
            self.room_to_grow()?;
        }
        let or_as_it_is = request.config.is_none();
        let mut asked = request.config.unwrap_or_default();
        let filter = filters::compile(
            "config.filter",
            std::mem::take(&mut asked.filter),
            std::mem::take(&mut asked.filters),
        )
        .await?;
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
        let config = group_config(asked, filter, &self.proposals.catalog())?;
        let change = CatalogChange::CreateGroup(Box::new(NewGroup {
            topic: topic.name.clone(),
            name: name.clone(),
            config,
            or_as_it_is,
            start,
        }));
        let created = self.change_and_run(change).await?;
        if created {
            tracing::info!(
                topic = request.topic,
                group = request.group,
                "group created"
            );
        }
        Ok(wire::CreateGroupResponse {
            created,
            dead_letter_topic: sluice_proto::TopicName::dead_letters(&topic.name, &name)
                .to_string(),
        })
    }

    pub(in crate::grpc) async fn delete_group(
        self: &Arc<Self>,
        request: wire::DeleteGroupRequest,
    ) -> Result<wire::DeleteGroupResponse, Refusal> {
        let topic = self.topic(Action::Administer, &request.topic)?;
        let name = convert::group_name("group", &request.group)?;
        let change = CatalogChange::DeleteGroup {
            topic: topic.name.clone(),
            name,
        };
        self.groups.deleting();
        if self.change_and_run(change).await? {
            tracing::info!(
                topic = request.topic,
                group = request.group,
                "group deleted"
            );
        }
        Ok(wire::DeleteGroupResponse {})
    }

    /// Makes or deletes a group, and starts or stops it. False when there was nothing
    /// to change.
    ///
    /// On a task of its own, so that a caller who hangs up before the log has answered
    /// does not leave a group that does not run, or one that runs and is deleted.
    async fn change_and_run(self: &Arc<Self>, change: CatalogChange) -> Result<bool, Refusal> {
        let api = self.clone();
        let work = tokio::spawn(async move {
            match api.proposals.change_catalog(change).await? {
                CatalogChanged::GroupCreated(state) => {
                    let id = sluice_proto::GroupId(state.definition.group);
                    api.groups.start(id, *state);
                    Ok(true)
                }
                CatalogChanged::GroupDeleted(id) => {
                    api.groups.stop(id);
                    Ok(true)
                }
                _ => Ok(false),
            }
        });
        work.await.map_err(Refusal::internal)?
    }

    pub(in crate::grpc) fn list_groups(
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
            config: Some(wire_config(&group.config, &catalog)),
        });
        Ok(wire::ListGroupsResponse {
            groups: groups.collect(),
            next_page_token,
        })
    }

    pub(in crate::grpc) async fn describe_group(
        self: &Arc<Self>,
        request: wire::DescribeGroupRequest,
    ) -> Result<wire::DescribeGroupResponse, Refusal> {
        let handle = self.group(Action::Describe, &request.topic, &request.group)?;
        let in_flight_max = convert::count_or(
            "in_flight_max",
            request.in_flight_max.into(),
            IN_FLIGHT_TOLD,
            IN_FLIGHT_TOLD_MAX,
        )?;
        let described = handle.describe(in_flight_max).await;
        let described = described.map_err(|_| Refusal::group_gone())?;
        let group = self.group_definition(Action::Describe, &request.topic, &request.group)?;
        let backlogs = self.backlogs(&group, &described).await?;
        let backlog = self.backlog_state(&group, &described);
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
                    in_flight: of.counts.in_flight as i64,
                    delayed: (of.counts.delayed + of.counts.parked) as i64,
                    held: of.counts.held as i64,
                    lag_bytes: backlogs[at].bytes as i64,
                    oldest_unsettled_time: Some(backlogs[at].oldest_ms)
                        .filter(|ms| *ms > 0)
                        .map(convert::time_ms),
                    counts: Some(wire_counts(&of.counts)),
                    filtered_count: of.filtered as i64,
                    dead_lettered_count: of.dead_lettered as i64,
                    idle: convert::idle(of.idle).into(),
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
            config: Some(wire_config(&group.config, &self.proposals.catalog())),
            created_at: Some(convert::time_ms(group.created_ms)),
            partitions: partitions.collect(),
            members: members.collect(),
            idle: convert::idle(described.idle).into(),
            idle_detail: described.idle_detail,
            dead_letter_topic: group.dead_letters.name.to_string(),
            dead_letter_count: described.dead_letters as i64,
            filtered_count: described.counters.dropped_by_any() as i64,
            filter_error_count: described.counters.errors as i64,
            last_filter_error: described
                .counters
                .last_error
                .as_ref()
                .map(|failure| failure.message.clone())
                .unwrap_or_default(),
            filter_counters: Some(convert::counters(described.counters, described.terms)),
            dropped_count: described.dropped as i64,
            paused: group.paused,
            backlog: Some(backlog),
            counts: Some(wire_counts(&described.totals)),
            in_flight_events: described
                .in_flight
                .into_iter()
                .map(wire_in_flight)
                .collect(),
        })
    }

    /// What each partition has that is not settled.
    async fn backlogs(
        self: &Arc<Self>,
        group: &Arc<Group>,
        described: &Description,
    ) -> Result<Vec<Backlog>, Refusal> {
        let behind: Vec<_> = described
            .partitions
            .iter()
            .map(|of| (of.committed_end, of.lag))
            .collect();
        let (api, topic) = (self.clone(), group.topic.clone());
        let read = tokio::task::spawn_blocking(move || {
            let of = |(partition, (from, lag)): (&Partition, (Offset, u64))| {
                if lag == 0 {
                    return Ok(Backlog::default());
                }
                let all = partition.visible_end().0.saturating_sub(from.0).max(1);
                let backlog = api.store.backlog(partition, from)?;
                let share = u128::from(lag.min(all));
                let bytes = u128::from(backlog.bytes) * share / u128::from(all);
                Ok(Backlog {
                    bytes: bytes as u64,
                    ..backlog
                })
            };
            topic
                .partitions
                .iter()
                .zip(behind)
                .map(of)
                .collect::<Result<Vec<_>, ReadError>>()
        });
        Ok(read.await.map_err(Refusal::internal)??)
    }
}

fn wire_counts(of: &Counts) -> wire::GroupCounts {
    wire::GroupCounts {
        ready: of.ready as i64,
        suspect: of.suspect as i64,
        in_flight: of.in_flight as i64,
        held: of.held as i64,
        delayed: of.delayed as i64,
        parked: of.parked as i64,
        key_locked: of.queued as i64,
    }
}

fn wire_in_flight(of: InFlightEvent) -> wire::InFlightEvent {
    let report = of.report.unwrap_or_default();
    wire::InFlightEvent {
        partition: of.partition.0 as i32,
        offset: of.offset.0 as i64,
        redriven: of.redriven,
        member: of.member,
        since: Some(convert::time_ms(of.since_ms)),
        attempt: of.attempt as i32,
        progress_percent: report.percent.map(i32::from),
        progress_note: report.note,
    }
}

/// Checks a group's configuration and fills in the defaults.
pub(super) fn group_config(
    asked: wire::GroupConfig,
    filter: AskedFilter,
    catalog: &Catalog,
) -> Result<GroupConfig, Refusal> {
    let ms = |field: &str, given: Option<prost_types::Duration>, default, min, max| {
        let field = format!("config.{field}");
        given.map_or(Ok(default), |given| convert::ms_of(&field, given, min, max))
    };
    let retry = asked.retry.unwrap_or_default();
    let ordering = ordering(asked.ordering)?;
    let overtake = overtakes(retry.order)?;
    if overtake && ordering == Ordering::Partition {
        let message = "nothing overtakes in a group with ORDERING_PARTITION";
        return Err(Refusal::field("config.retry.order", message));
    }
    let jitter = match retry.jitter.unwrap_or(JITTER) {
        given if (0.0..=1.0).contains(&given) => given,
        given => return Err(Refusal::limit("config.retry.jitter", given, "0 to 1")),
    };
    let multiplier = match retry.multiplier {
        0.0 => 2.0,
        given if (1.0..=10.0).contains(&given) => given,
        given => return Err(Refusal::limit("config.retry.multiplier", given, "1 to 10")),
    };
    let start = asked.start.and_then(|start| start.at);
    let backlog = backlog::asked(asked.backlog.unwrap_or_default())?;
    Ok(GroupConfig {
        backlog_policy: backlog.policy.into(),
        backlog_events: backlog.limit.events,
        backlog_bytes: backlog.limit.bytes,
        backlog_age_ms: backlog.limit.age_ms,
        outputs: backlog::asked_outputs(&asked.output_topics, catalog)?,
        filter: filter.cel,
        dialects: filter.dialects,
        ordering: ordering.into(),
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
        max_redrives: convert::count_or(
            "config.max_redrives",
            asked.max_redrives.into(),
            MAX_REDRIVES as usize,
            MAX_REDRIVES_MAX,
        )? as u32,
        processing_limit_ms: ms(
            "processing_limit",
            asked.processing_limit,
            0,
            *PROCESSING_LIMIT_MS.start(),
            *PROCESSING_LIMIT_MS.end(),
        )?,
        connection_loss_at_once: lost_at_once(asked.on_connection_loss)?,
        max_in_flight_per_member: convert::count_or(
            "config.max_in_flight_per_member",
            asked.max_in_flight_per_member.into(),
            0,
            MAX_IN_FLIGHT_MAX,
        )? as u32,
        solo_wait_ms: ms(
            "solo_wait",
            asked.solo_wait,
            SOLO_WAIT_MS,
            0,
            SOLO_WAIT_MS_MAX,
        )?,
        jitter,
        overtake,
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

fn ordering(asked: i32) -> Result<Ordering, Refusal> {
    match wire::Ordering::try_from(asked) {
        Ok(wire::Ordering::Unspecified | wire::Ordering::Key) => Ok(Ordering::Key),
        Ok(wire::Ordering::None) => Ok(Ordering::None),
        Ok(wire::Ordering::Partition) => Ok(Ordering::Partition),
        Err(_) => Err(unknown("config.ordering", asked)),
    }
}

fn overtakes(asked: i32) -> Result<bool, Refusal> {
    match wire::RetryOrder::try_from(asked) {
        Ok(wire::RetryOrder::Unspecified | wire::RetryOrder::HoldKey) => Ok(false),
        Ok(wire::RetryOrder::Overtake) => Ok(true),
        Err(_) => Err(unknown("config.retry.order", asked)),
    }
}

fn lost_at_once(asked: i32) -> Result<bool, Refusal> {
    match wire::ConnectionLoss::try_from(asked) {
        Ok(wire::ConnectionLoss::Unspecified | wire::ConnectionLoss::Deadline) => Ok(false),
        Ok(wire::ConnectionLoss::AtOnce) => Ok(true),
        Err(_) => Err(unknown("config.on_connection_loss", asked)),
    }
}

fn unknown(field: &str, given: i32) -> Refusal {
    Refusal::field(field, format!("{given} is none that this broker knows"))
}

pub(super) fn wire_config(config: &GroupConfig, catalog: &Catalog) -> wire::GroupConfig {
    let start = config.start.clone().map(|start| match start {
        GroupStart::Earliest(_) => At::Earliest(wire::Earliest {}),
        GroupStart::Latest(_) => At::Latest(wire::Latest {}),
        GroupStart::Offset(offset) => At::Offset(offset as i64),
        GroupStart::TimeMs(ms) => At::Time(convert::time_ms(ms)),
    });
    let ordering = match config.ordering() {
        Ordering::Key => wire::Ordering::Key,
        Ordering::None => wire::Ordering::None,
        Ordering::Partition => wire::Ordering::Partition,
    };
    let on_connection_loss = if config.connection_loss_at_once {
        wire::ConnectionLoss::AtOnce
    } else {
        wire::ConnectionLoss::Deadline
    };
    let order = if config.overtake {
        wire::RetryOrder::Overtake
    } else {
        wire::RetryOrder::HoldKey
    };
    let limit_ms = Some(config.processing_limit_ms).filter(|ms| *ms > 0);
    wire::GroupConfig {
        filter: config.filter.clone(),
        filters: filters::wire_filters(&config.dialects),
        ordering: ordering.into(),
        lease_duration: Some(convert::duration_ms(config.lease_ms)),
        retry: Some(wire::RetryPolicy {
            max_attempts: config.max_attempts as i32,
            initial_delay: Some(convert::duration_ms(config.initial_delay_ms)),
            multiplier: config.multiplier,
            max_delay: Some(convert::duration_ms(config.max_delay_ms)),
            jitter: Some(config.jitter),
            order: order.into(),
        }),
        start: Some(wire::ReadStart {
            at: start,
            epoch: 0,
        }),
        max_in_flight: config.max_in_flight as i32,
        max_redrives: max_redrives(config) as i32,
        processing_limit: limit_ms.map(convert::duration_ms),
        on_connection_loss: on_connection_loss.into(),
        max_in_flight_per_member: config.max_in_flight_per_member as i32,
        solo_wait: Some(convert::duration_ms(config.solo_wait_ms)),
        backlog: Some(backlog::wire_limit(config)),
        output_topics: backlog::wire_outputs(config, catalog),
    }
}
