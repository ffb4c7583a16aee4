//! What hurts teams with other brokers must not happen here: a test for each.
//!
//! | what hurts | shown in |
//! |---|---|
//! | a long task is taken away, done again, and can never commit, also by a restart of the broker | `long_work.rs` |
//! | one slow event blocks everything behind it | `stuck.rs` |
//! | one poisonous event kills worker after worker, and nobody counted | here, and `../workers/poison.rs` |
//! | a nack breaks the order of a key; delayed retries hold the in-flight cap | here |
//! | credit leaks when a consumer connects again, and it freezes; nothing says why | here |
//! | ack and publish are two steps, so that a crash between them loses or doubles work | `../client/stage.rs` (each input has its outputs once), `../kills`, `../workers/chaos.rs` |
//! | dead letters vanish | `../fault_points` (events are neither lost nor doubled), `../cli/dead_letters.rs` |
//! | a slow last stage fills the disk, as the first stage never hears of it | `../flow/chain.rs` (a chain settles at the rate of its slowest) |
//! | no filter on the payload, or filters that nobody can explain | `../filters.rs` (counters add up and explain agrees with delivery) |
//! | "where is document 123?" has no answer | `../filters.rs` (explain says where an event stands), `../groups/dead_letters.rs` |

use std::{collections::BTreeMap, time::Duration};

use sluice_proto::pb::{
    ConnectionLoss, GroupConfig, IdleReason, Ordering, RetryOrder, RetryPolicy,
};
use sluice_tests::{
    api::{Api, expect, keyed_event},
    member::ack,
};

use super::{ack_next, config, member, ms, nack, next, with_events};

async fn caught_up(api: &Api) {
    api.wait_until_caught_up("in", "workers").await;
}

/// One poisonous event kills worker after worker, and nobody counted.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_kills_its_workers_is_found_and_hurts_no_other() {
    const EVENTS: usize = 1000;
    let at_once = GroupConfig {
        on_connection_loss: sluice_proto::pb::ConnectionLoss::AtOnce.into(),
        lease_duration: ms(60_000),
        ..config()
    };
    let (_broker, api) = with_events(at_once, EVENTS).await;
    let mut delivered: BTreeMap<String, u32> = BTreeMap::new();
    let mut deaths = 0;
    'worker: while api.describe_group("in", "workers").await.dead_letter_count == 0 {
        let mut worker = member(&api, 10).await;
        let mut granted = 10;
        loop {
            // The poison is found before the end, or with nothing else left.
            let (id, delivery) = next(&mut worker).await;
            *delivered.entry(id.clone()).or_default() += 1;
            if id == "e500" {
                // Its connection goes with it.
                while let Some(other) = worker.delivery_at_hand() {
                    *delivered.entry(other.event.unwrap().id).or_default() += 1;
                }
                deaths += 1;
                drop(worker);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue 'worker;
            }
            let failures = worker.settle(vec![ack(delivery.lease.unwrap())]).await;
            assert_eq!(failures.unwrap(), []);
            granted += 1;
            let grant = sluice_proto::pb::Grant {
                max_events: granted,
                max_bytes: 0,
            };
            worker
                .send(sluice_proto::pb::consume_request::Message::Grant(grant))
                .await;
        }
    }
    let mut rest = member(&api, 2 * EVENTS as i64).await;
    let _beats = rest.heartbeats();
    while api.describe_group("in", "workers").await.partitions[0].lag > 0 {
        let id = ack_next(&mut rest).await;
        *delivered.entry(id).or_default() += 1;
    }
    caught_up(&api).await;
    // Once among its neighbours, and then as often as the group's attempts.
    assert!((3..=4).contains(&deaths), "{deaths} workers died");
    assert_eq!(delivered.remove("e500"), Some(deaths));
    let worst = delivered.iter().max_by_key(|(_, count)| **count).unwrap();
    assert!(*worst.1 <= 2, "{worst:?} was hurt");
    assert_eq!(delivered.len(), EVENTS - 1);
}

/// A nack breaks the order of a key.
#[tokio::test(flavor = "multi_thread")]
async fn a_nack_keeps_the_order_of_its_key_unless_others_may_overtake() {
    for order in [RetryOrder::HoldKey, RetryOrder::Overtake] {
        let by_key = GroupConfig {
            ordering: Ordering::Key.into(),
            retry: Some(RetryPolicy {
                order: order.into(),
                ..RetryPolicy::default()
            }),
            ..config()
        };
        let (_broker, api) = with_events(by_key, 0).await;
        let events = vec![
            keyed_event("a1", "a"),
            keyed_event("a2", "a"),
            keyed_event("b1", "b"),
        ];
        api.publish("in", events).await.unwrap();
        let mut worker = member(&api, 9).await;
        let _beats = worker.heartbeats();
        let (id, delivery) = next(&mut worker).await;
        assert_eq!(id, "a1");
        let failures = worker
            .settle(vec![nack(delivery.lease.unwrap(), 700)])
            .await;
        assert_eq!(failures.unwrap(), []);
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(ack_next(&mut worker).await);
        }
        // The other key is not held up by either.
        let expected = match order {
            RetryOrder::Overtake => ["b1", "a2", "a1"],
            _ => ["b1", "a1", "a2"],
        };
        assert_eq!(seen, expected, "{order:?}");
    }
}

/// Delayed retries hold the in-flight cap, and everything stands still.
#[tokio::test(flavor = "multi_thread")]
async fn delayed_retries_hold_neither_credit_nor_the_in_flight_cap() {
    let capped = GroupConfig {
        max_in_flight: 1,
        max_in_flight_per_member: 1,
        ..config()
    };
    let (_broker, api) = with_events(capped, 3).await;
    let mut worker = member(&api, 3).await;
    let _beats = worker.heartbeats();
    for expected in ["e0", "e1"] {
        let (id, delivery) = next(&mut worker).await;
        assert_eq!(id, expected);
        let hour = 60 * 60 * 1000;
        let failures = worker
            .settle(vec![nack(delivery.lease.unwrap(), hour)])
            .await;
        assert_eq!(failures.unwrap(), []);
    }
    assert_eq!(ack_next(&mut worker).await, "e2");
    let partition = &api.describe_group("in", "workers").await.partitions[0];
    assert_eq!((partition.delayed, partition.in_flight), (2, 0));
}

/// A group that must keep the order of a partition.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_in_strict_order_goes_one_event_at_a_time() {
    let strict = GroupConfig {
        ordering: Ordering::Partition.into(),
        ..config()
    };
    let (_broker, api) = with_events(strict, 5).await;
    let mut workers = [member(&api, 9).await, member(&api, 9).await];
    let _beats = [workers[0].heartbeats(), workers[1].heartbeats()];
    for number in 0..5 {
        let [one, two] = &mut workers;
        let (worker, delivery) = expect("the next event", async {
            tokio::select! {
                delivery = one.delivery() => (0, delivery.unwrap()),
                delivery = two.delivery() => (1, delivery.unwrap()),
            }
        })
        .await;
        assert_eq!(delivery.offset, number);
        let in_flight = api.describe_group("in", "workers").await.partitions[0].in_flight;
        assert_eq!(in_flight, 1);
        let failures = workers[worker]
            .settle(vec![ack(delivery.lease.unwrap())])
            .await;
        assert_eq!(failures.unwrap(), []);
    }
}

/// Credit leaks when a consumer connects again, it freezes, and nothing says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_connects_again_and_again_leaks_neither_credit_nor_the_in_flight_cap() {
    const CREDIT: i64 = 2;
    let capped = GroupConfig {
        on_connection_loss: ConnectionLoss::AtOnce.into(),
        max_in_flight: CREDIT as i32,
        // None of them is to be a dead letter.
        retry: Some(RetryPolicy {
            max_attempts: 100,
            ..config().retry.unwrap()
        }),
        solo_wait: ms(0),
        lease_duration: ms(60 * 60 * 1000),
        ..config()
    };
    let (_broker, api) = with_events(capped, 10).await;
    for _ in 0..50 {
        let mut broken_off = member(&api, CREDIT).await;
        broken_off.delivery().await.unwrap();
    }
    let mut worker = member(&api, 10).await;
    for _ in 0..10 {
        ack_next(&mut worker).await;
    }
    caught_up(&api).await;
    // All that it was granted is used up, and that is what it is told.
    let events = vec![sluice_tests::api::event("more")];
    api.publish("in", events).await.unwrap();
    expect("the reason", async {
        while api.describe_group("in", "workers").await.idle() != IdleReason::NoCredit {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
