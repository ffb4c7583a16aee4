//! Reads events by topic, partition and offset.

use bytes::Bytes;
use sluice_proto::Offset;

use super::{
    catalog::Partition,
    record::{self, Channel, DecodeError},
};
use crate::{
    log::{self, Position, Reader},
    view::{IndexEntry, View, ViewError},
};

/// An event as it is in the log.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Its place in its partition.
    pub offset: Offset,
    /// When it was appended, milliseconds since 1970.
    pub append_time_ms: u64,
    /// The encoded event. A slice of a larger block, which it keeps alive.
    pub event: Bytes,
    /// What the broker keeps beside it; mostly empty.
    pub note: Bytes,
}

/// Consecutive events.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In order, without gaps. The first may be behind the offset asked for:
    /// those between are gone.
    pub events: Vec<StoredEvent>,
    /// Where to go on; the offset asked for if there is nothing yet.
    pub next: Offset,
}

/// How much to read at once.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// At most so many events.
    pub events: usize,
    /// At most so many bytes of events, or one event.
    pub bytes: usize,
}

/// Why events cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log does not give them.
    #[error(transparent)]
    Log(#[from] log::ReadError),
    /// The index does not give their place.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A frame is not what was written.
    #[error("the frame at {0} is damaged: {1}")]
    Frame(Position, DecodeError),
    /// The index leads to a frame without the events.
    #[error("offset {0} is not in the frame at {1} where the index has it")]
    Missing(Offset, Position),
}

/// The events in the log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    reader: Reader,
    view: View,
    epoch: u64,
}

impl Store {
    pub(super) fn new(reader: Reader, view: View, epoch: u64) -> Self {
        Self {
            reader,
            view,
            epoch,
        }
    }

    /// The epoch in which the event at an offset was appended, which tells the
    /// offset from another one with the same number; `None` where no offset that
    /// was read is ever given twice.
    #[must_use]
    pub fn epoch_of(&self, partition: &Partition, offset: Offset) -> Option<u64> {
        match partition.channel {
            Channel::Fsync => None,
            Channel::Buffered => Some(partition.epoch_of(offset, self.epoch)),
            Channel::Memory => Some(self.epoch),
        }
    }

    /// Whether everything below `offset` is as it was when a reader was told the
    /// offset in `epoch`.
    #[must_use]
    pub fn holds(&self, partition: &Partition, epoch: u64, offset: Offset) -> bool {
        match partition.channel {
            Channel::Fsync => true,
            Channel::Buffered => {
                let is_there = epoch >= self.epoch || offset <= partition.visible_end();
                is_there && partition.epochs(self.epoch).holds(epoch, offset)
            }
            Channel::Memory => epoch == self.epoch,
        }
    }

    /// The epoch of this run of the broker.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Reads events from `from` on. May wait for the disk.
    ///
    /// # Errors
    /// When the log or its index is damaged or fails.
    pub fn read(
        &self,
        partition: &Partition,
        from: Offset,
        limits: PageLimits,
    ) -> Result<Page, ReadError> {
        if let Some(ring) = partition.ring() {
            return Ok(ring.read(from, limits));
        }
        let mut page = Page {
            events: Vec::new(),
            next: from,
        };
        let mut bytes = 0;
        while page.next < partition.visible_end() {
            for entry in self.locate(partition, page.next)? {
                let payload = self.reader.frame(entry.position, entry.length)?;
                if take(&mut page, &mut bytes, &payload, partition, entry, limits)? {
                    return Ok(page);
                }
            }
        }
        Ok(page)
    }

    /// As [`Store::read`], but from memory alone: `None` when the first of the
    /// events is not there, and a shorter page when a later one is not.
    ///
    /// # Errors
    /// When a frame is damaged.
    pub fn read_cached(
        &self,
        partition: &Partition,
        from: Offset,
        limits: PageLimits,
    ) -> Result<Option<Page>, ReadError> {
        if let Some(ring) = partition.ring() {
            return Ok(Some(ring.read(from, limits)));
        }
        let mut page = Page {
            events: Vec::new(),
            next: from,
        };
        let mut bytes = 0;
        loop {
            let entries = head_entries(partition, page.next);
            if entries.is_empty() {
                return Ok(Some(page).filter(|p| p.next > from));
            }
            for entry in entries {
                let Some(payload) = self.reader.cached(entry.position) else {
                    return Ok(Some(page).filter(|p| p.next > from));
                };
                if take(&mut page, &mut bytes, &payload, partition, entry, limits)? {
                    return Ok(Some(page));
                }
            }
        }
    }

    /// Reads single events, whose offsets are in ascending order and below the
    /// visible end; without those that are gone. Each frame is read once, however
    /// many of them are in it. May wait for the disk.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn pick(
        &self,
        partition: &Partition,
        offsets: &[Offset],
    ) -> Result<Vec<StoredEvent>, ReadError> {
        if let Some(ring) = partition.ring() {
            return Ok(ring.pick(offsets));
        }
        let mut picked = Vec::with_capacity(offsets.len());
        let mut rest = offsets;
        while let Some(first) = rest.first() {
            for entry in self.locate(partition, *first)? {
                let here = rest.partition_point(|offset| *offset < entry.end());
                if here > 0 {
                    let payload = self.reader.frame(entry.position, entry.length)?;
                    pick_from(&payload, partition, entry, &rest[..here], &mut picked)?;
                    rest = &rest[here..];
                }
            }
        }
        Ok(picked)
    }

    /// As [`Store::pick`], but from memory alone: stops at the first event that is
    /// not there.
    ///
    /// # Errors
    /// When a frame is damaged.
    pub fn pick_cached(
        &self,
        partition: &Partition,
        offsets: &[Offset],
    ) -> Result<Vec<StoredEvent>, ReadError> {
        if let Some(ring) = partition.ring() {
            return Ok(ring.pick(offsets));
        }
        let mut picked = Vec::with_capacity(offsets.len());
        let mut rest = offsets;
        while let Some(first) = rest.first() {
            let entries = head_entries(partition, *first);
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let here = rest.partition_point(|offset| *offset < entry.end());
                if here > 0 {
                    let Some(payload) = self.reader.cached(entry.position) else {
                        return Ok(picked);
                    };
                    pick_from(&payload, partition, entry, &rest[..here], &mut picked)?;
                    rest = &rest[here..];
                }
            }
        }
        Ok(picked)
    }

    /// The first offset whose event was appended at `time_ms` or later; the end
    /// if there is none.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn offset_at_time(&self, partition: &Partition, time_ms: u64) -> Result<Offset, ReadError> {
        if let Some(ring) = partition.ring() {
            return Ok(ring.offset_at_time(time_ms));
        }
        // Append times never decrease within a partition.
        let (mut low, mut high) = (Offset(0), partition.visible_end());
        while low < high {
            let middle = Offset(low.0 + (high.0 - low.0) / 2);
            let Some(entry) = self.locate(partition, middle)?.first().copied() else {
                return Ok(high);
            };
            if entry.time_ms < time_ms {
                low = entry.end();
            } else {
                high = entry.first;
            }
        }
        Ok(low)
    }

    /// Index entries in order, the first of which holds `offset`, which must be
    /// below the visible end.
    pub(super) fn locate(
        &self,
        partition: &Partition,
        offset: Offset,
    ) -> Result<Vec<IndexEntry>, ReadError> {
        let entries = head_entries(partition, offset);
        if !entries.is_empty() {
            return Ok(entries);
        }
        let source = partition.source;
        let chunk = self
            .view
            .index_chunk(source.topic, source.partition, offset)?
            .ok_or(ViewError::Damaged("its index has a gap"))?;
        let entries: Vec<_> = chunk
            .entries()
            .iter()
            .filter(|entry| entry.end() > offset)
            .copied()
            .collect();
        if entries.is_empty() {
            // Moved to the view between the two looks; it is in one of them now.
            let again = head_entries(partition, offset);
            if again.is_empty() {
                return Err(ViewError::Damaged("its index has a gap").into());
            }
            return Ok(again);
        }
        Ok(entries)
    }
}

/// Some of the entries from `offset` on, if the head reaches back so far.
fn head_entries(partition: &Partition, offset: Offset) -> Vec<IndexEntry> {
    const SOME: usize = 64;
    let head = partition.head();
    match head.front() {
        Some(front) if front.first <= offset => {
            let at = head.partition_point(|entry| entry.end() <= offset);
            head.range(at..).take(SOME).copied().collect()
        }
        _ => Vec::new(),
    }
}

/// Adds those of the frame's events that are at `offsets`.
fn pick_from(
    payload: &Bytes,
    partition: &Partition,
    entry: IndexEntry,
    offsets: &[Offset],
    picked: &mut Vec<StoredEvent>,
) -> Result<(), ReadError> {
    let damaged = |error| ReadError::Frame(entry.position, error);
    let mut events = record::events_at(payload, partition.source, entry.first).map_err(damaged)?;
    let mut next = entry.first;
    for offset in offsets {
        let skipped = offset.0.checked_sub(next.0);
        let event = skipped
            .and_then(|skipped| events.nth(skipped as usize))
            .ok_or(ReadError::Missing(*offset, entry.position))?
            .map_err(damaged)?;
        next = offset.next();
        picked.push(StoredEvent {
            offset: *offset,
            append_time_ms: entry.time_ms,
            event: event.event,
            note: event.note,
        });
    }
    Ok(())
}

/// Adds the frame's events to the page. True when the page is full.
fn take(
    page: &mut Page,
    bytes: &mut usize,
    payload: &Bytes,
    partition: &Partition,
    entry: IndexEntry,
    limits: PageLimits,
) -> Result<bool, ReadError> {
    let damaged = |error| ReadError::Frame(entry.position, error);
    let events = record::events_at(payload, partition.source, entry.first).map_err(damaged)?;
    let skip = page.next.0.saturating_sub(entry.first.0) as usize;
    let before = page.next;
    for (at, event) in events.enumerate() {
        let event = event.map_err(damaged)?;
        if at < skip {
            continue;
        }
        let size = event.event.len();
        if !page.events.is_empty()
            && (page.events.len() >= limits.events || *bytes + size > limits.bytes)
        {
            return Ok(true);
        }
        *bytes += size;
        page.events.push(StoredEvent {
            offset: page.next,
            append_time_ms: entry.time_ms,
            event: event.event,
            note: event.note,
        });
        page.next = page.next.next();
    }
    if page.next == before {
        return Err(ReadError::Missing(before, entry.position));
    }
    Ok(page.events.len() >= limits.events || *bytes >= limits.bytes)
}
