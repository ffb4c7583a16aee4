//! The view: what is in the log, in a form that can be looked up. It is sled, it
//! is written at checkpoints, and it can always be rebuilt from the log.
//!
//! This is the only folder that names sled.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `state` | [`EntityKey`], chunk `u16` | a chunk of the entity as `commit/state/` saves it, or of what is in a segment |
//! | `index` | topic `u64`, partition `u32`, first offset `u64` (big endian) | an [`IndexChunk`] |
//! | `meta` | `"checkpoint"` | [`Checkpoint`] |
//!
//! sled's `flush` survives a killed process, not a power cut. So a view is only
//! trusted when the machine has not been restarted since it was written, or when
//! it was closed in order; otherwise it is dropped and rebuilt.

mod digest;
mod index_chunk;
mod keys;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use bytes::{Buf, BufMut};
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use sluice_proto::{Offset, PartitionId, TopicId};

pub use self::{
    digest::Digest,
    index_chunk::{ENTRIES_MAX, IndexChunk, IndexEntry},
    keys::EntityKey,
};
use crate::log::{LogPoint, Position};

/// sled's own advice is values that fit a page; larger ones go to files that it
/// never syncs.
const VALUE_BYTES_MAX: usize = 3800;
const CACHE_BYTES: u64 = 64 << 20;
const CHECKPOINT_KEY: &[u8] = b"checkpoint";
const FORMAT_VERSION: u8 = 3;
const CHECKPOINT_BYTES: usize = 1 + 16 + 8 + 8 + 4 + 16 + 1 + 8;

/// The view could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// sled says so.
    #[error("the view failed: {0}")]
    Sled(#[from] sled::Error),
    /// The file system says so.
    #[error("the view failed: {0}")]
    Io(#[from] io::Error),
    /// Something in it is not what the broker wrote.
    #[error("the view is damaged: {0}")]
    Damaged(&'static str),
}

/// How far the view has followed the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub log_id: [u8; 16],
    /// Every frame below is in the view, none at or above.
    pub applied_end: LogPoint,
    /// The machine's boot during which it was written.
    pub boot_id: [u8; 16],
    /// It was synced, and nothing was written after it.
    pub closed: bool,
    /// Of all entities of the state: sled drops what it cannot read, and tells
    /// nobody.
    pub state_digest: Digest,
}

/// What one checkpoint changes.
#[derive(Debug)]
pub struct Changes {
    /// Entities with their new value; `None` removes one.
    pub entities: Vec<(EntityKey, Option<Vec<u8>>)>,
    /// Parts of the index that are new.
    pub index: Vec<(TopicId, PartitionId, IndexChunk)>,
    /// Parts of the index that stand in place of others, by partition: of two
    /// entries that have an offset the one with the higher position wins.
    pub relocated: Vec<(TopicId, PartitionId, Vec<IndexEntry>)>,
    /// Partitions of whose index goes what lies below an offset.
    pub trimmed: Vec<(TopicId, PartitionId, Offset)>,
    /// Topics whose index goes.
    pub deleted_topics: Vec<TopicId>,
    /// How far the view has then come.
    pub checkpoint: Checkpoint,
}

/// An open view.
#[derive(Clone, Debug)]
pub struct View {
    dir: PathBuf,
    db: sled::Db,
    state: sled::Tree,
    index: sled::Tree,
    meta: sled::Tree,
}

impl View {
    /// Opens the view in `dir`, or makes an empty one.
    ///
    /// # Errors
    /// When the folder cannot be used, or sled finds its files damaged.
    pub fn open(dir: &Path) -> Result<Self, ViewError> {
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()?;
        Ok(Self {
            dir: dir.to_owned(),
            state: db.open_tree("state")?,
            index: db.open_tree("index")?,
            meta: db.open_tree("meta")?,
            db,
        })
    }

    /// The last checkpoint; `None` in an empty view.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, ViewError> {
        self.meta
            .get(CHECKPOINT_KEY)?
            .map(|bytes| decode_checkpoint(&bytes).ok_or(ViewError::Damaged("its checkpoint")))
            .transpose()
    }

    /// Gives every stored entity to `visit`, in the order of keys.
    ///
    /// # Errors
    /// When something cannot be read, or `visit` refuses it.
    pub fn load<E: From<ViewError>>(
        &self,
        mut visit: impl FnMut(EntityKey, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut whole: Option<(EntityKey, Vec<u8>)> = None;
        for item in &self.state {
            let (key, value) = item.map_err(ViewError::from)?;
            let (entity, chunk) =
                EntityKey::decode(&key).ok_or(ViewError::Damaged("a key of its state"))?;
            match &mut whole {
                Some((open, bytes)) if *open == entity => bytes.extend_from_slice(&value),
                _ if chunk != [0, 0] => {
                    return Err(ViewError::Damaged("a chunk of its state").into());
                }
                _ => {
                    if let Some((open, bytes)) = whole.replace((entity, value.to_vec())) {
                        visit(open, &bytes)?;
                    }
                }
            }
        }
        match whole {
            Some((entity, bytes)) => visit(entity, &bytes),
            None => Ok(()),
        }
    }

    /// Writes a checkpoint: all of it or nothing. It survives a kill of the
    /// process; with `checkpoint.closed` it is also synced.
    ///
    /// # Errors
    /// When sled fails. The view is then what it was, or as if the call had
    /// succeeded.
    pub fn write(&self, changes: &Changes) -> Result<(), ViewError> {
        let mut state = sled::Batch::default();
        for (key, value) in &changes.entities {
            self.put_entity(&mut state, *key, value.as_deref())?;
        }
        let mut index = sled::Batch::default();
        for topic in &changes.deleted_topics {
            for key in self.index.scan_prefix(topic.0.to_be_bytes()).keys() {
                index.remove(key?);
            }
        }
        for (topic, partition, start) in &changes.trimmed {
            self.trim_index(&mut index, *topic, *partition, *start)?;
        }
        for (topic, partition, chunk) in &changes.index {
            if let Some(first) = chunk.first_offset() {
                index.insert(index_key(*topic, *partition, first), chunk.encode());
            }
        }
        for (topic, partition, entries) in &changes.relocated {
            let new = changes.index.iter();
            let new = new.filter(|(t, p, _)| (t, p) == (topic, partition));
            let new = new.map(|(_, _, chunk)| chunk);
            self.merge_index(&mut index, *topic, *partition, entries, new)?;
        }
        let checkpoint = encode_checkpoint(&changes.checkpoint);
        (&self.state, &self.index, &self.meta)
            .transaction(|(state_tree, index_tree, meta_tree)| {
                state_tree.apply_batch(&state)?;
                index_tree.apply_batch(&index)?;
                meta_tree.insert(CHECKPOINT_KEY, checkpoint.clone())?;
                Ok::<(), ConflictableTransactionError<()>>(())
            })
            .map_err(|error| match error {
                TransactionError::Storage(error) => ViewError::Sled(error),
                // The closure never aborts.
                TransactionError::Abort(()) => ViewError::Damaged("a transaction was aborted"),
            })?;
        self.db.flush()?;
        if changes.checkpoint.closed {
            self.sync_files()?;
        }
        Ok(())
    }

    /// The part of the index that holds `offset`, or that would if it existed:
    /// the last one that begins at or below it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn index_chunk(
        &self,
        topic: TopicId,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Option<IndexChunk>, ViewError> {
        let first = index_key(topic, partition, Offset(0));
        let last = index_key(topic, partition, offset);
        let Some(found) = self.index.range(first..=last).next_back() else {
            return Ok(None);
        };
        IndexChunk::decode(&found?.1)
            .map(Some)
            .ok_or(ViewError::Damaged("a chunk of its index"))
    }

    /// The entries of a partition that have offsets of `from..to`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn index_entries(
        &self,
        topic: TopicId,
        partition: PartitionId,
        from: Offset,
        to: Offset,
    ) -> Result<Vec<IndexEntry>, ViewError> {
        let before = self
            .index
            .range(index_key(topic, partition, Offset(0))..=index_key(topic, partition, from))
            .next_back()
            .transpose()?;
        let first = before.map_or_else(
            || index_key(topic, partition, from),
            |(key, _)| key.to_vec(),
        );
        let mut entries = Vec::new();
        for item in self.index.range(first..index_key(topic, partition, to)) {
            let chunk =
                IndexChunk::decode(&item?.1).ok_or(ViewError::Damaged("a chunk of its index"))?;
            let inside = |entry: &&IndexEntry| entry.first < to && entry.end() > from;
            entries.extend(chunk.entries().iter().filter(inside));
        }
        Ok(entries)
    }

    /// Removes the chunks that end at or below `start`.
    fn trim_index(
        &self,
        batch: &mut sled::Batch,
        topic: TopicId,
        partition: PartitionId,
        start: Offset,
    ) -> Result<(), ViewError> {
        let first = index_key(topic, partition, Offset(0));
        let last = index_key(topic, partition, start);
        let mut before: Option<sled::IVec> = None;
        for key in self.index.range(first..=last).keys() {
            // The next one begins where it ends, or later.
            if let Some(ended) = before.replace(key?) {
                batch.remove(ended);
            }
        }
        Ok(())
    }

    /// Puts `entries` over those that there are, `new` ones among them.
    fn merge_index<'a>(
        &self,
        batch: &mut sled::Batch,
        topic: TopicId,
        partition: PartitionId,
        entries: &[IndexEntry],
        new: impl Iterator<Item = &'a IndexChunk>,
    ) -> Result<(), ViewError> {
        let Some(lowest) = entries.iter().map(|entry| entry.first).min() else {
            return Ok(());
        };
        let highest = entries.iter().map(IndexEntry::end).max().unwrap_or(lowest);
        let from = self
            .index
            .range(index_key(topic, partition, Offset(0))..=index_key(topic, partition, lowest))
            .next_back()
            .transpose()?
            .map_or_else(
                || index_key(topic, partition, lowest),
                |(key, _)| key.to_vec(),
            );
        let mut all: Vec<IndexEntry> = entries.to_vec();
        for item in self.index.range(from..index_key(topic, partition, highest)) {
            let (key, value) = item?;
            let chunk =
                IndexChunk::decode(&value).ok_or(ViewError::Damaged("a chunk of its index"))?;
            all.extend_from_slice(chunk.entries());
            batch.remove(key);
        }
        // One that begins behind has nothing to do with these, and there may be
        // others between.
        let begins_before = |chunk: &&IndexChunk| chunk.first_offset() < Some(highest);
        for chunk in new.filter(begins_before) {
            if let Some(first) = chunk.first_offset() {
                batch.remove(index_key(topic, partition, first));
            }
            all.extend_from_slice(chunk.entries());
        }
        for chunk in index_chunk::merge(all).chunks(ENTRIES_MAX) {
            let key = index_key(topic, partition, chunk[0].first);
            batch.insert(key, IndexChunk::from_entries(chunk.to_vec()).encode());
        }
        Ok(())
    }

    fn put_entity(
        &self,
        batch: &mut sled::Batch,
        key: EntityKey,
        value: Option<&[u8]>,
    ) -> Result<(), ViewError> {
        let prefix = key.encode();
        let chunk_key = |number: u16| {
            let mut chunk_key = prefix.clone();
            chunk_key.put_u16(number);
            chunk_key
        };
        let mut chunks = 0;
        if let Some(value) = value {
            // An empty value still has its one, empty, chunk.
            let mut rest = value;
            loop {
                let (chunk, after) = rest.split_at(rest.len().min(VALUE_BYTES_MAX));
                batch.insert(chunk_key(chunks), chunk);
                chunks += 1;
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
        }
        for stale in self
            .state
            .range(chunk_key(chunks)..=chunk_key(u16::MAX))
            .keys()
        {
            batch.remove(stale?);
        }
        Ok(())
    }

    /// Syncs sled's files, which sled itself does not.
    fn sync_files(&self) -> io::Result<()> {
        fn sync(dir: &Path) -> io::Result<()> {
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    sync(&entry.path())?;
                } else {
                    File::open(entry.path())?.sync_all()?;
                }
            }
            File::open(dir)?.sync_all()
        }
        sync(&self.dir)
    }
}

fn index_key(topic: TopicId, partition: PartitionId, offset: Offset) -> Vec<u8> {
    let mut key = Vec::with_capacity(20);
    key.put_u64(topic.0);
    key.put_u32(partition.0);
    key.put_u64(offset.0);
    key
}

fn encode_checkpoint(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut out = Vec::with_capacity(CHECKPOINT_BYTES);
    out.put_u8(FORMAT_VERSION);
    out.put_slice(&checkpoint.log_id);
    out.put_u64(checkpoint.applied_end.position.0);
    out.put_u64(checkpoint.applied_end.epoch);
    out.put_u32(checkpoint.applied_end.block_crc);
    out.put_slice(&checkpoint.boot_id);
    out.put_u8(checkpoint.closed.into());
    out.put_u64(checkpoint.state_digest.0);
    out
}

fn decode_checkpoint(mut bytes: &[u8]) -> Option<Checkpoint> {
    if bytes.len() != CHECKPOINT_BYTES || bytes.get_u8() != FORMAT_VERSION {
        return None;
    }
    let mut log_id = [0; 16];
    bytes.copy_to_slice(&mut log_id);
    let applied_end = LogPoint {
        position: Position(bytes.get_u64()),
        epoch: bytes.get_u64(),
        block_crc: bytes.get_u32(),
    };
    let mut boot_id = [0; 16];
    bytes.copy_to_slice(&mut boot_id);
    let closed = bytes.get_u8() == 1;
    let state_digest = Digest(bytes.get_u64());
    Some(Checkpoint {
        log_id,
        applied_end,
        boot_id,
        closed,
        state_digest,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sluice_proto::GroupId;

    fn checkpoint(applied_end: u64) -> Checkpoint {
        Checkpoint {
            log_id: [7; 16],
            applied_end: LogPoint {
                position: Position(applied_end),
                epoch: 3,
                block_crc: 4,
            },
            boot_id: [9; 16],
            closed: false,
            state_digest: Digest(7),
        }
    }

    fn changes(entities: Vec<(EntityKey, Option<Vec<u8>>)>, applied_end: u64) -> Changes {
        Changes {
            entities,
            index: Vec::new(),
            relocated: Vec::new(),
            trimmed: Vec::new(),
            deleted_topics: Vec::new(),
            checkpoint: checkpoint(applied_end),
        }
    }

    fn loaded(view: &View) -> Vec<(EntityKey, Vec<u8>)> {
        let mut all = Vec::new();
        view.load::<ViewError>(|key, value| {
            all.push((key, value.to_vec()));
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn values_of_any_size_come_back_and_shrink_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let view = View::open(dir.path()).unwrap();
        let (a, b) = (EntityKey::Topic(TopicId(1)), EntityKey::Group(GroupId(2)));
        for size in [0, 1, 3799, 3800, 3801, 7600, 100_000, 5000, 10] {
            let value: Vec<u8> = (0..size).map(|i| i as u8).collect();
            let change = vec![(a, Some(value.clone())), (b, Some(vec![1]))];
            view.write(&changes(change, size as u64)).unwrap();
            assert_eq!(loaded(&view), [(a, value), (b, vec![1])]);
            assert_eq!(view.checkpoint().unwrap(), Some(checkpoint(size as u64)));
        }
        view.write(&changes(vec![(a, None)], 1)).unwrap();
        assert_eq!(loaded(&view), [(b, vec![1])]);
    }

    #[test]
    fn the_index_finds_the_chunk_that_begins_at_or_below() {
        let dir = tempfile::tempdir().unwrap();
        let view = View::open(dir.path()).unwrap();
        let chunk = |first| {
            IndexChunk::from_entries(vec![IndexEntry {
                first: Offset(first),
                count: 5,
                position: Position(4096 + first),
                length: 100,
                time_ms: 9,
                bytes: 70,
            }])
        };
        let (topic, partition) = (TopicId(1), PartitionId(0));
        let mut change = changes(Vec::new(), 1);
        change.index = vec![
            (topic, partition, chunk(0)),
            (topic, partition, chunk(5)),
            (topic, PartitionId(1), chunk(0)),
            (TopicId(2), partition, chunk(0)),
        ];
        view.write(&change).unwrap();
        let find = |topic, offset| view.index_chunk(topic, partition, Offset(offset)).unwrap();
        assert_eq!(find(topic, 4), Some(chunk(0)));
        assert_eq!(find(topic, 5), Some(chunk(5)));
        assert_eq!(find(topic, 1000), Some(chunk(5)));
        assert_eq!(find(TopicId(3), 0), None);

        // Written again, over two chunks, with one that is new in the same go.
        let mut again = changes(Vec::new(), 2);
        let [whole] = chunk(0).entries()[..] else {
            panic!("a chunk of one entry")
        };
        let whole = IndexEntry {
            count: 10,
            position: Position(99_999),
            ..whole
        };
        again.index = vec![(topic, partition, chunk(10))];
        again.relocated = vec![(topic, partition, vec![whole])];
        view.write(&again).unwrap();
        let whole = IndexChunk::from_entries(vec![whole]);
        for offset in [0, 9] {
            assert_eq!(find(topic, offset), Some(whole.clone()), "{offset}");
        }
        assert_eq!(find(topic, 14), Some(chunk(10)));
        assert_eq!(find(TopicId(2), 5), Some(chunk(0)));

        // Trimmed: what reaches over the start stays.
        let mut trim = changes(Vec::new(), 2);
        trim.index = vec![(topic, partition, chunk(15)), (topic, partition, chunk(20))];
        view.write(&trim).unwrap();
        trim.index = Vec::new();
        trim.trimmed = vec![(topic, partition, Offset(17))];
        view.write(&trim).unwrap();
        assert_eq!(find(topic, 14), None);
        assert_eq!(find(topic, 16), Some(chunk(15)));
        assert_eq!(find(topic, 20), Some(chunk(20)));
        assert_eq!(find(TopicId(2), 5), Some(chunk(0)));

        let mut deletion = changes(Vec::new(), 2);
        deletion.deleted_topics = vec![topic];
        view.write(&deletion).unwrap();
        assert_eq!(find(topic, 5), None);
        assert_eq!(find(TopicId(2), 5), Some(chunk(0)));
    }
}
