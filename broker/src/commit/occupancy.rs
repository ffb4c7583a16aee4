//! Which events are in which segment of the log, and where else they are by now.
//!
//! It follows what goes to the view, so it knows every frame below the view's
//! end. What of it is dead is for others to say: it does not know where
//! partitions begin.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Buf;
use prost::encoding::{decode_varint, encode_varint};
use sluice_proto::{Offset, PartitionId, TopicId};

use super::record::Source;
use crate::{
    log::{Position, SegmentInfo},
    view::{Changes, EntityKey, IndexEntry},
};

/// Offsets of one partition that are in one segment, and nowhere later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first offset.
    pub first: Offset,
    /// The offset after the last one.
    pub end: Offset,
    /// About the bytes of their events.
    pub bytes: u64,
}

impl Run {
    /// What is left of it from `start` on.
    #[must_use]
    pub fn from(self, start: Offset) -> Option<Self> {
        self.part(start, self.end)
    }

    fn part(self, first: Offset, end: Offset) -> Option<Self> {
        let (first, end) = (self.first.max(first), self.end.min(end));
        if first >= end {
            return None;
        }
        let part = u128::from(end.0 - first.0);
        let whole = u128::from(self.end.0 - self.first.0);
        let bytes = (u128::from(self.bytes) * part / whole) as u64;
        Some(Self { first, end, bytes })
    }
}

type Runs = BTreeMap<Source, Vec<Run>>;

/// Which events are in which segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Occupancy {
    segments: BTreeMap<Position, Runs>,
    dirty: BTreeSet<Position>,
}

impl Occupancy {
    /// Follows what goes to the view, and adds what it has to say to that.
    pub(super) fn follow(&mut self, changes: &mut Changes, segments: &[SegmentInfo]) {
        for (topic, partition, chunk) in &changes.index {
            let source = source(*topic, *partition);
            for entry in chunk.entries() {
                self.add(source, entry, segments);
            }
        }
        for (topic, partition, entries) in &changes.relocated {
            let source = source(*topic, *partition);
            let mut entries = entries.clone();
            entries.sort_unstable_by_key(|entry| entry.position);
            for entry in &entries {
                self.supersede(source, entry.first, entry.end());
                self.add(source, entry, segments);
            }
        }
        for topic in &changes.deleted_topics {
            self.forget(|source, _| source.topic == *topic);
        }
        for (topic, partition, start) in &changes.trimmed {
            let of = source(*topic, *partition);
            self.forget(|source, run| *source == of && run.end <= *start);
        }
        for base in std::mem::take(&mut self.dirty) {
            let saved = self.segments.get(&base).map(encode);
            changes.entities.push((EntityKey::Segment(base), saved));
        }
    }

    /// Takes back what [`Occupancy::follow`] had to say of a segment. False when
    /// the bytes are not such.
    pub(super) fn load(&mut self, base: Position, bytes: &[u8]) -> bool {
        let runs = decode(bytes);
        let ok = runs.is_some();
        self.segments.extend(runs.map(|runs| (base, runs)));
        ok
    }

    /// The segment is gone.
    pub fn removed(&mut self, base: Position) {
        self.segments.remove(&base);
        self.dirty.insert(base);
    }

    /// What is in a segment, and nowhere later.
    pub fn runs(&self, base: Position) -> impl Iterator<Item = (Source, Run)> {
        let runs = self.segments.get(&base).into_iter().flatten();
        runs.flat_map(|(source, runs)| runs.iter().map(|run| (*source, *run)))
    }

    fn add(&mut self, source: Source, entry: &IndexEntry, segments: &[SegmentInfo]) {
        let at = segments.partition_point(|segment| segment.base <= entry.position);
        let Some(segment) = at.checked_sub(1).map(|at| segments[at]) else {
            return;
        };
        self.dirty.insert(segment.base);
        let runs = self.segments.entry(segment.base).or_default();
        let runs = runs.entry(source).or_default();
        let run = Run {
            first: entry.first,
            end: entry.end(),
            bytes: entry.bytes.into(),
        };
        let at = runs.partition_point(|of| of.first < run.first);
        match at.checked_sub(1).map(|before| &mut runs[before]) {
            Some(before) if before.end == run.first => {
                before.end = run.end;
                before.bytes += run.bytes;
            }
            _ => runs.insert(at, run),
        }
    }

    fn supersede(&mut self, source: Source, first: Offset, end: Offset) {
        for (base, sources) in &mut self.segments {
            let Some(runs) = sources.get_mut(&source) else {
                continue;
            };
            if runs.iter().all(|run| run.part(first, end).is_none()) {
                continue;
            }
            let rest = runs.iter().flat_map(|run| {
                let below = run.part(Offset(0), first);
                let above = run.part(end, Offset(u64::MAX));
                below.into_iter().chain(above)
            });
            *runs = rest.collect();
            if runs.is_empty() {
                sources.remove(&source);
            }
            self.dirty.insert(*base);
        }
    }

    fn forget(&mut self, gone: impl Fn(&Source, &Run) -> bool) {
        for (base, sources) in &mut self.segments {
            let mut changed = false;
            sources.retain(|source, runs| {
                let before = runs.len();
                runs.retain(|run| !gone(source, run));
                changed |= runs.len() < before;
                !runs.is_empty()
            });
            if changed {
                self.dirty.insert(*base);
            }
        }
    }
}

fn source(topic: TopicId, partition: PartitionId) -> Source {
    Source { topic, partition }
}

/// For each partition: topic, partition, number of runs; for each run: first
/// offset, length, bytes. All varints.
fn encode(runs: &Runs) -> Vec<u8> {
    let mut out = Vec::new();
    for (source, runs) in runs {
        encode_varint(source.topic.0, &mut out);
        encode_varint(source.partition.0.into(), &mut out);
        encode_varint(runs.len() as u64, &mut out);
        for run in runs {
            encode_varint(run.first.0, &mut out);
            encode_varint(run.end.0 - run.first.0, &mut out);
            encode_varint(run.bytes, &mut out);
        }
    }
    out
}

fn decode(mut bytes: &[u8]) -> Option<Runs> {
    let mut all = Runs::new();
    while bytes.has_remaining() {
        let mut next = || decode_varint(&mut bytes).ok();
        let of = source(TopicId(next()?), PartitionId(next()?.try_into().ok()?));
        let count = next()?;
        let runs = all.entry(of).or_default();
        for _ in 0..count {
            let first = next()?;
            let length = next().filter(|length| *length > 0)?;
            runs.push(Run {
                first: Offset(first),
                end: Offset(first.checked_add(length)?),
                bytes: next()?,
            });
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        log::LogPoint,
        view::{Checkpoint, IndexChunk},
    };
    use proptest::prelude::*;

    const SEGMENT: u64 = 1000;

    fn changes() -> Changes {
        Changes {
            entities: Vec::new(),
            index: Vec::new(),
            relocated: Vec::new(),
            trimmed: Vec::new(),
            deleted_topics: Vec::new(),
            checkpoint: Checkpoint {
                log_id: [0; 16],
                applied_end: LogPoint {
                    position: Position(0),
                    epoch: 0,
                    block_crc: 0,
                },
                boot_id: [0; 16],
                closed: false,
                state_digest: crate::view::Digest::default(),
            },
        }
    }

    fn entry(first: u64, count: u32, position: u64) -> IndexEntry {
        IndexEntry {
            first: Offset(first),
            count,
            position: Position(position),
            length: 10,
            time_ms: 0,
            bytes: count * 10,
        }
    }

    proptest! {
        /// Against a map of offsets to the segment that has them last.
        #[test]
        fn each_offset_is_in_the_segment_that_has_it_last(
            steps in proptest::collection::vec((0_u32..2, 1_u32..9, any::<bool>(), 0_u64..40), 1..60),
            trim in 0_u64..60,
        ) {
            let segments: Vec<_> = (0..100)
                .map(|at| SegmentInfo {
                    base: Position(at * SEGMENT),
                    end: Position((at + 1) * SEGMENT),
                    open: at == 99,
                })
                .collect();
            let mut occupancy = Occupancy::default();
            let mut saved = Occupancy::default();
            let mut model: HashMap<(u32, u64), u64> = HashMap::new();
            let mut next = [0_u64; 2];
            for (at, (partition, count, again, from)) in steps.into_iter().enumerate() {
                let position = at as u64 * 400;
                let base = position / SEGMENT * SEGMENT;
                let next = &mut next[partition as usize];
                let mut step = changes();
                let first = if again && *next > 0 {
                    let first = from % *next;
                    let count = u64::from(count).min(*next - first) as u32;
                    let again = entry(first, count, position);
                    step.relocated.push((TopicId(1), PartitionId(partition), vec![again]));
                    first..first + u64::from(count)
                } else {
                    let new = IndexChunk::from_entries(vec![entry(*next, count, position)]);
                    step.index.push((TopicId(1), PartitionId(partition), new));
                    let first = *next;
                    *next += u64::from(count);
                    first..*next
                };
                model.extend(first.map(|offset| ((partition, offset), base)));
                occupancy.follow(&mut step, &segments);
                for (key, value) in step.entities {
                    if let (EntityKey::Segment(base), Some(value)) = (key, value) {
                        prop_assert!(saved.load(base, &value));
                    }
                }
            }
            prop_assert_eq!(&saved.segments.iter().filter(|(_, runs)| !runs.is_empty()).collect::<Vec<_>>(),
                &occupancy.segments.iter().filter(|(_, runs)| !runs.is_empty()).collect::<Vec<_>>());
            let found: HashMap<(u32, u64), u64> = segments
                .iter()
                .flat_map(|segment| {
                    let base = segment.base;
                    occupancy.runs(base).flat_map(move |(source, run)| {
                        (run.first.0..run.end.0)
                            .map(move |offset| ((source.partition.0, offset), base.0))
                    })
                })
                .collect();
            prop_assert_eq!(&found, &model);

            // What was trimmed is forgotten run by run; what is below the start
            // and left is for whoever knows the start.
            let mut step = changes();
            step.trimmed.push((TopicId(1), PartitionId(0), Offset(trim)));
            occupancy.follow(&mut step, &segments);
            for segment in &segments {
                for (source, run) in occupancy.runs(segment.base) {
                    prop_assert!(source.partition.0 == 1 || run.end.0 > trim);
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes);
        }
    }
}
