//! What a Commit may combine.

use std::collections::BTreeMap;

use sluice_proto::pb::{Channel, CommitOutput, CommitRequest};
use sluice_tests::{api::event, member::commit};
use tonic::Code;

use crate::place::{Place, ids};

fn outputs(to: &[&str], id: &str) -> Vec<CommitOutput> {
    let output = |topic: &&str| CommitOutput {
        topic: (*topic).to_owned(),
        events: vec![event(id)],
        partition: None,
    };
    to.iter().map(output).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_to_a_memory_topic_must_be_allowed() {
    let mut place = Place::start(&[]).await;
    place.topic("in", Channel::Fsync).await;
    place.topic("m", Channel::Memory).await;
    place.topic("f", Channel::Fsync).await;
    place.group("in", "g").await;
    place.publish("in", "input").await;
    let input = place.pull("in", "g").await;
    let mut request = commit(("in", "g"), input.lease.unwrap(), "f", event("output"));
    request.outputs = outputs(&["f", "m"], "output");
    let refused = place.commit(request.clone()).await.unwrap_err();
    assert_eq!(
        (refused.code, &*refused.reason, refused.field.as_deref()),
        (
            Code::InvalidArgument,
            "VOLATILE_OUTPUT",
            Some("outputs[1].topic")
        )
    );
    assert!(place.read_from("f", 0, 0).await.unwrap().is_empty());

    request.allow_volatile = true;
    let committed = place.commit(request).await.unwrap();
    let epochs: BTreeMap<_, _> = committed
        .ranges
        .iter()
        .map(|of| (&*of.topic, of.epoch))
        .collect();
    assert_eq!(epochs["f"], 0);
    assert!(epochs["m"] > 0);
    assert_eq!(ids(&place.read_from("m", 0, 0).await.unwrap()), ["output"]);

    place.kill_and_restart().await;
    assert_eq!(ids(&place.read_from("f", 0, 0).await.unwrap()), ["output"]);
    assert!(place.read_from("m", 0, 0).await.unwrap().is_empty());
    let group = place.api.describe_group("in", "g").await;
    assert_eq!(group.partitions[0].committed_end, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_an_input_from_memory_are_durable_and_appear_once() {
    let mut place = Place::start(&[]).await;
    place.topic("m", Channel::Memory).await;
    place.topic("f", Channel::Fsync).await;
    place.group("m", "g").await;
    place.publish("m", "input").await;
    let input = place.pull("m", "g").await;
    let request = commit(("m", "g"), input.lease.unwrap(), "f", event("output"));
    place.commit(request.clone()).await.unwrap();
    let late = place.commit(request.clone()).await.unwrap_err();
    assert_eq!(late.reason, "LEASE_LOST");
    place.api.wait_until_caught_up("m", "g").await;

    place.kill_and_restart().await;
    let late = place.commit(request).await.unwrap_err();
    assert_eq!(late.reason, "LEASE_LOST");
    assert_eq!(ids(&place.read_from("f", 0, 0).await.unwrap()), ["output"]);
}

/// Events that wait for a block, and events that do not, in one partition.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_readable_in_order_whether_they_wait_for_the_log_or_not() {
    let place = Place::start(&[]).await;
    place.topic("m", Channel::Memory).await;
    place.topic("f", Channel::Fsync).await;
    let writers = (0..8).map(|writer| {
        let api = place.api.clone();
        tokio::spawn(async move {
            let mut offsets = BTreeMap::new();
            for number in 0..20 {
                let id = format!("{writer}/{number}");
                let ranges = if (writer + number) % 2 == 0 {
                    api.publish("m", vec![event(&id)]).await.unwrap()
                } else {
                    let request = CommitRequest {
                        outputs: outputs(&["f", "m"], &id),
                        allow_volatile: true,
                        ..CommitRequest::default()
                    };
                    let answer = api.broker.clone().commit(request).await.unwrap();
                    answer.into_inner().ranges
                };
                let range = ranges.iter().find(|range| range.topic == "m").unwrap();
                // What was answered can be read.
                let read = api.read_all("m").await;
                let at = usize::try_from(range.first_offset).unwrap();
                assert_eq!(read[at].0.id, id);
                offsets.insert(range.first_offset, id);
            }
            offsets
        })
    });
    let mut all = BTreeMap::new();
    for writer in writers.collect::<Vec<_>>() {
        all.extend(writer.await.unwrap());
    }
    assert_eq!(all.len(), 160);
    let read = place.read_from("m", 0, 0).await.unwrap();
    assert_eq!(ids(&read), all.values().collect::<Vec<_>>());
}
