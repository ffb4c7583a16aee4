//! What a member leaves behind that goes in order: nothing.

use std::time::Duration;

use sluice_proto::pb::GroupConfig;
use sluice_tests::{
    api::Api,
    broker::TestBroker,
    member::{Member, join},
};

use crate::setting::{GROUP, TOPIC, ack, describe, id, make, publish, take};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_waited_for_after_a_kill_who_has_left_before() {
    let mut broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    make(&api, GroupConfig::default()).await;
    publish(&api, &["a"]).await;
    let mut member = Member::join(&api, join(TOPIC, GROUP, 1)).await.unwrap();
    let held = member.delivery().await.unwrap();
    // Long enough for its lease to be in the log.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    member.leave().await.unwrap();
    // Whoever gets an answer now comes after it in the log.
    publish(&api, &["b"]).await;

    broker.restart();
    let api = Api::connect(broker.url()).await;
    assert_eq!(describe(&api).await.counts.unwrap().held, 0);
    let taken = take(&api, 2).await;
    let again = taken.iter().find(|delivery| id(delivery) == "a").unwrap();
    assert_eq!(again.attempt, 1);
    assert_ne!(again.lease, held.lease);
    ack(&api, &taken.iter().collect::<Vec<_>>()).await;
}
