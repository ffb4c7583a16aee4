//! Opens a log: reads what is there, tells a torn tail from damage, cuts the
//! one and refuses the other. The rule is in `log/mod.rs`.

mod find;
mod follow;
mod inspect;
mod rescan;
mod snapshot;
mod tail;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, RwLock,
        atomic::{AtomicBool, AtomicU64},
    },
};

use self::{
    find::{FoundSegment, find_segments, remove_unfinished},
    follow::Scan,
};
pub use self::{
    inspect::{BlockSeen, Inspection, Seen, SegmentSeen, Wrong},
    snapshot::{Busy, CopyError, Piece, Snapshot},
};
use super::{
    LogConfig, LogPoint, Opened, Position, ahead,
    blank::Patience,
    cache::TailCache,
    disk::{Disk, Folder, WriteChoice, WriteWay},
    flight::Flight,
    landing::Landing,
    reader::{Reader, SegmentInfo, Shared},
    reclaim::Reclaimer,
    spares::Spares,
    syncer::Told,
    writer::{FirstBlock, Where, Writer},
};

/// A frame as it is given back when the log is opened.
#[derive(Clone, Copy, Debug)]
pub struct ReplayedFrame<'a> {
    /// Where it is.
    pub position: Position,
    /// Bytes that it takes, its header included.
    pub length: u32,
    /// Its payload.
    pub payload: &'a [u8],
    /// Where its block begins; everything before has been given.
    pub block: LogPoint,
}

/// What was found when the log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// The log's identity.
    pub log_id: [u8; 16],
    /// The new epoch.
    pub epoch: u64,
    /// There was no log before.
    pub created: bool,
    /// How blocks are written.
    pub write: WriteWay,
    /// The log had been closed in order.
    pub clean: bool,
    /// Bytes of the blocks that were read.
    pub replayed_bytes: u64,
    /// Bytes of a torn tail that were cut, to the page. What a recycled file
    /// held before it became the segment does not count.
    pub cut_bytes: u64,
}

/// Why a log was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file system says so.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// A segment is not what it should be.
    #[error("segment {name} cannot be used: {reason}")]
    Segment {
        /// Its file name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes that had been durable are not what was written.
    #[error(
        "the log is damaged at byte {offset} of segment {name} (position {position}): \
         what was durable there cannot be read; restore the data folder from a copy"
    )]
    Damaged {
        /// The segment's file name.
        name: String,
        /// Offset in it.
        offset: u64,
        /// The same as a position.
        position: Position,
    },
    /// The place to begin from is not between two blocks of this log.
    #[error("the log has no block boundary at {0}")]
    NotFromHere(Position),
    /// Whoever was given a frame refused it.
    #[error("the frame at {0} does not fit what came before: {1}")]
    Refused(Position, String),
}

impl OpenError {
    pub(super) fn io(what: &str, error: io::Error) -> Self {
        Self::Io(what.to_owned(), error)
    }
}

/// A log whose segments are known and that is not open yet: the place from which
/// to replay can be looked for.
#[derive(Debug)]
pub struct Found {
    disk: Arc<dyn Disk>,
    segments: Vec<FoundSegment>,
}

/// Where a log ends that was only read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadEnd {
    /// The end of the last block.
    pub point: LogPoint,
    /// The log was closed in order.
    pub clean: bool,
    /// Bytes of a torn tail behind it, which the next start cuts.
    pub torn_bytes: u64,
}

impl Found {
    /// Looks at the log in `dir`, to be written in this way, making the folder if
    /// it is not there.
    ///
    /// # Errors
    /// When the folder cannot be used, or a file in it is no segment of one log.
    pub fn new(dir: &Path, write: WriteChoice) -> Result<Self, OpenError> {
        let folder = Folder::open(dir, write);
        let folder = folder.map_err(|error| OpenError::io("the log's folder", error))?;
        Self::on(Arc::new(folder))
    }

    pub(super) fn on(disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        remove_unfinished(&*disk)?;
        let segments = find_segments(&*disk)?;
        // A change of a name that was interrupted may be there in name only.
        disk.sync_dir()
            .map_err(|error| OpenError::io("the log's folder", error))?;
        Ok(Self { disk, segments })
    }

    /// Looks at the log in `dir` and will not change it: it can be read, and not
    /// be opened.
    ///
    /// # Errors
    /// When the folder is not there, or a file in it is no segment of one log.
    pub fn to_read(dir: &Path) -> Result<Self, OpenError> {
        let folder = Folder::to_read(dir);
        let folder = folder.map_err(|error| OpenError::io("the log's folder", error))?;
        let segments = find_segments(&folder)?;
        Ok(Self {
            disk: Arc::new(folder),
            segments,
        })
    }

    /// The segments, in order. There may be gaps where some were removed.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = SegmentInfo> {
        let last = self.segments.len();
        self.segments
            .iter()
            .enumerate()
            .map(move |(at, found)| SegmentInfo {
                base: found.header.base,
                end: found.header.end(),
                open: at + 1 == last,
            })
    }

    /// Gives the frames of the segment with this base to `visit`, in order, as
    /// far as its chain of blocks is whole, and returns where that is: beyond the
    /// segment when it is sealed and whole. Nothing is cut, nor found to be
    /// damage: that is for [`Found::open`].
    ///
    /// # Errors
    /// When there is no such segment, it cannot be read, or `visit` refuses a
    /// frame.
    pub fn scan(
        &self,
        base: Position,
        visit: &mut dyn FnMut(ReplayedFrame<'_>) -> Result<(), String>,
    ) -> Result<Position, OpenError> {
        let found = self
            .segments
            .iter()
            .find(|found| found.header.base == base)
            .ok_or(OpenError::NotFromHere(base))?;
        Scan::one_segment(&*self.disk, found, visit)
    }

    /// Gives every frame to `visit` that [`Found::open`] would give, and changes
    /// nothing.
    ///
    /// # Errors
    /// As [`Found::open`].
    pub fn read(
        &self,
        from: Option<LogPoint>,
        visit: &mut dyn FnMut(ReplayedFrame<'_>) -> Result<(), String>,
    ) -> Result<ReadEnd, OpenError> {
        let (disk, segments) = (&*self.disk, &self.segments);
        let mut scan = Scan::begin(disk, segments, from)?;
        let mut torn_bytes = 0;
        if let Some(first) = scan.segment {
            let at = scan.follow(disk, segments, first, visit)?;
            torn_bytes = tail::torn(disk, segments, &scan, at)?;
        }
        Ok(ReadEnd {
            point: scan.point,
            clean: scan.clean,
            torn_bytes,
        })
    }

    /// Opens the log, and gives every frame from `from` on (`None`: from the
    /// beginning) to `visit`, in order. Segments below `from` may be missing,
    /// others may not.
    ///
    /// The log then has a new epoch, which becomes durable with the first block.
    ///
    /// # Errors
    /// When it is damaged, a segment is missing, it has no block boundary at
    /// `from`, or `visit` refuses a frame.
    pub fn open(
        self,
        config: LogConfig,
        from: Option<LogPoint>,
        visit: &mut dyn FnMut(ReplayedFrame<'_>) -> Result<(), String>,
    ) -> Result<Opened, OpenError> {
        let (disk, segments) = (&*self.disk, &self.segments);
        let mut scan = Scan::begin(disk, segments, from)?;
        let mut cut_bytes = 0;
        if let Some(first) = scan.segment {
            let at = scan.follow(disk, segments, first, visit)?;
            cut_bytes = tail::cut(disk, segments, &scan, at)?;
            // Also what is whole may only be in the page cache.
            for found in &segments[scan.first_segment..] {
                let file = disk.open(&found.name).map_err(|error| found.io(error))?;
                file.sync().map_err(|error| found.io(error))?;
            }
        }
        let report = OpenReport {
            log_id: segments
                .first()
                .map_or_else(rand::random, |found| found.header.log_id),
            epoch: scan.point.epoch + 1 + config.epoch_ahead,
            created: segments.is_empty(),
            write: disk.way(),
            clean: scan.clean,
            replayed_bytes: scan.replayed_bytes,
            cut_bytes,
        };
        self.assemble(config, &scan, report)
    }

    fn assemble(
        self,
        config: LogConfig,
        scan: &Scan,
        report: OpenReport,
    ) -> Result<Opened, OpenError> {
        let end = scan.point.position;
        let (at, open_file) = match self.segments.last() {
            None => {
                let next_base = Position(0);
                (Where::Sealed { next_base }, None)
            }
            Some(last) if scan.sealed => {
                let next_base = last.header.end();
                (Where::Sealed { next_base }, None)
            }
            Some(last) => {
                let file = self.disk.open(&last.name).map_err(|error| last.io(error))?;
                let at = Where::In {
                    segment: last.header,
                    file: file.clone(),
                    next: end,
                };
                (at, Some(file))
            }
        };
        let spares = Spares::find(&*self.disk, config.segment_bytes, config.spares_max)
            .map_err(|error| OpenError::io("a spare segment", error))?;
        let shared = Arc::new(Shared {
            disk: self.disk,
            durable_end: AtomicU64::new(end.0),
            written_end: AtomicU64::new(end.0),
            flight: Mutex::new(Flight::at(end)),
            landing: Landing::default(),
            closed: AtomicBool::new(false),
            failure: OnceLock::new(),
            cache: RwLock::new(TailCache::new(config.tail_cache_bytes)),
            segments: RwLock::new(BTreeMap::new()),
            spares,
            patience: Patience::default(),
            held: Mutex::new(None),
            bytes_from_files: AtomicU64::new(0),
        });
        if let Some(rate) = config.ahead_bytes_per_second {
            ahead::start(shared.clone(), rate)
                .map_err(|error| OpenError::io("the thread that makes segments", error))?;
        }
        for found in &self.segments {
            let is_open = found.header.end() > end;
            shared.add_segment(&found.header, open_file.clone().filter(|_| is_open));
        }
        let writer = Writer {
            shared: shared.clone(),
            buffers: Arc::default(),
            log_id: report.log_id,
            segment_bytes: config.segment_bytes,
            epoch: report.epoch,
            prev_crc: scan.point.block_crc,
            prev_epoch: scan.point.epoch,
            at,
            first: FirstBlock::ToCome,
            sync_delay: config.sync_delay,
            told: Told(Box::new(|| {})),
        };
        Ok(Opened {
            writer,
            reader: Reader {
                shared: shared.clone(),
            },
            reclaimer: Reclaimer { shared },
            report,
        })
    }
}
