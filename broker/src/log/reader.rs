//! The reading end: frames by position, from memory or from disk.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::{
    Position,
    blank::Patience,
    block::{self, FRAME_HEADER_BYTES},
    cache::TailCache,
    disk::{Disk, DiskFile},
    flight::Flight,
    landing::Landing,
    segment::{self, SegmentHeader},
    spares::Spares,
};

/// How many segment files are kept open.
const OPEN_FILES_MAX: usize = 64;

/// Why a frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing durable is there: not yet, or not any more.
    #[error("nothing is stored at {0}")]
    NotThere(Position),
    /// What is there fails its checksum.
    #[error("the frame at {0} fails its checksum")]
    Damaged(Position),
    /// The file cannot be read.
    #[error("the log cannot be read at {0}: {1}")]
    Io(Position, io::Error),
}

/// Reads frames. Cheap to clone; may be used from any number of threads.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

/// What the writing and the reading ends share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    /// Everything below is durable.
    pub(super) durable_end: AtomicU64,
    /// Everything below is written, though perhaps not durable.
    pub(super) written_end: AtomicU64,
    pub(super) flight: Mutex<Flight>,
    /// Told when a block has landed, and when the log has failed.
    pub(super) landing: Landing,
    /// The writer is gone.
    pub(super) closed: AtomicBool,
    /// Why the log takes no more writes.
    pub(super) failure: OnceLock<Arc<str>>,
    pub(super) cache: RwLock<TailCache>,
    pub(super) segments: RwLock<BTreeMap<Position, Segment>>,
    pub(super) spares: Spares,
    pub(super) patience: Patience,
    /// Segments that begin in here are still to be copied, and not to be removed.
    pub(super) held: Mutex<Option<Range<Position>>>,
    /// What was read from files for readers, since the start.
    pub(super) bytes_from_files: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) end: Position,
    pub(super) file: Option<Arc<dyn DiskFile>>,
    /// Cloned by whoever reads from the file, so that it is not written over
    /// under their hands.
    pub(super) pin: Arc<()>,
}

/// A segment of the log, as its owner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its first position.
    pub base: Position,
    /// The first position after it.
    pub end: Position,
    /// Blocks are, or will be, appended to it. There is one such segment, the
    /// last; it cannot be removed.
    pub open: bool,
}

impl SegmentInfo {
    /// Bytes of its file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end.0 - self.base.0
    }
}

/// A file that is not written over as long as this lives.
pub(super) struct Pinned {
    pub(super) base: Position,
    pub(super) file: Arc<dyn DiskFile>,
    _pin: Arc<()>,
}

impl Reader {
    /// The payload of the frame at `position`, which takes `length` bytes, its
    /// header included. May wait for the disk.
    ///
    /// # Errors
    /// When there is no such frame, or it is damaged.
    pub fn frame(&self, position: Position, length: u32) -> Result<Bytes, ReadError> {
        if let Some(payload) = self.cached(position) {
            return Ok(payload);
        }
        let end = position.0.saturating_add(length.into());
        if (length as usize) < FRAME_HEADER_BYTES || end > self.written_end().0 {
            return Err(ReadError::NotThere(position));
        }
        let pinned = self.shared.file_at(position)?;
        let mut buffer = vec![0; length as usize];
        let offset = position.0 - pinned.base.0;
        pinned
            .file
            .read_at(&mut buffer, offset)
            .map_err(|error| ReadError::Io(position, error))?;
        self.shared
            .bytes_from_files
            .fetch_add(length.into(), Ordering::Relaxed);
        match block::decode_frame(&buffer) {
            Some((_, whole)) if whole == buffer.len() => {
                Ok(Bytes::from(buffer).slice(FRAME_HEADER_BYTES..))
            }
            _ => Err(ReadError::Damaged(position)),
        }
    }

    /// The payload of the frame at `position` if it is in memory.
    #[must_use]
    pub fn cached(&self, position: Position) -> Option<Bytes> {
        let tail = read(&self.shared.cache).from(position)?;
        let length = u32::from_le_bytes(*tail.first_chunk()?) as usize;
        let end = FRAME_HEADER_BYTES.checked_add(length)?;
        (end <= tail.len()).then(|| tail.slice(FRAME_HEADER_BYTES..end))
    }

    /// Whether [`Reader::cached`] has the frame at `position`.
    #[must_use]
    pub fn holds(&self, position: Position) -> bool {
        read(&self.shared.cache).from(position).is_some()
    }

    /// Bytes of frames that were read from the log's files, since it was opened.
    #[must_use]
    pub fn bytes_from_files(&self) -> u64 {
        self.shared.bytes_from_files.load(Ordering::Relaxed)
    }

    /// Every frame at or above is in memory.
    #[must_use]
    pub fn cached_from(&self) -> Position {
        read(&self.shared.cache)
            .start()
            .unwrap_or_else(|| self.durable_end())
    }

    /// Everything below is durable.
    #[must_use]
    pub fn durable_end(&self) -> Position {
        Position(self.shared.durable_end.load(Ordering::Acquire))
    }

    /// Everything below is written. Between the durable end and here is what was
    /// promised to be no more than that.
    #[must_use]
    pub fn written_end(&self) -> Position {
        Position(self.shared.written_end.load(Ordering::Acquire))
    }

    /// Why the log takes no more writes, if it does not.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<str>> {
        self.shared.failure.get().cloned()
    }

    /// The segments, in order. There may be gaps where some were removed.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let segments = read(&self.shared.segments);
        let last = segments.last_key_value().map(|(base, _)| *base);
        segments
            .iter()
            .map(|(base, segment)| SegmentInfo {
                base: *base,
                end: segment.end,
                open: Some(*base) == last,
            })
            .collect()
    }

    /// Bytes of the files that are kept to be written again.
    #[must_use]
    pub fn spare_bytes(&self) -> u64 {
        self.shared.spares.bytes()
    }

    /// Bytes of all segment files.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        read(&self.shared.segments)
            .iter()
            .map(|(base, segment)| segment.end.0 - base.0)
            .sum()
    }
}

#[cfg(test)]
impl Reader {
    /// Keeps the file at `position` from being written over.
    pub(super) fn pin(&self, position: Position) -> impl Sized + use<> {
        self.shared.file_at(position).ok()
    }
}

impl Shared {
    /// The file that holds `position`.
    pub(super) fn file_at(&self, position: Position) -> Result<Pinned, ReadError> {
        let segments = read(&self.segments);
        let (base, segment) = segments
            .range(..=position)
            .next_back()
            .filter(|(_, segment)| position < segment.end)
            .ok_or(ReadError::NotThere(position))?;
        let (base, pin) = (*base, segment.pin.clone());
        let open = segment.file.clone();
        drop(segments);
        let file = match open {
            Some(file) => file,
            None => self.open_file(base, position)?,
        };
        Ok(Pinned {
            base,
            file,
            _pin: pin,
        })
    }

    fn open_file(
        &self,
        base: Position,
        position: Position,
    ) -> Result<Arc<dyn DiskFile>, ReadError> {
        let file =
            self.disk
                .open(&segment::file_name(base))
                .map_err(|error| match error.kind() {
                    // Removed since; no other file ever gets its name.
                    io::ErrorKind::NotFound => ReadError::NotThere(position),
                    _ => ReadError::Io(position, error),
                })?;
        let mut segments = write(&self.segments);
        let open = segments.values().filter(|s| s.file.is_some()).count();
        if open >= OPEN_FILES_MAX
            && let Some(oldest) = segments.values_mut().find(|s| s.file.is_some())
        {
            oldest.file = None;
        }
        if let Some(segment) = segments.get_mut(&base) {
            segment.file = Some(file.clone());
        }
        Ok(file)
    }

    pub(super) fn flight(&self) -> MutexGuard<'_, Flight> {
        // Nothing that runs under this lock can leave it half changed.
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Option<Range<Position>>> {
        // It is changed in one step.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_segment(&self, header: &SegmentHeader, file: Option<Arc<dyn DiskFile>>) {
        let segment = Segment {
            end: header.end(),
            file,
            pin: Arc::default(),
        };
        write(&self.segments).insert(header.base, segment);
    }
}

// Nothing that runs under these locks can leave what they guard half changed.
pub(super) fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
