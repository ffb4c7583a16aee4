//! What happens to the events until the broker dies.

use std::{collections::BTreeSet, time::Duration};

use sluice_proto::pb::{
    ConnectionLoss, DeadLetter, GroupConfig, ListDeadLettersRequest, Nack, Ordering,
    RedriveDeadLettersRequest, Reject, RetryPolicy, Settlement, settlement::Action,
};
use sluice_tests::{
    api::{Api, event},
    member::{Member, ack, join},
};
use tonic::Status;

use crate::{DEADLY, DONE, EVENTS, FAILED, REJECTED};

/// What was asked of the broker, and what it has promised by its answers.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The settlements of the first deliveries were sent.
    pub(crate) settling: bool,
    /// They were answered.
    pub(crate) settled: bool,
    /// These were seen among the dead letters.
    pub(crate) letters: BTreeSet<String>,
    /// The broker has said that these are redriven.
    pub(crate) redriven: BTreeSet<String>,
    /// Acks of redriven events were sent.
    pub(crate) acking: bool,
    /// They were answered.
    pub(crate) acked: bool,
}

/// Two groups, and their events.
pub(crate) async fn prepare(api: &Api) {
    let config = GroupConfig {
        ordering: Ordering::None.into(),
        retry: Some(RetryPolicy {
            max_attempts: 1,
            ..RetryPolicy::default()
        }),
        on_connection_loss: ConnectionLoss::AtOnce.into(),
        ..GroupConfig::default()
    };
    for group in ["workers", "others"] {
        api.create_group("in", group, config.clone()).await;
    }
    let events = EVENTS.map(event).to_vec();
    api.publish("in", events).await.unwrap();
}

/// Three events become dead letters, each in another way, and a fourth is done;
/// the three are redriven, one alone and two together, and done.
pub(crate) async fn tell(api: &Api, told: &mut Told) -> Result<(), Status> {
    let count = i64::try_from(EVENTS.len()).unwrap();
    let mut worker = Member::join(api, join("in", "workers", count)).await?;
    let beats = worker.heartbeats();
    let mut settlements = Vec::new();
    for _ in EVENTS {
        let delivery = worker.delivery().await?;
        let lease = delivery.lease.unwrap();
        match delivery.event.unwrap().id.as_str() {
            REJECTED => settlements.push(reject(lease)),
            FAILED => settlements.push(Settlement {
                lease: Some(lease),
                action: Some(Action::Nack(Nack::default())),
            }),
            DONE => settlements.push(ack(lease)),
            _ => {}
        }
    }
    told.settling = true;
    assert_eq!(worker.settle(settlements).await?, []);
    told.settled = true;
    // All that it holds now is the deadly one.
    drop((worker, beats));
    let mut letters = Vec::new();
    while letters.len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        letters = dead_letters(api).await?;
        told.letters.extend(letters.iter().map(id));
    }

    let first = letters.remove(0);
    assert_eq!(redrive(api, Some(first.dead_letter_offset)).await?, 1);
    told.redriven.insert(id(&first));
    assert_eq!(redrive(api, None).await?, 2);
    told.redriven.extend(letters.iter().map(id));

    let mut worker = Member::join(api, join("in", "workers", count)).await?;
    let _beats = worker.heartbeats();
    let mut acks = Vec::new();
    let mut returned = BTreeSet::new();
    for _ in 0..3 {
        let delivery = worker.delivery().await?;
        assert_eq!((delivery.redrives, delivery.attempt), (1, 1));
        returned.insert(delivery.event.unwrap().id);
        acks.push(ack(delivery.lease.unwrap()));
    }
    assert_eq!(
        returned,
        BTreeSet::from([REJECTED, FAILED, DEADLY].map(str::to_owned))
    );
    told.acking = true;
    assert_eq!(worker.settle(acks).await?, []);
    told.acked = true;
    worker.leave().await
}

/// The open dead letters.
pub(crate) async fn dead_letters(api: &Api) -> Result<Vec<DeadLetter>, Status> {
    let request = ListDeadLettersRequest {
        topic: "in".to_owned(),
        group: "workers".to_owned(),
        ..ListDeadLettersRequest::default()
    };
    let listed = api.admin.clone().list_dead_letters(request).await?;
    Ok(listed.into_inner().dead_letters)
}

/// Redrives one, or all; says how many that were.
pub(crate) async fn redrive(api: &Api, offset: Option<i64>) -> Result<i64, Status> {
    let request = RedriveDeadLettersRequest {
        topic: "in".to_owned(),
        group: "workers".to_owned(),
        all: offset.is_none(),
        dead_letter_offsets: offset.into_iter().collect(),
        force: false,
        ..RedriveDeadLettersRequest::default()
    };
    let redriven = api.admin.clone().redrive_dead_letters(request).await?;
    Ok(redriven.into_inner().redriven_count)
}

/// A reject.
pub(crate) fn reject(lease: sluice_proto::pb::LeaseToken) -> Settlement {
    Settlement {
        lease: Some(lease),
        action: Some(Action::Reject(Reject {
            reason: "never".to_owned(),
        })),
    }
}

/// Which event it is.
pub(crate) fn id(letter: &DeadLetter) -> String {
    letter.event.as_ref().unwrap().id.clone()
}
