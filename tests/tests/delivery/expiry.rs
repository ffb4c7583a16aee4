//! Leases that run out together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use sluice_proto::pb::{DeleteGroupRequest, GroupConfig, SettleRequest};
use sluice_tests::{
    api::{Api, event, expect},
    member::{Member, ack},
};
use tokio::{sync::watch, task::JoinSet};

use super::{ack_next, config, member, ms, next, with_events};

const EVENTS: usize = 10_000;
/// Members that work off what has come back.
const MEMBERS: usize = 32;

/// Acks what comes until it is told that there is no more, and counts.
async fn work(
    mut worker: Member,
    mut over: watch::Receiver<bool>,
    delivered: Arc<Mutex<BTreeMap<String, u32>>>,
) {
    let _beats = worker.heartbeats();
    loop {
        tokio::select! {
            _ = over.changed() => return,
            (id, delivery) = next(&mut worker) => {
                assert_eq!(delivery.attempt, 1, "it was not alone when it was lost");
                *delivered.lock().unwrap().entry(id).or_default() += 1;
                let failures = worker.settle(vec![ack(delivery.lease.unwrap())]).await;
                assert_eq!(failures.unwrap(), []);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_leases_that_run_out_together_come_back_once_and_hold_up_no_new_event() {
    let short = GroupConfig {
        lease_duration: ms(3_000),
        max_in_flight: 100_000,
        ..config()
    };
    let (_broker, api) = with_events(short, EVENTS).await;
    let mut silent = member(&api, EVENTS as i64).await;
    let mut first = BTreeSet::new();
    for _ in 0..EVENTS {
        first.insert(next(&mut silent).await.0);
    }
    assert_eq!(first.len(), EVENTS);
    let lost = expect("the leases to be lost", silent.lost())
        .await
        .unwrap();
    assert_eq!(lost.len(), EVENTS);

    let mut other = member(&api, EVENTS as i64).await;
    let beats = other.heartbeats();
    api.publish("in", vec![event("new")]).await.unwrap();
    let mut delivered: BTreeMap<String, u32> = BTreeMap::new();
    loop {
        let id = ack_next(&mut other).await;
        if id == "new" {
            break;
        }
        *delivered.entry(id).or_default() += 1;
    }
    let lag = api.describe_group("in", "workers").await.partitions[0].lag;
    assert!(lag > 0, "the new event was the last");
    expect("the end of the stream", other.leave())
        .await
        .unwrap();
    drop((silent, beats));

    let delivered = Arc::new(Mutex::new(delivered));
    let (over, is_over) = watch::channel(false);
    let mut workers = JoinSet::new();
    for _ in 0..MEMBERS {
        let worker = member(&api, EVENTS as i64).await;
        workers.spawn(work(worker, is_over.clone(), delivered.clone()));
    }
    api.wait_until_caught_up("in", "workers").await;
    over.send(true).unwrap();
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    let delivered = delivered.lock().unwrap();
    assert_eq!(delivered.keys().cloned().collect::<BTreeSet<_>>(), first);
    let again: Vec<_> = delivered.iter().filter(|(_, times)| **times > 1).collect();
    assert!(again.is_empty(), "once for one expiry: {again:?}");
}

/// A lease is of the group that gave it, not of another one that has its name later.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_a_group_that_was_deleted_settles_nothing_of_its_namesake() {
    let (_broker, api) = with_events(config(), 1).await;
    let lease_in = async |api: &Api| {
        let mut worker = member(api, 1).await;
        let lease = worker.delivery().await.unwrap().lease.unwrap();
        (worker, lease)
    };
    let (_before, old) = lease_in(&api).await;
    let delete = DeleteGroupRequest {
        topic: "in".to_owned(),
        group: "workers".to_owned(),
    };
    api.admin.clone().delete_group(delete).await.unwrap();
    api.create_group("in", "workers", config()).await;
    let (mut worker, new) = lease_in(&api).await;
    assert_ne!(old, new);
    let settle = SettleRequest {
        topic: "in".to_owned(),
        group: "workers".to_owned(),
        settlements: vec![ack(old)],
    };
    let answer = api.broker.clone().settle(settle).await.unwrap();
    assert_eq!(answer.into_inner().failures.len(), 1, "it is lost");
    assert_eq!(worker.settle(vec![ack(new)]).await.unwrap(), []);
}
