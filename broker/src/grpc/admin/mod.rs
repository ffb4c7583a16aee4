//! AdminService: the broker itself here, the rest in files of their own.

mod backlog;
pub(super) mod backup;
mod change;
mod dead_letters;
mod explain;
mod flow;
mod groups;
mod retention;
mod topics;

use sluice_proto::wire;

use super::{
    api::Api,
    authorize::{Action, Resource},
    convert,
    refusal::Refusal,
};
use crate::filter::FILTER_BYTES_MAX;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
/// Damaged parts of the log that DescribeBroker tells.
const SKIPPED_TOLD_MAX: usize = 100;

impl Api {
    pub(in crate::grpc) fn describe_broker(&self) -> Result<wire::DescribeBrokerResponse, Refusal> {
        self.allow(Action::Describe, Resource::Broker)?;
        let catalog = self.proposals.catalog();
        let recovery = &self.info.recovery;
        let limits = &self.limits;
        let kept = self.retention_status();
        Ok(wire::DescribeBrokerResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            log_id: convert::log_id(recovery.log.log_id),
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
            low_space: self
                .space
                .low()
                .map(|low| low.to_string())
                .unwrap_or_default(),
            log_bytes: self.log.stored_bytes() as i64,
            live_bytes: kept.live_bytes as i64,
            reclaimed_bytes: kept.reclaimed_bytes as i64,
            rewritten_bytes: kept.rewritten_bytes as i64,
            held: self.held(&kept),
            full: self.full_groups(),
            backup: self.backup.now(),
            topic_count: catalog.topics().filter(|t| !t.name.is_internal()).count() as i64,
            group_count: catalog.groups().len() as i64,
            log_writer: recovery.log.write.name().into(),
            recovery: Some(wire::Recovery {
                clean: recovery.log.clean,
                replayed_bytes: recovery.log.replayed_bytes as i64,
                cut_bytes: recovery.log.cut_bytes as i64,
                duration: Some(convert::duration(recovery.took)),
                view_rebuilt: recovery.view_rebuilt,
                skipped_damage: recovery
                    .skipped
                    .iter()
                    .take(SKIPPED_TOLD_MAX)
                    .map(|skipped| wire::SkippedDamage {
                        begin_position: skipped.start.0 as i64,
                        end_position: skipped.end.0 as i64,
                    })
                    .collect(),
            }),
        })
    }
}

fn page_size(given: i32) -> Result<usize, Refusal> {
    convert::count_or("page_size", given.into(), PAGE_DEFAULT, PAGE_MAX)
}

fn next_token(more: bool, last: Option<String>) -> String {
    last.filter(|_| more).unwrap_or_default()
}
