//! The writing end, of which there is one.
//!
//! It is split in two, so that several blocks can be under way: a block is
//! *prepared*, which gives it its place and needs the writer, and then written,
//! which does not and may happen on any thread, in any order.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;

use super::{
    EndOfWaiting, FrameSlot, LogPoint, PAGE_BYTES, Position, When,
    block::{BlockBuilder, Header, Kind, Place, Salt},
    buffer::BufferPool,
    disk::DiskFile,
    reader::{Shared, write},
    segment::SegmentHeader,
    syncer::{self, Told},
};

/// A log begins with a segment of zeros that is made at once, and so is small: it
/// lasts until a whole one has been zeroed ahead of need. First writes into blocks
/// that are only allocated take half as long again.
const FIRST_SEGMENT_BYTES: u64 = 16 << 20;

/// From this length on a block goes past the page cache also where it need not be
/// durable yet. Such blocks come when much is published, and then copying them into the
/// cache, and writing all of it back when a segment is full, takes longer than the disk
/// does. Shorter ones are acked sooner from the cache.
const PAST_THE_CACHE_MIN: usize = 512 << 10;

/// Why a block was not written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct WriteError(pub(super) Arc<str>);

/// Gives blocks their places.
#[derive(Debug)]
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) buffers: Arc<BufferPool>,
    pub(super) log_id: [u8; 16],
    pub(super) segment_bytes: u64,
    pub(super) epoch: u64,
    /// CRC of the last block.
    pub(super) prev_crc: u32,
    /// Epoch of the last block: an earlier one before the first of this epoch, which
    /// is not there for anybody until it is durable.
    pub(super) prev_epoch: u64,
    pub(super) at: Where,
    pub(super) first: FirstBlock,
    /// How long what was promised to be written only may wait for a sync; taken
    /// when the thread for that is started.
    pub(super) sync_delay: Option<Duration>,
    /// Who is told when that thread has synced.
    pub(super) told: Told,
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

/// The first block of an epoch goes alone, on which recovery relies.
#[derive(Debug)]
pub(super) enum FirstBlock {
    ToCome,
    UnderWay,
    Durable,
}

/// Where a block is.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    position: Position,
    end: Position,
}

impl Placed {
    /// Where a frame of the block is, and the bytes that it takes.
    #[must_use]
    pub fn frame(&self, slot: FrameSlot) -> (Position, u32) {
        (
            Position(self.position.0 + u64::from(slot.offset)),
            slot.length,
        )
    }

    /// The position behind the block. It is written, or durable, when
    /// [`Reader::written_end`](super::Reader::written_end) or
    /// [`Reader::durable_end`](super::Reader::durable_end) has come there.
    #[must_use]
    pub fn end(&self) -> Position {
        self.end
    }
}

/// A block that has its place and is still to be written. Dropping it leaves a
/// gap that nothing after it gets over: then the log is poisoned.
#[derive(Debug)]
#[must_use = "it must be written"]
pub struct Prepared {
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    offset: u64,
    bytes: Bytes,
    placed: Placed,
    when: When,
    written: bool,
}

impl Prepared {
    /// Where it is.
    #[must_use]
    pub fn placed(&self) -> Placed {
        self.placed
    }

    /// Writes it, and makes it durable if that was promised; with it what is
    /// written before it. Blocks before it may still be under way, or being
    /// synced, when this returns.
    ///
    /// # Errors
    /// When a write or sync failed, now or before. Whether this block is on the
    /// disk is then unknown, and the log takes no more.
    pub fn write(mut self) -> Result<(), WriteError> {
        self.written = true;
        let durable = self.when == When::Durable;
        self.shared.unless_poisoned(|| {
            let (bytes, offset) = (&self.bytes[..], self.offset);
            if durable {
                self.file.write_durably(bytes, offset)?;
            } else if bytes.len() < PAST_THE_CACHE_MIN
                || !self.file.write_past_cache(bytes, offset)?
            {
                self.file.write_at(bytes, offset)?;
            }
            self.shared.landed(self.placed.end, durable);
            self.shared.sync_what_is_due(&*self.file)
        })
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.written {
            self.shared.poison("a block was not written");
        }
    }
}

impl Writer {
    /// An empty block with room for frames of so many bytes, and more.
    #[must_use]
    pub fn block(&self, payload_bytes: usize) -> BlockBuilder {
        BlockBuilder::new(&self.buffers, payload_bytes)
    }

    /// Calls `told` each time when blocks that were only to be written have been
    /// made durable without [`Prepared::write`] returning for it, or could not be:
    /// with them a block may have become durable that was behind them. To be set
    /// before the first such block.
    pub fn tell_when_synced(&mut self, told: impl Fn() + Send + 'static) {
        self.told = Told(Box::new(told));
    }

    /// From now on waits when there is no room for the next segment, until there is
    /// or somebody says that it is not worth waiting any longer. Without this the
    /// log fails.
    #[must_use]
    pub fn wait_for_room(&self) -> EndOfWaiting {
        self.shared.patience.begin();
        EndOfWaiting(self.shared.clone())
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
            epoch: self.prev_epoch,
            block_crc: self.prev_crc,
        }
    }

    /// Why it takes no more blocks, if it does not.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<str>> {
        self.shared.failure.get().cloned()
    }

    /// Gives a block its place, behind all before. Waits until nothing is under
    /// way where a new segment begins, and for room for that.
    ///
    /// # Errors
    /// When the log has failed, or fails as the next segment is made.
    pub fn prepare(&mut self, block: BlockBuilder, when: When) -> Result<Prepared, WriteError> {
        match self.first {
            FirstBlock::ToCome => self.first = FirstBlock::UnderWay,
            FirstBlock::UnderWay => {
                self.drain()?;
                self.first = FirstBlock::Durable;
            }
            FirstBlock::Durable => {}
        }
        if when == When::Written
            && let Some(delay) = self.sync_delay.take()
        {
            let told = std::mem::replace(&mut self.told, Told(Box::new(|| {})));
            self.shared
                .unless_poisoned(|| syncer::start(self.shared.clone(), delay, told))?;
        }
        self.make_room(block.block_len())?;
        let memory = block.memory();
        let prepared = self.place(block, Kind::Data, when);
        write(&self.shared.cache).push(prepared.placed.position, prepared.bytes.clone(), memory);
        Ok(prepared)
    }

    /// Writes a block and waits until it and all before it are durable.
    ///
    /// # Errors
    /// As [`Prepared::write`].
    pub fn write(&mut self, block: BlockBuilder) -> Result<Placed, WriteError> {
        let prepared = self.prepare(block, When::Durable)?;
        let placed = prepared.placed();
        prepared.write()?;
        self.drain()?;
        Ok(placed)
    }

    /// Waits until everything that was prepared is durable. What is prepared must
    /// be on its way on another thread.
    ///
    /// # Errors
    /// When the log has failed.
    pub fn drain(&self) -> Result<(), WriteError> {
        match &self.at {
            Where::In { file, next, .. } => self.shared.wait_until_durable(&**file, *next),
            // The seal was waited for.
            Where::Sealed { .. } => self.shared.unless_poisoned(|| Ok(())),
        }
    }

    /// Writes the mark that tells that the log was closed in order.
    ///
    /// # Errors
    /// As [`Prepared::write`].
    pub fn close(&mut self) -> Result<(), WriteError> {
        self.drain()?;
        self.make_room(PAGE_BYTES)?;
        self.write_mark(Kind::Close)
    }

    /// Seals the segment if a block of `length` does not fit beside its seal,
    /// and makes the next one.
    fn make_room(&mut self, length: u64) -> Result<(), WriteError> {
        if let Where::In { segment, next, .. } = &self.at {
            if next.0 + length + PAGE_BYTES <= segment.end().0 {
                return self.shared.unless_poisoned(|| Ok(()));
            }
            let next_base = segment.end();
            self.drain()?;
            self.write_mark(Kind::Seal)?;
            self.at = Where::Sealed { next_base };
        }
        let Where::Sealed { next_base } = self.at else {
            unreachable!("the other case has returned or become this one");
        };
        let size = if next_base == Position(0) {
            self.segment_bytes.min(FIRST_SEGMENT_BYTES)
        } else {
            self.segment_bytes
        };
        // A segment that was made smaller than its largest block is made to fit.
        let size = size.max(length + 2 * PAGE_BYTES);
        let shared = &self.shared;
        self.at = shared.unless_poisoned(|| {
            let blank = shared.blank(next_base, size)?;
            let segment = SegmentHeader {
                log_id: self.log_id,
                base: next_base,
                size,
                epoch: self.epoch,
                prev_crc: self.prev_crc,
                salt: Salt(rand::random()),
                recycled: blank.used,
            };
            let file = segment.create(&*shared.disk, blank)?;
            shared.add_segment(&segment, Some(file.clone()));
            let next = segment.first_block();
            shared.go_on_at(next);
            Ok(Where::In {
                segment,
                file,
                next,
            })
        })?;
        Ok(())
    }

    /// Writes a seal or a close, before which nothing may be under way.
    fn write_mark(&mut self, kind: Kind) -> Result<(), WriteError> {
        let mark = self.block(0);
        self.place(mark, kind, When::Durable).write()
    }

    fn place(&mut self, block: BlockBuilder, kind: Kind, when: When) -> Prepared {
        let Where::In {
            segment,
            file,
            next,
        } = &mut self.at
        else {
            unreachable!("make_room has made a segment");
        };
        let position = *next;
        let (bytes, header): (Bytes, Header) = block.finish(Place {
            salt: segment.salt,
            kind,
            epoch: self.epoch,
            position,
            synced_end: Position(self.shared.durable_end.load(Ordering::Acquire)),
            prev_crc: self.prev_crc,
        });
        let end = Position(position.0 + header.block_len());
        *next = end;
        let in_time = segment.base.0 + segment.when_the_next_is_made();
        if position.0 < in_time && end.0 >= in_time {
            self.shared.spares.will_need_one();
        }
        self.prev_crc = header.crc;
        self.prev_epoch = self.epoch;
        self.shared.flight().begin(end, when);
        Prepared {
            shared: self.shared.clone(),
            file: file.clone(),
            offset: position.0 - segment.base.0,
            bytes,
            placed: Placed { position, end },
            when,
            written: false,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        // Under the lock, so that whoever is about to wait sees it.
        drop(self.shared.flight());
        self.shared.landing.tell();
        self.shared.spares.wake();
    }
}

#[cfg(test)]
impl Writer {
    /// The next block of so many frame bytes needs no new segment.
    pub(super) fn has_room(&self, frame_bytes: usize) -> bool {
        let length = super::padded(super::block::HEADER_BYTES as u64 + frame_bytes as u64);
        matches!(&self.at, Where::In { segment, next, .. }
            if next.0 + length + PAGE_BYTES <= segment.end().0)
    }
}

impl Shared {
    pub(super) fn poison(&self, reason: impl Into<Arc<str>>) {
        // The first reason stays.
        let _ = self.failure.set(reason.into());
        // Under the lock, so that whoever is about to wait sees it.
        drop(self.flight());
        self.landing.tell();
    }

    fn unless_poisoned<T>(&self, work: impl FnOnce() -> io::Result<T>) -> Result<T, WriteError> {
        if let Some(reason) = self.failure.get() {
            return Err(WriteError(reason.clone()));
        }
        work().map_err(|error| {
            self.poison(error.to_string());
            WriteError(self.failure.get().expect("it was set just now").clone())
        })
    }

    fn landed(&self, end: Position, durable: bool) {
        self.move_ends(|flight| flight.landed(end, durable));
    }

    fn go_on_at(&self, end: Position) {
        self.move_ends(|flight| flight.go_on_at(end));
    }

    fn move_ends(&self, change: impl FnOnce(&mut super::flight::Flight)) {
        let mut flight = self.flight();
        change(&mut flight);
        self.durable_end
            .store(flight.durable_end().0, Ordering::Release);
        self.written_end
            .store(flight.written_end().0, Ordering::Release);
        drop(flight);
        self.landing.tell();
    }

    /// Syncs the file as long as somebody waits for what is written in it.
    pub(super) fn sync_what_is_due(&self, file: &dyn DiskFile) -> io::Result<()> {
        loop {
            let Some(covered) = self.flight().begin_sync() else {
                return Ok(());
            };
            if self.failure.get().is_some() {
                return Ok(());
            }
            file.sync()?;
            self.move_ends(|flight| flight.synced(&covered));
        }
    }

    /// Waits until everything below `end`, which is written or on its way, is
    /// durable.
    pub(super) fn make_durable(&self, end: Position) -> Result<(), WriteError> {
        if self.flight().durable_end() >= end {
            return Ok(());
        }
        // What is not durable is in the last segment, which is never removed.
        let last = Position(end.0.saturating_sub(1));
        let pinned = self.unless_poisoned(|| self.file_at(last).map_err(io::Error::other))?;
        self.wait_until_durable(&*pinned.file, end)
    }

    fn wait_until_durable(&self, file: &dyn DiskFile, end: Position) -> Result<(), WriteError> {
        self.flight().want(end);
        self.unless_poisoned(|| self.sync_what_is_due(file))?;
        let mut flight = self.flight();
        while flight.durable_end() < end {
            if let Some(reason) = self.failure.get() {
                return Err(WriteError(reason.clone()));
            }
            flight = self.landing.wait(flight);
        }
        Ok(())
    }
}
