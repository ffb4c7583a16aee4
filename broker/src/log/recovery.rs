//! Opens a log: reads what is there, tells a torn tail from damage, cuts the
//! one and refuses the other. The rule is in `log/mod.rs`.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, OnceLock, RwLock, atomic::AtomicU64},
};

use super::{
    LogConfig, LogPoint, Opened, PAGE_BYTES, Position,
    block::{self, HEADER_BYTES, Header, Kind},
    cache::TailCache,
    disk::{Disk, DiskFile},
    reader::{Reader, Shared},
    segment::{self, SegmentHeader},
    writer::{Where, Writer},
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
    /// The log had been closed in order.
    pub clean: bool,
    /// Bytes of the blocks that were read.
    pub replayed_bytes: u64,
    /// Bytes of a torn tail that were cut, to the page.
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

struct Found {
    header: SegmentHeader,
    name: String,
    file: Arc<dyn DiskFile>,
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    config: LogConfig,
    from: Option<LogPoint>,
    visit: &mut dyn FnMut(ReplayedFrame<'_>) -> Result<(), String>,
) -> Result<Opened, OpenError> {
    let segments = find_segments(&*disk)?;
    // A segment whose making was interrupted may be there in name only.
    disk.sync_dir()
        .map_err(|error| OpenError::io("the log's folder", error))?;
    let mut scan = Scan::begin(&segments, from)?;
    if let Some(mut at) = scan.segment {
        at = scan.follow(&segments, at, visit)?;
        scan.check_tail(&segments, at)?;
        scan.cut_bytes = zero_from(&segments[at], scan.point.position)
            .map_err(|error| OpenError::io(&segments[at].name, error))?;
        // Also what is whole may only be in the page cache.
        for found in &segments[scan.first_segment..] {
            found
                .file
                .sync()
                .map_err(|error| OpenError::io(&found.name, error))?;
        }
    }
    let log_id = segments
        .first()
        .map_or_else(rand::random, |found| found.header.log_id);
    let report = OpenReport {
        log_id,
        epoch: scan.point.epoch + 1,
        created: segments.is_empty(),
        clean: scan.clean,
        replayed_bytes: scan.replayed_bytes,
        cut_bytes: scan.cut_bytes,
    };
    Ok(assemble(disk, config, segments, &scan, report))
}

fn assemble(
    disk: Arc<dyn Disk>,
    config: LogConfig,
    segments: Vec<Found>,
    scan: &Scan,
    report: OpenReport,
) -> Opened {
    let end = scan.point.position;
    let at = match segments.last() {
        None => Where::Sealed {
            next_base: Position(0),
        },
        Some(last) if scan.sealed => Where::Sealed {
            next_base: last.header.end(),
        },
        Some(last) => Where::In {
            segment: last.header,
            file: last.file.clone(),
            next: end,
        },
    };
    let shared = Arc::new(Shared {
        disk,
        durable_end: AtomicU64::new(end.0),
        failure: OnceLock::new(),
        cache: RwLock::new(TailCache::new(config.tail_cache_bytes)),
        segments: RwLock::new(BTreeMap::new()),
    });
    for found in segments {
        shared.add_segment(&found.header, found.file);
    }
    let writer = Writer {
        shared: shared.clone(),
        log_id: report.log_id,
        segment_bytes: config.segment_bytes,
        epoch: report.epoch,
        prev_crc: scan.point.block_crc,
        at,
    };
    Opened {
        writer,
        reader: Reader { shared },
        report,
    }
}

/// Every segment, in order, after a look at what their headers say of each
/// other.
fn find_segments(disk: &dyn Disk) -> Result<Vec<Found>, OpenError> {
    let folder = |error| OpenError::io("the log's folder", error);
    let mut bases = Vec::new();
    for name in disk.list().map_err(folder)? {
        if segment::is_unfinished(&name) {
            disk.remove(&name).map_err(folder)?;
        } else if let Some(base) = segment::base_of(&name) {
            bases.push(base);
        }
    }
    bases.sort_unstable();
    let mut segments: Vec<Found> = Vec::with_capacity(bases.len());
    for base in bases {
        let name = segment::file_name(base);
        let unusable = |reason: String| OpenError::Segment {
            name: name.clone(),
            reason,
        };
        let io = |error| OpenError::io(&name, error);
        let file = disk.open(&name).map_err(io)?;
        let mut page = vec![0; PAGE_BYTES as usize];
        if file.size().map_err(io)? < PAGE_BYTES {
            return Err(unusable("it is shorter than its header".into()));
        }
        file.read_at(&mut page, 0).map_err(io)?;
        let header = SegmentHeader::decode(&page).map_err(|e| unusable(e.to_string()))?;
        if header.base != base {
            return Err(unusable(format!("its header says base {}", header.base)));
        }
        if file.size().map_err(io)? != header.size {
            return Err(unusable(format!("it is not {} bytes long", header.size)));
        }
        if let Some(before) = segments.last() {
            if before.header.log_id != header.log_id {
                return Err(unusable("it belongs to another log".into()));
            }
            if before.header.end() != base {
                return Err(unusable("the segment before it is missing".into()));
            }
        }
        segments.push(Found { header, name, file });
    }
    if let Some(first) = segments.first()
        && first.header.base != Position(0)
    {
        return Err(OpenError::Segment {
            name: first.name.clone(),
            reason: "the segment before it is missing".into(),
        });
    }
    Ok(segments)
}

/// Follows the chain of blocks.
struct Scan {
    point: LogPoint,
    /// Which segment `point` is in; `None` when that one is not made yet.
    segment: Option<usize>,
    first_segment: usize,
    begun_at: Option<Position>,
    /// The last block was a seal, and the next segment is not made yet.
    sealed: bool,
    clean: bool,
    replayed_bytes: u64,
    cut_bytes: u64,
}

impl Scan {
    fn begin(segments: &[Found], from: Option<LogPoint>) -> Result<Self, OpenError> {
        let mut scan = Self {
            point: LogPoint {
                position: Position(0),
                epoch: 0,
                block_crc: 0,
            },
            segment: None,
            first_segment: 0,
            begun_at: from.map(|point| point.position),
            sealed: segments.is_empty(),
            clean: segments.is_empty(),
            replayed_bytes: 0,
            cut_bytes: 0,
        };
        match (segments.first(), from) {
            (None, None) => {}
            (None, Some(from)) => return Err(OpenError::NotFromHere(from.position)),
            (Some(first), None) => {
                scan.segment = Some(0);
                scan.point = LogPoint {
                    position: first.header.first_block(),
                    epoch: 0,
                    block_crc: first.header.prev_crc,
                };
            }
            (Some(_), Some(from)) => {
                let inside = |found: &Found| {
                    from.position >= found.header.first_block()
                        && from.position.0 + PAGE_BYTES <= found.header.end().0
                };
                scan.point = from;
                scan.segment = segments.iter().position(inside);
                let after_last = segments.last().map(|last| last.header.end().0 + PAGE_BYTES);
                scan.sealed = after_last == Some(from.position.0);
                scan.first_segment = scan.segment.unwrap_or(segments.len() - 1);
                let on_page = from.position.0.is_multiple_of(PAGE_BYTES);
                if !on_page || (scan.segment.is_none() && !scan.sealed) {
                    return Err(OpenError::NotFromHere(from.position));
                }
            }
        }
        Ok(scan)
    }

    /// Gives the frames of all valid blocks to `visit`. Returns the segment in
    /// which the chain ends.
    fn follow(
        &mut self,
        segments: &[Found],
        mut at: usize,
        visit: &mut dyn FnMut(ReplayedFrame<'_>) -> Result<(), String>,
    ) -> Result<usize, OpenError> {
        loop {
            let found = &segments[at];
            let block = read_block(found, self.point.position)
                .map_err(|error| OpenError::io(&found.name, error))?;
            let Some((header, bytes)) = block.filter(|(header, _)| {
                header.prev_crc == self.point.block_crc && header.epoch >= self.point.epoch
            }) else {
                return Ok(at);
            };
            self.visit_frames(&header, &bytes, visit)?;
            self.replayed_bytes += header.block_len();
            self.clean = header.kind == Kind::Close;
            self.point = LogPoint {
                position: Position(header.position.0 + header.block_len()),
                epoch: header.epoch,
                block_crc: header.crc,
            };
            if header.kind == Kind::Seal {
                let Some(next) = segments.get(at + 1) else {
                    self.sealed = true;
                    self.point.position = Position(found.header.end().0 + PAGE_BYTES);
                    return Ok(at);
                };
                at += 1;
                self.point.position = next.header.first_block();
                // The segment was made in that epoch, if nothing in it was
                // written.
                self.point.epoch = self.point.epoch.max(next.header.epoch);
                if next.header.prev_crc != header.crc {
                    return Err(self.damaged(found, header.position));
                }
            }
        }
    }

    fn visit_frames(
        &self,
        header: &Header,
        block: &[u8],
        visit: &mut dyn FnMut(ReplayedFrame<'_>) -> Result<(), String>,
    ) -> Result<(), OpenError> {
        let mut offset = HEADER_BYTES;
        for _ in 0..header.frames {
            let position = Position(header.position.0 + offset as u64);
            // The block's CRC is right, so a wrong frame was written wrongly.
            let (payload, length) = block::decode_frame(&block[offset..])
                .ok_or_else(|| OpenError::Refused(position, "its checksum is wrong".into()))?;
            visit(ReplayedFrame {
                position,
                length: length as u32,
                payload,
                block: self.point,
            })
            .map_err(|reason| OpenError::Refused(position, reason))?;
            offset += length;
        }
        Ok(())
    }

    /// Refuses when anything after the end of the chain vouches that there had
    /// been more.
    fn check_tail(&self, segments: &[Found], at: usize) -> Result<(), OpenError> {
        if self.sealed {
            return Ok(());
        }
        let end = self.point.position;
        let found = &segments[at];
        if segments.len() > at + 1 {
            return Err(self.damaged(found, end));
        }
        let mut page = end.0 + PAGE_BYTES;
        while page < found.header.end().0 {
            let block = read_block(found, Position(page))
                .map_err(|error| OpenError::io(&found.name, error))?;
            if block.is_some_and(|(header, _)| header.synced_end > end) {
                return Err(self.damaged(found, end));
            }
            page += PAGE_BYTES;
        }
        Ok(())
    }

    fn damaged(&self, found: &Found, position: Position) -> OpenError {
        if self.begun_at == Some(position) {
            return OpenError::NotFromHere(position);
        }
        OpenError::Damaged {
            name: found.name.clone(),
            offset: position.0 - found.header.base.0,
            position,
        }
    }
}

/// The block at `position`, whole, if a valid one is there.
fn read_block(found: &Found, position: Position) -> io::Result<Option<(Header, Vec<u8>)>> {
    let end = found.header.end().0;
    if position.0 + PAGE_BYTES > end {
        return Ok(None);
    }
    let offset = position.0 - found.header.base.0;
    let mut bytes = vec![0; PAGE_BYTES as usize];
    found.file.read_at(&mut bytes, offset)?;
    let Some(header) = Header::decode(&bytes, position) else {
        return Ok(None);
    };
    let length = header.block_len();
    if position
        .0
        .checked_add(length)
        .is_none_or(|after| after > end)
    {
        return Ok(None);
    }
    bytes.resize(length as usize, 0);
    found
        .file
        .read_at(&mut bytes[PAGE_BYTES as usize..], offset + PAGE_BYTES)?;
    bytes.truncate(HEADER_BYTES + header.payload_len as usize);
    let valid = block::block_crc(&bytes) == header.crc;
    Ok(valid.then_some((header, bytes)))
}

/// Zeroes what is not zero from `position` to the end of the segment, and tells
/// how many bytes it found so.
fn zero_from(found: &Found, position: Position) -> io::Result<u64> {
    const STEP: u64 = 1 << 20;
    let mut cut = 0;
    let mut offset = position.0.saturating_sub(found.header.base.0);
    let mut buffer = Vec::new();
    while offset < found.header.size {
        buffer.resize(STEP.min(found.header.size - offset) as usize, 0);
        found.file.read_at(&mut buffer, offset)?;
        for (at, page) in buffer.chunks(PAGE_BYTES as usize).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                let page_offset = offset + at as u64 * PAGE_BYTES;
                found.file.write_at(&vec![0; page.len()], page_offset)?;
                cut += page.len() as u64;
            }
        }
        offset += buffer.len() as u64;
    }
    Ok(cut)
}
