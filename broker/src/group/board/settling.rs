//! What follows a lease: events are settled, fail, wait, and are ready again.

use std::collections::{HashSet, VecDeque};

use super::{
    Board, EventId, Seat,
    lease::{Place, Waited},
};
use crate::{
    commit::record::AttemptFailed,
    group::{
        by_event::Slot,
        key_lock::{Arrival, LineId},
        line_name::LineName,
    },
};

impl Board {
    /// The event's ack is in line for the log. Whatever comes of the next one of
    /// its line is written behind it, so that one has the line from now on: what
    /// a crash loses of a line's acks are the last ones.
    ///
    /// The event is settled then, or the group is over.
    pub fn pass_on(&mut self, seat: Seat, now_ms: u64) {
        let Some((id, entry)) = self.events.at_mut(seat.slot) else {
            return;
        };
        let Some(line) = entry.line.filter(|_| *id == seat.id) else {
            return;
        };
        // Not held when another lease of its line was there before a restart, too.
        let Ok(next) = self.locks.release(line, seat.slot, now_ms) else {
            return;
        };
        entry.line = None;
        if let Some(next) = next {
            self.has_its_line(next, now_ms);
        }
    }

    /// The event is settled, durably.
    pub fn settled(&mut self, id: EventId, now_ms: u64) {
        let Some((slot, entry)) = self.events.take(&id) else {
            self.sources[id.source].window.settle(id.offset);
            return;
        };
        self.left(&entry.place, None);
        self.settled_count += 1;
        let parked_at = entry.parked_at();
        self.unwanted.extend(entry.kept);
        match parked_at {
            Some(at) => {
                self.lot.locations.remove(&at);
                self.sources[self.lot.parking.source].window.settle(at);
            }
            None => {
                let progress = &mut self.sources[id.source];
                progress.window.settle(id.offset);
                progress.unsettled -= 1;
            }
        }
        let Some(line) = entry.line else {
            return;
        };
        match self.locks.release(line, slot, now_ms) {
            Ok(Some(next)) => self.has_its_line(next, now_ms),
            Ok(None) => {}
            // Another lease of its line was held before a restart, too.
            Err(_) => self.locks.withdraw(line, slot),
        }
    }

    /// Settles those of these events that wait for delivery, without having
    /// delivered them. Returns how many.
    pub fn drop_ready(&mut self, events: &[EventId], now_ms: u64) -> u64 {
        let is_ready = |id: &&EventId| {
            let entry = self.events.get(id);
            entry.is_some_and(|entry| matches!(entry.place, Place::Ready))
        };
        let gone: HashSet<EventId> = events.iter().filter(is_ready).copied().collect();
        self.ready.retain(|seat| !gone.contains(&seat.id));
        self.suspects.retain(|seat| !gone.contains(&seat.id));
        for id in &gone {
            let at = self.at(*id);
            self.sources[at.source].skip_one(at.offset);
            self.settled(*id, now_ms);
        }
        gone.len() as u64
    }

    /// The event's failed attempt is recorded, durably; `failed.not_before_ms`
    /// is by the group's clock.
    pub fn failed(&mut self, id: EventId, failed: AttemptFailed, now_ms: u64) {
        let Some(entry) = self.events.get_mut(&id) else {
            return;
        };
        let past = entry.past_mut();
        past.not_before_ms = failed.not_before_ms;
        if past.history.len() == crate::commit::ATTEMPTS_REMEMBERED {
            past.history.remove(0);
        }
        past.history.push(failed);
        self.activate_event(id, now_ms);
    }

    /// A failed attempt could not be recorded, and its lease is over: the event
    /// waits until `due_ms`, and is delivered as the same attempt again.
    pub fn unrecorded(&mut self, id: EventId, due_ms: u64, now_ms: u64) {
        if let Some(entry) = self.events.get_mut(&id)
            && let Place::Failing = entry.place
        {
            entry.past_mut().not_before_ms = due_ms;
            self.activate_event(id, now_ms);
        }
    }

    /// An event has got its line, in which it has waited.
    fn has_its_line(&mut self, slot: Slot, now_ms: u64) {
        if self.waits_in_line(slot) {
            self.activate(slot, now_ms);
        }
    }

    /// One does not that was under lease before a restart, together with another one of
    /// its line: what it waits for is something else by now.
    fn waits_in_line(&self, slot: Slot) -> bool {
        let entry = self.events.at(slot);
        entry.is_some_and(|(_, entry)| matches!(entry.place, Place::Queued | Place::Moving(_)))
    }

    /// Makes an event ready that holds its line, now or when it is due. If others
    /// may overtake it meanwhile, the next one has the line, and so on.
    pub(super) fn activate(&mut self, slot: Slot, now_ms: u64) {
        let mut next = Some(slot);
        while let Some(slot) = next.take() {
            let Some((id, entry)) = self.events.at_mut(slot) else {
                return;
            };
            let id = *id;
            if let Place::Moving(waited) = &mut entry.place {
                *waited = Waited::Turn;
                return;
            }
            let due_ms = entry.past().not_before_ms;
            if due_ms <= now_ms {
                let before = entry.become_ready();
                return self.queue(Seat { id, slot }, before);
            }
            let line = entry.line;
            self.delayed.set(id, due_ms);
            self.set_place(id, Place::Delayed);
            let Some(line) = line else {
                return;
            };
            if !self.rules.overtake {
                self.lot_is_followed(id, line);
            } else {
                let name = self.locks.name(line).map(Box::from);
                let then = self.locks.release(line, slot, now_ms).ok().flatten();
                next = then.filter(|slot| self.waits_in_line(*slot));
                if let Some((_, entry)) = self.events.at_mut(slot) {
                    entry.line = None;
                    entry.past_mut().aside = name;
                }
            }
        }
    }

    /// The same of an event whose lease or move has ended.
    pub(super) fn activate_event(&mut self, id: EventId, now_ms: u64) {
        if let Some(slot) = self.events.slot_of(&id)
            && !self.waits_behind_another(id, slot)
        {
            self.activate(slot, now_ms);
        }
    }

    /// Whether another event holds its line, in which it waits again then: it was under
    /// lease before a restart, together with that one.
    pub(super) fn waits_behind_another(&mut self, id: EventId, slot: Slot) -> bool {
        let line = self.events.at(slot).and_then(|(_, entry)| entry.line);
        let behind = line.filter(|line| self.locks.holder(*line) != Some(&slot));
        if let Some(line) = behind {
            self.set_place(id, Place::Queued);
            self.lot_follows(id, line);
        }
        behind.is_some()
    }

    /// Makes ready what has waited long enough.
    pub fn wake_delayed(&mut self, now_ms: u64) {
        while let Some(id) = self.delayed.pop_due(now_ms) {
            match self.back_in_line(id, now_ms) {
                Arrival::Free => self.make_ready(id),
                Arrival::Queued => self.set_place(id, Place::Queued),
            }
        }
    }

    /// One that stepped aside is in line again.
    fn back_in_line(&mut self, id: EventId, now_ms: u64) -> Arrival {
        let Some(slot) = self.events.slot_of(&id) else {
            return Arrival::Free;
        };
        let Some((_, entry)) = self.events.at_mut(slot) else {
            return Arrival::Free;
        };
        // It keeps its line if nobody may overtake it.
        let Some(name) = entry.take_aside() else {
            return Arrival::Free;
        };
        let (line, arrival) = self
            .locks
            .come_back(LineName::from(&name[..]), slot, now_ms);
        entry.line = Some(line);
        arrival
    }

    fn make_ready(&mut self, id: EventId) {
        let Some(slot) = self.events.slot_of(&id) else {
            return;
        };
        let Some((_, entry)) = self.events.at_mut(slot) else {
            return;
        };
        let before = entry.become_ready();
        self.queue(Seat { id, slot }, before);
    }

    /// It became ready, and waits behind the others that are.
    pub(super) fn queue(&mut self, seat: Seat, (before, is_suspect): (Place, bool)) {
        self.queue_of(is_suspect).push_back(seat);
        self.stirs += 1;
        self.left(&before, None);
    }

    /// Where events wait that are ready.
    pub(super) fn queue_of(&mut self, suspects: bool) -> &mut VecDeque<Seat> {
        match suspects {
            true => &mut self.suspects,
            false => &mut self.ready,
        }
    }

    pub(super) fn line_of(&self, id: EventId) -> Option<LineId> {
        self.events.get(&id)?.line
    }
}
