//! `sluice group update`, `seek`, `pause` and `resume`.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};
use sluice_client::pb::{self, read_start::At};

use super::{Common, backlog::BacklogArgs, filter::Dialects, group::ConnectionLoss, output};

/// What changes; the rest stays as it is.
#[derive(Debug, Args)]
pub(super) struct Update {
    /// The topic that the group reads.
    topic: String,
    /// The group.
    group: String,
    /// Only events for which this CEL expression is true; '' for every event.
    #[arg(long)]
    filter: Option<String>,
    #[command(flatten)]
    dialects: Dialects,
    /// From where the new filter counts: earliest, latest, an offset, or a time;
    /// moves the group there, as `seek` does [default: events that the group has
    /// not come to yet].
    #[arg(long, value_parser = super::tail::parse_start)]
    filter_from: Option<At>,
    /// How long a silent member keeps its events.
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    lease: Option<Duration>,
    /// Attempts before an event becomes a dead letter.
    #[arg(long)]
    max_attempts: Option<i32>,
    /// The delay before the second attempt.
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    retry_delay: Option<Duration>,
    /// The longest delay between attempts.
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    retry_delay_max: Option<Duration>,
    /// Each further delay is the one before times this, where 1 makes it a fixed
    /// one.
    #[arg(long)]
    retry_multiplier: Option<f64>,
    /// The share of each delay that is left to chance, 0 to 1.
    #[arg(long)]
    retry_jitter: Option<f64>,
    /// How long one attempt may take, however many heartbeats come; 0s for no
    /// limit.
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    processing_limit: Option<Duration>,
    /// When the events of a member go to others whose connection is lost.
    #[arg(long, value_enum)]
    on_connection_loss: Option<ConnectionLoss>,
    /// How long an event that a vanished member had waits for one that holds
    /// nothing, before one is made idle for it.
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    solo_wait: Option<Duration>,
    /// Events under lease of one member at once; 0 for no bound.
    #[arg(long)]
    max_in_flight_per_member: Option<i32>,
    /// Events under lease at once.
    #[arg(long)]
    max_in_flight: Option<i32>,
    /// How often one event may be redriven from the dead letters.
    #[arg(long)]
    max_redrives: Option<i32>,
    #[command(flatten)]
    backlog: BacklogArgs,
    /// The topics to which its workers publish, in the place of those that there
    /// are; '' for none.
    #[arg(long = "output", value_name = "TOPIC")]
    outputs: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// Where a group goes on. Without --yes it only tells what that would mean.
#[derive(Debug, Args)]
pub(super) struct Seek {
    /// The topic that the group reads.
    topic: String,
    /// The group.
    group: String,
    /// Where to: earliest, latest, an offset, or a time as in
    /// 2026-11-24T10:00:00Z.
    #[arg(long, value_parser = super::tail::parse_start)]
    to: At,
    /// Only this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// Does it.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Only tells what it would do, as without --yes.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

/// Which group.
#[derive(Debug, Args)]
pub(super) struct Pause {
    /// The topic that the group reads.
    topic: String,
    /// The group.
    group: String,
    #[command(flatten)]
    common: Common,
}

impl Update {
    fn change(&self) -> anyhow::Result<(pb::GroupConfig, Vec<&'static str>)> {
        let filters = self.dialects.filters()?;
        let has_filter = self.filter.is_some() || !filters.is_empty();
        if self.filter_from.is_some() && !has_filter {
            bail!("--filter-from is for a new filter, and there is none");
        }
        let duration = |of: Option<Duration>| of.and_then(|of| of.try_into().ok());
        let config = pb::GroupConfig {
            filter: self.filter.clone().unwrap_or_default(),
            filters,
            lease_duration: duration(self.lease),
            retry: Some(pb::RetryPolicy {
                max_attempts: self.max_attempts.unwrap_or_default(),
                initial_delay: duration(self.retry_delay),
                max_delay: duration(self.retry_delay_max),
                multiplier: self.retry_multiplier.unwrap_or_default(),
                jitter: self.retry_jitter,
                ..pb::RetryPolicy::default()
            }),
            processing_limit: duration(self.processing_limit.filter(|limit| !limit.is_zero())),
            on_connection_loss: self
                .on_connection_loss
                .map_or(pb::ConnectionLoss::Unspecified, Into::into)
                .into(),
            solo_wait: duration(self.solo_wait),
            max_in_flight_per_member: self.max_in_flight_per_member.unwrap_or_default(),
            max_in_flight: self.max_in_flight.unwrap_or_default(),
            max_redrives: self.max_redrives.unwrap_or_default(),
            backlog: self.backlog.limit(),
            output_topics: {
                let named = self.outputs.iter().filter(|topic| !topic.is_empty());
                named.cloned().collect()
            },
            ..pb::GroupConfig::default()
        };
        let given = [
            ("filter", has_filter),
            ("lease_duration", self.lease.is_some()),
            ("retry.max_attempts", self.max_attempts.is_some()),
            ("retry.initial_delay", self.retry_delay.is_some()),
            ("retry.max_delay", self.retry_delay_max.is_some()),
            ("retry.multiplier", self.retry_multiplier.is_some()),
            ("retry.jitter", self.retry_jitter.is_some()),
            ("processing_limit", self.processing_limit.is_some()),
            ("on_connection_loss", self.on_connection_loss.is_some()),
            ("solo_wait", self.solo_wait.is_some()),
            (
                "max_in_flight_per_member",
                self.max_in_flight_per_member.is_some(),
            ),
            ("max_in_flight", self.max_in_flight.is_some()),
            ("max_redrives", self.max_redrives.is_some()),
            ("backlog", self.backlog.limit().is_some()),
            ("output_topics", !self.outputs.is_empty()),
        ];
        let paths = given.iter().filter(|(_, given)| *given);
        Ok((config, paths.map(|(path, _)| *path).collect()))
    }

    pub(super) async fn run(self) -> anyhow::Result<()> {
        let (config, paths) = self.change()?;
        if paths.is_empty() {
            bail!("nothing is to change; see `sluice group update --help`");
        }
        let admin = self.common.connect().await?.admin();
        let (topic, group) = (&self.topic, &self.group);
        let updated = admin
            .update_group(topic, group, config, &paths, self.filter_from)
            .await?;
        let config = updated.config.unwrap_or_default();
        if self.common.json {
            output::json(&json!({
                "topic": topic,
                "group": group,
                "config": super::group::config_json(&config),
                "moves": moves_json(&updated.moves),
            }))?;
            return Ok(());
        }
        output::line(&format!("group {group} on {topic} updated"))?;
        if !updated.moves.is_empty() {
            moves_table(&updated.moves)?;
        }
        Ok(())
    }
}

impl Seek {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let (topic, group) = (&self.topic, &self.group);
        let sought = admin
            .seek_group(topic, group, self.to, self.partition, !self.yes)
            .await?;
        if self.common.json {
            output::json(&json!({
                "topic": topic,
                "group": group,
                "done": self.yes,
                "leases": sought.lease_count,
                "moves": moves_json(&sought.moves),
            }))?;
            return Ok(());
        }
        moves_table(&sought.moves)?;
        let leases = sought.lease_count;
        output::line(&if self.yes {
            format!("group {group} on {topic} moved, {leases} leases lost")
        } else {
            format!("nothing is changed yet; --yes does it, and {leases} leases are lost")
        })?;
        Ok(())
    }
}

impl Pause {
    pub(super) async fn pause(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let changed = admin.pause_group(&self.topic, &self.group).await?;
        self.tell(changed, "paused")
    }

    pub(super) async fn resume(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let changed = admin.resume_group(&self.topic, &self.group).await?;
        self.tell(changed, "at work")
    }

    fn tell(&self, changed: bool, state: &str) -> anyhow::Result<()> {
        let (topic, group) = (&self.topic, &self.group);
        if self.common.json {
            output::json(&json!({"topic": topic, "group": group, "changed": changed}))?;
        } else {
            let verb = if changed { "is" } else { "was" };
            output::line(&format!("group {group} on {topic} {verb} {state}"))?;
        }
        Ok(())
    }
}

fn moves_table(moves: &[pb::PartitionMove]) -> anyhow::Result<()> {
    let rows = moves.iter().map(|of| {
        [
            of.partition.to_string(),
            of.offset.to_string(),
            of.replayed_count.to_string(),
            of.skipped_count.to_string(),
        ]
    });
    output::table(["partition", "to", "replayed", "skipped"], rows)?;
    Ok(())
}

fn moves_json(moves: &[pb::PartitionMove]) -> Value {
    let moves = moves.iter().map(|of| {
        json!({
            "partition": of.partition,
            "offset": of.offset,
            "replayed": of.replayed_count,
            "skipped": of.skipped_count,
        })
    });
    moves.collect()
}
