//! `sluice topic`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Common, output};

/// `sluice topic`.
#[derive(Debug, Subcommand)]
pub(super) enum Topic {
    /// Makes a topic; one that is there already with as many partitions is fine.
    Create(Create),
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
    #[command(flatten)]
    common: Common,
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
            Self::List(list) => list.run().await,
            Self::Describe(named) => named.describe().await,
            Self::Delete(named) => named.delete().await,
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let created = admin.create_topic(&self.topic, self.partitions).await?;
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
            |config: Option<sluice_client::pb::TopicConfig>| config.unwrap_or_default().partitions;
        if self.common.json {
            for of in topics {
                output::json(&json!({
                    "topic": of.topic,
                    "partitions": partitions(of.config),
                    "events": of.event_count,
                    "groups": of.group_count,
                }))?;
            }
            return Ok(());
        }
        let rows = topics.into_iter().map(|of| {
            [
                of.topic,
                partitions(of.config).to_string(),
                of.event_count.to_string(),
                of.group_count.to_string(),
            ]
        });
        output::table(["topic", "partitions", "events", "groups"], rows)?;
        Ok(())
    }
}

impl Named {
    async fn describe(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let of = admin.describe_topic(&self.topic).await?;
        if self.common.json {
            let partitions: Vec<_> = of
                .partitions
                .iter()
                .map(|p| {
                    json!({
                        "partition": p.partition,
                        "start_offset": p.start_offset,
                        "visible_end": p.visible_end,
                        "last_append_time": output::timestamp(p.last_append_time),
                    })
                })
                .collect();
            output::json(&json!({
                "topic": of.topic,
                "topic_id": of.topic_id,
                "created_at": output::timestamp(of.created_at),
                "partitioner": of.partitioner,
                "partitions": partitions,
                "groups": of.groups,
            }))?;
            return Ok(());
        }
        output::fields(&[
            ("topic", of.topic),
            ("id", of.topic_id.to_string()),
            ("created", output::timestamp(of.created_at)),
            ("partitioner", of.partitioner),
            ("groups", of.groups.join(", ")),
        ])?;
        let rows = of.partitions.into_iter().map(|p| {
            [
                p.partition.to_string(),
                p.start_offset.to_string(),
                p.visible_end.to_string(),
                output::timestamp(p.last_append_time),
            ]
        });
        output::table(["partition", "start", "end", "last append"], rows)?;
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
