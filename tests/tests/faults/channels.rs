//! What is written, and what is synced, before anybody is answered: by channel, and for
//! each combination of channels in a Commit. The broker tells each operation of its
//! log's disk.

use sluice_proto::pb::{
    Channel, CommitOutput, CommitRequest, CreateTopicRequest, Delivery, GroupConfig, PullRequest,
    SettleRequest, TopicConfig,
};
use sluice_tests::{
    api::{Api, event},
    broker::TestBroker,
    member::{ack, commit},
};
use tokio::task::block_in_place;

use super::disk::operations;

/// Nothing is synced but for whom it is waited for, and nothing is written by the way.
const ARGS: &[&str] = &[
    "--log-writer=buffered",
    "--limit=buffered_sync_ms=60000",
    "--limit=retention_interval_ms=86400000",
];

const CHANNELS: [(&str, Channel); 3] = [
    ("f", Channel::Fsync),
    ("b", Channel::Buffered),
    ("m", Channel::Memory),
];

/// What is asked of the log's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    written: bool,
    synced: bool,
}

impl Asked {
    /// What a change has to that concerns topics of these channels.
    fn by(topics: &[&str]) -> Self {
        let synced = topics.contains(&"f");
        Self {
            written: synced || topics.contains(&"b"),
            synced,
        }
    }
}

struct Disk {
    broker: TestBroker,
    api: Api,
    seen: usize,
}

impl Disk {
    async fn start() -> Self {
        let mut broker = block_in_place(|| TestBroker::start_with_fault_points(ARGS));
        // It tells them when one of them is to fail, which this one does not live to see.
        broker.set_fault("SLUICE_FAULT_DISK", "4000000000");
        block_in_place(|| broker.restart());
        let api = Api::connect(broker.url()).await;
        for (name, channel) in CHANNELS {
            let request = CreateTopicRequest {
                topic: name.to_owned(),
                config: Some(TopicConfig {
                    channel: channel.into(),
                    ..TopicConfig::default()
                }),
            };
            api.admin.clone().create_topic(request).await.unwrap();
            api.create_group(name, "g", GroupConfig::default()).await;
        }
        Self {
            broker,
            api,
            seen: 0,
        }
    }

    /// What was asked of it since this was looked at last.
    fn asked(&mut self) -> Asked {
        let all = operations(&self.broker.log());
        let new = &all[self.seen..];
        self.seen = all.len();
        let any = |what: &str| new.iter().any(|(_, operation, _)| operation == what);
        Asked {
            written: any("write"),
            synced: any("sync"),
        }
    }

    async fn pull(&self, topic: &str) -> Delivery {
        let request = PullRequest {
            topic: topic.to_owned(),
            group: "g".to_owned(),
            wait: Some(prost_types::Duration {
                seconds: 30,
                nanos: 0,
            }),
            ..PullRequest::default()
        };
        let answer = self.api.broker.clone().pull(request).await.unwrap();
        let mut deliveries = answer.into_inner().deliveries;
        deliveries.pop().expect("an event comes")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_means_what_its_channel_says() {
    let mut disk = Disk::start().await;
    for (topic, _) in CHANNELS {
        disk.asked();
        disk.api.publish(topic, vec![event("e")]).await.unwrap();
        assert_eq!(disk.asked(), Asked::by(&[topic]), "published to {topic}");
        let delivery = disk.pull(topic).await;
        let request = SettleRequest {
            topic: topic.to_owned(),
            group: "g".to_owned(),
            settlements: vec![ack(delivery.lease.unwrap())],
        };
        let answer = disk.api.broker.clone().settle(request).await.unwrap();
        assert_eq!(answer.into_inner().failures, []);
        assert_eq!(disk.asked(), Asked::by(&[topic]), "settled in {topic}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_as_safe_as_the_safest_channel_that_it_combines() {
    let mut disk = Disk::start().await;
    let mut combinations = 0;
    for input in [None, Some("f"), Some("b"), Some("m")] {
        for chosen in 1..8 {
            let chosen = (0..3).filter(|at| chosen >> at & 1 == 1);
            let outputs: Vec<&str> = chosen.map(|at| CHANNELS[at].0).collect();
            let id = format!("{input:?}-{outputs:?}");
            let mut request = CommitRequest::default();
            if let Some(topic) = input {
                // An event of its own: what was put out before is taken away.
                disk.api.publish(topic, vec![event(&id)]).await.unwrap();
                let lease = loop {
                    let delivery = disk.pull(topic).await;
                    let lease = delivery.lease.unwrap();
                    if delivery.event.unwrap().id == id {
                        break lease;
                    }
                    let settled = SettleRequest {
                        topic: topic.to_owned(),
                        group: "g".to_owned(),
                        settlements: vec![ack(lease)],
                    };
                    disk.api.broker.clone().settle(settled).await.unwrap();
                };
                request = commit((topic, "g"), lease, topic, event("replaced"));
            }
            let output = |topic: &&str| CommitOutput {
                topic: (*topic).to_owned(),
                events: vec![event(&format!("out-{id}"))],
                partition: None,
            };
            request.outputs = outputs.iter().map(output).collect();
            if outputs.contains(&"m") {
                let refused = disk.api.broker.clone().commit(request.clone()).await;
                assert!(refused.is_err(), "{id}: a memory output must be allowed");
                request.allow_volatile = true;
            }
            disk.asked();
            disk.api.broker.clone().commit(request).await.unwrap();
            let combined: Vec<&str> = input.into_iter().chain(outputs.clone()).collect();
            assert_eq!(disk.asked(), Asked::by(&combined), "{id}");
            // What was answered can be read, wherever it went.
            for topic in outputs {
                let ids = disk.api.ids(topic).await;
                let there = ids.iter().filter(|of| **of == format!("out-{id}")).count();
                assert_eq!(there, 1, "{id} in {topic}");
            }
            combinations += 1;
        }
    }
    assert_eq!(combinations, 28);
}
