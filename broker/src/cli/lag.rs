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
                    "lag": total(of, |p| p.lag),
                    "lag_bytes": total(of, |p| p.lag_bytes),
                    "oldest_unsettled_time": output::timestamp(oldest(of)),
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
                total(of, |p| p.lag).to_string(),
                total(of, |p| p.lag_bytes).to_string(),
                output::age(oldest(of)),
                total(of, |p| p.in_flight).to_string(),
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
                "lag bytes",
                "lag age",
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

fn total(of: &pb::DescribeGroupResponse, part: impl Fn(&pb::GroupPartition) -> i64) -> i64 {
    of.partitions.iter().map(part).sum()
}

/// When the oldest event was appended that the group has not settled, parked ones left
/// out; `None` without lag.
fn oldest(of: &pb::DescribeGroupResponse) -> Option<prost_types::Timestamp> {
    let times = of.partitions.iter().map(|p| p.oldest_unsettled_time);
    times.flatten().min_by_key(|at| (at.seconds, at.nanos))
}
