//! A topic with a group, and what tests do with them over and over.

use sluice_proto::pb::{
    Ack, Delivery, DescribeGroupResponse, GroupConfig, PullRequest, PullResponse, SettleRequest,
    Settlement, SettlementFailure, settlement::Action,
};
use sluice_tests::api::{Api, event};

pub(crate) const TOPIC: &str = "in";
pub(crate) const GROUP: &str = "workers";

/// Makes the topic, of one partition, and the group.
pub(crate) async fn make(api: &Api, config: GroupConfig) {
    api.create_topic(TOPIC, 1).await;
    api.create_group(TOPIC, GROUP, config).await;
}

/// Publishes one event after the other.
pub(crate) async fn publish(api: &Api, ids: &[&str]) {
    for id in ids {
        api.publish(TOPIC, vec![event(id)]).await.unwrap();
    }
}

/// Takes up to `count` events, waiting for the first.
pub(crate) async fn pull(api: &Api, count: i32, wait_ms: u64) -> PullResponse {
    pull_as(api, "", count, wait_ms).await
}

/// The same as a member of this name.
async fn pull_as(api: &Api, member: &str, count: i32, wait_ms: u64) -> PullResponse {
    let request = PullRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        member: member.to_owned(),
        max_events: count,
        wait: Some(
            std::time::Duration::from_millis(wait_ms)
                .try_into()
                .unwrap(),
        ),
        ..PullRequest::default()
    };
    api.broker.clone().pull(request).await.unwrap().into_inner()
}

/// Takes exactly `count` events, however many pulls it needs.
pub(crate) async fn take(api: &Api, count: usize) -> Vec<Delivery> {
    take_as(api, "", count).await
}

/// The same as a member of this name.
pub(crate) async fn take_as(api: &Api, member: &str, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        // No pull may ask for more.
        let some = (count - taken.len()).min(1000);
        let pulled = pull_as(api, member, some as i32, 30_000).await;
        let idle = pulled.idle();
        assert!(
            !pulled.deliveries.is_empty(),
            "{} of {count}: {idle:?}",
            taken.len()
        );
        taken.extend(pulled.deliveries);
    }
    taken
}

pub(crate) fn ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(id).collect()
}

pub(crate) fn id(delivery: &Delivery) -> &str {
    &delivery.event.as_ref().unwrap().id
}

pub(crate) async fn settle(api: &Api, of: &[&Delivery], action: Action) -> Vec<SettlementFailure> {
    let settlements = of.iter().map(|delivery| Settlement {
        lease: delivery.lease,
        action: Some(action.clone()),
    });
    let request = SettleRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        settlements: settlements.collect(),
    };
    let settled = api.broker.clone().settle(request).await.unwrap();
    settled.into_inner().failures
}

/// Acks, all of which succeed.
pub(crate) async fn ack(api: &Api, of: &[&Delivery]) {
    let failures = settle(api, of, Action::Ack(Ack {})).await;
    assert!(failures.is_empty(), "{failures:?}");
}

pub(crate) async fn describe(api: &Api) -> DescribeGroupResponse {
    api.describe_group(TOPIC, GROUP).await
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.unwrap();
    time.seconds * 1000 + i64::from(time.nanos) / 1_000_000
}
