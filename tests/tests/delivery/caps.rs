//! How much may be under lease: at one member, and in the whole group.

use std::time::Duration;

use sluice_proto::pb::{GroupConfig, IdleReason, PullRequest, PullResponse, SettleRequest};
use sluice_tests::{
    api::{Api, expect},
    member::{Member, ack},
};

use super::{config, member, ms, next, with_events};

/// No lease runs out meanwhile.
fn lasting() -> GroupConfig {
    GroupConfig {
        lease_duration: ms(60 * 60 * 1000),
        ..config()
    }
}

/// Waits until the group is at a cap, so that it gives nothing more; says what each
/// member that is connected has, in the order in which they joined.
async fn at_the_cap(api: &Api) -> Vec<i64> {
    let waits = async {
        loop {
            let described = api.describe_group("in", "workers").await;
            if described.idle() == IdleReason::InFlightCap {
                let mut members = described.members;
                members.sort_by_key(|member| member.joined_at.map(|at| (at.seconds, at.nanos)));
                return members.iter().map(|member| member.in_flight).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    expect("the group to be at its cap", waits).await
}

async fn pull(api: &Api, name: &str, max_events: i32) -> PullResponse {
    let request = PullRequest {
        topic: "in".to_owned(),
        group: "workers".to_owned(),
        member: name.to_owned(),
        max_events,
        ..PullRequest::default()
    };
    api.broker.clone().pull(request).await.unwrap().into_inner()
}

/// Ids of what was pulled.
fn pulled_ids(pulled: &PullResponse) -> Vec<&str> {
    let events = pulled.deliveries.iter().filter_map(|of| of.event.as_ref());
    events.map(|event| event.id.as_str()).collect()
}

/// Takes what the member has been sent, and no more.
async fn ids(member: &mut Member, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(next(member).await.0);
    }
    assert!(member.delivery_at_hand().is_none(), "more than {count}");
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_holds_no_more_than_its_cap_whatever_its_credit_and_others_get_the_rest() {
    let capped = GroupConfig {
        max_in_flight_per_member: 2,
        ..lasting()
    };
    let (_broker, api) = with_events(capped, 7).await;
    let mut one = member(&api, 10).await;
    let (first, held) = next(&mut one).await;
    assert_eq!(
        (first.as_str(), next(&mut one).await.0.as_str()),
        ("e0", "e1")
    );
    assert_eq!(at_the_cap(&api).await, [2]);

    // What it settles it gets again, and no more than that.
    let settled = one.settle(vec![ack(held.lease.unwrap())]);
    assert_eq!(settled.await.unwrap(), []);
    assert_eq!(ids(&mut one, 1).await, ["e2"]);
    assert_eq!(at_the_cap(&api).await, [2]);

    let mut other = member(&api, 10).await;
    assert_eq!(ids(&mut other, 2).await, ["e3", "e4"]);
    assert_eq!(at_the_cap(&api).await, [2, 2]);
    assert!(one.delivery_at_hand().is_none());

    // Who pulls is a member by its name.
    let pulled = pull(&api, "puller", 10).await;
    assert_eq!(pulled_ids(&pulled), ["e5", "e6"]);
    let described = api.describe_group("in", "workers").await;
    assert_eq!(described.counts.unwrap().in_flight, 6);
}

/// The same of one that pulls again and again.
#[tokio::test(flavor = "multi_thread")]
async fn who_pulls_holds_no_more_than_its_cap() {
    let capped = GroupConfig {
        max_in_flight_per_member: 2,
        ..lasting()
    };
    let (_broker, api) = with_events(capped, 5).await;
    let first = pull(&api, "one", 10).await;
    assert_eq!(pulled_ids(&first), ["e0", "e1"]);
    assert_eq!(pulled_ids(&pull(&api, "one", 10).await), [""; 0]);
    assert_eq!(pulled_ids(&pull(&api, "other", 1).await), ["e2"]);
    let request = SettleRequest {
        topic: "in".to_owned(),
        group: "workers".to_owned(),
        settlements: vec![ack(first.deliveries[0].lease.unwrap())],
    };
    let settled = api.broker.clone().settle(request).await.unwrap();
    assert_eq!(settled.into_inner().failures, []);
    assert_eq!(pulled_ids(&pull(&api, "one", 10).await), ["e3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_those_who_pull_share_the_cap_of_their_group() {
    let capped = GroupConfig {
        max_in_flight: 4,
        ..lasting()
    };
    let (_broker, api) = with_events(capped, 8).await;
    let mut one = member(&api, 2).await;
    let (first, held) = next(&mut one).await;
    assert_eq!(
        (first.as_str(), next(&mut one).await.0.as_str()),
        ("e0", "e1")
    );
    assert_eq!(pulled_ids(&pull(&api, "puller", 1).await), ["e2"]);
    // All that is left of the cap, of more that there is credit for.
    let mut other = member(&api, 10).await;
    assert_eq!(ids(&mut other, 1).await, ["e3"]);
    assert_eq!(at_the_cap(&api).await, [2, 1]);
    let refused = pull(&api, "puller", 10).await;
    assert_eq!(pulled_ids(&refused), [""; 0]);
    assert_eq!(refused.idle(), IdleReason::InFlightCap);

    // What one settles another gets, who has credit for it.
    let settled = one.settle(vec![ack(held.lease.unwrap())]);
    assert_eq!(settled.await.unwrap(), []);
    assert_eq!(ids(&mut other, 1).await, ["e4"]);
    assert_eq!(at_the_cap(&api).await, [1, 2]);
    let described = api.describe_group("in", "workers").await;
    assert_eq!(described.counts.unwrap().in_flight, 4);
}
