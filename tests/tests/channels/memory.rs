//! Memory topics: what an ack means, and what is left after a restart.

use std::{collections::BTreeSet, time::Duration};

use sluice_proto::pb::Channel;
use sluice_tests::api::event;
use tonic::Code;

use crate::place::{Place, ack, ids, nack};

#[tokio::test(flavor = "multi_thread")]
async fn memory_events_are_acked_and_delivered_and_never_written() {
    let small_files = "--limit=segment_bytes=16793600";
    let mut place = Place::start(&[small_files]).await;
    place.topic("m", Channel::Memory).await;
    place.topic("f", Channel::Fsync).await;
    place.group("m", "g").await;
    place.publish("m", "only-in-memory").await;
    place.publish("f", "also-on-the-disk").await;
    let first = place.pull("m", "g").await;
    place.settle("m", "g", &first, nack()).await;
    let second = place.pull("m", "g").await;
    assert_eq!(second.attempt, 2);
    place.settle("m", "g", &second, ack()).await;
    assert_eq!(
        ids(&place.read_from("m", 0, 0).await.unwrap()),
        ["only-in-memory"]
    );
    assert!(place.broker.stop().success());
    assert!(place.is_on_disk("also-on-the-disk"));
    assert!(!place.is_on_disk("only-in-memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_leaves_a_memory_topic_empty_in_a_new_epoch() {
    let mut place = Place::start(&[]).await;
    place.topic("m", Channel::Memory).await;
    for id in ["a", "b", "c"] {
        place.publish("m", id).await;
    }
    let before = place.read_from("m", 1, 0).await.unwrap();
    assert_eq!(ids(&before), ["b", "c"]);
    let (offset, epoch) = (before[1].offset, before[1].epoch);
    assert!(epoch > 0);
    assert_eq!(
        ids(&place.read_from("m", offset, epoch).await.unwrap()),
        ["c"]
    );

    place.kill_and_restart().await;
    // It is there, as it was defined, and begins at 0.
    let other = place.try_topic("m", Channel::Fsync).await.unwrap_err();
    assert_eq!(
        (other.code, &*other.reason),
        (Code::AlreadyExists, "TOPIC_EXISTS")
    );
    assert!(!place.try_topic("m", Channel::Memory).await.unwrap());
    assert_eq!(place.partition("m").await.visible_end, 0);
    for id in ["d", "e", "f", "g"] {
        let range = place.publish("m", id).await;
        assert!(range.epoch > epoch);
    }
    let all = place.read_from("m", 0, 0).await.unwrap();
    assert_eq!(ids(&all), ["d", "e", "f", "g"]);
    // A stored position of before is told from the one with the same offset.
    let lost = place.read_from("m", offset, epoch).await.unwrap_err();
    assert_eq!(
        (lost.code, &*lost.reason),
        (Code::OutOfRange, "POSITION_LOST")
    );
    assert_eq!(lost.field.as_deref(), Some("start.offset"));
    let now = place.read_from("m", 3, all[3].epoch).await.unwrap();
    assert_eq!(ids(&now), ["g"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_memory_topic_drops_its_oldest_events_and_says_so() {
    let place = Place::start(&[
        "--limit=event_bytes_max=65536",
        "--limit=memory_topic_bytes=262144",
        // So that the group has to read each event again when its turn comes.
        "--limit=group_payload_bytes_max=0",
    ])
    .await;
    place.topic("m", Channel::Memory).await;
    place.group("m", "g").await;
    let large = |id: usize| {
        let mut event = event(&id.to_string());
        event.data = vec![b' '; 10_000].into();
        event
    };
    // The group meets the first one, and waits to try it again.
    place.api.publish("m", vec![large(0)]).await.unwrap();
    let first = place.pull("m", "g").await;
    assert_eq!(first.epoch, place.publish("m", "second").await.epoch);
    let later = sluice_proto::pb::Nack {
        delay: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        reason: String::new(),
    };
    let later = sluice_proto::pb::settlement::Action::Nack(later);
    place.settle("m", "g", &first, later).await;
    for id in 2..100 {
        let ranges = place.api.publish("m", vec![large(id)]).await.unwrap();
        assert_eq!(ranges[0].first_offset, i64::try_from(id).unwrap());
    }
    let start = place.partition("m").await.start_offset;
    assert!((70..90).contains(&start), "{start}");
    let there = place.read_from("m", 0, 0).await.unwrap();
    let offsets: Vec<_> = there.iter().map(|read| read.offset).collect();
    assert_eq!(offsets, (start..100).collect::<Vec<_>>());
    let mut delivered = BTreeSet::new();
    for _ in start..100 {
        let delivery = place.pull("m", "g").await;
        delivered.insert(delivery.offset);
        place.settle("m", "g", &delivery, ack()).await;
    }
    assert_eq!(delivered, (start..100).collect());
    // When the turn of the first one comes, it is gone.
    let none = place.pull_within("m", "g", Duration::from_secs(3)).await;
    assert!(none.is_empty());
    place.api.wait_until_caught_up("m", "g").await;
    let group = place.api.describe_group("m", "g").await;
    assert_eq!(group.dropped_count, start);
}
