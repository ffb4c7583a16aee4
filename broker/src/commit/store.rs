//! Reads events by topic, partition and offset.

use bytes::Bytes;
use sluice_proto::Offset;

use super::{
    catalog::Partition,
    lagging::{Lagging, Turn},
    record::{self, Channel, DecodeError, EventAt, EventsAt},
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

/// Events of a range of offsets.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In order. Those of the range that are missing are gone.
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

impl ReadError {
    /// What was looked for may have been moved, or be gone, by now.
    pub(super) fn may_have_moved(&self) -> bool {
        matches!(
            self,
            Self::Log(log::ReadError::NotThere(_)) | Self::View(ViewError::Damaged(_))
        )
    }
}

/// How often something is looked for again that was moved while it was read.
const LOOKS_MAX: usize = 8;

/// The events in the log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    reader: Reader,
    view: View,
    lagging: Lagging,
    epoch: u64,
}

impl Store {
    pub(super) fn new(reader: Reader, view: View, lagging: Lagging, epoch: u64) -> Self {
        Self {
            reader,
            view,
            lagging,
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

    /// Waits until whoever is to read from `from` on may: at once where that is in
    /// memory, otherwise when it is the turn of this reader that lags.
    pub async fn turn(&self, partition: &Partition, from: Offset) -> Turn {
        if self.is_in_memory(partition, from) {
            return Turn::AT_THE_HEAD;
        }
        self.lagging.turn().await
    }

    fn is_in_memory(&self, partition: &Partition, from: Offset) -> bool {
        if partition.ring().is_some() || from >= partition.visible_end() {
            return true;
        }
        let head = partition.head();
        let at = head.partition_point(|entry| entry.end() <= from);
        // What is below the head's first entry is in the view, and in files.
        let entry = head.get(at).filter(|entry| entry.first <= from);
        entry.is_some_and(|entry| self.reader.holds(entry.position))
    }

    /// Reads events from `from` on, or from the first one that is still there.
    /// May wait for the disk.
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
        let mut page = Filling::new(partition, from, limits);
        let mut looks = 0;
        while page.next < partition.visible_end() {
            match self.read_on(partition, &mut page) {
                Ok(true) => break,
                Ok(false) => looks = 0,
                // Retention moved it or dropped it between two steps.
                Err(error) if error.may_have_moved() && looks < LOOKS_MAX => looks += 1,
                Err(error) => return Err(error),
            }
            page.next = page.next.max(partition.start_offset());
        }
        Ok(page.done())
    }

    /// Reads some entries. True when the page is full.
    fn read_on(&self, partition: &Partition, page: &mut Filling) -> Result<bool, ReadError> {
        for entry in self.locate(partition, page.next)? {
            if entry.first > page.next {
                // Looked for, it is found or known to be missing.
                break;
            }
            if page.is_better_without(entry) {
                return Ok(true);
            }
            let payload = self.reader.frame(entry.position, entry.length)?;
            if page.take(&payload, partition, entry)? {
                return Ok(true);
            }
        }
        Ok(false)
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
        let mut page = Filling::new(partition, from, limits);
        loop {
            let entries = head_entries(partition, page.next);
            if entries.is_empty() {
                return Ok(Some(page.done()).filter(|p| p.next > from));
            }
            for entry in entries {
                if entry.first > page.next {
                    return Ok(Some(page.done()).filter(|p| p.next > from));
                }
                let Some(payload) = self.reader.cached(entry.position) else {
                    return Ok(Some(page.done()).filter(|p| p.next > from));
                };
                if page.take(&payload, partition, entry)? {
                    return Ok(Some(page.done()));
                }
            }
        }
    }

    /// Reads single events, whose offsets are in ascending order and below the
    /// visible end; those that are gone are left out. Each frame is read once,
    /// however many of them are in it. May wait for the disk.
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
        let mut looks = 0;
        loop {
            let start = partition.start_offset();
            rest = &rest[rest.partition_point(|offset| *offset < start)..];
            let Some(first) = rest.first() else {
                return Ok(picked);
            };
            match self.pick_on(partition, *first, &mut rest, &mut picked) {
                Ok(()) => looks = 0,
                Err(error) if error.may_have_moved() && looks < LOOKS_MAX => looks += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn pick_on(
        &self,
        partition: &Partition,
        first: Offset,
        rest: &mut &[Offset],
        picked: &mut Vec<StoredEvent>,
    ) -> Result<(), ReadError> {
        for entry in self.locate(partition, first)? {
            let here = rest.partition_point(|offset| *offset < entry.end());
            if here > 0 {
                let payload = self.reader.frame(entry.position, entry.length)?;
                let before = picked.len();
                pick_from(&payload, partition, entry, &rest[..here], picked)?;
                without_frame(&mut picked[before..], payload.len());
                *rest = &rest[here..];
            }
        }
        Ok(())
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
        let (start, end) = (partition.start_offset(), partition.visible_end());
        let (mut low, mut high) = (start, end);
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
        if low >= end {
            return Ok(end);
        }
        // What was written again has events of many frames in one entry.
        let Some(entry) = self.locate(partition, low.max(start))?.first().copied() else {
            return Ok(low.max(start));
        };
        let events = self.events(partition, entry)?;
        let first = events.iter().find(|event| event.append_time_ms >= time_ms);
        Ok(first.map_or(low, |event| event.offset).max(start))
    }

    /// Every event of an index entry. May wait for the disk.
    ///
    /// # Errors
    /// As [`Store::read`], and when the entry is not in the index any more and
    /// its frame is gone.
    pub(crate) fn events(
        &self,
        partition: &Partition,
        entry: IndexEntry,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        let payload = self.reader.frame(entry.position, entry.length)?;
        events_of(&payload, partition, entry, entry.first)?.collect()
    }

    /// Index entries in order, the first of which holds `offset`, which must be
    /// below the visible end and not gone.
    ///
    /// # Errors
    /// When the index cannot be read, or has no such entry.
    pub(crate) fn locate(
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
        if entries.first().is_none_or(|entry| entry.first > offset) {
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

/// The events of the entry's frame from where the entry begins; an entry may have
/// been cut, and end before the frame does.
fn frame_events(
    payload: &Bytes,
    partition: &Partition,
    entry: IndexEntry,
) -> Result<EventsAt, ReadError> {
    record::events_at(payload, partition.source, entry.first)
        .map_err(|error| ReadError::Frame(entry.position, error))?
        .ok_or(ReadError::Missing(entry.first, entry.position))
}

/// The events of an entry, whose frame has this payload; those below `from` may be
/// left out.
fn events_of(
    payload: &Bytes,
    partition: &Partition,
    entry: IndexEntry,
    from: Offset,
) -> Result<impl Iterator<Item = Result<StoredEvent, ReadError>> + use<>, ReadError> {
    let damaged = move |error| ReadError::Frame(entry.position, error);
    let mut events = frame_events(payload, partition, entry)?;
    events.skip_towards(from).map_err(damaged)?;
    let events = events.map(move |event| Ok(StoredEvent::from(event.map_err(damaged)?)));
    Ok(events.take_while(move |event| {
        event
            .as_ref()
            .map_or(true, |event| event.offset < entry.end())
    }))
}

/// Copies events that are few of a frame of so many bytes: as slices of it they would
/// keep all of it in memory.
fn without_frame(events: &mut [StoredEvent], frame_bytes: usize) {
    let bytes: usize = events.iter().map(|of| of.event.len() + of.note.len()).sum();
    if bytes >= frame_bytes / 2 {
        return;
    }
    for of in events {
        of.event = Bytes::copy_from_slice(&of.event);
        of.note = Bytes::copy_from_slice(&of.note);
    }
}

/// Adds those of the entry's events that are at `offsets`, none of which is beyond
/// the entry.
fn pick_from(
    payload: &Bytes,
    partition: &Partition,
    entry: IndexEntry,
    offsets: &[Offset],
    picked: &mut Vec<StoredEvent>,
) -> Result<(), ReadError> {
    let damaged = |error| ReadError::Frame(entry.position, error);
    let mut events = frame_events(payload, partition, entry)?;
    let mut next: Option<EventAt> = None;
    for offset in offsets {
        if next.as_ref().is_none_or(|next| next.offset < *offset) {
            events.skip_towards(*offset).map_err(damaged)?;
        }
        while next.as_ref().is_none_or(|next| next.offset < *offset) {
            let Some(event) = events.next() else {
                return Ok(());
            };
            next = Some(event.map_err(damaged)?);
        }
        if let Some(event) = next.take_if(|next| next.offset == *offset) {
            picked.push(event.into());
        }
    }
    Ok(())
}

impl From<EventAt> for StoredEvent {
    fn from(at: EventAt) -> Self {
        Self {
            offset: at.offset,
            append_time_ms: at.time_ms,
            event: at.event.event,
            note: at.event.note,
        }
    }
}

/// A page that is being read.
struct Filling {
    events: Vec<StoredEvent>,
    bytes: usize,
    next: Offset,
    limits: PageLimits,
}

impl Filling {
    fn new(partition: &Partition, from: Offset, limits: PageLimits) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            next: from.max(partition.start_offset()),
            limits,
        }
    }

    fn done(self) -> Page {
        Page {
            events: self.events,
            next: self.next,
        }
    }

    /// The entry would make the page too large. What is read is a whole frame, so
    /// the next page, which begins with it, takes all of it.
    fn is_better_without(&self, entry: IndexEntry) -> bool {
        !self.events.is_empty()
            && (self.bytes + entry.length as usize > self.limits.bytes
                || self.events.len() + entry.count as usize > self.limits.events)
    }

    /// Adds the entry's events. True when the page is full.
    fn take(
        &mut self,
        payload: &Bytes,
        partition: &Partition,
        entry: IndexEntry,
    ) -> Result<bool, ReadError> {
        for event in events_of(payload, partition, entry, self.next)? {
            let event = event?;
            if event.offset < self.next {
                continue;
            }
            let size = event.event.len();
            let full =
                self.events.len() >= self.limits.events || self.bytes + size > self.limits.bytes;
            if !self.events.is_empty() && full {
                return Ok(true);
            }
            self.bytes += size;
            self.next = event.offset.next();
            self.events.push(event);
        }
        self.next = self.next.max(entry.end());
        Ok(self.events.len() >= self.limits.events || self.bytes >= self.limits.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_events_of_a_frame_do_not_keep_it_in_memory() {
        let frame = Bytes::from(vec![7; 1000]);
        for (bytes, keeps) in [(600, true), (500, true), (499, false), (0, false)] {
            let stored = |from: usize, to: usize| StoredEvent {
                offset: Offset(0),
                append_time_ms: 0,
                event: frame.slice(from..to),
                note: frame.slice(to..to),
            };
            let mut events = [stored(0, bytes / 2), stored(bytes / 2, bytes)];
            let before = events.clone();
            without_frame(&mut events, frame.len());
            assert_eq!(
                events.each_ref().map(|of| &of.event),
                before.each_ref().map(|of| &of.event)
            );
            let held = |of: &StoredEvent| frame.as_ptr_range().contains(&of.event.as_ptr());
            assert_eq!(events.iter().all(held), keeps, "{bytes}");
        }
    }
}
