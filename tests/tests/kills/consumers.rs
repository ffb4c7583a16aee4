//! Consumers: one that acks, and one that commits its acks with outputs.

use std::collections::BTreeSet;

use sluice_proto::pb::{
    Delivery, Grant, LeaseToken, OpenProducerRequest, ProducerSequence,
    consume_request::Message as Request,
};
use sluice_tests::{
    api::{Refusal, event, is_unknown, key_of, places},
    history::{Delivered, Place},
    member::{Member, ack, commit, join},
};

use crate::run::Run;

/// What a consumer is allowed to have at once.
const WINDOW: i64 = 32;

/// One delivery, noted.
fn took(run: &Run, group: &str, delivery: Delivery) -> Taken {
    let event = delivery.event.unwrap();
    let lease = delivery.lease.unwrap();
    let delivered = Delivered {
        group: group.to_owned(),
        id: event.id.clone(),
        key: key_of(&event).map(str::to_owned),
        place: Place {
            topic: "in".to_owned(),
            partition: delivery.partition,
            offset: delivery.offset,
        },
        lease: (lease.epoch, lease.counter),
    };
    run.note(|history| history.delivered(delivered));
    Taken {
        id: event.id,
        lease,
    }
}

struct Taken {
    id: String,
    lease: LeaseToken,
}

/// Acks what it gets, in batches, and presents what it holds when it joins again.
pub(crate) async fn acking(run: Run) {
    let mut held: Vec<Taken> = Vec::new();
    while let Some(api) = run.connect(&run.drained).await {
        let mut request = join("in", "acking", WINDOW);
        request.held = held.iter().map(|taken| taken.lease).collect();
        let Ok(mut member) = Member::join(&api, request).await else {
            continue;
        };
        held.retain(|taken| !member.joined.lost.contains(&taken.lease));
        let _heartbeats = member.heartbeats();
        let mut granted = WINDOW;
        let mut drained = run.drained.clone();
        loop {
            if held.is_empty() {
                tokio::select! {
                    _ = drained.changed() => return,
                    delivery = member.delivery() => match delivery {
                        Ok(delivery) => held.push(took(&run, "acking", delivery)),
                        Err(_) => break,
                    },
                }
            }
            while let Some(delivery) = member.delivery_at_hand() {
                held.push(took(&run, "acking", delivery));
            }
            let acks = held.iter().map(|taken| ack(taken.lease)).collect();
            let Ok(failures) = member.settle(acks).await else {
                break;
            };
            let failed: BTreeSet<_> = failures.iter().map(|failure| failure.index).collect();
            granted += i64::try_from(held.len()).unwrap();
            for (index, taken) in (0..).zip(held.drain(..)) {
                if !failed.contains(&index) {
                    let lease = (taken.lease.epoch, taken.lease.counter);
                    run.note(|history| history.settled("acking", &taken.id, lease));
                }
            }
            let grant = Grant {
                max_events: granted,
                max_bytes: 0,
            };
            member.send(Request::Grant(grant)).await;
        }
    }
}

/// Acks each event and publishes one for it in one commit, which it sends again
/// until it is answered.
pub(crate) async fn committing(run: Run) {
    let mut session: Option<(i64, i64)> = None;
    let mut sequence = 1;
    let mut pending: Option<Taken> = None;
    while let Some(api) = run.connect(&run.drained).await {
        let mut broker = api.broker.clone();
        if session.is_none() {
            let request = OpenProducerRequest::default();
            let Ok(opened) = broker.open_producer(request).await else {
                continue;
            };
            let opened = opened.into_inner();
            session = Some((opened.producer_id, opened.producer_epoch));
        }
        let (producer_id, producer_epoch) = session.unwrap();
        let mut member: Option<Member> = None;
        let mut _heartbeats = None;
        let mut granted = WINDOW;
        let mut drained = run.drained.clone();
        loop {
            let taken = match pending.take() {
                Some(taken) => taken,
                None => {
                    if member.is_none() {
                        let joined = Member::join(&api, join("in", "committing", WINDOW)).await;
                        let Ok(joined) = joined else { break };
                        _heartbeats = Some(joined.heartbeats());
                        member = Some(joined);
                    }
                    let member = member.as_mut().unwrap();
                    tokio::select! {
                        _ = drained.changed() => return,
                        delivery = member.delivery() => match delivery {
                            Ok(delivery) => took(&run, "committing", delivery),
                            Err(_) => break,
                        },
                    }
                }
            };
            let output = event(&format!("out-{}", taken.id));
            run.note(|history| history.publish_invoked(&output.id));
            let mut request = commit(("in", "committing"), taken.lease, "out", output.clone());
            request.producer = Some(ProducerSequence {
                producer_id,
                producer_epoch,
                sequence,
            });
            match broker.commit(request).await {
                Ok(response) => {
                    let ranges = response.into_inner().ranges;
                    let place = places(std::slice::from_ref(&output), 1, &ranges).remove(0);
                    let lease = (taken.lease.epoch, taken.lease.counter);
                    run.note(|history| {
                        history.publish_acked(&output.id, place);
                        history.settled("committing", &taken.id, lease);
                    });
                    sequence += 1;
                }
                Err(status) if is_unknown(&status) => {
                    pending = Some(taken);
                    break;
                }
                // Refused, so its sequence is not taken. The event comes again.
                Err(status) => {
                    let refusal = Refusal::from(&status);
                    assert_eq!(refusal.reason, "LEASE_LOST", "{refusal:?}");
                }
            }
            granted += 1;
            if let Some(member) = &member {
                let grant = Grant {
                    max_events: granted,
                    max_bytes: 0,
                };
                member.send(Request::Grant(grant)).await;
            }
        }
    }
}
