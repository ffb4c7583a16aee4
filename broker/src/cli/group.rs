//! `sluice group`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use sluice_client::{
    GroupOptions,
    pb::{self, read_start::At},
};

use super::{
    Common,
    backlog::{self, BacklogArgs},
    filter::{self, Dialects},
    group_change::{Pause, Seek, Update},
    group_describe::Describe,
    lag::Lag,
    output,
};

/// `sluice group`.
#[derive(Debug, Subcommand)]
pub(super) enum Group {
    /// Makes a group; one that is there already with the same settings is fine.
    Create(Box<Create>),
    /// Lists groups.
    List(List),
    /// Tells how a group stands, and why it delivers nothing if it does not.
    ///
    /// What was dropped, filtered and dead-lettered is counted since the broker's
    /// start.
    Describe(Describe),
    /// Tells how far groups are behind.
    Lag(Lag),
    /// Changes settings of a group that may be at work.
    Update(Box<Update>),
    /// Moves a group's position: back to have events delivered again, or forward
    /// to skip them.
    Seek(Seek),
    /// Stops deliveries until `resume`; what is under way may be finished.
    Pause(Pause),
    /// Delivers again.
    Resume(Pause),
    /// Deletes a group, its position and its dead letters.
    Delete(Named),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The topic that it reads.
    topic: String,
    /// Its name.
    group: String,
    /// Only events for which this CEL expression is true, for example
    /// 'event.type == "image.ready" && event.data.confidence < 0.8'.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,
    #[command(flatten)]
    dialects: Dialects,
    /// Which events go one at a time, in order: those of one key, those of one
    /// partition, or none.
    #[arg(long, value_enum, default_value = "key")]
    ordering: Ordering,
    /// How long a silent member keeps its events [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    lease: Option<Duration>,
    /// Attempts before an event becomes a dead letter [default: 5].
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    max_attempts: i32,
    /// The delay before the second attempt; each further one is twice as long
    /// [default: 1s].
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    retry_delay: Option<Duration>,
    /// The longest delay between attempts [default: 1m].
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    retry_delay_max: Option<Duration>,
    /// Each further delay is the one before times this, where 1 makes it a fixed
    /// one [default: 2].
    #[arg(long, default_value_t = 0.0, hide_default_value = true)]
    retry_multiplier: f64,
    /// The share of each delay that is left to chance, 0 to 1 [default: 0.5].
    #[arg(long)]
    retry_jitter: Option<f64>,
    /// Whether later events of a key wait while one waits for its next attempt.
    #[arg(long, value_enum, default_value = "hold-key")]
    retry_order: RetryOrder,
    /// How long one attempt may take, however many heartbeats come [default: no
    /// limit].
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    processing_limit: Option<Duration>,
    /// When the events of a member go to others whose connection is lost.
    #[arg(long, value_enum, default_value = "deadline")]
    on_connection_loss: ConnectionLoss,
    /// How long an event that a vanished member had waits for one that holds
    /// nothing, before one is made idle for it [default: 10s].
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration)]
    solo_wait: Option<Duration>,
    /// Events under lease of one member at once [default: no bound].
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    max_in_flight_per_member: i32,
    /// Events under lease at once [default: 10000].
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    max_in_flight: i32,
    /// How often one event may be redriven from the dead letters [default: 10].
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    max_redrives: i32,
    #[command(flatten)]
    backlog: BacklogArgs,
    /// A topic to which its workers publish: the group waits while it is full.
    /// May be given more than once.
    #[arg(long = "output", value_name = "TOPIC")]
    outputs: Vec<String>,
    /// Where it begins: earliest, latest, an offset, or a time as in
    /// 2026-11-24T10:00:00Z.
    #[arg(long, default_value = "earliest", value_parser = super::tail::parse_start)]
    from: At,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ordering {
    Key,
    Partition,
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RetryOrder {
    HoldKey,
    Overtake,
}

/// When the events of a member go to others whose connection is lost.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ConnectionLoss {
    Deadline,
    AtOnce,
}

impl From<ConnectionLoss> for pb::ConnectionLoss {
    fn from(loss: ConnectionLoss) -> Self {
        match loss {
            ConnectionLoss::Deadline => Self::Deadline,
            ConnectionLoss::AtOnce => Self::AtOnce,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only groups of this topic.
    #[arg(long)]
    topic: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The topic that it reads.
    topic: String,
    /// Its name.
    group: String,
    #[command(flatten)]
    common: Common,
}

impl Group {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(list) => list.run().await,
            Self::Describe(named) => named.run().await,
            Self::Lag(lag) => lag.run().await,
            Self::Update(update) => update.run().await,
            Self::Seek(seek) => seek.run().await,
            Self::Pause(pause) => pause.pause().await,
            Self::Resume(pause) => pause.resume().await,
            Self::Delete(named) => named.delete().await,
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let duration = |of: Option<Duration>| of.and_then(|of| of.try_into().ok());
        let config = pb::GroupConfig {
            filter: self.filter,
            filters: self.dialects.filters()?,
            ordering: match self.ordering {
                Ordering::Key => pb::Ordering::Key,
                Ordering::Partition => pb::Ordering::Partition,
                Ordering::None => pb::Ordering::None,
            }
            .into(),
            lease_duration: duration(self.lease),
            retry: Some(pb::RetryPolicy {
                max_attempts: self.max_attempts,
                initial_delay: duration(self.retry_delay),
                multiplier: self.retry_multiplier,
                max_delay: duration(self.retry_delay_max),
                jitter: self.retry_jitter,
                order: match self.retry_order {
                    RetryOrder::HoldKey => pb::RetryOrder::HoldKey,
                    RetryOrder::Overtake => pb::RetryOrder::Overtake,
                }
                .into(),
            }),
            start: Some(pb::ReadStart {
                at: Some(self.from),
                epoch: 0,
            }),
            max_in_flight: self.max_in_flight,
            max_redrives: self.max_redrives,
            processing_limit: duration(self.processing_limit),
            on_connection_loss: pb::ConnectionLoss::from(self.on_connection_loss).into(),
            max_in_flight_per_member: self.max_in_flight_per_member,
            solo_wait: duration(self.solo_wait),
            backlog: self.backlog.limit(),
            output_topics: self.outputs,
        };
        let (topic, group) = (self.topic, self.group);
        let created = admin
            .create_group(&topic, &group, GroupOptions::from(config))
            .await?;
        if self.common.json {
            output::json(&json!({"topic": topic, "group": group, "created": created}))?;
        } else {
            let what = if created { "created" } else { "was there" };
            output::line(&format!("group {group} on {topic} {what}"))?;
        }
        Ok(())
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let groups = admin.list_groups(self.topic.as_deref()).await?;
        if self.common.json {
            for of in groups {
                output::json(&json!({
                    "topic": of.topic,
                    "group": of.group,
                    "config": config_json(&of.config.unwrap_or_default()),
                }))?;
            }
            return Ok(());
        }
        let rows = groups.into_iter().map(|of| {
            let config = of.config.unwrap_or_default();
            [
                of.topic,
                of.group,
                ordering(&config),
                output::duration(config.lease_duration),
                filter::shown(&config),
            ]
        });
        output::table(["topic", "group", "ordering", "lease", "filter"], rows)?;
        Ok(())
    }
}

impl Named {
    async fn delete(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        admin.delete_group(&self.topic, &self.group).await?;
        if self.common.json {
            output::json(&json!({"topic": self.topic, "group": self.group, "deleted": true}))?;
        } else {
            output::line(&format!("group {} on {} deleted", self.group, self.topic))?;
        }
        Ok(())
    }
}

pub(super) fn ordering(config: &pb::GroupConfig) -> String {
    output::word(config.ordering().as_str_name(), "ORDERING_")
}

pub(super) fn connection_loss(config: &pb::GroupConfig) -> String {
    output::word(
        config.on_connection_loss().as_str_name(),
        "CONNECTION_LOSS_",
    )
}

pub(super) fn retry_order(retry: &pb::RetryPolicy) -> String {
    output::word(retry.order().as_str_name(), "RETRY_ORDER_")
}

pub(super) fn config_json(config: &pb::GroupConfig) -> Value {
    let retry = config.retry.unwrap_or_default();
    json!({
        "filter": config.filter,
        "filters": filter::filters_json(&config.filters),
        "ordering": ordering(config),
        "lease": output::duration(config.lease_duration),
        "max_attempts": retry.max_attempts,
        "retry_delay": output::duration(retry.initial_delay),
        "retry_multiplier": retry.multiplier,
        "retry_delay_max": output::duration(retry.max_delay),
        "retry_jitter": retry.jitter,
        "retry_order": retry_order(&retry),
        "max_in_flight": config.max_in_flight,
        "max_redrives": config.max_redrives,
        "max_in_flight_per_member": config.max_in_flight_per_member,
        "processing_limit": config.processing_limit.map(|limit| output::duration(Some(limit))),
        "on_connection_loss": connection_loss(config),
        "solo_wait": output::duration(config.solo_wait),
        "backlog": backlog::limit_json(config.backlog.as_ref()),
        "output_topics": config.output_topics,
    })
}
