//! How far a group may fall behind: flags, and how it is shown.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sluice_client::pb;

use super::output;

/// A group's backlog limit.
#[derive(Debug, Args)]
pub(super) struct BacklogArgs {
    /// What happens to those who publish to the topic while the group has as much
    /// to do as it may: nothing, they are slowed down and wait, or they are
    /// refused [default: ignore].
    #[arg(long, value_enum, value_name = "POLICY")]
    backlog_policy: Option<Policy>,
    /// Events that the group may have to do [default: no bound].
    #[arg(long, value_name = "EVENTS", requires = "backlog_policy")]
    backlog_events: Option<i64>,
    /// Bytes of events that the group may have to do [default: no bound].
    #[arg(long, value_name = "BYTES", requires = "backlog_policy")]
    backlog_bytes: Option<i64>,
    /// How old the oldest event may be that the group has to do [default: no
    /// bound].
    #[arg(long, value_name = "DURATION", requires = "backlog_policy",
          value_parser = output::parse_duration)]
    backlog_age: Option<Duration>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Policy {
    Ignore,
    Throttle,
    Reject,
}

impl BacklogArgs {
    /// The limit as it is asked for; `None` when no flag is given.
    pub(super) fn limit(&self) -> Option<pb::BacklogLimit> {
        let policy = match self.backlog_policy? {
            Policy::Ignore => pb::BacklogPolicy::Ignore,
            Policy::Throttle => pb::BacklogPolicy::Throttle,
            Policy::Reject => pb::BacklogPolicy::Reject,
        };
        Some(pb::BacklogLimit {
            policy: policy.into(),
            max_events: self.backlog_events.unwrap_or_default(),
            max_bytes: self.backlog_bytes.unwrap_or_default(),
            max_age: self.backlog_age.and_then(|age| age.try_into().ok()),
        })
    }
}

/// A limit in words.
pub(super) fn shown(limit: Option<&pb::BacklogLimit>) -> String {
    let Some(limit) = limit.filter(|limit| is_bounded(limit)) else {
        return "no limit".to_owned();
    };
    let mut bounds = Vec::new();
    if limit.max_events > 0 {
        bounds.push(format!("{} events", limit.max_events));
    }
    if limit.max_bytes > 0 {
        bounds.push(format!("{} bytes", limit.max_bytes));
    }
    if limit.max_age.is_some() {
        bounds.push(output::duration(limit.max_age));
    }
    format!("{} at {}", policy(limit), bounds.join(" or "))
}

/// A limit for scripts.
pub(super) fn limit_json(limit: Option<&pb::BacklogLimit>) -> Value {
    let limit = limit.copied().unwrap_or_default();
    json!({
        "policy": policy(&limit),
        "events": limit.max_events,
        "bytes": limit.max_bytes,
        "age": limit.max_age.map(|age| output::duration(Some(age))),
    })
}

/// What a group has to do, in words.
pub(super) fn state_shown(state: Option<&pb::BacklogState>) -> String {
    let state = state.copied().unwrap_or_default();
    let mut shown = format!("{} events, {}", state.events, shown(state.limit.as_ref()));
    if state.full {
        shown.push_str(", FULL");
    }
    if state.abandoned {
        shown.push_str(", nobody works for it");
    }
    shown
}

/// The same for scripts.
pub(super) fn state_json(state: Option<&pb::BacklogState>) -> Value {
    let state = state.copied().unwrap_or_default();
    json!({
        "limit": limit_json(state.limit.as_ref()),
        "events": state.events,
        "bytes": state.bytes,
        "age": state.age.map(|age| output::duration(Some(age))),
        "full": state.full,
        "abandoned": state.abandoned,
    })
}

fn policy(limit: &pb::BacklogLimit) -> String {
    match limit.policy() {
        pb::BacklogPolicy::Unspecified => "ignore".to_owned(),
        policy => output::word(policy.as_str_name(), "BACKLOG_POLICY_"),
    }
}

fn is_bounded(limit: &pb::BacklogLimit) -> bool {
    limit.max_events > 0 || limit.max_bytes > 0 || limit.max_age.is_some()
}
