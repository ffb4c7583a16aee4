//! Events that were read and wait for delivery, as far as a budget of bytes
//! goes; others are read again when their turn comes.

use std::collections::HashMap;

use super::board::EventId;
use crate::commit::StoredEvent;

#[derive(Debug)]
pub(super) struct Payloads {
    events: HashMap<EventId, StoredEvent>,
    bytes: usize,
    bytes_max: usize,
}

impl Payloads {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            events: HashMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Keeps an event if there is room. The one that is needed next is always
    /// kept.
    pub(super) fn keep(&mut self, id: EventId, event: StoredEvent, needed_next: bool) {
        let size = event.event.len() + event.note.len();
        if needed_next || self.bytes + size <= self.bytes_max {
            self.bytes += size;
            if let Some(before) = self.events.insert(id, event) {
                self.bytes -= before.event.len() + before.note.len();
            }
        }
    }

    pub(super) fn take(&mut self, id: EventId) -> Option<StoredEvent> {
        let event = self.events.remove(&id)?;
        self.bytes -= event.event.len() + event.note.len();
        Some(event)
    }

    pub(super) fn has(&self, id: EventId) -> bool {
        self.events.contains_key(&id)
    }
}
