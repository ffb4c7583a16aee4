//! A broker of a test's own, with topics of each channel.

use std::{fs, path::Path, time::Duration};

use sluice_proto::pb::{
    Ack, AppendedRange, Channel, CommitRequest, CommitResponse, CreateTopicRequest, Delivery,
    DescribeTopicRequest, GroupConfig, Nack, Ordering, PartitionDescription, PullRequest,
    ReadEvent, ReadRequest, ReadStart, Reject, RetryPolicy, SettleRequest, Settlement, TopicConfig,
    read_start::At, settlement::Action,
};
use sluice_tests::{
    api::{Api, Refusal, event, expect},
    broker::TestBroker,
};
use tonic::Status;

pub(crate) struct Place {
    pub(crate) broker: TestBroker,
    pub(crate) api: Api,
}

impl Place {
    pub(crate) async fn start(args: &[&str]) -> Self {
        let broker = TestBroker::start_with(args);
        let api = Api::connect(broker.url()).await;
        Self { broker, api }
    }

    /// Kills the broker (SIGKILL) and starts it over the same data.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.broker.restart();
        self.api = Api::connect(self.broker.url()).await;
    }

    /// Makes a topic of one partition.
    pub(crate) async fn topic(&self, topic: &str, channel: Channel) {
        self.try_topic(topic, channel).await.unwrap();
    }

    pub(crate) async fn try_topic(&self, topic: &str, channel: Channel) -> Result<bool, Refusal> {
        let request = CreateTopicRequest {
            topic: topic.to_owned(),
            config: Some(TopicConfig {
                channel: channel.into(),
                ..TopicConfig::default()
            }),
        };
        let answer = self.api.admin.clone().create_topic(request).await;
        let answer = answer.map_err(|status| Refusal::from(&status))?;
        Ok(answer.into_inner().created)
    }

    /// A group that tries again at once, and a second time only.
    pub(crate) async fn group(&self, topic: &str, group: &str) {
        let config = GroupConfig {
            ordering: Ordering::None.into(),
            retry: Some(RetryPolicy {
                max_attempts: 2,
                initial_delay: Some(prost_types::Duration::default()),
                ..RetryPolicy::default()
            }),
            ..GroupConfig::default()
        };
        self.api.create_group(topic, group, config).await;
    }

    /// Publishes one event.
    pub(crate) async fn publish(&self, topic: &str, id: &str) -> AppendedRange {
        let mut ranges = self.api.publish(topic, vec![event(id)]).await.unwrap();
        assert_eq!(ranges.len(), 1);
        ranges.remove(0)
    }

    pub(crate) async fn partition(&self, topic: &str) -> PartitionDescription {
        let topic = topic.to_owned();
        let request = DescribeTopicRequest { topic };
        let answer = self.api.admin.clone().describe_topic(request).await;
        answer.unwrap().into_inner().partitions[0]
    }

    /// Reads from a position to the end.
    pub(crate) async fn read_from(
        &self,
        topic: &str,
        offset: i64,
        epoch: i64,
    ) -> Result<Vec<ReadEvent>, Refusal> {
        let request = ReadRequest {
            topic: topic.to_owned(),
            start: Some(ReadStart {
                at: Some(At::Offset(offset)),
                epoch,
            }),
            ..ReadRequest::default()
        };
        let refusal = |status: Status| Refusal::from(&status);
        let answer = self.api.broker.clone().read(request).await;
        let mut stream = answer.map_err(refusal)?.into_inner();
        let mut events = Vec::new();
        while let Some(page) = expect("a page", stream.message()).await.map_err(refusal)? {
            events.extend(page.events);
        }
        Ok(events)
    }

    /// Takes one event that must come.
    pub(crate) async fn pull(&self, topic: &str, group: &str) -> Delivery {
        let mut deliveries = self
            .pull_within(topic, group, Duration::from_secs(30))
            .await;
        assert_eq!(deliveries.len(), 1, "nothing came");
        deliveries.remove(0)
    }

    /// Takes one event, if one comes in time.
    pub(crate) async fn pull_within(
        &self,
        topic: &str,
        group: &str,
        wait: Duration,
    ) -> Vec<Delivery> {
        let request = PullRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            wait: Some(wait.try_into().unwrap()),
            ..PullRequest::default()
        };
        let answer = self.api.broker.clone().pull(request).await;
        answer.unwrap().into_inner().deliveries
    }

    pub(crate) async fn settle(&self, topic: &str, group: &str, of: &Delivery, action: Action) {
        self.try_settle(topic, group, of, action).await.unwrap();
    }

    pub(crate) async fn try_settle(
        &self,
        topic: &str,
        group: &str,
        of: &Delivery,
        action: Action,
    ) -> Result<(), Refusal> {
        let request = SettleRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            settlements: vec![Settlement {
                lease: of.lease,
                action: Some(action),
            }],
        };
        let answer = self.api.broker.clone().settle(request).await;
        let failures = answer.unwrap().into_inner().failures;
        match failures.first() {
            None => Ok(()),
            Some(failure) => Err(Refusal::from(failure.error.as_ref().unwrap())),
        }
    }

    pub(crate) async fn commit(&self, request: CommitRequest) -> Result<CommitResponse, Refusal> {
        let answer = self.api.broker.clone().commit(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| Refusal::from(&status))
    }

    /// Whether any file of the broker has these bytes in it.
    pub(crate) fn is_on_disk(&self, what: &str) -> bool {
        fn look(dir: &Path, what: &[u8]) -> bool {
            fs::read_dir(dir).unwrap().any(|entry| {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    return look(&path, what);
                }
                let bytes = fs::read(&path).unwrap();
                let first = what[0];
                let mut found = bytes.iter().enumerate().filter(|(_, byte)| **byte == first);
                found.any(|(at, _)| bytes[at..].starts_with(what))
            })
        }
        look(&self.broker.data_dir(), what.as_bytes())
    }
}

pub(crate) fn ack() -> Action {
    Action::Ack(Ack {})
}

pub(crate) fn nack() -> Action {
    Action::Nack(Nack::default())
}

pub(crate) fn reject() -> Action {
    Action::Reject(Reject {
        reason: "no good".to_owned(),
    })
}

pub(crate) fn ids(events: &[ReadEvent]) -> Vec<&str> {
    let events = events.iter();
    events
        .map(|read| read.event.as_ref().unwrap().id.as_str())
        .collect()
}
