//! Work that takes far longer than a lease lasts.

use std::time::Duration;

use sluice_proto::pb::{GroupConfig, LeaseToken};
use sluice_tests::{
    api::{Api, event, expect},
    broker::TestBroker,
    member::{Heartbeats, Member, ack, commit, join},
};

use super::{config, member, ms, with_events};

const LEASE_MS: u64 = 2_000;

/// After a restart of the broker.
struct Restarted {
    api: Api,
    /// Somebody who would take what there is, from the first moment on.
    idle: Member,
    /// Whoever worked before, with the leases of then.
    slow: Member,
    _beats: [Heartbeats; 2],
}

/// The broker is killed and started again, and a worker goes on.
async fn restart(
    broker: &mut TestBroker,
    before: (Member, Heartbeats),
    held: Vec<LeaseToken>,
) -> Restarted {
    tokio::task::block_in_place(|| broker.restart());
    drop(before);
    let api = Api::connect(broker.url()).await;
    let idle = member(&api, 9).await;
    let idle_beats = idle.heartbeats();
    let mut again = join("in", "workers", 0);
    again.held = held;
    let slow = Member::join(&api, again).await.unwrap();
    assert_eq!(slow.joined.lost, []);
    let beats = slow.heartbeats();
    Restarted {
        api,
        idle,
        slow,
        _beats: [idle_beats, beats],
    }
}

/// A long task is taken away from its worker, done again, and can never commit; a
/// restart of the broker does the same.
#[tokio::test(flavor = "multi_thread")]
async fn work_of_three_lease_times_is_delivered_once_although_the_broker_is_killed_meanwhile() {
    let short = GroupConfig {
        lease_duration: ms(LEASE_MS),
        ..config()
    };
    let (mut broker, api) = with_events(short, 1).await;
    api.create_topic("out", 1).await;
    let mut slow = member(&api, 1).await;
    let beats = slow.heartbeats();
    let lease = slow.delivery().await.unwrap().lease.unwrap();
    tokio::time::sleep(Duration::from_millis(LEASE_MS * 3 / 2)).await;

    let Restarted {
        api,
        mut idle,
        mut slow,
        _beats,
    } = restart(&mut broker, (slow, beats), vec![lease]).await;
    tokio::time::sleep(Duration::from_millis(LEASE_MS * 3 / 2)).await;

    let request = commit(("in", "workers"), lease, "out", event("result"));
    api.broker.clone().commit(request).await.unwrap();
    assert_eq!(api.ids("out").await, ["result"]);
    // The first that the other one gets is what is published now.
    api.publish("in", vec![event("next")]).await.unwrap();
    let next = expect("the next event", idle.delivery()).await.unwrap();
    assert_eq!((next.offset, next.attempt), (1, 1));
    assert!(slow.delivery_at_hand().is_none());
}

/// The same of events with others between them that the filter drops.
#[tokio::test(flavor = "multi_thread")]
async fn work_around_what_a_filter_drops_is_delivered_once_although_the_broker_is_killed() {
    let filtered = GroupConfig {
        lease_duration: ms(LEASE_MS),
        filter: r#"event.id != "e1""#.into(),
        ..config()
    };
    let (mut broker, api) = with_events(filtered, 3).await;
    let mut slow = member(&api, 2).await;
    let beats = slow.heartbeats();
    let mut leases = Vec::new();
    for offset in [0, 2] {
        let delivery = slow.delivery().await.unwrap();
        assert_eq!(delivery.offset, offset);
        leases.push(delivery.lease.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(LEASE_MS * 3 / 2)).await;

    let Restarted {
        api,
        mut idle,
        mut slow,
        _beats,
    } = restart(&mut broker, (slow, beats), leases.clone()).await;

    let acks = leases.into_iter().map(ack).collect();
    assert_eq!(slow.settle(acks).await.unwrap(), []);
    api.publish("in", vec![event("next")]).await.unwrap();
    let next = expect("the next event", idle.delivery()).await.unwrap();
    assert_eq!((next.offset, next.attempt), (3, 1));
}
