//! Events that retention takes away from under the group.

use std::collections::HashSet;

use sluice_proto::Offset;

use super::{Board, EventId, Seat, lease::Place};

impl Board {
    /// Settles the waiting events of a source below `start`, which are gone. What
    /// somebody works on stays until that ends. Returns how many.
    pub fn drop_below(&mut self, source: usize, start: Offset, now_ms: u64) -> u64 {
        let lies_below = |id: &EventId| id.source == source && id.offset < start;
        if self.sources[source].window.committed_end() >= start {
            return 0;
        }
        // What is parked is in the parking partition as well.
        let parked: HashSet<EventId> = self.lot.locations.values().copied().collect();
        let is_gone = |id: &EventId| lies_below(id) && !parked.contains(id);
        let delayed = self
            .events
            .iter()
            .filter(|(id, entry)| is_gone(id) && matches!(entry.place, Place::Delayed));
        let delayed: Vec<EventId> = delayed.map(|(id, _)| *id).collect();
        for id in delayed {
            self.delayed.remove(id);
            self.set_place(id, Place::Ready);
            let slot = self.events.slot_of(&id);
            self.ready.extend(slot.map(|slot| Seat { id, slot }));
        }
        let mut dropped = 0;
        loop {
            // Dropping the first of a line makes the next one ready.
            let waiting = self.suspects.iter().chain(&self.ready).map(|seat| seat.id);
            let gone: Vec<EventId> = waiting.filter(is_gone).collect();
            match self.drop_ready(&gone, now_ms) {
                0 => return dropped,
                some => dropped += some,
            }
        }
    }
}
