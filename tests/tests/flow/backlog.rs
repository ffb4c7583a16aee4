//! A group that has as much to do as it may: who waits, who is refused, and what
//! goes on.

use std::time::Duration;

use sluice_proto::pb::{
    BacklogLimit, BacklogPolicy, GroupConfig, IdleReason, Ordering, PublishBatch, PublishOpen,
    PublishStreamRequest, publish_stream_request::Message as Out,
    publish_stream_response::Message as In,
};
use sluice_tests::{
    api::{Api, Refusal, event, expect},
    broker::TestBroker,
    member::{Member, ack, commit, join},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_types::StatusExt;

use super::{events, events_max, lag, limited, publish_within};

async fn setting(policy: BacklogPolicy, max_events: i64) -> (TestBroker, Api) {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 2).await;
    let config = limited(events_max(policy, max_events));
    api.create_group("in", "workers", config).await;
    (broker, api)
}

/// Acks so many events.
async fn work(member: &mut Member, count: usize) {
    for _ in 0..count {
        let delivery = member.delivery().await.unwrap();
        let lease = delivery.lease.unwrap();
        assert!(member.settle(vec![ack(lease)]).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_wait_until_their_deadline_and_are_told_who_is_in_the_way() {
    let (_broker, api) = setting(BacklogPolicy::Throttle, 100).await;
    // The last one finds room for one, and is taken whole.
    for _ in 0..11 {
        publish_within(&api, "in", events(9), Duration::from_secs(60))
            .await
            .unwrap();
    }
    publish_within(&api, "in", events(9), Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(lag(&api, "in", "workers").await, 108);

    let status = publish_within(&api, "in", events(1), Duration::from_millis(500))
        .await
        .unwrap_err();
    let refusal = Refusal::from(&status);
    assert_eq!(refusal.code, Code::ResourceExhausted, "{status:?}");
    assert_eq!(refusal.reason, "BACKLOG_FULL");
    for part in [
        "topic in is full",
        "group workers",
        "108 of 100 events",
        "nobody works",
    ] {
        assert!(refusal.message.contains(part), "{}", refusal.message);
    }
    let retry = status.get_error_details().retry_info().cloned();
    assert!(retry.is_some_and(|retry| retry.retry_delay.is_some()));

    // One that waits is let in when there is room: at nine tenths, not before.
    let waiting = {
        let api = api.clone();
        tokio::spawn(async move { api.publish("in", events(1)).await })
    };
    let mut member = Member::join(&api, join("in", "workers", 17)).await.unwrap();
    work(&mut member, 17).await;
    let status = publish_within(&api, "in", events(1), Duration::from_millis(300))
        .await
        .unwrap_err();
    let message = Refusal::from(&status).message;
    assert!(message.contains("and works on them"), "{message}");
    assert!(!waiting.is_finished());
    let mut second = Member::join(&api, join("in", "workers", 1)).await.unwrap();
    work(&mut second, 1).await;
    expect("the one that waits", waiting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(lag(&api, "in", "workers").await, 91);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_refuse_at_once() {
    let (_broker, api) = setting(BacklogPolicy::Reject, 10).await;
    api.publish("in", events(10)).await.unwrap();
    let refusal = Refusal::from(&api.publish("in", events(1)).await.unwrap_err());
    assert_eq!(refusal.reason, "BACKLOG_FULL");
    let mut member = Member::join(&api, join("in", "workers", 10)).await.unwrap();
    work(&mut member, 1).await;
    api.publish("in", events(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_a_limit_holds_nobody_up() {
    let (_broker, api) = setting(BacklogPolicy::Ignore, 10).await;
    for _ in 0..5 {
        api.publish("in", events(10)).await.unwrap();
    }
    assert_eq!(lag(&api, "in", "workers").await, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_age_are_limits_as_well() {
    let (_broker, api) = setting(BacklogPolicy::Ignore, 0).await;
    let by_bytes = BacklogLimit {
        policy: BacklogPolicy::Throttle.into(),
        max_bytes: 100_000,
        ..BacklogLimit::default()
    };
    api.create_topic("large", 1).await;
    api.create_group("large", "workers", limited(by_bytes))
        .await;
    let mut large = event("large");
    large.data = vec![b'x'; 30_000].into();
    for _ in 0..4 {
        api.publish("large", vec![large.clone()]).await.unwrap();
    }
    let refused = publish_within(
        &api,
        "large",
        vec![large.clone()],
        Duration::from_millis(500),
    );
    assert_eq!(
        Refusal::from(&refused.await.unwrap_err()).reason,
        "BACKLOG_FULL"
    );
    let waiting = {
        let api = api.clone();
        tokio::spawn(async move { api.publish("large", vec![large]).await })
    };
    let mut member = Member::join(&api, join("large", "workers", 9))
        .await
        .unwrap();
    work(&mut member, 2).await;
    expect("room for bytes", waiting).await.unwrap().unwrap();

    let by_age = BacklogLimit {
        policy: BacklogPolicy::Throttle.into(),
        max_age: Some(prost_types::Duration {
            seconds: 0,
            nanos: 300_000_000,
        }),
        ..BacklogLimit::default()
    };
    api.create_topic("old", 1).await;
    api.create_group("old", "workers", limited(by_age)).await;
    api.publish("old", events(1)).await.unwrap();
    // It grows old.
    loop {
        let published = publish_within(&api, "old", events(1), Duration::from_millis(100)).await;
        match published {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(status) => {
                assert_eq!(Refusal::from(&status).reason, "BACKLOG_FULL");
                break;
            }
        }
    }
    let waiting = {
        let api = api.clone();
        tokio::spawn(async move { api.publish("old", events(1)).await })
    };
    let mut member = Member::join(&api, join("old", "workers", 1000))
        .await
        .unwrap();
    while !waiting.is_finished() {
        tokio::select! {
            delivery = member.delivery() => {
                let lease = delivery.unwrap().lease.unwrap();
                assert!(member.settle(vec![ack(lease)]).await.unwrap().is_empty());
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_drops_is_no_backlog() {
    let (_broker, api) = setting(BacklogPolicy::Ignore, 0).await;
    let config = GroupConfig {
        filter: r#"event.type == "wanted""#.to_owned(),
        ..limited(events_max(BacklogPolicy::Throttle, 50))
    };
    api.create_topic("mixed", 1).await;
    api.create_group("mixed", "some", config).await;
    // Nobody works for the group, and none of these is for it.
    for _ in 0..100 {
        api.publish("mixed", events(30)).await.unwrap();
    }
    let mut wanted = event("wanted");
    "wanted".clone_into(&mut wanted.r#type);
    for _ in 0..50 {
        api.publish("mixed", vec![wanted.clone()]).await.unwrap();
    }
    let refused = publish_within(&api, "mixed", vec![wanted], Duration::from_millis(300));
    assert_eq!(
        Refusal::from(&refused.await.unwrap_err()).reason,
        "BACKLOG_FULL"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_a_stream_wait_and_those_of_other_topics_go_on() {
    let (_broker, api) = setting(BacklogPolicy::Throttle, 10).await;
    api.create_topic("free", 1).await;
    let (requests, outgoing) = mpsc::channel(64);
    let send = async |message| {
        let message = Some(message);
        requests
            .send(PublishStreamRequest { message })
            .await
            .unwrap();
    };
    send(Out::Open(PublishOpen::default())).await;
    let batch = |request_id, topic: &str, count| {
        Out::Batch(PublishBatch {
            request_id,
            topic: topic.to_owned(),
            events: events(count),
            partition: Some(0),
            ..PublishBatch::default()
        })
    };
    send(batch(1, "in", 12)).await;
    let response = api
        .broker
        .clone()
        .publish_stream(ReceiverStream::new(outgoing))
        .await;
    let mut responses = response.unwrap().into_inner();
    let mut next_ack = async || loop {
        let response = expect("a response", responses.message())
            .await
            .unwrap()
            .unwrap();
        match response.message.unwrap() {
            In::Ack(ack) => break (ack.request_id, ack.ranges[0].first_offset),
            In::Refused(refused) => panic!("{refused:?}"),
            In::Opened(_) | In::Credit(_) => {}
        }
    };
    assert_eq!(next_ack().await, (1, 0));
    send(batch(2, "in", 1)).await;
    send(batch(3, "in", 1)).await;
    send(batch(4, "free", 1)).await;
    // The two before it wait.
    assert_eq!(next_ack().await, (4, 0));
    let mut member = Member::join(&api, join("in", "workers", 12)).await.unwrap();
    work(&mut member, 12).await;
    // Acks come in any order; what they are about has kept its own.
    let mut acks = [next_ack().await, next_ack().await];
    acks.sort_unstable();
    assert_eq!(acks, [(2, 12), (3, 13)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_not_fed_while_its_output_is_full() {
    let (_broker, api) = setting(BacklogPolicy::Throttle, 10).await;
    api.create_topic("source", 1).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        output_topics: vec!["in".to_owned(), "source".to_owned()],
        ..GroupConfig::default()
    };
    api.create_group("source", "first", config).await;
    api.publish("source", events(30)).await.unwrap();
    let mut first = Member::join(&api, join("source", "first", 4))
        .await
        .unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(first.delivery().await.unwrap());
    }
    // The topic becomes full while four events are worked on.
    api.publish("in", events(10)).await.unwrap();
    let mut second = Member::join(&api, join("source", "first", 30))
        .await
        .unwrap();
    loop {
        let described = api.describe_group("source", "first").await;
        if described.idle() == IdleReason::DownstreamFull {
            let detail = described.idle_detail;
            assert!(
                detail.contains("topic in is full: group workers"),
                "{detail}"
            );
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(second.delivery_at_hand().is_none());
    // What they have is committed all the same, and that is all that comes.
    for (at, delivery) in held.into_iter().enumerate() {
        let lease = delivery.lease.unwrap();
        let request = commit(
            ("source", "first"),
            lease,
            "in",
            event(&format!("out-{at}")),
        );
        api.broker.clone().commit(request).await.unwrap();
    }
    assert_eq!(lag(&api, "in", "workers").await, 14);
    let described = api.describe_group("source", "first").await;
    assert_eq!(described.idle(), IdleReason::DownstreamFull);
    // Room, and it goes on by itself.
    let mut member = Member::join(&api, join("in", "workers", 20)).await.unwrap();
    work(&mut member, 5).await;
    second.delivery().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_closes_a_cycle_holds_nobody_back() {
    let (_broker, api) = setting(BacklogPolicy::Throttle, 5).await;
    // "in" -> "retries" -> "in", and "in" -> "in".
    api.create_topic("retries", 1).await;
    let config = GroupConfig {
        output_topics: vec!["in".to_owned()],
        ..limited(events_max(BacklogPolicy::Throttle, 5))
    };
    api.create_group("retries", "again", config).await;
    let config = GroupConfig {
        output_topics: vec!["retries".to_owned(), "in".to_owned()],
        ordering: Ordering::None.into(),
        ..GroupConfig::default()
    };
    api.create_group("in", "steps", config).await;
    api.publish("in", events(5)).await.unwrap();
    api.publish("retries", events(5)).await.unwrap();
    // Both topics are full. The edge that was there first holds back, and the one
    // that closes the cycle does not.
    let mut steps = Member::join(&api, join("in", "steps", 1)).await.unwrap();
    steps.delivery().await.unwrap();
    let _again = Member::join(&api, join("retries", "again", 1))
        .await
        .unwrap();
    loop {
        let described = api.describe_group("retries", "again").await;
        if described.idle() == IdleReason::DownstreamFull {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
