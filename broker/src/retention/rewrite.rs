//! Writes events again, so that the segments they were in are not needed any
//! more: whole index entries, in order, grouped by partition.

use std::time::{Duration, Instant};

use sluice_proto::Offset;

use crate::{
    commit::{
        Keeper, Partition, StoredEvent, Unavailable,
        record::{NewEvent, Relocated, RelocatedEvent},
    },
    log::FRAME_BYTES_MAX,
    view::IndexEntry,
};

/// Bytes of events that one frame gathers; a single entry may have more.
const FRAME_BYTES: u64 = 1 << 20;

/// Gathers ranges into frames and writes them at a bounded rate.
pub(super) struct Rewriting<'a> {
    keeper: &'a Keeper,
    bytes_per_s: u64,
    begun: Instant,
    ranges: Vec<Relocated>,
    gathered: u64,
    /// Bytes of events that were written; `None` when no frame was.
    pub(super) written: Option<u64>,
}

impl<'a> Rewriting<'a> {
    pub(super) fn new(keeper: &'a Keeper, bytes_per_s: u64) -> Self {
        Self {
            keeper,
            bytes_per_s,
            begun: Instant::now(),
            ranges: Vec::new(),
            gathered: 0,
            written: None,
        }
    }

    /// Adds an entry, of which `events` are to stay. False when what is left of it
    /// does not fit a frame; it then stays where it is.
    pub(super) fn add(
        &mut self,
        partition: &Partition,
        entry: &IndexEntry,
        events: Vec<StoredEvent>,
    ) -> Result<bool, Unavailable> {
        let kept: u64 = events.iter().map(bytes_of).sum();
        let events = events.into_iter().map(|stored| RelocatedEvent {
            offset: stored.offset,
            time_ms: stored.append_time_ms,
            event: NewEvent {
                event: stored.event,
                note: stored.note,
            },
        });
        let range = Relocated {
            topic: partition.source.topic,
            partition: partition.source.partition,
            first: entry.first,
            end: entry.end(),
            time_ms: entry.time_ms,
            dropped_bytes: u64::from(entry.bytes).saturating_sub(kept),
            events: events.collect(),
        };
        if range.record_len() > FRAME_BYTES_MAX - 4096 {
            return Ok(false);
        }
        if self.gathered + kept > FRAME_BYTES && !self.ranges.is_empty() {
            self.flush()?;
        }
        self.gathered += kept;
        match self.ranges.last_mut() {
            Some(last) if follows(last, &range) => {
                last.end = range.end;
                last.time_ms = range.time_ms;
                last.dropped_bytes += range.dropped_bytes;
                last.events.extend(range.events);
            }
            _ => self.ranges.push(range),
        }
        Ok(true)
    }

    /// Writes what is gathered, and waits until that is durable and, by the rate,
    /// more may come.
    pub(super) fn flush(&mut self) -> Result<(), Unavailable> {
        let ranges = std::mem::take(&mut self.ranges);
        if ranges.is_empty() {
            return Ok(());
        }
        self.keeper.relocate(ranges)?;
        let written = self.written.unwrap_or(0) + std::mem::take(&mut self.gathered);
        self.written = Some(written);
        let due = Duration::from_secs_f64(written as f64 / self.bytes_per_s as f64);
        std::thread::sleep(due.saturating_sub(self.begun.elapsed()));
        Ok(())
    }
}

/// Whether two ranges can be one.
fn follows(before: &Relocated, range: &Relocated) -> bool {
    before.topic == range.topic
        && before.partition == range.partition
        && before.end == range.first
        && range.end.0 - before.first.0 <= u64::from(u32::MAX)
}

pub(super) fn bytes_of(stored: &StoredEvent) -> u64 {
    (stored.event.len() + stored.note.len()) as u64
}

/// The first offset of a partition whose place may be in memory only; what is
/// below can be written again.
pub(super) fn settled_end(partition: &Partition) -> Offset {
    partition
        .first_in_memory()
        .unwrap_or_else(|| partition.visible_end())
}
