//! A group says how it stands, and why nothing is delivered.

use std::time::Duration;

use sluice_proto::pb::{
    Extend, GroupConfig, IdleReason, Nack, Ordering, PauseGroupRequest, Reject, settlement::Action,
};
use sluice_tests::{
    api::{Api, event, expect, keyed_event},
    broker::TestBroker,
};

use crate::setting::{
    GROUP, TOPIC, ack, describe, ids, make, publish, pull, settle, take, take_as,
};

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
    let taken = take_as(&api, "gpu-1", 5).await;
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
    assert_eq!(worked_on.member, "gpu-1");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_window_is_full_says_so_until_one_of_its_events_is_settled() {
    const WINDOW: usize = 100;
    let limit = format!("window_events_max={WINDOW}");
    let broker = TestBroker::start_with(&["--limit", &limit]);
    let api = Api::connect(broker.url()).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        ..GroupConfig::default()
    };
    make(&api, config).await;
    let events = (0..WINDOW).map(|number| event(&format!("e{number}")));
    api.publish(TOPIC, events.collect()).await.unwrap();
    let taken = take(&api, WINDOW).await;
    // Full to the last place, and nothing is to come.
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::Empty);
    publish(&api, &["next"]).await;
    // Whoever asks hears it, too.
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::WindowFull);
    let described = describe(&api).await;
    assert_eq!(described.idle(), IdleReason::WindowFull);
    assert_eq!(described.partitions[0].idle(), IdleReason::WindowFull);
    assert_eq!(described.counts.unwrap().in_flight, WINDOW as i64);

    ack(&api, &[&taken[7]]).await;
    assert_eq!(ids(&take(&api, 1).await), ["next"]);
    publish(&api, &["last"]).await;
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::WindowFull);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_group_says_that_it_waits_for_those_who_were_at_work() {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    let config = GroupConfig {
        // Far longer than this test takes.
        lease_duration: Some(Duration::from_secs(3600).try_into().unwrap()),
        ..GroupConfig::default()
    };
    make(&api, config).await;
    publish(&api, &["a"]).await;
    let taken = take(&api, 1).await;
    // Long enough for its lease to be in the log.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    broker.restart();

    let api = Api::connect(broker.url()).await;
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::RestartGrace);
    let described = describe(&api).await;
    assert_eq!(described.idle(), IdleReason::RestartGrace);
    let partition = &described.partitions[0];
    assert_eq!(partition.idle(), IdleReason::RestartGrace);
    assert_eq!((partition.held, partition.in_flight), (1, 0));

    // Something else is there, and comes.
    publish(&api, &["b"]).await;
    let other = take(&api, 1).await;
    assert_eq!(ids(&other), ["b"]);
    ack(&api, &[&taken[0], &other[0]]).await;
    expect("all of it to be settled", async {
        while describe(&api).await.idle() != IdleReason::Empty {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
