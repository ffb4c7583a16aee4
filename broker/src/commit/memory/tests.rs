//! Rings and their room, against a model that remembers everything.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use sluice_proto::{Offset, PartitionId, TopicId};

use super::{Chunk, Ring, Room};
use crate::commit::{
    record::{NewEvent, Source},
    store::PageLimits,
};

const TOPIC_BYTES_MAX: usize = 200_000;
const BYTES_MAX: usize = 300_000;

fn source(topic: u64, partition: u32) -> Source {
    Source {
        topic: TopicId(topic),
        partition: PartitionId(partition),
    }
}

/// An event that tells where it belongs.
fn event(source: Source, offset: u64, size: usize) -> NewEvent {
    let mut bytes = format!("{}/{}/{offset}/", source.topic, source.partition).into_bytes();
    bytes.resize(size.max(bytes.len()), b'.');
    NewEvent {
        event: bytes.into(),
        note: Bytes::new(),
    }
}

/// Rings that share a room, and every event that was ever pushed.
struct Rings {
    room: Room,
    rings: BTreeMap<Source, Ring>,
    all: BTreeMap<Source, Vec<NewEvent>>,
    /// Chunks that are there, oldest first.
    chunks: Vec<(Source, usize)>,
}

impl Rings {
    fn new() -> Self {
        Self {
            room: Room::new(TOPIC_BYTES_MAX, BYTES_MAX),
            rings: BTreeMap::new(),
            all: BTreeMap::new(),
            chunks: Vec::new(),
        }
    }

    fn append(&mut self, target: Source, sizes: &[usize], time_ms: u64) {
        let all = self.all.entry(target).or_default();
        let first = all.len() as u64;
        let events: Vec<_> = (first..)
            .zip(sizes)
            .map(|(offset, size)| event(target, offset, *size))
            .collect();
        all.extend(events.iter().cloned());
        for chunk in Chunk::of(Offset(first), time_ms, &events.iter().cloned().collect()) {
            let bytes = chunk.bytes();
            for gone in self.room.take(target, bytes) {
                let at = self.chunks.iter().position(|(of, _)| *of == gone);
                let at = at.expect("it names partitions that have chunks");
                let older = &self.chunks[..at];
                let oldest_of_topic = older.iter().all(|(of, _)| of.topic != gone.topic);
                assert!(oldest_of_topic, "{gone:?} is not the oldest of its topic");
                assert!(
                    gone.topic == target.topic || at == 0,
                    "another topic gave what was not the oldest of all"
                );
                self.chunks.remove(at);
                let ring = self.rings.get_mut(&gone);
                ring.expect("as above").drop_oldest();
            }
            self.chunks.push((target, bytes));
            self.rings.entry(target).or_default().push(chunk);
        }
    }

    fn check(&self, limits: PageLimits) {
        let sum = |topic: Option<TopicId>| {
            let of = |(source, _): &&(Source, usize)| topic.is_none_or(|t| t == source.topic);
            self.chunks
                .iter()
                .filter(of)
                .map(|(_, b)| *b)
                .sum::<usize>()
        };
        assert_eq!(sum(None), self.room.bytes());
        assert!(sum(None) <= BYTES_MAX);
        for (source, ring) in &self.rings {
            assert!(sum(Some(source.topic)) <= TOPIC_BYTES_MAX);
            let all = &self.all[source];
            assert_eq!(ring.end(), Offset(all.len() as u64));
            let start = ring.start();
            assert!(start <= ring.end());
            // From wherever a reader comes, it gets all that is there, in order.
            for from in [0, start.0, start.0 + 1, ring.end().0] {
                let mut next = Offset(from);
                let mut expected = Offset(from).max(start);
                while next < ring.end() {
                    let page = ring.read(next, limits);
                    assert!(page.next > next);
                    for stored in page.events {
                        assert_eq!(stored.offset, expected);
                        assert_eq!(stored.event, all[expected.0 as usize].event);
                        expected = expected.next();
                    }
                    next = page.next;
                    assert_eq!(next, expected);
                }
            }
            let everything: Vec<_> = (0..all.len() as u64).map(Offset).collect();
            let picked = ring.pick(&everything);
            let offsets: Vec<_> = picked.iter().map(|stored| stored.offset.0).collect();
            assert_eq!(offsets, (start.0..ring.end().0).collect::<Vec<_>>());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Within their bounds, the newest events are there, at their offsets, and
    /// what had to go was the oldest.
    #[test]
    fn what_is_there_is_the_newest(
        appends in proptest::collection::vec(
            (0_u64..3, 0_u32..2, proptest::collection::vec(1_usize..30_000, 1..6), 0_usize..20),
            1..60,
        ),
        events in 1_usize..20,
        bytes in 1_usize..100_000,
    ) {
        let mut rings = Rings::new();
        for (at, (topic, partition, mut sizes, large)) in appends.into_iter().enumerate() {
            if large == 0 {
                sizes.push(150_000);
            }
            rings.append(source(topic, partition), &sizes, at as u64);
        }
        rings.check(PageLimits { events, bytes });
    }
}

#[test]
fn a_time_is_found_and_a_gone_topic_gives_its_room_back() {
    let mut rings = Rings::new();
    let (a, b) = (source(1, 0), source(2, 0));
    for time_ms in [10, 20, 20, 30] {
        rings.append(a, &[100], time_ms);
        rings.append(b, &[100], time_ms);
    }
    let ring = &rings.rings[&a];
    for (time_ms, offset) in [(0, 0), (10, 0), (11, 1), (20, 1), (21, 3), (31, 4)] {
        assert_eq!(ring.offset_at_time(time_ms), Offset(offset), "{time_ms}");
    }
    let before = rings.room.bytes();
    rings.room.forget(TopicId(1));
    assert_eq!(rings.room.bytes(), before / 2);
    rings.room.forget(TopicId(2));
    assert_eq!(rings.room.bytes(), 0);
    assert!(rings.room.take(a, BYTES_MAX).is_empty());
}
