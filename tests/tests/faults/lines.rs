//! What happens before a settlement is in line for the log.

use std::time::Duration;

use sluice_proto::pb::{
    GroupConfig, Heartbeat, IdleReason, Ordering, SettleBatch, consume_request::Message as Request,
    consume_response::Message as Response,
};
use sluice_tests::{
    api::{Api, keyed_event},
    broker::TestBroker,
    member::{Member, ack, join},
};
use tokio::task::block_in_place;

/// So often it is looked whether the key has gone on after all.
const LOOKS: usize = 20;

/// Otherwise what is done about the key's next event could be in the log before its
/// ack, and a crash between the two would replay it out of order.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_on_only_when_its_ack_is_in_line() {
    let mut broker = block_in_place(|| TestBroker::start_with_fault_points(&[]));
    broker.set_fault("SLUICE_FAULT_SWITCHES", "settlements_stay_out");
    block_in_place(|| broker.restart());
    let api = Api::connect(broker.url()).await;
    api.create_topic("t", 1).await;
    let config = GroupConfig {
        ordering: Ordering::Key.into(),
        ..GroupConfig::default()
    };
    api.create_group("t", "g", config).await;
    let events = vec![keyed_event("a-1", "a"), keyed_event("a-2", "a")];
    api.publish("t", events).await.unwrap();

    let mut member = Member::join(&api, join("t", "g", 10)).await.unwrap();
    let first = member.delivery().await.unwrap();
    assert_eq!(first.event.unwrap().id, "a-1");
    let batch = SettleBatch {
        request_id: 1,
        settlements: vec![ack(first.lease.unwrap())],
    };
    member.send(Request::Settle(batch)).await;

    // The group goes on meanwhile, with everything but this key.
    api.publish("t", vec![keyed_event("b-1", "b")])
        .await
        .unwrap();
    let next = member.delivery().await.unwrap();
    assert_eq!(next.event.unwrap().id, "b-1");
    for _ in 0..LOOKS {
        member.send(Request::Heartbeat(Heartbeat::default())).await;
        match member.response().await.unwrap() {
            Some(Response::Heartbeat(ack)) => assert_eq!(ack.idle(), IdleReason::KeyLocked),
            other => panic!("the key has gone on: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
