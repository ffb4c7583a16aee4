//! A copy of the log while it is written: everything that is there now, as a log
//! of its own.
//!
//! The copy ends where the log was durable when the snapshot was taken, which is
//! between two blocks: it is what a crash at that moment would have left. What is
//! behind a segment's last block is not copied, it is zeros there. Segments stay
//! until they are copied; after that they may go, whatever is left to do.
//!
//! The copy has an identity of its own, because the two logs go different ways
//! from there on.

use std::sync::Arc;

use super::{OpenError, find::find_segment};
use crate::log::{
    LogPoint, PAGE_BYTES, Position, Reader, SegmentInfo, block::Kind, padded, reader::Shared,
    reader::read,
};

/// Bytes of a piece, at most.
const PIECE_BYTES: usize = 256 << 10;

/// The log at one moment, to be copied. There is one at a time; dropping it lets
/// go what it holds.
#[derive(Debug)]
pub struct Snapshot {
    shared: Arc<Shared>,
    log_id: [u8; 16],
    segments: Vec<SegmentInfo>,
    end: Position,
}

/// A part of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A file begins. What follows is its content, from the front; the rest of it
    /// is zeros.
    File {
        /// Its name in the log's folder.
        name: String,
        /// Its bytes.
        size: u64,
    },
    /// The next bytes of the file, at most 256 KiB.
    Bytes(&'a [u8]),
    /// The file has no more.
    FileEnd,
}

/// Why there is no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log is being copied already")]
pub struct Busy;

/// Why a copy is not whole.
#[derive(Debug, thiserror::Error)]
pub enum CopyError<E> {
    /// The log cannot be read, or is damaged.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// Whoever takes the pieces takes no more.
    #[error("{0}")]
    Stopped(E),
}

impl Reader {
    /// Everything that is written when this is called, durable. May wait for the
    /// disk.
    ///
    /// A log that has failed is copied as far as it is durable.
    ///
    /// # Errors
    /// When another one is there.
    pub fn snapshot(&self) -> Result<Snapshot, Busy> {
        // What fails here is told by the log's failure.
        let _ = self.shared.make_durable(self.written_end());
        // Segments are taken out under the other end of this lock.
        let segments = read(&self.shared.segments);
        let mut held = self.shared.held();
        if held.is_some() {
            return Err(Busy);
        }
        let end = self.durable_end();
        let last = segments.last_key_value().map(|(base, _)| *base);
        let infos = segments
            .range(..end)
            .map(|(base, segment)| SegmentInfo {
                base: *base,
                end: segment.end,
                open: Some(*base) == last,
            })
            .collect();
        *held = Some(Position(0)..end);
        Ok(Snapshot {
            shared: self.shared.clone(),
            log_id: rand::random(),
            segments: infos,
            end,
        })
    }

    /// Whether the segment with this base is still to be copied, and stays until
    /// it is.
    #[must_use]
    pub fn is_held(&self, base: Position) -> bool {
        self.shared
            .held()
            .as_ref()
            .is_some_and(|held| held.contains(&base))
    }
}

impl Snapshot {
    /// The copy's identity.
    #[must_use]
    pub fn log_id(&self) -> [u8; 16] {
        self.log_id
    }

    /// Where the copy ends.
    #[must_use]
    pub fn end(&self) -> Position {
        self.end
    }

    /// The segments that are copied, in order.
    #[must_use]
    pub fn segments(&self) -> &[SegmentInfo] {
        &self.segments
    }

    /// Gives the copy to `take`, piece by piece, every block checked. Takes as
    /// much memory as the largest block. What was given is not held any more.
    ///
    /// # Errors
    /// When the log is damaged or cannot be read, and when `take` refuses a piece.
    pub fn copy<E>(
        &self,
        take: &mut dyn FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), CopyError<E>> {
        // The end of the chain of blocks so far.
        let mut before: Option<(Position, u32)> = None;
        for info in &self.segments {
            let crc = self.copy_segment(info, before, take)?;
            before = Some((info.end, crc));
            // This one may go now.
            *self.shared.held() = Some(info.end..self.end);
        }
        Ok(())
    }

    /// Returns the CRC of the segment's last block.
    fn copy_segment<E>(
        &self,
        info: &SegmentInfo,
        before: Option<(Position, u32)>,
        take: &mut dyn FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<u32, CopyError<E>> {
        let disk = &*self.shared.disk;
        let found = find_segment(disk, info.base)?;
        let mut point = LogPoint {
            position: found.header.first_block(),
            epoch: 0,
            block_crc: found.header.prev_crc,
        };
        let damaged = |position: Position| OpenError::Damaged {
            name: found.name.clone(),
            offset: position.0 - info.base.0,
            position,
        };
        if before.is_some_and(|(end, crc)| end == info.base && crc != point.block_crc) {
            return Err(damaged(point.position).into());
        }
        let mut pieces = Pieces { take };
        pieces.give(Piece::File {
            name: found.name.clone(),
            size: found.header.size,
        })?;
        let mut header = found.header;
        header.log_id = self.log_id;
        // Behind its blocks are zeros in the copy.
        header.recycled = false;
        pieces.bytes(&header.encode())?;
        let mut window = found.window(disk)?;
        while point.position < self.end {
            let block = window.next_in_chain(&point);
            let Some((header, bytes)) = block.map_err(|error| found.io(error))? else {
                return Err(damaged(point.position).into());
            };
            pieces.bytes(bytes)?;
            let padding = padded(bytes.len() as u64) - bytes.len() as u64;
            pieces.bytes(&[0; PAGE_BYTES as usize][..padding as usize])?;
            point = header.point_after();
            if header.kind == Kind::Seal {
                break;
            }
        }
        pieces.give(Piece::FileEnd)?;
        Ok(point.block_crc)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        *self.shared.held() = None;
    }
}

/// Cuts what is given into pieces.
struct Pieces<'a, E> {
    take: &'a mut dyn FnMut(Piece<'_>) -> Result<(), E>,
}

impl<E> Pieces<'_, E> {
    fn give(&mut self, piece: Piece<'_>) -> Result<(), CopyError<E>> {
        (self.take)(piece).map_err(CopyError::Stopped)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), CopyError<E>> {
        let pieces = bytes.chunks(PIECE_BYTES);
        { pieces }.try_for_each(|piece| self.give(Piece::Bytes(piece)))
    }
}
