//! A group says how it stands, and why nothing is delivered.

use std::time::Duration;

use sluice_proto::pb::{
    Extend, GroupConfig, IdleReason, Nack, PauseGroupRequest, Reject, settlement::Action,
};
use sluice_tests::{
    api::{Api, event, keyed_event},
    broker::TestBroker,
};

use crate::setting::{GROUP, TOPIC, ack, describe, make, pull, settle, take};

fn nack(delay_ms: u64) -> Action {
    Action::Nack(Nack {
        delay: Some(Duration::from_millis(delay_ms).try_into().unwrap()),
        reason: String::new(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_says_where_every_event_stands() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    let config = GroupConfig {
        filter: r#"event.type == "test.happened""#.to_owned(),
        ..GroupConfig::default()
    };
    make(&api, config).await;
    assert_eq!(describe(&api).await.idle(), IdleReason::Empty);

    let mut unwanted = event("u");
    unwanted.r#type = "other".to_owned();
    let events = vec![
        keyed_event("worked-on", "a"),
        keyed_event("behind-it", "a"),
        keyed_event("delayed", "b"),
        keyed_event("parked", "c"),
        keyed_event("behind-the-parked", "c"),
        keyed_event("dead", "d"),
        keyed_event("ready", "e"),
        unwanted,
    ];
    api.publish(TOPIC, events).await.unwrap();
    let taken = take(&api, 5).await;
    let of = |name: &str| {
        let of = taken
            .iter()
            .find(|of| of.event.as_ref().unwrap().id == name);
        of.unwrap()
    };
    let progress = Action::Extend(Extend {
        percent: Some(40),
        note: "page 3 of 8".to_owned(),
    });
    for (name, action) in [
        ("worked-on", progress),
        ("delayed", nack(50_000)),
        ("parked", nack(3_600_000)),
        ("dead", Action::Reject(Reject::default())),
        // As nobody asks for it, it is ready afterwards.
        ("ready", nack(0)),
    ] {
        let failures = settle(&api, &[of(name)], action).await;
        assert!(failures.is_empty(), "{name}: {failures:?}");
    }

    let described = loop {
        let described = describe(&api).await;
        if described.counts.unwrap().parked == 2 {
            break described;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let counts = described.counts.unwrap();
    let seen = (counts.in_flight, counts.key_locked, counts.delayed);
    assert_eq!(seen, (1, 1, 1), "{counts:?}");
    let seen = (counts.parked, counts.ready, counts.suspect, counts.held);
    assert_eq!(seen, (2, 1, 0, 0), "{counts:?}");
    let partition = &described.partitions[0];
    assert_eq!(partition.counts, Some(counts));
    assert_eq!(partition.filtered_count, 1);
    assert_eq!(partition.dead_lettered_count, 1);
    assert_eq!(described.dead_letter_count, 1);
    assert_eq!(partition.lag, 4, "neither parked nor dead nor filtered");
    assert_eq!(described.idle(), IdleReason::NoCredit);
    assert_eq!(partition.idle(), IdleReason::NoCredit);

    let [worked_on] = &described.in_flight_events[..] else {
        panic!("{:?}", described.in_flight_events);
    };
    assert_eq!((worked_on.partition, worked_on.offset), (0, 0));
    assert_eq!(worked_on.attempt, 1);
    assert_eq!(worked_on.progress_percent, Some(40));
    assert_eq!(worked_on.progress_note, "page 3 of 8");
    assert!(worked_on.since.is_some());
    assert!(!worked_on.redriven);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_word_says_why_nothing_comes() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    let config = GroupConfig {
        filter: r#"event.type == "test.happened""#.to_owned(),
        max_in_flight: 1,
        ..GroupConfig::default()
    };
    make(&api, config).await;
    let mut unwanted = event("u");
    unwanted.r#type = "other".to_owned();
    let words = async || {
        let described = describe(&api).await;
        (described.idle(), described.partitions[0].idle())
    };
    let both = |reason| (reason, reason);
    assert_eq!(words().await, both(IdleReason::Empty));

    api.publish(TOPIC, vec![unwanted]).await.unwrap();
    while describe(&api).await.partitions[0].filtered_count == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(words().await, both(IdleReason::Filtered));
    // Whoever asks for events hears the same as ever.
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::Empty);

    let events = ["a1", "a2"].map(|id| keyed_event(id, "a"));
    api.publish(TOPIC, events.into()).await.unwrap();
    let taken = take(&api, 1).await;
    assert_eq!(words().await, both(IdleReason::InFlightCap));
    assert!(settle(&api, &[&taken[0]], nack(50_000)).await.is_empty());
    assert_eq!(words().await, both(IdleReason::KeyLocked));
    let request = PauseGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
    };
    api.admin.clone().pause_group(request).await.unwrap();
    assert_eq!(words().await, both(IdleReason::Paused));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_is_not_called_filtered() {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    make(&api, GroupConfig::default()).await;
    api.publish(TOPIC, vec![event("a")]).await.unwrap();
    let taken = take(&api, 1).await;
    ack(&api, &[&taken[0]]).await;
    let described = describe(&api).await;
    assert_eq!(described.idle(), IdleReason::Empty);
    assert_eq!(described.partitions[0].idle(), IdleReason::Empty);
}
