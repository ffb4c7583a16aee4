//! How long events are kept: settings, trimming, and who holds what.

use std::sync::{Arc, PoisonError};

use sluice_proto::{Offset, PartitionId, wire};

use crate::{
    commit::{
        CatalogChange, Partition, Topic,
        record::{Channel, Retention},
    },
    grpc::{
        api::Api,
        authorize::{Action, Resource},
        convert, events,
        refusal::Refusal,
    },
    retention::{self, RetentionStatus},
};

/// The longest age and tombstone delay: 100 years.
const AGE_MS_MAX: u64 = 100 * 366 * 24 * 60 * 60 * 1000;
const TOMBSTONE_MS: u64 = 24 * 60 * 60 * 1000;
/// Partitions that are named as held in one answer.
const HELD_MAX: usize = 1000;

impl Api {
    pub(in crate::grpc) async fn update_topic(
        &self,
        request: wire::UpdateTopicRequest,
    ) -> Result<wire::UpdateTopicResponse, Refusal> {
        self.allow(Action::Administer, Resource::Topic(&request.topic))?;
        let name = convert::topic_name("topic", &request.topic)?;
        let retention = request.retention.unwrap_or_default();
        let retention = settings("retention", retention)?;
        let change = CatalogChange::UpdateTopic { name, retention };
        self.proposals.change_catalog(change).await?;
        tracing::info!(topic = request.topic, "topic updated");
        Ok(wire::UpdateTopicResponse {})
    }

    pub(in crate::grpc) async fn trim_topic(
        self: &Arc<Self>,
        request: wire::TrimTopicRequest,
    ) -> Result<wire::TrimTopicResponse, Refusal> {
        use wire::trim_topic_request::Before;
        let topic = self.topic(Action::Administer, &request.topic)?;
        if topic.channel == Channel::Memory {
            let message = "it is a memory topic, which is bounded by the broker's limits alone";
            return Err(Refusal::field("topic", message));
        }
        let partitions: Vec<PartitionId> = match request.partition {
            Some(given) => vec![events::existing_partition("partition", &topic, given)?],
            None => topic
                .partitions
                .iter()
                .map(|p| p.source.partition)
                .collect(),
        };
        let before = match request.before {
            Some(Before::Offset(offset)) => Ok(Offset(convert::count("offset", offset)?)),
            Some(Before::Time(time)) => Err(convert::ms_of_time("time", time)?),
            None => {
                let message = "give an offset or a time";
                return Err(Refusal::field("before", message));
            }
        };
        let (api, of, chosen) = (self.clone(), topic.clone(), partitions.clone());
        let keeper = self.proposals.keeper();
        let trimmed = tokio::task::spawn_blocking(move || {
            for partition in chosen.iter().filter_map(|id| of.partition(*id)) {
                let start = match before {
                    Ok(offset) => offset.min(partition.visible_end()),
                    Err(time_ms) => api.store.offset_at_time(partition, time_ms)?,
                };
                if start > partition.start_offset() {
                    retention::trim_to(&keeper, &api.store, partition, start)?;
                }
            }
            Ok::<(), Refusal>(())
        });
        trimmed.await.map_err(Refusal::internal)??;
        tracing::info!(topic = request.topic, "topic trimmed");
        let partitions = partitions.iter().filter_map(|id| topic.partition(*id));
        Ok(wire::TrimTopicResponse {
            partitions: partitions.map(description).collect(),
        })
    }

    pub(super) fn retention_status(&self) -> RetentionStatus {
        let status = self.info.retention.lock();
        status.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn held(&self, status: &RetentionStatus) -> Vec<wire::HeldPartition> {
        let catalog = self.proposals.catalog();
        let named = status.held.iter().filter_map(|held| {
            let topic = catalog.topic_by_id(held.source.topic)?;
            let group = catalog
                .groups_of(topic.id)
                .find(|group| group.id == held.group)?;
            Some(wire::HeldPartition {
                topic: topic.name.to_string(),
                partition: held.source.partition.0 as i32,
                group: group.name.to_string(),
                event_count: held.events as i64,
            })
        });
        named.take(HELD_MAX).collect()
    }
}

/// The settings that were asked for.
pub(super) fn settings(field: &str, given: wire::Retention) -> Result<Retention, Refusal> {
    let duration = |name: &str, given: Option<prost_types::Duration>, absent: u64| match given {
        Some(given) => convert::ms_of(&format!("{field}.{name}"), given, 0, AGE_MS_MAX),
        None => Ok(absent),
    };
    let tombstone_ms = duration("tombstone_delay", given.tombstone_delay, TOMBSTONE_MS)?;
    Ok(Retention {
        age_ms: duration("max_age", given.max_age, 0)?,
        bytes: convert::count(&format!("{field}.max_bytes"), given.max_bytes)?,
        events: convert::count(&format!("{field}.max_events"), given.max_events)?,
        hold_unread: given.hold_unread,
        compact: given.compact,
        tombstone_ms: if given.compact { tombstone_ms } else { 0 },
    })
}

/// The settings of a topic; `None` when its events are kept for ever.
pub(super) fn wire_settings(topic: &Topic) -> Option<wire::Retention> {
    let kept = topic.retention();
    if kept == Retention::default() {
        return None;
    }
    Some(wire::Retention {
        max_age: Some(kept.age_ms)
            .filter(|ms| *ms > 0)
            .map(convert::duration_ms),
        max_bytes: kept.bytes as i64,
        max_events: kept.events as i64,
        hold_unread: kept.hold_unread,
        compact: kept.compact,
        tombstone_delay: Some(kept.tombstone_ms)
            .filter(|_| kept.compact)
            .map(convert::duration_ms),
    })
}

/// A partition as it is described.
pub(super) fn description(partition: &Partition) -> wire::PartitionDescription {
    wire::PartitionDescription {
        partition: partition.source.partition.0 as i32,
        start_offset: partition.start_offset().0 as i64,
        visible_end: partition.visible_end().0 as i64,
        last_append_time: partition.last_append_ms().map(convert::time_ms),
        bytes: partition.bytes() as i64,
    }
}
