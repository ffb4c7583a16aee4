//! One slow event must not block everything behind it.

use sluice_proto::pb::{GroupConfig, Ordering};
use sluice_tests::{
    api::{Api, event, keyed_event},
    broker::TestBroker,
    member::ack,
};

use super::{ack_next, config, member, ms, nack, next, with_events};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// Lag, in flight and delayed, in the only partition.
async fn stands(api: &Api) -> (i64, i64, i64) {
    let partition = &api.describe_group("in", "workers").await.partitions[0];
    (partition.lag, partition.in_flight, partition.delayed)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stuck_key_holds_up_no_other() {
    let by_key = GroupConfig {
        ordering: Ordering::Key.into(),
        lease_duration: ms(HOUR_MS),
        ..config()
    };
    let (_broker, api) = with_events(by_key, 0).await;
    // Every third event is of the key that is stuck.
    let events = (0..300).map(|number| match number % 3 {
        0 => keyed_event(&format!("stuck-{number:03}"), "stuck"),
        _ => keyed_event(
            &format!("free-{number:03}"),
            &format!("key-{}", number % 50),
        ),
    });
    api.publish("in", events.collect()).await.unwrap();
    let mut stuck = member(&api, 1).await;
    let (id, delivery) = next(&mut stuck).await;
    assert_eq!(id, "stuck-000");

    let mut worker = member(&api, 300).await;
    for _ in 0..200 {
        let id = ack_next(&mut worker).await;
        assert!(id.starts_with("free-"), "{id}");
    }
    assert_eq!(stands(&api).await, (100, 1, 0));
    let failures = stuck.settle(vec![ack(delivery.lease.unwrap())]).await;
    assert_eq!(failures.unwrap(), []);
    for number in 1..100 {
        let id = ack_next(&mut worker).await;
        assert_eq!(id, format!("stuck-{:03}", 3 * number));
    }
    assert_eq!(stands(&api).await, (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_partition_keeps_no_other_out() {
    const EACH: usize = 5000;
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 2).await;
    // Few at work, so that what is given follows what is read.
    let few = GroupConfig {
        max_in_flight: 100,
        ..config()
    };
    api.create_group("in", "workers", few).await;
    // What has no key goes to the partitions in turn, batch by batch.
    let mut partitions = Vec::new();
    for batch in ["one", "other"] {
        let events = (0..EACH).map(|number| event(&format!("{batch}-{number}")));
        let ranges = api.publish("in", events.collect()).await.unwrap();
        partitions.push(ranges[0].partition);
    }
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 1]);
    // All of it is in memory, so that there is always more of each.
    let mut worker = member(&api, EACH as i64).await;
    let mut of_one = 0;
    for _ in 0..EACH {
        of_one += usize::from(ack_next(&mut worker).await.starts_with("one-"));
    }
    // As many of each, but for a few pages.
    assert!(of_one.abs_diff(EACH / 2) < EACH / 4, "{of_one}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stuck_member_holds_up_no_other() {
    let long = GroupConfig {
        lease_duration: ms(HOUR_MS),
        ..config()
    };
    let (_broker, api) = with_events(long, 300).await;
    // It takes ten, and neither works nor reads any more.
    let mut stuck = member(&api, 10).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(next(&mut stuck).await.0);
    }
    let mut worker = member(&api, 300).await;
    for _ in 0..290 {
        let id = ack_next(&mut worker).await;
        assert!(!held.contains(&id), "{id} is at the other");
    }
    assert_eq!(stands(&api).await, (10, 10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_delayed_retry_holds_up_no_other() {
    for ordering in [Ordering::None, Ordering::Key] {
        let config = GroupConfig {
            ordering: ordering.into(),
            max_in_flight: 1,
            ..config()
        };
        let (_broker, api) = with_events(config, 0).await;
        let keyed = |number| keyed_event(&format!("e{number}"), &format!("key-{number}"));
        api.publish("in", (0..100).map(keyed).collect())
            .await
            .unwrap();
        // Its credit is as much as there are events: the retry uses it up once.
        let mut worker = member(&api, 100).await;
        let _beats = worker.heartbeats();
        let (id, delivery) = next(&mut worker).await;
        assert_eq!(id, "e0");
        let later = vec![nack(delivery.lease.unwrap(), HOUR_MS)];
        assert_eq!(worker.settle(later).await.unwrap(), []);
        for number in 1..100 {
            assert_eq!(ack_next(&mut worker).await, format!("e{number}"));
        }
        let (_, in_flight, delayed) = stands(&api).await;
        assert_eq!((in_flight, delayed), (0, 1), "{ordering:?}");
    }
}
