//! `sluice group describe`: how a group stands.

use clap::Args;
use serde_json::{Value, json};
use sluice_client::pb;

use super::{
    Common, backlog, filter,
    group::{config_json, connection_loss, ordering, retry_order},
    output,
};

/// Which group.
#[derive(Debug, Args)]
pub(super) struct Describe {
    /// The topic that it reads.
    topic: String,
    /// Its name.
    group: String,
    /// How many of the events under lease to show, those with the oldest leases
    /// first, up to 1000.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    in_flight: i32,
    #[command(flatten)]
    common: Common,
}

impl Describe {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let (topic, group) = (&self.topic, &self.group);
        let of = admin
            .describe_group_with(topic, group, self.in_flight)
            .await?;
        let idle = idle_word(&of);
        if self.common.json {
            output::json(&describe_json(&of, &idle))?;
            return Ok(());
        }
        let config = of.config.clone().unwrap_or_default();
        let mut fields = vec![
            ("topic", of.topic.clone()),
            ("group", of.group.clone()),
            ("id", of.group_id.to_string()),
            ("created", output::timestamp(of.created_at)),
        ];
        fields.extend(settings(&config));
        fields.extend([
            ("backlog", backlog::state_shown(of.backlog.as_ref())),
            ("outputs", config.output_topics.join(", ")),
            ("dropped", of.dropped_count.to_string()),
            (
                "open dead letters",
                format!("{} in {}", of.dead_letter_count, of.dead_letter_topic),
            ),
            ("idle", with_detail(idle, &of.idle_detail)),
        ]);
        output::fields(&fields)?;
        output::line("")?;
        if let Some(counters) = &of.filter_counters {
            filter::counters_table(counters)?;
            output::line("")?;
        }
        partitions_table(&of)?;
        output::line("")?;
        standings_table(&of)?;
        if !of.in_flight_events.is_empty() {
            output::line("")?;
            in_flight_table(&of.in_flight_events)?;
        }
        if !of.members.is_empty() {
            output::line("")?;
            let rows = of.members.iter().map(|m| {
                [
                    m.member.clone(),
                    m.in_flight.to_string(),
                    m.credit_events.to_string(),
                    if m.connected { "yes" } else { "no" }.to_owned(),
                    output::timestamp(m.joined_at),
                ]
            });
            output::table(
                ["member", "in flight", "credit", "connected", "joined"],
                rows,
            )?;
        }
        Ok(())
    }
}

/// Settings that stand by themselves; those that bound nothing are left out.
fn settings(config: &pb::GroupConfig) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("filter", filter::shown(config)),
        ("ordering", ordering(config)),
        ("lease", output::duration(config.lease_duration)),
        ("connection loss", connection_loss(config)),
    ];
    if let Some(limit) = config.processing_limit {
        settings.push(("processing limit", output::duration(Some(limit))));
    }
    let mut in_flight = config.max_in_flight.to_string();
    if config.max_in_flight_per_member > 0 {
        in_flight.push_str(&format!(", {} per member", config.max_in_flight_per_member));
    }
    settings.extend([
        ("solo wait", output::duration(config.solo_wait)),
        ("retry", retry_shown(config)),
        ("max in flight", in_flight),
        ("max redrives", config.max_redrives.to_string()),
    ]);
    settings
}

fn retry_shown(config: &pb::GroupConfig) -> String {
    let retry = config.retry.unwrap_or_default();
    let mut shown = format!(
        "{} attempts, first after {}, times {}, at most {}, jitter {}",
        retry.max_attempts,
        output::duration(retry.initial_delay),
        retry.multiplier,
        output::duration(retry.max_delay),
        retry.jitter.unwrap_or_default(),
    );
    // It is about the events of a key.
    if config.ordering() == pb::Ordering::Key {
        shown.push_str(&format!(", {}", retry_order(&retry)));
    }
    shown
}

pub(super) fn partitions_table(of: &pb::DescribeGroupResponse) -> anyhow::Result<()> {
    let rows = of.partitions.iter().map(|p| {
        [
            p.partition.to_string(),
            p.committed_end.to_string(),
            p.delivered_end.to_string(),
            p.visible_end.to_string(),
            p.lag.to_string(),
            p.lag_bytes.to_string(),
            output::timestamp(p.oldest_unsettled_time),
            output::age(p.oldest_unsettled_time),
            p.in_flight.to_string(),
            p.delayed.to_string(),
            p.held.to_string(),
        ]
    });
    output::table(
        [
            "partition",
            "committed",
            "delivered",
            "end",
            "lag",
            "lag bytes",
            "oldest",
            "lag age",
            "in flight",
            "delayed",
            "held",
        ],
        rows,
    )?;
    Ok(())
}

fn with_detail(what: String, detail: &str) -> String {
    if detail.is_empty() {
        what
    } else {
        format!("{what}: {detail}")
    }
}

/// Where the events of each partition stand, and of the whole group.
fn standings_table(of: &pb::DescribeGroupResponse) -> anyhow::Result<()> {
    let row = |name: String, counts: Option<pb::GroupCounts>, rest: [String; 3]| {
        let counts = counts.unwrap_or_default();
        let [filtered, dead_lettered, idle] = rest;
        [
            name,
            counts.ready.to_string(),
            counts.suspect.to_string(),
            counts.in_flight.to_string(),
            counts.held.to_string(),
            counts.delayed.to_string(),
            counts.parked.to_string(),
            counts.key_locked.to_string(),
            filtered,
            dead_lettered,
            idle,
        ]
    };
    let partitions = of.partitions.iter().map(|p| {
        let rest = [
            p.filtered_count.to_string(),
            p.dead_lettered_count.to_string(),
            word(p.idle()),
        ];
        row(p.partition.to_string(), p.counts, rest)
    });
    // The group's own count begins anew with a new filter, and has no errors in it.
    let filtered: i64 = of.partitions.iter().map(|p| p.filtered_count).sum();
    let rest = [
        filtered.to_string(),
        // Those that were redriven before belong to no partition, and are counted nowhere.
        String::new(),
        idle_word(of),
    ];
    let all = row("all".to_owned(), of.counts, rest);
    output::table(
        [
            "partition",
            "ready",
            "suspect",
            "in flight",
            "held",
            "delayed",
            "parked",
            "key locked",
            "filtered",
            "dead-lettered",
            "idle",
        ],
        partitions.chain([all]),
    )?;
    Ok(())
}

fn in_flight_table(events: &[pb::InFlightEvent]) -> anyhow::Result<()> {
    let rows = events.iter().map(|of| {
        [
            place(of),
            of.member.clone(),
            output::timestamp(of.since),
            of.attempt.to_string(),
            of.progress_percent
                .map_or_else(String::new, |percent| format!("{percent} %")),
            of.progress_note.clone(),
        ]
    });
    output::table(
        ["event", "member", "since", "attempt", "progress", "note"],
        rows,
    )?;
    Ok(())
}

fn place(of: &pb::InFlightEvent) -> String {
    let redriven = if of.redriven { " (redriven)" } else { "" };
    format!("{}/{}{redriven}", of.partition, of.offset)
}

pub(super) fn idle_word(of: &pb::DescribeGroupResponse) -> String {
    word(of.idle())
}

fn word(reason: pb::IdleReason) -> String {
    match reason {
        pb::IdleReason::Unspecified => "no".into(),
        reason => output::word(reason.as_str_name(), "IDLE_REASON_"),
    }
}

pub(super) fn partition_json(p: &pb::GroupPartition) -> Value {
    json!({
        "partition": p.partition,
        "committed_end": p.committed_end,
        "delivered_end": p.delivered_end,
        "visible_end": p.visible_end,
        "lag": p.lag,
        "lag_bytes": p.lag_bytes,
        "oldest_unsettled_time": output::timestamp(p.oldest_unsettled_time),
        "in_flight": p.in_flight,
        "delayed": p.delayed,
        "held": p.held,
        "counts": counts_json(p.counts),
        "filtered": p.filtered_count,
        "dead_lettered": p.dead_lettered_count,
        "idle": word(p.idle()),
    })
}

fn counts_json(counts: Option<pb::GroupCounts>) -> Value {
    let counts = counts.unwrap_or_default();
    json!({
        "ready": counts.ready,
        "suspect": counts.suspect,
        "in_flight": counts.in_flight,
        "held": counts.held,
        "delayed": counts.delayed,
        "parked": counts.parked,
        "key_locked": counts.key_locked,
    })
}

fn in_flight_json(of: &pb::InFlightEvent) -> Value {
    json!({
        "partition": of.partition,
        "offset": of.offset,
        "redriven": of.redriven,
        "member": of.member,
        "since": output::timestamp(of.since),
        "attempt": of.attempt,
        "progress_percent": of.progress_percent,
        "progress_note": of.progress_note,
    })
}

fn describe_json(of: &pb::DescribeGroupResponse, idle: &str) -> Value {
    let members: Vec<_> = of
        .members
        .iter()
        .map(|m| {
            json!({
                "member": m.member,
                "in_flight": m.in_flight,
                "credit_events": m.credit_events,
                "credit_bytes": m.credit_bytes,
                "connected": m.connected,
                "joined_at": output::timestamp(m.joined_at),
            })
        })
        .collect();
    json!({
        "topic": of.topic,
        "group": of.group,
        "group_id": of.group_id,
        "created_at": output::timestamp(of.created_at),
        "config": config_json(&of.config.clone().unwrap_or_default()),
        "partitions": of.partitions.iter().map(partition_json).collect::<Vec<_>>(),
        "counts": counts_json(of.counts),
        "in_flight": of.in_flight_events.iter().map(in_flight_json).collect::<Vec<_>>(),
        "members": members,
        "idle": idle,
        "paused": of.paused,
        "idle_detail": of.idle_detail,
        "backlog": backlog::state_json(of.backlog.as_ref()),
        "filtered": of.filtered_count,
        "dropped": of.dropped_count,
        "filter_errors": of.filter_error_count,
        "last_filter_error": of.last_filter_error,
        "filter_counters": of.filter_counters.as_ref().map(filter::counters_json),
        "dead_letters": of.dead_letter_count,
        "dead_letter_topic": of.dead_letter_topic,
    })
}
