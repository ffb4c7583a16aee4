//! What is left after the broker's death, and whether it may be so.

use std::{collections::BTreeSet, time::Duration};

use sluice_proto::pb::{DeadLetter, Delivery, DescribeTopicRequest, IdleReason, Settlement};
use sluice_tests::{
    api::{Api, expect},
    member::{Member, ack, join},
};

use crate::{
    DEADLY, DONE, EVENTS,
    story::{Told, dead_letters, id, redrive, reject},
};

/// Where an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Its group gets it from its topic.
    Source,
    /// Among the dead letters.
    Letters,
    /// Its group gets it as one that was redriven.
    Redriven,
    /// Nowhere.
    Done,
}

/// Looks at a broker that was restarted, and brings the story to its end.
///
/// # Panics
/// When an event is lost or doubled, or a promise is not kept.
pub(crate) async fn audit(api: &Api, told: &Told) {
    let letters = unique(dead_letters(api).await.unwrap().iter().map(id).collect());
    let delivered = drain(api, "workers").await;
    for event in EVENTS {
        let place = place(event, &letters, &delivered);
        assert!(
            allowed(event, told).contains(&place),
            "{event}: {place:?}, {told:?}"
        );
    }

    // What came from the topic was rejected, or was done.
    let rejected = of(&delivered, 0).into_iter().filter(|id| id != DONE);
    let expected: BTreeSet<_> = letters.into_iter().chain(rejected).collect();
    let letters: Vec<DeadLetter> = dead_letters(api).await.unwrap();
    let found = unique(letters.iter().map(id).collect());
    assert_eq!(found, expected, "what was not done is a dead letter");
    for letter in &letters {
        let history = letter.history.as_ref().unwrap();
        assert_eq!(history.attempt_count, 1, "{history:?}");
        assert_eq!(
            (history.redrives, history.attempts.len()),
            (0, 1),
            "{history:?}"
        );
    }
    let count = i64::try_from(letters.len()).unwrap();
    assert_eq!(redrive(api, None).await.unwrap(), count);
    let again = drain(api, "workers").await;
    assert_eq!(unique(of(&again, 1)), expected, "each is redriven, once");
    assert_eq!(again.len(), letters.len(), "nothing else is delivered");
    assert_eq!(dead_letters(api).await.unwrap(), []);
    assert_eq!(drain(api, "workers").await, []);

    assert_eq!(appended(api, "_dlq:in:workers").await, 3, "each once");
    let others = drain(api, "others").await;
    assert_eq!(
        others.len(),
        EVENTS.len(),
        "another group gets nothing redriven"
    );
    assert_eq!(
        unique(of(&others, 0)),
        unique(EVENTS.map(str::to_owned).to_vec())
    );
}

/// Where an event is, which must be one place.
fn place(event: &str, letters: &BTreeSet<String>, delivered: &[(String, i32)]) -> Place {
    let mut places = Vec::new();
    if letters.contains(event) {
        places.push(Place::Letters);
    }
    for (id, redrives) in delivered {
        if id == event {
            places.push(match redrives {
                0 => Place::Source,
                1 => Place::Redriven,
                _ => panic!("{event} was redriven {redrives} times"),
            });
        }
    }
    assert!(places.len() <= 1, "{event} is doubled: {places:?}");
    places.pop().unwrap_or(Place::Done)
}

/// Where an event may be, by what was asked and answered.
fn allowed(event: &str, told: &Told) -> Vec<Place> {
    if event == DONE {
        return match (told.settling, told.settled) {
            (_, true) => vec![Place::Done],
            (true, _) => vec![Place::Done, Place::Source],
            _ => vec![Place::Source],
        };
    }
    let mut places = Vec::new();
    let is_letter = told.letters.contains(event) || (told.settled && event != DEADLY);
    if !is_letter {
        places.push(Place::Source);
    }
    if told.settling && !told.redriven.contains(event) {
        places.push(Place::Letters);
    }
    if !told.letters.is_empty() && !told.acked {
        places.push(Place::Redriven);
    }
    if told.acking {
        places.push(Place::Done);
    }
    places
}

/// Takes all that a group gets, each event with how often it was redriven.
/// Rejects what comes from the topic, but for what is to be done, and acks what
/// was redriven. The other group acks all.
async fn drain(api: &Api, group: &str) -> Vec<(String, i32)> {
    let drained = drain_with(api, group, |delivery| {
        let id = &delivery.event.as_ref().unwrap().id;
        assert_eq!(delivery.attempt, 1, "{id}");
        let lease = delivery.lease.unwrap();
        let is_letter = delivery.redrives == 0 && id != DONE && group == "workers";
        if is_letter { reject(lease) } else { ack(lease) }
    });
    let drained = drained.await.into_iter();
    drained
        .map(|of| (of.event.unwrap().id, of.redrives))
        .collect()
}

/// Takes all that a group gets, and settles each.
pub(crate) async fn drain_with(
    api: &Api,
    group: &str,
    settlement: impl Fn(&Delivery) -> Settlement,
) -> Vec<Delivery> {
    let mut worker = Member::join(api, join("in", group, 100)).await.unwrap();
    let _beats = worker.heartbeats();
    let mut drained = Vec::new();
    let draining = async {
        loop {
            tokio::select! {
                delivery = worker.delivery() => {
                    let delivery = delivery.unwrap();
                    let failures = worker.settle(vec![settlement(&delivery)]).await.unwrap();
                    assert_eq!(failures, []);
                    drained.push(delivery);
                }
                () = tokio::time::sleep(Duration::from_millis(5)) => {
                    let stands = api.describe_group("in", group).await;
                    let is_empty = stands.idle() == IdleReason::Empty
                        && stands.partitions[0].lag == 0
                        && stands.members.iter().all(|member| member.in_flight == 0);
                    if is_empty {
                        return;
                    }
                }
            }
        }
    };
    expect("the group to come to its end", draining).await;
    expect("the end of the stream", worker.leave())
        .await
        .unwrap();
    drained
}

/// How many events a topic ever got, whether it has them still or not.
pub(crate) async fn appended(api: &Api, topic: &str) -> i64 {
    let request = DescribeTopicRequest {
        topic: topic.to_owned(),
    };
    let described = api.admin.clone().describe_topic(request).await;
    described.unwrap().into_inner().partitions[0].visible_end
}

/// Those that were redriven so often.
fn of(drained: &[(String, i32)], redrives: i32) -> Vec<String> {
    let mut of = drained.to_vec();
    of.retain(|(_, times)| *times == redrives);
    of.into_iter().map(|(id, _)| id).collect()
}

/// The same as a set.
///
/// # Panics
/// When one of them is there twice.
fn unique(ids: Vec<String>) -> BTreeSet<String> {
    let set: BTreeSet<_> = ids.iter().cloned().collect();
    assert_eq!(set.len(), ids.len(), "one is there twice: {ids:?}");
    set
}
