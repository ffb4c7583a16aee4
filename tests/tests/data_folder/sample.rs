//! A closed data folder with something of everything, and what can be seen of it.

use std::{path::PathBuf, time::Duration};

use sluice_proto::pb::{
    Channel, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest, Event, GroupConfig,
    Nack, OpenProducerRequest, PartitionDescription, Reject, Settlement, TopicConfig,
    settlement::Action,
};
use sluice_tests::{
    api::{Api, event, keyed_event},
    broker::TestBroker,
    history::Place,
    member::{Member, ack, join},
};
use tempfile::TempDir;
use tonic::Status;

use super::state_hash;

/// Small segments, checkpoints all the time, and nothing that is taken away.
pub(super) const ARGS: &[&str] = &[
    "--limit=segment_bytes=16793600",
    "--limit=event_bytes_max=8388608",
    "--limit=request_bytes_max=15728640",
    "--limit=checkpoint_bytes=16384",
    "--limit=log_checkpoint_bytes=32768",
    "--limit=retention_interval_ms=86400000",
    "--limit=rewrite_below_percent=0",
];

const TOPICS: [&str; 3] = ["t", "b", "_dlq:t:g"];

pub(super) struct Sample {
    folder: TempDir,
    pub(super) seen: Seen,
    pub(super) hash: String,
}

/// What a client sees of a broker's data.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    events: Vec<(Event, Place)>,
    partitions: Vec<PartitionDescription>,
    /// By partition of the group: what is settled, and what is there.
    group: Vec<(i64, i64, i64)>,
    dead_letters: i64,
}

impl Sample {
    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) async fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut broker = TestBroker::start_over(&folder.path().join("data"), ARGS);
        let api = Api::connect(broker.url()).await;
        fill(&api).await;
        let seen = look(&api).await.unwrap();
        assert!(broker.stop().success());
        let mut sample = Self {
            folder,
            seen,
            hash: String::new(),
        };
        sample.hash = state_hash(&sample.data());
        sample
    }
}

async fn fill(api: &Api) {
    api.create_topic("t", 3).await;
    api.create_topic("filler", 1).await;
    let buffered = CreateTopicRequest {
        topic: "b".to_owned(),
        config: Some(TopicConfig {
            channel: Channel::Buffered.into(),
            ..TopicConfig::default()
        }),
    };
    api.admin.clone().create_topic(buffered).await.unwrap();
    api.create_group("t", "g", GroupConfig::default()).await;
    let producer = OpenProducerRequest::default();
    api.broker.clone().open_producer(producer).await.unwrap();
    let batch = |range: std::ops::Range<usize>| -> Vec<Event> {
        let keyed = range.map(|n| keyed_event(&format!("e{n}"), &format!("k{}", n % 17)));
        keyed.collect()
    };
    for n in (0..60).step_by(5) {
        api.publish("t", batch(n..n + 5)).await.unwrap();
        api.publish("b", vec![event(&format!("b{n}"))])
            .await
            .unwrap();
    }
    settle_some(api).await;
    // More than a segment, of which nothing stays.
    for n in 0..3 {
        let large = Event {
            data_content_type: "application/octet-stream".to_owned(),
            data: vec![n; 8_000_000].into(),
            ..event("filler")
        };
        api.publish("filler", vec![large]).await.unwrap();
    }
    let topic = "filler".to_owned();
    let deletion = DeleteTopicRequest { topic };
    api.admin.clone().delete_topic(deletion).await.unwrap();
    for n in (60..100).step_by(2) {
        api.publish("t", batch(n..n + 2)).await.unwrap();
    }
}

/// Acks with gaps, a dead letter, and an event that comes again in a day.
async fn settle_some(api: &Api) {
    let mut member = Member::join(api, join("t", "g", 12)).await.unwrap();
    let mut settlements = Vec::new();
    for n in 0..12 {
        let lease = member.delivery().await.unwrap().lease.unwrap();
        let later = Duration::from_secs(86_000).try_into().unwrap();
        let action = match n {
            3 => Action::Reject(Reject {
                reason: "no".to_owned(),
            }),
            5 | 7 => Action::Nack(Nack {
                delay: Some(later),
                reason: "later".to_owned(),
            }),
            _ => {
                settlements.push(ack(lease));
                continue;
            }
        };
        settlements.push(Settlement {
            lease: Some(lease),
            action: Some(action),
        });
    }
    let failures = member.settle(settlements).await.unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    member.leave().await.unwrap();
}

/// Looks at everything, and reads every event.
pub(super) async fn look(api: &Api) -> Result<Seen, Status> {
    let (mut events, mut partitions) = (Vec::new(), Vec::new());
    for topic in TOPICS {
        events.extend(api.try_read_all(topic).await?);
        let request = DescribeTopicRequest {
            topic: topic.to_owned(),
        };
        let described = api.admin.clone().describe_topic(request).await?;
        partitions.extend(described.into_inner().partitions);
    }
    let group = api.describe_group("t", "g").await;
    let settled = group.partitions.iter();
    Ok(Seen {
        events,
        partitions,
        group: settled
            .map(|p| (p.committed_end, p.visible_end, p.lag))
            .collect(),
        dead_letters: group.dead_letter_count,
    })
}
