//! Topics, groups, dead letters, and the broker itself.

use sluice_proto::pb::{self, read_start::At};

use crate::{
    client::Client,
    error::Error,
    options::{GroupOptions, TopicOptions},
};

/// Looks after a broker.
///
/// ```no_run
/// # async fn example(client: sluice_client::Client) -> Result<(), sluice_client::Error> {
/// use sluice_client::GroupOptions;
/// let admin = client.admin();
/// admin.create_topic("image.ready", 4).await?;
/// let blurred = GroupOptions::default().filter("event.data.confidence < 0.8");
/// admin.create_group("image.ready", "ocr", blurred).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

/// Items of one page of a list.
const PAGE_SIZE: i32 = 1000;

macro_rules! call {
    ($self:ident.$method:ident($request:expr)) => {{
        let api = $self.client.admin_api();
        let request = $request;
        $self
            .client
            .retrying(|| {
                let mut api = api.clone();
                let request = request.clone();
                async move { Ok(api.$method(request).await?.into_inner()) }
            })
            .await
    }};
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// What the broker is, and its limits.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn describe_broker(&self) -> Result<pb::DescribeBrokerResponse, Error> {
        call!(self.describe_broker(pb::DescribeBrokerRequest {}))
    }

    /// Makes a topic. False when it was there, with the same configuration.
    ///
    /// # Errors
    /// When it is there with another configuration, or the name is none.
    pub async fn create_topic(
        &self,
        topic: &str,
        options: impl Into<TopicOptions>,
    ) -> Result<bool, Error> {
        let request = pb::CreateTopicRequest {
            topic: topic.to_owned(),
            config: Some(options.into().0),
        };
        Ok(call!(self.create_topic(request))?.created)
    }

    /// Changes how long a topic's events are kept.
    ///
    /// # Errors
    /// When it does not exist, or a setting is none.
    pub async fn update_topic(&self, topic: &str, retention: pb::Retention) -> Result<(), Error> {
        let request = pb::UpdateTopicRequest {
            topic: topic.to_owned(),
            retention: Some(retention),
        };
        call!(self.update_topic(request))?;
        Ok(())
    }

    /// Drops the oldest events of a topic, or of one partition of it. Returns the
    /// partitions as they are then.
    ///
    /// # Errors
    /// When it does not exist.
    pub async fn trim_topic(
        &self,
        topic: &str,
        partition: Option<i32>,
        before: pb::trim_topic_request::Before,
    ) -> Result<Vec<pb::PartitionDescription>, Error> {
        let request = pb::TrimTopicRequest {
            topic: topic.to_owned(),
            partition,
            before: Some(before),
        };
        Ok(call!(self.trim_topic(request))?.partitions)
    }

    /// Deletes a topic and its events.
    ///
    /// # Errors
    /// When it does not exist, or has groups.
    pub async fn delete_topic(&self, topic: &str) -> Result<(), Error> {
        let topic = topic.to_owned();
        call!(self.delete_topic(pb::DeleteTopicRequest { topic }))?;
        Ok(())
    }

    /// All topics, in order of name; with `internal` also the broker's own.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn list_topics(&self, internal: bool) -> Result<Vec<pb::TopicSummary>, Error> {
        let mut request = pb::ListTopicsRequest {
            page_size: PAGE_SIZE,
            page_token: String::new(),
            include_internal: internal,
        };
        let mut topics = Vec::new();
        loop {
            let page = call!(self.list_topics(request.clone()))?;
            topics.extend(page.topics);
            if page.next_page_token.is_empty() {
                return Ok(topics);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// A topic and its partitions.
    ///
    /// # Errors
    /// When it does not exist.
    pub async fn describe_topic(&self, topic: &str) -> Result<pb::DescribeTopicResponse, Error> {
        let topic = topic.to_owned();
        call!(self.describe_topic(pb::DescribeTopicRequest { topic }))
    }

    /// Makes a group. False when it was there, with the same configuration.
    ///
    /// # Errors
    /// When the topic does not exist, the group is there with another
    /// configuration, or the configuration is none.
    pub async fn create_group(
        &self,
        topic: &str,
        group: &str,
        options: impl Into<GroupOptions>,
    ) -> Result<bool, Error> {
        let request = pb::CreateGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            config: Some(options.into().0),
        };
        Ok(call!(self.create_group(request))?.created)
    }

    /// Deletes a group, its position and its dead letters.
    ///
    /// # Errors
    /// When it does not exist.
    pub async fn delete_group(&self, topic: &str, group: &str) -> Result<(), Error> {
        let request = pb::DeleteGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
        };
        call!(self.delete_group(request))?;
        Ok(())
    }

    /// All groups, or those of one topic.
    ///
    /// # Errors
    /// When the topic does not exist.
    pub async fn list_groups(&self, topic: Option<&str>) -> Result<Vec<pb::GroupSummary>, Error> {
        let mut request = pb::ListGroupsRequest {
            topic: topic.unwrap_or_default().to_owned(),
            page_size: PAGE_SIZE,
            page_token: String::new(),
        };
        let mut groups = Vec::new();
        loop {
            let page = call!(self.list_groups(request.clone()))?;
            groups.extend(page.groups);
            if page.next_page_token.is_empty() {
                return Ok(groups);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// How a group stands, and why it delivers nothing if it does not.
    ///
    /// # Errors
    /// When it does not exist.
    pub async fn describe_group(
        &self,
        topic: &str,
        group: &str,
    ) -> Result<pb::DescribeGroupResponse, Error> {
        self.describe_group_with(topic, group, 0).await
    }

    /// The same, with so many of the events under lease, up to 1000; 0 means 100.
    ///
    /// # Errors
    /// When it does not exist.
    pub async fn describe_group_with(
        &self,
        topic: &str,
        group: &str,
        in_flight_max: i32,
    ) -> Result<pb::DescribeGroupResponse, Error> {
        let request = pb::DescribeGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            in_flight_max,
        };
        call!(self.describe_group(request))
    }

    /// Changes those settings of a group that `paths` name, as in
    /// `UpdateGroupRequest.update_mask`. With `filter_from` a new filter counts
    /// from there, and the group's position moves with it.
    ///
    /// # Errors
    /// When a path is none, or names what cannot change, or somebody else has
    /// changed the group in the same moment.
    pub async fn update_group(
        &self,
        topic: &str,
        group: &str,
        config: impl Into<GroupOptions>,
        paths: &[&str],
        filter_from: Option<At>,
    ) -> Result<pb::UpdateGroupResponse, Error> {
        let request = pb::UpdateGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            config: Some(config.into().0),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            }),
            filter_from: filter_from.map(|at| pb::ReadStart {
                at: Some(at),
                epoch: 0,
            }),
        };
        call!(self.update_group(request))
    }

    /// Moves a group's position in one partition, or in all; with `dry_run` it
    /// only tells what that would mean. Every lease of the group is lost.
    ///
    /// # Errors
    /// When the group or partition does not exist, or the offset is beyond the
    /// partition's end.
    pub async fn seek_group(
        &self,
        topic: &str,
        group: &str,
        to: At,
        partition: Option<i32>,
        dry_run: bool,
    ) -> Result<pb::SeekGroupResponse, Error> {
        let request = pb::SeekGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            to: Some(pb::ReadStart {
                at: Some(to),
                epoch: 0,
            }),
            partition,
            dry_run,
        };
        call!(self.seek_group(request))
    }

    /// Stops deliveries of a group, also over restarts. False when it was paused
    /// before.
    ///
    /// # Errors
    /// When the group does not exist.
    pub async fn pause_group(&self, topic: &str, group: &str) -> Result<bool, Error> {
        let request = pb::PauseGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
        };
        Ok(call!(self.pause_group(request))?.changed)
    }

    /// Lets a group deliver again. False when it was not paused.
    ///
    /// # Errors
    /// When the group does not exist.
    pub async fn resume_group(&self, topic: &str, group: &str) -> Result<bool, Error> {
        let request = pb::ResumeGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
        };
        Ok(call!(self.resume_group(request))?.changed)
    }

    /// The dead letters of a group that are not redriven, oldest first.
    ///
    /// # Errors
    /// When the group does not exist.
    pub async fn list_dead_letters(
        &self,
        topic: &str,
        group: &str,
    ) -> Result<Vec<pb::DeadLetter>, Error> {
        self.find_dead_letters(topic, group, "", "").await
    }

    /// Those of whose event the CEL expression `filter` is true, and whose reason
    /// has `reason` in it; an empty one lets all through.
    ///
    /// # Errors
    /// When the group does not exist, or the filter is none.
    pub async fn find_dead_letters(
        &self,
        topic: &str,
        group: &str,
        filter: &str,
        reason: &str,
    ) -> Result<Vec<pb::DeadLetter>, Error> {
        let matching = pb::DeadLetterMatch {
            filter: filter.to_owned(),
            reason_contains: reason.to_owned(),
            ..pb::DeadLetterMatch::default()
        };
        self.matching_dead_letters(topic, group, matching).await
    }

    /// Those that match.
    ///
    /// # Errors
    /// When the group does not exist, or the filter is none.
    pub async fn matching_dead_letters(
        &self,
        topic: &str,
        group: &str,
        matching: pb::DeadLetterMatch,
    ) -> Result<Vec<pb::DeadLetter>, Error> {
        let mut request = pb::ListDeadLettersRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            // Each has an event in it.
            page_size: 10,
            page_token: String::new(),
            dead_letter_offset: None,
            filter: matching.filter,
            reason_contains: matching.reason_contains,
            min_attempts: matching.min_attempts,
            max_attempts: matching.max_attempts,
        };
        let mut letters = Vec::new();
        loop {
            let page = call!(self.list_dead_letters(request.clone()))?;
            letters.extend(page.dead_letters);
            if page.next_page_token.is_empty() {
                return Ok(letters);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The dead letter at an offset, if it is there and not redriven.
    ///
    /// # Errors
    /// When the group does not exist.
    pub async fn dead_letter(
        &self,
        topic: &str,
        group: &str,
        offset: i64,
    ) -> Result<Option<pb::DeadLetter>, Error> {
        let request = pb::ListDeadLettersRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            dead_letter_offset: Some(offset),
            ..pb::ListDeadLettersRequest::default()
        };
        let page = call!(self.list_dead_letters(request))?;
        Ok(page.dead_letters.into_iter().next())
    }

    /// Gives dead letters back to their group; `None` for all. Returns how many.
    ///
    /// # Errors
    /// When one of them is not there, or one that is named was redriven too often: then
    /// none is redriven.
    pub async fn redrive_dead_letters(
        &self,
        topic: &str,
        group: &str,
        offsets: Option<Vec<i64>>,
    ) -> Result<i64, Error> {
        let redriven = self.redrive(topic, group, offsets, false).await?;
        Ok(redriven.redriven_count)
    }

    /// The same; with `force` also those that have been redriven as often as the
    /// group's `max_redrives` allows.
    ///
    /// # Errors
    /// When one of them is not there, or one that is named was redriven too often: then
    /// none is redriven.
    pub async fn redrive(
        &self,
        topic: &str,
        group: &str,
        offsets: Option<Vec<i64>>,
        force: bool,
    ) -> Result<pb::RedriveDeadLettersResponse, Error> {
        let request = pb::RedriveDeadLettersRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            all: offsets.is_none(),
            dead_letter_offsets: offsets.unwrap_or_default(),
            force,
            matching: None,
        };
        call!(self.redrive_dead_letters(request))
    }

    /// The same with all that match.
    ///
    /// # Errors
    /// When the group does not exist, or the filter is none.
    pub async fn redrive_matching(
        &self,
        topic: &str,
        group: &str,
        matching: pb::DeadLetterMatch,
        force: bool,
    ) -> Result<pb::RedriveDeadLettersResponse, Error> {
        let request = pb::RedriveDeadLettersRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            all: true,
            force,
            matching: Some(matching),
            ..pb::RedriveDeadLettersRequest::default()
        };
        call!(self.redrive_dead_letters(request))
    }

    /// Gives dead letters up for good; `None` for all. Returns how many.
    ///
    /// # Errors
    /// When one of them is not there; none is purged then.
    pub async fn purge_dead_letters(
        &self,
        topic: &str,
        group: &str,
        offsets: Option<Vec<i64>>,
    ) -> Result<i64, Error> {
        let request = pb::PurgeDeadLettersRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            all: offsets.is_none(),
            dead_letter_offsets: offsets.unwrap_or_default(),
            matching: None,
        };
        Ok(call!(self.purge_dead_letters(request))?.purged_count)
    }

    /// Gives all dead letters up for good that match. Returns how many.
    ///
    /// # Errors
    /// When the group does not exist, or the filter is none.
    pub async fn purge_matching(
        &self,
        topic: &str,
        group: &str,
        matching: pb::DeadLetterMatch,
    ) -> Result<i64, Error> {
        let request = pb::PurgeDeadLettersRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            all: true,
            matching: Some(matching),
            ..pb::PurgeDeadLettersRequest::default()
        };
        Ok(call!(self.purge_dead_letters(request))?.purged_count)
    }

    /// Tries a filter on the newest events of a topic.
    ///
    /// # Errors
    /// When the topic does not exist, or the filter is none.
    pub async fn test_filter(
        &self,
        request: pb::TestFilterRequest,
    ) -> Result<pb::TestFilterResponse, Error> {
        call!(self.test_filter(request.clone()))
    }

    /// How events flow from topic to topic: of one topic and those around it by
    /// declared outputs, or of all.
    ///
    /// # Errors
    /// When there is no such topic.
    pub async fn describe_flow(
        &self,
        topic: Option<&str>,
    ) -> Result<pb::DescribeFlowResponse, Error> {
        let topic = topic.unwrap_or_default().to_owned();
        call!(self.describe_flow(pb::DescribeFlowRequest {
            topic: topic.clone()
        }))
    }

    /// Why an event reached a group or did not, and where it stands there.
    ///
    /// # Errors
    /// When there is no such topic, group, partition or offset.
    pub async fn explain_event(
        &self,
        request: pb::ExplainEventRequest,
    ) -> Result<pb::ExplainEventResponse, Error> {
        call!(self.explain_event(request.clone()))
    }

    /// Copies the broker's data while it goes on, at most so many bytes per second.
    /// `sluice backup` writes what comes into a folder.
    ///
    /// # Errors
    /// When another backup is under way.
    pub async fn backup(&self, bytes_per_second: Option<i64>) -> Result<Backup, Error> {
        let request = pb::BackupRequest {
            bytes_per_second_max: bytes_per_second.unwrap_or_default(),
        };
        Ok(Backup(call!(self.backup(request))?))
    }
}

/// A backup on its way. Dropping it breaks it off.
#[derive(Debug)]
pub struct Backup(tonic::Streaming<pb::BackupResponse>);

impl Backup {
    /// The next part of it; `None` when the broker has closed the stream, which is
    /// in order after [`Ended`](pb::backup_response::Message::Ended) alone.
    ///
    /// # Errors
    /// When the backup was broken off; what has come is then of no use.
    pub async fn next(&mut self) -> Result<Option<pb::backup_response::Message>, Error> {
        while let Some(response) = self.0.message().await? {
            // One without is of a kind that this client does not know.
            if response.message.is_some() {
                return Ok(response.message);
            }
        }
        Ok(None)
    }
}
