//! An event is given back for long, so that it is parked, and one of its key that
//! is behind it as well; and what may be left of that.

use std::{collections::BTreeSet, time::Duration};

use sluice_proto::pb::{
    ConnectionLoss, DescribeGroupRequest, GroupConfig, LeaseToken, Nack, Settlement,
    settlement::Action,
};
use sluice_tests::{
    api::{Api, keyed_event},
    member::{Member, ack, join},
};
use tonic::Status;

use crate::audit::{appended, drain_with};

/// Two events of one key, and one of another.
const FIRST: &str = "first";
const SECOND: &str = "second";
const OTHER: &str = "other";
const EVENTS: [&str; 3] = [FIRST, OTHER, SECOND];

/// What was asked of the broker, and what it has promised by its answers.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The first event was to be given back.
    nacking: bool,
    /// That was answered.
    nacked: bool,
    /// The first and the second were seen to be parked.
    parked: bool,
    /// Acks of these were sent.
    acking: BTreeSet<&'static str>,
    /// They were answered.
    acked: BTreeSet<&'static str>,
}

/// A group, and its events.
pub(crate) async fn prepare(api: &Api) {
    let config = GroupConfig {
        on_connection_loss: ConnectionLoss::AtOnce.into(),
        ..GroupConfig::default()
    };
    api.create_group("in", "workers", config).await;
    let events = EVENTS.map(|id| keyed_event(id, if id == OTHER { "b" } else { "a" }));
    api.publish("in", events.to_vec()).await.unwrap();
}

/// The first is given back, it and the second are parked, and all are done.
pub(crate) async fn tell(api: &Api, told: &mut Told) -> Result<(), Status> {
    let mut worker = Member::join(api, join("in", "workers", 4)).await?;
    let _beats = worker.heartbeats();
    for _ in 0..2 {
        let delivery = worker.delivery().await?;
        let lease = delivery.lease.unwrap();
        if delivery.event.unwrap().id == FIRST {
            told.nacking = true;
            assert_eq!(worker.settle(vec![nack(lease)]).await?, []);
            told.nacked = true;
        } else {
            done(&mut worker, OTHER, lease, told).await?;
        }
    }
    // What is left to do is nothing of the topic's any more.
    while describe(api).await?.0 > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    told.parked = true;
    for (expected, attempt) in [(FIRST, 2), (SECOND, 1)] {
        let delivery = worker.delivery().await?;
        assert_eq!(delivery.event.unwrap().id, expected);
        assert_eq!(delivery.attempt, attempt);
        done(&mut worker, expected, delivery.lease.unwrap(), told).await?;
    }
    worker.leave().await
}

/// Looks at a broker that was restarted, and brings the story to its end.
///
/// # Panics
/// When an event is lost or doubled, or a promise is not kept.
pub(crate) async fn audit(api: &Api, told: &Told) {
    let drained = drain_with(api, "workers", |delivery| ack(delivery.lease.unwrap())).await;
    let mut ids = Vec::new();
    for delivery in drained {
        let id = delivery.event.unwrap().id;
        let may_be: &[i32] = match (told.nacking, told.nacked) {
            (_, true) if id == FIRST => &[2],
            (true, _) if id == FIRST => &[1, 2],
            _ => &[1],
        };
        assert!(may_be.contains(&delivery.attempt), "{id}: {told:?}");
        assert!(!told.acked.contains(id.as_str()), "{id}: {told:?}");
        let home = EVENTS.iter().position(|event| *event == id).unwrap();
        assert_eq!(delivery.offset, i64::try_from(home).unwrap(), "{id}");
        ids.push(id);
    }
    for event in EVENTS {
        let times = ids.iter().filter(|id| *id == event).count();
        let may_be_done = told.acking.contains(event);
        assert!(
            times == 1 || (times == 0 && may_be_done),
            "{event} came {times} times: {told:?}"
        );
    }
    let place = |event: &str| ids.iter().position(|id| id == event);
    if let (Some(first), Some(second)) = (place(FIRST), place(SECOND)) {
        assert!(first < second, "the order of their key: {ids:?}");
    }
    let parked = appended(api, "_park:in:workers").await;
    assert!(parked <= 2, "each once: {parked}, {told:?}");
    assert!(!told.parked || parked == 2, "{parked}, {told:?}");
    assert_eq!(describe(api).await.unwrap(), (0, 0), "nothing is left");
}

async fn done(
    worker: &mut Member,
    event: &'static str,
    lease: LeaseToken,
    told: &mut Told,
) -> Result<(), Status> {
    told.acking.insert(event);
    assert_eq!(worker.settle(vec![ack(lease)]).await?, []);
    told.acked.insert(event);
    Ok(())
}

/// Back for half a second, which is longer than the time after which it is parked.
fn nack(lease: LeaseToken) -> Settlement {
    Settlement {
        lease: Some(lease),
        action: Some(Action::Nack(Nack {
            delay: Some(Duration::from_millis(500).try_into().unwrap()),
            reason: "not now".to_owned(),
        })),
    }
}

/// What the group has not settled in the topic, and what it has parked.
async fn describe(api: &Api) -> Result<(i64, i64), Status> {
    let request = DescribeGroupRequest {
        topic: "in".to_owned(),
        group: "workers".to_owned(),
        ..DescribeGroupRequest::default()
    };
    let described = api
        .admin
        .clone()
        .describe_group(request)
        .await?
        .into_inner();
    let parked = described.counts.unwrap().parked;
    Ok((described.partitions[0].lag, parked))
}
