//! Topics: made, deleted, listed, described.

use std::sync::Arc;

use sluice_proto::wire;

use super::{next_token, page_size, retention};
use crate::{
    commit::{CatalogChange, CatalogChanged, Topic, TopicConfig, record::Channel},
    grpc::{
        api::Api,
        authorize::{Action, Resource},
        convert,
        refusal::Refusal,
    },
};

impl Api {
    pub(in crate::grpc) async fn create_topic(
        &self,
        request: wire::CreateTopicRequest,
    ) -> Result<wire::CreateTopicResponse, Refusal> {
        self.allow(Action::Administer, Resource::Topic(&request.topic))?;
        let name = convert::topic_name("topic", &request.topic)?;
        if self.proposals.catalog().topic(&name).is_none() {
            self.room_to_grow()?;
        }
        let max = self.limits.partitions_max as usize;
        let kept = request.config.as_ref().and_then(|asked| asked.retention);
        let kept = kept.map(|asked| retention::settings("config.retention", asked));
        let config = request.config.map(|asked| checked_config(asked, max));
        let change = CatalogChange::CreateTopic {
            name,
            config: config.transpose()?,
            retention: kept.transpose()?,
        };
        let changed = self.proposals.change_catalog(change).await?;
        let created = matches!(changed, CatalogChanged::TopicCreated);
        if created {
            tracing::info!(topic = request.topic, "topic created");
        }
        Ok(wire::CreateTopicResponse { created })
    }

    pub(in crate::grpc) async fn delete_topic(
        &self,
        request: wire::DeleteTopicRequest,
    ) -> Result<wire::DeleteTopicResponse, Refusal> {
        self.allow(Action::Administer, Resource::Topic(&request.topic))?;
        let name = convert::topic_name("topic", &request.topic)?;
        let change = CatalogChange::DeleteTopic { name };
        self.proposals.change_catalog(change).await?;
        tracing::info!(topic = request.topic, "topic deleted");
        Ok(wire::DeleteTopicResponse {})
    }

    pub(in crate::grpc) fn list_topics(
        &self,
        request: &wire::ListTopicsRequest,
    ) -> Result<wire::ListTopicsResponse, Refusal> {
        self.allow(Action::Describe, Resource::Broker)?;
        let size = page_size(request.page_size)?;
        let catalog = self.proposals.catalog();
        let mut after = catalog
            .topics()
            .filter(|topic| request.include_internal || !topic.name.is_internal())
            .filter(|topic| topic.name.as_str() > request.page_token.as_str())
            .peekable();
        let page: Vec<&Arc<Topic>> = after.by_ref().take(size).collect();
        let more = after.peek().is_some();
        let next_page_token = next_token(more, page.last().map(|topic| topic.name.to_string()));
        let topics = page.into_iter().map(|topic| wire::TopicSummary {
            topic: topic.name.to_string(),
            config: Some(topic_config(topic)),
            event_count: topic
                .partitions
                .iter()
                .map(|partition| partition.event_count() as i64)
                .sum(),
            group_count: catalog.groups_of(topic.id).count() as i32,
        });
        Ok(wire::ListTopicsResponse {
            topics: topics.collect(),
            next_page_token,
        })
    }

    pub(in crate::grpc) fn describe_topic(
        &self,
        request: &wire::DescribeTopicRequest,
    ) -> Result<wire::DescribeTopicResponse, Refusal> {
        let topic = self.topic(Action::Describe, &request.topic)?;
        let catalog = self.proposals.catalog();
        let partitions = topic.partitions.iter().map(retention::description);
        let groups = catalog
            .groups_of(topic.id)
            .map(|group| group.name.to_string());
        Ok(wire::DescribeTopicResponse {
            topic: topic.name.to_string(),
            topic_id: topic.id.0 as i64,
            config: Some(topic_config(&topic)),
            created_at: Some(convert::time_ms(topic.created_ms)),
            partitions: partitions.collect(),
            partitioner: "crc32".into(),
            groups: groups.collect(),
        })
    }
}

/// Checks a topic's configuration and fills in the defaults.
fn checked_config(asked: wire::TopicConfig, partitions_max: usize) -> Result<TopicConfig, Refusal> {
    let field = "config.partitions";
    let partitions = convert::count_or(field, asked.partitions.into(), 1, partitions_max)?;
    let channel = match wire::Channel::try_from(asked.channel) {
        Ok(wire::Channel::Unspecified | wire::Channel::Fsync) => Channel::Fsync,
        Ok(wire::Channel::Buffered) => Channel::Buffered,
        Ok(wire::Channel::Memory) => Channel::Memory,
        Err(_) => {
            let message = format!("{} is no channel that this broker knows", asked.channel);
            return Err(Refusal::field("config.channel", message));
        }
    };
    Ok(TopicConfig {
        partitions: partitions as u32,
        channel,
    })
}

fn topic_config(topic: &Topic) -> wire::TopicConfig {
    let channel = match topic.channel {
        Channel::Fsync => wire::Channel::Fsync,
        Channel::Buffered => wire::Channel::Buffered,
        Channel::Memory => wire::Channel::Memory,
    };
    wire::TopicConfig {
        partitions: topic.partitions.len() as i32,
        channel: channel.into(),
        retention: retention::wire_settings(topic),
    }
}
