//! The commit log on disk. It holds bytes, not topics: frames that a caller gave
//! it, in the order in which they were written.
//!
//! # Layout
//!
//! A folder of segment files, each named by its base position as 16 hexadecimal
//! digits. A [`Position`] is a byte position in the whole log: the base of a
//! segment plus the offset in its file. The base of the next segment is this
//! one's base plus its size. All integers are little endian.
//!
//! Segment header, the first 4096 bytes of the file:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `SLUICEsg` |
//! | 8 | 4 | format version, 2; another is refused |
//! | 12 | 4 | CRC-32 of the 4096 bytes with this field zero |
//! | 16 | 8 | required feature bits; an unknown one is refused |
//! | 24 | 8 | optional feature bits; unknown ones are ignored |
//! | 32 | 16 | log identity, random, the same in every segment |
//! | 48 | 8 | base position |
//! | 56 | 8 | size of the file |
//! | 64 | 8 | epoch in which it was created |
//! | 72 | 4 | CRC of the last block of the segment before; 0 in the first |
//! | 76 | 4 | flags: bit 0, the file held other blocks before |
//! | 80 | 8 | salt of the blocks' CRCs, random |
//! | 88 | | zeros |
//!
//! Block, which is one write: begins at a multiple of 4096 and is padded with
//! zeros to one; never spans segments.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `SLbk` |
//! | 4 | 1 | kind: 1 data, 2 seal, 3 close |
//! | 5 | 3 | zeros |
//! | 8 | 4 | number of frames |
//! | 12 | 4 | length of the payload |
//! | 16 | 8 | epoch |
//! | 24 | 8 | position of this block |
//! | 32 | 8 | `synced_end`: everything below was durable when this was written |
//! | 40 | 4 | CRC of the block before |
//! | 44 | 4 | CRC-32 of the segment's salt, header and payload, with this field zero |
//! | 48 | 16 | zeros |
//! | 64 | | payload |
//!
//! A *seal* ends a segment: the next block is the first of the next segment.
//! Room for it is always kept. Its payload is empty now and is where an index of
//! the segment can go. A *close* says that the log was closed in order.
//!
//! Frame, in the payload of a data block, one after the other without padding:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | length of the payload, at most 16 MiB less 8 |
//! | 4 | 4 | CRC-32 of length and payload |
//! | 8 | | payload |
//!
//! # Writing
//!
//! Several blocks may be under way. Each says as `synced_end` what was known to
//! be durable when it was placed, not its own position. They may reach the disk in
//! any order; a block counts as durable once it is and all before it are. A new
//! segment begins only when nothing is under way, and so does the log after the
//! first block of an epoch.
//!
//! # Recovery
//!
//! The pages of a write that was not synced reach the disk in any order, so "no
//! valid block follows" does not tell a torn tail. An invalid range at `p` is
//! *damage* if anything after it vouches that `p` had been synced: a valid block
//! with `synced_end > p`, or a later segment (which is only made once the one
//! before is sealed and synced). Otherwise it is a *torn tail* and is cut, even
//! if valid blocks follow. What follows a cut is zeroed and synced before
//! anything is appended, so that no leftover is ever taken for new, and what was
//! recovered is synced before it is served. Damage refuses to open.
//!
//! # Recycling
//!
//! Segments may be removed, except the last: then positions below the place from
//! which replay begins may be missing, at the front or in gaps. A removed
//! segment's file gets a name that is none of a segment, the folder is synced,
//! and only then may the file be written again, so no crash brings back a name
//! whose blocks are gone. As a new segment it gets a header with its new base,
//! is synced, renamed, and the folder is synced, before the first block goes in.
//!
//! A recycled file still holds old blocks. None can be taken for a new one: a
//! block carries its position, bases only ever grow, and so at each place of the
//! file the position of an old block is smaller than the one that is looked for.
//! That holds for following the chain and for what vouches alike. Of a crash a
//! file may keep blocks that were under way, at their positions; but only the
//! last segment has such, they are zeroed below, and no segment ever gets the
//! base of another. Besides, a segment gets a new salt with its header, and
//! without that no CRC of before is right.
//!
//! Nor can a payload be taken for a block, however it was made: the salt is in
//! no answer of the broker's but a copy of the log, for its owner.
//!
//! After a stop that was not clean everything behind the end of the chain is
//! zeroed in a recycled file too, old blocks included, because what lies between
//! the headers of torn blocks cannot be told from them. It does not count as
//! cut: there only the pages count that a header claims which is where it says
//! to be. After a close nothing was under way but perhaps the first block of the
//! next epoch, which always goes alone: if its header is there the rest is
//! zeroed, and if not, of one page nothing is left that could be taken for a
//! block.
//!
//! We assume that sectors that are not being written survive a torn write; no
//! two blocks share a 4096-byte page.
//!
//! # Faults
//!
//! A failed write or sync poisons the log for good: what reached the disk is
//! unknown, and trying a sync again would not tell
//! (<https://wiki.postgresql.org/wiki/Fsync_Errors>).
//!
//! That a segment's file cannot be made for want of room is none of these: nothing
//! was written. An open log then waits for room, and goes on by itself (`blank.rs`).

mod ahead;
mod blank;
mod block;
mod buffer;
mod cache;
mod direct;
mod disk;
mod flight;
mod landing;
mod reader;
mod reclaim;
mod recovery;
mod segment;
mod spares;
mod syncer;
#[cfg(test)]
mod tests;
mod writer;

use std::{fmt, io, path::Path, time::Duration};

pub use self::{
    blank::EndOfWaiting,
    block::{BlockBuilder, FrameSlot},
    disk::{WriteChoice, WriteWay},
    reader::{ReadError, Reader, SegmentInfo},
    reclaim::{ReclaimError, Reclaimed, Reclaimer},
    recovery::{
        BlockSeen, Busy, CopyError, Found, Inspection, OpenError, OpenReport, Piece, ReadEnd,
        ReplayedFrame, Seen, SegmentSeen, Snapshot, Wrong,
    },
    writer::{Placed, Prepared, WriteError, Writer},
};

/// The largest frame, header included.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Blocks begin at multiples of this, and segment headers take as much.
const PAGE_BYTES: u64 = 4096;

/// The smallest segment that any frame fits into, with header, block header and
/// seal.
pub const SEGMENT_BYTES_MIN: u64 = FRAME_BYTES_MAX as u64 + 4 * PAGE_BYTES;

/// A byte position in the log, ever growing over segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A place between two blocks, from which reading the log can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPoint {
    /// Where the next block begins, or would.
    pub position: Position,
    /// The highest epoch below.
    pub epoch: u64,
    /// CRC of the block before; 0 at the beginning.
    pub block_crc: u32,
}

/// When the block's frames may be answered, and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When it is durable.
    Durable,
    /// When it is written: a killed process loses nothing, a machine that fails
    /// may. It becomes durable soon, at the latest with the next durable block.
    Written,
}

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// Size of segments to come; a multiple of 4096.
    pub segment_bytes: u64,
    /// Bytes of the newest blocks to keep in memory.
    pub tail_cache_bytes: usize,
    /// How it is written.
    pub write: WriteChoice,
    /// How long a block that was promised to be written only waits for a sync;
    /// `None` for until the next durable block.
    pub sync_delay: Option<Duration>,
    /// How fast segments are zeroed ahead of need; `None` for not at all.
    pub ahead_bytes_per_second: Option<u64>,
    /// Files of removed segments to keep, at most, to be written again.
    pub spares_max: usize,
    /// By how much more than one the epoch is raised: for a copy, that it may
    /// never have one that the log that it was taken of comes to.
    pub epoch_ahead: u64,
}

/// An open log.
#[derive(Debug)]
pub struct Opened {
    /// The one writing end.
    pub writer: Writer,
    /// A reading end, to be cloned.
    pub reader: Reader,
    /// Removes segments.
    pub reclaimer: Reclaimer,
    /// What was found.
    pub report: OpenReport,
}

/// Opens the log in `dir`, or makes one: [`Found::new`] and [`Found::open`] in
/// one go.
///
/// # Errors
/// When the folder cannot be used, is damaged, or was written by a newer
/// version; or when `visit` refuses a frame.
pub fn open(
    dir: &Path,
    config: LogConfig,
    from: Option<LogPoint>,
    visit: &mut dyn FnMut(ReplayedFrame<'_>) -> Result<(), String>,
) -> Result<Opened, OpenError> {
    Found::new(dir, config.write)?.open(config, from, visit)
}

/// Up to the next multiple of a page.
fn padded(length: u64) -> u64 {
    length.next_multiple_of(PAGE_BYTES)
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}
