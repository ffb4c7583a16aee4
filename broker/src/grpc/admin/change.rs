//! Groups changed: settings, pause, position.

use std::sync::Arc;

use sluice_proto::{Offset, wire, wire::read_start::At};

use super::groups::{group_config, wire_config};
use crate::{
    commit::{
        Group, GroupChange,
        record::{Channel, GroupPosition},
    },
    group::{ChangeRequest, Moved},
    grpc::{
        api::Api,
        authorize::Action,
        convert, events, filters,
        read::{self, visible_end},
        refusal::Refusal,
    },
};

const MASK: &str = "update_mask";

impl Api {
    pub(in crate::grpc) async fn update_group(
        self: &Arc<Self>,
        request: wire::UpdateGroupRequest,
    ) -> Result<wire::UpdateGroupResponse, Refusal> {
        let handle = self.group(Action::Administer, &request.topic, &request.group)?;
        let group = self.group_definition(Action::Administer, &request.topic, &request.group)?;
        let asked = request.config.unwrap_or_default();
        let paths = request.update_mask.unwrap_or_default().paths;
        let catalog = self.proposals.catalog();
        let mut config = wire_config(&group.config, &catalog);
        merge(&mut config, &asked, &paths)?;
        let filters = paths
            .iter()
            .any(|path| path == "filter" || path == "filters");
        let asked = filters::compile(
            "config.filter",
            std::mem::take(&mut config.filter),
            std::mem::take(&mut config.filters),
        )
        .await?;
        let filter = filters.then(|| asked.filter.clone());
        let config = group_config(config, asked, &catalog)?;
        let positions = match request.filter_from {
            None => Vec::new(),
            Some(_) if !filters => {
                let message = "it is given, and update_mask does not name \"filter\"";
                return Err(Refusal::field("filter_from", message));
            }
            Some(from) => self.positions(&group, from.at, None, "filter_from").await?,
        };
        let moved = handle
            .change(ChangeRequest {
                change: GroupChange {
                    config: Some((group.config.clone(), config.clone())),
                    positions,
                    ..GroupChange::default()
                },
                filter,
            })
            .await?;
        Ok(wire::UpdateGroupResponse {
            config: Some(wire_config(&config, &catalog)),
            moves: wire_moves(&moved),
        })
    }

    pub(in crate::grpc) async fn seek_group(
        self: &Arc<Self>,
        request: wire::SeekGroupRequest,
    ) -> Result<wire::SeekGroupResponse, Refusal> {
        let handle = self.group(Action::Administer, &request.topic, &request.group)?;
        let group = handle.group().clone();
        let to = request.to.and_then(|to| to.at);
        let to = to.ok_or_else(|| Refusal::field("to", "it is required"))?;
        let positions = self
            .positions(&group, Some(to), request.partition, "to")
            .await?;
        let moved = if request.dry_run {
            let planned = handle.plan_moves(positions).await;
            planned.map_err(|_| Refusal::group_gone())?
        } else {
            handle
                .change(ChangeRequest {
                    change: GroupChange {
                        positions,
                        ..GroupChange::default()
                    },
                    filter: None,
                })
                .await?
        };
        Ok(wire::SeekGroupResponse {
            moves: wire_moves(&moved),
            lease_count: moved.leases as i64,
        })
    }

    pub(in crate::grpc) async fn pause_group(
        self: &Arc<Self>,
        request: wire::PauseGroupRequest,
    ) -> Result<wire::PauseGroupResponse, Refusal> {
        let changed = self.pause(&request.topic, &request.group, true).await?;
        Ok(wire::PauseGroupResponse { changed })
    }

    pub(in crate::grpc) async fn resume_group(
        self: &Arc<Self>,
        request: wire::ResumeGroupRequest,
    ) -> Result<wire::ResumeGroupResponse, Refusal> {
        let changed = self.pause(&request.topic, &request.group, false).await?;
        Ok(wire::ResumeGroupResponse { changed })
    }

    async fn pause(&self, topic: &str, group: &str, paused: bool) -> Result<bool, Refusal> {
        let handle = self.group(Action::Administer, topic, group)?;
        let definition = self.group_definition(Action::Administer, topic, group)?;
        if definition.paused == paused {
            return Ok(false);
        }
        handle
            .change(ChangeRequest {
                change: GroupChange {
                    paused: Some(paused),
                    ..GroupChange::default()
                },
                filter: None,
            })
            .await?;
        Ok(true)
    }

    /// Where a start is in the partitions of a group's topic, or in one of them.
    async fn positions(
        self: &Arc<Self>,
        group: &Group,
        at: Option<At>,
        partition: Option<i32>,
        field: &str,
    ) -> Result<Vec<GroupPosition>, Refusal> {
        let topic = &group.topic;
        if topic.channel == Channel::Memory {
            let message = "the group reads a memory topic, whose events are gone when they \
                           are delivered";
            return Err(Refusal::field(field, message));
        }
        let chosen = match partition {
            Some(given) => vec![events::existing_partition("partition", topic, given)?],
            None => topic
                .partitions
                .iter()
                .map(|p| p.source.partition)
                .collect(),
        };
        let mut positions = Vec::with_capacity(chosen.len());
        for id in chosen {
            let offset = match at {
                // One offset need not lie within every partition; it then is the
                // end.
                Some(At::Offset(given)) if partition.is_none() => {
                    let offset = convert::count(&format!("{field}.offset"), given)?;
                    Offset(offset).min(visible_end(topic, id))
                }
                at => read::start_offset(self, topic, id, at, field).await?,
            };
            positions.push(GroupPosition {
                partition: id.0,
                offset: offset.0,
            });
        }
        Ok(positions)
    }
}

/// Takes over what `paths` name.
fn merge(
    config: &mut wire::GroupConfig,
    asked: &wire::GroupConfig,
    paths: &[String],
) -> Result<(), Refusal> {
    if paths.is_empty() {
        return Err(Refusal::field(MASK, "it is empty; name what is to change"));
    }
    let asked_retry = asked.retry.unwrap_or_default();
    for path in paths {
        let retry = config.retry.get_or_insert_default();
        match path.as_str() {
            "filter" | "filters" => {
                // Either is the group's whole filter.
                config.filter = asked.filter.clone();
                config.filters = asked.filters.clone();
            }
            "lease_duration" => config.lease_duration = asked.lease_duration,
            "processing_limit" => config.processing_limit = asked.processing_limit,
            "on_connection_loss" => config.on_connection_loss = asked.on_connection_loss,
            "max_in_flight_per_member" => {
                config.max_in_flight_per_member = asked.max_in_flight_per_member;
            }
            "backlog" => config.backlog = asked.backlog,
            "output_topics" => config.output_topics.clone_from(&asked.output_topics),
            "solo_wait" => config.solo_wait = asked.solo_wait,
            "max_in_flight" => config.max_in_flight = asked.max_in_flight,
            "retry.jitter" => retry.jitter = asked_retry.jitter,
            "max_redrives" => config.max_redrives = asked.max_redrives,
            "retry.max_attempts" => retry.max_attempts = asked_retry.max_attempts,
            "retry.initial_delay" => retry.initial_delay = asked_retry.initial_delay,
            "retry.multiplier" => retry.multiplier = asked_retry.multiplier,
            "retry.max_delay" => retry.max_delay = asked_retry.max_delay,
            "ordering" | "start" | "retry.order" => {
                let message = format!("{path:?} cannot change; make another group");
                return Err(Refusal::field(MASK, message));
            }
            _ => {
                let message = format!("{path:?} is no setting of a group");
                return Err(Refusal::field(MASK, message));
            }
        }
    }
    Ok(())
}

fn wire_moves(moved: &Moved) -> Vec<wire::PartitionMove> {
    let moves = moved.moves.iter().map(|of| wire::PartitionMove {
        partition: of.partition.0 as i32,
        offset: of.offset.0 as i64,
        replayed_count: of.replayed as i64,
        skipped_count: of.skipped as i64,
    });
    moves.collect()
}
