//! Events that were read and wait for delivery, as far as a budget of bytes
//! goes; others are read again when their turn comes, within a budget of the
//! same size, so that what was read far ahead does not keep them out.

use bytes::Bytes;

use super::{board::EventId, by_number::ByNumber};
use crate::commit::StoredEvent;

/// A smaller event is copied: as a slice it would keep a whole block of the log in
/// memory, at most a MiB, for as long as it waits here or in a member's stream.
const COPIED_BELOW: usize = 128 << 10;

#[derive(Debug)]
pub(super) struct Payloads {
    events: ByNumber<EventId, Kept>,
    ahead: Budget,
    needed: Budget,
}

#[derive(Debug)]
struct Kept {
    event: StoredEvent,
    /// Its turn had come when it was read.
    needed: bool,
}

#[derive(Debug)]
struct Budget {
    bytes: usize,
    bytes_max: usize,
}

impl Budget {
    fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes)
    }
}

impl Payloads {
    /// Two budgets of `bytes_max` each.
    pub(super) fn new(bytes_max: usize) -> Self {
        let budget = || Budget {
            bytes: 0,
            bytes_max,
        };
        Self {
            events: ByNumber::default(),
            ahead: budget(),
            needed: budget(),
        }
    }

    /// Keeps an event that was read ahead, if there is room.
    pub(super) fn keep_ahead(&mut self, id: EventId, event: StoredEvent) {
        if size(&event) <= self.ahead.room() {
            self.insert(id, event, false);
        }
    }

    /// Keeps an event whose turn has come. Whoever had it read has asked for room
    /// before.
    pub(super) fn keep_needed(&mut self, id: EventId, event: StoredEvent) {
        self.insert(id, event, true);
    }

    fn insert(&mut self, id: EventId, mut event: StoredEvent, needed: bool) {
        self.take(id);
        if event.event.len() < COPIED_BELOW {
            event.event = Bytes::copy_from_slice(&event.event);
        }
        self.budget(needed).bytes += size(&event);
        self.events.insert(id, Kept { event, needed });
    }

    pub(super) fn take(&mut self, id: EventId) -> Option<StoredEvent> {
        let Kept { event, needed } = self.events.remove(&id)?;
        self.budget(needed).bytes -= size(&event);
        Some(event)
    }

    pub(super) fn has(&self, id: EventId) -> bool {
        self.events.contains_key(&id)
    }

    /// Whether half of what may be read ahead is free.
    pub(super) fn has_room_ahead(&self) -> bool {
        self.ahead.room() > self.ahead.bytes_max / 2
    }

    /// Bytes of events whose turn has come that may still be read; 0 while as
    /// many wait to be taken.
    pub(super) fn room_for_needed(&self) -> usize {
        self.needed.room()
    }

    fn budget(&mut self, needed: bool) -> &mut Budget {
        if needed {
            &mut self.needed
        } else {
            &mut self.ahead
        }
    }
}

fn size(event: &StoredEvent) -> usize {
    event.event.len() + event.note.len()
}
