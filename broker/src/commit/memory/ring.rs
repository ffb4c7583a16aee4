//! The newest events of one partition.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use sluice_proto::Offset;

use crate::commit::{
    record::NewEvents,
    store::{Page, PageLimits, StoredEvent},
};

/// Events are put into one piece of memory up to so many bytes.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// About what a chunk and an event take besides the event.
const CHUNK_OVERHEAD: usize = 256;
const EVENT_OVERHEAD: usize = 4;

/// Consecutive events in one piece of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commit) struct Chunk {
    first: Offset,
    time_ms: u64,
    /// The events, one behind the other.
    events: Bytes,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Chunk {
    /// Copies events, the first of which is at `first`, into as few chunks as
    /// may be.
    pub(in crate::commit) fn of(first: Offset, time_ms: u64, events: &NewEvents) -> Vec<Self> {
        let mut chunks = Vec::new();
        let mut rest = events.events();
        let mut next = first;
        while rest.len() > 0 {
            let (mut count, mut bytes) = (0, 0);
            for event in rest.clone() {
                if count > 0 && bytes + event.len() > CHUNK_BYTES_MAX {
                    break;
                }
                bytes += event.len();
                count += 1;
            }
            chunks.push(Self::copy(next, time_ms, rest.by_ref().take(count), bytes));
            next = next + count as u64;
        }
        chunks
    }

    /// Copies events of so many bytes.
    fn copy<'a>(
        first: Offset,
        time_ms: u64,
        events: impl ExactSizeIterator<Item = &'a [u8]>,
        bytes: usize,
    ) -> Self {
        let mut copied = BytesMut::with_capacity(bytes);
        let mut ends = Vec::with_capacity(events.len());
        for event in events {
            copied.extend_from_slice(event);
            // An event is shorter than 16 MiB.
            ends.push(copied.len() as u32);
        }
        Self {
            first,
            time_ms,
            events: copied.freeze(),
            ends,
        }
    }

    /// Memory that it takes, about.
    pub(in crate::commit) fn bytes(&self) -> usize {
        CHUNK_OVERHEAD + EVENT_OVERHEAD * self.ends.len() + self.events.len()
    }

    fn end(&self) -> Offset {
        self.first + self.ends.len() as u64
    }

    fn get(&self, offset: Offset) -> Option<StoredEvent> {
        let at = usize::try_from(offset.0.checked_sub(self.first.0)?).ok()?;
        let end = *self.ends.get(at)? as usize;
        let start = match at {
            0 => 0,
            _ => self.ends[at - 1] as usize,
        };
        Some(StoredEvent {
            offset,
            append_time_ms: self.time_ms,
            event: self.events.slice(start..end),
            note: Bytes::new(),
        })
    }
}

/// The newest events of one partition. What is below [`Ring::start`] was dropped.
#[derive(Debug, Default)]
pub(in crate::commit) struct Ring {
    chunks: VecDeque<Chunk>,
    end: Offset,
}

impl Ring {
    /// Takes events that follow those it has.
    pub(in crate::commit) fn push(&mut self, chunk: Chunk) {
        debug_assert_eq!(chunk.first, self.end, "offsets have no gaps");
        self.end = chunk.end();
        self.chunks.push_back(chunk);
    }

    /// Forgets its oldest chunk.
    pub(in crate::commit) fn drop_oldest(&mut self) {
        self.chunks.pop_front();
    }

    /// The first offset that is there; [`Ring::end`] when nothing is.
    pub(in crate::commit) fn start(&self) -> Offset {
        self.chunks.front().map_or(self.end, |chunk| chunk.first)
    }

    /// The first offset that was not pushed yet.
    pub(in crate::commit) fn end(&self) -> Offset {
        self.end
    }

    /// Events from `from` on, or from the first one there is after it.
    pub(in crate::commit) fn read(&self, from: Offset, limits: PageLimits) -> Page {
        let mut page = Page {
            events: Vec::new(),
            next: from.max(self.start()),
        };
        let mut bytes = 0;
        let first = self.chunks.partition_point(|chunk| chunk.end() <= from);
        for chunk in self.chunks.range(first..) {
            while let Some(event) = chunk.get(page.next) {
                let size = event.event.len();
                let full = page.events.len() >= limits.events || bytes + size > limits.bytes;
                if full && !page.events.is_empty() {
                    return page;
                }
                bytes += size;
                page.next = page.next.next();
                page.events.push(event);
            }
        }
        page
    }

    /// Those of these offsets that are there.
    pub(in crate::commit) fn pick(&self, offsets: &[Offset]) -> Vec<StoredEvent> {
        let pick = |offset: &Offset| {
            let at = self.chunks.partition_point(|chunk| chunk.end() <= *offset);
            self.chunks.get(at)?.get(*offset)
        };
        offsets.iter().filter_map(pick).collect()
    }

    /// The first offset whose event was appended at `time_ms` or later; the end
    /// if there is none.
    pub(in crate::commit) fn offset_at_time(&self, time_ms: u64) -> Offset {
        let at = self.chunks.partition_point(|chunk| chunk.time_ms < time_ms);
        self.chunks.get(at).map_or(self.end, |chunk| chunk.first)
    }
}
