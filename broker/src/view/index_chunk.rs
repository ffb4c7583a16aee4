//! Where the events of a partition are in the log: a run of frames, packed.
//!
//! A chunk is at most [`ENTRIES_MAX`] entries. Each is five varints (as in
//! protobuf): first offset, count, position and time as the difference to the
//! entry before (to zero for the first one), and the frame's length. So an entry
//! takes some ten bytes, and a chunk stays below one page of the view.

use bytes::Buf;
use prost::encoding::{decode_varint, encode_varint};
use sluice_proto::Offset;

use crate::log::Position;

/// Entries in a chunk. An entry takes 40 bytes at the most (three varints of up
/// to 10 bytes, two of up to 5), so that a chunk always fits a value.
pub const ENTRIES_MAX: usize = 90;

/// Events of one frame in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of the first one.
    pub first: Offset,
    /// How many.
    pub count: u32,
    /// Where the frame is.
    pub position: Position,
    /// Bytes of the frame.
    pub length: u32,
    /// When they were appended, milliseconds since 1970.
    pub time_ms: u64,
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
            };
            before = (entry.first.0, entry.position.0, entry.time_ms);
            entries.push(entry);
        }
        Some(Self { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_chunk_is_read_as_written_and_fits_a_page(
            raw in proptest::collection::vec(any::<(u64, u32, u64, u32, u64)>(), 0..=ENTRIES_MAX),
        ) {
            let entries = raw
                .into_iter()
                .map(|(first, count, position, length, time_ms)| IndexEntry {
                    first: Offset(first),
                    count,
                    position: Position(position),
                    length,
                    time_ms,
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
