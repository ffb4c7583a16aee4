//! Topics of the channel fsync, beside the others.

use std::time::Duration;

use futures_util::future::join_all;
use sluice_proto::pb::{Channel, Event};
use sluice_tests::api::{event, expect};

use crate::place::{Place, ack, ids};

#[tokio::test(flavor = "multi_thread")]
async fn what_an_fsync_topic_has_acked_survives_a_kill_with_its_offsets() {
    let mut place = Place::start(&[]).await;
    place.topic("f", Channel::Unspecified).await;
    assert!(!place.try_topic("f", Channel::Fsync).await.unwrap());
    place.group("f", "g").await;
    for id in ["a", "b"] {
        assert_eq!(place.publish("f", id).await.epoch, 0);
    }
    let delivery = place.pull("f", "g").await;
    place.settle("f", "g", &delivery, ack()).await;

    place.kill_and_restart().await;
    let all = place.read_from("f", 0, 0).await.unwrap();
    assert_eq!(ids(&all), ["a", "b"]);
    assert_eq!(all[1].epoch, 0);
    // A stored position is good in any epoch.
    assert_eq!(ids(&place.read_from("f", 1, 1).await.unwrap()), ["b"]);
    let delivery = place.pull("f", "g").await;
    assert_eq!(delivery.event.as_ref().unwrap().id, "b");
    place.settle("f", "g", &delivery, ack()).await;
    let none = place.pull_within("f", "g", Duration::from_millis(50)).await;
    assert!(none.is_empty());
}

/// Many more bytes at once than may wait for the log: nobody is refused.
#[tokio::test(flavor = "multi_thread")]
async fn publishing_waits_when_there_is_no_room() {
    let place = Place::start(&["--limit=commit_queue_bytes=1048576"]).await;
    for (topic, channel) in [("f", Channel::Fsync), ("b", Channel::Buffered)] {
        place.topic(topic, channel).await;
        let publish = |n: usize| {
            let large = Event {
                data: vec![b'x'; 500_000].into(),
                ..event(&n.to_string())
            };
            place.api.publish(topic, vec![large])
        };
        let all = expect("all to be acked", join_all((0..20).map(publish))).await;
        for published in all {
            published.unwrap();
        }
        assert_eq!(place.partition(topic).await.visible_end, 20);
    }
}
