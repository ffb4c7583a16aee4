//! Where the events of a partition are in the log: a run of frames, packed.
//!
//! A chunk is at most [`ENTRIES_MAX`] entries. Each is six varints (as in
//! protobuf): first offset, count, position and time as the difference to the
//! entry before (to zero for the first one), the frame's length, and the bytes
//! of the events. So an entry takes a dozen bytes, and a chunk stays below one
//! page of the view.

use std::collections::BTreeMap;

use bytes::Buf;
use prost::encoding::{decode_varint, encode_varint};
use sluice_proto::Offset;

use crate::log::Position;

/// Entries in a chunk. An entry takes 45 bytes at the most (three varints of up
/// to 10 bytes, three of up to 5), so that a chunk always fits a value.
pub const ENTRIES_MAX: usize = 84;

/// Events of one frame in one partition. There may be fewer events than
/// offsets: those that are missing are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of the first one.
    pub first: Offset,
    /// How many offsets.
    pub count: u32,
    /// Where the frame is.
    pub position: Position,
    /// Bytes of the frame.
    pub length: u32,
    /// When the last of them was appended, milliseconds since 1970.
    pub time_ms: u64,
    /// Bytes of the events, notes counted in.
    pub bytes: u32,
}

impl IndexEntry {
    /// The first offset after these events.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.first + u64::from(self.count)
    }
}

/// Entries of one partition in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexChunk {
    entries: Vec<IndexEntry>,
}

impl IndexChunk {
    /// A chunk of entries that are in order.
    #[must_use]
    pub fn from_entries(entries: Vec<IndexEntry>) -> Self {
        debug_assert!(entries.len() <= ENTRIES_MAX);
        Self { entries }
    }

    /// Its entries, in order.
    #[must_use]
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// The first offset in it; `None` when it is empty.
    #[must_use]
    pub fn first_offset(&self) -> Option<Offset> {
        self.entries.first().map(|entry| entry.first)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * 12);
        let mut before = (0, 0, 0);
        for entry in &self.entries {
            encode_varint(entry.first.0.wrapping_sub(before.0), &mut out);
            encode_varint(entry.count.into(), &mut out);
            encode_varint(entry.position.0.wrapping_sub(before.1), &mut out);
            encode_varint(entry.length.into(), &mut out);
            encode_varint(entry.time_ms.wrapping_sub(before.2), &mut out);
            encode_varint(entry.bytes.into(), &mut out);
            before = (entry.first.0, entry.position.0, entry.time_ms);
        }
        out
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut entries = Vec::new();
        let mut before = (0_u64, 0_u64, 0_u64);
        while bytes.has_remaining() {
            let mut next = || decode_varint(&mut bytes).ok();
            let entry = IndexEntry {
                first: Offset(before.0.wrapping_add(next()?)),
                count: next()?.try_into().ok()?,
                position: Position(before.1.wrapping_add(next()?)),
                length: next()?.try_into().ok()?,
                time_ms: before.2.wrapping_add(next()?),
                bytes: next()?.try_into().ok()?,
            };
            before = (entry.first.0, entry.position.0, entry.time_ms);
            entries.push(entry);
        }
        Some(Self { entries })
    }
}

/// Puts entries of one partition over each other, in any order: of two that have
/// an offset the one with the higher position wins.
pub(super) fn merge(mut entries: Vec<IndexEntry>) -> Vec<IndexEntry> {
    entries.sort_unstable_by_key(|entry| entry.position);
    let mut merged: BTreeMap<Offset, IndexEntry> = BTreeMap::new();
    for entry in entries {
        if let Some(before) = merged.range_mut(..entry.first).next_back()
            && before.1.end() > entry.first
        {
            let left = entry.first.0 - before.1.first.0;
            let bytes = u64::from(before.1.bytes) * left / u64::from(before.1.count);
            before.1.bytes = bytes as u32;
            before.1.count = left as u32;
        }
        // A range that is written again is made of whole entries.
        let covered: Vec<Offset> = merged
            .range(entry.first..entry.end())
            .map(|(first, _)| *first)
            .collect();
        for first in covered {
            merged.remove(&first);
        }
        merged.insert(entry.first, entry);
    }
    merged.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ranges that are written again, made of whole entries, against a map of
    /// offsets.
    #[test]
    fn the_higher_position_wins() {
        proptest!(|(
            counts in proptest::collection::vec(1_u32..6, 1..20),
            rewrites in proptest::collection::vec((any::<prop::sample::Index>(), 1_usize..6), 0..12),
            order in any::<u64>(),
        )| {
            let mut all = Vec::new();
            let mut next = 0;
            let mut position = 0;
            let mut entry = |first: u64, count: u32| {
                position += 100;
                IndexEntry {
                    first: Offset(first),
                    count,
                    position: Position(position),
                    length: 50,
                    time_ms: 0,
                    bytes: count * 10,
                }
            };
            for count in counts {
                all.push(entry(next, count));
                next += u64::from(count);
            }
            let mut current = all.clone();
            for (at, length) in rewrites {
                let at = at.index(current.len());
                let end = (at + length).min(current.len());
                let first = current[at].first.0;
                let count = current[end - 1].end().0 - first;
                let again = entry(first, count as u32);
                all.push(again);
                current.splice(at..end, [again]);
            }
            // In any order.
            all.sort_by_key(|entry| entry.position.0.wrapping_mul(order | 1));
            prop_assert_eq!(merge(all), current);
        });
    }

    proptest! {
        #[test]
        fn a_chunk_is_read_as_written_and_fits_a_page(
            raw in proptest::collection::vec(any::<(u64, u32, u64, u32, u64, u32)>(), 0..=ENTRIES_MAX),
        ) {
            let entries = raw
                .into_iter()
                .map(|(first, count, position, length, time_ms, bytes)| IndexEntry {
                    first: Offset(first),
                    count,
                    position: Position(position),
                    length,
                    time_ms,
                    bytes,
                })
                .collect();
            let chunk = IndexChunk::from_entries(entries);
            let bytes = chunk.encode();
            prop_assert!(bytes.len() <= super::super::VALUE_BYTES_MAX);
            prop_assert_eq!(IndexChunk::decode(&bytes), Some(chunk));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = IndexChunk::decode(&bytes);
        }
    }
}
