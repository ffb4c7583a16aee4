//! How far a group may fall behind, and to which topics it publishes, between
//! the API and the broker.

use std::collections::BTreeSet;

use sluice_proto::{TopicId, wire};

use crate::{
    commit::{
        Catalog,
        record::{BacklogPolicy, GroupConfig},
    },
    flow::BacklogLimit,
    grpc::{convert, refusal::Refusal},
};

const EVENTS_MAX: usize = 1_000_000_000_000;
const BYTES_MAX: usize = 1_000_000_000_000_000;
const AGE_MS: std::ops::RangeInclusive<u64> = 100..=100 * 365 * 24 * 60 * 60 * 1000;
const OUTPUTS_MAX: usize = 100;

/// A limit, and what happens at it.
pub(super) struct Asked {
    pub(super) policy: BacklogPolicy,
    pub(super) limit: BacklogLimit,
}

/// Checks a limit.
pub(super) fn asked(asked: wire::BacklogLimit) -> Result<Asked, Refusal> {
    let limit = BacklogLimit {
        events: convert::count_or("config.backlog.max_events", asked.max_events, 0, EVENTS_MAX)?
            as u64,
        bytes: convert::count_or("config.backlog.max_bytes", asked.max_bytes, 0, BYTES_MAX)? as u64,
        age_ms: match asked.max_age {
            Some(age) => {
                let (min, max) = (*AGE_MS.start(), *AGE_MS.end());
                convert::ms_of("config.backlog.max_age", age, min, max)?
            }
            None => 0,
        },
    };
    let bounded = limit != BacklogLimit::default();
    let field = "config.backlog.policy";
    let policy = match wire::BacklogPolicy::try_from(asked.policy) {
        Ok(wire::BacklogPolicy::Unspecified) if bounded => {
            return Err(Refusal::field(field, "say what happens at the limit"));
        }
        Ok(wire::BacklogPolicy::Unspecified | wire::BacklogPolicy::Ignore) => BacklogPolicy::Ignore,
        Ok(wire::BacklogPolicy::Throttle) => BacklogPolicy::Throttle,
        Ok(wire::BacklogPolicy::Reject) => BacklogPolicy::Reject,
        Err(_) => {
            let message = format!("{} is none that this broker knows", asked.policy);
            return Err(Refusal::field(field, message));
        }
    };
    if policy != BacklogPolicy::Ignore && !bounded {
        let message = "a policy needs a bound: max_events, max_bytes or max_age";
        return Err(Refusal::field("config.backlog", message));
    }
    Ok(Asked { policy, limit })
}

/// The limit as the API has it.
pub(super) fn wire_limit(config: &GroupConfig) -> wire::BacklogLimit {
    let policy = match config.backlog_policy() {
        BacklogPolicy::Ignore => wire::BacklogPolicy::Ignore,
        BacklogPolicy::Throttle => wire::BacklogPolicy::Throttle,
        BacklogPolicy::Reject => wire::BacklogPolicy::Reject,
    };
    let age_ms = Some(config.backlog_age_ms).filter(|ms| *ms > 0);
    wire::BacklogLimit {
        policy: policy.into(),
        max_events: config.backlog_events as i64,
        max_bytes: config.backlog_bytes as i64,
        max_age: age_ms.map(convert::duration_ms),
    }
}

/// The topics that are named.
pub(super) fn asked_outputs(names: &[String], catalog: &Catalog) -> Result<Vec<u64>, Refusal> {
    const FIELD: &str = "config.output_topics";
    if names.len() > OUTPUTS_MAX {
        return Err(Refusal::limit(
            FIELD,
            format!("{} long", names.len()),
            OUTPUTS_MAX,
        ));
    }
    let mut outputs = BTreeSet::new();
    for (at, name) in names.iter().enumerate() {
        let field = format!("{FIELD}[{at}]");
        let topic = catalog.topic(&convert::topic_name(&field, name)?);
        let topic = topic.ok_or_else(|| Refusal::unknown_output(&field, name))?;
        if !outputs.insert(topic.id.0) {
            return Err(Refusal::field(field, "it is named before"));
        }
    }
    Ok(outputs.into_iter().collect())
}

/// The names of a group's output topics that are there.
pub(super) fn wire_outputs(config: &GroupConfig, catalog: &Catalog) -> Vec<String> {
    let outputs = config.outputs.iter();
    outputs
        .filter_map(|id| catalog.topic_by_id(TopicId(*id)))
        .map(|topic| topic.name.to_string())
        .collect()
}
