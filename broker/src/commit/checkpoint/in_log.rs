//! Checkpoints in the log: the state of one log point, in chunks, so that
//! segments below that point are not needed to have it again.
//!
//! ```text
//!   ... P ............... begun(P)  chunk(P) .. chunk(P)  ended(P) ...
//!       |                 └── other frames come between ──┘
//!       the state as the chunks say; replay goes on from here
//! ```
//!
//! A checkpoint counts once its end is durable and all its chunks are there. A
//! value that is too long for one chunk goes on in the next, under its key.

use std::collections::BTreeMap;

use crate::{
    commit::{
        keep::Keeper,
        proposal::Unavailable,
        record::{
            self, CheckpointBegun, CheckpointChunk, CheckpointEnded, Frame, Record, SavedEntity,
        },
    },
    log::{Found, LogPoint, OpenError, Position},
    view::{Digest, EntityKey},
};
use bytes::Bytes;

/// Bytes of entities in one chunk, which may be written between two blocks of
/// events.
const CHUNK_BYTES: usize = 256 << 10;

/// The entities of the state at one log point.
#[derive(Clone, Debug, Default)]
pub(in crate::commit) struct Mirror {
    entities: BTreeMap<EntityKey, Bytes>,
    bytes: u64,
    digest: Digest,
}

impl Mirror {
    pub(in crate::commit) fn set(&mut self, key: EntityKey, value: Option<&[u8]>) {
        if let EntityKey::Segment(_) = key {
            return;
        }
        let size = |value: &[u8]| (value.len() + 32) as u64;
        let before = match value {
            Some(value) => {
                self.bytes += size(value);
                self.digest.add(key, value);
                self.entities.insert(key, Bytes::copy_from_slice(value))
            }
            None => self.entities.remove(&key),
        };
        if let Some(before) = before {
            self.bytes -= size(&before);
            self.digest.remove(key, &before);
        }
    }

    /// Of all of them.
    pub(in crate::commit) fn digest(&self) -> Digest {
        self.digest
    }

    /// About what a checkpoint of it takes in the log.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn chunks(&self, point: LogPoint) -> Vec<CheckpointChunk> {
        let mut chunks = Vec::new();
        let mut entities = Vec::new();
        let mut bytes = 0;
        for (key, value) in &self.entities {
            let key = Bytes::from(key.encode());
            let mut rest = value.clone();
            loop {
                let value = rest.split_to(rest.len().min(CHUNK_BYTES));
                bytes += key.len() + value.len();
                entities.push(SavedEntity {
                    key: key.clone(),
                    value,
                });
                if bytes >= CHUNK_BYTES {
                    chunks.push(std::mem::take(&mut entities));
                    bytes = 0;
                }
                if rest.is_empty() {
                    break;
                }
            }
        }
        chunks.push(entities);
        let position = point.position.0;
        let chunk = |entities| CheckpointChunk { position, entities };
        chunks.into_iter().map(chunk).collect()
    }

    /// Writes a checkpoint of it, as it is at `point`, and returns when that is
    /// complete. One chunk is under way at a time.
    pub(super) fn write(&self, point: LogPoint, keeper: &Keeper) -> Result<(), Unavailable> {
        for piece in self.pieces(point) {
            keeper.checkpoint(piece)?;
        }
        Ok(())
    }

    fn pieces(&self, point: LogPoint) -> impl Iterator<Item = Record> {
        let chunks = self.chunks(point);
        let begun = Record::CheckpointBegun(CheckpointBegun {
            position: point.position.0,
            epoch: point.epoch,
            block_crc: point.block_crc,
        });
        let ended = Record::CheckpointEnded(CheckpointEnded {
            position: point.position.0,
            chunks: chunks.len() as u64,
            entities: chunks.iter().map(|c| c.entities.len() as u64).sum(),
        });
        let chunks = chunks.into_iter().map(Record::CheckpointChunk);
        std::iter::once(begun).chain(chunks).chain([ended])
    }
}

/// A checkpoint that was found.
#[derive(Debug)]
pub(in crate::commit) struct FoundCheckpoint {
    /// From where to replay.
    pub(in crate::commit) point: LogPoint,
    /// The state there, in the order of keys.
    pub(in crate::commit) entities: Vec<(EntityKey, Vec<u8>)>,
}

/// Looks for the latest complete checkpoint, from the end of the log on, and no
/// further back than it must.
pub(in crate::commit) fn find(log: &Found) -> Result<Option<FoundCheckpoint>, OpenError> {
    let mut pieces: Vec<Record> = Vec::new();
    let segments: Vec<_> = log.segments().collect();
    for segment in segments.iter().rev() {
        let mut here = Vec::new();
        log.scan(segment.base, &mut |frame| {
            if record::is_checkpoint(frame.payload) {
                let frame = Frame::decode(Bytes::copy_from_slice(frame.payload));
                here.extend(frame.map_err(|error| error.to_string())?.records);
            }
            Ok(())
        })?;
        here.append(&mut pieces);
        pieces = here;
        if let Some(found) = latest(&pieces) {
            // What it names may be gone only if it is not the log's own.
            if segments
                .iter()
                .any(|s| contains(s.base, s.end, found.point.position))
            {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

fn contains(base: Position, end: Position, position: Position) -> bool {
    // The point after a segment that is full lies in one that is made later.
    position > base && position <= Position(end.0 + 4096)
}

/// The last one that is whole.
fn latest(pieces: &[Record]) -> Option<FoundCheckpoint> {
    let ends = pieces.iter().rev().filter_map(|piece| match piece {
        Record::CheckpointEnded(ended) => Some(*ended),
        _ => None,
    });
    for ended in ends {
        let begun = pieces.iter().find_map(|piece| match piece {
            Record::CheckpointBegun(begun) if begun.position == ended.position => Some(*begun),
            _ => None,
        });
        let chunks: Vec<&CheckpointChunk> = pieces
            .iter()
            .filter_map(|piece| match piece {
                Record::CheckpointChunk(chunk) if chunk.position == ended.position => Some(chunk),
                _ => None,
            })
            .collect();
        let saved: Vec<&SavedEntity> = chunks.iter().flat_map(|c| &c.entities).collect();
        let whole = chunks.len() as u64 == ended.chunks && saved.len() as u64 == ended.entities;
        if let (Some(begun), true) = (begun, whole)
            && let Some(entities) = joined(&saved)
        {
            return Some(FoundCheckpoint {
                point: LogPoint {
                    position: Position(begun.position),
                    epoch: begun.epoch,
                    block_crc: begun.block_crc,
                },
                entities,
            });
        }
    }
    None
}

/// Entities whose values are whole again.
fn joined(saved: &[&SavedEntity]) -> Option<Vec<(EntityKey, Vec<u8>)>> {
    let mut entities: Vec<(EntityKey, Vec<u8>)> = Vec::new();
    for piece in saved {
        let (key, rest) = EntityKey::decode(&piece.key)?;
        if !rest.is_empty() {
            return None;
        }
        match entities.last_mut() {
            Some((last, value)) if *last == key => value.extend_from_slice(&piece.value),
            _ => entities.push((key, piece.value.to_vec())),
        }
    }
    Some(entities)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use sluice_proto::{GroupId, TopicId};

    use super::*;

    fn point(position: u64) -> LogPoint {
        LogPoint {
            position: Position(position),
            epoch: 2,
            block_crc: 9,
        }
    }

    fn mirror() -> (Mirror, Vec<(EntityKey, Vec<u8>)>) {
        let mut mirror = Mirror::default();
        let mut all = vec![(EntityKey::Counters, vec![1; 3])];
        for topic in 0..5000 {
            all.push((EntityKey::Topic(TopicId(topic)), vec![topic as u8; 100]));
        }
        all.push((EntityKey::Group(GroupId(1)), Vec::new()));
        all.push((EntityKey::Group(GroupId(2)), vec![7; 3 * CHUNK_BYTES + 5]));
        for (key, value) in &all {
            mirror.set(*key, Some(b"before"));
            mirror.set(*key, Some(value));
        }
        mirror.set(EntityKey::Topic(TopicId(9999)), Some(b"x"));
        mirror.set(EntityKey::Topic(TopicId(9999)), None);
        (mirror, all)
    }

    #[test]
    fn the_latest_whole_checkpoint_is_found_among_pieces_of_others() {
        let (mirror, all) = mirror();
        let whole: Vec<Record> = mirror.pieces(point(50)).collect();
        for piece in &whole {
            assert!(piece_bytes(piece) < 2 * CHUNK_BYTES + 4096);
        }
        let found = latest(&whole).expect("it is whole");
        assert_eq!(found.point, point(50));
        assert_eq!(found.entities, all);

        // A later one that is not whole, whatever is missing of it, does not
        // count.
        let later: Vec<Record> = Mirror::default().pieces(point(90)).collect();
        assert_eq!(later.len(), 3);
        for missing in 0..3 {
            let mut pieces = whole.clone();
            let rest = later.iter().enumerate().filter(|(at, _)| *at != missing);
            pieces.extend(rest.map(|(_, piece)| piece.clone()));
            assert_eq!(latest(&pieces).map(|found| found.point), Some(point(50)));
        }
        let both: Vec<Record> = whole.iter().chain(&later).cloned().collect();
        assert_eq!(latest(&both).map(|found| found.point), Some(point(90)));
        for missing in 0..whole.len() {
            let mut pieces = whole.clone();
            pieces.remove(missing);
            assert!(latest(&pieces).is_none(), "without piece {missing}");
        }
    }

    fn piece_bytes(piece: &Record) -> usize {
        match piece {
            Record::CheckpointChunk(chunk) => chunk.encoded_len(),
            _ => 0,
        }
    }
}
