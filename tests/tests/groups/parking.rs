//! Events that wait long are parked: they pin nothing, and lose nothing by it.

use std::time::Duration;

use sluice_proto::pb::{
    Ack, Delivery, DescribeGroupResponse, DescribeTopicRequest, Earliest, GroupConfig, IdleReason,
    ListDeadLettersRequest, Nack, Ordering, ReadStart, RedriveDeadLettersRequest, Reject,
    RetryOrder, RetryPolicy, SeekGroupRequest, read_start::At, settlement::Action,
};
use sluice_tests::{
    api::{Api, expect, key_of, keyed_event},
    broker::TestBroker,
    member,
};

use crate::setting::{GROUP, TOPIC, ack, describe, id, ids, make, pull, settle, take};

/// What waits longer than 100 ms is parked.
const PARKS_SOON: [&str; 2] = ["--limit", "park_after_ms=100"];
const HOUR_MS: u64 = 60 * 60 * 1000;

fn hold_key() -> GroupConfig {
    GroupConfig::default()
}

fn overtake() -> GroupConfig {
    GroupConfig {
        retry: Some(RetryPolicy {
            order: RetryOrder::Overtake.into(),
            ..RetryPolicy::default()
        }),
        ..GroupConfig::default()
    }
}

async fn publish_keyed(api: &Api, ids: &[&str]) {
    // The key is the first letter.
    let events = ids.iter().map(|id| keyed_event(id, &id[..1]));
    api.publish(TOPIC, events.collect()).await.unwrap();
}

fn nack(delay_ms: u64) -> Action {
    Action::Nack(Nack {
        delay: Some(Duration::from_millis(delay_ms).try_into().unwrap()),
        reason: "not now".to_owned(),
    })
}

async fn park(api: &Api, delivery: &Delivery, delay_ms: u64) {
    let failures = settle(api, &[delivery], nack(delay_ms)).await;
    assert!(failures.is_empty(), "{failures:?}");
}

fn parked(described: &DescribeGroupResponse) -> i64 {
    described.counts.unwrap().parked
}

async fn until_parked(api: &Api, count: i64) -> DescribeGroupResponse {
    let waits = async {
        loop {
            let described = describe(api).await;
            if parked(&described) == count {
                return described;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    expect("events to be parked", waits).await
}

/// Takes the only event that there is to take.
async fn take_one(api: &Api) -> Delivery {
    let mut taken = pull(api, 10, 30_000).await.deliveries;
    assert_eq!(taken.len(), 1, "{:?}", ids(&taken));
    taken.remove(0)
}

/// What is left of the parking partition: where it begins and ends.
async fn parking_partition(api: &Api) -> (i64, i64) {
    let request = DescribeTopicRequest {
        topic: format!("_park:{TOPIC}:{GROUP}"),
    };
    let described = api.admin.clone().describe_topic(request).await.unwrap();
    let partition = described.into_inner().partitions.remove(0);
    (partition.start_offset, partition.visible_end)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_key_stays_locked_over_a_kill_and_its_order_holds() {
    let mut broker = TestBroker::start_with(&PARKS_SOON);
    let api = Api::connect(broker.url()).await;
    make(&api, hold_key()).await;
    publish_keyed(&api, &["a1", "b1", "c1", "a2", "a3", "c2", "a4", "c3"]).await;
    let taken = take(&api, 3).await;
    assert_eq!(ids(&taken), ["a1", "b1", "c1"]);
    park(&api, &taken[0], 3_000).await;
    park(&api, &taken[2], HOUR_MS).await;
    ack(&api, &[&taken[1]]).await;

    // The followers are parked as well: nothing of the topic is left unsettled.
    let described = until_parked(&api, 7).await;
    assert_eq!(described.partitions[0].committed_end, 8);
    assert_eq!(described.partitions[0].lag, 0);
    assert_eq!(described.partitions[0].counts.unwrap().parked, 7);

    broker.restart();
    let api = Api::connect(broker.url()).await;
    publish_keyed(&api, &["a5", "c4", "d1"]).await;
    let first = take_one(&api).await;
    assert_eq!(id(&first), "d1", "neither a nor c is free");
    ack(&api, &[&first]).await;
    until_parked(&api, 9).await;

    for (number, expected) in ["a1", "a2", "a3", "a4", "a5"].into_iter().enumerate() {
        let delivery = take_one(&api).await;
        assert_eq!(id(&delivery), expected);
        assert_eq!(delivery.offset, [0, 3, 4, 6, 8][number], "its first place");
        assert_eq!(delivery.attempt, if expected == "a1" { 2 } else { 1 });
        ack(&api, &[&delivery]).await;
        if expected == "a3" {
            broker.restart();
            return a_parked_key_goes_on(&broker, number + 1).await;
        }
    }
}

/// The rest of the same test, after another kill.
async fn a_parked_key_goes_on(broker: &TestBroker, from: usize) {
    let api = Api::connect(broker.url()).await;
    for expected in ["a1", "a2", "a3", "a4", "a5"].into_iter().skip(from) {
        let delivery = take_one(&api).await;
        assert_eq!(id(&delivery), expected);
        ack(&api, &[&delivery]).await;
    }
    // An hour has not passed.
    let pulled = pull(&api, 10, 0).await;
    assert!(pulled.deliveries.is_empty());
    assert_eq!(pulled.idle(), IdleReason::KeyLocked);
    let described = until_parked(&api, 4).await;
    assert_eq!(described.partitions[0].idle(), IdleReason::Delayed);
    assert_eq!(described.partitions[0].lag, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn others_overtake_a_parked_event_and_a_seek_replays_it_once() {
    let mut broker = TestBroker::start_with(&PARKS_SOON);
    let api = Api::connect(broker.url()).await;
    make(&api, overtake()).await;
    publish_keyed(&api, &["a1", "a2", "a3"]).await;
    let first = take_one(&api).await;
    park(&api, &first, HOUR_MS).await;
    let second = take_one(&api).await;
    assert_eq!(id(&second), "a2");
    ack(&api, &[&second]).await;

    broker.restart();
    let api = Api::connect(broker.url()).await;
    let third = take_one(&api).await;
    assert_eq!(id(&third), "a3");
    ack(&api, &[&third]).await;
    let described = describe(&api).await;
    assert_eq!(parked(&described), 1);
    assert_eq!(described.idle(), IdleReason::Delayed);

    let request = |offset, dry_run| SeekGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        to: Some(ReadStart {
            at: Some(offset),
            epoch: 0,
        }),
        partition: None,
        dry_run,
    };
    let seek = |at, dry_run| {
        let mut admin = api.admin.clone();
        async move {
            admin
                .seek_group(request(at, dry_run))
                .await
                .unwrap()
                .into_inner()
                .moves[0]
        }
    };
    let forward = seek(At::Offset(3), true).await;
    assert_eq!((forward.replayed_count, forward.skipped_count), (0, 1));
    let back = seek(At::Earliest(Earliest {}), false).await;
    assert_eq!((back.replayed_count, back.skipped_count), (2, 0));
    assert_eq!(parked(&describe(&api).await), 0);
    for expected in ["a1", "a2", "a3"] {
        let delivery = take_one(&api).await;
        assert_eq!((id(&delivery), delivery.attempt), (expected, 1));
        ack(&api, &[&delivery]).await;
    }
    let pulled = pull(&api, 10, 0).await;
    assert_eq!(pulled.idle(), IdleReason::Empty, "one is there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_event_is_due_after_a_kill_and_dies_with_its_origin_and_history() {
    let mut broker = TestBroker::start_with(&PARKS_SOON);
    let api = Api::connect(broker.url()).await;
    let config = GroupConfig {
        retry: Some(RetryPolicy {
            max_attempts: 4,
            ..RetryPolicy::default()
        }),
        ..hold_key()
    };
    make(&api, config).await;
    publish_keyed(&api, &["x1", "a1"]).await;
    let taken = take(&api, 2).await;
    ack(&api, &[&taken[0]]).await;
    park(&api, &taken[1], 500).await;
    until_parked(&api, 1).await;
    broker.restart();
    let api = Api::connect(broker.url()).await;
    let second = take_one(&api).await;
    assert_eq!((id(&second), second.attempt), ("a1", 2));
    assert_eq!((second.partition, second.offset), (0, 1));
    assert_eq!(second.append_time, taken[1].append_time);

    // Parked a second time, and failed once more where it is parked.
    park(&api, &second, 500).await;
    let third = take_one(&api).await;
    assert_eq!(third.attempt, 3);
    park(&api, &third, 0).await;
    let fourth = take_one(&api).await;
    assert_eq!((fourth.attempt, fourth.offset), (4, 1));
    let reject = Action::Reject(Reject {
        reason: "never".to_owned(),
    });
    assert!(settle(&api, &[&fourth], reject).await.is_empty());

    let request = ListDeadLettersRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        ..ListDeadLettersRequest::default()
    };
    let listed = api.admin.clone().list_dead_letters(request).await.unwrap();
    let letter = listed.into_inner().dead_letters.remove(0);
    let history = letter.history.unwrap();
    assert_eq!((history.partition, history.offset), (0, 1));
    assert_eq!(history.topic, TOPIC);
    assert_eq!(
        (history.attempt_count, history.reason.as_str()),
        (4, "never")
    );
    let attempts: Vec<_> = history.attempts.iter().map(|of| of.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    let (start, end) = parking_partition(&api).await;
    assert_eq!((start, end), (2, 2), "nothing is left of what is settled");

    // What is redriven can be parked, too, and keeps its first place.
    let request = RedriveDeadLettersRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        all: true,
        ..RedriveDeadLettersRequest::default()
    };
    api.admin
        .clone()
        .redrive_dead_letters(request)
        .await
        .unwrap();
    let redriven = take_one(&api).await;
    assert_eq!((redriven.attempt, redriven.redrives), (1, 1));
    park(&api, &redriven, 500).await;
    until_parked(&api, 1).await;
    broker.restart();
    let api = Api::connect(broker.url()).await;
    let again = take_one(&api).await;
    assert_eq!((again.attempt, again.redrives), (2, 1));
    assert_eq!((again.partition, again.offset), (0, 1));
    ack(&api, &[&again]).await;
    let (start, end) = parking_partition(&api).await;
    assert_eq!(start, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_event_is_settled_as_any_other() {
    let mut broker = TestBroker::start_with(&PARKS_SOON);
    let api = Api::connect(broker.url()).await;
    make(&api, hold_key()).await;
    api.create_topic("out", 1).await;
    publish_keyed(&api, &["a1", "b1"]).await;
    let taken = take(&api, 2).await;
    park(&api, &taken[0], 200).await;
    park(&api, &taken[1], 200).await;
    until_parked(&api, 2).await;
    // What they were given before is fenced.
    let stale = settle(&api, &[&taken[0], &taken[1]], Action::Ack(Ack {})).await;
    assert_eq!(stale.len(), 2);

    // One is committed with an output, in one frame; the lease of the other one
    // outlives the broker.
    let again = take(&api, 2).await;
    assert!(again.iter().all(|delivery| delivery.attempt == 2));
    let commit = member::commit(
        (TOPIC, GROUP),
        again[0].lease.unwrap(),
        "out",
        keyed_event("o1", "o"),
    );
    let mut client = api.broker.clone();
    client.commit(commit.clone()).await.unwrap();
    assert!(client.commit(commit).await.is_err(), "its lease is over");
    // Long enough to be noted in the log.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    broker.restart();
    let api = Api::connect(broker.url()).await;
    let described = describe(&api).await;
    assert_eq!(described.counts.unwrap().held, 1);
    assert_eq!(parked(&described), 0);
    ack(&api, &[&again[1]]).await;
    assert_eq!(api.ids("out").await, ["o1"]);
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::Empty);
    let (start, end) = parking_partition(&api).await;
    assert_eq!(start, end);
}

/// The parking partition keeps what is parked, and not what was parked after it
/// and is settled.
#[tokio::test(flavor = "multi_thread")]
async fn one_parked_for_long_pins_nothing_of_what_is_parked_after_it() {
    const OTHERS: usize = 1_200;
    let mut broker = TestBroker::start_with(&PARKS_SOON);
    let api = Api::connect(broker.url()).await;
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        ..GroupConfig::default()
    };
    make(&api, config).await;
    publish_keyed(&api, &["first"]).await;
    park(&api, &take_one(&api).await, HOUR_MS).await;
    let others: Vec<String> = (0..OTHERS).map(|number| format!("o{number}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    publish_keyed(&api, &others).await;
    let taken = take(&api, OTHERS).await;
    let failures = settle(&api, &taken.iter().collect::<Vec<_>>(), nack(200)).await;
    assert!(failures.is_empty(), "{failures:?}");
    let again = take(&api, OTHERS).await;
    assert!(again.iter().all(|delivery| delivery.attempt == 2));
    ack(&api, &again.iter().collect::<Vec<_>>()).await;

    let waits = async {
        loop {
            let (start, end) = parking_partition(&api).await;
            if end - start == 1 {
                return start;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let start = expect("the parking partition to begin later", waits).await;
    assert!(start > OTHERS as i64, "{start}");

    // It is as it was, wherever it lies.
    assert_eq!(parked(&describe(&api).await), 1);
    broker.restart();
    let api = Api::connect(broker.url()).await;
    until_parked(&api, 1).await;
    assert_eq!(pull(&api, 1, 0).await.idle(), IdleReason::Delayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stuck_key_holds_up_no_other_however_many_wait_behind_it() {
    let mut broker = TestBroker::start_with(&["--limit", "window_events_max=100"]);
    let api = Api::connect(broker.url()).await;
    make(&api, hold_key()).await;
    // More than a page, so that what comes behind is read when there is room for it.
    let names: Vec<String> = (0..600).map(|number| format!("h{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    publish_keyed(&api, &names).await;
    publish_keyed(&api, &["x1", "x2"]).await;
    // Somebody works on h0, for a long time.
    let stuck = take(&api, 1).await;
    for expected in ["x1", "x2"] {
        let other = take_one(&api).await;
        assert_eq!(id(&other), expected);
        ack(&api, &[&other]).await;
    }
    assert!(parked(&describe(&api).await) >= 400);

    // The order of the key is as it was, wherever its events are by now.
    ack(&api, &[&stuck[0]]).await;
    let mut api = api;
    for (number, expected) in names.iter().enumerate().skip(1) {
        if number % 150 == 0 {
            broker.restart();
            api = Api::connect(broker.url()).await;
        }
        let delivery = take_one(&api).await;
        assert_eq!(id(&delivery), *expected);
        ack(&api, &[&delivery]).await;
    }
    assert_eq!(parked(&describe(&api).await), 0);
    let (start, end) = parking_partition(&api).await;
    assert_eq!(start, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_partition_holds_up_no_other_and_is_not_parked() {
    let limits = [
        "--limit",
        "window_events_max=100",
        "--limit",
        "park_after_ms=100",
    ];
    let broker = TestBroker::start_with(&limits);
    let api = Api::connect(broker.url()).await;
    api.create_topic(TOPIC, 2).await;
    let config = GroupConfig {
        ordering: Ordering::Partition.into(),
        ..GroupConfig::default()
    };
    api.create_group(TOPIC, GROUP, config).await;
    // Keys of either partition.
    let key = |partition| {
        let keys = (0..100).map(|number| format!("k{number}"));
        let mut of = keys.filter(|key| sluice_proto::partition_of_key(key, 2).0 == partition);
        of.next().unwrap()
    };
    let (stuck_key, other_key) = (key(0), key(1));
    let stuck = (0..300).map(|number| keyed_event(&format!("s{number}"), &stuck_key));
    api.publish(TOPIC, stuck.collect()).await.unwrap();
    let first = take_one(&api).await;
    park(&api, &first, HOUR_MS).await;
    let others = (0..10).map(|number| keyed_event(&format!("o{number}"), &other_key));
    api.publish(TOPIC, others.collect()).await.unwrap();
    for number in 0..10 {
        let delivery = take_one(&api).await;
        assert_eq!(key_of(delivery.event.as_ref().unwrap()), Some(&*other_key));
        assert_eq!(id(&delivery), format!("o{number}"));
        ack(&api, &[&delivery]).await;
    }
    let described = describe(&api).await;
    assert_eq!(parked(&described), 0);
    let stuck = &described.partitions[0];
    assert_eq!((stuck.committed_end, stuck.lag), (0, 300));
    assert_eq!(stuck.idle(), IdleReason::KeyLocked);
    assert_eq!(described.partitions[1].idle(), IdleReason::Empty);
}
