//! `sluice topic`.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use sluice_client::{TopicOptions, pb};

use super::{Common, output, retention};

/// `sluice topic`.
#[derive(Debug, Subcommand)]
pub(super) enum Topic {
    /// Makes a topic; one that is there already with the same settings is fine.
    Create(Create),
    /// Changes how long a topic's events are kept; without flags, for ever.
    Update(retention::Update),
    /// Drops the oldest events of a topic, whoever has not read them.
    Trim(retention::Trim),
    /// Lists topics.
    List(List),
    /// Tells what a topic has.
    Describe(Named),
    /// Deletes a topic and its events.
    Delete(Named),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Its name.
    topic: String,
    /// How many partitions it gets, for good.
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    /// What an ack of a publish means, for good.
    #[arg(long, value_enum, default_value_t)]
    channel: Channel,
    #[command(flatten)]
    retain: retention::Retain,
    #[command(flatten)]
    common: Common,
}

/// How a topic's events are kept.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Channel {
    /// Acked and delivered when on the disk.
    #[default]
    Fsync,
    /// Acked and delivered when written, on the disk soon after.
    Buffered,
    /// Never written: the fastest, and gone when the broker ends.
    Memory,
}

impl From<Channel> for pb::Channel {
    fn from(channel: Channel) -> Self {
        match channel {
            Channel::Fsync => Self::Fsync,
            Channel::Buffered => Self::Buffered,
            Channel::Memory => Self::Memory,
        }
    }
}

/// The channel of a topic, as `--channel` has it.
fn channel_name(config: Option<&pb::TopicConfig>) -> String {
    let channel = config.map(pb::TopicConfig::channel).unwrap_or_default();
    let name = channel.as_str_name().trim_start_matches("CHANNEL_");
    name.to_ascii_lowercase()
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Also the broker's own, such as dead letters.
    #[arg(long)]
    internal: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// Its name.
    topic: String,
    #[command(flatten)]
    common: Common,
}

impl Topic {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.run().await,
            Self::Update(update) => update.run().await,
            Self::Trim(trim) => trim.run().await,
            Self::List(list) => list.run().await,
            Self::Describe(named) => named.describe().await,
            Self::Delete(named) => named.delete().await,
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let mut options = TopicOptions::default()
            .partitions(self.partitions)
            .channel(self.channel.into());
        if let Some(retention) = self.retain.asked() {
            options = options.retention(retention);
        }
        let created = admin.create_topic(&self.topic, options).await?;
        if self.common.json {
            output::json(&json!({"topic": self.topic, "created": created}))?;
        } else {
            let what = if created { "created" } else { "was there" };
            output::line(&format!("topic {} {what}", self.topic))?;
        }
        Ok(())
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let topics = admin.list_topics(self.internal).await?;
        let partitions =
            |config: Option<&pb::TopicConfig>| config.map_or(0, |config| config.partitions);
        if self.common.json {
            for of in topics {
                output::json(&json!({
                    "topic": of.topic,
                    "partitions": partitions(of.config.as_ref()),
                    "channel": channel_name(of.config.as_ref()),
                    "events": of.event_count,
                    "groups": of.group_count,
                }))?;
            }
            return Ok(());
        }
        let rows = topics.into_iter().map(|of| {
            [
                of.topic,
                partitions(of.config.as_ref()).to_string(),
                channel_name(of.config.as_ref()),
                of.event_count.to_string(),
                of.group_count.to_string(),
            ]
        });
        output::table(["topic", "partitions", "channel", "events", "groups"], rows)?;
        Ok(())
    }
}

impl Named {
    async fn describe(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let of = admin.describe_topic(&self.topic).await?;
        let retention = of
            .config
            .as_ref()
            .and_then(|config| config.retention.as_ref());
        let kept = retention::in_words(retention);
        if self.common.json {
            let partitions: Vec<_> = of
                .partitions
                .iter()
                .map(|p| {
                    json!({
                        "partition": p.partition,
                        "start_offset": p.start_offset,
                        "visible_end": p.visible_end,
                        "bytes": p.bytes,
                        "last_append_time": output::timestamp(p.last_append_time),
                    })
                })
                .collect();
            output::json(&json!({
                "topic": of.topic,
                "topic_id": of.topic_id,
                "created_at": output::timestamp(of.created_at),
                "channel": channel_name(of.config.as_ref()),
                "partitioner": of.partitioner,
                "retention": retention::in_json(retention),
                "partitions": partitions,
                "groups": of.groups,
            }))?;
            return Ok(());
        }
        output::fields(&[
            ("topic", of.topic),
            ("id", of.topic_id.to_string()),
            ("created", output::timestamp(of.created_at)),
            ("channel", channel_name(of.config.as_ref())),
            ("partitioner", of.partitioner),
            ("kept", kept),
            ("groups", of.groups.join(", ")),
        ])?;
        let rows = of.partitions.into_iter().map(|p| {
            [
                p.partition.to_string(),
                p.start_offset.to_string(),
                p.visible_end.to_string(),
                p.bytes.to_string(),
                output::timestamp(p.last_append_time),
            ]
        });
        output::table(["partition", "start", "end", "bytes", "last append"], rows)?;
        Ok(())
    }

    async fn delete(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        admin.delete_topic(&self.topic).await?;
        if self.common.json {
            output::json(&json!({"topic": self.topic, "deleted": true}))?;
        } else {
            output::line(&format!("topic {} deleted", self.topic))?;
        }
        Ok(())
    }
}
