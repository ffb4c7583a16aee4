//! Buffered topics: acked once written, synced soon after.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use sluice_proto::pb::Channel;
use sluice_tests::{
    api::{event, expect},
    member::commit,
};
use tonic::Code;

use crate::place::{Place, ack, ids, nack};

/// Nothing is synced but for what must be.
pub(crate) const NEVER_SYNCED: &[&str] = &[
    "--limit=buffered_sync_ms=60000",
    "--limit=segment_bytes=16793600",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_buffered_topic_has_acked_survives_a_kill_with_its_offsets() {
    let mut place = Place::start(NEVER_SYNCED).await;
    place.topic("b", Channel::Buffered).await;
    place.topic("out", Channel::Buffered).await;
    place.group("b", "g").await;
    let epoch = place.publish("b", "a").await.epoch;
    for id in ["b", "c", "d"] {
        assert_eq!(place.publish("b", id).await.epoch, epoch);
    }
    let first = place.pull("b", "g").await;
    assert_eq!(first.epoch, epoch);
    place.settle("b", "g", &first, ack()).await;
    let second = place.pull("b", "g").await;
    let request = commit(("b", "g"), second.lease.unwrap(), "out", event("output"));
    place.commit(request).await.unwrap();
    let third = place.pull("b", "g").await;
    place.settle("b", "g", &third, nack()).await;

    place.kill_and_restart().await;
    let all = place.read_from("b", 0, 0).await.unwrap();
    assert_eq!(ids(&all), ["a", "b", "c", "d"]);
    assert!(all.iter().all(|read| read.epoch == epoch));
    assert_eq!(
        ids(&place.read_from("out", 0, 0).await.unwrap()),
        ["output"]
    );
    let group = place.api.describe_group("b", "g").await;
    assert_eq!(group.partitions[0].committed_end, 2);
    for _ in 0..2 {
        let delivery = place.pull("b", "g").await;
        let again = delivery.event.as_ref().unwrap().id == "c";
        assert_eq!(delivery.attempt, if again { 2 } else { 1 });
        place.settle("b", "g", &delivery, ack()).await;
    }
    // Nothing was lost, so positions of before are good.
    let later = place.publish("b", "e").await;
    assert_eq!(later.first_offset, 4);
    assert!(later.epoch > epoch);
    assert_eq!(ids(&place.read_from("b", 4, epoch).await.unwrap()), ["e"]);
}

/// The log's own sync of the one may be on its way when the other lands, and then
/// nobody else comes by to answer it.
#[tokio::test(flavor = "multi_thread")]
async fn a_durable_publish_behind_a_buffered_one_is_answered_although_nothing_follows() {
    let place = Place::start(&["--limit=buffered_sync_ms=0"]).await;
    place.topic("b", Channel::Buffered).await;
    place.topic("f", Channel::Fsync).await;
    for round in 0..300 {
        let id = format!("e{round}");
        let published = async {
            place.publish("b", &id).await;
            place.publish("f", &id).await;
        };
        expect("both to be answered", published).await;
    }
}

/// A power cut between a write and its sync, played: the blocks behind the last
/// one that was synced are taken away.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_the_tail_of_a_buffered_topic_and_all_that_refers_to_it() {
    let mut place = Place::start(NEVER_SYNCED).await;
    place.topic("b", Channel::Buffered).await;
    place.topic("f", Channel::Fsync).await;
    place.group("b", "g").await;
    let epoch = place.publish("b", "a").await.epoch;
    place.publish("b", "b").await;
    // Its output is durable, and with it all that came before.
    let first = place.pull("b", "g").await;
    let request = commit(("b", "g"), first.lease.unwrap(), "f", event("the-anchor"));
    place.commit(request).await.unwrap();
    // What follows is acked, delivered and settled, and only written.
    for id in ["c", "d"] {
        place.publish("b", id).await;
    }
    for _ in 0..3 {
        let delivery = place.pull("b", "g").await;
        place.settle("b", "g", &delivery, ack()).await;
    }
    place.api.wait_until_caught_up("b", "g").await;

    place.broker.kill();
    cut_behind(&place.broker.data_dir().join("log"), b"the-anchor");
    place.kill_and_restart().await;
    assert_eq!(
        ids(&place.read_from("f", 0, 0).await.unwrap()),
        ["the-anchor"]
    );
    assert_eq!(ids(&place.read_from("b", 0, 0).await.unwrap()), ["a", "b"]);
    // The ack that was in the anchor's frame is there, and no later one.
    let group = place.api.describe_group("b", "g").await;
    let partition = &group.partitions[0];
    assert_eq!((partition.committed_end, partition.lag), (1, 1));
    let lost = place.read_from("b", 4, epoch).await.unwrap_err();
    assert_eq!(
        (lost.code, &*lost.reason),
        (Code::OutOfRange, "POSITION_LOST")
    );

    // The offsets are given again, and told from those of before.
    for (offset, id) in [(2, "x"), (3, "y"), (4, "z")] {
        let range = place.publish("b", id).await;
        assert_eq!(range.first_offset, offset);
        assert!(range.epoch > epoch);
    }
    let lost = place.read_from("b", 4, epoch).await.unwrap_err();
    assert_eq!(
        (lost.code, &*lost.reason),
        (Code::OutOfRange, "POSITION_LOST")
    );
    let read = place.read_from("b", 2, epoch).await.unwrap();
    assert_eq!(ids(&read), ["x", "y", "z"]);
    for id in ["b", "x", "y", "z"] {
        let delivery = place.pull("b", "g").await;
        assert_eq!(delivery.event.as_ref().unwrap().id, id);
        place.settle("b", "g", &delivery, ack()).await;
    }

    // A second life of the broker knows of both.
    place.kill_and_restart().await;
    let all = place.read_from("b", 0, 0).await.unwrap();
    assert_eq!(ids(&all), ["a", "b", "x", "y", "z"]);
    assert_eq!(all[1].epoch, epoch);
    assert!(all[2].epoch > epoch);
    let lost = place.read_from("b", 3, epoch).await.unwrap_err();
    assert_eq!(lost.reason, "POSITION_LOST");
}

/// Overwrites with zeros all blocks behind the last one that has `what` in it.
pub(crate) fn cut_behind(log: &Path, what: &[u8]) {
    const PAGE: usize = 4096;
    let mut cut = 0;
    for entry in fs::read_dir(log).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let first = |(at, byte): &(usize, &u8)| **byte == what[0] && bytes[*at..].starts_with(what);
        let found = bytes.iter().enumerate().rev().find(first);
        let Some((found, _)) = found else { continue };
        let blocks: Vec<usize> = (0..bytes.len())
            .step_by(PAGE)
            .filter(|at| bytes[*at..].starts_with(b"SLbk") && *at > found)
            .collect();
        let Some(first) = blocks.first() else {
            continue;
        };
        cut += blocks.len();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&vec![0; bytes.len() - first], *first as u64)
            .unwrap();
        file.sync_all().unwrap();
    }
    assert!(cut >= 3, "{cut} blocks were written after the anchor");
}
