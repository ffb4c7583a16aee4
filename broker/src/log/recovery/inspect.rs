//! Looks at a log that nobody has open, block by block, and changes nothing. What
//! a start would refuse or cut is told, and looked behind.

use std::{fmt, io, path::Path, sync::Arc};

use super::{
    OpenError, ReplayedFrame,
    find::{FoundSegment, Window, find_bases, find_segment},
    follow::visit_frames,
    tail::{Behind, look_behind},
};
use crate::log::{
    LogPoint, Position,
    block::{Header, Kind},
    disk::{Disk, Folder},
    segment,
};

/// The files of a log, to be looked at.
#[derive(Debug)]
pub struct Inspection {
    disk: Arc<dyn Disk>,
    segments: Vec<Result<FoundSegment, OpenError>>,
}

/// What there is in a log, in the order of positions.
#[derive(Debug)]
pub enum Seen<'a> {
    /// A segment, before its blocks.
    Segment(SegmentSeen),
    /// A block, before its frames.
    Block(BlockSeen),
    /// A frame of the block that was seen last.
    Frame(ReplayedFrame<'a>),
    /// Something that should not be so.
    Wrong(Wrong),
}

/// A segment's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSeen {
    /// The file's name.
    pub name: String,
    /// Which log.
    pub log_id: [u8; 16],
    /// Its first position.
    pub base: Position,
    /// The first position after it.
    pub end: Position,
    /// The epoch in which it was made.
    pub epoch: u64,
    /// The file held other blocks before.
    pub recycled: bool,
}

/// A block's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSeen {
    /// "data", "seal" or "close".
    pub kind: &'static str,
    /// Where it is.
    pub position: Position,
    /// The first position after it.
    pub end: Position,
    /// How many frames it holds.
    pub frames: u32,
    /// Bytes of its frames.
    pub payload_bytes: u32,
    /// The epoch in which it was written.
    pub epoch: u64,
    /// All below was durable when it was written.
    pub synced_end: Position,
    /// CRC of the block before it.
    pub prev_crc: u32,
    /// Its CRC.
    pub crc: u32,
}

/// What is wrong with a log, or not quite in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A file is no segment of this log.
    Unusable(String),
    /// Blocks are missing between the segment before and this one.
    NotAfter(String),
    /// What had been durable cannot be read.
    Damaged {
        /// The segment's file.
        name: String,
        /// Where it begins.
        from: Position,
        /// The next block that can be read, or the end of the segment.
        until: Position,
    },
    /// A write that never became durable. The next start cuts it; nothing is lost
    /// that was acked.
    Torn {
        /// Where the log ends.
        from: Position,
        /// Bytes behind that, to the page.
        bytes: u64,
    },
}

impl Wrong {
    /// Whether something is lost by it.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Torn { .. })
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(what) => f.write_str(what),
            Self::NotAfter(name) => {
                write!(f, "segment {name} does not go on where the one before ends")
            }
            Self::Damaged { name, from, until } => write!(
                f,
                "segment {name} is damaged from {from} to {until}: what was durable there cannot \
                 be read"
            ),
            Self::Torn { from, bytes } => write!(
                f,
                "a write of {bytes} bytes at {from} that did not become durable; the next start \
                 cuts it"
            ),
        }
    }
}

impl Inspection {
    /// Looks at the log in `dir`.
    ///
    /// # Errors
    /// When the folder is not there or cannot be read.
    pub fn new(dir: &Path) -> Result<Self, OpenError> {
        let folder = Folder::to_read(dir);
        let folder = folder.map_err(|error| OpenError::io("the log's folder", error))?;
        Self::on(Arc::new(folder))
    }

    pub(in crate::log) fn on(disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        let mut segments: Vec<Result<FoundSegment, OpenError>> = Vec::new();
        for base in find_bases(&*disk)? {
            let found = find_segment(&*disk, base).and_then(|found| {
                match segments.iter().rev().flatten().next() {
                    Some(before) => found.check_after(before).map(|()| found),
                    None => Ok(found),
                }
            });
            segments.push(found);
        }
        Ok(Self { disk, segments })
    }

    /// Gives what is in segments that reach into `from..to` to `visit`, whole
    /// segments at a time, until it says no.
    ///
    /// # Errors
    /// When a file cannot be read, and what `visit` says.
    pub fn walk(
        &self,
        (from, to): (Position, Position),
        visit: &mut dyn FnMut(Seen<'_>) -> Result<(), String>,
    ) -> Result<(), OpenError> {
        let last = self.segments.len();
        let mut before: Option<LogPoint> = None;
        for (at, found) in self.segments.iter().enumerate() {
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    before = None;
                    say(visit, Position(0), Wrong::Unusable(error.to_string()))?;
                    continue;
                }
            };
            let header = &found.header;
            if header.end() <= from || header.base >= to {
                before = None;
                continue;
            }
            give(visit, header.base, Seen::Segment(found.seen()))?;
            if let Some(before) = before
                && before.position == header.base
                && before.block_crc != header.prev_crc
            {
                say(visit, header.base, Wrong::NotAfter(found.name.clone()))?;
            }
            before = self.walk_segment(found, at + 1 == last, visit)?;
        }
        Ok(())
    }

    /// Returns where the log goes on after a segment that is sealed.
    fn walk_segment(
        &self,
        found: &FoundSegment,
        last: bool,
        visit: &mut dyn FnMut(Seen<'_>) -> Result<(), String>,
    ) -> Result<Option<LogPoint>, OpenError> {
        let mut window = found.window(&*self.disk)?;
        let mut point = LogPoint {
            position: found.header.first_block(),
            epoch: found.header.epoch,
            block_crc: found.header.prev_crc,
        };
        loop {
            let block = window.next_in_chain(&point);
            if let Some((header, bytes)) = block.map_err(|error| found.io(error))? {
                give(visit, header.position, Seen::Block(seen(&header)))?;
                visit_frames(point, &header, bytes, &mut |frame| {
                    visit(Seen::Frame(frame))
                })?;
                point = header.point_after();
                if header.kind == Kind::Seal {
                    return Ok(Some(LogPoint {
                        position: found.header.end(),
                        ..point
                    }));
                }
                continue;
            }
            let after = behind(&mut window, found, &point, last);
            match after.map_err(|error| found.io(error))? {
                After::Nothing => return Ok(None),
                After::Wrong(wrong, next) => {
                    say(visit, point.position, wrong)?;
                    let Some(next) = next else { return Ok(None) };
                    point = next;
                }
            }
        }
    }
}

/// What comes where the chain ends.
enum After {
    /// The end of the log.
    Nothing,
    /// And where the chain goes on behind it.
    Wrong(Wrong, Option<LogPoint>),
}

fn behind(
    window: &mut Window,
    found: &FoundSegment,
    point: &LogPoint,
    last: bool,
) -> io::Result<After> {
    let from = point.position;
    if last && let Behind::Torn(bytes) = look_behind(window, found, from)? {
        return Ok(match bytes {
            0 => After::Nothing,
            bytes => After::Wrong(Wrong::Torn { from, bytes }, None),
        });
    }
    // Where it is, but not behind this one: the chain goes on with it.
    let next = window.valid_block_from(from)?.map(|next| LogPoint {
        position: next.position,
        epoch: next.epoch,
        block_crc: next.prev_crc,
    });
    let damaged = Wrong::Damaged {
        name: segment::file_name(found.header.base),
        from,
        until: next.map_or(found.header.end(), |next| next.position),
    };
    Ok(After::Wrong(damaged, next))
}

fn seen(header: &Header) -> BlockSeen {
    BlockSeen {
        kind: match header.kind {
            Kind::Data => "data",
            Kind::Seal => "seal",
            Kind::Close => "close",
        },
        position: header.position,
        end: header.point_after().position,
        frames: header.frames,
        payload_bytes: header.payload_len,
        epoch: header.epoch,
        synced_end: header.synced_end,
        prev_crc: header.prev_crc,
        crc: header.crc,
    }
}

impl FoundSegment {
    fn seen(&self) -> SegmentSeen {
        SegmentSeen {
            name: self.name.clone(),
            log_id: self.header.log_id,
            base: self.header.base,
            end: self.header.end(),
            epoch: self.header.epoch,
            recycled: self.header.recycled,
        }
    }
}

fn say(
    visit: &mut dyn FnMut(Seen<'_>) -> Result<(), String>,
    at: Position,
    wrong: Wrong,
) -> Result<(), OpenError> {
    give(visit, at, Seen::Wrong(wrong))
}

fn give(
    visit: &mut dyn FnMut(Seen<'_>) -> Result<(), String>,
    at: Position,
    seen: Seen<'_>,
) -> Result<(), OpenError> {
    visit(seen).map_err(|reason| OpenError::Refused(at, reason))
}
