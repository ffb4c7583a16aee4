//! Consumer groups for slow, uneven, failing work.

#![allow(clippy::unwrap_used)] // A failed step is a failed test.

mod attempts;
mod caps;
mod expiry;
mod long_work;
mod pains;
mod stopping;
mod stuck;

use std::time::Duration;

use sluice_proto::pb::{
    Delivery, GroupConfig, LeaseToken, Nack, Ordering, Reject, RetryPolicy, Settlement,
    settlement::Action,
};
use sluice_tests::{
    api::{Api, event},
    broker::TestBroker,
    member::{Member, ack, join},
};

const LEASE_MS: u64 = 1_000;

fn ms(ms: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(ms).try_into().unwrap())
}

/// A group of short leases, no order, retries at once, and three attempts.
fn config() -> GroupConfig {
    GroupConfig {
        lease_duration: ms(LEASE_MS),
        ordering: Ordering::None.into(),
        retry: Some(RetryPolicy {
            max_attempts: 3,
            initial_delay: ms(0),
            ..RetryPolicy::default()
        }),
        solo_wait: ms(200),
        ..GroupConfig::default()
    }
}

/// A broker with a topic "in" of one partition, a group "workers", and `events`
/// events in the topic.
async fn with_events(config: GroupConfig, events: usize) -> (TestBroker, Api) {
    let broker = TestBroker::start();
    let api = Api::connect(broker.url()).await;
    api.create_topic("in", 1).await;
    api.create_group("in", "workers", config).await;
    if events > 0 {
        let events = (0..events).map(|number| event(&format!("e{number}")));
        api.publish("in", events.collect()).await.unwrap();
    }
    (broker, api)
}

async fn member(api: &Api, credit: i64) -> Member {
    Member::join(api, join("in", "workers", credit))
        .await
        .unwrap()
}

fn nack(lease: LeaseToken, delay_ms: u64) -> Settlement {
    Settlement {
        lease: Some(lease),
        action: Some(Action::Nack(Nack {
            delay: ms(delay_ms),
            reason: "not now".to_owned(),
        })),
    }
}

fn reject(lease: LeaseToken) -> Settlement {
    Settlement {
        lease: Some(lease),
        action: Some(Action::Reject(Reject {
            reason: "never".to_owned(),
        })),
    }
}

/// Takes the next event and says which.
async fn next(member: &mut Member) -> (String, Delivery) {
    let delivery = member.delivery().await.unwrap();
    let id = delivery.event.as_ref().unwrap().id.clone();
    (id, delivery)
}

/// Takes the next event, acks it, and says which it was.
async fn ack_next(member: &mut Member) -> String {
    let (id, delivery) = next(member).await;
    let failures = member.settle(vec![ack(delivery.lease.unwrap())]).await;
    assert_eq!(failures.unwrap(), []);
    id
}
