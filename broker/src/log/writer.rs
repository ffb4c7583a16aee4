//! The writing end, of which there is one.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use super::{
    FrameSlot, LogPoint, PAGE_BYTES, Position,
    block::{BlockBuilder, Header, Kind, Place},
    disk::DiskFile,
    reader::{Shared, write},
    segment::SegmentHeader,
};

/// Why a block was not written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct WriteError(Arc<str>);

/// Writes blocks. A block is durable when [`Writer::write`] returns.
#[derive(Debug)]
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) log_id: [u8; 16],
    pub(super) segment_bytes: u64,
    pub(super) epoch: u64,
    /// CRC of the last block.
    pub(super) prev_crc: u32,
    pub(super) at: Where,
}

/// Where the next block goes.
#[derive(Debug)]
pub(super) enum Where {
    /// Into a segment that has room at least for a seal.
    In {
        segment: SegmentHeader,
        file: Arc<dyn DiskFile>,
        next: Position,
    },
    /// Into a segment that is still to be made, with this base.
    Sealed { next_base: Position },
}

/// A block that is durable.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    position: Position,
}

impl Written {
    /// Where a frame of the block is, and the bytes that it takes.
    #[must_use]
    pub fn frame(&self, slot: FrameSlot) -> (Position, u32) {
        (
            Position(self.position.0 + u64::from(slot.offset)),
            slot.length,
        )
    }
}

impl Writer {
    /// An empty block.
    #[must_use]
    pub fn block(&self) -> BlockBuilder {
        BlockBuilder::new()
    }

    /// The epoch of what it writes.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where the next block goes.
    #[must_use]
    pub fn end(&self) -> LogPoint {
        let position = match &self.at {
            Where::In { next, .. } => *next,
            Where::Sealed { next_base } => Position(next_base.0 + PAGE_BYTES),
        };
        LogPoint {
            position,
            epoch: self.epoch,
            block_crc: self.prev_crc,
        }
    }

    /// Why it takes no more blocks, if it does not.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<str>> {
        self.shared.failure.get().cloned()
    }

    /// Writes a block and makes it durable.
    ///
    /// # Errors
    /// When a write or sync failed, now or before. Whether this block is on the
    /// disk is then unknown, and the log takes no more.
    pub fn write(&mut self, block: BlockBuilder) -> Result<Written, WriteError> {
        self.unless_poisoned(|writer| {
            let position = writer.make_room(block.block_len())?;
            let (bytes, header) = writer.append(block, Kind::Data, position)?;
            write(&writer.shared.cache).push(header.position, bytes);
            Ok(Written { position })
        })
    }

    /// Writes the mark that tells that the log was closed in order.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn close(&mut self) -> Result<(), WriteError> {
        self.unless_poisoned(|writer| {
            let position = writer.make_room(PAGE_BYTES)?;
            writer.append(BlockBuilder::new(), Kind::Close, position)?;
            Ok(())
        })
    }

    fn unless_poisoned<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> Result<T, WriteError> {
        if let Some(reason) = self.failure() {
            return Err(WriteError(reason));
        }
        work(self).map_err(|error| {
            let reason: Arc<str> = error.to_string().into();
            // Only this owner sets it, and only once, because of the look above.
            let _ = self.shared.failure.set(reason.clone());
            WriteError(reason)
        })
    }

    /// Seals the segment if a block of `length` does not fit beside its seal,
    /// and makes the next one.
    fn make_room(&mut self, length: u64) -> io::Result<Position> {
        if let Where::In { segment, next, .. } = &self.at {
            if next.0 + length + PAGE_BYTES <= segment.end().0 {
                return Ok(*next);
            }
            let (seal, next_base) = (*next, segment.end());
            self.append(BlockBuilder::new(), Kind::Seal, seal)?;
            self.at = Where::Sealed { next_base };
        }
        let Where::Sealed { next_base } = self.at else {
            unreachable!("the other case has returned or become this one");
        };
        // A segment that was made smaller than its largest block is made to fit.
        let size = self.segment_bytes.max(length + 2 * PAGE_BYTES);
        let spare = self.shared.spares.take(size);
        let segment = SegmentHeader {
            log_id: self.log_id,
            base: next_base,
            size,
            epoch: self.epoch,
            prev_crc: self.prev_crc,
            recycled: spare.as_ref().is_some_and(|spare| spare.used),
        };
        let file = segment.create(&*self.shared.disk, spare)?;
        self.shared.add_segment(&segment, Some(file.clone()));
        let next = segment.first_block();
        self.at = Where::In {
            segment,
            file,
            next,
        };
        Ok(next)
    }

    fn append(
        &mut self,
        block: BlockBuilder,
        kind: Kind,
        position: Position,
    ) -> io::Result<(Bytes, Header)> {
        let Where::In {
            segment,
            file,
            next,
        } = &mut self.at
        else {
            unreachable!("make_room has made a segment");
        };
        let (bytes, header) = block.finish(Place {
            kind,
            epoch: self.epoch,
            position,
            // One block is under way at a time, so all before it is durable.
            synced_end: position,
            prev_crc: self.prev_crc,
        });
        file.write_at(&bytes, position.0 - segment.base.0)?;
        file.sync()?;
        let end = Position(position.0 + header.block_len());
        *next = end;
        self.prev_crc = header.crc;
        self.shared.durable_end.store(end.0, Ordering::Release);
        Ok((bytes, header))
    }
}
