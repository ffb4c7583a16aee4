//! The API as any client has it, with what tests do over and over.

use std::{collections::HashMap, future::Future, time::Duration};

use sluice_proto::{
    partition_of_key,
    pb::{
        AppendedRange, CreateGroupRequest, CreateTopicRequest, DescribeGroupRequest,
        DescribeGroupResponse, DescribeTopicRequest, ErrorReason, Event, GroupConfig,
        PublishRequest, ReadRequest, TopicConfig, admin_service_client::AdminServiceClient,
        broker_service_client::BrokerServiceClient,
    },
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use crate::history::Place;

/// Far longer than any answer takes: what is not there by then never comes.
const HANGS: Duration = Duration::from_secs(60);

/// Waits for something that comes unless the broker hangs.
///
/// # Panics
/// When it does not come.
pub async fn expect<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(HANGS, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {HANGS:?} for {what}"),
    }
}

/// Both services of a broker, over one connection.
#[derive(Clone, Debug)]
pub struct Api {
    /// Publish, consume, commit, read.
    pub broker: BrokerServiceClient<Channel>,
    /// Topics, groups, dead letters.
    pub admin: AdminServiceClient<Channel>,
    /// The connection.
    pub channel: Channel,
}

impl Api {
    /// Connects to a broker that runs.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url)
            .await
            .expect("the broker can be reached")
    }

    /// Connects to a broker that may be dead.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn try_connect(url: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(url.to_owned())?
            .tcp_nodelay(true)
            .connect_timeout(HANGS);
        let channel = endpoint.connect().await?;
        Ok(Self {
            broker: BrokerServiceClient::new(channel.clone()),
            admin: AdminServiceClient::new(channel.clone()),
            channel,
        })
    }

    /// Creates a topic.
    ///
    /// # Panics
    /// When the broker does not.
    pub async fn create_topic(&self, topic: &str, partitions: i32) {
        let request = CreateTopicRequest {
            topic: topic.to_owned(),
            config: Some(TopicConfig {
                partitions,
                ..TopicConfig::default()
            }),
        };
        let created = self.admin.clone().create_topic(request).await;
        created.expect("the topic can be created");
    }

    /// Creates a group.
    ///
    /// # Panics
    /// When the broker does not.
    pub async fn create_group(&self, topic: &str, group: &str, config: GroupConfig) {
        let request = CreateGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            config: Some(config),
        };
        let created = self.admin.clone().create_group(request).await;
        created.expect("the group can be created");
    }

    /// Publishes events in one request.
    ///
    /// # Errors
    /// What the broker answers.
    pub async fn publish(
        &self,
        topic: &str,
        events: Vec<Event>,
    ) -> Result<Vec<AppendedRange>, Status> {
        let request = PublishRequest {
            topic: topic.to_owned(),
            events,
            partition: None,
            producer: None,
        };
        let response = self.broker.clone().publish(request).await?;
        Ok(response.into_inner().ranges)
    }

    /// Every event of a topic, from the beginning, in order in each partition.
    ///
    /// # Panics
    /// When the broker does not give it.
    pub async fn read_all(&self, topic: &str) -> Vec<(Event, Place)> {
        let all = self.try_read_all(topic).await;
        all.expect("a topic can be read to its end")
    }

    /// As [`Api::read_all`], of a broker that may say no.
    ///
    /// # Errors
    /// What the broker answers.
    pub async fn try_read_all(&self, topic: &str) -> Result<Vec<(Event, Place)>, Status> {
        let request = ReadRequest {
            topic: topic.to_owned(),
            ..ReadRequest::default()
        };
        let mut stream = self.broker.clone().read(request).await?.into_inner();
        let mut all = Vec::new();
        loop {
            let page = expect("the next page of a read", stream.message()).await?;
            let Some(page) = page else {
                return Ok(all);
            };
            for read in page.events {
                let place = Place {
                    topic: topic.to_owned(),
                    partition: read.partition,
                    offset: read.offset,
                };
                all.push((read.event.expect("a read gives events"), place));
            }
        }
    }

    /// Ids of the events of a topic, sorted.
    pub async fn ids(&self, topic: &str) -> Vec<String> {
        let all = self.read_all(topic).await;
        let mut ids: Vec<_> = all.into_iter().map(|(event, _)| event.id).collect();
        ids.sort();
        ids
    }

    /// How a group stands.
    ///
    /// # Panics
    /// When the broker does not say.
    pub async fn describe_group(&self, topic: &str, group: &str) -> DescribeGroupResponse {
        let request = DescribeGroupRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            ..Default::default()
        };
        let response = self.admin.clone().describe_group(request).await;
        response.expect("the group can be described").into_inner()
    }

    /// Waits until a group has settled everything in its topic.
    ///
    /// # Panics
    /// When it makes no progress any more.
    pub async fn wait_until_caught_up(&self, topic: &str, group: &str) {
        let mut last = (i64::MAX, tokio::time::Instant::now());
        loop {
            let description = self.describe_group(topic, group).await;
            let lag: i64 = description.partitions.iter().map(|p| p.lag).sum();
            if lag == 0 {
                return;
            }
            if lag != last.0 {
                last = (lag, tokio::time::Instant::now());
            }
            let stuck = last.1.elapsed() > HANGS;
            assert!(!stuck, "{group} is stuck: {description:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The number of partitions of a topic.
    ///
    /// # Panics
    /// When the broker does not say.
    pub async fn partitions(&self, topic: &str) -> u32 {
        let request = DescribeTopicRequest {
            topic: topic.to_owned(),
        };
        let response = self.admin.clone().describe_topic(request).await;
        let partitions = response
            .expect("the topic can be described")
            .into_inner()
            .partitions;
        u32::try_from(partitions.len()).expect("a topic has few partitions")
    }
}

/// A small valid event.
#[must_use]
pub fn event(id: &str) -> Event {
    Event {
        id: id.to_owned(),
        source: "/tests".to_owned(),
        r#type: "test.happened".to_owned(),
        data_content_type: "application/json".to_owned(),
        data: r#"{"n":1}"#.into(),
        ..Event::default()
    }
}

/// A small valid event with a key.
#[must_use]
pub fn keyed_event(id: &str, key: &str) -> Event {
    let attributes = HashMap::from([("partitionkey".to_owned(), key.to_owned())]);
    Event {
        attributes: attributes.into_iter().collect(),
        ..event(id)
    }
}

/// The key of an event.
#[must_use]
pub fn key_of(event: &Event) -> Option<&str> {
    event.attributes.get("partitionkey").map(String::as_str)
}

/// Where each event of a request went, by the ranges of the answer: those of one
/// partition in the order of the request.
///
/// # Panics
/// When the events have no keys and went to several partitions, or the ranges
/// are not those of the events.
#[must_use]
pub fn places(events: &[Event], partitions: u32, ranges: &[AppendedRange]) -> Vec<Place> {
    let mut taken: HashMap<i32, i64> = HashMap::new();
    let places = events.iter().map(|event| {
        let range = match key_of(event) {
            Some(key) => {
                let partition = partition_of_key(key, partitions);
                let of =
                    |range: &&AppendedRange| i64::from(range.partition) == i64::from(partition.0);
                ranges.iter().find(of)
            }
            None => Some(&ranges[0]).filter(|_| ranges.len() == 1),
        };
        let range = range.expect("each event is in one of the ranges");
        let before = taken.entry(range.partition).or_insert(0);
        let offset = range.first_offset + *before;
        *before += 1;
        Place {
            topic: range.topic.clone(),
            partition: range.partition,
            offset,
        }
    });
    let places = places.collect();
    for range in ranges {
        let count = taken.get(&range.partition).copied();
        assert_eq!(count, Some(i64::from(range.count)), "{range:?}");
    }
    places
}

/// How the broker said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// Name of the `ErrorReason`, without its prefix; empty when there is none.
    pub reason: String,
    /// The field that is at fault.
    pub field: Option<String>,
    /// For people.
    pub message: String,
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let violations = details.bad_request().map(|bad| &bad.field_violations[..]);
        Self {
            code: status.code(),
            reason: details
                .error_info()
                .map_or(String::new(), |info| info.reason.clone()),
            field: violations
                .and_then(<[_]>::first)
                .map(|violation| violation.field.clone()),
            message: status.message().to_owned(),
        }
    }
}

impl From<&sluice_proto::pb::Error> for Refusal {
    fn from(error: &sluice_proto::pb::Error) -> Self {
        let reason = ErrorReason::try_from(error.reason).unwrap_or_default();
        Self {
            code: Code::from(error.code),
            reason: reason
                .as_str_name()
                .trim_start_matches("ERROR_REASON_")
                .to_owned(),
            field: Some(error.field.clone()).filter(|field| !field.is_empty()),
            message: error.message.clone(),
        }
    }
}

/// Whether a call's outcome is unknown: it may be tried again, and may have
/// happened.
#[must_use]
pub fn is_unknown(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::Unknown
    )
}
