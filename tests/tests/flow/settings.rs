//! Backlog limits and outputs as settings: given, changed, kept, refused.

use sluice_proto::pb::{
    BacklogLimit, BacklogPolicy, CreateGroupRequest, GroupConfig, UpdateGroupRequest,
};
use sluice_tests::{
    api::{Api, Refusal},
    broker::TestBroker,
};
use std::time::Duration;

use super::{events, events_max, limited, publish_within};

async fn update(api: &Api, config: GroupConfig, path: &str) {
    let request = UpdateGroupRequest {
        topic: "in".to_owned(),
        group: "workers".to_owned(),
        config: Some(config),
        update_mask: Some(prost_types::FieldMask {
            paths: vec![path.to_owned()],
        }),
        filter_from: None,
    };
    api.admin.clone().update_group(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_can_be_changed_and_survives_a_kill() {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    api.create_topic("out", 1).await;
    let config = GroupConfig {
        output_topics: vec!["out".to_owned()],
        ..limited(events_max(BacklogPolicy::Throttle, 10))
    };
    api.create_group("in", "workers", config).await;
    api.publish("in", events(10)).await.unwrap();
    let waiting = {
        let api = api.clone();
        tokio::spawn(async move { api.publish("in", events(1)).await })
    };
    let refused = publish_within(&api, "in", events(1), Duration::from_millis(300)).await;
    assert_eq!(Refusal::from(&refused.unwrap_err()).reason, "BACKLOG_FULL");
    // A higher limit lets those in that wait.
    let more = limited(events_max(BacklogPolicy::Throttle, 20));
    update(&api, more, "backlog").await;
    waiting.await.unwrap().unwrap();
    api.publish("in", events(9)).await.unwrap();

    broker.restart();
    let api = Api::connect(broker.url()).await;
    let config = api.describe_group("in", "workers").await.config.unwrap();
    let backlog = config.backlog.unwrap();
    assert_eq!(
        (backlog.policy(), backlog.max_events),
        (BacklogPolicy::Throttle, 20)
    );
    assert_eq!(config.output_topics, ["out"]);
    let refused = publish_within(&api, "in", events(1), Duration::from_millis(300)).await;
    assert_eq!(Refusal::from(&refused.unwrap_err()).reason, "BACKLOG_FULL");
    // Without one, nothing waits.
    update(&api, GroupConfig::default(), "backlog").await;
    api.publish("in", events(50)).await.unwrap();
    update(&api, GroupConfig::default(), "output_topics").await;
    let config = api.describe_group("in", "workers").await.config.unwrap();
    assert!(config.output_topics.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_cannot_be_is_refused_with_its_field() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let throttle = BacklogPolicy::Throttle.into();
    let limit = |limit: BacklogLimit| limited(limit);
    let outputs = |outputs: &[&str]| GroupConfig {
        output_topics: outputs.iter().map(|name| (*name).to_owned()).collect(),
        ..GroupConfig::default()
    };
    let cases = [
        (
            limit(BacklogLimit {
                max_events: 5,
                ..BacklogLimit::default()
            }),
            "config.backlog.policy",
        ),
        (
            limit(BacklogLimit {
                policy: 99,
                ..BacklogLimit::default()
            }),
            "config.backlog.policy",
        ),
        (
            limit(BacklogLimit {
                policy: throttle,
                ..BacklogLimit::default()
            }),
            "config.backlog",
        ),
        (
            limit(events_max(BacklogPolicy::Reject, -1)),
            "config.backlog.max_events",
        ),
        (
            limit(events_max(BacklogPolicy::Reject, i64::MAX)),
            "config.backlog.max_events",
        ),
        (
            limit(BacklogLimit {
                policy: throttle,
                max_bytes: -5,
                ..BacklogLimit::default()
            }),
            "config.backlog.max_bytes",
        ),
        (
            limit(BacklogLimit {
                policy: throttle,
                max_age: Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 1,
                }),
                ..BacklogLimit::default()
            }),
            "config.backlog.max_age",
        ),
        (outputs(&["in", "absent"]), "config.output_topics[1]"),
        (outputs(&["in", "in"]), "config.output_topics[1]"),
        (outputs(&["_dlq:in:x"]), "config.output_topics[0]"),
        (outputs(&["in"; 101]), "config.output_topics"),
    ];
    for (config, field) in cases {
        let request = CreateGroupRequest {
            topic: "in".to_owned(),
            group: "workers".to_owned(),
            config: Some(config),
        };
        let refused = api.admin.clone().create_group(request).await.unwrap_err();
        assert_eq!(
            Refusal::from(&refused).field.as_deref(),
            Some(field),
            "{refused:?}"
        );
    }
}
