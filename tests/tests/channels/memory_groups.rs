//! What groups keep of a memory topic, and what they do not.

use std::time::Duration;

use sluice_proto::pb::{Channel, ListDeadLettersRequest, RedriveDeadLettersRequest};

use crate::place::{Place, ack, nack, reject};

impl Place {
    async fn dead_letters(&self, topic: &str, group: &str) -> Vec<String> {
        let request = ListDeadLettersRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            ..ListDeadLettersRequest::default()
        };
        let answer = self.api.admin.clone().list_dead_letters(request).await;
        let letters = answer.unwrap().into_inner().dead_letters;
        letters.into_iter().map(|of| of.event.unwrap().id).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_a_memory_topic_begins_anew_after_a_kill() {
    let mut place = Place::start(&[]).await;
    place.topic("m", Channel::Memory).await;
    place.group("m", "g").await;
    for id in ["a", "b", "c", "d"] {
        place.publish("m", id).await;
    }
    let done = place.pull("m", "g").await;
    place.settle("m", "g", &done, ack()).await;
    let failed = place.pull("m", "g").await;
    place.settle("m", "g", &failed, nack()).await;
    let held = place.pull("m", "g").await;
    // Leases are noted after a second; one of a memory topic is not.
    tokio::time::sleep(Duration::from_millis(1500)).await;

    place.kill_and_restart().await;
    let group = place.api.describe_group("m", "g").await;
    let partition = &group.partitions[0];
    assert_eq!((partition.committed_end, partition.lag), (0, 0));
    assert_eq!((partition.held, partition.delayed), (0, 0));
    for id in ["e", "f"] {
        place.publish("m", id).await;
    }
    for (offset, id) in ["e", "f"].into_iter().enumerate() {
        let delivery = place.pull("m", "g").await;
        assert_eq!(delivery.event.as_ref().unwrap().id, id);
        assert_eq!(delivery.offset, i64::try_from(offset).unwrap());
        assert_eq!(delivery.attempt, 1);
        assert!(delivery.epoch > held.epoch);
        // The lease of before is not this one, though it is on the same offset.
        let late = place.try_settle("m", "g", &held, ack()).await.unwrap_err();
        assert_eq!(late.reason, "LEASE_LOST");
        place.settle("m", "g", &delivery, ack()).await;
    }
    place.api.wait_until_caught_up("m", "g").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_a_memory_topic_survive_a_kill() {
    let mut place = Place::start(&[]).await;
    place.topic("m", Channel::Memory).await;
    place.group("m", "g").await;
    place.publish("m", "bad").await;
    place.publish("m", "worse").await;
    let bad = place.pull("m", "g").await;
    place.settle("m", "g", &bad, reject()).await;
    for _ in 0..2 {
        let worse = place.pull("m", "g").await;
        place.settle("m", "g", &worse, nack()).await;
    }
    place.api.wait_until_caught_up("m", "g").await;

    place.kill_and_restart().await;
    assert_eq!(place.dead_letters("m", "g").await, ["bad", "worse"]);
    let redrive = RedriveDeadLettersRequest {
        topic: "m".to_owned(),
        group: "g".to_owned(),
        all: true,
        ..RedriveDeadLettersRequest::default()
    };
    let answer = place.api.admin.clone().redrive_dead_letters(redrive).await;
    assert_eq!(answer.unwrap().into_inner().redriven_count, 2);
    // What was redriven is in the log, as is what the group does with it.
    let again = place.pull("m", "g").await;
    assert_eq!((again.redrives, again.epoch), (1, 0));
    place.settle("m", "g", &again, ack()).await;
    place.kill_and_restart().await;
    let again = place.pull("m", "g").await;
    assert_eq!(again.event.as_ref().unwrap().id, "worse");
    assert!(place.dead_letters("m", "g").await.is_empty());
}
