//! What the API says to help a client along: why nothing comes, what an error
//! was, what is there already.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use sluice_proto::pb::{
    CreateGroupRequest, CreateTopicRequest, DescribeTopicRequest, GroupConfig, IdleReason, Nack,
    PullRequest, SettleRequest, Settlement, TopicConfig, settlement::Action,
};
use sluice_tests::{
    api::{Api, event, expect},
    broker::TestBroker,
    member::{Member, join},
};
use tonic::Code;

fn pull() -> PullRequest {
    PullRequest {
        topic: "in".into(),
        group: "workers".into(),
        ..PullRequest::default()
    }
}

/// An event that is larger than a message may be stays where it is, and whoever
/// asks is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_fits_nobodys_message_waits_for_somebody_who_takes_it() {
    let broker = TestBroker::start();
    let mut api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    api.create_group("in", "workers", GroupConfig::default())
        .await;
    let mut large = event("large");
    large.data = vec![1; 500_000].into();
    api.publish("in", vec![large]).await.unwrap();

    let mut small = join("in", "workers", 10);
    small.max_message_bytes = 64 << 10;
    let member = Member::join(&api, small).await.unwrap();
    expect("the reason", async {
        while api.describe_group("in", "workers").await.idle() != IdleReason::TooLarge {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let small_pull = PullRequest {
        max_message_bytes: 64 << 10,
        ..pull()
    };
    let nothing = api.broker.pull(small_pull).await.unwrap().into_inner();
    assert!(nothing.deliveries.is_empty());
    assert_eq!(nothing.idle(), IdleReason::TooLarge);

    // A small event behind it is not held up.
    api.publish("in", vec![event("small")]).await.unwrap();
    let mut member = member;
    let delivery = member.delivery().await.unwrap();
    assert_eq!(delivery.event.unwrap().id, "small");

    let whole = api.broker.pull(pull()).await.unwrap().into_inner();
    assert_eq!(whole.deliveries.len(), 1);
    assert_eq!(whole.deliveries[0].event.as_ref().unwrap().id, "large");
    assert_eq!(whole.extend_interval.unwrap().seconds, 10);
}

/// More events than are looked at in one turn fit nobody, and nothing happens to the
/// group meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn many_that_fit_nobodys_message_do_not_hold_up_what_is_behind_them() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    api.create_group("in", "workers", GroupConfig::default())
        .await;
    for number in 0..200 {
        let mut large = event(&format!("large-{number}"));
        large.data = vec![1; 100_000].into();
        api.publish("in", vec![large]).await.unwrap();
    }
    api.publish("in", vec![event("small")]).await.unwrap();
    let mut small = join("in", "workers", 10);
    small.max_message_bytes = 64 << 10;
    let mut member = Member::join(&api, small).await.unwrap();
    let delivery = expect("the small event", member.delivery()).await.unwrap();
    assert_eq!(delivery.event.unwrap().id, "small");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_their_reason_in_trailers_too() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let mut nameless = event("e");
    nameless.source.clear();
    let refused = api.publish("in", vec![nameless]).await.unwrap_err();
    let trailer = |name| refused.metadata().get(name).and_then(|v| v.to_str().ok());
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(trailer("sluice-reason"), Some("INVALID_FIELD"));
    assert_eq!(trailer("sluice-field"), Some("events[0].source"));
    assert_eq!(trailer("grpc-retry-pushback-ms"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_is_too_long_is_cut_and_its_settlement_counts() {
    let broker = TestBroker::start();
    let mut api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    let once = GroupConfig {
        retry: Some(sluice_proto::pb::RetryPolicy {
            max_attempts: 1,
            ..Default::default()
        }),
        ..GroupConfig::default()
    };
    api.create_group("in", "workers", once).await;
    api.publish("in", vec![event("e")]).await.unwrap();
    let pulled = api.broker.pull(pull()).await.unwrap().into_inner();
    let settlement = Settlement {
        lease: pulled.deliveries[0].lease,
        action: Some(Action::Nack(Nack {
            delay: None,
            // The limit lies within a character.
            reason: format!("x{}", "ü".repeat(2000)),
        })),
    };
    let settle = SettleRequest {
        topic: "in".into(),
        group: "workers".into(),
        settlements: vec![settlement],
    };
    let settled = api.broker.settle(settle).await.unwrap().into_inner();
    assert!(settled.failures.is_empty(), "{settled:?}");
    let letters = api.read_all("_dlq:in:workers").await;
    assert_eq!(letters.len(), 1);
    let listed = api
        .admin
        .list_dead_letters(sluice_proto::pb::ListDeadLettersRequest {
            topic: "in".into(),
            group: "workers".into(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    let reason = &listed.dead_letters[0].history.as_ref().unwrap().reason;
    assert_eq!(*reason, format!("x{}", "ü".repeat(511)));
}

/// A worker that wants a topic and a group to be there, however they are.
#[tokio::test(flavor = "multi_thread")]
async fn creating_without_a_configuration_takes_what_is_there() {
    let broker = TestBroker::start();
    let mut api = Api::connect(broker.url()).await;
    api.create_topic("in", 4).await;
    let config = GroupConfig {
        filter: "event.type == 'a'".into(),
        ..GroupConfig::default()
    };
    api.create_group("in", "workers", config).await;
    let topic = |config| CreateTopicRequest {
        topic: "in".into(),
        config,
    };
    let group = |config| CreateGroupRequest {
        topic: "in".into(),
        group: "workers".into(),
        config,
    };
    let there = api.admin.create_topic(topic(None)).await.unwrap();
    assert!(!there.into_inner().created);
    let there = api.admin.create_group(group(None)).await.unwrap();
    assert!(!there.into_inner().created);
    let other = TopicConfig {
        partitions: 1,
        ..TopicConfig::default()
    };
    let refused = api.admin.create_topic(topic(Some(other))).await;
    assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);
    let other = GroupConfig::default();
    let refused = api.admin.create_group(group(Some(other))).await;
    assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);

    let fresh = CreateTopicRequest {
        topic: "fresh".into(),
        config: None,
    };
    assert!(
        api.admin
            .create_topic(fresh)
            .await
            .unwrap()
            .into_inner()
            .created
    );
    let described = api
        .admin
        .describe_topic(DescribeTopicRequest {
            topic: "fresh".into(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(described.config.unwrap().partitions, 1);
}
