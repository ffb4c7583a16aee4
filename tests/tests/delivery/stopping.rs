//! A broker that is stopped in order, as an update of it does.

use std::time::Duration;

use sluice_proto::pb::{ConnectionLoss, GroupConfig};
use sluice_tests::{
    api::{Api, event, expect},
    member::{Member, ack, join},
};

use super::{config, member, ms, with_events};

/// What is noted in the log has lasted for a second.
const LONG: Duration = Duration::from_millis(1500);

/// The broker's end is not the worker's, also where a lost connection ends leases at
/// once: updates of the broker would make a dead letter of long work.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_stopped_takes_no_work_away_and_counts_no_attempt() {
    let at_once = GroupConfig {
        lease_duration: ms(10_000),
        on_connection_loss: ConnectionLoss::AtOnce.into(),
        ..config()
    };
    let (mut broker, api) = with_events(at_once, 1).await;
    let mut worker = member(&api, 1).await;
    let lease = worker.delivery().await.unwrap().lease.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(LONG).await;
        tokio::task::block_in_place(|| {
            assert!(broker.stop().success());
            broker.restart();
        });
        let api = Api::connect(broker.url()).await;
        let mut again = join("in", "workers", 0);
        again.held = vec![lease];
        worker = Member::join(&api, again).await.unwrap();
        assert_eq!(worker.joined.lost, [], "the work goes on");
        let described = api.describe_group("in", "workers").await;
        let [of] = &described.in_flight_events[..] else {
            panic!("one is in flight: {described:?}");
        };
        assert_eq!(of.attempt, 1);
    }
    let settled = expect("an ack", worker.settle(vec![ack(lease)])).await;
    assert_eq!(settled.unwrap(), []);
}

/// A kill would take it away: it is not in the log for the first second.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_has_just_begun_goes_on_over_a_stop_of_the_broker() {
    let long = GroupConfig {
        lease_duration: ms(60_000),
        ..config()
    };
    let (mut broker, api) = with_events(long, 1).await;
    let mut worker = member(&api, 1).await;
    let lease = worker.delivery().await.unwrap().lease.unwrap();
    tokio::task::block_in_place(|| {
        assert!(broker.stop().success());
        broker.restart();
    });
    let api = Api::connect(broker.url()).await;
    // Somebody who would take what there is.
    let mut idle = member(&api, 9).await;
    api.publish("in", vec![event("next")]).await.unwrap();
    let next = expect("the next event", idle.delivery()).await.unwrap();
    assert_eq!((next.offset, next.attempt), (1, 1));
    let mut again = join("in", "workers", 0);
    again.held = vec![lease];
    let mut worker = Member::join(&api, again).await.unwrap();
    assert_eq!(worker.joined.lost, []);
    assert_eq!(worker.settle(vec![ack(lease)]).await.unwrap(), []);
}
