//! The newest events of one partition.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use sluice_proto::Offset;

use crate::commit::{
    record::NewEvent,
    store::{Page, PageLimits, StoredEvent},
};

/// Events are put into one piece of memory up to so many bytes.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// About what a chunk and an event take besides the event.
const CHUNK_OVERHEAD: usize = 256;
const EVENT_OVERHEAD: usize = 32;

/// Consecutive events in one piece of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commit) struct Chunk {
    first: Offset,
    time_ms: u64,
    events: Vec<Bytes>,
    bytes: usize,
}

impl Chunk {
    /// Copies events, the first of which is at `first`, into as few chunks as
    /// may be.
    pub(in crate::commit) fn of(first: Offset, time_ms: u64, events: &[NewEvent]) -> Vec<Self> {
        let mut chunks = Vec::new();
        let mut rest = events;
        let mut next = first;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|event| {
                bytes += event.event.len();
                bytes <= CHUNK_BYTES_MAX
            });
            let count = fits.count().max(1);
            let (these, others) = rest.split_at(count);
            chunks.push(Self::copy(next, time_ms, these));
            rest = others;
            next = next + count as u64;
        }
        chunks
    }

    fn copy(first: Offset, time_ms: u64, events: &[NewEvent]) -> Self {
        let length = events.iter().map(|event| event.event.len()).sum();
        let mut copied = BytesMut::with_capacity(length);
        for event in events {
            copied.extend_from_slice(&event.event);
        }
        let mut copied = copied.freeze();
        let split = |event: &NewEvent| copied.split_to(event.event.len());
        Self {
            first,
            time_ms,
            events: events.iter().map(split).collect(),
            bytes: CHUNK_OVERHEAD + EVENT_OVERHEAD * events.len() + length,
        }
    }

    /// Memory that it takes, about.
    pub(in crate::commit) fn bytes(&self) -> usize {
        self.bytes
    }

    fn end(&self) -> Offset {
        self.first + self.events.len() as u64
    }

    fn get(&self, offset: Offset) -> Option<StoredEvent> {
        let at = offset.0.checked_sub(self.first.0)?;
        let event = self.events.get(usize::try_from(at).ok()?)?;
        Some(StoredEvent {
            offset,
            append_time_ms: self.time_ms,
            event: event.clone(),
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
