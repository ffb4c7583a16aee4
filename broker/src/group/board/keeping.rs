//! Which events are in memory. The board has the only name of each payload that is kept,
//! so that none stays when its event is gone.

use super::{Board, EventId, Seat};
use crate::group::payloads::KeptAt;

impl Board {
    /// Bytes of the encoded event, if it is in memory.
    #[must_use]
    pub fn size_at_hand(&self, seat: Seat) -> Option<usize> {
        let (id, entry) = self.events.at(seat.slot)?;
        let is_at_hand = *id == seat.id && entry.kept.is_some();
        is_at_hand.then_some(entry.size as usize)
    }

    /// The event is in memory.
    pub fn keep(&mut self, id: EventId, at: KeptAt) {
        match self.events.slot_of(&id) {
            Some(slot) => self.keep_new(Seat { id, slot }, at),
            None => self.unwanted.push(at),
        }
    }

    /// The same of an event that has just arrived.
    pub fn keep_new(&mut self, seat: Seat, at: KeptAt) {
        let before = match self.events.at_mut(seat.slot) {
            Some((_, entry)) => entry.kept.replace(at),
            None => Some(at),
        };
        self.unwanted.extend(before);
    }

    /// The event need not be in memory any more.
    pub fn forget(&mut self, id: EventId) {
        let kept = self.events.get_mut(&id).and_then(|entry| entry.kept.take());
        self.unwanted.extend(kept);
    }

    /// What is in memory and nobody needs.
    pub fn take_unwanted(&mut self) -> Vec<KeptAt> {
        std::mem::take(&mut self.unwanted)
    }
}
