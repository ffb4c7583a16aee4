//! `sluice group lag`: how far groups are behind.

use clap::Args;
use serde_json::json;
use sluice_client::{Admin, pb};

use super::{
    Common,
    group_describe::{idle_word, partition_json, partitions_table},
    output,
};

/// How far one group is behind, by partition; or all of a topic; or all.
#[derive(Debug, Args)]
pub(super) struct Lag {
    /// The topic [default: all].
    topic: Option<String>,
    /// The group [default: all of the topic].
    group: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl Lag {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let admin = self.common.connect().await?.admin();
        let groups = self.groups(&admin).await?;
        if self.common.json {
            for of in &groups {
                output::json(&json!({
                    "topic": of.topic,
                    "group": of.group,
                    "lag": total(of),
                    "idle": idle_word(of),
                    "dead_letters": of.dead_letter_count,
                    "partitions": of.partitions.iter().map(partition_json).collect::<Vec<_>>(),
                }))?;
            }
            return Ok(());
        }
        if self.group.is_some() {
            return groups.iter().try_for_each(partitions_table);
        }
        let rows = groups.iter().map(|of| {
            [
                of.topic.clone(),
                of.group.clone(),
                total(of).to_string(),
                of.partitions
                    .iter()
                    .map(|p| p.in_flight)
                    .sum::<i64>()
                    .to_string(),
                of.dead_letter_count.to_string(),
                of.members.len().to_string(),
                idle_word(of),
            ]
        });
        output::table(
            [
                "topic",
                "group",
                "lag",
                "in flight",
                "dead letters",
                "members",
                "idle",
            ],
            rows,
        )?;
        Ok(())
    }

    async fn groups(&self, admin: &Admin) -> anyhow::Result<Vec<pb::DescribeGroupResponse>> {
        if let (Some(topic), Some(group)) = (&self.topic, &self.group) {
            return Ok(vec![admin.describe_group(topic, group).await?]);
        }
        let mut groups = Vec::new();
        for of in admin.list_groups(self.topic.as_deref()).await? {
            groups.push(admin.describe_group(&of.topic, &of.group).await?);
        }
        Ok(groups)
    }
}

fn total(of: &pb::DescribeGroupResponse) -> i64 {
    of.partitions.iter().map(|p| p.lag).sum()
}
